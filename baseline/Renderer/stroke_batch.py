"""Many strokes at a time: the pictures of ``stroke_gen.draw``, faster.

The CPU fills one stroke after the other; tensor operations, on any device, do all at a time.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from constants import WIDTH
from Renderer.stroke_gen import FAMILIES, Discs, Triangles, draw

PIXELS_AT_ONCE = 2**27  # of shapes times pixels that tensor operations hold at a time


def draw_batch(
    strokes: torch.Tensor, width: int = WIDTH, family: str = "bezier", compiled: bool = False
) -> torch.Tensor:
    """Draw many strokes on the device they are on; the same pictures as ``draw``.

    strokes: (n, 10) in [0, 1]; compiled: on a GPU, fuse the search for the last shape into one
    kernel.  Returns (n, width, width) float32 in [0, 1], 1 - opacity.
    """
    strokes = strokes.detach()
    if strokes.device.type == "cpu" and width > WIDTH:
        return torch.from_numpy(np.stack([draw(each, width, family) for each in strokes.numpy()]))
    shapes = FAMILIES[family].place(strokes, width)
    if strokes.device.type == "cpu":
        return torch.from_numpy(_draw_indexed(shapes, width))
    return draw_tensor(shapes, width, compiled)


def _draw_indexed(shapes: Discs | Triangles, width: int) -> np.ndarray:
    """Draw the index of each shape in one byte and look the opacities up afterwards."""
    n = len(shapes.opacity)
    opacity = shapes.opacity.numpy().reshape(n, -1)  # (n, shapes)
    out = np.empty((n, width, width), np.float32)
    table = np.zeros((n, 256), np.float32)
    table[:, 1 : opacity.shape[1] + 1] = opacity
    indices = _disc_indices if isinstance(shapes, Discs) else _triangle_indices
    for k, index in enumerate(indices(shapes, 2 * width)):
        cv2.resize(cv2.LUT(index, table[k]), (width, width), dst=out[k])
    return np.subtract(1, out, out=out)


def _disc_indices(discs: Discs, size: int) -> Iterator[np.ndarray]:
    """For each stroke the number, from 1, of the last disc over each pixel: (size, size) uint8."""
    places = [field.long().numpy() for field in discs[:-1]]
    index = np.empty((size, size), np.uint8)
    visible = np.ones(places[0].shape, bool)  # a disc that equals its successor is not
    visible[:, :-1] = np.any([f[:, :-1] != f[:, 1:] for f in places], axis=0)
    for k, seen in enumerate(map(np.flatnonzero, visible)):
        index.fill(0)
        for i, row, column, radius in zip(
            seen.tolist(), *(field[k, seen].tolist() for field in places), strict=True
        ):
            cv2.circle(index, (column, row), radius, i + 1, -1)
        yield index


def _triangle_indices(triangles: Triangles, size: int) -> Iterator[np.ndarray]:
    """For each stroke 1 where its triangle is, 0 elsewhere: (size, size) uint8."""
    columns = np.arange(size, dtype=np.int16)
    spans = (span.numpy().swapaxes(1, 2) for span in triangle_spans(triangles, size))
    for left, right in zip(*spans, strict=True):  # (size, 1) each
        yield ((columns >= left) & (columns <= right)).view(np.uint8)


@lru_cache(maxsize=4)
def half_widths(largest: int) -> np.ndarray:
    """Half-widths of OpenCV's filled discs, by the midpoint circle that it fills.

    Returns (largest + 1, largest + 2) int16: [r, d] is how far a disc of radius r reaches to
    either side in the row at distance d from its centre; -1 where it does not reach.
    """
    table = np.full((largest + 1, largest + 2), -1, np.int16)
    x = np.arange(largest + 1)
    outside = np.zeros_like(x)  # how far the octant's point is outside of the circle, squared
    for y in range(largest + 1):
        r = np.flatnonzero(x >= y)
        table[r, y] = np.maximum(table[r, y], x[r])
        table[r, x[r]] = np.maximum(table[r, x[r]], y)
        outside += 2 * y + 1
        steps = outside > 0
        outside -= np.where(steps, 2 * x - 1, 0)
        x = x - steps
    return table


@lru_cache
def disc_half_widths(largest: int, device: torch.device) -> torch.Tensor:
    """``half_widths`` on a device."""
    return torch.from_numpy(half_widths(largest)).to(device)


@lru_cache
def compiled_last_shape() -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """``last_shape`` as one kernel that holds no intermediate."""
    return torch.compile(last_shape, dynamic=False)


def draw_tensor(
    shapes: Discs | Triangles, width: int, compiled: bool = False
) -> torch.Tensor:
    """Draw by tensor operations: a pixel takes the opacity of the stroke's last shape over it.

    Returns (n, width, width) float32 in [0, 1], 1 - opacity, on the device of the shapes.
    """
    size = 2 * width
    spans = disc_spans if isinstance(shapes, Discs) else triangle_spans
    left, right = spans(shapes, size)
    n, count, _ = left.shape
    if compiled:
        index = compiled_last_shape()(left, right)
    else:
        index = torch.zeros(n, size, size, dtype=torch.int16, device=left.device)
        at_once = max(1, PIXELS_AT_ONCE // index.numel())
        for first in range(0, count, at_once):
            part = slice(first, first + at_once)
            later = last_shape(left[:, part], right[:, part])
            index = torch.where(later > 0, later + first, index)
    opacity = F.pad(shapes.opacity.float().view(n, count), (1, 0))  # index 0 is bare
    canvas = opacity.gather(1, index.flatten(1).long()).view(n, 1, size, size)
    return 1 - F.avg_pool2d(canvas, 2)[:, 0]


def disc_spans(discs: Discs, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The columns that each disc covers in each of ``size`` rows, from and to.

    Returns two (n, discs, size) int16, the first greater where there are none.
    """
    largest = int((WIDTH // 2 + 1.5) * max(1, size / 2 / WIDTH))  # radius at any width
    row, column, radius = (field[..., None].long() for field in discs[:-1])
    half_widths = disc_half_widths(largest, row.device)
    rows = torch.arange(size, device=row.device)
    distance = (rows - row).abs().clamp(max=largest + 1)  # (n, discs, size)
    reach = half_widths[radius, distance]
    column = column.short()
    return column - reach, column + reach


def triangle_spans(triangles: Triangles, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The columns that each triangle covers in each of ``size`` rows, from and to.

    Returns two (n, 1, size) int16, the first greater where there are none.  Sides meet a row
    at fractions, which are rounded inwards; a level side adds nothing to its two corners.
    """
    row, column = (field[..., None].long() for field in triangles[:-1])  # (n, 3, 1)
    down, across = row.roll(1, 1) - row, column.roll(1, 1) - column
    below = torch.arange(size, device=row.device) - row  # (n, 3, size)
    met = below * (below - down) <= 0
    down = torch.where(down == 0, 1, down)
    first = column - torch.div(-across * below, down, rounding_mode="floor")
    last = column + torch.div(across * below, down, rounding_mode="floor")
    first = torch.where(met, first, size).amin(1, keepdim=True)
    last = torch.where(met, last, -1).amax(1, keepdim=True)
    return first.short(), last.short()


def last_shape(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The number, from 1, of the last shape over each pixel; 0 where there is none.

    left, right: (n, shapes, size) int16, the columns that a shape covers in a row from and to;
    none where left > right.  Returns (n, size, size) int16.
    """
    _, count, size = left.shape
    columns = torch.arange(size, dtype=torch.int16, device=left.device)
    numbers = torch.arange(1, count + 1, dtype=torch.int16, device=left.device)
    covered = (columns >= left[..., None]) & (columns <= right[..., None])
    return (covered * numbers.view(count, 1, 1)).amax(1)  # (n, size, size)
