"""Set up the process for tests, and the fixtures that they share."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores, one thread for each
    os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch

from helpers import NARROW, Checkout
from painting.refine import refine
from Renderer.raster import paint_frames
from Renderer.strokes import Strokes

for number in (signal.SIGINT, signal.SIGHUP):  # which nohup and shells ignore in the background
    if signal.getsignal(number) == signal.SIG_IGN:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """Undo the flushing of denormal numbers, which networks on a CPU set for their process."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Give networks a twentieth of their weights; long versions of tests have the real ones."""
    if not request.node.get_closest_marker("slow"):
        for name, widths in NARROW.items():
            monkeypatch.setattr(name, widths)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """Return a fresh small checkout."""
    return Checkout(tmp_path / "checkout")


@pytest.fixture(scope="session")
def compiled() -> None:
    """Compile the exact rasterizer before checkouts copy it, which would each compile it."""
    for family in ("round", "triangle"):
        stroke = Strokes(family, 128, 128, np.full((1, 10), 0.5, np.float32),
                         np.ones((1, 3), np.float32), np.array([[0, 0, 128]]),
                         np.array([[0, 0, 128, 128]]))
        refine(stroke, np.ones((128, 128, 3), np.float32), 1)
        list(paint_frames(stroke, 128, 128, [1]))
