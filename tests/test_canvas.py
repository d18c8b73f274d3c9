"""Compositing, the action layout and tiling."""

import numpy as np
import torch

from golden_networks import ARRAYS, assert_golden, fill, image
from Renderer.canvas import (
    ACTION_DIM,
    as_float,
    as_uint8,
    from_tiles,
    paint,
    paint_strokes,
    smooth_seams,
    split_action,
    to_tiles,
)
from Renderer.model import Renderer


@torch.no_grad()
def test_golden_bundle():
    canvas = paint(
        fill(Renderer(), "renderer", 1), image(2, 3, 104),
        torch.from_numpy(ARRAYS["bundle_actions"]).float(),
    )
    assert_golden(canvas, ARRAYS["bundle_canvas"])


def test_strokes_blend_in_order():
    half = lambda strokes: torch.full((len(strokes), 128, 128), 0.5)
    action = torch.zeros(1, ACTION_DIM).view(1, 5, 13)
    action[0, :, 10:] = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0.0]])
    canvases = paint_strokes(half, torch.zeros(1, 3, 128, 128), action.flatten(1))
    pixels = torch.stack([canvas[0, :, 5, 7] for canvas in canvases])
    expected = [[0.5, 0, 0], [0.25, 0.5, 0], [0.125, 0.25, 0.5], [0.5625, 0.625, 0.75],
                [0.28125, 0.3125, 0.375]]
    assert torch.allclose(pixels, torch.tensor(expected))


def test_action_layout():
    shapes, colours = split_action(torch.arange(ACTION_DIM).float()[None])
    assert shapes[0, 1].tolist() == list(range(13, 23))
    assert colours[0, 4].tolist() == [62, 63, 64]


def test_tiles_round_trip_and_order():
    picture = torch.arange(3 * 256 * 256).float().view(1, 3, 256, 256)
    tiles = to_tiles(picture)
    assert torch.equal(tiles[1], picture[0, :, :128, 128:])
    assert torch.equal(from_tiles(tiles, 2), picture)


def test_seams_are_means_and_nothing_else_changes():
    picture = torch.rand(1, 3, 384, 384)
    smooth = smooth_seams(picture, 3)
    changed = (smooth != picture)[0].any(0)
    seam = torch.zeros(384, dtype=torch.bool)
    seam[[127, 128, 255, 256]] = True
    assert torch.equal(changed, seam[:, None] | seam[None, :])
    assert torch.allclose(smooth[0, 0, 128, 40], picture[0, 0, 127:130, 39:42].mean())
    assert torch.equal(smooth_seams(picture[..., :128, :128], 1), picture[..., :128, :128])


def test_uint8_round_trip():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(as_uint8(as_float(every)), every)
    assert as_uint8(torch.tensor([-0.1, 1.1, 0.5])).tolist() == [0, 255, 128]
    assert np.isclose(as_float(every).max(), 1)
