"""The strokes that a renderer learns from, drawn ahead of the network that learns."""

import signal
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from facts import WIDTH
from Renderer.stroke_batch import draw_batch
from Renderer.stroke_gen import SHAPE_DIM
from utils.command import STOP_SIGNALS
from utils.ranks import Ranks

BATCHES_AT_ONCE = 16  # that a GPU draws before the network learns from them
STROKES_AT_ONCE = 1024  # which take about 1.3 GB of it, by count


class StrokeBatches(Dataset):
    """Batch k of the training strokes, a function of (seed, k) alone; of it one process's part."""

    def __init__(
        self, seed: int, batch_size: int, family: str, ranks: Ranks, drawn: bool = True
    ) -> None:
        """batch_size: of this process; drawn: whether batches come with their pictures."""
        self.seed, self.family, self.drawn = seed, family, drawn
        self.whole = batch_size * ranks.world
        self.part = slice(ranks.rank, None, ranks.world)

    def __getitem__(self, k: int) -> tuple[torch.Tensor, torch.Tensor] | torch.Tensor:
        """Returns strokes (n, 10) and, if drawn, their pictures (n, 128, 128), in [0, 1]."""
        rng = np.random.default_rng((self.seed, k))
        strokes = torch.from_numpy(rng.random((self.whole, SHAPE_DIM), np.float32)[self.part])
        return (strokes, draw_batch(strokes, family=self.family)) if self.drawn else strokes


def drawn_ahead(data: StrokeBatches, first: int, end: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Batches from ``first``, drawn by another process while the network learns.

    That process ends when this generator is closed; until then this one cannot end.
    """
    loader = DataLoader(data, batch_size=None, sampler=range(first, end), num_workers=1,
                        prefetch_factor=16, worker_init_fn=start_worker)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # children get them too
    try:
        batches = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    yield from batches


def drawn_on(
    device: torch.device, data: StrokeBatches, first: int, end: int, compiled: bool
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Batches from ``first``, drawn by the GPU, many batches at a time."""
    for start in range(first, end, BATCHES_AT_ONCE):
        several = range(start, start + BATCHES_AT_ONCE)
        strokes = torch.stack([data[k] for k in several]).pin_memory()
        strokes = strokes.to(device, non_blocking=True)  # (batches, n, 10)
        drawn = torch.cat([
            draw_batch(some, family=data.family, compiled=compiled)
            for some in strokes.flatten(0, 1).split(STROKES_AT_ONCE)
        ])
        yield from zip(strokes, drawn.view(*strokes.shape[:2], WIDTH, WIDTH), strict=True)


def start_worker(_: int) -> None:
    """One thread for drawing; signals are the main process's to handle."""
    cv2.setNumThreads(1)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
