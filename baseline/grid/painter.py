"""The policy of an actor with a grid read-out, at work on canvases by the exact rasterizer."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from DRL.actor import Actor
from DRL.rollout import Painter, load_pair
from grid.passes import Pass, choose, plan
from Renderer.layout import Layout, stacked, unstacked
from Renderer.model import TrainedRender
from Renderer.raster import paint_exact
from running.device import Precision


class GridPainter(Painter):
    """An actor with a grid read-out in eval mode; what it sees is drawn by the exact rasterizer.

    The renderer network only tells the family of strokes.
    """

    canvas = "exact"

    @torch.no_grad()
    def choose(
        self, canvas: np.ndarray, target: np.ndarray, layout: Layout, which: Pass
    ) -> torch.Tensor:
        """Return the actions (n, bundles, 13 N) of a pass over n tiles, by one forward pass.

        canvas, target: (height, width, 3) float32 BGR in [0, 1].
        """
        seen = (layout.cut(each).to(self.device) for each in (canvas, target))
        with self.precision.autocast():
            return choose(self.actor, *seen, which)

    def paint(
        self, canvas: torch.Tensor, target: torch.Tensor, steps: int, rounded: bool = False
    ) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
        """Paint ``steps`` bundles on every canvas; see ``Painter.paint``.  Nothing is rounded."""
        column, count = Layout.column(len(canvas)), len(canvas)
        canvas, target = stacked(canvas), stacked(target)
        for which in plan(steps):
            for action in self.choose(canvas, target, column, which).unbind(1):
                strokes, canvases = column.strokes(self.family, action), []
                for first in range(0, len(strokes), count):
                    paint_exact(strokes[first : first + count], canvas)
                    canvases.append(unstacked(canvas.copy()).to(self.device))
                yield action, canvases


def load_painter(actor: Path, renderer: Path, precision: Precision) -> Painter:
    """Load an actor and a renderer, and return the painter for the actor's read-out.

    Raises UserError where one is missing or holds other weights, where they are of different
    families of strokes, and where what they paint is not finite.
    """
    network, render = load_pair(actor, renderer, precision)
    return painter_of(network, render, precision).checked(actor, renderer)


def painter_of(actor: Actor, render: TrainedRender, precision: Precision) -> Painter:
    """Return the painter for the read-out of an actor."""
    return (GridPainter if actor.readout == "grid" else Painter)(actor, render, precision)
