"""Tiles: the stages of a painting on them, and how a canvas is cut, joined and painted there."""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from constants import STEPS, WIDTH
from Renderer.canvas import Render
from Renderer.layout import Layout
from Renderer.strokes import Strokes
from utils.command import UserError

MAX_ROW = 32  # tiles, of the grid before it is made finer
MAX_CANVAS = 8192  # pixels a side


class Stage(NamedTuple):
    """A part of a painting: a number of steps on all tiles of a grid."""

    rows: int  # of tiles
    columns: int
    steps: int
    layout: Layout  # the tiles row by row

    @property
    def overlapping(self) -> bool:
        """Whether strokes may reach over the edges of their tile."""
        _, _, tiles, clips = self.layout
        return bool((clips[:, 2:] - clips[:, :2] > tiles[:, 2:]).any())

    @property
    def name(self) -> str:
        """What the step lines call it."""
        return "canvas" if self.rows * self.columns == 1 else f"{self.rows}x{self.columns} tiles"


def plan(rows: int, columns: int, overlap: int, max_step: int | None) -> list[Stage]:
    """Return the stages of a painting on rows x columns tiles of 128 pixels.

    The first half of the steps, and an odd one, goes to the coarsest grid of the same shape: the
    whole canvas where there are as many rows as columns, 2x3 tiles where there are 4x6; a grid
    that has no coarser one gets all.  overlap: pixels that neighbors share; then strokes may
    reach over the edges of their tile.  max_step: all steps, or None: STEPS for each grid.
    """
    height, width = (WIDTH + (n - 1) * (WIDTH - overlap) for n in (rows, columns))
    if max(height, width) > MAX_CANVAS:
        raise UserError(f"{rows}x{columns} tiles make a canvas of {width}x{height} pixels; "
                        f"{MAX_CANVAS} a side are the most")
    coarser = math.gcd(rows, columns)
    grids = [(rows // coarser, columns // coarser), (rows, columns)][coarser == 1 :]
    stages = []
    max_step = max_step or STEPS * len(grids)
    for down, across in grids:
        side = max(-(-height // down), -(-width // across)) if (down, across) != (rows, columns) \
            else WIDTH
        tops, lefts = (np.rint(np.linspace(0, end - side, n)).astype(np.int64)
                       for n, end in ((down, height), (across, width)))
        tiles = np.stack([v.ravel() for v in (*np.meshgrid(tops, lefts, indexing="ij"),
                                              np.full((down, across), side))], 1)
        clips = (np.hstack((tiles[:, :2], tiles[:, :2] + side)) if not overlap else
                 np.tile((0, 0, height, width), (len(tiles), 1)))
        steps = (max_step + len(grids) - 1 - len(stages)) // len(grids)
        stages.append(Stage(down, across, steps, Layout(height, width, tiles, clips)))
    if not stages[-1].steps:
        raise UserError(f"--max_step {max_step} leaves no step for the tiles; "
                        "use --max_step 2 or more, or --divide 1")
    return stages


def fitting_grid(height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of tiles on which a picture of this size is hardly stretched.

    It is the grid of at most 4 rows and columns, or one row or column of at most MAX_ROW, that is
    nearest in shape, twice or more as fine until its longer side has 4 tiles or more.
    """
    shapes = [(r, c) for r in range(1, 5) for c in range(1, 5) if math.gcd(r, c) == 1]
    shapes += [s for n in range(5, MAX_ROW + 1) for s in ((1, n), (n, 1))]
    rows, columns = min(shapes, key=lambda s: abs(math.log(s[0] * width / (s[1] * height))))
    finer = max(2, -(-4 // max(rows, columns)))
    return rows * finer, columns * finer


def to_tiles(picture: torch.Tensor) -> torch.Tensor:
    """Cut (B, 3, 128 R, 128 C) into (B R C, 3, 128, 128), row by row."""
    tiles = picture.unfold(2, WIDTH, WIDTH).unfold(3, WIDTH, WIDTH)  # (B, 3, R, C, 128, 128)
    return tiles.permute(0, 2, 3, 1, 4, 5).reshape(-1, picture.shape[1], WIDTH, WIDTH)


def from_tiles(tiles: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Join (B R C, 3, 128, 128) to (B, 3, 128 R, 128 C): undoes ``to_tiles``."""
    grid = tiles.view(-1, rows, columns, tiles.shape[1], WIDTH, WIDTH)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(
        -1, tiles.shape[1], rows * WIDTH, columns * WIDTH)


def smooth_seams(picture: torch.Tensor) -> torch.Tensor:
    """Replace the pixels on both sides of each seam between tiles by their 3x3 means.

    picture: (B, 3, 128 R, 128 C).  Means at the picture's edge are over what is inside.
    """
    smooth = picture.clone()
    if len(rows := _beside_seams(picture.shape[2], picture.device)):
        smooth[:, :, rows] = _means_around(picture, rows)
    if len(columns := _beside_seams(picture.shape[3], picture.device)):
        smooth[:, :, :, columns] = _means_around(picture.mT, columns).mT
    return smooth


def _beside_seams(length: int, device: torch.device) -> torch.Tensor:
    """Return the numbers of the rows, of ``length``, on both sides of the seams."""
    seams = torch.arange(WIDTH, length, WIDTH, device=device)
    return torch.cat((seams - 1, seams))


def _means_around(picture: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the 3x3 means (B, 3, n, W) around rows (n,), none at the picture's edge."""
    tall = (picture[:, :, rows - 1] + picture[:, :, rows] + picture[:, :, rows + 1]) / 3
    return F.avg_pool2d(tall, (1, 3), stride=1, padding=(0, 1), count_include_pad=False)


def paint_placed(render: Render, strokes: Strokes, device: torch.device) -> torch.Tensor:
    """Paint placed strokes on a black canvas (height, width, 3) by the neural renderer.

    Each stroke is a picture of its tile, cut off at its clip and enlarged where the tile is.
    """
    canvas = torch.zeros(3, strokes.height, strokes.width, device=device)
    colors = torch.from_numpy(strokes.colors).to(device)
    for first in range(0, len(strokes), 64):
        few = strokes[first : first + 64]
        alphas = 1 - render(torch.from_numpy(few.shapes).to(device))  # (64, 128, 128)
        for i, alpha in enumerate(alphas):
            (top, left, side), clip = few.tiles[i].tolist(), few.clips[i].tolist()
            if side != WIDTH:
                alpha = F.interpolate(alpha[None, None], (side, side), mode="bilinear")[0, 0]
            low, start = max(top, clip[0]), max(left, clip[1])
            high, end = min(top + side, clip[2]), min(left + side, clip[3])
            part = canvas[:, low:high, start:end]
            part.lerp_(colors[first + i, :, None, None],
                       alpha[low - top : high - top, start - left : end - left])
    return canvas.permute(1, 2, 0)
