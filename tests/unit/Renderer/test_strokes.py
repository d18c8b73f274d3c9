"""The rasterizers against the golden pictures, each other, and themselves at other widths."""

import cv2
import numpy as np
import pytest
import torch

from constants import FAMILY_NAMES
from helpers import ARRAYS
from Renderer.stroke_batch import draw_batch, draw_tensor
from Renderer.stroke_gen import FAMILIES, bezier_discs, draw

PARAMS = ARRAYS["stroke_params"]  # rows 0-7 are edge cases
PICTURES = ARRAYS["stroke_images"]
# The pixels of a triangle with corners (2, 2), (2, 6), (6, 2).
CLOSED = [(row, column) for row in range(2, 7) for column in range(2, 7) if row + column <= 8]


def random_strokes(n: int, seed: int) -> np.ndarray:
    strokes = np.random.default_rng(seed).random((n, 10))
    strokes[: n // 4] = strokes[: n // 4].round()  # corners, ends of every range
    strokes[-1, 2:6] = strokes[-1, [0, 1, 0, 1]]  # the points are one
    strokes[-2, 2:4] = strokes[-2, :2]  # two of them are
    return strokes


def triangle(*corners: tuple[int, int], opacity: float = 1.0) -> np.ndarray:
    """Return a stroke with corners (row, column) in pixels of the double grid at width 128."""
    return np.array([*np.ravel(corners) / 255, 0.3, 0.4, opacity, 0.5])


def covered(*pixels: tuple[int, int]) -> np.ndarray:
    """Return the picture of opaque paint on pixels of the double grid at width 128."""
    picture = np.ones((128, 128), np.float32)
    for row, column in pixels:
        picture[row // 2, column // 2] -= 0.25
    return picture


def test_all_rasterizers_draw_the_golden_pictures():
    assert tuple(FAMILIES) == FAMILY_NAMES
    reference = np.stack([draw(stroke) for stroke in PARAMS])
    assert reference.dtype == np.float32
    strokes = torch.from_numpy(PARAMS)
    for drawn in (reference, draw_batch(strokes).numpy(),
                  draw_tensor(bezier_discs(strokes)).numpy()):
        assert np.abs(drawn - PICTURES).max() <= 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_all_rasterizers_agree(family):
    strokes = random_strokes(96, 128)
    reference = np.stack([draw(stroke, family=family) for stroke in strokes])
    shapes = FAMILIES[family].place(torch.from_numpy(strokes), 128)
    batch = draw_batch(torch.from_numpy(strokes), family).numpy()
    tensor = draw_tensor(shapes).numpy()
    assert reference.shape == (96, 128, 128)
    assert np.abs(batch - reference).max() <= 1e-6
    assert np.abs(tensor - reference).max() <= 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_family_reads_only_its_numbers(family):
    points, _, radii, opacities, _ = FAMILIES[family]
    used = {*range(2 * points), *range(6, 6 + radii), *range(8, 8 + opacities)}
    strokes = torch.from_numpy(np.random.default_rng(1).random((8, 10)))
    drawn = draw_batch(strokes, family=family)
    for number in range(10):
        other = strokes.clone()
        other[:, number] = 1 - other[:, number]
        changed = draw_batch(other, family=family) != drawn
        assert changed.any() == (number in used), number


def test_opaque_family_ignores_opacity():
    strokes = random_strokes(8, 1)
    opaque = strokes.copy()
    opaque[:, 8:] = 1
    for stroke, opaque_stroke in zip(strokes, opaque, strict=True):
        assert np.array_equal(draw(stroke, family="bezierwotrans"), draw(opaque_stroke))


def test_slanted_triangle_by_hand():
    """With corners (0, 0), (3, 1), (1, 4)."""
    pixels = [(0, 0), (1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1)]
    stroke = triangle((0, 0), (3, 1), (1, 4), opacity=0.5)
    assert np.array_equal(draw(stroke, family="triangle"), 0.5 + 0.5 * covered(*pixels))


@pytest.mark.parametrize(("corners", "pixels"), [
    (((2, 2), (2, 6), (6, 2)), CLOSED), (((2, 6), (2, 2), (6, 2)), CLOSED),  # both ways round
    (((10, 10), (14, 12), (10, 10)), [(10, 10), (12, 11), (14, 12)]),
    (((14, 12), (12, 11), (10, 10)), [(10, 10), (12, 11), (14, 12)]),
    (((7, 3), (7, 6), (7, 4)), [(7, 3), (7, 4), (7, 5), (7, 6)]),
    (((3, 7), (5, 7), (4, 7)), [(3, 7), (4, 7), (5, 7)]),
    (((255, 255), (254, 0), (255, 255)), [(255, 255), (254, 0)]),
    (((9, 9), (9, 9), (9, 9)), [(9, 9)]),
])
def test_triangle_includes_the_pixels_on_its_sides(corners, pixels):
    stroke = triangle(*corners)
    assert np.array_equal(draw(stroke, family="triangle"), covered(*pixels))
    batch = draw_batch(torch.from_numpy(stroke[None]), family="triangle")[0]
    assert np.array_equal(batch, covered(*pixels))


def test_smallest_round_is_a_plus_of_five_pixels():
    stroke = np.array([10 / 255, 20 / 255, *4 * (0.9,), 0, 0.9, 1, 0.1])
    plus = covered((10, 20), (9, 20), (11, 20), (10, 19), (10, 21))
    assert np.array_equal(draw(stroke, family="round"), plus)


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_at_fractional_widths_are_placed_on_whole_pixels(family):
    strokes = torch.from_numpy(random_strokes(16, 2))
    place = FAMILIES[family].place
    assert all(map(torch.equal, place(strokes, 128), place(strokes, 128.0)))
    shapes = place(strokes, 128 * 1.37)
    rows, columns = shapes[:2]
    scale = 256 * 1.37 - 1 if family == "triangle" else 255 * 1.37
    start = (strokes[:, :2].numpy() * scale + 0.5).astype(int)
    assert np.array_equal(torch.stack((rows, columns), 2)[:, 0], start)
    assert all(torch.equal(part, part.trunc()) for part in shapes[:-1])


@pytest.mark.parametrize("width", [128, 296, 512, 1000])
def test_triangles_cover_pictures_of_any_width_to_the_border(width):
    """Corners in the border pixels at width 128 lie in the border pixels at any width."""
    for low, high in ((0, 1), (0.4 / 255, 254.6 / 255)):
        corners = [(low, low), (low, high), (high, high), (high, low)]
        halves = [np.ravel(corners[:k] + corners[k + 1 :]) for k in range(4)]
        pictures = [draw([*half, 0, 0, 1, 1], width, "triangle") for half in halves]
        picture = np.min(pictures, 0)
        assert picture[[0, -1]].max() == picture[:, [0, -1]].max() == 0


@pytest.mark.parametrize(("family", "width", "largest"), [
    ("bezier", 256, 0.0004), ("bezier", 512, 0.0004), ("bezier", 1024, 0.0004),
    ("bezierwotrans", 512, 0.0008), ("triangle", 512, 0.0002), ("round", 512, 0.0002),
])
def test_wide_picture_reduced_matches_the_small_one(family, width, largest):
    """The mean squared errors stated in the README, thin strokes included."""
    strokes = np.random.default_rng(9).random((30, 10))
    strokes[:10, 6:8] *= 0.05
    small = draw_batch(torch.from_numpy(strokes), family=family).numpy()
    for part in (slice(10), slice(10, None)):
        reduced = np.stack([
            cv2.resize(draw(stroke, width, family), (128, 128), interpolation=cv2.INTER_AREA)
            for stroke in strokes[part]
        ])
        assert np.square(reduced - small[part]).mean() <= largest
