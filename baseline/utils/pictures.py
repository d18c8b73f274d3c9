"""Pictures on disk: reading any image as BGR, and writing frames in the background."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np

from utils.command import UserError

# The filter of differences to the row above, with the lightest deflate.  OpenCV's default is
# a fifth slower and larger on painted frames; without deflate it is no faster and three times
# larger.
PNG_FLAGS = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)
QUEUED_A_WRITER = 8  # frames that wait for each writer before painting waits for them


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Hide what C libraries say on stderr: libpng complains there before OpenCV raises."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def read_picture(path: Path) -> np.ndarray:
    """Read an image of any depth and kind; photos are turned upright as their EXIF data say.

    Returns (H, W, 3) uint8 BGR.  What is transparent is shown on white.
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        with silent_stderr():
            plain = cv2.imdecode(data, cv2.IMREAD_COLOR)
            stored = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except OSError as error:
        raise UserError(f"cannot read the image {path}: {error.strerror or error}") from error
    except cv2.error:
        plain = stored = None
    if plain is None or stored is None:
        raise UserError(f"{path} is not an image that OpenCV can read")
    if stored.ndim < 3 or stored.shape[2] < 4:
        return plain
    # plain drops the opacity and shows the colours hidden beneath.
    largest = np.iinfo(stored.dtype).max if stored.dtype.kind == "u" else 1
    colour, opacity = np.split(np.clip(stored.astype(np.float32) / largest, 0, 1), [3], 2)
    return ((1 + (colour - 1) * opacity) * 255 + 0.5).astype(np.uint8)


def psnr(squared_error: float | np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1]; no error at all counts 100 dB."""
    return -10 * np.log10(np.maximum(squared_error, 1e-10))


class FrameWriter:
    """Writes ``folder/generated<N>.png``, N upward from ``first``, in background threads.

    A context: leaving it waits for the last frame.  Raises UserError where one fails.
    """

    def __init__(self, folder: Path, first: int, width: int, height: int) -> None:
        """width, height: the size that all frames are written in."""
        self.folder, self.first, self.next = folder, first, first
        self.size = (width, height)
        self._writers = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._writers)
        self._pending: deque[Future] = deque()

    def path(self, number: int) -> Path:
        """The file of a frame."""
        return self.folder / f"generated{number}.png"

    def write(self, frame: np.ndarray) -> None:
        """Queue the next frame, (h, w, 3) uint8 BGR, which must not change any more."""
        room = QUEUED_A_WRITER * self._writers
        while self._pending and (self._pending[0].done() or len(self._pending) >= room):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._write, frame, self.path(self.next)))
        self.next += 1

    def later_frames(self) -> list[Path]:
        """Frames of an earlier painting that the folder holds after this one's last."""
        numbers = (path.stem[len("generated"):] for path in self.folder.glob("generated*.png"))
        later = sorted(int(n) for n in numbers if n.isdecimal() and int(n) >= self.next)
        return [self.path(number) for number in later]

    def _write(self, frame: np.ndarray, path: Path) -> None:
        shrinks = self.size[0] < frame.shape[1] and self.size[1] < frame.shape[0]
        scaling = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        picture = cv2.resize(frame, self.size, interpolation=scaling)
        encoded = cv2.imencode(".png", picture, PNG_FLAGS)[1]
        try:
            path.write_bytes(encoded)
        except OSError as error:
            with suppress(OSError):
                path.unlink()  # what there is of it
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error

    def __enter__(self) -> "FrameWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._pending:
                future.result()
