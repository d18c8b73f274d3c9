"""Draw batches of strokes: the pictures of ``stroke_gen.draw``, faster."""

from collections.abc import Callable, Iterator
from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from constants import WIDTH
from Renderer.stroke_gen import FAMILIES, Discs, Triangles

SIZE = 2 * WIDTH  # pixels a side of the double grid
PIXELS_AT_ONCE = 2**27  # shapes times pixels that tensor operations hold in memory


def draw_batch(
    strokes: torch.Tensor, family: str = "bezier", compiled: bool = False
) -> torch.Tensor:
    """Return 1 - opacity (n, 128, 128) float32 in [0, 1] of strokes (n, 10), on their device.

    strokes: in [0, 1]; compiled: on a GPU, fuse the search for the last shape into one kernel.
    """
    shapes = FAMILIES[family].place(strokes.detach(), WIDTH)
    if strokes.is_cuda:
        return draw_tensor(shapes, compiled)
    n, count = shapes.opacity.shape
    out = np.empty((n, WIDTH, WIDTH), np.float32)
    table = np.zeros((n, 256), np.float32)
    table[:, 1 : count + 1] = shapes.opacity
    indices = _disc_indices if isinstance(shapes, Discs) else _triangle_indices
    for k, index in enumerate(indices(shapes)):
        cv2.resize(cv2.LUT(index, table[k]), (WIDTH, WIDTH), dst=out[k])
    return torch.from_numpy(np.subtract(1, out, out=out))


def _disc_indices(discs: Discs) -> Iterator[np.ndarray]:
    """Yield for each stroke the number, from 1, of the last disc over each pixel, uint8."""
    places = [field.long().numpy() for field in discs[:-1]]
    index = np.empty((SIZE, SIZE), np.uint8)
    visible = np.ones(places[0].shape, bool)  # unless the next disc is the same
    visible[:, :-1] = np.any([f[:, :-1] != f[:, 1:] for f in places], axis=0)
    for k, numbers in enumerate(map(np.flatnonzero, visible)):
        index.fill(0)
        for i, row, column, radius in zip(
            numbers.tolist(), *(field[k, numbers].tolist() for field in places), strict=True
        ):
            cv2.circle(index, (column, row), radius, i + 1, -1)
        yield index


def _triangle_indices(triangles: Triangles) -> Iterator[np.ndarray]:
    """Yield for each stroke 1 where its triangle is, 0 elsewhere, uint8."""
    columns = np.arange(SIZE, dtype=np.int16)
    spans = (span.numpy().swapaxes(1, 2) for span in triangle_spans(triangles))
    for left, right in zip(*spans, strict=True):  # (SIZE, 1) each
        yield ((columns >= left) & (columns <= right)).view(np.uint8)


@lru_cache
def compiled_last_shape() -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return ``last_shape`` as one kernel without intermediate tensors."""
    return torch.compile(last_shape, dynamic=False)


def draw_tensor(shapes: Discs | Triangles, compiled: bool = False) -> torch.Tensor:
    """Draw by tensor operations: a pixel takes the opacity of the stroke's last shape over it.

    Returns 1 - opacity (n, 128, 128) float32 in [0, 1], on the device of the shapes.
    """
    left, right = (disc_spans if isinstance(shapes, Discs) else triangle_spans)(shapes)
    n, count, _ = left.shape
    search = compiled_last_shape() if compiled else last_shape
    at_once = n if compiled else max(1, PIXELS_AT_ONCE // (count * SIZE**2))
    index = torch.cat(list(map(search, left.split(at_once), right.split(at_once))))
    opacity = F.pad(shapes.opacity.float(), (1, 0))  # index 0: no shape
    canvas = opacity.gather(1, index.flatten(1).long()).view(n, 1, SIZE, SIZE)
    return 1 - F.avg_pool2d(canvas, 2)[:, 0]


def disc_spans(discs: Discs) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first and last column that each disc covers in each row of the double grid.

    Returns two (n, discs, SIZE) int16, the first greater where a disc covers none.
    """
    row, column, radius = (field[..., None] for field in discs[:-1])  # (n, discs, 1)
    rows = torch.arange(SIZE, device=row.device)
    square = radius**2 - (rows - row) ** 2  # (n, discs, SIZE)
    reach = torch.where(square < 0, -1, square.clamp(min=0).sqrt()).short()  # as OpenCV rounds it
    column = column.short()
    return column - reach, column + reach


def triangle_spans(triangles: Triangles) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first and last column that each triangle covers in each row.

    Returns two (n, 1, SIZE) int16, the first greater where a triangle covers none.  Sides meet a
    row at fractions, which are rounded inwards; a level side adds only its two corners.
    """
    row, column = (field[..., None].long() for field in triangles[:-1])  # (n, 3, 1)
    down, across = row.roll(1, 1) - row, column.roll(1, 1) - column
    below = torch.arange(SIZE, device=row.device) - row  # (n, 3, SIZE)
    met = below * (below - down) <= 0
    down = torch.where(down == 0, 1, down)
    first = column - torch.div(-across * below, down, rounding_mode="floor")
    last = column + torch.div(across * below, down, rounding_mode="floor")
    first = torch.where(met, first, SIZE).amin(1, keepdim=True)
    last = torch.where(met, last, -1).amax(1, keepdim=True)
    return first.short(), last.short()


def last_shape(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the number, from 1, of the last shape over each pixel, (n, SIZE, SIZE) int16.

    left, right: (n, shapes, SIZE) int16, the first and last column that a shape covers in a row.
    It is 0 where no shape is.
    """
    _, count, size = left.shape
    columns = torch.arange(size, dtype=torch.int16, device=left.device)
    numbers = torch.arange(1, count + 1, dtype=torch.int16, device=left.device)
    covered = (columns >= left[..., None]) & (columns <= right[..., None])
    return (covered * numbers.view(count, 1, 1)).amax(1)  # (n, SIZE, SIZE)
