"""The exact rasterizer of whole paintings, its gradient, and refining by it."""

import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import ROOT, painted
from painting.refine import random_shapes, refine
from painting.tiles import plan
from Renderer.raster import Boxes, paint_exact, paint_frames, place
from Renderer.raster_gradient import backward_to_shapes, gradient
from Renderer.stroke_gen import FAMILIES, draw
from Renderer.strokes import Strokes


def random_strokes(
    family: str, n: int, seed: int, tile: tuple[int, int, int] = (0, 0, 128), side: int = 128
) -> Strokes:
    """Return strokes on one tile of a square canvas, clipped to the tile."""
    rng = np.random.default_rng(seed)
    shapes = rng.random((n, 10), np.float32)
    shapes[: n // 4] = shapes[: n // 4].round()  # corners, ends of every range
    top, left, width = tile
    return Strokes(family, side, side, shapes, rng.random((n, 3), np.float32),
                   np.tile(tile, (n, 1)), np.tile((top, left, top + width, left + width), (n, 1)))


def reference(strokes: Strokes, width: int) -> np.ndarray:
    """Return the canvas of one tile by the reference rasterizer."""
    canvas = np.zeros((width, width, 3), np.float32)
    for shape, color in zip(strokes.shapes, strokes.colors, strict=True):
        canvas += (1 - draw(shape, width, strokes.family))[..., None] * (color - canvas)
    return canvas


def half_squared_error(strokes: Strokes, target: np.ndarray) -> float:
    """Return half the sum of the squared errors of a painting."""
    return float(np.square(painted(strokes) - target, dtype=np.float64).sum() / 2)


@pytest.mark.parametrize("threads", [1, 2])
def test_painting_takes_no_more_threads_than_it_is_given(compiled, threads):
    """With threads of its own, numba would change PyTorch's number too."""
    code = """
import numpy as np, torch
from Renderer.raster import paint_frames
from Renderer.strokes import Strokes
one = Strokes("round", 128, 128, np.full((1, 10), 0.5, np.float32), np.ones((1, 3), np.float32),
              np.array([[0, 0, 128]]), np.array([[0, 0, 128, 128]]))
list(paint_frames(one, 128, 128, [1]))
print(torch.get_num_threads())"""
    environment = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    out = subprocess.check_output(
        [sys.executable, "-c", code], cwd=ROOT / "baseline", text=True,
        env=environment | {"OMP_NUM_THREADS": str(threads)})
    assert int(out.splitlines()[-1]) == threads


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scale", [1, 2])
def test_tile_of_a_painting_equals_the_reference(family, scale):
    strokes = random_strokes(family, 24, 3, (128, 0, 128), 256)
    canvas = painted(strokes, scale)
    tile = canvas[128 * scale :, : 128 * scale]
    assert np.abs(tile - reference(strokes, 128 * scale)).max() <= 1e-6
    assert canvas[: 128 * scale].max() == canvas[:, 128 * scale :].max() == 0


def test_picture_of_extreme_proportions_takes_little_memory():
    """The canvas, of which a picture is a squashed view, would have 8000 x 8000 pixels."""
    strokes = random_strokes("round", 4, 5)
    tracemalloc.start()
    (frame,) = paint_frames(strokes, 8000, 1, [4])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400e6  # bytes; that canvas alone has 768e6
    assert frame.shape == (8000, 1, 3)


def test_painting_in_parts_or_with_little_memory_changes_nothing(monkeypatch):
    strokes = Strokes.join((random_strokes("bezier", 9, 1, (0, 0, 256), 256),
                            random_strokes("bezier", 9, 2, (64, 128, 128), 256)))
    whole = painted(strokes)
    parts = np.zeros_like(whole)
    for first in range(0, 18, 5):
        paint_exact(strokes[first : first + 5], parts)
    assert np.array_equal(parts, whole)
    monkeypatch.setattr("Renderer.raster.PIXELS_AT_ONCE", 20_000)
    assert np.array_equal(painted(strokes), whole)


def test_strokes_without_a_clip_cross_the_edges_of_their_tile():
    strokes = random_strokes("round", 1, 5, (64, 64, 64), 192)
    strokes.shapes[:] = 0.5, 1, 0, 0, 0, 0, 0.4, 0, 1, 0  # at the center of the right side
    strokes.clips[:] = 0, 0, 192, 192
    covered = np.argwhere(painted(strokes).any(2))
    assert covered.min(0).tolist() == [90, 122]
    assert covered.max(0).tolist() == [102, 134]


def test_pictures_of_any_size_are_painted_to_their_edges():
    strokes = Strokes("round", 246, 364, np.full((1, 10), 0.5, np.float32),
                      np.ones((1, 3), np.float32), np.array([[0, 0, 246]]),
                      np.array([[0, 0, 246, 364]]))
    everywhere = Strokes.join(replace(strokes, tiles=np.array([[row, column, 246]]))
                              for row in range(-123, 246, 60) for column in range(-123, 364, 60))
    everywhere.shapes[:, 6:] = 1
    for height, width in ((480, 640), (600, 900), (246, 364), (100, 150), (1000, 1000)):
        (picture,) = paint_frames(everywhere, height, width, [len(everywhere)])
        assert picture.shape == (height, width, 3)
        assert picture.min() == 255


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_of_shapes_agrees_with_differences(family):
    """Over steps that are long against a pixel, on smooth errors."""
    strokes = random_strokes(family, 6, 11)
    strokes.shapes[:] = random_shapes(family, np.full(6, 0.6), np.random.default_rng(11))[0]
    strokes.shapes[:, 8:] = 0.7, 0.6
    rows, columns = np.mgrid[:128, :128].astype(np.float32) / 127
    target = np.stack((rows, columns, 1 - rows * columns), 2)
    shapes = torch.from_numpy(strokes.shapes).requires_grad_()
    shapes_placed = place(strokes, shapes)
    grad = gradient(Boxes(strokes, shapes_placed, margin=1), strokes.colors, target)
    assert np.abs(grad.canvas - painted(strokes)).max() <= 1e-6
    backward_to_shapes(shapes_placed, grad)
    differences = np.empty((6, 10))
    for i, j in np.ndindex(6, 10):
        low, high = strokes.shapes.copy(), strokes.shapes.copy()
        low[i, j], high[i, j] = max(low[i, j] - 0.04, 0), min(high[i, j] + 0.04, 1)
        errors = [half_squared_error(replace(strokes, shapes=each), target) for each in (low, high)]
        differences[i, j] = (errors[1] - errors[0]) / (high - low)[i, j]
    estimates, differences = shapes.grad.numpy().ravel(), differences.ravel()
    assert np.corrcoef(estimates, differences)[0, 1] > 0.95
    assert 0.85 < estimates @ differences / (differences @ differences) < 1.15


def test_contribution_color_gradient_and_coverage_are_exact():
    strokes = random_strokes("bezier", 8, 4)
    target = np.random.default_rng(5).random((128, 128, 3), np.float32)
    grad = gradient(Boxes(strokes, place(strokes, torch.from_numpy(strokes.shapes)), margin=1),
                    strokes.colors, target)
    error = half_squared_error(strokes, target)
    for i in range(8):
        others = Strokes.join((strokes[:i], strokes[i + 1 :]))
        contribution = half_squared_error(others, target) - error
        assert contribution == pytest.approx(grad.contribution[i], rel=2e-3, abs=0.05)
        errors, canvases = [], []
        for change in (-0.5, 0.5):
            colors = strokes.colors.copy()
            colors[i, 1] += change
            changed = replace(strokes, colors=colors)
            errors.append(half_squared_error(changed, target))
            canvases.append(painted(changed))
        assert errors[1] - errors[0] == pytest.approx(grad.colors[i, 1], rel=2e-3, abs=0.05)
        coverage = (canvases[1] - canvases[0])[..., 1].sum()  # the sum of the stroke's weights
        assert grad.coverage[i] == pytest.approx(coverage, rel=2e-3, abs=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_refining_lowers_the_exact_error(family):
    ((_, _, tiles, clips),) = (stage.layout for stage in plan(1, 1, 8))
    shapes, center = random_shapes(family, np.linspace(1, 0, 40), np.random.default_rng(2))
    target = np.zeros((128, 128, 3), np.float32)
    target[30:90, 20:70], target[60:120, 60:110] = (0.2, 0.4, 0.9), (0.8, 0.7, 0.1)
    row, column = (center * 127).astype(int).T
    strokes = Strokes(family, 128, 128, shapes, target[row, column],
                      np.tile(tiles, (40, 1)), np.tile(clips, (40, 1)))
    error_of = lambda strokes: float(np.square(painted(strokes) - target).mean())
    before, reported = shapes.copy(), []
    refined = refine(strokes, target, 60, report=reported.append)
    error = error_of(refined)
    assert len(reported) == 60 and reported[0] == pytest.approx(error_of(strokes), rel=1e-4)
    assert error < 0.2 * reported[0]
    assert error <= min(reported) * 1.0001
    assert np.array_equal(strokes.shapes, before)
    assert refined.shapes.min() >= 0 and refined.shapes.max() <= 1
    assert len(refined) == 40
    # The best is kept over re-seedings, after which the error rises.
    assert error_of(refine(refined, target, 35)) <= error * 1.0001
    assert np.array_equal(refine(strokes, target, 60).shapes, refined.shapes)
    assert refine(strokes, target, 0) is strokes


def test_refining_keeps_strokes_on_their_tiles():
    height, width, tiles, _ = plan(2, 2, 4)[1].layout
    strokes = Strokes.join(
        random_strokes("bezier", 10, k, tuple(tile), 256) for k, tile in enumerate(tiles))
    target = np.random.default_rng(0).random((height, width, 3), np.float32)
    refined = refine(strokes, target, 45)
    for some in (strokes, refined):
        counts = np.unique(some.tiles, axis=0, return_counts=True)[1]
        assert counts.tolist() == [10, 10, 10, 10]
    assert np.array_equal(refined.clips[:, :2], refined.tiles[:, :2])
