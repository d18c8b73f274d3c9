"""Tiles: how a canvas is cut and joined, and what placed strokes make of it."""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from constants import STEPS, WIDTH
from Renderer.canvas import Render
from Renderer.strokes import Strokes

LONGEST_ROW = 32  # of tiles, that a grid begins with


class Stage(NamedTuple):
    """A part of a painting: so many steps on all tiles of a grid, side by side."""

    rows: int  # of tiles
    columns: int
    steps: int
    tiles: np.ndarray  # (tiles, 3) int64, row by row: top, left and width, pixels of the canvas
    clips: np.ndarray  # (tiles, 4) int64: top, left, bottom and right of what may be painted

    @property
    def overlapping(self) -> bool:
        """Whether strokes may reach over the edges of their tile."""
        return bool((self.clips[:, 2:] - self.clips[:, :2] > self.tiles[:, 2:]).any())

    @property
    def name(self) -> str:
        """What the step lines call it."""
        return "canvas" if len(self.tiles) == 1 else f"{self.rows}x{self.columns} tiles"


def canvas_side(tiles: int, overlap: int) -> int:
    """Pixels of a row of tiles that share so many with their neighbours."""
    return WIDTH + (tiles - 1) * (WIDTH - overlap)


def plan(
    rows: int, columns: int, overlap: int, max_step: int | None
) -> tuple[int, int, list[Stage]]:
    """The canvas and the stages of a painting on rows x columns tiles of 128 pixels.

    The first half of the steps, and an odd one, goes to the coarsest grid of the same shape: the
    whole canvas where there are as many rows as columns, 2x3 tiles where there are 4x6; a grid
    that has no coarser one gets all.  overlap: pixels that neighbours share; then strokes may
    reach over the edges of their tile.  max_step: all steps, or None: STEPS for each grid.
    Returns the canvas's height and width in pixels, and the stages.
    """
    height, width = (canvas_side(n, overlap) for n in (rows, columns))
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
        stages.append(Stage(down, across, steps, tiles, clips))
    return height, width, stages


def fitting_grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tiles on which a picture of this size is hardly stretched.

    The grid of at most 4 rows and columns, or one row or column of at most LONGEST_ROW, that is
    nearest in shape, twice or more as fine until its longer side has 4 tiles or more.
    """
    shapes = [(r, c) for r in range(1, 5) for c in range(1, 5) if math.gcd(r, c) == 1]
    shapes += [s for n in range(5, LONGEST_ROW + 1) for s in ((1, n), (n, 1))]
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
    seams = torch.arange(WIDTH, length, WIDTH, device=device)
    return torch.cat((seams - 1, seams))


def _means_around(picture: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The 3x3 means (B, 3, n, W) around rows (n,), none of them at the picture's edge."""
    tall = (picture[:, :, rows - 1] + picture[:, :, rows] + picture[:, :, rows + 1]) / 3
    return F.avg_pool2d(tall, (1, 3), stride=1, padding=(0, 1), count_include_pad=False)


def paint_placed(render: Render, strokes: Strokes, device: torch.device) -> torch.Tensor:
    """The neural canvas (height, width, 3) of placed strokes, from black.

    Each stroke is a picture of its tile, cut off at its clip and enlarged where the tile is.
    """
    canvas = torch.zeros(3, strokes.height, strokes.width, device=device)
    colours = torch.from_numpy(strokes.colors).to(device)
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
            part.lerp_(colours[first + i, :, None, None],
                       alpha[low - top : high - top, start - left : end - left])
    return canvas.permute(1, 2, 0)
