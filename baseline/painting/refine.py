"""Improve all strokes of a painting together, by gradient steps on the exact raster's error."""

import math
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import torch

from Renderer.raster import Boxes, place
from Renderer.raster_gradient import backward_to_shapes, gradient
from Renderer.stroke_gen import FAMILIES, SHAPE_DIM
from Renderer.strokes import Strokes

RATE = 0.02  # highest of Adam's, in parts of a tile
RATES = (1, 1, 1.5, 1.5, 1, 1, 0.5, 0.5, 2, 2)  # by shape number, times RATE
BETAS = (0.9, 0.99)
COLOUR_STEP = 0.5  # of the way to each colour's own optimum
LEAST_CURVATURE = 0.3  # pixels; strokes that are hardly seen keep their colours
SEED_INTERVAL = 20  # steps between re-seedings
LEAST_SEEDED, MOST_SEEDED = 0.05, 0.3  # of the strokes, those of least worth
IDLE = 0.1  # of the mean worth; strokes of less no longer matter
SEED_UNTIL = 0.6  # of the steps


class Adam:
    """Adam on rows that can start anew one by one (Kingma and Ba, 2015)."""

    def __init__(self, values: torch.Tensor) -> None:
        self.mean, self.square = torch.zeros_like(values), torch.zeros_like(values)
        self.age = torch.zeros(len(values), 1)

    def step(self, slope: torch.Tensor) -> torch.Tensor:
        """The step's direction, of about one where gradients agree."""
        self.age += 1
        for average, value, beta in zip((self.mean, self.square), (slope, slope * slope), BETAS,
                                        strict=True):
            average.lerp_(value, 1 - beta)
        mean, square = (average / (1 - beta**self.age) for average, beta in
                        zip((self.mean, self.square), BETAS, strict=True))
        return mean / (square.sqrt() + 1e-6)

    def reorder(self, order: np.ndarray, new: int) -> None:
        """Take the rows in this order; the last ``new`` of them start anew."""
        for name in ("mean", "square", "age"):
            rows = getattr(self, name)[order]
            rows[len(rows) - new :] = 0
            setattr(self, name, rows)


def refine(
    strokes: Strokes, target: np.ndarray, steps: int, seed: int = 0,
    report: Callable[[float], object] = lambda error: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Strokes:
    """Lower the mean squared error of the strokes' exact raster.

    target: (height, width, 3) float32 BGR in [0, 1], for the strokes' canvas, which is black at
    first.  Shapes follow Adam, colours step towards their optimum; now and then the strokes that
    matter least move, within their tile, to where the error is largest, last in painting order.
    report: called after each step with the error before it; stopped: whether to leave it at that.
    Returns the best strokes that were met, at least as good as those given.
    """
    rng = np.random.default_rng(seed)
    best, least = strokes, math.inf
    adam = Adam(torch.from_numpy(strokes.shapes))
    rates = RATE * torch.tensor(RATES)
    for step in range(steps + 1):
        shapes = torch.from_numpy(strokes.shapes).requires_grad_()
        placed = place(strokes, shapes)
        found = gradient(Boxes(strokes, placed, margin=1), strokes.colors, target)
        difference = found.canvas - target
        error = float(np.square(difference).mean())
        if error < least:
            best, least = strokes, error
        if step == steps or stopped():
            break
        backward_to_shapes(placed, found)
        progress = step / steps
        rate = (1 + math.cos(math.pi * progress)) / 2 * rates
        moved = shapes.detach() - rate * adam.step(shapes.grad)
        colour_steps = found.colors / (found.curvature[:, None] + LEAST_CURVATURE)
        recoloured = strokes.colors - COLOUR_STEP * colour_steps
        strokes = replace(strokes, shapes=moved.clamp_(0, 1).numpy(),
                          colors=recoloured.clip(0, 1))
        if step % SEED_INTERVAL == SEED_INTERVAL - 1 and progress < SEED_UNTIL:
            idle = int((found.worth < IDLE * found.worth.mean()).sum())
            few, many = (math.ceil(v * len(strokes)) for v in (LEAST_SEEDED, MOST_SEEDED))
            count = min(max(few, idle), many)
            order = found.worth.argsort(kind="stable")
            order = np.concatenate((np.sort(order[count:]), order[:count]))
            strokes = Strokes.join((
                strokes[order[:-count]],
                reseed(strokes[order[-count:]], np.square(difference).sum(2), target, rng)))
            adam.reorder(order, count)
        report(error)
    return best


def reseed(
    strokes: Strokes, error: np.ndarray, target: np.ndarray, rng: np.random.Generator
) -> Strokes:
    """Small strokes in the same tiles, where the error (height, width) is large."""
    error = cv2.GaussianBlur(error, (0, 0), 2) ** 1.5 + 1e-12
    middles, colours = [], []
    for (top, left, width), (low, first, high, end) in zip(
        strokes.tiles.tolist(), strokes.clips.tolist(), strict=True
    ):
        low, first = max(low, top), max(first, left)
        high, end = min(high, top + width), min(end, left + width)
        chances = error[low:high, first:end].cumsum(dtype=np.float64)
        place = int(np.searchsorted(chances, rng.random() * chances[-1], "right"))
        row, column = divmod(min(place, chances.size - 1), end - first)
        row, column = row + low, column + first
        colours.append(target[row, column])
        middles.append(((row + 0.5 - top) / width, (column + 0.5 - left) / width))
        y, x = np.ogrid[max(low, row - 16) : min(high, row + 17),
                        max(first, column - 16) : min(end, column + 17)]
        distance = (y - row) ** 2 + (x - column) ** 2
        error[y, x] *= 1 - np.exp(-distance / 72)  # others go elsewhere
    shapes = shapes_around(strokes.family, np.array(middles), 0.08, 0.03, 0.6, rng)
    return replace(strokes, shapes=shapes, colors=np.float32(colours))


def random_shapes(
    family: str, sizes: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Random strokes all over their tiles.

    sizes: (n,) in [0, 1].  Returns shapes (n, 10) and their middles (n, 2), rows and columns, in
    [0, 1].
    """
    middle = rng.random((len(sizes), 2))
    length = 0.06 + 0.3 * sizes
    radius = 0.03 + 0.35 * sizes * rng.random(len(sizes))
    return shapes_around(family, middle, length, radius, 0.9, rng), middle


def shapes_around(
    family: str, middle: np.ndarray, length: np.ndarray | float, radius: np.ndarray | float,
    opacity: float, rng: np.random.Generator,
) -> np.ndarray:
    """The numbers (n, 10) of strokes of any family around places (n, 2), in parts of the tile.

    length: standard deviation of the points' distance; radius and opacity: z and w, in [0, 1].
    """
    n = len(middle)
    shapes = np.full((n, SHAPE_DIM), opacity)
    way = rng.normal(size=(n, 2)) * np.broadcast_to(length, n)[:, None]
    aside = rng.normal(size=(n, 2)) * np.broadcast_to(length, n)[:, None]
    one_point = FAMILIES[family].points == 1
    shapes[:, 0:2] = middle if one_point else middle - way
    shapes[:, 2:4] = 0.5 if FAMILIES[family].relative else middle + aside
    shapes[:, 4:6] = middle + way
    shapes[:, 6:8] = np.broadcast_to(radius, n)[:, None]
    return np.float32(shapes.clip(0, 1))
