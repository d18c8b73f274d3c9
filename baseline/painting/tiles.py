"""The stages of a painting: grids of tiles, each of which an actor sees as a picture."""

import math
from typing import NamedTuple

import numpy as np

from constants import STEPS, WIDTH
from Renderer.layout import Layout
from utils.command import UserError

MAX_ROW = 32  # tiles, of the grid before it is made finer
MAX_CANVAS = 8192  # pixels a side


class Stage(NamedTuple):
    """A part of a painting: a number of steps on all tiles of a grid."""

    rows: int  # of tiles
    columns: int
    steps: int  # bundles of strokes on each tile
    layout: Layout  # the tiles row by row

    @property
    def name(self) -> str:
        """Return the stage's name in progress lines."""
        return "canvas" if self.rows * self.columns == 1 else f"{self.rows}x{self.columns} tiles"


def plan(rows: int, columns: int, max_step: int | None) -> list[Stage]:
    """Return the stages of a painting on rows x columns tiles of 128 pixels.

    The first half of the steps, and an odd one, goes to the coarsest grid of the same shape: the
    whole canvas where there are as many rows as columns, 2x3 tiles where there are 4x6.  A grid
    without a coarser one gets all steps.  max_step: all steps, None: STEPS for each grid.
    Raises UserError where the canvas is too large or the tiles get no step.
    """
    height, width = WIDTH * rows, WIDTH * columns
    if max(height, width) > MAX_CANVAS:
        raise UserError(f"{rows}x{columns} tiles make a canvas of {width}x{height} pixels; "
                        f"{MAX_CANVAS} a side are the most")
    coarser = math.gcd(rows, columns)
    grids = [(rows // coarser, columns // coarser), (rows, columns)][coarser == 1 :]
    max_step = max_step or STEPS * len(grids)
    if max_step < len(grids):
        raise UserError(f"--max_step {max_step} leaves no step for the tiles; "
                        "use --max_step 2 or more, or --divide 1")
    stages = []
    for down, across in grids:
        side = height // down
        corners = side * np.indices((down, across)).reshape(2, -1).T
        layout = Layout(height, width, np.insert(corners, 2, side, 1), None).unclipped()
        stages.append(Stage(down, across, -(-max_step // len(grids)), layout))
    stages[-1] = stages[-1]._replace(steps=max_step // len(grids))
    return stages


def fitting_grid(height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of tiles on which a picture of this size is hardly stretched.

    It is the grid nearest in shape among 2x3, 3x2 and one row or column of at most MAX_ROW, twice
    or more as fine until its longer side has 4 tiles or more.
    """
    shapes = [(2, 3), (3, 2), *(s for n in range(1, MAX_ROW + 1) for s in ((1, n), (n, 1)))]
    rows, columns = min(shapes, key=lambda s: abs(math.log(s[0] * width / (s[1] * height))))
    finer = max(2, -(-4 // max(rows, columns)))
    return rows * finer, columns * finer
