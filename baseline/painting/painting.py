"""Paintings: pictures, the strokes that paint them, and where their frames go."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from constants import BUNDLE, WIDTH
from DRL.rollout import Painter
from grid.painter import GridPainter
from grid.passes import plan, plan_on_top
from painting.tiles import Stage, from_tiles, paint_placed, smooth_seams, to_tiles
from Renderer.canvas import STROKE_DIM, as_uint8, split_action
from Renderer.layout import Layout
from Renderer.strokes import Strokes

# What a step reports: the stage, the step from 1, and the mean squared error after it.
Progress = Iterator[tuple[Stage, int, float]]


class Sink(Protocol):
    """Where the frames of a painting go: one after each stroke, painted on all tiles."""

    def write(self, frame: np.ndarray) -> None:
        """Take the next frame, (h, w, 3) uint8 BGR."""

    def end(self, frame: np.ndarray) -> None:
        """Let the newest frame be the last one, before its time."""


class Painting:
    """One picture that is painted."""

    def __init__(self, path: Path, picture: np.ndarray, name: str | None = None) -> None:
        """picture: (H, W, 3) uint8 BGR; name: in its files', where there are more paintings."""
        self.path, self.picture, self.name = path, picture, name
        self.sinks: list[Sink] = []
        self.parts: list[Strokes] = []  # in painting order
        self.frame = picture  # the last one shown
        self.error = 0.0  # mean squared error over pixels in [0, 1]

    def target(self, height: int, width: int) -> np.ndarray:
        """The picture squashed to (height, width, 3) float32 in [0, 1]."""
        return np.float32(cv2.resize(self.picture, (width, height))) / 255

    def show(self, frame: np.ndarray) -> None:
        """Pass on the next frame, (h, w, 3) uint8 BGR."""
        self.frame = frame
        for sink in self.sinks:
            sink.write(frame)

    def end(self) -> None:
        """No more frames will come."""
        for sink in self.sinks:
            sink.end(self.frame)

    def strokes(self) -> Strokes:
        """All strokes, in painting order."""
        return Strokes.join(self.parts)


def stage_strokes(
    family: str, height: int, width: int, stage: Stage, action: torch.Tensor
) -> Strokes:
    """The strokes of a step, action (tiles, 13 N): the first of every tile, then the second .."""
    ordered = (v.float().transpose(0, 1).flatten(0, 1).cpu().numpy() for v in split_action(action))
    return Strokes(family, height, width, *ordered,
                   *(np.tile(v, (action.shape[1] // STROKE_DIM, 1))
                     for v in (stage.tiles, stage.clips)))


def paint_tiles(
    painter: Painter, paintings: list[Painting], height: int, width: int, stages: list[Stage]
) -> Progress:
    """Paint on tiles that do not overlap; frames show the neural canvas, seams smoothed."""
    canvas = torch.zeros(len(paintings) * len(stages[0].tiles), 3, WIDTH, WIDTH,
                         device=painter.device)
    shape = (stages[0].rows, stages[0].columns)
    for stage in stages:
        whole = from_tiles(canvas, *shape)
        shape = (stage.rows, stage.columns)
        size = (stage.rows * WIDTH, stage.columns * WIDTH)
        targets = np.stack([painting.target(*size) for painting in paintings])
        target = to_tiles(torch.from_numpy(targets).to(painter.device).permute(0, 3, 1, 2))
        canvas = to_tiles(F.interpolate(whole, size=size, mode="bilinear"))
        for step, (action, canvases) in enumerate(painter.paint(canvas, target, stage.steps), 1):
            canvas = canvases[-1]
            joined = as_uint8(smooth_seams(from_tiles(torch.cat(canvases), *shape)))
            frames = joined.permute(0, 2, 3, 1).contiguous().cpu().numpy()
            frames = frames.reshape(len(canvases), len(paintings), *frames.shape[1:])
            for i, painting in enumerate(paintings):
                own = slice(i * len(stage.tiles), (i + 1) * len(stage.tiles))
                painting.parts.append(stage_strokes(painter.family, height, width, stage,
                                                    action[own]))
                for frame in frames[:, i]:
                    painting.show(frame)
            each = (canvas - target).square().reshape(len(paintings), -1).mean(1).tolist()
            for painting, error in zip(paintings, each, strict=True):
                painting.error = error
            yield stage, step, float(np.mean(each))


def paint_grid(
    painter: GridPainter, painting: Painting, height: int, width: int, stages: list[Stage]
) -> Progress:
    """Paint by an actor with a grid read-out, all strokes on one canvas by the exact rasterizer.

    Strokes may reach over the edges of their tile, and above a coarse painting each second pass is
    on tiles shifted by half a tile, so that there are no seams.
    """
    from Renderer.raster import paint_exact  # its compiler takes half a second to import

    canvas, whole = np.zeros((height, width, 3), np.float32), painting.target(height, width)
    for stage in stages:
        on_top = stage is not stages[0]
        layout, step = Layout(height, width, stage.tiles, stage.clips).unclipped(), 0
        layouts = layout, layout.shifted() if on_top and not stage.overlapping else layout
        for number, which in enumerate((plan_on_top if on_top else plan)(stage.steps)):
            tiles = layouts[number % 2]
            for action in painter.choose(canvas, whole, tiles, which).unbind(1):
                strokes, count = tiles.strokes(painter.family, action), len(tiles.tiles)
                painting.parts.append(strokes)
                for first in range(0, len(strokes), count):
                    paint_exact(strokes[first : first + count], canvas)
                    painting.show(rounded(canvas))
                painting.error, step = float(np.square(canvas - whole).mean()), step + 1
                yield stage, step, painting.error


def paint_overlapping(
    painter: Painter, painting: Painting, height: int, width: int, stages: list[Stage]
) -> Progress:
    """Paint on tiles that overlap: all strokes on one canvas, by the exact rasteriser."""
    from Renderer.raster import paint_exact  # its compiler takes half a second to import

    canvas = np.zeros((height, width, 3), np.float32)
    whole = painting.target(height, width)
    for stage in stages:
        target = cut(whole, stage.tiles, painter.device)
        for step in range(stage.steps):
            action = painter.act(cut(canvas, stage.tiles, painter.device), target,
                                 step / stage.steps)
            strokes = stage_strokes(painter.family, height, width, stage, action)
            painting.parts.append(strokes)
            for first in range(0, len(strokes), len(stage.tiles)):
                paint_exact(strokes[first : first + len(stage.tiles)], canvas)
                painting.show(rounded(canvas))
            painting.error = float(np.square(canvas - whole).mean())
            yield stage, step + 1, painting.error


def cut(canvas: np.ndarray, tiles: np.ndarray, device: torch.device) -> torch.Tensor:
    """Tiles (n, 3) of a canvas (h, w, 3), reduced to (n, 3, 128, 128)."""
    parts = [cv2.resize(canvas[top : top + side, left : left + side], (WIDTH, WIDTH),
                        interpolation=cv2.INTER_AREA) for top, left, side in tiles.tolist()]
    return torch.from_numpy(np.stack(parts)).permute(0, 3, 1, 2).to(device)


def show_exact(
    painting: Painting, stages: list[Stage], bundle: int, wanted: np.ndarray
) -> None:
    """Paint all strokes anew by the exact rasteriser, in frames like those of the stages.

    bundle: strokes a step on each tile; wanted: the numbers of the frames to show, from 0.  They
    have the size of the picture, or of the canvas where that is larger.
    """
    from Renderer.raster import paint_frames

    strokes = painting.strokes()
    together = [len(stage.tiles) for stage in stages for _ in range(stage.steps * bundle)]
    size = np.maximum(painting.picture.shape[:2], (strokes.height, strokes.width)).tolist()
    ends = np.unique(np.cumsum(together)[wanted].clip(max=len(strokes)))  # fewer, if stopped
    for frame in paint_frames(strokes, *size, ends.tolist()):
        painting.show(frame)
    painting.end()


def rounded(canvas: np.ndarray) -> np.ndarray:
    """A canvas in [0, 1] as uint8."""
    return as_uint8(torch.from_numpy(canvas)).numpy()


def scatter(
    painting: Painting, family: str, height: int, width: int, stages: list[Stage], seed: int
) -> None:
    """Give a painting as many random strokes as an actor of BUNDLE would paint, for refining.

    In each stage they become smaller along the sequence; colours are read off the picture.
    """
    from painting.refine import random_shapes

    rng = np.random.default_rng(seed)
    whole = painting.target(height, width)
    for stage in stages:
        late = np.repeat(np.linspace(0, 1, stage.steps * BUNDLE), len(stage.tiles))
        shapes, middle = random_shapes(family, (1 - late) ** 2, rng)
        rounds = stage.steps * BUNDLE
        tiles, clips = (np.tile(v, (rounds, 1)) for v in (stage.tiles, stage.clips))
        row, column = (tiles[:, :2] + middle * (tiles[:, 2:] - 1)).astype(np.int64).T
        painting.parts.append(Strokes(family, height, width, shapes, whole[row, column], tiles,
                                      clips))


def errors(
    painting: Painting, render: Callable[[torch.Tensor], torch.Tensor], device: torch.device
) -> tuple[float, float]:
    """Mean squared error of the strokes' neural canvas and of their exact raster."""
    from Renderer.raster import paint_exact

    strokes = painting.strokes()
    target = painting.target(strokes.height, strokes.width)
    exact = np.zeros_like(target)
    paint_exact(strokes, exact)
    neural = paint_placed(render, strokes, device).cpu().numpy()
    return tuple(float(np.square(canvas - target).mean()) for canvas in (neural, exact))
