"""Where square tiles lie on a canvas: cutting pictures for the actor, placing its strokes."""

from typing import NamedTuple

import cv2
import numpy as np
import torch

from constants import WIDTH
from Renderer.canvas import STROKE_DIM
from Renderer.stroke_gen import SHAPE_DIM
from Renderer.strokes import Strokes


class Layout(NamedTuple):
    """n square tiles of a canvas, each of which is a picture of 128x128 to the actor."""

    height: int  # of the canvas, pixels
    width: int
    tiles: np.ndarray  # (n, 3) int64: top, left and side, pixels; may reach beyond the canvas
    clips: np.ndarray  # (n, 4) int64: top, left, bottom, right: nothing is painted outside

    @classmethod
    def column(cls, count: int) -> "Layout":
        """Return the layout of ``count`` separate pictures, one below the other."""
        tops = WIDTH * np.arange(count)
        left, side = np.zeros_like(tops), np.full_like(tops, WIDTH)
        return cls(WIDTH * count, WIDTH, np.stack((tops, left, side), 1),
                   np.stack((tops, left, tops + WIDTH, side), 1))

    def shifted(self) -> "Layout":
        """Return the layout of a grid of equal tiles shifted by half a tile, one more each way.

        Strokes may reach over the edges of their tile.
        """
        half = int(self.tiles[0, 2]) // 2
        starts = [np.unique(self.tiles[:, axis]) for axis in (0, 1)]
        corners = np.stack([v.ravel() for v in np.meshgrid(
            *(np.append(each - half, each[-1] + half) for each in starts), indexing="ij")], 1)
        return self._replace(tiles=np.insert(corners, 2, 2 * half, 1)).unclipped()

    def unclipped(self) -> "Layout":
        """Return the same tiles, whose strokes may be painted on all of the canvas."""
        return self._replace(clips=np.tile((0, 0, self.height, self.width), (len(self.tiles), 1)))

    def cut(self, canvas: np.ndarray) -> torch.Tensor:
        """Cut the tiles out of a canvas (height, width, 3); beyond its borders it is mirrored.

        Returns (n, 3, 128, 128) float32, tiles of another side resized.
        """
        ends = self.tiles[:, :2] + self.tiles[:, 2:]
        margin = int(max(0, -self.tiles[:, :2].min(), *(ends.max(0) - canvas.shape[:2])))
        if margin:
            canvas = np.pad(canvas, ((margin, margin), (margin, margin), (0, 0)), "symmetric")
        crops = []
        for top, left, side in (self.tiles + (margin, margin, 0)).tolist():
            crop = canvas[top : top + side, left : left + side]
            crops.append(crop if side == WIDTH else
                         cv2.resize(crop, (WIDTH, WIDTH), interpolation=cv2.INTER_AREA))
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)

    def strokes(self, family: str, action: torch.Tensor) -> Strokes:
        """Place actions (n, 13 N), one for each tile: the first stroke of all tiles comes first."""
        numbers = action.detach().float().cpu().unflatten(1, (-1, STROKE_DIM))  # (n, N, 13)
        numbers = numbers.transpose(0, 1).reshape(-1, STROKE_DIM).numpy()
        count = len(numbers) // len(self.tiles)
        return Strokes(family, self.height, self.width,
                       np.ascontiguousarray(numbers[:, :SHAPE_DIM]),
                       np.ascontiguousarray(numbers[:, SHAPE_DIM:]),
                       np.tile(self.tiles, (count, 1)), np.tile(self.clips, (count, 1)))


def stacked(pictures: torch.Tensor) -> np.ndarray:
    """Return pictures (B, 3, 128, 128) as one canvas (128 B, 128, 3); see ``Layout.column``."""
    return np.ascontiguousarray(pictures.cpu().permute(0, 2, 3, 1)).reshape(-1, WIDTH, 3)


def unstacked(canvas: np.ndarray) -> torch.Tensor:
    """Return a canvas (128 B, 128, 3) as pictures (B, 3, 128, 128)."""
    return torch.from_numpy(canvas).unflatten(0, (-1, WIDTH)).permute(0, 3, 1, 2).contiguous()
