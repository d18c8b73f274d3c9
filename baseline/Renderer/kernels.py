"""The kernels of the exact rasterizer and of its gradient, as numba compiles them.

``raster.load_kernels`` imports this module, which imports numba.
"""

import numpy as np
from numba import parallel_chunksize, prange

from Renderer.jit import compiled

__all__ = ["blend", "compare", "draw", "edges", "parallel_chunksize"]
LEAST_JUMP = 0.02  # of opacity, for an edge to count
DISC_STRIDE = 2  # of the search for the disc that an edge belongs to
FAR = 1e30  # pixels; fast arithmetic knows no infinity


@compiled(parallel=True)
def draw(rows, columns, radii, opacities, box, start, cover, opacity):
    """Fill ``cover`` and ``opacity``; see ``Boxes.draw``."""
    for i in prange(len(rows)):
        top, left = 2 * box[i, 0], 2 * box[i, 1]
        height, width = 2 * box[i, 2] - top, 2 * box[i, 3] - left
        own = cover[4 * start[i] : 4 * start[i] + height * width]
        if radii.shape[1]:
            _fill_discs(rows[i], columns[i], radii[i], top, left, height, width, own)
        else:
            _fill_triangle(rows[i], columns[i], top, left, height, width, own)
        for y in range(height // 2):
            for x in range(width // 2):
                at = 2 * y * width + 2 * x
                total = opacities[i, own[at]] + opacities[i, own[at + 1]]
                at += width
                total += opacities[i, own[at]] + opacities[i, own[at + 1]]
                opacity[start[i] + y * (width // 2) + x] = total / 4


@compiled()
def _reach(radius, away):
    """Return how far OpenCV's disc reaches to either side in a row away from its center."""
    return int(np.sqrt(radius * radius - away * away))


@compiled()
def _fill_discs(rows, columns, radii, top, left, height, width, cover):
    """Fill what the next disc does not cover of each disc, as that one fills its part."""
    last = len(rows) - 1
    for k in range(last + 1):
        row, column, radius = rows[k] - top, columns[k] - left, radii[k]
        if (k < last and radius == radii[k + 1] and row == rows[k + 1] - top
                and column == columns[k + 1] - left):
            continue
        for y in range(max(0, row - radius), min(height, row + radius + 1)):
            reach = _reach(radius, y - row)
            first, end = max(0, column - reach), min(width, column + reach + 1)
            covered_from = covered_to = end
            if k < last:
                away = y + top - rows[k + 1]
                if abs(away) <= radii[k + 1]:
                    reach = _reach(radii[k + 1], away)
                    covered_from = min(end, columns[k + 1] - left - reach)
                    covered_to = columns[k + 1] - left + reach + 1
            for x in range(first, covered_from):
                cover[y * width + x] = k + 1
            for x in range(max(first, covered_to), end):
                cover[y * width + x] = k + 1


@compiled()
def _fill_triangle(rows, columns, top, left, height, width, cover):
    """Fill the pixels of a closed triangle with these corners."""
    for y in range(max(0, min(rows) - top), min(height, max(rows) - top + 1)):
        for x in range(max(0, min(columns) - left), min(width, max(columns) - left + 1)):
            low, high = 0, 0
            for k in range(3):
                row, column = rows[k], columns[k]
                cross = ((columns[k - 1] - column) * (y + top - row)
                         - (rows[k - 1] - row) * (x + left - column))
                low, high = min(low, cross), max(high, cross)
            if low == 0 or high == 0:
                cover[y * width + x] = 1


@compiled(parallel=True)
def blend(canvas, box, start, opacity, colors):
    """Blend strokes in order, rows in parallel: canvas <- (1 - a) canvas + a color."""
    for y in prange(len(canvas)):
        for i in range(len(box)):
            if box[i, 0] <= y < box[i, 2]:
                first, end = box[i, 1], box[i, 3]
                at = start[i] + (y - box[i, 0]) * (end - first)
                for x in range(first, end):
                    a = opacity[at + x - first]
                    for c in range(3):
                        canvas[y, x, c] += a * (colors[i, c] - canvas[y, x, c])


@compiled(parallel=True, fastmath=True)
def compare(canvas, target, box, start, opacity, colors, by_opacity, by_row):
    """Blend strokes in order, then go back through them with the error of the finished canvas.

    Fill by_opacity (pixels,) and by_row (height, n, 5): color gradient, coverage, contribution.
    A stroke covers ``weight`` of a pixel: its opacity times the transparency of later strokes.
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
                b, g, r = colors[i]
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
                b, g, r = colors[i]
                k -= end - first
                sum_b = sum_g = sum_r = coverage = contribution = np.float32(0)
                for x in range(first, end):
                    a = opacity[at + x]
                    d_b = b - before[k + x - first, 0]
                    d_g = g - before[k + x - first, 1]
                    d_r = r - before[k + x - first, 2]
                    grad = through[x] * (
                        error[x, 0] * d_b + error[x, 1] * d_g + error[x, 2] * d_r)
                    by_opacity[at + x] = grad
                    weight = through[x] * a
                    sum_b += weight * error[x, 0]
                    sum_g += weight * error[x, 1]
                    sum_r += weight * error[x, 2]
                    coverage += weight
                    contribution += (weight * weight * (d_b * d_b + d_g * d_g + d_r * d_r) / 2
                                     - a * grad)
                    through[x] *= 1 - a
                by_row[y, i, 0], by_row[y, i, 1], by_row[y, i, 2] = sum_b, sum_g, sum_r
                by_row[y, i, 3], by_row[y, i, 4] = coverage, contribution


@compiled(parallel=True, fastmath=True)
def edges(rows, columns, radii, opacities, box, start, cover, by_opacity, places, by_kind):
    """Gather the gradient to opacities over each shape's pixels, to places along its edges.

    An edge of the later shape runs between two neighbors on the double grid that different shapes
    cover.  Crossings along rows and along columns are weighted by the normal's component, so that
    together they measure the edge's length.
    """
    quarter = np.float32(0.25)
    for i in prange(len(box)):
        top, left = 2 * box[i, 0], 2 * box[i, 1]
        height, width = 2 * box[i, 2] - top, 2 * box[i, 3] - left
        shape = cover[4 * start[i] : 4 * start[i] + height * width].reshape((height, width))
        grad = by_opacity[start[i] : start[i] + height * width // 4].reshape(
            (height // 2, width // 2))
        for y in range(height):
            for x in range(width):
                a = shape[y, x]
                if a:
                    by_kind[i, a - 1] += grad[y // 2, x // 2] * quarter
                for down in range(2):  # the neighbor to the right, then that below
                    right = 1 - down
                    y2, x2 = min(y + down, height - 1), min(x + right, width - 1)
                    b = shape[y2, x2]
                    if a != b and abs(opacities[i, a] - opacities[i, b]) > LEAST_JUMP:
                        inner = b > a
                        _edge(rows[i], columns[i], radii[i], max(a, b) - 1,
                              y + top + down * inner, x + left + right * inner,
                              y + top + 0.5 * down, x + left + 0.5 * right,
                              (grad[y // 2, x // 2] + grad[y2 // 2, x2 // 2])
                              * (opacities[i, max(a, b)] - opacities[i, min(a, b)]) / 8, places[i])


@compiled(fastmath=True)
def _edge(rows, columns, radii, k, pixel_row, pixel_column, row, column, value, places):
    """Add the gradient ``value`` of a crossing at (row, column) to the places of its edge.

    k: the shape that covers the pixel on the inner side of the crossing.
    """
    down = row != pixel_row
    if not len(radii):
        _side_edge(row, column, rows, columns, down, value, places)
        return
    # Many discs cover a pixel along a side of a stroke; k is the last of them.  The edge belongs to
    # the disc in which the pixel lies deepest, some discs before.
    deepest, j = FAR, k
    while j >= 0:
        square = (pixel_row - rows[j]) ** 2 + (pixel_column - columns[j]) ** 2
        if square > radii[j] * (radii[j] + 1):
            break
        distance = np.sqrt(np.float32(square)) - radii[j]
        if distance < deepest:
            k, deepest = j, distance
        j -= DISC_STRIDE
    down_by, right_by = row - rows[k], column - columns[k]  # from the disc's center
    length = np.hypot(down_by, right_by) + 1e-3
    normal_row, normal_column = down_by / length, right_by / length
    value *= abs(normal_row) if down else abs(normal_column)
    places[k, 0] += value * normal_row
    places[k, 1] += value * normal_column
    places[k, 2] += value  # the disc grows


@compiled(fastmath=True)
def _side_edge(row, column, rows, columns, down, value, place):
    """Add the gradient of an edge of a triangle to the two corners of the nearest side."""
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
    part = ((row - rows[other]) * side_row + (column - columns[other]) * side_column) / length**2
    part = min(1.0, max(0.0, part))
    value *= abs(normal_row) if down else abs(normal_column)
    place[k, 0] += value * part * normal_row
    place[k, 1] += value * part * normal_column
    place[other, 0] += value * (1 - part) * normal_row
    place[other, 1] += value * (1 - part) * normal_column
