"""Draw a painting's strokes at any size, frame by frame, for the writers."""

from collections.abc import Callable

import numpy as np

from constants import LONGEST_SIDE
from painting.frames import Writer
from Renderer.raster import paint_frames
from Renderer.strokes import Strokes
from utils.command import UserError

LEAST_SIDE = 512  # pixels, of a painting whose size nobody chose
MOST_ENLARGED = 4096  # pixels, of the longer side of a painting that is larger than its photo


def size_of(height: int, width: int, longest: int | None) -> tuple[int, int]:
    """Return the height and width that a picture of this size is painted in.

    longest: pixels of its longer side, or None: as it is, enlarged to LEAST_SIDE a side.
    Raises UserError where it is larger than LONGEST_SIDE.
    """
    scale = longest / max(height, width) if longest else max(
        1, min(LEAST_SIDE / min(height, width), MOST_ENLARGED / max(height, width)))
    height, width = (max(1, round(side * scale)) for side in (height, width))
    if max(height, width) > LONGEST_SIDE:
        raise UserError(f"{width}x{height} is too large; --size takes {LONGEST_SIDE} at most")
    return height, width


def draw_frames(
    strokes: Strokes, counts: list[int], size: tuple[int, int], writers: list[Writer], total: int,
    report: Callable[[int], object] = lambda drawn: None,
) -> np.ndarray:
    """Draw strokes by the exact rasterizer, hand frames to their writers, return the last one.

    counts: the strokes of each frame; size: height and width of the frames; total: the frames of
    the whole painting, of which the last one is written where the strokes end early; report: see
    ``paint_frames``.  Returns (height, width, 3) uint8 BGR.
    """
    ends = np.cumsum(counts)
    wanted = [np.flatnonzero(writer.times) for writer in writers]
    wanted = np.unique(np.concatenate([*wanted, [total - 1]]).clip(max=len(ends) - 1))
    for number, frame in zip(
            wanted.tolist(), paint_frames(strokes, *size, ends[wanted].tolist(), report),
            strict=True):
        for writer in writers:
            writer.write(number, frame)
    if number < total - 1:
        for writer in writers:
            writer.write(total - 1, frame)
    return frame
