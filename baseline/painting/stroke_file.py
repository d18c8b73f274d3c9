"""Stroke files: the strokes of a painting as JSON, in coordinates of the whole picture.

One object, each stroke on a line of its own:

``version``  1
``family``  the strokes' family, a name in ``FAMILIES``
``height``, ``width``  of the picture that was painted, pixels
``canvas_height``, ``canvas_width``  of the canvas that it was squashed to for painting, pixels
``settings``  an object, how the strokes came about
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
a radius is ``(1 + 64 z) / 256`` of the tile's width.  Reading gives these numbers back in float32.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from reprlib import repr as shorten
from typing import Any

import numpy as np

from Renderer.stroke_gen import FAMILIES, SHAPE_DIM, Family
from Renderer.strokes import Strokes
from utils.command import UserError
from utils.files import refusing, write_atomically

VERSION = 1
MAX_SIZE = {"height": 2**20, "width": 2**20, "canvas_height": 2**13, "canvas_width": 2**13}
LENGTHS = (-(2**22), 2**22)  # pixels of the picture, least and most
MAX_FILE_SIZE = 2**28  # bytes
TOLERANCE = 1e-4  # of a tile, by which numbers typed by hand may lie outside their range
ROUNDING_ERROR = 1e-11  # of a tile, more than float64 makes
RADII = slice(6, 8)  # of the shape numbers
OPACITIES = slice(8, 10)


def write_json(
    path: Path, strokes: Strokes, picture_size: tuple[int, int], settings: dict[str, Any]
) -> None:
    """Write strokes that painted a picture of that height and width, whole or not at all."""
    scale = np.array(picture_size) / (strokes.height, strokes.width)
    squares = np.hstack((strokes.tiles[:, :2], strokes.tiles[:, :2] + strokes.tiles[:, 2:]))
    tiles, tile = np.unique(squares, axis=0, return_inverse=True)
    clips, clip = np.unique(strokes.clips, axis=0, return_inverse=True)
    points, radii = absolute_points(strokes) * scale, absolute_radii(strokes)
    opacities = strokes.shapes[:, OPACITIES][:, : FAMILIES[strokes.family].opacities]
    values = {
        "rows": points[..., 0], "columns": points[..., 1],
        "radius_rows": radii * scale[0], "radius_columns": radii * scale[1],
        # Through str: the fewest digits that float32 is read back from.
        "opacity": opacities.astype(str).astype(float),
        "rgb": strokes.colors[:, ::-1].astype(str).astype(float),
        "tile": tile.reshape(-1), "clip": clip.reshape(-1)}
    values = {key: value.tolist() for key, value in values.items() if value.shape[-1]}
    lines = [json.dumps(dict(zip(values, row, strict=True)), separators=(",", ":"))
             for row in zip(*values.values(), strict=True)]
    sizes = zip(MAX_SIZE, (*picture_size, strokes.height, strokes.width), strict=True)
    head = {"version": VERSION, "family": strokes.family, **dict(sizes)}
    areas = {"tiles": tiles, "clips": clips}
    write_lines(path, [
        f"{json.dumps(head)[:-1]},",
        f'"settings": {json.dumps(settings, default=str)},',
        *(f'"{name}": {json.dumps((area * np.tile(scale, 2)).tolist())},'
          for name, area in areas.items()),
        '"strokes": [', *(f"{line}," for line in lines[:-1]), *lines[-1:], "]}"])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines of text, whole or not at all."""
    write_atomically(path, lambda file: file.writelines(f"{line}\n".encode() for line in lines))


def absolute_points(strokes: Strokes) -> np.ndarray:
    """Return the strokes' points (n, points, 2) float64, rows and columns, in canvas pixels."""
    family = FAMILIES[strokes.family]
    points = strokes.shapes[:, : 2 * family.points].astype(float).reshape(-1, family.points, 2)
    if family.relative:
        points[:, 1] = points[:, 0] + (points[:, 2] - points[:, 0]) * points[:, 1]
    return strokes.tiles[:, None, :2] + points * strokes.tiles[:, None, 2:]


def absolute_radii(strokes: Strokes) -> np.ndarray:
    """Return the strokes' radii (n, radii) float64 in canvas pixels."""
    z = strokes.shapes[:, RADII][:, : FAMILIES[strokes.family].radii].astype(float)
    return (1 + 64 * z) / 256 * strokes.tiles[:, 2:]


def read_json(path: Path) -> tuple[Strokes, tuple[int, int], dict[str, Any]]:
    """Read a stroke file; return the strokes, the picture's height and width, the settings.

    Raises UserError where the file is missing or differs in any way from the format.
    """
    with refusing(f"cannot read the strokes {path}"), open(path, "rb") as file:
        data = file.read(MAX_FILE_SIZE + 1)
    try:
        _require(len(data) <= MAX_FILE_SIZE, f"more than {MAX_FILE_SIZE >> 20} MiB")
        return _strokes(json.loads(data))  # in UTF-8, 16 or 32, with a byte order mark or without
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a stroke file: {error}") from error


def _strokes(content: Any) -> tuple[Strokes, tuple[int, int], dict[str, Any]]:
    """Return what the JSON of a file holds; raise ValueError where it is not in the format."""
    _require(isinstance(content, dict) and "version" in content, "no object with a version")
    _require(content["version"] == VERSION,
             f"it has version {shorten(content['version'])}, this program reads {VERSION}")
    name = content.get("family")
    _require(isinstance(name, str) and name in FAMILIES,
             f"no family {shorten(name)}; there are {', '.join(FAMILIES)}")
    for key, largest in MAX_SIZE.items():
        _require(_is_whole(content.get(key), 1, largest),
                 f"{key} is not a whole number from 1 to {largest}")
    _require(isinstance(content.get("settings"), dict), "settings is no object")
    for key in ("tiles", "clips", "strokes"):
        _require(isinstance(content.get(key), list), f"{key} is no list")
    height, width, *canvas = (int(content[key]) for key in MAX_SIZE)
    scale = np.array([height, width]) / canvas
    areas = []  # (n, 4) int64 each, of the canvas
    for what in ("tile", "clip"):
        exact = _numbers(content[f"{what}s"], 4, what, LENGTHS) / np.tile(scale, 2)
        whole = exact.round()
        _refuse((abs(exact - whole) > 0.01) | np.tile(whole[:, :2] >= whole[:, 2:], 2),
                f"{what} {{}} is empty, or does not end at whole pixels of the canvas")
        areas.append(whole.astype(np.int64))
    tiles, clips = areas
    sides = tiles[:, 2:] - tiles[:, :2]
    _refuse((sides != sides[:, :1]) | (sides > MAX_SIZE["canvas_width"])
            | (tiles[:, :2] >= canvas) | (tiles[:, 2:] <= 0), "tile {} is no square on the canvas")
    _refuse((clips[:, :2] < 0) | (clips[:, 2:] > canvas), "clip {} leaves the canvas")
    records, family = content["strokes"], FAMILIES[name]
    for number, record in enumerate(records, 1):
        _require(isinstance(record, dict), f"stroke {number} is no object")
        for key, listed in (("tile", tiles), ("clip", clips)):
            _require(_is_whole(record.get(key), 0, len(listed) - 1),
                     f"{key} of stroke {number} is not in the list of them")
    tile, clip = (np.array([record[key] for record in records], np.int64)
                  for key in ("tile", "clip"))
    squares = np.hstack((tiles[:, :2], sides[:, :1]))[tile]  # (n, 3)
    lengths = {"rows": family.points, "columns": family.points, "radius_rows": family.radii,
               "radius_columns": family.radii, "opacity": family.opacities, "rgb": 3}
    values = {  # of keys that the family lacks: none
        key: _numbers([record.get(key, []) for record in records], length, f"{key} of stroke",
                      (0, 1) if key in ("opacity", "rgb") else LENGTHS)
        for key, length in lengths.items()}
    strokes = Strokes(name, *canvas, _shapes(values, family, squares, scale),
                      values["rgb"][:, ::-1].astype(np.float32), squares, clips[clip])
    return strokes, (height, width), content["settings"]


def _shapes(
    values: dict[str, np.ndarray], family: Family, tiles: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """Return the shape numbers (n, 10) float32 of strokes in those tiles (n, 3)."""
    corner, width = tiles[:, None, :2], tiles[:, None, 2:]  # (n, 1, 2), (n, 1, 1)
    points = np.stack((values["rows"], values["columns"]), 2)
    points = (points / scale - corner) / width  # (n, points, 2)
    radii = np.stack((values["radius_rows"], values["radius_columns"]), 2)
    radii = (radii / scale / width * 256 - 1) / 64  # (n, radii, 2)
    for numbers, flaw in ((points, "a point outside its tile"),
                          (radii, "a radius outside 1/256 .. 65/256 of its tile")):
        _refuse((numbers < -TOLERANCE) | (numbers > 1 + TOLERANCE), f"stroke {{}} has {flaw}")
    _refuse(np.ptp(radii, 2) > TOLERANCE, "stroke {} has radii that make no disc on the canvas")
    ends, radii = (numbers.clip(0, 1).astype(np.float32).astype(float)
                   for numbers in (points, radii))
    if family.relative:
        first, middle, last = ends[:, 0], points[:, 1], ends[:, 2]
        low, high = np.minimum(first, last), np.maximum(first, last)
        _refuse((middle < low - TOLERANCE) | (middle > high + TOLERANCE),
                "stroke {} has its point P1 outside the box of P0 and P2")
        fraction = (middle - first) / np.where(first == last, 1, last - first)
        fraction = np.where(abs(middle - last) < ROUNDING_ERROR, 1, fraction)
        ends[:, 1] = np.where(abs(middle - first) < ROUNDING_ERROR, 0, fraction).clip(0, 1)
    shapes = np.zeros((len(tiles), SHAPE_DIM), np.float32)
    shapes[:, : 2 * family.points] = ends.reshape(-1, 2 * family.points)
    shapes[:, RADII][:, : family.radii] = radii[..., 0]
    shapes[:, OPACITIES][:, : family.opacities] = values["opacity"]
    return shapes


def _numbers(rows: list, length: int, what: str, limits: tuple[int, int]) -> np.ndarray:
    """Return lists of numbers within limits as (n, length) float64."""
    low, high = limits
    for number, row in enumerate(rows, 1):
        _require(type(row) is list and len(row) == length
                 and all(type(v) in (int, float) and low <= v <= high for v in row),
                 f"{what} {number} is no list of {length} numbers from {low} to {high}")
    return np.array(rows, float).reshape(len(rows), length)


def _is_whole(value: Any, low: int, high: int) -> bool:
    """Return whether a value of JSON is a whole number within limits, like 3 or 3.0."""
    return type(value) in (int, float) and low <= value <= high and value % 1 == 0


def _require(condition: bool, flaw: str) -> None:
    """Raise ValueError where a condition does not hold."""
    if not condition:
        raise ValueError(flaw)


def _refuse(bad: np.ndarray, flaw: str) -> None:
    """Raise ValueError where anything is bad, (n, ..) bool; the flaw names the first of the n."""
    if bad.any():
        raise ValueError(flaw.format(np.argwhere(bad)[0, 0] + 1))
