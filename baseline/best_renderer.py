"""The error of a renderer, and the weight file of the best one of several trainings."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import torch

from Renderer.model import Renderer
from running.device import Precision
from utils.command import UserError
from utils.files import make_room
from utils.locks import lock_folder
from utils.weights import half_state, load_weights, save_atomically

PICTURES = 32  # that a validation gives, to be shown


@torch.no_grad()
def drawing_error(
    renderer: Renderer, strokes: torch.Tensor, drawn: torch.Tensor, precision: Precision
) -> tuple[float, torch.Tensor]:
    """Return the mean squared error on fixed strokes, and the first pictures the network made."""
    error, shown = 0.0, []
    for inputs, wanted in zip(strokes.split(256), drawn.split(256), strict=True):
        with precision.autocast():
            made = renderer(inputs).float()  # (n, 128, 128)
        error += (made - wanted).square().mean((1, 2)).sum().item()
        shown.append(made[:PICTURES])
    return error / len(strokes), shown[0]


def stamp(path: Path) -> tuple[int, ...] | None:
    """Return what tells a file from its replacement; None where it is no file."""
    if not path.is_file():
        return None
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


class Best:
    """A weight file that only a better network replaces."""

    def __init__(self, path: Path, family: str, measure: Callable[[Renderer], float]) -> None:
        """Find the file.  Raises UserError where it could not be written.

        measure: from a network to its error.
        """
        make_room(path)
        self.path, self.family, self.measure = path, family, measure
        self.error = math.inf
        self.seen = stamp(path)  # of the content that the error is of

    def __str__(self) -> str:
        return f"{self.path} has a squared error of {self.error:.6f}"

    def begin(self, network: Renderer) -> None:
        """Fill a network from the file where there is one, and say how good it is."""
        if self.seen:
            self.read(network)
            print(self)

    def read(self, network: Renderer) -> None:
        """Fill a network from the file, and measure it."""
        family = load_weights(
            network, self.path, "the weight file to go on from", "name another --output")
        if family != self.family:
            raise UserError(f"{self.path} holds a renderer of {family} strokes, not of "
                            f"{self.family}; move it away or name another --output")
        self.error = self.measure(network)

    def offer(self, network: Renderer, error: float) -> None:
        """Write a network where its error is less than that of what is there by now."""
        lock = lock_folder(self.path.parent, wait=True)
        if self.seen != stamp(self.path):  # another training's, or it is gone
            self.error = math.inf
            if self.path.is_file():
                self.read(Renderer())
        if error < self.error:
            save_atomically(half_state(network, family=self.family), self.path)
            self.error = error
        self.seen = stamp(self.path)
        os.close(lock)
