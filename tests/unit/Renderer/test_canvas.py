"""Compositing, the action layout and tiling."""

import numpy as np
import pytest
import torch

from constants import BUNDLE, STEPS
from helpers import ARRAYS, FP32, assert_golden, fill, image
from painting.steps import paint_neural
from painting.tiles import fitting_grid, plan
from Renderer.canvas import STROKE_DIM, as_float, as_uint8, composite, split_action
from Renderer.model import Renderer
from Renderer.strokes import Strokes


@torch.no_grad()
def test_bundle_paints_the_golden_canvas():
    canvas = composite(
        fill(Renderer(), "renderer", 1), image(2, 3, 104),
        torch.from_numpy(ARRAYS["bundle_actions"]).float(),
    )
    assert_golden(canvas, ARRAYS["bundle_canvas"])


def test_strokes_blend_in_order():
    half = lambda strokes: torch.full((len(strokes), 128, 128), 0.5)
    action = torch.zeros(1, BUNDLE * STROKE_DIM).view(1, 5, 13)
    action[0, :, 10:] = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0.0]])
    pixels = torch.stack([
        composite(half, torch.zeros(1, 3, 128, 128), action[:, :count].flatten(1))[0, :, 5, 7]
        for count in range(1, 6)])
    expected = [[0.5, 0, 0], [0.25, 0.5, 0], [0.125, 0.25, 0.5], [0.5625, 0.625, 0.75],
                [0.28125, 0.3125, 0.375]]
    assert torch.allclose(pixels, torch.tensor(expected))


def test_action_layout():
    shapes, colors = split_action(torch.arange(BUNDLE * STROKE_DIM).float()[None])
    assert shapes[0, 1].tolist() == list(range(13, 23))
    assert colors[0, 4].tolist() == [62, 63, 64]


@pytest.mark.parametrize(("rows", "columns", "grids"), [
    (1, 1, [(1, 1)]), (4, 4, [(1, 1), (4, 4)]), (4, 6, [(2, 3), (4, 6)]), (2, 3, [(2, 3)]),
])
def test_stages_of_a_painting_cover_each_pixel_once(rows, columns, grids):
    stages = plan(rows, columns, 10)
    height, width, *_ = stages[0].layout
    assert (height, width) == (128 * rows, 128 * columns)
    assert [(stage.rows, stage.columns) for stage in stages] == grids
    assert sum(stage.steps for stage in stages) == 10
    for stage in stages:
        covered = np.zeros((height, width), int)
        for top, left, side in stage.layout.tiles:
            covered[top : top + side, left : left + side] += 1
        assert (stage.layout.clips == (0, 0, height, width)).all()
        assert (covered == 1).all()


@pytest.mark.parametrize(("height", "width", "grid"), [
    (296, 296, (4, 4)), (427, 640, (4, 6)), (640, 427, (6, 4)), (300, 400, (4, 6)),
    (1080, 1920, (2, 4)), (100, 1000, (2, 20)), (7000, 100, (64, 2)),
])
def test_automatic_grids_hardly_stretch(height, width, grid):
    assert fitting_grid(height, width) == grid


def test_neural_canvas_of_placed_strokes():
    """On its tile a stroke looks as painted; a larger tile enlarges it; canvases have edges."""
    strokes = torch.rand(BUNDLE, 13)
    render = lambda shapes: shapes[:, :1, None].expand(-1, 128, 128) * torch.linspace(0, 1, 128)
    expected = composite(render, torch.zeros(1, 3, 128, 128), strokes.view(1, -1))[0]
    expected = expected.permute(1, 2, 0)
    render.precision = FP32
    shapes, colors = strokes.split((10, 3), 1)

    def placed(*tile: int) -> torch.Tensor:
        placed_strokes = Strokes("bezier", 384, 256, shapes.numpy(), colors.numpy(),
                                 np.tile(tile, (BUNDLE, 1)), np.zeros((BUNDLE, 4), int))
        canvas = np.zeros((384, 256, 3), np.float32)
        paint_neural(render, placed_strokes, canvas)
        return torch.from_numpy(canvas)

    canvas = placed(128, 64, 128)
    assert torch.allclose(canvas[128:256, 64:192], expected, atol=1e-6)
    assert canvas.count_nonzero() == canvas[128:256, 64:192].count_nonzero()
    large = placed(-56, 128, 256)
    assert large[200:].max() == large[:, :128].max() == 0
    assert torch.allclose(large[10:200:2, 138::2].mean(), expected[33:, 5:64].mean(), atol=0.02)


def test_uint8_round_trip():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(as_uint8(as_float(every)), every)
    assert as_uint8(torch.tensor([-0.1, 1.1, 0.5])).tolist() == [0, 255, 128]
    assert np.isclose(as_float(every).max(), 1)


@pytest.mark.parametrize(("rows", "columns", "max_step", "steps"), [
    (4, 4, 100, [50, 50]), (4, 4, 41, [21, 20]), (4, 4, None, [STEPS, STEPS]), (4, 4, 80, [40, 40]),
    (1, 1, 41, [41]), (1, 1, None, [STEPS]), (2, 3, 7, [7]),
])
def test_steps_are_split_between_canvas_and_tiles(rows, columns, max_step, steps):
    assert [stage.steps for stage in plan(rows, columns, max_step)] == steps
