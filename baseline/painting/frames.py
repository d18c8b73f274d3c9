"""Writers of a painting's frames, whose threads work while more frames are painted."""

import math
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np

from utils.command import UserError
from utils.files import make_room, reason, remove_leftovers, replacing
from utils.locks import lock_folder
from utils.pictures import resized

QUEUED_FRAMES = 8  # that wait for each thread before painting waits for them,
QUEUED_BYTES = 2**28  # or fewer, where they are large
HOLD = 2.0  # seconds that a video shows its last frame, but no more than
HOLD_FRACTION = 0.2  # of the length that was asked for

# The filter of differences to the row above, with the lightest deflate.  OpenCV's default is
# a fifth slower and larger on painted frames; without deflate it is no faster and three times
# larger.
PNG_FLAGS = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)


def every(step: int, total: int) -> np.ndarray:
    """Return how often each frame of a painting is written, (total,) 0 or 1.

    Every ``step``-th one is, and the last.
    """
    times = (np.arange(1, total + 1) % step == 0).astype(np.int64)
    times[-1] = 1
    return times


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


def has_other_names(path: Path) -> bool:
    """Return whether a path leads to a file that has other names."""
    return path.is_file() and (path.is_symlink() or path.stat().st_nlink > 1)


class Writer:
    """Write frames in threads while more are painted; only a few wait at any time.

    A context that waits for the last frame.  The file appears when it is finished or not at all.
    Where writing fails it ends, ``check`` raises the reason, and painting goes on.
    """

    FAILURES: tuple[type[Exception], ...] = (OSError,)

    def __init__(
        self, path: Path, width: int, height: int, times: np.ndarray, threads: int = 1
    ) -> None:
        """Prepare a file; write nothing yet.

        width, height: the size that all frames are written in; times: how often each frame of the
        painting is, see ``every`` and ``fitted``.
        """
        self.path, self.width, self.height, self.times = path, width, height, times
        self._room = QUEUED_FRAMES * threads
        self._pool, self._stack = ThreadPoolExecutor(threads), ExitStack()
        self._pending: deque[Future] = deque()
        self._failure: UserError | None = None

    def write(self, number: int, frame: np.ndarray) -> None:
        """Take a frame, (h, w, 3) uint8 BGR, that does not change any more; ``number`` from 0."""
        if times := int(self.times[number]):
            self._queue(frame, times)

    def check(self) -> None:
        """Raise UserError where writing failed; all of it has ended after the context."""
        if self._failure:
            raise self._failure

    def _open(self) -> None:
        """Begin the file."""
        self._file = self._stack.enter_context(replacing(self.path))

    def _add(self, picture: np.ndarray, times: int) -> None:
        """Write a frame of the final size."""
        raise NotImplementedError

    def _finish(self) -> None:
        """Write what is left."""

    def _queue(self, frame: np.ndarray, how: object) -> None:
        """Let a thread resize and add a frame; wait until there is room for it."""
        room = min(self._room, max(1, QUEUED_BYTES // frame.nbytes))
        while self._pending and (self._pending[0].done() or len(self._pending) >= room):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._guard, lambda: self._add(
            resized(frame, self.width, self.height), how)))

    def _guard(self, work: Callable[[], object]) -> None:
        """Do a part of the work, unless one has failed before: libav would crash."""
        try:
            self._failure or work()
        except UserError as error:
            self._failure = error
        except self.FAILURES as error:
            self._failure = UserError(f"cannot write {self.path}: {reason(error)}")

    def __enter__(self) -> "Writer":
        self._guard(self._open)
        self.check()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        failure = self._failure or (kind and UserError(f"{self.path} was broken off"))
        self._failure = None
        self._guard(lambda: self._close(failure))

    def _close(self, failure: UserError | None) -> None:
        with self._stack:
            if failure:
                raise failure
            for future in self._pending:
                future.result()
            self._finish()


class Frames(Writer):
    """Writes ``folder/generated<N>.png``, N upward from ``first`` without a gap."""

    def __init__(self, folder: Path, first: int, width: int, height: int,
                 times: np.ndarray) -> None:
        """Prepare the frames; see ``Writer``."""
        super().__init__(folder, width, height, times, min(8, os.cpu_count() or 1))
        self.first, self.next = first, first
        self._newest: np.ndarray | None = None  # of the frames that were written

    def write(self, number: int, frame: np.ndarray) -> None:
        """Take a frame; see ``Writer``.  The newest one is not written twice."""
        if self.times[number] and frame is not self._newest:
            self._queue(frame, self._frame(self.next))
            self.next, self._newest = self.next + 1, frame

    def _frame(self, number: int) -> Path:
        """Return the file of a frame."""
        return self.path / f"generated{number}.png"

    def written(self) -> list[str]:
        """Return the frames in words: nothing, one, or how many from which to which."""
        count = self.next - self.first
        first, last = self._frame(self.first), self._frame(self.next - 1)
        return [] if not count else [str(first)] if count == 1 else [
            f"{count} frames, {first} to {last.name}"]

    def later_frames(self) -> list[Path]:
        """Return the frames of an earlier painting that the folder holds after the last one."""
        numbers = (path.stem[len("generated"):] for path in self.path.glob("generated*.png"))
        later = sorted(int(n) for n in numbers if n.isdecimal() and int(n) >= self.next)
        return [self._frame(number) for number in later]

    def _open(self) -> None:
        try:
            self._stack.callback(os.close, lock_folder(self.path, wait=False))
        except BlockingIOError as error:
            raise UserError(
                f"another painting goes to {self.path}; name another --output") from error
        remove_leftovers(self.path)
        for number in range(self.first, self.first + int(self.times.sum())):
            if (frame := self._frame(number)).exists() and not has_other_names(frame):
                make_room(frame)  # raises UserError where it is read-only

    def _add(self, picture: np.ndarray, path: Path) -> None:
        encoded = cv2.imencode(".png", picture, PNG_FLAGS)[1]
        try:
            if has_other_names(path):  # what those lead to stays
                path.unlink()
            with replacing(path, durable=False) as file:
                file.write(encoded)
        except OSError as error:
            raise UserError(f"cannot write {path}: {reason(error)}") from error
