"""A painting as passes over a grid: which grid cells are painted, and in what order.

In a pass an actor with a grid read-out sees each view of the picture: all of it, or its enlarged
quadrants.  It gives an action for each of the 4x4 grid cells of its last feature map.  A painting
of 40 actions takes three passes: the quadrants of the picture, the 4x4 cells of the picture, and
of the 8x8 cells, 4x4 in each enlarged quadrant, the 20 with the largest squared error.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from constants import GRID, STEPS, WIDTH
from Renderer.canvas import STROKE_DIM
from Renderer.stroke_gen import FAMILIES

CELLS = {  # by cells a side of a view: their places on the feature map, row by row
    2: torch.tensor([5, 7, 13, 15]),  # whose receptive fields are centered on the quadrants
    GRID: torch.arange(GRID**2),
}


class Pass(NamedTuple):
    """What the actor sees in a pass, and which of its actions are painted."""

    zoom: int  # the zoom x zoom parts of the picture are its views, each enlarged to 128x128
    side: int  # cells a side of the picture: 2 or 4 times ``zoom``
    bundles: int  # fewer than side^2 selects the cells of largest squared error
    progress: float  # in [0, 1): the actor's input that tells the passes apart


QUADRANTS = Pass(1, 2, 4, 0.0)
FULL = Pass(1, GRID, GRID**2, 0.3)
DETAILS = Pass(2, 2 * GRID, 40, 0.7)


def plan(steps: int, on_top: bool = False) -> list[Pass]:
    """Return the passes of a painting of ``steps`` actions, shortened to fit.

    on_top: paint on a coarse painting in place of a blank canvas.  Of few actions a fifth is left
    for details.
    """
    planned = []
    for each in [*[QUADRANTS] * (not on_top), FULL, *[DETAILS] * (steps // DETAILS.bundles + 1)]:
        most = round(0.8 * steps) if each is FULL else steps
        if bundles := min(each.bundles, most):
            planned.append(each._replace(bundles=bundles))
        steps -= bundles
    return planned


PAINTING = plan(STEPS)  # as trained


def views(
    canvas: torch.Tensor, target: torch.Tensor, grid_pass: Pass
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the actor's inputs for the views of (B, 3, 128, 128), row by row, B zoom^2 in all."""
    zoom, part = grid_pass.zoom, WIDTH // grid_pass.zoom
    parts = torch.cat((canvas, target)).reshape(-1, 3, zoom, part, zoom, part)
    parts = parts.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    seen = F.interpolate(parts, (WIDTH, WIDTH), mode="bilinear").chunk(2)
    return *seen, torch.full((len(seen[0]),), grid_pass.progress, device=canvas.device)


def from_views(actions: torch.Tensor, zoom: int, family: str) -> torch.Tensor:
    """Return actions (B, side^2, 13 N) on pictures, from (B zoom^2, cells, 13 N) on their views.

    Both row by row; the strokes are the same but for rounding.
    """
    side = math.isqrt(actions.shape[1])
    actions = actions.unflatten(2, (-1, STROKE_DIM)).unflatten(1, (side, side))
    actions = actions.unflatten(0, (-1, zoom, zoom))
    rows = [0, 4] if FAMILIES[family].relative else [0, 2, 4]
    columns = [row + 1 for row in rows]
    scale, offset = torch.ones(STROKE_DIM), torch.zeros(zoom, zoom, 1, 1, 1, STROKE_DIM)
    scale[[*rows, *columns, 6, 7]] = 1 / zoom  # points and radii
    parts = torch.arange(zoom) / zoom
    offset[..., rows] = parts.view(zoom, 1, 1, 1, 1, 1)
    offset[..., columns] = parts.view(zoom, 1, 1, 1, 1)
    actions = actions * scale.to(actions) + offset.to(actions)
    return actions.transpose(2, 3).flatten(5).flatten(1, 4)


def select_cells(canvas: torch.Tensor, target: torch.Tensor, grid_pass: Pass) -> torch.Tensor:
    """Return the cells (B, bundles) that a pass paints, row by row.

    canvas, target: (B, 3, 128, 128) in [0, 1].
    """
    error = (canvas - target).square().mean(1, keepdim=True)
    error = F.adaptive_avg_pool2d(error, grid_pass.side).flatten(1)  # (B, cells)
    return error.topk(grid_pass.bundles).indices.sort(1).values


def pass_actions(
    actor: Callable[..., torch.Tensor], canvas: torch.Tensor, target: torch.Tensor,
    grid_pass: Pass, family: str,
) -> torch.Tensor:
    """Return the actions (B, bundles, 13 N) of a pass, in painting order.

    actor: maps canvas, target and progress (B,) to (B, 16, 13 N); canvas, target: (B, 3, 128, 128)
    in [0, 1].
    """
    actions = actor(*views(canvas, target, grid_pass))
    cells = CELLS[grid_pass.side // grid_pass.zoom].to(actions.device)
    actions = from_views(actions[:, cells], grid_pass.zoom, family)
    return actions.take_along_dim(select_cells(canvas, target, grid_pass)[..., None], 1)
