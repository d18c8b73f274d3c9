"""The stroke contract: the picture of a stroke by its ten shape numbers.

A stroke is ``x0 y0 x1 y1 x2 y2 z0 z2 w0 w2``, each in [0, 1]: points P0, P1 and P2 (x is the row
and y the column), radii z and opacities w.  Its family gives them a meaning:

- bezier: a quadratic Bezier curve from P0 over P1 to P2 along which a disc travels whose radius
  goes from z0 to z2 and whose opacity goes from w0 to w2.  P1 is relative to the box of P0 and P2.
- bezierwotrans: the same without transparency; w0 and w2 are ignored.
- triangle: corners P0, P1 and P2 and opacity w0; the other numbers are ignored.
- round: one disc around P0, of radius z0 and opacity w0; the other numbers are ignored.

Shapes are placed on a double grid of 2 W x 2 W pixels for a picture of width W, and the picture
is its 2x2 means.  Every picture holds 1 - opacity: 1 is bare canvas, 0 is opaque paint.

``draw`` is the reference; ``stroke_batch`` draws the same pictures for many strokes at a time.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch

from constants import WIDTH

SHAPE_DIM = 10  # shape numbers of a stroke
DISCS = 100  # discs of a Bezier stroke at WIDTH


class Discs(NamedTuple):
    """The discs of n strokes on the double grid, in drawing order: later ones cover earlier.

    All are (n, discs) and on the device of the strokes.  A disc covers what ``cv2.circle`` fills.
    """

    row: torch.Tensor  # float64, whole pixels of the double grid
    column: torch.Tensor
    radius: torch.Tensor
    opacity: torch.Tensor  # float64 in [0, 1]


class Triangles(NamedTuple):
    """The triangles of n strokes on the double grid, on the device of the strokes.

    A triangle is closed: it covers the pixels in the bounding box of its corners for which the
    cross products of its three sides with the vector to the pixel are all >= 0 or all <= 0.  A
    triangle without area covers the pixels that lie exactly on its sides.
    """

    rows: torch.Tensor  # (n, 3) float64, of the corners, whole pixels of the double grid
    columns: torch.Tensor  # (n, 3)
    opacity: torch.Tensor  # (n, 1) float64 in [0, 1]


def truncate(value: torch.Tensor) -> torch.Tensor:
    """Truncate; gradients pass straight through (Bengio et al., 2013)."""
    return value + (value.trunc() - value).detach()


def to_pixel(coordinate: torch.Tensor, width: float) -> torch.Tensor:
    """Return coordinates in [0, 1] in pixels of the double grid: 0..255 at WIDTH."""
    return truncate(coordinate * ((2 * WIDTH - 1) * (width / WIDTH)) + 0.5)


def to_radius(z: torch.Tensor) -> torch.Tensor:
    """Return radii in [0, 1] in pixels of the double grid at WIDTH: 1..65."""
    return 1 + truncate(z * (WIDTH // 2))


def bezier_discs(strokes: torch.Tensor, width: float = WIDTH) -> Discs:
    """Place the discs of Bezier strokes: P(t) = (1-t)^2 P0 + 2t(1-t) P1 + t^2 P2.

    strokes: (n, 10) in [0, 1].  At width 128 this is the contract to the last bit: terms
    grouped in another way truncate to other pixels.  At other widths points and radii scale, and
    wider pictures have more discs.
    """
    x0, y0, x1, y1, x2, y2, z0, z2, w0, w2 = strokes.double().unsqueeze(2).unbind(1)
    x1 = x0 + (x2 - x0) * x1  # (n, 1), as all of them
    y1 = y0 + (y2 - y0) * y1
    scale = width / WIDTH
    density = max(scale, 1)
    z0, z2 = to_radius(z0), to_radius(z2)
    # A disc of radius r is 2r + 1 pixels wide.  Truncating the radii of a tapering stroke takes
    # the 1 back on average; a constant radius has to be corrected.
    correction = (z0 == z2) * ((scale - 1) / 2)
    count = 1 + int((DISCS - 1) * density)
    t = torch.arange(count, dtype=torch.float64, device=strokes.device) * (0.01 / density)
    row, column = (
        truncate((1 - t) * (1 - t) * to_pixel(a, width) + 2 * t * (1 - t) * to_pixel(b, width)
                 + t * t * to_pixel(c, width))
        for a, b, c in ((x0, x1, x2), (y0, y1, y2))
    )
    radius = truncate((1 - t) * (z0 * scale + correction) + t * (z2 * scale + correction))
    return Discs(row, column, radius, (1 - t) * w0 + t * w2)


def opaque_bezier_discs(strokes: torch.Tensor, width: float = WIDTH) -> Discs:
    """Place the discs of Bezier strokes, all opaque: w0 and w2 are ignored."""
    discs = bezier_discs(strokes, width)
    return discs._replace(opacity=torch.ones_like(discs.opacity))


def corner_places(strokes: torch.Tensor) -> torch.Tensor:
    """Return the corners of triangles (n, 6) float64; those in the border pixels lie on the border.

    Unlike discs, triangles do not reach beyond their corners.  Left where they are, corners in the
    first or last pixel at WIDTH would show bare canvas along the border of wider pictures.
    """
    places = strokes[:, :6].double()
    pixels = to_pixel(places, WIDTH)
    at_border = (pixels == 0) | (pixels == 2 * WIDTH - 1)
    return torch.where(at_border, pixels / (2 * WIDTH - 1), places)


def triangles(strokes: torch.Tensor, width: float = WIDTH) -> Triangles:
    """Place triangles with corners P0, P1 and P2 and opacity w0.

    0 and 1 are the first and the last pixel at any width.
    """
    pixels = truncate(corner_places(strokes) * (2 * width - 1) + 0.5)
    return Triangles(pixels[:, 0::2], pixels[:, 1::2], strokes[:, 8:9].double())


def round_discs(strokes: torch.Tensor, width: float = WIDTH) -> Discs:
    """Place one disc a stroke: the first of a Bezier stroke with constant radius z0."""
    x0, y0, z0, w0 = strokes.double()[:, (0, 1, 6, 8), None].unbind(1)  # (n, 1) each
    scale = width / WIDTH
    radius = truncate(to_radius(z0) * scale + (scale - 1) / 2)
    return Discs(to_pixel(x0, width), to_pixel(y0, width), radius, w0)


class Family(NamedTuple):
    """The shape numbers that a family of strokes reads, and the shapes that it places."""

    points: int  # P0 alone, or all three
    relative: bool  # whether P1 is relative to the box of P0 and P2
    radii: int  # none, z0 alone, or both
    opacities: int  # none (opaque), w0 alone, or both
    # Maps strokes (n, 10) and the width of their picture in pixels to shapes on its double grid.
    place: Callable[[torch.Tensor, float], Discs | Triangles]


FAMILIES = {
    "bezier": Family(3, True, 2, 2, bezier_discs),
    "bezierwotrans": Family(3, True, 2, 0, opaque_bezier_discs),
    "triangle": Family(3, False, 0, 1, triangles),
    "round": Family(1, False, 1, 1, round_discs),
}


def draw(stroke: np.ndarray, width: int = WIDTH, family: str = "bezier") -> np.ndarray:
    """Return 1 - opacity (width, width) float32 in [0, 1] of one stroke (10,) in [0, 1]."""
    shapes = FAMILIES[family].place(torch.from_numpy(np.asarray(stroke)[None]), width)
    canvas = np.zeros((2 * width, 2 * width), np.float32)
    if isinstance(shapes, Triangles):
        rows, columns = (field[0].long().numpy() for field in shapes[:-1])
        _fill_triangle(canvas, rows, columns, shapes.opacity.item())
    else:
        places = (field[0].long().tolist() for field in shapes[:-1])
        for row, column, radius, opacity in zip(*places, shapes.opacity[0].tolist(), strict=True):
            cv2.circle(canvas, (column, row), radius, opacity, -1)
    return 1 - cv2.resize(canvas, (width, width), interpolation=cv2.INTER_LINEAR)


def _fill_triangle(
    canvas: np.ndarray, rows: np.ndarray, columns: np.ndarray, opacity: float
) -> None:
    """Set the pixels that a triangle covers; rows, columns: (3,), of its corners."""
    box = tuple(slice(v.min(), min(v.max() + 1, len(canvas))) for v in (rows, columns))
    row, column = np.ogrid[box]
    cross = [
        (columns[i] - columns[i - 1]) * (row - rows[i])
        - (rows[i] - rows[i - 1]) * (column - columns[i])
        for i in range(3)
    ]
    inside = np.all([c >= 0 for c in cross], 0) | np.all([c <= 0 for c in cross], 0)
    canvas[box][inside] = opacity
