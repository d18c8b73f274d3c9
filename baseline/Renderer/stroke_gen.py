"""The stroke contract: what the ten shape numbers of a stroke look like as a picture.

A stroke is ``x0 y0 x1 y1 x2 y2 z0 z2 w0 w2``, each in [0, 1]: a quadratic Bezier curve from
P0 over P1 to P2 along which a disc travels whose radius goes from z0 to z2 and whose opacity
goes from w0 to w2.  x is the row and y the column.  P1 is relative to the box of P0 and P2.
Every picture here holds 1 - opacity: 1 is bare canvas, 0 is opaque paint.

``draw`` is the reference, one disc after the other.  ``draw_batch`` gives the same pictures
for many strokes, by OpenCV for tensors on the CPU and by tensor operations elsewhere.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

WIDTH = 128  # the width of the canvas that networks see
SHAPE_DIM = 10  # the numbers of a stroke that give its shape
DISCS = 100  # discs of a Bezier stroke at WIDTH
PIXELS_AT_ONCE = 2**27  # of discs times pixels that tensor operations hold at a time


class Discs(NamedTuple):
    """The discs of n strokes on the double grid, in drawing order: later ones cover earlier.

    All are (n, discs) and on the device of the strokes.
    """

    row: torch.Tensor  # int64, pixels of the 2 * width grid
    column: torch.Tensor  # int64
    radius: torch.Tensor  # int64, pixels of the same grid
    opacity: torch.Tensor  # float64 in [0, 1]


def bezier_discs(strokes: torch.Tensor, width: int = WIDTH) -> Discs:
    """Place the discs of Bezier strokes: P(t) = (1-t)^2 P0 + 2t(1-t) P1 + t^2 P2.

    strokes: (n, 10) in [0, 1].  At width 128 this is the contract to the last bit: the terms
    are grouped as it groups them, because other groupings truncate to other pixels.  At other
    widths points and radii scale, and discs become more where the grid is finer.
    """
    x0, y0, x1, y1, x2, y2, z0, z2, w0, w2 = strokes.double().unsqueeze(2).unbind(1)
    x1 = x0 + (x2 - x0) * x1  # (n, 1), as all of them
    y1 = y0 + (y2 - y0) * y1
    scale = width / WIDTH
    finer = max(scale, 1)

    def pixel(v: torch.Tensor) -> torch.Tensor:
        return (v * ((2 * WIDTH - 1) * scale) + 0.5).long()

    z0, z2 = (1 + (z * (WIDTH // 2)).long() for z in (z0, z2))  # 1..65
    # A disc of radius r is 2r + 1 pixels wide.  On a tapering stroke the truncation of r to
    # whole pixels takes the 1 back on average; where r is constant nothing does.
    wider = (z0 == z2) * ((scale - 1) / 2)
    count = 1 + int((DISCS - 1) * finer)
    t = torch.arange(count, dtype=torch.float64, device=strokes.device) * (0.01 / finer)
    row, column = (
        ((1 - t) * (1 - t) * pixel(a) + 2 * t * (1 - t) * pixel(b) + t * t * pixel(c)).long()
        for a, b, c in ((x0, x1, x2), (y0, y1, y2))
    )
    radius = ((1 - t) * (z0 * scale + wider) + t * (z2 * scale + wider)).long()
    return Discs(row, column, radius, (1 - t) * w0 + t * w2)


def opaque_bezier_discs(strokes: torch.Tensor, width: int = WIDTH) -> Discs:
    """Bezier strokes that ignore w0 and w2: every disc is opaque."""
    discs = bezier_discs(strokes, width)
    return discs._replace(opacity=torch.ones_like(discs.opacity))


# A family turns (n, 10) strokes and a width into discs.
FAMILIES: dict[str, Callable[[torch.Tensor, int], Discs]] = {
    "bezier": bezier_discs,
    "bezierwotrans": opaque_bezier_discs,
}


def draw(stroke: np.ndarray, width: int = WIDTH, family: str = "bezier") -> np.ndarray:
    """Draw one stroke, the reference: discs of opacity on a double grid, then 2x2 means.

    stroke: (10,) in [0, 1].  Returns (width, width) float32 in [0, 1], 1 - opacity.
    """
    discs = FAMILIES[family](torch.from_numpy(np.asarray(stroke)[None]), width)
    canvas = np.zeros((2 * width, 2 * width), np.float32)
    for row, column, radius, opacity in zip(*(field[0].tolist() for field in discs), strict=True):
        cv2.circle(canvas, (column, row), radius, opacity, -1)
    return 1 - cv2.resize(canvas, (width, width), interpolation=cv2.INTER_LINEAR)


def draw_batch(
    strokes: torch.Tensor, width: int = WIDTH, family: str = "bezier", compiled: bool = False
) -> torch.Tensor:
    """Draw many strokes on the device they are on; the same pictures as ``draw``.

    strokes: (n, 10) in [0, 1]; compiled: on a GPU, fuse the search for the last disc into one
    kernel.  Returns (n, width, width) float32 in [0, 1], 1 - opacity.
    """
    with torch.no_grad():
        discs = FAMILIES[family](strokes, width)
        if strokes.device.type != "cpu":
            return draw_discs_tensor(discs, width, compiled)
    if width <= WIDTH:
        return torch.from_numpy(_draw_discs_indexed(discs, width))
    return torch.from_numpy(np.stack([draw(each, width, family) for each in strokes.numpy()]))


def _draw_discs_indexed(discs: Discs, width: int) -> np.ndarray:
    """Draw the index of each disc in one byte and look the opacities up afterwards."""
    *places, opacity = (field.numpy() for field in discs)
    n, count = opacity.shape
    out = np.empty((n, width, width), np.float32)
    index = np.empty((2 * width, 2 * width), np.uint8)
    table = np.zeros((n, 256), np.float32)
    table[:, 1 : count + 1] = opacity
    visible = np.ones((n, count), bool)  # a disc that equals its successor is not
    visible[:, :-1] = np.any([f[:, :-1] != f[:, 1:] for f in places], axis=0)
    for k in range(n):
        index.fill(0)
        seen = np.flatnonzero(visible[k])
        for i, row, column, radius in zip(
            seen.tolist(), *(field[k, seen].tolist() for field in places), strict=True
        ):
            cv2.circle(index, (column, row), radius, i + 1, -1)
        cv2.resize(cv2.LUT(index, table[k]), (width, width), dst=out[k])
    return np.subtract(1, out, out=out)


@lru_cache
def disc_half_widths(largest: int, device: torch.device) -> torch.Tensor:
    """Half-widths of OpenCV's filled discs, read off OpenCV itself.

    Returns (largest + 1, largest + 2) int16: [r, d] is how far a disc of radius r reaches to
    either side in the row at distance d from its centre; -1 where it does not reach.
    """
    table = np.full((largest + 1, largest + 2), -1, np.int16)
    for radius in range(largest + 1):
        disc = np.zeros((2 * radius + 3, 2 * radius + 3), np.uint8)
        cv2.circle(disc, (radius + 1, radius + 1), radius, 1, -1)
        table[radius, : radius + 1] = disc[radius + 1 : -1, radius + 1 :].sum(1).astype(int) - 1
    return torch.from_numpy(table).to(device)


@lru_cache
def compiled_last_disc() -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """``last_disc`` as one kernel that holds no intermediate."""
    return torch.compile(last_disc, dynamic=False)


def draw_discs_tensor(discs: Discs, width: int, compiled: bool = False) -> torch.Tensor:
    """Draw discs by tensor operations: a pixel takes the opacity of the last disc over it.

    Returns (n, width, width) float32 in [0, 1], 1 - opacity, on the device of the discs.
    """
    size = 2 * width
    n, count = discs.row.shape
    largest = int((WIDTH // 2 + 1.5) * max(1, width / WIDTH))  # radius at any width
    half_widths = disc_half_widths(largest, discs.row.device)
    rows = torch.arange(size, device=discs.row.device)
    distance = (rows - discs.row[..., None]).abs().clamp(max=largest + 1)  # (n, discs, size)
    reach = half_widths[discs.radius[..., None], distance]
    column = discs.column[..., None].short()
    left, right = column - reach, column + reach
    if compiled:
        index = compiled_last_disc()(left, right)
    else:
        index = torch.zeros(n, size, size, dtype=torch.int16, device=rows.device)
        at_once = max(1, PIXELS_AT_ONCE // index.numel())
        for first in range(0, count, at_once):
            part = slice(first, first + at_once)
            later = last_disc(left[:, part], right[:, part])
            index = torch.where(later > 0, later + first, index)
    opacity = F.pad(discs.opacity.float(), (1, 0))  # (n, discs + 1), index 0 is bare
    canvas = opacity.gather(1, index.flatten(1).long()).view(n, 1, size, size)
    return 1 - F.avg_pool2d(canvas, 2)[:, 0]


def last_disc(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The number, from 1, of the last disc over each pixel; 0 where there is none.

    left, right: (n, discs, size) int16, the columns that a disc covers in a row from and to;
    none where left > right.  Returns (n, size, size) int16.
    """
    _, count, size = left.shape
    columns = torch.arange(size, dtype=torch.int16, device=left.device)
    numbers = torch.arange(1, count + 1, dtype=torch.int16, device=left.device)
    covered = (columns >= left[..., None]) & (columns <= right[..., None])
    return (covered * numbers.view(count, 1, 1)).amax(1)  # (n, size, size)
