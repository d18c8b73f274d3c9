"""The gradient of the exact raster's squared error, by the strokes' shapes and colours.

The raster is piecewise constant, so its own gradient is nothing.  Here the gradient is that of
the picture at infinite resolution: where a shape's edge moves by d pixels along its normal, each
pixel of the edge changes by d times the jump of opacity across it.  Edges, jumps and what is
visible are read off the raster itself.
"""

from typing import NamedTuple

import numpy as np
import torch

from Renderer.jit import compiled, parallel_chunksize, prange
from Renderer.raster import STROKES_A_CHUNK, Boxes, place
from Renderer.stroke_gen import Discs, Triangles
from Renderer.strokes import Strokes

LEAST_JUMP = 0.02  # of opacity, for an edge to count
EVERY = 2  # discs looked at for the one that an edge belongs to
FAR = 1e30  # pixels; fast arithmetic knows no infinity


class Gradient(NamedTuple):
    """The canvas, and the gradient of half its summed squared error, by strokes."""

    canvas: np.ndarray  # (height, width, 3) float32 BGR in [0, 1]
    places: np.ndarray  # (n, shapes, 3) by row, column and radius; a triangle's corners: no radius
    opacity: np.ndarray  # (n, shapes)
    colours: np.ndarray  # (n, 3)
    curvature: np.ndarray  # (n,) second derivative by a colour's channel
    worth: np.ndarray  # (n,) what the error would grow by without the stroke


def gradient(
    boxes: Boxes, colours: np.ndarray, target: np.ndarray, below: np.ndarray | None = None
) -> Gradient:
    """Paint strokes and compare the canvas with the target.

    colours: (n, 3) float32 BGR; target: (height, width, 3) float32, both in [0, 1]; below: what
    they are painted on, like the target, or None: black.
    """
    n, shapes = boxes.rows.shape
    start, opacity, cover = boxes.draw()
    canvas = np.zeros_like(target) if below is None else below.copy()
    by_opacity = np.empty_like(opacity)
    by_row = np.zeros((len(target), n, 5), np.float32)
    _compare(canvas, target, boxes.box, start, opacity, colours, by_opacity, by_row)
    sums = by_row.sum(0)
    kinds = boxes.opacity.shape[1] - 1
    places = np.zeros((n, shapes, 3), np.float32)
    by_kind = np.zeros((n, kinds), np.float32)
    with parallel_chunksize(STROKES_A_CHUNK):
        _edges(boxes.rows, boxes.columns, boxes.radii, boxes.opacity, boxes.box, start, cover,
               by_opacity, places, by_kind)
    return Gradient(canvas, places, by_kind, sums[:, :3], sums[:, 3], sums[:, 4])


def backward_to_shapes(placed: Discs | Triangles, found: Gradient) -> None:
    """Backpropagate from where strokes lie to the shape numbers that ``place`` was given."""
    grads = [*torch.from_numpy(found.places).unbind(2)[: len(placed) - 1],
             torch.from_numpy(found.opacity).view_as(placed.opacity)]
    used = [(value, grad.to(value.dtype)) for value, grad in zip(placed, grads, strict=True)
            if value.requires_grad]
    torch.autograd.backward(*zip(*used, strict=True))


def stroke_gradient(
    strokes: Strokes, target: np.ndarray, below: np.ndarray | None = None
) -> tuple[float, torch.Tensor]:
    """Return the mean squared error of a painting and its gradient to the strokes' numbers.

    target: (height, width, 3) float32 BGR in [0, 1]; below: the canvas that they are painted on,
    of the same shape, or None: black.  The gradient is (n, 13): ten shape numbers, then the color.
    """
    shapes = torch.from_numpy(strokes.shapes).requires_grad_()
    placed = place(strokes, shapes)
    found = gradient(Boxes(strokes, placed, margin=1), strokes.colours, target, below)
    backward_to_shapes(placed, found)
    grad = torch.cat((shapes.grad, torch.from_numpy(found.colours)), 1)
    error = float(np.square(found.canvas - target).mean())
    return error, grad * (2 / target.size)


@compiled(parallel=True, fastmath=True)
def _compare(canvas, target, box, start, opacity, colours, by_opacity, by_row):
    """Blend forwards, then go back through the strokes with the error that is left.

    by_opacity (pixels,) and by_row (height, n, 5), gradient by colour, curvature and worth, are
    filled.  A stroke covers ``weight`` of a pixel: its opacity, as far as it is seen through later
    ones.
    """
    n = len(box)
    for y in prange(len(target)):
        total = 0
        for i in range(n):
            if box[i, 0] <= y < box[i, 2]:
                total += box[i, 3] - box[i, 1]
        before = np.empty((total, 3), np.float32)
        row = canvas[y]
        k = 0
        for i in range(n):
            if box[i, 0] <= y < box[i, 2]:
                first, end = box[i, 1], box[i, 3]
                at = start[i] + (y - box[i, 0]) * (end - first) - first
                b, g, r = colours[i]
                for x in range(first, end):
                    a = opacity[at + x]
                    before[k, 0], before[k, 1], before[k, 2] = row[x, 0], row[x, 1], row[x, 2]
                    row[x, 0] += a * (b - row[x, 0])
                    row[x, 1] += a * (g - row[x, 1])
                    row[x, 2] += a * (r - row[x, 2])
                    k += 1
        error = row - target[y]
        through = np.ones(len(row), np.float32)
        for i in range(n - 1, -1, -1):
            if box[i, 0] <= y < box[i, 2]:
                first, end = box[i, 1], box[i, 3]
                at = start[i] + (y - box[i, 0]) * (end - first) - first
                b, g, r = colours[i]
                k -= end - first
                sum_b = sum_g = sum_r = curvature = worth = np.float32(0)
                for x in range(first, end):
                    a = opacity[at + x]
                    d_b = b - before[k + x - first, 0]
                    d_g = g - before[k + x - first, 1]
                    d_r = r - before[k + x - first, 2]
                    slope = through[x] * (
                        error[x, 0] * d_b + error[x, 1] * d_g + error[x, 2] * d_r)
                    by_opacity[at + x] = slope
                    weight = through[x] * a
                    sum_b += weight * error[x, 0]
                    sum_g += weight * error[x, 1]
                    sum_r += weight * error[x, 2]
                    curvature += weight * weight
                    worth += (weight * weight * (d_b * d_b + d_g * d_g + d_r * d_r) / 2
                              - a * slope)
                    through[x] *= 1 - a
                by_row[y, i, 0], by_row[y, i, 1], by_row[y, i, 2] = sum_b, sum_g, sum_r
                by_row[y, i, 3], by_row[y, i, 4] = curvature, worth


@compiled(parallel=True, fastmath=True)
def _edges(rows, columns, radii, opacities, box, start, cover, by_opacity, places, by_kind):
    """Gather the gradient by opacity over each shape's pixels, and by place along its edges.

    Between two neighbours on the double grid that different shapes cover runs an edge of the later
    shape.  Crossings along rows and along columns are weighted by the normal's share, so that
    together they measure the edge's length.
    """
    quarter = np.float32(0.25)
    for i in prange(len(box)):
        top, left = 2 * box[i, 0], 2 * box[i, 1]
        height, width = 2 * box[i, 2] - top, 2 * box[i, 3] - left
        own = cover[4 * start[i] : 4 * start[i] + height * width].reshape((height, width))
        slope = by_opacity[start[i] : start[i] + height * width // 4].reshape(
            (height // 2, width // 2))
        for y in range(height):
            down = min(y + 1, height - 1)
            for x in range(width):
                right = min(x + 1, width - 1)
                a, b, c = own[y, x], own[y, right], own[down, x]
                if a:
                    by_kind[i, a - 1] += slope[y // 2, x // 2] * quarter
                if a != b and abs(opacities[i, a] - opacities[i, b]) > LEAST_JUMP:
                    _edge(rows[i], columns[i], radii[i], max(a, b) - 1, y + top,
                          x + left + (b > a), y + top, x + left + 0.5,
                          (slope[y // 2, x // 2] + slope[y // 2, right // 2])
                          * (opacities[i, max(a, b)] - opacities[i, min(a, b)]) / 8, places[i])
                if a != c and abs(opacities[i, a] - opacities[i, c]) > LEAST_JUMP:
                    _edge(rows[i], columns[i], radii[i], max(a, c) - 1, y + top + (c > a),
                          x + left, y + top + 0.5, x + left,
                          (slope[y // 2, x // 2] + slope[down // 2, x // 2])
                          * (opacities[i, max(a, c)] - opacities[i, min(a, c)]) / 8, places[i])


@compiled(fastmath=True)
def _edge(rows, columns, radii, k, pixel_row, pixel_column, row, column, value, places):
    """Pass on the gradient ``value`` of a crossing.

    k: the shape that covers the pixel on the inner side of it; row, column: of the crossing.
    """
    down = row != pixel_row
    if not len(radii):
        _side_edge(row, column, rows, columns, down, value, places)
        return
    # Along a side of a stroke many discs cover the pixel, k the last of them.  The edge is that of
    # the one in which the pixel lies deepest, some discs before.
    deepest, j = FAR, k
    while j >= 0:
        square = (pixel_row - rows[j]) ** 2 + (pixel_column - columns[j]) ** 2
        if square > radii[j] * (radii[j] + 1):
            break
        distance = np.sqrt(np.float32(square)) - radii[j]
        if distance < deepest:
            k, deepest = j, distance
        j -= EVERY
    _disc_edge(row - rows[k], column - columns[k], down, value, places[k])


@compiled(fastmath=True)
def _disc_edge(down_by, right_by, down, value, place):
    """An edge of a disc at that distance from its centre: move with it, or with the radius."""
    length = np.hypot(down_by, right_by) + 1e-3
    normal_row, normal_column = down_by / length, right_by / length
    value *= abs(normal_row) if down else abs(normal_column)
    place[0] += value * normal_row
    place[1] += value * normal_column
    place[2] += value


@compiled(fastmath=True)
def _side_edge(row, column, rows, columns, down, value, place):
    """An edge of a triangle: it moves with the two corners of the nearest side."""
    nearest, best = 0, FAR
    for k in range(3):
        side_row, side_column = rows[k] - rows[k - 1], columns[k] - columns[k - 1]
        length = np.hypot(side_row, side_column) + 1e-3
        distance = abs(side_column * (row - rows[k]) - side_row * (column - columns[k])) / length
        if distance < best:
            nearest, best = k, distance
    k, other = nearest, nearest - 1
    third = 3 - k - (other % 3)
    side_row, side_column = rows[k] - rows[other], columns[k] - columns[other]
    length = np.hypot(side_row, side_column) + 1e-3
    normal_row, normal_column = side_column / length, -side_row / length
    if ((rows[third] - rows[k]) * normal_row + (columns[third] - columns[k]) * normal_column) > 0:
        normal_row, normal_column = -normal_row, -normal_column  # outwards
    share = ((row - rows[other]) * side_row + (column - columns[other]) * side_column) / length**2
    share = min(1.0, max(0.0, share))
    value *= abs(normal_row) if down else abs(normal_column)
    place[k, 0] += value * share * normal_row
    place[k, 1] += value * share * normal_column
    place[other, 0] += value * (1 - share) * normal_row
    place[other, 1] += value * (1 - share) * normal_column
