"""Strokes as the center lines that plotters draw: one path each, by color, nothing filled."""

from pathlib import Path

import numpy as np

from painting.stroke_file import absolute_points, absolute_radii, picture_scale, write_lines
from Renderer.stroke_gen import FAMILIES
from Renderer.strokes import Strokes

STYLE = 'fill="none" stroke-linecap="round" stroke-linejoin="round"'
OUTLINE_WIDTH = 1.0  # picture pixels, of a triangle's sides


def write_plot(
    path: Path, strokes: Strokes, picture_size: tuple[int, int], millimetres: float | None = None
) -> None:
    """Write an SVG of the lines along which the strokes of a picture go, whole or not at all.

    Each visible one is a path with its mean width and opacity; those of one color are a group,
    in the order in which the colors first come.  millimetres: the width of the page.
    """
    family = FAMILIES[strokes.family]
    height, width = picture_size
    scale = picture_scale(strokes, picture_size)
    points = (absolute_points(strokes) * scale)[..., ::-1]  # (n, points, 2) x, y
    widths = (2 * (absolute_radii(strokes) * scale.mean()).mean(1) if family.radii else
              np.full(len(strokes), OUTLINE_WIDTH))
    opacities = (strokes.shapes[:, 8 : 8 + family.opacities].astype(float).mean(1)
                 if family.opacities else np.ones(len(strokes)))
    groups: dict[str, list[str]] = {}
    colors = (strokes.colors[:, ::-1] * 255 + 0.5).astype(np.uint8)
    for number in np.flatnonzero(opacities > 0):
        faint = f' stroke-opacity="{opacities[number]:.3g}"' if opacities[number] < 0.9995 else ""
        groups.setdefault("#" + colors[number].tobytes().hex(), []).append(
            f'<path stroke-width="{widths[number]:.2f}"{faint} '
            f'd="{_path(points[number], bool(family.radii))}"/>')
    page = f'width="{width}" height="{height}"'
    if millimetres:
        page = f'width="{millimetres:g}mm" height="{millimetres * height / width:g}mm"'
    page += f' viewBox="0 0 {width} {height}"'
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {page} {STYLE}>']
    for color, paths in groups.items():
        lines += [f'<g stroke="{color}">', *paths, "</g>"]
    write_lines(path, [*lines, "</svg>"])


def _path(points: np.ndarray, curved: bool) -> str:
    """Return a dot (1, 2), or three points (3, 2): a curve or a triangle's sides, as path data."""
    first, *others = (f"{x:.2f} {y:.2f}" for x, y in points)
    if not others:
        return f"M{first}h0.01"
    return f"M{first}Q{' '.join(others)}" if curved else f"M{first}L{' '.join(others)}z"
