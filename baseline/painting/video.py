"""Videos of a painting: MP4 through x264, GIF through Pillow, written while painting goes on."""

import sys
from collections.abc import Iterable
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import GifImagePlugin, Image

from painting.frames import Background
from utils.command import UserError
from utils.files import make_room, reason, replacing
from utils.pictures import resized


class Mp4:
    """H.264 in 4:2:0, as browsers and phones play it."""

    FASTEST = 120  # frames a second
    SIDE, BLOCKS = 4096, 36864  # pixels, macroblocks of 16 x 16: H.264 level 5.2, as 4096 x 2304
    BT709 = 1
    SCALING = 0x4 | 0x40000  # bicubic, accurate: rounding down turns greys greenish

    @classmethod
    def fit(cls, width: int, height: int) -> tuple[int, int]:
        """The size that a picture of this size is shown in: even, and within the limits."""
        blocks = -(-width // 16) * -(-height // 16)
        share = min(1, cls.SIDE / max(width, height), (cls.BLOCKS / blocks) ** 0.5)
        grain = 2 if share == 1 else 16
        width, height = (max(2, int(side * share) // grain * grain) for side in (width, height))
        return width, height

    def __init__(self, path: Path, width: int, height: int, fps: float) -> None:
        """width, height: as ``fit`` gave them."""
        rate = Fraction(fps).limit_denominator(1000)
        self._file = av.open(f"file:{path}", "w", format="mp4", options={"movflags": "+faststart"})
        self._stream = self._file.add_stream("libx264", rate=rate)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        # Slower presets took two to three times as long and saved a fifth at most.
        self._stream.options = {"preset": "veryfast", "crf": "18"}
        context = self._stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = self.BT709
        self._shown, self._tick = 0, 1 / rate

    def add(self, picture: np.ndarray, times: int) -> None:
        """Show (height, width, 3) uint8 BGR for so many frames."""
        rgb = av.VideoFrame.from_ndarray(picture, "bgr24")
        frame = rgb.reformat(format="yuv420p", dst_colorspace="ITU709",
                             interpolation=self.SCALING)
        frame.time_base = self._tick
        for _ in range(times):
            frame.pts = self._shown
            self._file.mux(self._stream.encode(frame))
            self._shown += 1

    def finish(self) -> None:
        """Write what is left."""
        self._file.mux(self._stream.encode(None))
        self._file.close()


class Gif:
    """An endless GIF.

    Each frame holds what changed, in 255 colours of its own: a painting of many more colours
    keeps them, and the file stays several times smaller than with whole frames.
    """

    FASTEST = 50  # frames a second; browsers slow down what is faster
    SIDE = 1024
    CHANGED = 3  # levels of 255; what differs less from what it was is not drawn anew
    LONGEST = 65535  # hundredths of a second
    HEAD = b"\x70\0\0!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"  # no common palette; repeat for ever

    @classmethod
    def fit(cls, width: int, height: int) -> tuple[int, int]:
        """The size that a picture of this size is shown in: within the limit."""
        share = min(1, cls.SIDE / max(width, height))
        return max(1, round(width * share)), max(1, round(height * share))

    def __init__(self, path: Path, width: int, height: int, fps: float) -> None:
        """width, height: as ``fit`` gave them."""
        self._file = open(path, "wb")  # noqa: SIM115
        self._file.write(b"GIF89a" + np.array([width, height], "<u2").tobytes() + self.HEAD)
        self._drawn: np.ndarray | None = None  # each pixel when it was drawn last, RGB
        self._fps, self._shown, self._clock = fps, 0, 0

    def add(self, picture: np.ndarray, times: int) -> None:
        """Show (height, width, 3) uint8 BGR for so many frames."""
        picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        if self._drawn is None:
            self._drawn = picture
            changed = np.ones(picture.shape[:2], bool)
        else:
            changed = cv2.absdiff(picture, self._drawn).max(2) > self.CHANGED
            changed[0, 0] |= not changed.any()  # some pixel, for its time
            self._drawn[changed] = picture[changed]
        rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        changed = changed[box]
        pixels = Image.fromarray(picture[box][changed][None])  # one row of them
        few = pixels.quantize(255, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        palette = few.getpalette()
        nothing = len(palette) // 3  # the transparent colour
        numbers = np.full(changed.shape, nothing, np.uint8)
        numbers[changed] = np.asarray(few)[0]
        image = Image.fromarray(numbers)
        image.putpalette((*palette, 0, 0, 0))
        self._shown += times
        time = min(round(100 * self._shown / self._fps) - self._clock, self.LONGEST)
        self._clock += time
        corner = (int(columns[0]), int(rows[0]))
        self._file.writelines(GifImagePlugin.getdata(
            image, corner, include_color_table=True, transparency=nothing,
            duration=10 * time, disposal=1))

    def finish(self) -> None:
        """Write what is left."""
        self._file.write(b";")
        self._file.close()


KINDS = {".mp4": Mp4, ".gif": Gif}


def video_kind(path: Path, fps: float) -> type[Mp4 | Gif]:
    """The encoder for a file.  Raises UserError where there is none, or not at that rate."""
    kind = path.suffix.lower()
    if kind not in KINDS or path.is_dir():
        raise UserError(f"cannot write {path}: the name of a video ends in .mp4 or .gif")
    if not 1 <= fps <= KINDS[kind].FASTEST:
        raise UserError(
            f"a {kind} shows 1 to {KINDS[kind].FASTEST} frames a second, not {fps:g}")
    return KINDS[kind]


class Video(Background):
    """Writes frames as one video, which appears when it is finished or not at all.

    What fails once it has begun ends the video alone: ``check`` raises it.
    """

    def __init__(self, path: Path, *, height: int, width: int, fps: float,
                 times: Iterable[int]) -> None:
        """Refuse what cannot be written; write nothing yet.

        height, width: of the painting; ``self.height`` and ``self.width`` are the video's own,
        even for MP4 and within what players decode.  times: see ``fitted``.
        """
        super().__init__(times, 1)
        self._kind = video_kind(path, fps)
        make_room(path)
        self.path, self._fps = path, fps
        self.width, self.height = self._kind.fit(width, height)
        if self.width < width - 1 or self.height < height - 1:
            print(f"{path} is {self.width}x{self.height}: many players show no larger "
                  f"{path.suffix}", file=sys.stderr)
        self._stack = ExitStack()
        self._encoder: Mp4 | Gif | None = None

    def __enter__(self) -> "Video":
        try:
            self._begun = Path(self._stack.enter_context(replacing(self.path)).name)
        except OSError as error:
            raise self._fail(error) from error
        self._stack.push(self._end)
        return self

    def _end(self, kind: type[BaseException] | None, *exception: object) -> None:
        super().__exit__(kind, *exception)
        if kind is None:
            self.check()
            self._encoder.finish()

    def write(self, frame: np.ndarray) -> None:
        """Take the next frame, (h, w, 3) uint8 BGR, which must not change any more."""
        if times := self._times.popleft():
            self._queue(self._encode, frame, times)

    def end(self, frame: np.ndarray) -> None:
        """Let the newest frame be the last, and stay as long as that would have."""
        if self._times:
            self._queue(self._encode, frame, self._times[-1])

    def _encode(self, frame: np.ndarray, times: int) -> None:
        if self._failure:  # to go on would crash libav
            return
        try:
            if self._encoder is None:
                self._encoder = self._kind(self._begun, self.width, self.height, self._fps)
            self._encoder.add(resized(frame, self.width, self.height), times)
        except (OSError, av.FFmpegError) as error:
            self._fail(error)

    def _fail(self, error: Exception) -> UserError:
        self._failure = UserError(f"cannot write {self.path}: {reason(error)}")
        return self._failure

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            self._stack.__exit__(kind, *exception)
        except (OSError, av.FFmpegError) as error:
            self._fail(error)
        except UserError as error:
            if kind is not None or error is not self._failure:
                raise
