"""The start of a training run of the grid method: initialization, then behavior cloning.

In its first updates a new actor imitates target strokes: short strokes in the mean color around
them, spread evenly over each grid cell.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from constants import GRID, WIDTH
from DRL.actor import Actor, Block, normalized_convolutions
from grid.passes import CELLS, DETAILS, FULL, QUADRANTS, Pass
from Renderer.layout import Layout, stacked, unstacked
from Renderer.raster import paint_exact
from Renderer.stroke_gen import FAMILIES

IMITATION_UPDATES = 240
EARLIER = {QUADRANTS: (), FULL: (2,), DETAILS: (1, 2)}  # cells a side of the earlier strokes
OPACITY = {1: 0.9, 2: 0.9, GRID: 0.6}  # of target strokes, by cells a side
# Row and column of the center, and diameter, of a cell's five target strokes, in grid cells.
PLACES = ((1 / 2, 1 / 2, 9 / 32), *((y, x, 6 / 32) for y in (1 / 4, 3 / 4) for x in (1 / 4, 3 / 4)))
HALF_LENGTH = 5 / 32  # of a target stroke, in grid cells
RESIDUAL_SCALE = 0.5  # initial weight of bn2, which ends a block's residual branch
LAST_LAYER_SCALE = 0.1  # of the last layer's default initial weights


def target_strokes(target: torch.Tensor, side: int, family: str) -> torch.Tensor:
    """Return target strokes (B, side**2, 13 * 5), a bundle for each of side x side cells.

    target: (B, 3, 128, 128) in [0, 1].
    """
    row, column, diameter = torch.tensor(PLACES).unbind(1)  # (5,), in grid cells
    cell = torch.arange(side**2)[:, None]
    row, column = cell // side + row, cell % side + column  # (cells, 5)
    means = F.avg_pool2d(target, WIDTH // side // 2, WIDTH // side // 4)
    colors = means[:, :, (4 * row - 1).long(), (4 * column - 1).long()]  # (B, 3, cells, 5)
    row, column, half = row / side, column / side, HALF_LENGTH / side
    middle = 0.5, 0.5
    if FAMILIES[family].points == 1:
        half = 0.0
    elif not FAMILIES[family].relative:  # a triangle has no radius; it extends further instead
        half = half + diameter / side
        middle, row = (row - half, column), row + half
    radius = (WIDTH // side * diameter - 1) / (WIDTH / 2)
    numbers = (row, column - half, *middle, row, column + half, radius, radius,
               OPACITY[side], OPACITY[side])
    shapes = torch.stack(torch.broadcast_tensors(*map(torch.as_tensor, numbers)), 2)
    shapes = shapes.expand(len(target), -1, -1, -1)  # (B, cells, 5, 10)
    return torch.cat((shapes, colors.permute(0, 2, 3, 1)), 3).flatten(2)


def imitation_batch(
    target: torch.Tensor, grid_pass: Pass, family: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the canvases before a pass and the actions (B, cells, 13 N) to imitate in it.

    target: (B, 3, 128, 128) in [0, 1], as the pass's views show it.  The canvases hold the target
    strokes of earlier passes.
    """
    stack_layout, canvas = Layout.column(len(target)), np.zeros_like(stacked(target))
    for side in EARLIER[grid_pass]:
        actions = target_strokes(target, side, family)
        paint_exact(stack_layout.strokes(family, actions.flatten(1)), canvas)
    return unstacked(canvas), target_strokes(target, grid_pass.side // grid_pass.zoom, family)


def imitation_loss(
    actor: Callable[..., torch.Tensor], target: torch.Tensor, update: int, family: str
) -> torch.Tensor:
    """Return the MSE of an actor's actions to the target strokes of (B, 3, 128, 128) in [0, 1]."""
    grid_pass = list(EARLIER)[update % len(EARLIER)]
    canvas, expected = imitation_batch(target, grid_pass, family)
    actions = actor(canvas, target, torch.full((len(target),), grid_pass.progress))
    return (actions[:, CELLS[grid_pass.side // grid_pass.zoom]] - expected).square().mean()


@torch.no_grad()
def initialize(actor: Actor, target: torch.Tensor, family: str) -> None:
    """Initialize convolutions as He et al. (2015), batch-norm statistics by one batch.

    target: (B, 3, 128, 128) in [0, 1]; the actor sees it with the canvases of three passes.
    """
    for module in actor.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Linear):
            module.weight *= LAST_LAYER_SCALE
            module.bias.zero_()
        elif isinstance(module, Block):
            module.bn2.weight.fill_(RESIDUAL_SCALE)
    device, passes = actor.fc.weight.device, tuple(EARLIER)
    canvas = torch.cat([imitation_batch(target, each, family)[0] for each in passes])
    progress = torch.tensor([each.progress for each in passes]).repeat_interleave(len(target))
    for *_, norm in normalized_convolutions(actor):
        norm.momentum = 1.0  # the running statistics become those of this batch
    actor.train()(canvas.to(device), target.repeat(3, 1, 1, 1).to(device), progress.to(device))
    actor.eval()
