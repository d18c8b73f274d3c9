"""The strokes of a painting: input of rasterizers, stroke files and SVG."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import numpy as np


@dataclass(frozen=True)
class Strokes:
    """n strokes in painting order on one canvas."""

    family: str
    height: int  # of the canvas, pixels
    width: int
    shapes: np.ndarray  # (n, 10) float32 in [0, 1], relative to the stroke's tile
    colors: np.ndarray  # (n, 3) float32 BGR in [0, 1]
    tiles: np.ndarray  # (n, 3) int64: top, left and width of the square tile, canvas pixels
    clips: np.ndarray  # (n, 4) int64: top, left, bottom, right: nothing is painted outside

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, part: slice) -> "Strokes":
        arrays = (field.name for field in fields(self)[3:])
        return replace(self, **{name: getattr(self, name)[part] for name in arrays})

    def scaled(self, factor: int) -> "Strokes":
        """Return the strokes on a canvas that is ``factor`` times as large."""
        return replace(self, height=factor * self.height, width=factor * self.width,
                       tiles=factor * self.tiles, clips=factor * self.clips)

    @classmethod
    def join(cls, parts: Iterable["Strokes"]) -> "Strokes":
        """Join at least one part of a painting, all on the same canvas and of one family."""
        parts = list(parts)
        arrays = (field.name for field in fields(cls)[3:])
        return replace(parts[0], **{
            name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays})
