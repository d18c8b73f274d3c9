"""Which of a painting's frames are written how often, and the threads that write them."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from utils.command import UserError
from utils.files import lock_folder, make_room, reason, remove_leftovers, replacing
from utils.pictures import resized

QUEUED_A_THREAD = 8  # frames that wait for each thread before painting waits for them,
QUEUED_BYTES = 2**28  # or fewer, where they are large
HOLD = 2.0  # seconds that a video shows its last frame, but no more than
HOLD_SHARE = 0.2  # of the length that was asked for

# The filter of differences to the row above, with the lightest deflate.  OpenCV's default is
# a fifth slower and larger on painted frames; without deflate it is no faster and three times
# larger.
PNG_FLAGS = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)


def every(step: int, total: int) -> np.ndarray:
    """How often each of a painting's frames is written, (total,) 0 or 1.

    Every ``step``-th one is, and the last.
    """
    times = (np.arange(1, total + 1) % step == 0).astype(np.int64)
    times[-1] = 1
    return times


def fitted(total: int, fps: float, seconds: float | None = None) -> np.ndarray:
    """How often a video shows each of a painting's frames, (total,) int64.

    seconds: the length of the whole video, which the frames fill evenly, repeated or left out;
    without it each is shown once.  The first and the last one are always shown, the last one for
    another HOLD seconds, or HOLD_SHARE of ``seconds``.
    """
    hold = max(1, round(min(HOLD, HOLD_SHARE * (seconds or math.inf)) * fps))
    moving = max(1, round(seconds * fps) - hold) if seconds else total
    times = np.bincount(np.arange(moving) * total // moving, minlength=total)
    times[-1] += hold
    return times


def has_other_names(path: Path) -> bool:
    """Return whether a path leads to a file that has other names."""
    return path.is_file() and (path.is_symlink() or path.stat().st_nlink > 1)


class Background:
    """Writes frames in threads while more are painted; only a few wait at any time.

    A context: leaving it waits for the last frame.  Where one fails, ``check`` tells it, and
    nothing more is written.
    """

    def __init__(self, times: Iterable[int], threads: int) -> None:
        """times: how often each frame that comes is written; see ``every`` and ``fitted``."""
        self._times = deque(map(int, times))
        self._newest: np.ndarray | None = None  # of the frames that were written
        self._room = QUEUED_A_THREAD * threads
        self._pool = ThreadPoolExecutor(threads)
        self._pending: deque[Future] = deque()
        self._failure: UserError | None = None

    def _queue(self, work: Callable, frame: np.ndarray, *arguments: object) -> None:
        room = min(self._room, max(1, QUEUED_BYTES // frame.nbytes))
        while self._pending and (self._pending[0].done() or len(self._pending) >= room):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(work, frame, *arguments))
        self._newest = frame

    def check(self) -> None:
        """Raise UserError where writing failed; all of it has ended after the context."""
        if self._failure:
            raise self._failure

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._pending:
                future.result()


class FrameWriter(Background):
    """Writes ``folder/generated<N>.png``, N upward from ``first`` without a gap."""

    def __init__(self, folder: Path, first: int, width: int, height: int,
                 times: Iterable[int]) -> None:
        """width, height: the size that all frames are written in.  times: see Background."""
        super().__init__(times, min(8, os.cpu_count() or 1))
        try:
            self._lock = lock_folder(folder, wait=False)
        except BlockingIOError as error:
            raise UserError(f"another painting goes to {folder}; name another --output") from error
        remove_leftovers(folder)
        for number in range(first, first + sum(self._times)):
            if (frame := folder / f"generated{number}.png").exists() and not has_other_names(frame):
                make_room(frame)  # raises UserError where it is read-only
        self.folder, self.first, self.next = folder, first, first
        self.size = (width, height)

    def path(self, number: int) -> Path:
        """The file of a frame."""
        return self.folder / f"generated{number}.png"

    def write(self, frame: np.ndarray) -> None:
        """Take the next frame, (h, w, 3) uint8 BGR, which must not change any more."""
        if self._times.popleft():
            self._queue(self._write, frame, self.path(self.next))
            self.next += 1

    def end(self, frame: np.ndarray) -> None:
        """Let the newest frame be the last, as ``write`` does where it is not written already."""
        if self._times and frame is not self._newest:
            self._times = deque([1])
            self.write(frame)

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        os.close(self._lock)

    def written(self) -> list[str]:
        """The frames in words: nothing, one, or how many from which to which."""
        count = self.next - self.first
        first, last = self.path(self.first), self.path(self.next - 1)
        return [] if not count else [str(first)] if count == 1 else [
            f"{count} frames, {first} to {last.name}"]

    def later_frames(self) -> list[Path]:
        """Frames of an earlier painting that the folder holds after this one's last."""
        numbers = (path.stem[len("generated"):] for path in self.folder.glob("generated*.png"))
        later = sorted(int(n) for n in numbers if n.isdecimal() and int(n) >= self.next)
        return [self.path(number) for number in later]

    def _write(self, frame: np.ndarray, path: Path) -> None:
        if self._failure:
            return
        encoded = cv2.imencode(".png", resized(frame, *self.size), PNG_FLAGS)[1]
        try:
            if has_other_names(path):  # what those lead to stays
                path.unlink()
            with replacing(path, durable=False) as file:
                file.write(encoded)
        except OSError as error:
            self._failure = UserError(f"cannot write {path}: {reason(error)}")
