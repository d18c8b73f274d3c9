"""The policy of an actor with a grid read-out, whose canvases the exact rasterizer paints."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from constants import WIDTH
from DRL.actor import fold_batch_norm, load_actor
from DRL.rollout import Policy
from grid.passes import Pass, pass_actions, plan
from Renderer.layout import Layout, stacked, unstacked
from Renderer.model import load_render
from Renderer.raster import paint_exact
from running.device import Precision
from utils.command import RENDERER, UserError

TILES_AT_ONCE = 64  # which bounds the memory of a forward pass


class GridPolicy(Policy):
    """An actor with a grid read-out in eval mode; it needs no renderer."""

    canvas = "exact"

    @torch.no_grad()
    def act_in_pass(
        self, canvas: np.ndarray, target: np.ndarray, layout: Layout, grid_pass: Pass
    ) -> torch.Tensor:
        """Return the actions (n, bundles, 13 N) of a pass over n tiles.

        canvas, target: (height, width, 3) float32 BGR in [0, 1].
        """
        tiles = (layout.cut(each).to(self.device).split(TILES_AT_ONCE) for each in (canvas, target))
        with self.precision.autocast():
            return torch.cat([pass_actions(self.actor, *part, grid_pass, self.family)
                              for part in zip(*tiles, strict=True)])

    def paint(
        self, canvas: torch.Tensor, target: torch.Tensor, steps: int, rounded: bool = False
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Paint ``steps`` actions on every canvas, as ``Policy.paint``; ignore ``rounded``."""
        stack_layout = Layout.column(len(canvas))
        canvas, target = stacked(canvas), stacked(target)
        for grid_pass in plan(steps):
            for action in self.act_in_pass(canvas, target, stack_layout, grid_pass).unbind(1):
                paint_exact(stack_layout.strokes(self.family, action), canvas)
                yield action, unstacked(canvas.copy()).to(self.device)


def load_policy(actor: Path, renderer: Path | None, precision: Precision) -> Policy:
    """Load an actor, fold its batch normalization, load a renderer; return their policy.

    renderer: default: renderer.pkl if the actor sees its canvas.  Raises UserError if a file
    is missing or holds other weights, if families differ, and for NaN or infinity in a painting.
    """
    network, family = load_actor(actor, "the actor", "train one with baseline/train.py, or "
                                 "name another with --actor")
    kind = GridPolicy if network.readout == "grid" else Policy
    renderer = renderer or (RENDERER if kind.canvas == "neural" else None)
    render = renderer and load_render(renderer, precision)
    if render and family != render.family:
        raise UserError(f"the actor {actor} paints with {family} strokes and the renderer "
                        f"{renderer} draws {render.family} strokes; name two of one "
                        "family with --actor and --renderer")
    fold_batch_norm(network.eval())
    network.to(precision.device, memory_format=torch.channels_last)
    policy = kind(network, render, precision, family)
    blank = torch.zeros(1, 3, WIDTH, WIDTH, device=precision.device)
    ramp = torch.linspace(0, 1, WIDTH, device=precision.device).expand_as(blank)
    _, canvas = next(policy.paint(blank, ramp, 1))
    if not canvas.isfinite().all():
        files = f"the actor {actor}" + f" and the renderer {renderer}" * bool(renderer)
        raise UserError(f"{files} produce NaN or infinity; choose others with --actor, --renderer")
    return policy
