"""Strokes as SVG: filled shapes, or the center lines that plotters draw.

A stroke of constant opacity is one path, the hulls of neighboring discs on its curve together.
Of varying opacity, it is a rectangle of its color behind a mask, in which later hulls replace
earlier ones as discs do.
"""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from constants import WIDTH
from painting.stroke_file import OPACITIES, absolute_points, absolute_radii, write_lines
from Renderer.stroke_gen import FAMILIES, corner_places
from Renderer.strokes import Strokes

FLATNESS = 0.1  # canvas pixels that straight pieces may miss a curve by
OPACITY_STEP = 1 / 64  # between the pieces of a stroke
MIN_MASKED_RANGE = 1 / 32  # of opacity; less is not worth a mask, which some viewers lack
MIN_CRESCENT = 0.25  # canvas pixels that a piece shows of a disc
LAST_T = 0.99  # of the last disc on a curve
# The rasterizer truncates discs that move by half a pixel of the double grid on average.  A disc
# that does not move is half a pixel off, less the larger the picture.  This is half of that.
STATIC_OFFSET = 1 / 8  # canvas pixels
GROUPS_PER_SECOND = 25  # of strokes that appear together in an animation
OUTLINE_WIDTH = 1.0  # picture pixels, of a triangle's sides in a plot
# Viewers that do not animate, or are told not to, show the finished painting.
ANIMATION = ("<style>@keyframes {0}{{from{{visibility:hidden}}}}@media(prefers-reduced-motion:"
             "no-preference){{.{0}>g{{animation:{0} 1ms backwards}}}}</style>")
XMLNS = 'xmlns="http://www.w3.org/2000/svg"'


def write_svg(
    path: Path, strokes: Strokes, picture_size: tuple[int, int], seconds: float | None = None,
    ground: tuple[int, int, int] | None = (0, 0, 0),
) -> None:
    """Write the painting of a picture of that height and width, whole or not at all.

    seconds: paint it stroke by stroke in that time, where the viewer can; then it stays.  ground:
    RGB of the bare canvas, 0 .. 255, or None: none, the page shines through.
    """
    height, width = picture_size
    down, across = height / strokes.height, width / strokes.width
    arrays = (np.array([*picture_size, seconds or 0], float), strokes.colors, strokes.tiles,
              strokes.clips)  # a page may hold several paintings
    prefix = "p" + hashlib.sha256(b"".join(each.tobytes() for each in arrays)).hexdigest()[:8]
    clips, clip_numbers = np.unique(strokes.clips, axis=0, return_inverse=True)
    elements = list(_elements(strokes, clip_numbers.reshape(-1), prefix))
    lines = [f'<svg {XMLNS} width="{width}" height="{height}" viewBox="0 0 {width} {height}">']
    if seconds is not None:
        lines.append(ANIMATION.format(prefix))
        together = max(1, math.ceil(len(strokes) / max(1, seconds * GROUPS_PER_SECOND)))
        elements = [line for first in range(0, len(strokes), together) for line in (
            f'<g style="animation-delay:{seconds * first / len(strokes):.2f}s">',
            *elements[first : first + together], "</g>")]
    if ground is not None:
        lines.append(f'<rect width="{width}" height="{height}" fill="#{bytes(ground).hex()}"/>')
    lines += [f'<clipPath id="{prefix}c{number}"><rect {_area(*clip)}/></clipPath>'
              for number, clip in enumerate(clips.tolist())]
    lines.append(f'<g class="{prefix}" transform="scale({across:.9g} {down:.9g})">')
    write_lines(path, [*lines, *elements, "</g></svg>"])


def write_plot(
    path: Path, strokes: Strokes, picture_size: tuple[int, int], millimetres: float | None = None
) -> None:
    """Write an SVG of the lines along which the strokes of a picture go, whole or not at all.

    Each visible one is a path with its mean width and opacity; those of one color are a group,
    in the order in which the colors first come.  millimetres: the width of the page.
    """
    family = FAMILIES[strokes.family]
    height, width = picture_size
    scale = np.array(picture_size) / (strokes.height, strokes.width)
    points = (absolute_points(strokes) * scale)[..., ::-1]  # (n, points, 2) x, y
    widths = (2 * (absolute_radii(strokes) * scale.mean()).mean(1) if family.radii else
              np.full(len(strokes), OUTLINE_WIDTH))
    data = "M{}h0.01" if family.points == 1 else "M{}Q{} {}" if family.radii else "M{}L{} {}z"
    groups: dict[str, list[str]] = {}
    for place, line_width, opacity, color in zip(
            points, widths, _opacities(strokes).mean(1), _colors(strokes), strict=True):
        if opacity:
            faint = f' stroke-opacity="{opacity:.3g}"' if opacity < 0.9995 else ""
            line = data.format(*(f"{x:.2f} {y:.2f}" for x, y in place))
            groups.setdefault(color, []).append(
                f'<path stroke-width="{line_width:.2f}"{faint} d="{line}"/>')
    page = f'width="{width}" height="{height}"'
    if millimetres:
        page = f'width="{millimetres:g}mm" height="{millimetres * height / width:g}mm"'
    page += f' viewBox="0 0 {width} {height}"'
    lines = [f'<svg {XMLNS} {page} fill="none" stroke-linecap="round" stroke-linejoin="round">']
    for color, paths in groups.items():
        lines += [f'<g stroke="{color}">', *paths, "</g>"]
    write_lines(path, [*lines, "</svg>"])


def _colors(strokes: Strokes) -> list[str]:
    """Return the strokes' colors as #rrggbb."""
    rgb = (strokes.colors[:, ::-1] * 255 + 0.5).astype(np.uint8)
    return [f"#{color.tobytes().hex()}" for color in rgb]


def _opacities(strokes: Strokes) -> np.ndarray:
    """Return the strokes' opacities (n, 1 or 2) float64, at both ends or everywhere."""
    count = FAMILIES[strokes.family].opacities
    return strokes.shapes[:, OPACITIES][:, :count].astype(float) if count else np.ones(
        (len(strokes), 1))


def _area(top: int, left: int, bottom: int, right: int) -> str:
    """Return the attributes of a rectangle."""
    return f'x="{left}" y="{top}" width="{right - left}" height="{bottom - top}"'


def _elements(strokes: Strokes, clip_numbers: np.ndarray, prefix: str) -> Iterator[str]:
    """Yield each stroke as a line in canvas pixels, an empty one where nothing of it shows."""
    points, radii = _placed(strokes)
    for number, (clip, fill, ends) in enumerate(zip(
            strokes.clips.tolist(), _colors(strokes), _opacities(strokes), strict=True)):
        if radii.shape[1]:
            centers, reach, levels = _sweep(points[number], radii[number], ends)
            pieces = _outlines(centers, reach)
            low, high = (centers - reach[:, None]).min(0), (centers + reach[:, None]).max(0)
        else:
            start, *turns = next(_relative(points[number][None, :, ::-1]))
            pieces = [f"M{start}l{' '.join(turns)}z"]
            low, high = points[number].min(0), points[number].max(0)
        box = *map(math.floor, low), *map(math.ceil, high)  # top, left, bottom, right
        visible = *map(max, box[:2], clip[:2]), *map(min, box[2:], clip[2:])
        if visible[0] >= visible[2] or visible[1] >= visible[3] or ends.max() < 1 / 512:
            yield ""
        elif np.ptp(ends) < MIN_MASKED_RANGE:
            cut = "" if visible == box else f' clip-path="url(#{prefix}c{clip_numbers[number]})"'
            faint = f' fill-opacity="{ends.mean():.4g}"' if ends.mean() < 1 else ""
            yield f'<path fill="{fill}"{faint}{cut} d="{"".join(pieces)}"/>'
        else:
            name, area = f"{prefix}m{number}", _area(*visible)
            grays = (levels * 255 + 0.5).astype(np.uint8).tolist()
            mask = "".join(f'<path fill="#{3 * f"{gray:02x}"}" d="{piece}"/>'
                           for gray, piece in zip(grays, pieces, strict=True) if piece)
            # Some viewers know no default for a mask's area.
            yield (f'<mask id="{name}" maskUnits="userSpaceOnUse" {area}>{mask}</mask>'
                   f'<rect {area} fill="{fill}" mask="url(#{name})"/>')


def _placed(strokes: Strokes) -> tuple[np.ndarray, np.ndarray]:
    """Return points (n, points, 2) and radii (n, radii) in canvas pixels, as they are painted."""
    family = FAMILIES[strokes.family]
    corner, side = strokes.tiles[:, None, :2], strokes.tiles[:, None, 2:]
    if not family.radii:
        places = corner_places(torch.from_numpy(strokes.shapes)).numpy()
        return corner + places.reshape(-1, 3, 2) * side, np.zeros((len(strokes), 0))
    is_static = family.points == 1
    # Places from 0 to 1 are spread over the 255 steps between the 256 pixels of the double grid.
    points = corner + (absolute_points(strokes) - corner) * (1 - 1 / (2 * WIDTH))
    radii = 1 + np.trunc(strokes.shapes[:, 6 : 6 + family.radii].astype(float) * (WIDTH // 2))
    radii += np.where(np.ptp(radii, 1, keepdims=True), 0, 0.25 if is_static else 0.5)
    return points + STATIC_OFFSET * is_static, radii * side[:, 0] / (2 * WIDTH)


def _sweep(
    points: np.ndarray, radii: np.ndarray, opacities: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return discs on the curve of points (3, 2): centers (m, 2), radii (m,), opacities (m,).

    Opacities are those of the visible part of the hull of each disc and the next, and of the last
    disc.  A point (1, 2) is a disc.  radii, opacities: at the curve's two ends, or throughout.
    """
    if len(points) == 1:
        return points, radii, opacities
    bend = np.hypot(*(points[0] - 2 * points[1] + points[2]))
    way = np.hypot(*np.diff(points, axis=0).T).sum() + np.ptp(radii)
    steps = min(np.ptp(opacities) / OPACITY_STEP, way / MIN_CRESCENT)
    count = max(1, math.ceil(max(steps, math.sqrt(bend / (4 * FLATNESS)))))
    t = np.linspace(0, LAST_T, count + 1)
    curve = np.stack(((1 - t) ** 2, 2 * t * (1 - t), t * t), 1) @ points
    opacity = opacities[0] + (opacities[-1] - opacities[0]) * t
    opacity[:-1] = (opacity[:-1] + opacity[1:]) / 2
    return curve, radii[0] + (radii[1] - radii[0]) * t, opacity


def _outlines(centers: np.ndarray, radii: np.ndarray) -> list[str]:
    """Return the visible part of the hull of each disc and the next, and the last disc (m,).

    All are path data: the outline behind the disc and straight sides to the next; "" where hidden.
    """
    discs = centers[:, ::-1], radii[:, None]  # x, y (m, 2) and radius (m, 1)
    (start, end), (radius, next_radius) = ((each[:-1], each[1:]) for each in discs)
    way = end - start
    length = np.maximum(np.hypot(*way.T), 1e-9)[:, None]
    cosine = (radius - next_radius) / length  # of the angle between the way and the tangent point
    sine = np.sqrt(np.clip(1 - cosine * cosine, 0, 1))
    ahead = way / length
    aside = ahead[:, ::-1] * (-1, 1)
    left, right = cosine * ahead + sine * aside, cosine * ahead - sine * aside
    corners = np.stack((start + radius * left, start + radius * right,
                        end + next_radius * right, end + next_radius * left), 1)  # (m - 1, 4, 2)
    hidden, large = cosine[:, 0] <= -1, cosine[:, 0] > 0
    covering = (cosine[:, 0] >= 1) | (sine * radius < 0.01)[:, 0]
    outlines = []
    for k, (first, round_back, along, across) in enumerate(_relative(corners)):
        if hidden[k]:
            outlines.append("")
        elif covering[k]:
            outlines.append(_disc(*centers[k], radii[k]))
        else:
            arc = f"a{_text(radii[k])} {_text(radii[k])} 0 {int(large[k])} 1 {round_back}"
            outlines.append(f"M{first}{arc}l{along} {across}z")
    return [*outlines, _disc(*centers[-1], radii[-1])]


def _relative(corners: np.ndarray) -> Iterator[list[str]]:
    """Yield corners (n, k, 2) x, y as text, all but the first of k relative to the one before."""
    whole = np.rint(corners * 100).astype(np.int64)
    whole[:, 1:] -= whole[:, :-1].copy()
    for row in (whole / 100).tolist():
        yield [f"{x:.7g} {y:.7g}" for x, y in row]


def _text(number: float) -> str:
    """Return a number with two decimals at most."""
    return f"{round(number, 2):.7g}"


def _disc(row: float, column: float, radius: float) -> str:
    """Return a disc as path data."""
    half = f"a{_text(radius)} {_text(radius)} 0 1 1 "
    way = _text(2 * radius)
    return f"M{_text(column - radius)} {_text(row)}{half}{way} 0{half}-{way} 0z"
