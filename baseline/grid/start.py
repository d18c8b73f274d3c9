"""How a new actor of the grid method begins: its normalization, and strokes that it imitates."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from constants import BUNDLE, GRID, WIDTH
from DRL.actor import Actor, Block, normalized_convolutions
from grid.passes import CELLS, FIRST, QUADRANTS, SECOND, WORST, Pass
from Renderer.canvas import STROKE_DIM
from Renderer.layout import Layout, stacked, unstacked
from Renderer.raster import paint_exact
from Renderer.stroke_gen import FAMILIES, SHAPE_DIM

IMITATION = 240  # updates
OPACITY = {2: 0.9, GRID: 0.6}  # of plain strokes, by cells a side
LESSONS = (QUADRANTS, FIRST, SECOND, QUADRANTS, WORST._replace(bundles=GRID**2), SECOND)
RESIDUAL_SCALE = 0.5  # of the normalization that ends a block's residual branch
LAST_LAYER_SCALE = 0.1
# Five short strokes, in parts of their cell: row and column of the center, radius.
SPOTS = ((1 / 2, 1 / 2, 9 / 32), *((y, x, 6 / 32) for y in (1 / 4, 3 / 4) for x in (1 / 4, 3 / 4)))
HALF_LENGTH = 5 / 32  # of a stroke, in parts of its cell


def plain_strokes(target: torch.Tensor, side: int, family: str) -> torch.Tensor:
    """Return short strokes in the mean color around them, a bundle for each of side x side cells.

    target: (B, 3, 128, 128) in [0, 1].  Returns (B, side**2, 13 BUNDLE).
    """
    pixels, known = WIDTH // side, FAMILIES[family]
    means = F.avg_pool2d(target, pixels // 2, pixels // 4)
    strokes = target.new_zeros(len(target), side**2, BUNDLE, STROKE_DIM)
    for cell in range(side**2):
        for number, (y, x, radius) in enumerate(SPOTS):
            row, column = pixels * (cell // side + y), pixels * (cell % side + x)
            top, left = (int(v) * 4 // pixels - 1 for v in (row, column))
            row, column, half = row / WIDTH, column / WIDTH, HALF_LENGTH / side
            middle = 0.5, 0.5
            if known.points == 1:
                half = 0.0
            elif not known.relative:  # a triangle's corners, as it has no radius
                half += radius / side
                middle, row = (row - half, column), row + half
            radius = (pixels * radius - 1) / (WIDTH / 2)
            strokes[:, cell, number, :SHAPE_DIM] = strokes.new_tensor(
                [row, column - half, *middle, row, column + half, radius, radius,
                 OPACITY[side], OPACITY[side]])
            strokes[:, cell, number, SHAPE_DIM:] = means[:, :, top, left]
    return strokes.flatten(2)


def lesson(
    target: torch.Tensor, which: Pass, family: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a new actor sees and imitates in a pass: canvases and bundles of plain strokes.

    target: (B, 3, 128, 128) in [0, 1].  The canvases, of the same shape, are black before the
    quadrants, then have these, and before the second pass over all cells those of the first.
    Returns them and the bundles (B, cells, 13 N).
    """
    column, canvas = Layout.column(len(target)), np.zeros(stacked(target).shape, np.float32)
    coarse, fine = (plain_strokes(target, side, family) for side in (2, GRID))
    for bundles in {QUADRANTS.progress: (), SECOND.progress: (coarse, fine)}.get(
            which.progress, (coarse,)):
        paint_exact(column.strokes(family, bundles.flatten(1)), canvas)
    return unstacked(canvas), coarse if which.side == 2 else fine


def imitation_loss(
    policy: Callable[..., torch.Tensor], target: torch.Tensor, update: int, family: str
) -> torch.Tensor:
    """Return the mean squared error of the numbers of an actor's strokes to plain ones."""
    which = LESSONS[update % len(LESSONS)]
    canvas, bundles = lesson(target, which, family)
    numbers = policy(canvas, target, torch.full((len(target),), which.progress))
    return (numbers[:, CELLS[which.side]] - bundles).square().mean()


@torch.no_grad()
def initialize(actor: Actor, target: torch.Tensor, family: str) -> None:
    """Draw an actor's weights (He et al., 2015) and measure its normalization's statistics once.

    target: (B, 3, 128, 128) in [0, 1]; it is seen with the canvases of all lessons.
    """
    for module in actor.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Linear):
            module.weight *= LAST_LAYER_SCALE
            module.bias.zero_()
        elif isinstance(module, Block):
            module.bn2.weight.fill_(RESIDUAL_SCALE)
    device = actor.fc.weight.device
    canvas = torch.cat([lesson(target, which, family)[0] for which in LESSONS[:3]])
    progress = torch.tensor([which.progress for which in LESSONS[:3]])
    norms = [norm for _, _, norm in normalized_convolutions(actor)]
    momentum = norms[0].momentum
    for norm in norms:
        norm.momentum = 1.0  # the statistics become those of this batch
    actor.train()(canvas.to(device), target.repeat(3, 1, 1, 1).to(device),
                  progress.repeat_interleave(len(target)).to(device))
    actor.eval()
    for norm in norms:
        norm.momentum = momentum
