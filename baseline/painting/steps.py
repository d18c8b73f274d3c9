"""The steps of a painting: strokes, one on each tile, and the canvas after them."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from constants import BUNDLE, WIDTH
from DRL.rollout import Policy
from grid.passes import plan
from grid.policy import GridPolicy
from painting.frames import Writer
from painting.refine import random_shapes
from painting.tiles import Stage, from_tiles, paint_placed, smooth_seams, to_tiles
from Renderer.canvas import as_uint8
from Renderer.layout import Layout
from Renderer.raster import paint_exact, paint_frames
from Renderer.strokes import Strokes


class Step(NamedTuple):
    """A stroke on each tile."""

    frame_number: int  # from 0
    frame: np.ndarray  # (h, w, 3) uint8 BGR, the canvas with the strokes
    strokes: Strokes  # since the step before
    error: float | None  # mean squared error in [0, 1] after the last stroke of a bundle
    bundle: str = ""  # the stage and the number of the bundle in words


def target_of(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a picture (h, w, 3) uint8 squashed to (height, width, 3) float32 in [0, 1]."""
    return np.float32(cv2.resize(picture, (width, height))) / 255


def squared_error(canvas: np.ndarray, target: np.ndarray) -> float:
    """Return the mean squared error of a canvas."""
    return float(np.square(canvas - target).mean())


def paint_steps(painter: Policy, picture: np.ndarray, stages: list[Stage]) -> Iterator[Step]:
    """Paint a picture (h, w, 3) uint8 BGR by an actor.

    An actor of the paper's kind paints each tile on the neural canvas.  A grid actor, and the
    strokes of tiles that overlap, paint one canvas by the exact rasterizer.
    """
    if painter.canvas == "exact" or stages[-1].overlapping:
        return _paint_exact_canvas(painter, picture, stages)
    return _paint_neural_canvas(painter, picture, stages)


def _paint_neural_canvas(
    painter: Policy, picture: np.ndarray, stages: list[Stage]
) -> Iterator[Step]:
    """Paint tiles that do not overlap by the neural renderer; frames have their seams smoothed."""
    number = 0
    canvas = torch.zeros(1, 3, WIDTH, WIDTH, device=painter.device)
    for stage in stages:
        size = stage.rows * WIDTH, stage.columns * WIDTH
        target = torch.from_numpy(target_of(picture, *size)).to(painter.device)
        target = to_tiles(target.permute(2, 0, 1)[None])  # (tiles, 3, 128, 128)
        canvas = to_tiles(F.interpolate(canvas, size=size, mode="bilinear"))
        for bundle, (action, canvases) in enumerate(
                painter.paint(canvas, target, stage.steps), 1):
            strokes, count = stage.layout.strokes(painter.family, action), len(canvas)
            error = (canvases[-1] - target).square().mean().item()
            for k, canvas in enumerate(canvases, 1):
                whole = smooth_seams(from_tiles(canvas, stage.rows, stage.columns))[0]
                frame = as_uint8(whole).permute(1, 2, 0).contiguous().cpu().numpy()
                yield Step(number, frame, strokes[(k - 1) * count : k * count],
                           error if k == len(canvases) else None, f"{stage.name} step {bundle}")
                number += 1
        canvas = from_tiles(canvas, stage.rows, stage.columns)


def _paint_exact_canvas(
    painter: Policy, picture: np.ndarray, stages: list[Stage]
) -> Iterator[Step]:
    """Paint all strokes on one canvas by the exact rasterizer."""
    number = 0
    height, width, *_ = stages[0].layout
    canvas, target = np.zeros((height, width, 3), np.float32), target_of(picture, height, width)
    for stage in stages:
        actions = (_grid_actions(painter, stage, stage is not stages[0], canvas, target)
                   if painter.canvas == "exact" else _actions(painter, stage, canvas, target))
        for bundle, (layout, action) in enumerate(actions, 1):
            strokes, count = layout.strokes(painter.family, action), len(layout.tiles)
            for first in range(0, len(strokes), count):
                some = strokes[first : first + count]
                paint_exact(some, canvas)
                last = first + count == len(strokes)
                yield Step(number, _rounded(canvas), some,
                           squared_error(canvas, target) if last else None,
                           f"{stage.name} step {bundle}")
                number += 1


def _actions(
    painter: Policy, stage: Stage, canvas: np.ndarray, target: np.ndarray
) -> Iterator[tuple[Layout, torch.Tensor]]:
    """Yield a bundle for each tile (tiles, 13 N), each time of the canvas as it is by then."""
    tiles = stage.layout.cut(target).to(painter.device)
    for step in range(stage.steps):
        seen = stage.layout.cut(canvas).to(painter.device)
        yield stage.layout, painter.act(seen, tiles, step / stage.steps)


def _grid_actions(
    painter: GridPolicy, stage: Stage, on_top: bool, canvas: np.ndarray, target: np.ndarray
) -> Iterator[tuple[Layout, torch.Tensor]]:
    """Yield the bundles of passes, as ``_actions`` does.

    on_top: whether the canvas is coarsely painted already.  Each second pass is then on tiles
    shifted by half a tile.  Strokes may reach over the edges of their tile, so there are no seams.
    """
    layouts = [stage.layout.unclipped()] * 2
    if on_top and not stage.overlapping:
        layouts[1] = stage.layout.shifted()
    for number, which in enumerate(plan(stage.steps, on_top)):
        layout = layouts[number % 2]
        for action in painter.act_in_pass(canvas, target, layout, which).unbind(1):
            yield layout, action


def _rounded(canvas: np.ndarray) -> np.ndarray:
    """Return a canvas in [0, 1] as uint8."""
    return as_uint8(torch.from_numpy(canvas)).numpy()


def random_steps(
    family: str, picture: np.ndarray, stages: list[Stage], seed: int
) -> Iterator[Strokes]:
    """Yield random strokes for refining, as many as an actor of BUNDLE would paint.

    They become smaller along each stage; their colors are read off the picture.
    """
    rng = np.random.default_rng(seed)
    for stage in stages:
        height, width, tiles, clips = stage.layout
        rounds, count = stage.steps * BUNDLE, len(tiles)
        late = np.repeat(np.linspace(0, 1, rounds), count)
        shapes, center = random_shapes(family, (1 - late) ** 2, rng)
        tiles, clips = (np.tile(v, (rounds, 1)) for v in (tiles, clips))
        row, column = (tiles[:, :2] + center * (tiles[:, 2:] - 1)).astype(np.int64).T
        colors = target_of(picture, height, width)[row, column]
        strokes = Strokes(family, height, width, shapes, colors, tiles, clips)
        for first in range(0, len(strokes), count):
            yield strokes[first : first + count]


def repaint_steps(
    strokes: Strokes, size: tuple[int, int], counts: Iterable[int], wanted: np.ndarray,
    error: float | None = None, report: Callable[[int], object] = lambda painted: None,
) -> Iterator[Step]:
    """Paint strokes again by the exact rasterizer.

    size: height and width of the frames; counts: the strokes of each step; wanted: the numbers of
    the frames to yield, from 0; error: of the finished painting; report: see ``paint_frames``.
    """
    ends = np.cumsum(counts)
    wanted = np.unique(wanted.clip(max=len(ends) - 1))
    ends, first = ends[wanted].tolist(), 0
    for number, end, frame in zip(
            wanted.tolist(), ends, paint_frames(strokes, *size, ends, report), strict=True):
        yield Step(number, frame, strokes[first:end], error)
        first = end


def errors(
    strokes: Strokes, picture: np.ndarray, render: Callable[[torch.Tensor], torch.Tensor],
    device: torch.device,
) -> tuple[float, float]:
    """Return the mean squared error of strokes on the neural and on the exact canvas."""
    target = target_of(picture, strokes.height, strokes.width)
    exact = np.zeros_like(target)
    paint_exact(strokes, exact)
    neural = paint_placed(render, strokes, device).cpu().numpy()
    return squared_error(neural, target), squared_error(exact, target)


def write_steps(
    steps: Iterable[Step], writers: list[Writer], total: int
) -> tuple[Strokes, np.ndarray, float]:
    """Hand frames to their writers; return all strokes, the last frame and its error."""
    parts, error = [], 0.0
    for step in steps:
        parts.append(step.strokes)
        error = error if step.error is None else step.error
        for writer in writers:
            writer.write(step.frame_number, step.frame)
    if step.frame_number < total - 1:  # stopped
        for writer in writers:
            writer.write(total - 1, step.frame)
    return Strokes.join(parts), step.frame, error
