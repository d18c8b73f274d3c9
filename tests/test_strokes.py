"""The rasterisers against the golden pictures, each other, and themselves at other widths."""

import cv2
import numpy as np
import pytest
import torch

from golden_networks import ARRAYS
from Renderer.stroke_gen import FAMILIES, bezier_discs, draw, draw_batch, draw_discs_tensor

PARAMS = ARRAYS["stroke_params"]  # rows 0-7 are edge cases
PICTURES = ARRAYS["stroke_images"]


def random_strokes(n: int, seed: int) -> np.ndarray:
    strokes = np.random.default_rng(seed).random((n, 10))
    strokes[: n // 4] = strokes[: n // 4].round()  # corners, ends of every range
    return strokes


def test_reference_draws_the_golden_pictures():
    drawn = np.stack([draw(stroke) for stroke in PARAMS])
    assert drawn.dtype == np.float32
    assert np.abs(drawn - PICTURES).max() <= 1e-6


def test_batch_draws_the_golden_pictures():
    assert np.abs(draw_batch(torch.from_numpy(PARAMS)).numpy() - PICTURES).max() <= 1e-6


def test_tensor_operations_draw_the_golden_pictures():
    drawn = draw_discs_tensor(bezier_discs(torch.from_numpy(PARAMS)), 128)
    assert np.abs(drawn.numpy() - PICTURES).max() <= 1e-6


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("width", [64, 128, 256])
def test_all_rasterisers_agree(family, width):
    strokes = random_strokes(24, width)
    reference = np.stack([draw(stroke, width, family) for stroke in strokes])
    batch = draw_batch(torch.from_numpy(strokes), width, family).numpy()
    tensor = draw_discs_tensor(FAMILIES[family](torch.from_numpy(strokes), width), width).numpy()
    assert reference.shape == (24, width, width)
    assert np.abs(batch - reference).max() <= 1e-6
    assert np.abs(tensor - reference).max() <= 1e-6


def test_opaque_family_ignores_opacity():
    strokes = random_strokes(8, 1)
    opaque = strokes.copy()
    opaque[:, 8:] = 1
    for mine, other in zip(strokes, opaque, strict=True):
        assert np.array_equal(draw(mine, family="bezierwotrans"), draw(other))
    assert not np.array_equal(draw(strokes[5]), draw(opaque[5]))


@pytest.mark.parametrize("width", [256, 512, 1024])
def test_a_wide_picture_reduced_matches(width):
    """The error stated in the README: 0.0004 at most in the mean, thin strokes included."""
    strokes = np.random.default_rng(9).random((30, 10))
    strokes[:10, 6:8] *= 0.05
    small = draw_batch(torch.from_numpy(strokes)).numpy()
    for part in (slice(10), slice(10, None)):
        reduced = np.stack([
            cv2.resize(draw(stroke, width), (128, 128), interpolation=cv2.INTER_AREA)
            for stroke in strokes[part]
        ])
        assert np.square(reduced - small[part]).mean() <= 0.0004


def test_a_thin_stroke_stays_a_line_at_4096():
    corner_to_corner = np.array([0, 0, 0.5, 0.5, 1, 1, 0, 0, 1, 1.0])
    paint = draw(corner_to_corner, 4096) < 0.5
    rows = np.flatnonzero(paint.any(1))
    assert np.array_equal(rows, np.arange(rows[0], rows[-1] + 1))  # no gap
    assert rows[-1] - rows[0] > 0.97 * 4096
    assert 0.5 < paint.sum(1)[rows].mean() / (4096 / 128 * 2) < 2  # about 1.5 px of 128, aslant
