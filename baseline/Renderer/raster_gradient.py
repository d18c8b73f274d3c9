"""The gradient of the exact rasterizer's squared error to the strokes' shapes and colors.

A raster is piecewise constant, so its own gradient is zero.  The gradient here is that of the
picture at infinite resolution: where a shape's edge moves by d pixels along its normal, each
pixel of the edge changes by d times the jump of opacity across it.  Edges, jumps and visibility
are read off the raster itself.
"""

from typing import NamedTuple

import numpy as np
import torch

from Renderer.raster import STROKES_A_CHUNK, Boxes, load_kernels, place
from Renderer.stroke_gen import Discs, Triangles
from Renderer.strokes import Strokes


class Gradient(NamedTuple):
    """A canvas, and the gradient of half its summed squared error to the strokes on it."""

    canvas: np.ndarray  # (height, width, 3) float32 BGR in [0, 1]
    places: np.ndarray  # (n, shapes, 3) to row, column and radius; a triangle's corners have none
    opacity: np.ndarray  # (n, shapes)
    colors: np.ndarray  # (n, 3)
    coverage: np.ndarray  # (n,) pixels that show the stroke: its weights, summed
    contribution: np.ndarray  # (n,) increase of the error without the stroke


def gradient(
    boxes: Boxes, colors: np.ndarray, target: np.ndarray, base_canvas: np.ndarray | None = None
) -> Gradient:
    """Paint strokes, compare the canvas with the target and return the gradient.

    colors: (n, 3) float32 BGR; target: (height, width, 3) float32, both in [0, 1]; base_canvas:
    the canvas below the strokes, like the target; None: black.
    """
    n, shapes = boxes.rows.shape
    start, opacity, cover = boxes.draw()
    canvas = np.zeros_like(target) if base_canvas is None else base_canvas.copy()
    by_opacity = np.empty_like(opacity)
    by_row = np.zeros((len(target), n, 5), np.float32)
    kernels = load_kernels()
    kernels.compare(canvas, target, boxes.box, start, opacity, colors, by_opacity, by_row)
    sums = by_row.sum(0)
    kinds = boxes.opacity.shape[1] - 1
    places = np.zeros((n, shapes, 3), np.float32)
    by_kind = np.zeros((n, kinds), np.float32)
    with kernels.parallel_chunksize(STROKES_A_CHUNK):
        kernels.edges(boxes.rows, boxes.columns, boxes.radii, boxes.opacity, boxes.box, start,
                      cover, by_opacity, places, by_kind)
    return Gradient(canvas, places, by_kind, sums[:, :3], sums[:, 3], sums[:, 4])


def backward_to_shapes(placed: Discs | Triangles, gradient: Gradient) -> None:
    """Backpropagate from where strokes lie to the shape numbers that ``place`` was given."""
    grads = [*torch.from_numpy(gradient.places).unbind(2)[: len(placed) - 1],
             torch.from_numpy(gradient.opacity)]
    used = [(value, grad.to(value.dtype)) for value, grad in zip(placed, grads, strict=True)
            if value.requires_grad]
    torch.autograd.backward(*zip(*used, strict=True))


def stroke_gradient(
    strokes: Strokes, target: np.ndarray, base_canvas: np.ndarray | None = None
) -> tuple[float, torch.Tensor]:
    """Return the mean squared error of a painting and its gradient to the strokes' numbers.

    target: (height, width, 3) float32 BGR in [0, 1]; base_canvas: the canvas below the
    strokes, or None: black.  The gradient is (n, 13): ten shape numbers, then the color.
    """
    shapes = torch.from_numpy(strokes.shapes).requires_grad_()
    placed = place(strokes, shapes)
    result = gradient(Boxes(strokes, placed, margin=1), strokes.colors, target, base_canvas)
    backward_to_shapes(placed, result)
    grad = torch.cat((shapes.grad, torch.from_numpy(result.colors)), 1)
    error = float(np.square(result.canvas - target).mean())
    return error, grad * (2 / target.size)
