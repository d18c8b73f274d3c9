"""Frames of a painting: drawn from its strokes, and written in threads meanwhile."""

import math
import os
import sys
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count, takewhile
from pathlib import Path

import cv2
import numpy as np

from constants import LONGEST_SIDE
from Renderer.raster import paint_frames
from Renderer.strokes import Strokes
from utils.command import UserError
from utils.files import make_room, reason, refusing, remove_leftovers, replacing
from utils.locks import lock_folder
from utils.pictures import resized

LEAST_SIDE = 512  # pixels, of a painting whose size nobody chose
MOST_ENLARGED = 4096  # pixels, of the longer side of a painting that is larger than its photo
QUEUED_FRAMES = 8
QUEUED_BYTES = 2**28
HOLD = 2.0  # seconds that a video shows its last frame, at most
HOLD_FRACTION = 0.2  # of the length that was asked for, at most

# The filter of differences to the row above, with the lightest deflate: OpenCV's default is a
# fifth slower and larger on painted frames; no deflate is no faster and three times larger.
PNG_FLAGS = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)


def size_of(height: int, width: int, longest: int | None) -> tuple[int, int]:
    """Return the height and width that a picture of this size is painted in.

    longest: pixels of its longer side, or None: as it is, enlarged to LEAST_SIDE a side.
    Raises UserError where it is larger than LONGEST_SIDE.
    """
    scale = longest / max(height, width) if longest else max(
        1, min(LEAST_SIDE / min(height, width), MOST_ENLARGED / max(height, width)))
    height, width = (max(1, round(side * scale)) for side in (height, width))
    if max(height, width) > LONGEST_SIDE:
        raise UserError(f"{width}x{height} is too large; --size takes {LONGEST_SIDE} at most")
    return height, width


def every(step: int, total: int) -> np.ndarray:
    """Return how often each frame of a painting is written, (total,) 0 or 1.

    Every ``step``-th one is, and the last.
    """
    numbers = np.arange(1, total + 1)
    return ((numbers % step == 0) | (numbers == total)).astype(np.int64)


def fitted(total: int, fps: float, seconds: float | None = None) -> np.ndarray:
    """Return how often a video shows each frame of a painting, (total,) int64.

    seconds: the length of the whole video, which the frames fill evenly, repeated or skipped;
    without it each is shown once.  The first and the last one are always shown, the last one for
    another HOLD seconds, or HOLD_FRACTION of ``seconds``.
    """
    hold = max(1, round(min(HOLD, HOLD_FRACTION * (seconds or math.inf)) * fps))
    moving = max(1, round(seconds * fps) - hold) if seconds else total
    times = np.bincount(np.arange(moving) * total // moving, minlength=total)
    times[-1] += hold
    return times


class Writer:
    """Write frames in a thread while more are drawn, of which only a few wait at any time.

    As a context it waits for the last frame.  The file appears when it is finished or not at all.
    A failure ends the writing, not the painting; ``check`` raises it.
    """

    FAILURES: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, path: Path, width: int, height: int, times: np.ndarray) -> None:
        """Prepare a file; write nothing yet.

        width, height: the size that all frames are written in; times: how often each frame of the
        painting is, see ``every`` and ``fitted``.
        """
        self.path, self.width, self.height, self.times = path, width, height, times
        self._thread, self._pending = ThreadPoolExecutor(1), deque()
        self._encoder, self._failure = self._encode(), None

    def _encode(self) -> Generator[None, tuple[np.ndarray, int] | None]:
        """Open the file; add each sent frame of the final size as often as its count; end at None.

        Raises UserError or FAILURES.
        """
        raise NotImplementedError

    def write(self, number: int, frame: np.ndarray) -> None:
        """Queue frame ``number``, from 0: (h, w, 3) uint8 BGR, which must not change afterwards."""
        if times := int(self.times[number]):
            while len(self._pending) >= min(QUEUED_FRAMES, max(1, QUEUED_BYTES // frame.nbytes)):
                self._pending.popleft().result()
            self._pending.append(self._thread.submit(self._guard, lambda: self._encoder.send(
                (resized(frame, self.width, self.height), times))))

    def check(self) -> None:
        """Raise UserError where writing failed; all of it has ended after the context."""
        if self._failure:
            raise self._failure

    def _guard(self, work: Callable[[], object]) -> None:
        """Do a part of the work, unless one has failed; store the reason where it fails."""
        try:
            self.check()
            work()
        except StopIteration:
            pass  # the end of the file
        except UserError as error:
            self._failure = error
        except self.FAILURES as error:
            self._failure = UserError(f"cannot write {self.path}: {reason(error)}")

    def __enter__(self) -> "Writer":
        self._guard(lambda: next(self._encoder))
        self.check()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._thread.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._pending:
                future.result()  # which raises what is no failure to write
            self._guard(lambda: self._encoder.send(None))
        self._encoder.close()


class Frames(Writer):
    """Write ``folder/generated<N>.png``, N upward from ``first`` without a gap."""

    def __init__(self, folder: Path, first: int, width: int, height: int,
                 times: np.ndarray) -> None:
        """Prepare the frames; see ``Writer``."""
        super().__init__(folder, width, height, times)
        self.first, self.next = first, first

    def _frame(self, number: int) -> Path:
        """Return the file of a frame."""
        return self.path / f"generated{number}.png"

    def written(self) -> str:
        """Return the frames in words: one, or how many from which to which."""
        first, last = self._frame(self.first), self._frame(self.next - 1)
        return f"{self.next - self.first} frames, {first} to {last.name}" if last != first else (
            str(first))

    def warn_of_others(self) -> None:
        """Print a warning where frames of an earlier painting follow the last one."""
        others = sum(1 for _ in takewhile(Path.exists, map(self._frame, count(self.next))))
        if others:
            print(f"warning: {self._frame(self.next)} and {others - 1} more frames of an earlier "
                  "painting follow them; delete those before making a video", file=sys.stderr)

    def _encode(self) -> Generator[None, tuple[np.ndarray, int] | None]:
        with ExitStack() as stack:
            try:
                stack.callback(os.close, lock_folder(self.path, wait=False))
            except BlockingIOError as error:
                raise UserError(
                    f"another painting goes to {self.path}; name another --output") from error
            remove_leftovers(self.path)
            for number in range(self.first, self.first + int(self.times.sum())):
                path = self._frame(number)
                if path.is_file() and (path.is_symlink() or path.stat().st_nlink > 1):
                    path.unlink()  # what the link leads to stays
                elif path.exists():
                    make_room(path)  # raises UserError where it is read-only
            while frame := (yield):
                path = self._frame(self.next)
                encoded = cv2.imencode(".png", frame[0], PNG_FLAGS)[1]
                with refusing(f"cannot write {path}"), replacing(path, durable=False) as file:
                    file.write(encoded)
                self.next += 1


def draw_frames(
    strokes: Strokes, counts: list[int], size: tuple[int, int], writers: list[Writer], total: int,
    report: Callable[[int], object] = lambda drawn: None,
) -> np.ndarray:
    """Draw strokes by the exact rasterizer, hand frames to their writers, return the last one.

    counts: the strokes of each frame; size: height and width of the frames; total: the frames of
    the whole painting, of which the last one is written where the strokes end early; report: see
    ``paint_frames``.  Returns (height, width, 3) uint8 BGR.
    """
    ends = np.cumsum(counts)
    wanted = [np.flatnonzero(writer.times) for writer in writers]
    wanted = np.unique(np.concatenate([*wanted, [total - 1]]).clip(max=len(ends) - 1))
    frames = paint_frames(strokes, *size, ends[wanted].tolist(), report)
    for number, frame in zip([*wanted[:-1].tolist(), total - 1], frames, strict=True):
        for writer in writers:
            writer.write(number, frame)
    return frame
