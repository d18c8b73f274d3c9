"""Lower the squared error of the exact rasterizer's canvas by gradient steps on all strokes."""

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

LR = 0.015  # peak Adam learning rate, as a fraction of the tile side
LR_MULTIPLIERS = (1, 1, 1.5, 1.5, 1, 1, 0.5, 0.5, 2, 2)  # by shape number
WARM_UP = 5  # steps
BETAS = (0.9, 0.99)
COLOR_DAMPING = 0.3  # pixels, added to the coverage: barely visible strokes keep their colors
REINIT_INTERVAL = 20  # steps between reinitializations of the strokes of least contribution
MIN_REINIT_FRACTION, MAX_REINIT_FRACTION = 0.05, 0.3  # of all strokes
MIN_CONTRIBUTION = 0.1  # fraction of the mean; strokes below it are reinitialized
REINIT_UNTIL = 0.6  # fraction of the steps


class Adam:
    """Adam on rows that can be reset one by one (Kingma and Ba, 2015)."""

    def __init__(self, values: torch.Tensor) -> None:
        self.mean, self.square = torch.zeros_like(values), torch.zeros_like(values)
        self.steps = torch.zeros(len(values), 1)

    def step(self, grad: torch.Tensor) -> torch.Tensor:
        """Return the step, of magnitude about 1 if gradients are consistent."""
        self.steps += 1
        mean_decay, square_decay = BETAS
        mean = self.mean.lerp_(grad, 1 - mean_decay) / (1 - mean_decay**self.steps)
        square = self.square.lerp_(grad * grad, 1 - square_decay) / (1 - square_decay**self.steps)
        return mean / (square.sqrt() + 1e-6)

    def reorder(self, order: np.ndarray, new: int) -> None:
        """Take the rows in this order and reset the last ``new`` of them."""
        for name in ("mean", "square", "steps"):
            rows = getattr(self, name)[order]
            rows[len(rows) - new :] = 0
            setattr(self, name, rows)


def refine(
    strokes: Strokes, target: np.ndarray, steps: int, seed: int = 0,
    report: Callable[[float], object] = lambda error: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Strokes:
    """Lower the squared error of the exact rasterizer's canvas; return the best strokes.

    target: (height, width, 3) float32 BGR in [0, 1], for the strokes' canvas, which is black at
    first.  Shapes take Adam steps, colors bounded gradient steps.  Every REINIT_INTERVAL steps the
    strokes of least contribution are reinitialized where their tile's error is large, and painted
    last.  report: called after each step with the error before it; stopped: whether to end now.
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
        # Coverage bounds the row sums of the colors' Hessian (Gershgorin), so the simultaneous
        # color step alone cannot raise the error.
        recolored = strokes.colors - result.colors / (result.coverage[:, None] + COLOR_DAMPING)
        strokes = replace(strokes, shapes=moved.clamp_(0, 1).numpy(), colors=recolored.clip(0, 1))
        if step % REINIT_INTERVAL == REINIT_INTERVAL - 1 and progress < REINIT_UNTIL:
            contribution = result.contribution
            count = int((contribution < MIN_CONTRIBUTION * contribution.mean()).sum())
            count = max(math.ceil(MIN_REINIT_FRACTION * len(strokes)), count)
            count = min(math.ceil(MAX_REINIT_FRACTION * len(strokes)), count)
            order = contribution.argsort(kind="stable")
            order = np.concatenate((np.sort(order[count:]), order[:count]))
            strokes = Strokes.join((
                strokes[order[:-count]],
                reinitialize(strokes[order[-count:]], np.square(difference).sum(2), target, rng)))
            adam.reorder(order, count)
        report(error)
    return best


def reinitialize(
    strokes: Strokes, error: np.ndarray, target: np.ndarray, rng: np.random.Generator
) -> Strokes:
    """Return small strokes in the same tiles, where the error (height, width) is large."""
    error = cv2.GaussianBlur(error, (0, 0), 2) ** 1.5 + 1e-12
    centers, colors = [], []
    for (tile_top, tile_left, side), (top, left, bottom, right) in zip(
        strokes.tiles.tolist(), strokes.clips.tolist(), strict=True
    ):
        top, left = max(top, tile_top), max(left, tile_left)
        bottom, right = min(bottom, tile_top + side), min(right, tile_left + side)
        cumulative = error[top:bottom, left:right].cumsum(dtype=np.float64)
        pixel = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], "right"))
        row, column = divmod(min(pixel, cumulative.size - 1), right - left)
        row, column = row + top, column + left
        colors.append(target[row, column])
        centers.append(((row + 0.5 - tile_top) / side, (column + 0.5 - tile_left) / side))
        y, x = np.ogrid[max(top, row - 16) : min(bottom, row + 17),
                        max(left, column - 16) : min(right, column + 17)]
        squared_distance = (y - row) ** 2 + (x - column) ** 2
        error[y, x] *= 1 - np.exp(-squared_distance / 72)  # suppress this stroke's neighborhood
    shapes = shapes_around(strokes.family, np.array(centers), 0.02, 0.03, 0.6, rng)
    return replace(strokes, shapes=shapes, colors=np.float32(colors))


def random_shapes(
    family: str, sizes: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return uniformly placed random shapes (n, 10), and their centers (n, 2).

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
    """Return shape numbers (n, 10) of random strokes centered at points (n, 2) in the tile.

    length: standard deviation of P0, P1 and P2 around it; radius, opacity: z and w, in [0, 1].
    """
    n = len(center)
    shapes = np.full((n, SHAPE_DIM), opacity)
    half_vector, offset = rng.normal(size=(2, n, 2)) * np.reshape(length, (-1, 1))
    one_point = FAMILIES[family].points == 1
    shapes[:, 0:2] = center if one_point else center - half_vector
    shapes[:, 2:4] = 0.5 if FAMILIES[family].relative else center + offset
    shapes[:, 4:6] = center + half_vector
    shapes[:, 6:8] = np.reshape(radius, (-1, 1))
    return np.float32(shapes.clip(0, 1))
