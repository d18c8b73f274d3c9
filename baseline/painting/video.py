"""Videos of a painting: MP4 through x264, GIF through Pillow, written during painting."""

import sys
from collections.abc import Generator
from fractions import Fraction
from itertools import count, islice
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import GifImagePlugin, Image

from painting.frames import Writer
from utils.command import UserError
from utils.files import make_room, replacing


class Video(Writer):
    """A file of frames at a constant rate, no larger than players show."""

    MAX_FPS: int
    MAX_SIDE: int  # pixels

    def __init__(self, path: Path, height: int, width: int, fps: float, times: np.ndarray) -> None:
        """Prepare a video of a painting of that size; see ``Writer``."""
        super().__init__(path, *self.fit(width, height), times)
        self.fps = fps

    @classmethod
    def fit(cls, width: int, height: int) -> tuple[int, int]:
        """Return the width and height in which players show a picture of this size."""
        scale = min(1, cls.MAX_SIDE / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))


class Mp4(Video):
    """H.264 in 4:2:0, as browsers and phones play it."""

    FAILURES = (OSError, av.FFmpegError)
    MAX_FPS = 120
    MAX_SIDE, MAX_BLOCKS = 4096, 36864  # macroblocks of 16 x 16 pixels: H.264 level 5.2
    BT709 = 1
    SCALING = 0x4 | 0x40000  # bicubic, accurate: rounding down turns grays greenish

    @classmethod
    def fit(cls, width: int, height: int) -> tuple[int, int]:
        blocks = -(-width // 16) * -(-height // 16)
        scale = min(1, cls.MAX_SIDE / max(width, height), (cls.MAX_BLOCKS / blocks) ** 0.5)
        grain = 2 if scale == 1 else 16
        width, height = (max(2, int(side * scale) // grain * grain) for side in (width, height))
        return width, height

    def _encode(self) -> Generator[None, tuple[np.ndarray, int] | None]:
        rate = Fraction(self.fps).limit_denominator(1000)
        with replacing(self.path) as file:
            video = av.open(f"file:{file.name}", "w", format="mp4",
                            options={"movflags": "+faststart"})
            stream = video.add_stream("libx264", rate=rate)
            # Slower presets took two to three times as long and saved a fifth at most.
            stream.options = {"preset": "veryfast", "crf": "18"}
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, "yuv420p"
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = self.BT709
            numbers = count()
            while queued := (yield):
                picture, times = queued
                frame = av.VideoFrame.from_ndarray(picture, "bgr24").reformat(
                    format="yuv420p", dst_colorspace="ITU709", interpolation=self.SCALING)
                frame.time_base = 1 / rate
                for frame.pts in islice(numbers, times):
                    video.mux(stream.encode(frame))
            video.mux(stream.encode(None))
            video.close()


class Gif(Video):
    """An endless GIF.

    Each frame holds the pixels that changed, in a palette of 255 colors of its own: a painting of
    many more colors keeps them, and the file is several times smaller than with whole frames.
    """

    MAX_FPS = 50  # browsers slow down what is faster
    MAX_SIDE = 1024
    LEAST_CHANGE = 3  # levels of 255; a pixel that differs by no more is not drawn again
    MAX_TIME = 65535  # of a frame, hundredths of a second
    HEAD = b"\x70\0\0!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"  # no common palette; repeat for ever

    def _encode(self) -> Generator[None, tuple[np.ndarray, int] | None]:
        shown = clock = 0  # frames, hundredths of a second
        drawn = np.full((self.height, self.width, 3), -255, np.int16)  # RGB; none yet
        with replacing(self.path) as file:
            size = np.array([self.width, self.height], "<u2")
            file.write(b"GIF89a" + size.tobytes() + self.HEAD)
            while queued := (yield):
                picture, times = cv2.cvtColor(queued[0], cv2.COLOR_BGR2RGB), queued[1]
                changed = np.abs(picture - drawn).max(2) > self.LEAST_CHANGE
                changed[0, 0] |= not changed.any()  # some pixel, for its time
                drawn[changed] = picture[changed]
                left, top, width, height = cv2.boundingRect(changed.astype(np.uint8))
                pixels = Image.fromarray(picture[changed][None])  # one row of them
                few = pixels.quantize(255, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
                palette = few.getpalette()
                clear = len(palette) // 3  # the color of what has not changed
                numbers = np.full(changed.shape, clear, np.uint8)
                numbers[changed] = np.asarray(few)[0]
                image = Image.fromarray(numbers[top : top + height, left : left + width])
                image.putpalette((*palette, 0, 0, 0))
                shown += times
                time = min(round(100 * shown / self.fps) - clock, self.MAX_TIME)
                clock += time
                file.writelines(GifImagePlugin.getdata(
                    image, (left, top), include_color_table=True, transparency=clear,
                    duration=10 * time, disposal=1))
            file.write(b";")


KINDS = {".mp4": Mp4, ".gif": Gif}


def video_kind(path: Path, fps: float) -> type[Video]:
    """Return the writer for a file.  Raises UserError where there is none, or not at that rate."""
    kind = path.suffix.lower()
    if kind not in KINDS or path.is_dir():
        raise UserError(f"cannot write {path}: the name of a video ends in .mp4 or .gif")
    if not 1 <= fps <= KINDS[kind].MAX_FPS:
        raise UserError(f"a {kind} shows 1 to {KINDS[kind].MAX_FPS} frames a second, not {fps:g}")
    return KINDS[kind]


def open_video(path: Path, *, height: int, width: int, fps: float, times: np.ndarray) -> Video:
    """Return the writer of a painting's video.  Raises UserError where it cannot be written."""
    video = video_kind(path, fps)(path, height, width, fps, times)
    make_room(path)
    if video.width < width - 1 or video.height < height - 1:
        print(f"{path} is {video.width}x{video.height}: many players show no larger "
              f"{path.suffix}", file=sys.stderr)
    return video
