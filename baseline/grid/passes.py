"""A painting as passes over a grid: which grid cells are painted, and in what order.

A pass is one forward pass of an actor with a grid read-out, which gives an action for each of the
4x4 grid cells of its last feature map.  A painting of 40 actions takes four passes: the quadrants
of the picture, the four cells with the largest squared error, all cells, and all cells again.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from constants import GRID

CELLS = {  # by cells a side: their places on the feature map, row by row
    2: torch.tensor([5, 7, 13, 15]),  # whose receptive fields are centered on the quadrants
    GRID: torch.arange(GRID**2),
}


class Pass(NamedTuple):
    """Which actions of a forward pass are painted, and the progress that the actor is given."""

    side: int  # cells a side: 2 (quadrants) or 4
    bundles: int  # fewer than side^2 selects the cells of largest squared error
    progress: float  # in [0, 1): the actor's input that tells the passes apart


QUADRANTS = Pass(2, 4, 0.0)
LARGEST_ERRORS = Pass(GRID, 4, 0.1)
FIRST_FULL = Pass(GRID, GRID**2, 0.3)
SECOND_FULL = Pass(GRID, GRID**2, 0.7)
PAINTING = (QUADRANTS, LARGEST_ERRORS, FIRST_FULL, SECOND_FULL)  # as trained
PAINTING_STEPS = sum(each.bundles for each in PAINTING)  # 40 actions


def plan(steps: int, on_top: bool = False) -> list[Pass]:
    """Return the passes of a painting of ``steps`` actions; the last one is shortened.

    on_top: paint on a coarse painting in place of a blank canvas.  Below 40 actions the pass over
    the largest errors is skipped: a second full pass gives a lower error.
    """
    passes = list(PAINTING) if steps >= PAINTING_STEPS else [QUADRANTS, FIRST_FULL, SECOND_FULL]
    if on_top:
        passes = [FIRST_FULL]
    planned = []
    for each in [*passes, *[SECOND_FULL] * (steps // GRID**2)]:
        if bundles := min(each.bundles, steps):
            planned.append(each._replace(bundles=bundles))
        steps -= bundles
    return planned


def select_cells(canvas: torch.Tensor, target: torch.Tensor, grid_pass: Pass) -> torch.Tensor:
    """Return the cells (B, bundles) that a pass paints, row by row.

    canvas, target: (B, 3, 128, 128) in [0, 1].
    """
    cells = CELLS[grid_pass.side].to(canvas.device)
    if grid_pass.bundles == len(cells):
        return cells.expand(len(canvas), -1)
    error = (canvas - target).square().mean(1, keepdim=True)
    error = F.adaptive_avg_pool2d(error, grid_pass.side).flatten(1)  # (B, cells)
    return cells[error.topk(grid_pass.bundles).indices.sort(1).values]


def pass_actions(
    actor: Callable[..., torch.Tensor], canvas: torch.Tensor, target: torch.Tensor,
    grid_pass: Pass,
) -> torch.Tensor:
    """Return the actions (B, bundles, 13 N) of a pass, in painting order.

    actor: maps canvas, target and progress (B,) to (B, 16, 13 N); canvas, target: (B, 3, 128, 128)
    in [0, 1].
    """
    progress = torch.full((len(canvas),), grid_pass.progress, device=canvas.device)
    cells = select_cells(canvas, target, grid_pass)
    return actor(canvas, target, progress).take_along_dim(cells[..., None], 1)
