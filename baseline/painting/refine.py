"""Improve all strokes of a painting together, by gradient steps on the exact canvas's error."""

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

LR = 0.015  # highest of Adam's, in parts of a tile
LR_MULTIPLIERS = (1, 1, 1.5, 1.5, 1, 1, 0.5, 0.5, 2, 2)  # by shape number
WARM_UP = 5  # steps
BETAS = (0.9, 0.99)
LEAST_COVERAGE = 0.3  # pixels; strokes that are hardly visible keep their colors
SEED_INTERVAL = 20  # steps between re-seedings
LEAST_SEEDED, MOST_SEEDED = 0.05, 0.3  # of the strokes, those of least worth
IDLE = 0.1  # of the mean worth; strokes of less are seeded again
SEED_UNTIL = 0.6  # of the steps


class Adam:
    """Adam on rows that can be reset one by one (Kingma and Ba, 2015)."""

    def __init__(self, values: torch.Tensor) -> None:
        self.mean, self.square = torch.zeros_like(values), torch.zeros_like(values)
        self.age = torch.zeros(len(values), 1)

    def step(self, grad: torch.Tensor) -> torch.Tensor:
        """Return the step's direction, of about one where gradients agree."""
        self.age += 1
        for average, value, beta in zip((self.mean, self.square), (grad, grad * grad), BETAS,
                                        strict=True):
            average.lerp_(value, 1 - beta)
        mean, square = (average / (1 - beta**self.age) for average, beta in
                        zip((self.mean, self.square), BETAS, strict=True))
        return mean / (square.sqrt() + 1e-6)

    def reorder(self, order: np.ndarray, new: int) -> None:
        """Take the rows in this order and reset the last ``new`` of them."""
        for name in ("mean", "square", "age"):
            rows = getattr(self, name)[order]
            rows[len(rows) - new :] = 0
            setattr(self, name, rows)


def refine(
    strokes: Strokes, target: np.ndarray, steps: int, seed: int = 0,
    report: Callable[[float], object] = lambda error: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Strokes:
    """Lower the mean squared error of strokes on the exact canvas and return the best ones.

    target: (height, width, 3) float32 BGR in [0, 1], for the strokes' canvas, which is black at
    first.  Shapes follow Adam, colors step towards their optimum.  Every SEED_INTERVAL steps the
    strokes of least worth move, within their tile, to where the error is largest, last in painting
    order.  report: called after each step with the error before it; stopped: whether to end now.
    """
    rng = np.random.default_rng(seed)
    best, least = strokes, math.inf
    adam = Adam(torch.from_numpy(strokes.shapes))
    rates = LR * torch.tensor(LR_MULTIPLIERS)
    for step in range(steps + 1):
        shapes = torch.from_numpy(strokes.shapes).requires_grad_()
        placed = place(strokes, shapes)
        result = gradient(Boxes(strokes, placed, margin=1), strokes.colors, target)
        difference = result.canvas - target
        error = float(np.square(difference).mean())
        if error < least:
            best, least = strokes, error
        if step == steps or stopped():
            break
        backward_to_shapes(placed, result)
        progress = step / steps
        rate = min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * progress)) / 2 * rates
        moved = shapes.detach() - rate * adam.step(shapes.grad)
        # The weights of a pixel's strokes sum to at most 1, so that the coverage bounds each row
        # sum of the colors' Hessian, and steps of all colors at once lower the error.
        recolored = strokes.colors - result.colors / (result.coverage[:, None] + LEAST_COVERAGE)
        strokes = replace(strokes, shapes=moved.clamp_(0, 1).numpy(),
                          colors=recolored.clip(0, 1))
        if step % SEED_INTERVAL == SEED_INTERVAL - 1 and progress < SEED_UNTIL:
            idle = int((result.worth < IDLE * result.worth.mean()).sum())
            few, many = (math.ceil(v * len(strokes)) for v in (LEAST_SEEDED, MOST_SEEDED))
            count = min(max(few, idle), many)
            order = result.worth.argsort(kind="stable")
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
    """Return small strokes in the same tiles, where the error (height, width) is large."""
    error = cv2.GaussianBlur(error, (0, 0), 2) ** 1.5 + 1e-12
    centers, colors = [], []
    for (top, left, width), (low, first, high, end) in zip(
        strokes.tiles.tolist(), strokes.clips.tolist(), strict=True
    ):
        low, first = max(low, top), max(first, left)
        high, end = min(high, top + width), min(end, left + width)
        chances = error[low:high, first:end].cumsum(dtype=np.float64)
        place = int(np.searchsorted(chances, rng.random() * chances[-1], "right"))
        row, column = divmod(min(place, chances.size - 1), end - first)
        row, column = row + low, column + first
        colors.append(target[row, column])
        centers.append(((row + 0.5 - top) / width, (column + 0.5 - left) / width))
        y, x = np.ogrid[max(low, row - 16) : min(high, row + 17),
                        max(first, column - 16) : min(end, column + 17)]
        distance = (y - row) ** 2 + (x - column) ** 2
        error[y, x] *= 1 - np.exp(-distance / 72)  # others go elsewhere
    shapes = shapes_around(strokes.family, np.array(centers), 0.02, 0.03, 0.6, rng)
    return replace(strokes, shapes=shapes, colors=np.float32(colors))


def random_shapes(
    family: str, sizes: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return random strokes all over their tiles: shapes (n, 10) and their centers (n, 2).

    sizes: (n,) in [0, 1].  Centers are rows and columns in [0, 1].
    """
    center = rng.random((len(sizes), 2))
    length = 0.06 + 0.3 * sizes
    radius = 0.03 + 0.35 * sizes * rng.random(len(sizes))
    return shapes_around(family, center, length, radius, 0.9, rng), center


def shapes_around(
    family: str, center: np.ndarray, length: np.ndarray | float, radius: np.ndarray | float,
    opacity: float, rng: np.random.Generator,
) -> np.ndarray:
    """Return the numbers (n, 10) of strokes around places (n, 2), in parts of the tile.

    length: standard deviation of the points' distance; radius and opacity: z and w, in [0, 1].
    """
    n = len(center)
    shapes = np.full((n, SHAPE_DIM), opacity)
    way = rng.normal(size=(n, 2)) * np.broadcast_to(length, n)[:, None]
    aside = rng.normal(size=(n, 2)) * np.broadcast_to(length, n)[:, None]
    one_point = FAMILIES[family].points == 1
    shapes[:, 0:2] = center if one_point else center - way
    shapes[:, 2:4] = 0.5 if FAMILIES[family].relative else center + aside
    shapes[:, 4:6] = center + way
    shapes[:, 6:8] = np.broadcast_to(radius, n)[:, None]
    return np.float32(shapes.clip(0, 1))
