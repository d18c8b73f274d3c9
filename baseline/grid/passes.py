"""A painting as passes over a grid: which cells an actor with a grid read-out paints, and when.

A pass is one forward pass of the actor, which gives a bundle of strokes for each of the 4x4 cells
of its last feature map.  A painting of 40 bundles takes four passes: the quadrants of the picture,
the four cells with the largest error, all cells, and all cells again.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from constants import GRID

CELLS = {  # by cells a side: the places on the feature map, in reading order
    2: torch.tensor([5, 7, 13, 15]),  # centers of their receptive fields: those of the quadrants
    GRID: torch.arange(GRID**2),
}


class Pass(NamedTuple):
    """The bundles that one forward pass of the actor gives for a picture."""

    side: int  # cells a side: 2 (quadrants) or 4
    bundles: int  # painted; where fewer than cells, those of the cells with the largest error
    progress: float  # in [0, 1): the actor's input that tells it which pass it is


QUADRANTS = Pass(2, 4, 0.0)
WORST = Pass(GRID, 4, 0.1)
FIRST = Pass(GRID, GRID**2, 0.3)
SECOND = Pass(GRID, GRID**2, 0.7)
PAINTING = (QUADRANTS, WORST, FIRST, SECOND)  # as it is learned
PAINTED = sum(which.bundles for which in PAINTING)  # 40


def plan(steps: int) -> list[Pass]:
    """Return the passes of a painting of so many bundles from a blank canvas.

    Below 40 bundles a second pass over some cells is better than one over the worst after the
    quadrants; beyond 56 more hardly help.
    """
    order = [QUADRANTS, FIRST, SECOND] if steps < PAINTED else list(PAINTING)
    return _cut_off([*order, *[SECOND] * (steps // GRID**2)], steps)


def plan_on_top(steps: int) -> list[Pass]:
    """Return the passes of so many bundles on a canvas that is coarsely painted already."""
    return _cut_off([FIRST, *[SECOND] * (steps // GRID**2)], steps)


def _cut_off(order: list[Pass], steps: int) -> list[Pass]:
    passes = []
    for each in order:
        if bundles := min(each.bundles, steps):
            passes.append(each._replace(bundles=bundles))
        steps -= bundles
    return passes


def chosen_cells(canvas: torch.Tensor, target: torch.Tensor, which: Pass) -> torch.Tensor:
    """Return the cells (B, bundles) that a pass paints, in reading order.

    canvas, target: (B, 3, 128, 128) in [0, 1].
    """
    cells = CELLS[which.side].to(canvas.device)
    if which.bundles == len(cells):
        return cells.expand(len(canvas), -1)
    error = (canvas - target).square().mean(1, keepdim=True)
    error = F.adaptive_avg_pool2d(error, which.side).flatten(1)  # (B, cells)
    return cells[error.topk(which.bundles).indices.sort(1).values]


def choose(
    actor: torch.nn.Module, canvas: torch.Tensor, target: torch.Tensor, which: Pass
) -> torch.Tensor:
    """Return the bundles (B, bundles, 13 N) of a pass, in painting order.

    actor: maps canvas, target and progress (B,) to (B, 16, 13 N); canvas, target: (B, 3, 128, 128)
    in [0, 1].
    """
    progress = torch.full((len(canvas),), which.progress, device=canvas.device)
    cells = chosen_cells(canvas, target, which)
    return actor(canvas, target, progress).take_along_dim(cells[..., None], 1)
