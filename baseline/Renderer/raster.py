"""The exact rasterizer of whole paintings: strokes on any tile, on a canvas of any size.

Each stroke is drawn in the box that it covers, as ``stroke_gen.draw`` draws it, and blended onto
the canvas.  Inside a tile of 128 pixels the painting equals that of ``draw`` and ``composite``.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from types import ModuleType

import cv2
import numpy as np
import torch

from Renderer.jit import start_numba
from Renderer.stroke_gen import FAMILIES, Discs, Triangles
from Renderer.strokes import Strokes

LARGEST_CANVAS, ALWAYS_FINE = 2**28, 2**22  # pixels
STRETCH = 16  # times a picture's pixels that its canvas may have, squashed as it may be
PIXELS_AT_ONCE = 2**24  # of boxes that are drawn before they are blended
STROKES_AT_ONCE = 256
STROKES_A_CHUNK = 4  # of a thread's work: early strokes are larger than late ones
REPORT_INTERVAL = 64  # strokes


@cache
def load_kernels() -> ModuleType:
    """Import the kernels, which numba compiles at their first calls."""
    start_numba()
    from Renderer import kernels

    return kernels


def place(strokes: Strokes, shapes: torch.Tensor, scale: float = 1.0) -> Discs | Triangles:
    """Return where strokes lie, each on the double grid of its tile.

    shapes: (n, 10), the strokes' shape numbers, through which gradients flow.  Strokes on small
    tiles repeat their last disc until they have as many as the others.
    """
    family = FAMILIES[strokes.family]
    widths, which = np.unique(strokes.tiles[:, 2], return_inverse=True)
    groups = [np.flatnonzero(which == k) for k in range(len(widths))]
    placed = [family.place(shapes[group], scale * width)
              for group, width in zip(groups, widths.tolist(), strict=True)]
    if len(placed) == 1:
        return placed[0]
    order = torch.from_numpy(np.concatenate(groups).argsort())

    def in_order(*fields: torch.Tensor) -> torch.Tensor:
        most = fields[-1].shape[1]  # on the largest tiles
        return torch.cat([torch.cat((field, field[:, -1:].expand(-1, most - field.shape[1])), 1)
                          for field in fields])[order]

    return type(placed[0])(*map(in_order, *placed))


class Boxes:
    """Placed strokes, each with the box of pixels that it covers, as the kernels take them."""

    def __init__(
        self, strokes: Strokes, shapes: Discs | Triangles, scale: float = 1.0, margin: int = 0
    ) -> None:
        """Take ``shapes`` from ``place``; leave ``margin`` pixels around each in its clip."""
        corner = np.rint(2 * scale * strokes.tiles[:, :2]).astype(np.int32)
        *places, opacity = (field.detach().numpy() for field in shapes)
        self.rows = places[0].astype(np.int32) + corner[:, :1]  # (n, k), on the double grid
        self.columns = places[1].astype(np.int32) + corner[:, 1:]
        self.radii = np.zeros((len(strokes), 0), np.int32)  # none: a triangle
        reach = 0
        if isinstance(shapes, Discs):
            self.radii = reach = places[2].astype(np.int32)
        # (n, shapes + 1), 0 is bare
        self.opacity = np.pad(opacity.astype(np.float32), ((0, 0), (1, 0)))
        low = np.stack([(v - reach).min(1) for v in (self.rows, self.columns)], 1) // 2 - margin
        high = np.stack([(v + reach).max(1) for v in (self.rows, self.columns)], 1) // 2 + margin
        clip = np.rint(scale * strokes.clips).astype(np.int64)
        self.box = np.hstack((  # (n, 4) top, left, bottom, right, pixels
            np.clip(low, clip[:, :2], clip[:, 2:]), np.clip(high + 1, clip[:, :2], clip[:, 2:])))
        self.areas = (self.box[:, 2:] - self.box[:, :2]).prod(1)

    def draw(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw all strokes.

        Returns where each one's pixels start (n,), the opacity (pixels,) of all of them one
        after the other, row by row, and the number of the shape, from 1, that covers each pixel
        of the double grid (4 pixels,), 0 for bare.
        """
        ends = self.areas.cumsum()
        start, pixels = ends - self.areas, ends[-1]
        cover = np.zeros(4 * pixels, np.int16)
        opacity = np.empty(pixels, np.float32)
        kernels = load_kernels()
        with kernels.parallel_chunksize(STROKES_A_CHUNK):
            kernels.draw(self.rows, self.columns, self.radii, self.opacity, self.box, start, cover,
                         opacity)
        return start, opacity, cover


def paint_exact(strokes: Strokes, canvas: np.ndarray, scale: float = 1.0) -> None:
    """Paint strokes, in place, on a canvas that is ``scale`` times theirs.

    canvas: (scale height, scale width, 3), rounded, float32 BGR in [0, 1].
    """
    first, fits = 0, STROKES_AT_ONCE
    while first < len(strokes):
        few = strokes[first : first + fits]
        boxes = Boxes(few, place(few, torch.from_numpy(few.shapes), scale), scale)
        fits = max(1, int(np.searchsorted(boxes.areas.cumsum(), PIXELS_AT_ONCE, "right")))
        if fits < len(few):
            continue  # with fewer
        start, opacity, _ = boxes.draw()
        load_kernels().blend(canvas, boxes.box, start, opacity, few.colors)
        first, fits = first + len(few), min(2 * fits, STROKES_AT_ONCE)


def paint_frames(
    strokes: Strokes, height: int, width: int, ends: Iterable[int],
    report: Callable[[int], object] = lambda painted: None,
) -> Iterator[np.ndarray]:
    """Paint, and yield the picture (height, width, 3) uint8 BGR after each of ``ends`` strokes.

    Pictures smaller than the strokes' canvas are reduced from that.  Long ones that would need a
    canvas out of proportion are enlarged.  report: called with the number of strokes painted
    since its last call.
    """
    pixels = min(LARGEST_CANVAS, max(ALWAYS_FINE, STRETCH * height * width))
    largest = math.sqrt(pixels / (strokes.height * strokes.width))
    scale = max(1, min(largest, max(height / strokes.height, width / strokes.width)))
    rows, columns = (round(side * scale) for side in (strokes.height, strokes.width))
    canvas = np.zeros((rows, columns, 3), np.float32)
    first = 0
    for end in ends:
        for part in range(first, end, REPORT_INTERVAL):
            few = strokes[part : min(part + REPORT_INTERVAL, end)]
            paint_exact(few, canvas, scale)
            report(len(few))
        first = end
        picture = canvas
        if (rows, columns) != (height, width):
            picture = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
        yield cv2.convertScaleAbs(picture, alpha=255)
