"""Stroke files: the strokes of a painting as JSON, in coordinates of the whole picture.

One object, each stroke on a line of its own:

``version``  1
``family``  the strokes' family, a name in ``FAMILIES``
``height``, ``width``  of the picture that was painted, pixels
``canvas_height``, ``canvas_width``  of the canvas that it was squashed to for painting, pixels
``settings``  an object, whatever is worth keeping of how the strokes came about
``tiles``, ``clips``  lists of [top, left, bottom, right] in pixels of the picture.  A tile is a
    square of the canvas and may reach beyond it; a clip rectangle is what a stroke is cut off at
``strokes``  a list in painting order of objects with those of these keys that the family has:
    ``rows``, ``columns``  of P0, P1, P2 (of ``round``: of the center), none relative to another
    ``radius_rows``, ``radius_columns``  the radius at P0 and at P2 (of ``round``: the radius)
        along rows and along columns; they differ where the canvas is a squashed picture
    ``opacity``  at P0 and at P2 (other families: everywhere), 0 .. 1
    ``rgb``  red, green and blue, 0 .. 1
    ``tile``, ``clip``  indices from 0 in ``tiles`` and ``clips``

Lengths are in pixels of the picture from its top left corner, and may be fractions.  A point has
``row = (top + x * width of the tile) * height / canvas_height`` with x of the stroke's numbers,
a radius is ``(1 + 64 z) / 256`` of the tile's width.  Reading gives the stroke's numbers back in
float32.  What they cannot tell (points outside the tile, P1 outside the box of P0 and P2 where it
is relative to that, radii outside 1/256 .. 65/256 of the tile) is refused.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from reprlib import repr as shown
from typing import Any

import numpy as np

from Renderer.stroke_gen import FAMILIES, SHAPE_DIM, Family
from Renderer.strokes import Strokes
from utils.command import UserError
from utils.files import write_atomically

VERSION = 1
LARGEST = {"height": 2**20, "width": 2**20, "canvas_height": 2**13, "canvas_width": 2**13}  # pixels
LARGEST_NUMBER = 2**22  # that lengths come near to
LARGEST_FILE = 2**28  # bytes
SLACK = 1e-4  # of a tile, by which numbers typed by hand may stray beyond its ends
ROUNDING = 1e-11  # of a tile, more than float64 loses on the way


class Flaw(Exception):
    """What is wrong in a stroke file."""


def write_json(
    path: Path, strokes: Strokes, picture_size: tuple[int, int], settings: dict[str, Any]
) -> None:
    """Write strokes that painted a picture of that height and width, whole or not at all."""
    write_lines(path, _lines(strokes, picture_size, settings))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines of text, whole or not at all."""
    write_atomically(path, lambda file: file.writelines(f"{line}\n".encode() for line in lines))


def picture_scale(strokes: Strokes, picture_size: tuple[int, int]) -> np.ndarray:
    """Return what lengths on the canvas along rows and columns grow by on the picture."""
    return np.array(picture_size) / (strokes.height, strokes.width)


def absolute_points(strokes: Strokes) -> np.ndarray:
    """Return the strokes' points (n, points, 2) float64, rows and columns, in canvas pixels."""
    family = FAMILIES[strokes.family]
    points = strokes.shapes[:, : 2 * family.points].astype(float).reshape(-1, family.points, 2)
    if family.relative:
        points[:, 1] = points[:, 0] + (points[:, 2] - points[:, 0]) * points[:, 1]
    return strokes.tiles[:, None, :2] + points * strokes.tiles[:, None, 2:]


def _lines(
    strokes: Strokes, picture_size: tuple[int, int], settings: dict[str, Any]
) -> Iterator[str]:
    """Yield the lines of a stroke file."""
    family = FAMILIES[strokes.family]
    scale = picture_scale(strokes, picture_size)
    squares = np.hstack((strokes.tiles[:, :2], strokes.tiles[:, :2] + strokes.tiles[:, 2:]))
    tiles, tile = np.unique(squares, axis=0, return_inverse=True)
    clips, clip = np.unique(strokes.clips, axis=0, return_inverse=True)
    points = absolute_points(strokes) * scale
    z = strokes.shapes[:, 6 : 6 + family.radii, None].astype(float)
    radii = (1 + 64 * z) / 256 * strokes.tiles[:, None, 2:] * scale  # (n, radii, 2)
    values = {  # of float32 with the fewest digits that tell them
        "rows": points[..., 0], "columns": points[..., 1],
        "radius_rows": radii[..., 0], "radius_columns": radii[..., 1],
        "opacity": strokes.shapes[:, 8 : 8 + family.opacities].astype(str).astype(float),
        "rgb": strokes.colors[:, ::-1].astype(str).astype(float),
        "tile": tile.reshape(-1), "clip": clip.reshape(-1),
    }
    keys, sizes = _keys(family), (*picture_size, strokes.height, strokes.width)
    head = {"version": VERSION, "family": strokes.family} | dict(zip(LARGEST, sizes, strict=True))
    yield f"{json.dumps(head)[:-1]},"
    yield f'"settings": {json.dumps(settings, default=str)},'
    for name, areas in (("tiles", tiles), ("clips", clips)):
        yield f'"{name}": {json.dumps((areas * np.tile(scale, 2)).tolist())},'
    yield '"strokes": ['
    for number, row in enumerate(zip(*(values[key].tolist() for key in keys), strict=True), 1):
        line = json.dumps(dict(zip(keys, row, strict=True)), separators=(",", ":"))
        yield line + "," * (number < len(strokes))
    yield "]}"


def _keys(family: Family) -> list[str]:
    """Return the keys of a stroke."""
    return ["rows", "columns", *["radius_rows", "radius_columns"] * (family.radii > 0),
            *["opacity"] * (family.opacities > 0), "rgb", "tile", "clip"]


def read_json(path: Path) -> tuple[Strokes, tuple[int, int], dict[str, Any]]:
    """Read a stroke file; return the strokes, the picture's height and width, the settings.

    Raises UserError where the file is missing or differs in any way from the format.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
        _require(len(data) <= LARGEST_FILE, f"more than {LARGEST_FILE >> 20} MiB")
        return _strokes(json.loads(data))  # in UTF-8, 16 or 32, with a byte order mark or without
    except OSError as error:
        raise UserError(f"cannot read the strokes {path}: {error.strerror or error}") from error
    except Flaw as error:
        raise UserError(f"{path} is not a stroke file: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a stroke file: not JSON ({error})") from error


def _strokes(content: Any) -> tuple[Strokes, tuple[int, int], dict[str, Any]]:
    """Return what a file holds, checked."""
    _require(isinstance(content, dict) and "version" in content, "no object with a version")
    _require(content["version"] == VERSION,
             f"it has version {shown(content['version'])}, this program reads {VERSION}")
    name = content.get("family")
    _require(isinstance(name, str) and name in FAMILIES,
             f"no family {shown(name)}; there are {', '.join(FAMILIES)}")
    for key, largest in LARGEST.items():
        _require(_is_whole(content.get(key)) and 1 <= content[key] <= largest,
                 f"{key} is not a whole number from 1 to {largest}")
    _require(isinstance(content.get("settings"), dict), "settings is no object")
    height, width, *canvas = (int(content[key]) for key in LARGEST)
    scale = np.array([height, width]) / canvas
    tiles, clips = (_areas(content.get(key), key, scale) for key in ("tiles", "clips"))
    sides = tiles[:, 2:] - tiles[:, :2]
    _check(sides[:, 0] != sides[:, 1], "tile", "is not a square of the canvas")
    _check(sides > LARGEST["canvas_width"], "tile", "is larger than any canvas")
    _check((tiles[:, :2] >= canvas) | (tiles[:, 2:] <= 0), "tile", "lies outside the canvas")
    _check((clips[:, :2] < 0) | (clips[:, 2:] > canvas), "clip", "leaves the canvas")
    records = content.get("strokes")
    _require(isinstance(records, list), "strokes is no list")
    keys = _keys(FAMILIES[name])  # others are another program's, but for those of other families
    others = {key for family in FAMILIES.values() for key in _keys(family)} - set(keys)
    for number, record in enumerate(records, 1):
        _require(isinstance(record, dict) and not set(keys) - record.keys()
                 and not others & record.keys(),
                 f"stroke {number} is no object of {', '.join(keys)}")
        for key, areas in (("tile", tiles), ("clip", clips)):
            _require(_is_whole(record[key]) and 0 <= record[key] < len(areas),
                     f"{key} of stroke {number} is not in the list of them")
    tile, clip = (np.array([record[key] for record in records], np.int64)
                  for key in ("tile", "clip"))
    squares = np.hstack((tiles[:, :2], sides[:, :1]))[tile]  # (n, 3)
    shapes = _shapes(records, FAMILIES[name], squares, scale)
    colors = _numbers(records, "rgb", 3)[:, ::-1]
    _check((colors < 0) | (colors > 1), "stroke", "has an rgb outside 0 .. 1")
    return (Strokes(name, *canvas, shapes.astype(np.float32), colors.astype(np.float32), squares,
                    clips[clip]), (height, width), content["settings"])


def _shapes(
    records: list[dict], family: Family, tiles: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """Return the shape numbers (n, 10) float64 of strokes in those tiles (n, 3)."""
    corner, width = tiles[:, None, :2], tiles[:, None, 2:]  # (n, 1, 2), (n, 1, 1)
    shapes = np.zeros((len(records), SHAPE_DIM))
    points = np.stack([_numbers(records, key, family.points) for key in ("rows", "columns")], 2)
    points = (points / scale - corner) / width  # (n, points, 2)
    ends = _within(points, "has a point outside its tile")
    if family.relative:
        first, middle, last = ends[:, 0], points[:, 1], ends[:, 2]
        low, high = np.minimum(first, last), np.maximum(first, last)
        _check((middle < low - SLACK) | (middle > high + SLACK), "stroke",
               "has its point P1 outside the box of P0 and P2, which its numbers cannot tell")
        span = np.where(first == last, 1, last - first)
        fraction = np.where(abs(middle - last) < ROUNDING, 1, (middle - first) / span)
        ends[:, 1] = np.where(abs(middle - first) < ROUNDING, 0, fraction).clip(0, 1)
    shapes[:, : 2 * family.points] = ends.reshape(-1, 2 * family.points)
    if family.radii:
        both = np.stack([_numbers(records, key, family.radii)
                         for key in ("radius_rows", "radius_columns")], 2)
        rows, columns = np.moveaxis((both / scale / width * 256 - 1) / 64, 2, 0)  # (n, radii)
        _check(abs(rows - columns) > SLACK, "stroke", "has radii that make no disc on the canvas")
        shapes[:, 6 : 6 + family.radii] = _within(
            rows, "has a radius outside 1/256 .. 65/256 of its tile")
    if family.opacities:
        opacity = _numbers(records, "opacity", family.opacities)
        _check((opacity < 0) | (opacity > 1), "stroke", "has an opacity outside 0 .. 1")
        shapes[:, 8 : 8 + family.opacities] = opacity
    return shapes


def _within(values: np.ndarray, flaw: str) -> np.ndarray:
    """Return values (n, ..) clipped to what float32 holds of [0, 1]; allow SLACK."""
    _check((values < -SLACK) | (values > 1 + SLACK), "stroke", flaw)
    return values.clip(0, 1).astype(np.float32).astype(float)


def _numbers(records: list[dict], key: str, length: int, what: str = "stroke") -> np.ndarray:
    """Return the lists under a key as (n, length) float64."""
    rows = [record[key] for record in records]
    for k, row in enumerate(rows, 1):
        _require(type(row) is list and len(row) == length
                 and all(type(v) in (int, float) and abs(v) <= LARGEST_NUMBER for v in row),
                 f"{key} of {what} {k} is no list of {length} sensible numbers")
    return np.array(rows, float).reshape(-1, length)


def _areas(areas: Any, key: str, scale: np.ndarray) -> np.ndarray:
    """Return rectangles of the picture as (n, 4) int64 of the canvas."""
    _require(isinstance(areas, list), f"{key} is no list")
    what = key[:-1]
    exact = _numbers([{"place": area} for area in areas], "place", 4, what) / np.tile(scale, 2)
    whole = exact.round()
    _check(abs(exact - whole) > 0.01, what, "does not end at whole pixels of the canvas")
    _check(whole[:, :2] >= whole[:, 2:], what, "is empty")
    return whole.astype(np.int64)


def _is_whole(value: Any) -> bool:
    """Return whether JSON holds a whole number there, like 3 or 3.0."""
    return type(value) is int or (type(value) is float and value.is_integer())


def _require(right: bool, flaw: str) -> None:
    """Raise Flaw where something is not right."""
    if not right:
        raise Flaw(flaw)


def _check(bad: np.ndarray, what: str, flaw: str) -> None:
    """Raise Flaw where anything is bad, (n, ..) bool, naming the first of the n."""
    rows = bad.any(tuple(range(1, bad.ndim)))
    _require(not rows.any(), f"{what} {1 + int(rows.argmax()) if len(rows) else 0} {flaw}")
