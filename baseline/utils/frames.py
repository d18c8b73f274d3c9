"""Which of a painting's frames are written how often, and the threads that write them."""

import math
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from utils.command import UserError

QUEUED_A_THREAD = 8  # frames that wait for each thread before painting waits for them,
QUEUED_BYTES = 2**28  # or fewer, where they are large
HOLD = 2.0  # seconds that a video shows its last frame, but no more than
HOLD_SHARE = 0.2  # of the length that was asked for


def frame_step(text: str) -> int:
    """An argparse type, for ``every``: ``all`` is 1, ``N`` or ``every N`` N, ``last`` endless."""
    if text in ("all", "last"):
        return 1 if text == "all" else sys.maxsize
    if not (words := re.fullmatch(r"(?:every\s+)?0*([1-9]\d{0,17})", text, re.ASCII)):
        raise UserError(f"--frames takes all, last, or every N, a whole number from 1; not {text}")
    return int(words[1])


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


class Background:
    """Writes frames in threads while more are painted; only a few wait at any time.

    A context: leaving it waits for the last frame.  Raises UserError where one fails.
    """

    def __init__(self, times: Iterable[int], threads: int) -> None:
        """times: how often each frame that comes is written; see ``every`` and ``fitted``."""
        self._times = iter(times)
        self._room = QUEUED_A_THREAD * threads
        self._pool = ThreadPoolExecutor(threads)
        self._pending: deque[Future] = deque()

    def _queue(self, work: Callable, frame: np.ndarray, *arguments: object) -> None:
        room = min(self._room, max(1, QUEUED_BYTES // frame.nbytes))
        while self._pending and (self._pending[0].done() or len(self._pending) >= room):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(work, frame, *arguments))

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._pending:
                future.result()
