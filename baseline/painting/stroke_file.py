"""Stroke files: the strokes of a painting as JSON, in coordinates of the whole picture.

One object, each stroke on a line of its own:

``version``  1
``family``  the strokes' family, a name in ``FAMILIES``
``height``, ``width``  of the picture that was painted, pixels
``canvas_height``, ``canvas_width``  of the canvas that it was squashed to for painting, pixels
``settings``  an object, whatever is worth keeping of how the strokes came about
``tiles``, ``clips``  lists of [top, left, bottom, right] in pixels of the picture.  A tile is a
    square of the canvas; nothing of a stroke is painted outside its clip rectangle
``strokes``  a list in painting order of objects with those of these keys that the family has:
    ``rows``, ``columns``  of P0, P1, P2 (of ``round``: of the centre), none relative to another
    ``radius_rows``, ``radius_columns``  the radius at P0 and at P2 (of ``round``: the radius)
        along rows and along columns; they differ where the canvas is a squashed picture
    ``opacity``  at P0 and at P2 (other families: everywhere), 0 .. 1
    ``rgb``  red, green and blue, 0 .. 1
    ``tile``, ``clip``  indices from 0 in ``tiles`` and ``clips``

All lengths are fractions of pixels of the picture, (0, 0) its top left corner.  A point has
``row = (top + x * width of the tile) * height / canvas_height`` with x of the stroke's numbers,
a radius is ``(1 + 64 z) / 256`` of the tile's width.  Numbers are written so that reading gives
the stroke's numbers back in float32.  What a stroke's numbers cannot tell (points outside the
tile, P1 outside the box of P0 and P2 in families where it is relative to that, radii outside
1/256 .. 65/256 of the tile) is refused.
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
    """What lengths on the canvas along rows and columns grow by on the picture."""
    return np.array(picture_size) / (strokes.height, strokes.width)


def absolute_points(strokes: Strokes) -> np.ndarray:
    """The strokes' points (n, points, 2) float64, rows and columns, in canvas pixels."""
    family = FAMILIES[strokes.family]
    points = strokes.shapes[:, : 2 * family.points].astype(float).reshape(-1, family.points, 2)
    if family.relative:
        points[:, 1] = points[:, 0] + (points[:, 2] - points[:, 0]) * points[:, 1]
    return strokes.tiles[:, None, :2] + points * strokes.tiles[:, None, 2:]


def _lines(
    strokes: Strokes, picture_size: tuple[int, int], settings: dict[str, Any]
) -> Iterator[str]:
    """The lines of a stroke file."""
    family = FAMILIES[strokes.family]
    scale = picture_scale(strokes, picture_size)
    squares = np.concatenate(
        [strokes.tiles[:, :2], strokes.tiles[:, :2] + strokes.tiles[:, 2:]], 1)
    tiles, tile = np.unique(squares, axis=0, return_inverse=True)
    clips, clip = np.unique(strokes.clips, axis=0, return_inverse=True)
    points = absolute_points(strokes) * scale
    z = strokes.shapes[:, 6 : 6 + family.radii, None].astype(float)
    radii = (1 + 64 * z) / 256 * strokes.tiles[:, None, 2:] * scale  # (n, radii, 2)
    values = {
        "rows": points[..., 0], "columns": points[..., 1],
        "radius_rows": radii[..., 0], "radius_columns": radii[..., 1],
        "opacity": _shortest(strokes.shapes[:, 8 : 8 + family.opacities]),
        "rgb": _shortest(strokes.colors[:, ::-1]),
        "tile": tile.reshape(-1), "clip": clip.reshape(-1),
    }
    lists = [values[key].tolist() for key in _keys(family)]
    sizes = (*picture_size, strokes.height, strokes.width)
    head = {"version": VERSION, "family": strokes.family} | dict(zip(LARGEST, sizes, strict=True))
    yield f"{json.dumps(head)[:-1]},"
    yield f'"settings": {json.dumps(settings, default=str)},'
    for name, areas in (("tiles", tiles), ("clips", clips)):
        yield f'"{name}": {json.dumps((areas * np.tile(scale, 2)).tolist())},'
    yield '"strokes": ['
    for number, row in enumerate(zip(*lists, strict=True), 1):
        line = json.dumps(dict(zip(_keys(family), row, strict=True)), separators=(",", ":"))
        yield line + "," * (number < len(strokes))
    yield "]}"


def _shortest(values: np.ndarray) -> np.ndarray:
    """The float64 numbers with the fewest digits that are these in float32."""
    return values.astype(np.float32).astype(str).astype(float)


def _keys(family: Family) -> list[str]:
    """The keys of a stroke."""
    radii = ["radius_rows", "radius_columns"] * (family.radii > 0)
    return ["rows", "columns", *radii, *["opacity"] * (family.opacities > 0),
            "rgb", "tile", "clip"]


def read_json(path: Path) -> tuple[Strokes, tuple[int, int], dict[str, Any]]:
    """Read a stroke file.  Returns the strokes, the picture's height and width, the settings.

    Raises UserError where the file is not there or is in any way not as it should be.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise Flaw(f"more than {LARGEST_FILE >> 20} MiB")
        try:
            content = json.loads(data)  # in UTF-8, 16 or 32, with a byte order mark or without
        except (ValueError, RecursionError) as error:
            raise Flaw(f"not JSON ({error})") from error
        return _read(content)
    except OSError as error:
        raise UserError(f"cannot read the strokes {path}: {error.strerror or error}") from error
    except Flaw as error:
        raise UserError(f"{path} is not a stroke file: {error}") from error


def _read(content: Any) -> tuple[Strokes, tuple[int, int], dict[str, Any]]:
    """What the file holds, checked."""
    if not isinstance(content, dict) or "version" not in content:
        raise Flaw("no object with a version")
    if content["version"] != VERSION:
        raise Flaw(f"it has version {shown(content['version'])}, this program reads {VERSION}")
    name = content.get("family")
    if not isinstance(name, str) or name not in FAMILIES:
        raise Flaw(f"no family {shown(name)}; there are {', '.join(FAMILIES)}")
    for key, largest in LARGEST.items():
        if not _is_whole(content.get(key)) or not 1 <= content[key] <= largest:
            raise Flaw(f"{key} is not a whole number from 1 to {largest}")
    height, width, canvas_height, canvas_width = (int(content[key]) for key in LARGEST)
    if not isinstance(content.get("settings"), dict):
        raise Flaw("settings is no object")
    scale = np.array([height / canvas_height, width / canvas_width])
    tiles, clips = (_areas(content.get(key), key, scale) for key in ("tiles", "clips"))
    widths = tiles[:, 2:] - tiles[:, :2]
    _check(widths[:, 0] != widths[:, 1], "tile", "is not a square of the canvas")
    _check((tiles[:, :2] < 0) | (tiles[:, 2:] > (canvas_height, canvas_width)), "tile",
           "leaves the canvas")
    low, high = clips[:, :2], clips[:, 2:]
    _check((low < 0) | (high > (canvas_height, canvas_width)), "clip", "leaves the canvas")
    strokes = content.get("strokes")
    if not isinstance(strokes, list):
        raise Flaw("strokes is no list")
    keys = _keys(FAMILIES[name])  # others are another program's, but for those of other families
    others = {key for family in FAMILIES.values() for key in _keys(family)} - set(keys)
    for number, stroke in enumerate(strokes, 1):
        if not isinstance(stroke, dict) or set(keys) - stroke.keys() or others & stroke.keys():
            raise Flaw(f"stroke {number} is no object of {', '.join(keys)}")
    tile = _indices(strokes, "tile", tiles)
    clip = _indices(strokes, "clip", clips)
    squares = np.concatenate([tiles[:, :2], widths[:, :1]], 1)[tile]  # (n, 3)
    shapes = _shapes(strokes, FAMILIES[name], squares, scale)
    colours = _numbers(strokes, "rgb", 3)
    _check((colours < 0) | (colours > 1), "stroke", "has an rgb outside 0 .. 1")
    return Strokes(name, canvas_height, canvas_width, shapes.astype(np.float32),
                   colours[:, ::-1].astype(np.float32), squares, clips[clip],
                   ), (height, width), content["settings"]


def _shapes(
    strokes: list[dict], family: Family, tiles: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """The shape numbers (n, 10) float64 of strokes in those tiles (n, 3)."""
    corner, width = tiles[:, None, :2], tiles[:, None, 2:]  # (n, 1, 2), (n, 1, 1)
    shapes = np.zeros((len(strokes), SHAPE_DIM))
    points = np.stack([_numbers(strokes, key, family.points) for key in ("rows", "columns")], 2)
    points = (points / scale - corner) / width  # (n, points, 2)
    ends = _within(points, "has a point outside its tile")
    if family.relative:
        first, middle, last = ends[:, 0], points[:, 1], ends[:, 2]
        low, high = np.minimum(first, last), np.maximum(first, last)
        _check((middle < low - SLACK) | (middle > high + SLACK), "stroke",
               "has its point P1 outside the box of P0 and P2, which its numbers cannot tell")
        span = np.where(first == last, 1, last - first)
        share = np.where(abs(middle - last) < ROUNDING, 1, (middle - first) / span)
        ends[:, 1] = np.where(abs(middle - first) < ROUNDING, 0, share).clip(0, 1)
    shapes[:, : 2 * family.points] = ends.reshape(-1, 2 * family.points)
    if family.radii:
        both = np.stack([_numbers(strokes, key, family.radii)
                         for key in ("radius_rows", "radius_columns")], 2)
        rows, columns = np.moveaxis((both / scale / width * 256 - 1) / 64, 2, 0)  # (n, radii)
        _check(abs(rows - columns) > SLACK, "stroke", "has radii along rows and columns that "
               "do not make a disc on the canvas")
        shapes[:, 6 : 6 + family.radii] = _within(
            rows, "has a radius outside 1/256 .. 65/256 of its tile")
    if family.opacities:
        opacity = _numbers(strokes, "opacity", family.opacities)
        _check((opacity < 0) | (opacity > 1), "stroke", "has an opacity outside 0 .. 1")
        shapes[:, 8 : 8 + family.opacities] = opacity
    return shapes


def _within(values: np.ndarray, flaw: str) -> np.ndarray:
    """Values (n, ..) clipped to what float32 holds of [0, 1], a little slack let pass."""
    _check((values < -SLACK) | (values > 1 + SLACK), "stroke", flaw)
    return values.clip(0, 1).astype(np.float32).astype(float)


def _numbers(records: list[dict], key: str, length: int, what: str = "stroke") -> np.ndarray:
    """The lists under a key as (n, length) float64."""
    for number, record in enumerate(records, 1):
        row = record[key]
        if type(row) is not list or len(row) != length or not all(
                type(v) in (int, float) and abs(v) <= LARGEST_NUMBER for v in row):
            raise Flaw(f"{key} of {what} {number} is no list of {length} sensible numbers")
    return np.array([record[key] for record in records], float).reshape(-1, length)


def _indices(strokes: list[dict], key: str, areas: np.ndarray) -> np.ndarray:
    """The indices (n,) int64 in a list of that many areas."""
    for number, stroke in enumerate(strokes, 1):
        if not _is_whole(stroke[key]) or not 0 <= stroke[key] < len(areas):
            raise Flaw(f"{key} of stroke {number} is not in the list of them")
    return np.array([stroke[key] for stroke in strokes], np.int64)


def _areas(areas: Any, key: str, scale: np.ndarray) -> np.ndarray:
    """Rectangles of the picture as (n, 4) int64 of the canvas."""
    if not isinstance(areas, list):
        raise Flaw(f"{key} is no list")
    exact = _numbers([{"place": area} for area in areas], "place", 4, key[:-1])
    exact = exact / np.tile(scale, 2)
    whole = exact.round()
    _check(abs(exact - whole) > 0.01, key[:-1], "does not end at whole pixels of the canvas")
    _check(whole[:, :2] >= whole[:, 2:], key[:-1], "is empty")
    return whole.astype(np.int64)


def _is_whole(value: Any) -> bool:
    """Whether JSON holds a whole number there, as 3.0 is too."""
    return type(value) is int or (type(value) is float and value.is_integer())


def _check(bad: np.ndarray, what: str, flaw: str) -> None:
    """Raise Flaw where anything is bad, (n, ..) bool, naming the first of the n."""
    rows = bad.any(tuple(range(1, bad.ndim)))
    if rows.any():
        raise Flaw(f"{what} {1 + int(rows.argmax())} {flaw}")
