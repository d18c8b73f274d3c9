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
    worth: np.ndarray  # (n,) how much the error would grow without the stroke


def gradient(
    boxes: Boxes, colors: np.ndarray, target: np.ndarray, below: np.ndarray | None = None
) -> Gradient:
    """Paint strokes, compare the canvas with the target and return the gradient.

    colors: (n, 3) float32 BGR; target: (height, width, 3) float32, both in [0, 1]; below: the
    canvas that they are painted on, like the target, or None: black.
    """
    n, shapes = boxes.rows.shape
    start, opacity, cover = boxes.draw()
    canvas = np.zeros_like(target) if below is None else below.copy()
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


def backward_to_shapes(placed: Discs | Triangles, found: Gradient) -> None:
    """Backpropagate from where strokes lie to the shape numbers that ``place`` was given."""
    grads = [*torch.from_numpy(found.places).unbind(2)[: len(placed) - 1],
             torch.from_numpy(found.opacity)]
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
    found = gradient(Boxes(strokes, placed, margin=1), strokes.colors, target, below)
    backward_to_shapes(placed, found)
    grad = torch.cat((shapes.grad, torch.from_numpy(found.colors)), 1)
    error = float(np.square(found.canvas - target).mean())
    return error, grad * (2 / target.size)
