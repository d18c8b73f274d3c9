"""The strokes that a renderer learns from, drawn ahead of the training steps."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
import torch

from constants import WIDTH
from Renderer.stroke_batch import draw_batch
from Renderer.stroke_gen import SHAPE_DIM
from running.ranks import Ranks

PREFETCH = 8  # batches
BATCHES_AT_ONCE = 16  # that a GPU draws before the network learns from them
STROKES_AT_ONCE = 1024  # that a GPU draws in about 1.3 GB of its memory


@dataclass(frozen=True)
class StrokeBatches:
    """Batches of training strokes; batch k is a function of (seed, k) alone."""

    seed: int
    batch_size: int  # of this process
    family: str
    ranks: Ranks

    def __getitem__(self, k: int) -> torch.Tensor:
        """Return this process's strokes (n, 10) in [0, 1] of batch k."""
        rng = np.random.default_rng((self.seed, k))
        strokes = rng.random((self.batch_size * self.ranks.world, SHAPE_DIM), np.float32)
        return torch.from_numpy(strokes[self.ranks.rank :: self.ranks.world])


def drawn_ahead(data: StrokeBatches, first: int, end: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield strokes and pictures of batches from ``first``, drawn by a thread ahead of time."""
    def draw(k: int) -> tuple[torch.Tensor, ...]:
        strokes = data[k]
        return strokes, draw_batch(strokes, data.family)

    cv2.setNumThreads(1)
    numbers, pool = iter(range(first, end)), ThreadPoolExecutor(1)
    try:
        ahead = deque(pool.submit(draw, k) for k in islice(numbers, PREFETCH))
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(pool.submit(draw, k) for k in islice(numbers, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def drawn_on(
    device: torch.device, data: StrokeBatches, first: int, end: int, compiled: bool
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield strokes and pictures of batches from ``first``, many drawn by a GPU at a time."""
    for start in range(first, end, BATCHES_AT_ONCE):
        several = range(start, start + BATCHES_AT_ONCE)
        strokes = torch.stack([data[k] for k in several]).pin_memory()
        strokes = strokes.to(device, non_blocking=True)  # (batches, n, 10)
        drawn = torch.cat([draw_batch(part, data.family, compiled)
                           for part in strokes.flatten(0, 1).split(STROKES_AT_ONCE)])
        yield from zip(strokes, drawn.view(*strokes.shape[:2], WIDTH, WIDTH), strict=True)
