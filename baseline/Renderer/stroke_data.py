"""The strokes that a renderer learns from, drawn ahead of the training steps."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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


class StrokeBatches:
    """Batches of training strokes; batch k is a function of (seed, k) alone."""

    def __init__(
        self, seed: int, batch_size: int, family: str, ranks: Ranks, drawn: bool = True
    ) -> None:
        """batch_size: of this process; drawn: whether batches come with their pictures."""
        self.seed, self.family, self.drawn = seed, family, drawn
        self.global_batch_size = batch_size * ranks.world
        self.part = slice(ranks.rank, None, ranks.world)

    def __getitem__(self, k: int) -> tuple[torch.Tensor, torch.Tensor] | torch.Tensor:
        """Return this process's strokes (n, 10) and, if drawn, their pictures (n, 128, 128)."""
        rng = np.random.default_rng((self.seed, k))
        strokes = rng.random((self.global_batch_size, SHAPE_DIM), np.float32)
        strokes = torch.from_numpy(strokes[self.part])
        return (strokes, draw_batch(strokes, family=self.family)) if self.drawn else strokes


def drawn_ahead(data: StrokeBatches, first: int, end: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield batches ``first`` to ``end`` - 1, drawn by a thread while the network learns."""
    cv2.setNumThreads(1)
    numbers, pool = iter(range(first, end)), ThreadPoolExecutor(1)
    try:
        ahead = deque(pool.submit(data.__getitem__, k) for k in islice(numbers, PREFETCH))
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(pool.submit(data.__getitem__, k) for k in islice(numbers, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def drawn_on(
    device: torch.device, data: StrokeBatches, first: int, end: int, compiled: bool
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield batches from ``first`` to at least ``end`` - 1, drawn by a GPU, many at a time."""
    for start in range(first, end, BATCHES_AT_ONCE):
        several = range(start, start + BATCHES_AT_ONCE)
        strokes = torch.stack([data[k] for k in several]).pin_memory()
        strokes = strokes.to(device, non_blocking=True)  # (batches, n, 10)
        drawn = torch.cat([
            draw_batch(some, family=data.family, compiled=compiled)
            for some in strokes.flatten(0, 1).split(STROKES_AT_ONCE)
        ])
        yield from zip(strokes, drawn.view(*strokes.shape[:2], WIDTH, WIDTH), strict=True)
