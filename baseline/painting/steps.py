"""The strokes of a painting, step by step, by an actor or at random."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch

from constants import BUNDLE, WIDTH
from DRL.rollout import Policy
from grid.passes import plan
from grid.policy import GridPolicy
from painting.refine import random_shapes
from painting.tiles import Stage
from Renderer.layout import Layout
from Renderer.model import TrainedRender
from Renderer.strokes import Strokes

STROKES_AT_ONCE = 64  # batch size of the neural renderer


class Step(NamedTuple):
    """A bundle of strokes on each tile of a stage."""

    strokes: Strokes  # the first stroke of every tile, then the second of every tile, ..
    tiles: int
    name: str  # the stage and the number of the bundle
    error: float | None = None  # mean squared error of the canvas that the actor sees


def target_of(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a picture (h, w, 3) uint8 resized to (height, width, 3) float32 in [0, 1]."""
    return np.float32(cv2.resize(picture, (width, height))) / 255


def paint_steps(
    policy: Policy, picture: np.ndarray, stages: list[Stage],
    paint: Callable[[Strokes, np.ndarray], object],
) -> Iterator[Step]:
    """Let an actor choose the strokes for a picture (h, w, 3) uint8 BGR.

    paint: paints strokes in place on the canvas (height, width, 3) float32 that the actor sees.
    Strokes may reach over the edges of their tile.
    """
    height, width, *_ = stages[0].layout
    canvas, target = np.zeros((height, width, 3), np.float32), target_of(picture, height, width)
    for stage in stages:
        actions = grid_actions if isinstance(policy, GridPolicy) else tile_actions
        for number, (layout, action) in enumerate(
                actions(policy, stage, canvas, target, stage is not stages[0]), 1):
            strokes = layout.strokes(policy.family, action)
            paint(strokes, canvas)
            yield Step(strokes, len(layout.tiles), f"{stage.name} step {number}",
                       float(np.square(canvas - target).mean()))


def tile_actions(
    policy: Policy, stage: Stage, canvas: np.ndarray, target: np.ndarray, on_top: bool
) -> Iterator[tuple[Layout, torch.Tensor]]:
    """Yield actions (tiles, 13 N), each chosen after the previous one was painted."""
    target_tiles = stage.layout.cut(target).to(policy.device)
    for step in range(stage.steps):
        canvas_tiles = stage.layout.cut(canvas).to(policy.device)
        yield stage.layout, policy.act(canvas_tiles, target_tiles, step / stage.steps)


def grid_actions(
    policy: GridPolicy, stage: Stage, canvas: np.ndarray, target: np.ndarray, on_top: bool
) -> Iterator[tuple[Layout, torch.Tensor]]:
    """Yield the actions (tiles, 13 N) of passes over a grid, several actions per forward pass.

    on_top: whether the canvas is coarsely painted already.  Every second pass is then on tiles
    shifted by half a tile.
    """
    layouts = (stage.layout, stage.layout.shifted()) if on_top else (stage.layout, stage.layout)
    for number, grid_pass in enumerate(plan(stage.steps, on_top)):
        layout = layouts[number % 2]
        for action in policy.act_in_pass(canvas, target, layout, grid_pass).unbind(1):
            yield layout, action


def paint_neural(render: TrainedRender, strokes: Strokes, canvas: np.ndarray) -> None:
    """Paint strokes, in place, as the neural renderer draws each on its tile.

    canvas: (height, width, 3) float32 BGR in [0, 1].
    """
    for first in range(0, len(strokes), STROKES_AT_ONCE):
        batch = strokes[first : first + STROKES_AT_ONCE]
        shapes = torch.from_numpy(batch.shapes).to(render.precision.device)
        alphas = 1 - render(shapes).float().cpu().numpy()  # (n, 128, 128)
        for alpha, color, (top, left, side) in zip(
                alphas, batch.colors, batch.tiles.tolist(), strict=True):
            if side != WIDTH:
                alpha = cv2.resize(alpha, (side, side))
            rows = slice(max(0, -top), min(side, len(canvas) - top))
            columns = slice(max(0, -left), min(side, canvas.shape[1] - left))
            part = canvas[top + rows.start : top + rows.stop,
                          left + columns.start : left + columns.stop]
            part += alpha[rows, columns, None] * (color - part)


def random_steps(
    family: str, picture: np.ndarray, stages: list[Stage], seed: int
) -> Iterator[Step]:
    """Yield ``stage.steps * BUNDLE`` random strokes per tile of each stage, to be refined.

    They become smaller along each stage; their colors are those of the picture at their centers.
    """
    rng = np.random.default_rng(seed)
    for stage in stages:
        height, width, tiles, clips = stage.layout
        rounds, count = stage.steps * BUNDLE, len(tiles)
        progress = np.repeat(np.linspace(0, 1, rounds), count)
        shapes, center = random_shapes(family, (1 - progress) ** 2, rng)
        tiles, clips = (np.tile(v, (rounds, 1)) for v in (tiles, clips))
        row, column = (tiles[:, :2] + center * (tiles[:, 2:] - 1)).astype(np.int64).T
        colors = target_of(picture, height, width)[row, column]
        yield Step(Strokes(family, height, width, shapes, colors, tiles, clips), count, stage.name)
