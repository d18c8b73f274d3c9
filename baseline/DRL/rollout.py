"""The policy: an actor and a renderer, which paint targets together."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from DRL.actor import Actor
from Renderer.canvas import as_float, as_uint8, paint_strokes, split_action
from Renderer.model import TrainedRender
from Renderer.stroke_gen import SHAPE_DIM
from running.device import Precision
from running.ranks import Ranks

VISIBLE_CHANGE = 0.001  # minimum mean absolute change by a visible stroke
OPACITIES = slice(SHAPE_DIM - 2, SHAPE_DIM)  # of a stroke's shape


class PaintingStatistics(NamedTuple):
    """Statistics of the paintings of a set of pictures."""

    errors: torch.Tensor  # (steps,) mean squared error after each action, over all pictures
    visible: torch.Tensor  # (steps,) fraction of visible strokes in each action
    opacity: torch.Tensor  # (steps,) mean opacity of each action's strokes
    canvas: torch.Tensor  # (N, 3, 128, 128) uint8, the finished paintings


class Policy:
    """An actor in eval mode and the renderer that paints its actions."""

    canvas = "neural"  # or "exact": which renderer paints the canvas that the actor sees

    def __init__(
        self, actor: Actor, render: TrainedRender | None, precision: Precision, family: str = "",
    ) -> None:
        """Store actor and renderer; family: of the strokes, needed if render is None."""
        self.device, self.precision = precision.device, precision
        self.actor, self.render = actor, render
        self.bundle, self.family = actor.bundle, family or render.family

    @torch.no_grad()
    def act(
        self, canvas: torch.Tensor, target: torch.Tensor, progress: float | torch.Tensor
    ) -> torch.Tensor:
        """Return the next actions (B, 13 N).

        canvas, target: (B, 3, 128, 128) in [0, 1]; progress: in [0, 1), a number or (B,).
        """
        if not isinstance(progress, torch.Tensor):
            progress = torch.full((len(canvas),), progress, device=self.device)
        with self.precision.autocast():
            return self.actor(canvas, target, progress)

    @torch.no_grad()
    def paint(
        self, canvas: torch.Tensor, target: torch.Tensor, steps: int, rounded: bool = False
    ) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
        """Paint ``steps`` actions on every canvas.

        canvas, target: (B, 3, 128, 128) in [0, 1]; rounded: round the last canvas of a step to 8
        bits, as in the paper's evaluation.  Yields for each step the action (B, 13 N) and the
        canvases (B, 3, 128, 128) after each of its N strokes.
        """
        for step in range(steps):
            action = self.act(canvas, target, step / steps)
            canvases = paint_strokes(self.render, canvas, action)
            if rounded:
                canvases[-1] = as_float(as_uint8(canvases[-1]))
            canvas = canvases[-1]
            yield action, canvases

    def measure(
        self, targets: torch.Tensor, steps: int, batch_size: int, ranks: Ranks | None = None
    ) -> PaintingStatistics:
        """Paint targets (N, 3, 128, 128) uint8 from black; return statistics over all of them.

        ranks: each process paints a shard and returns that shard's canvases.
        """
        sums = torch.zeros(3, steps, device=self.device)
        own = targets[ranks.rank :: ranks.world] if ranks else targets
        finished = [own[:0].cpu()]
        for first in range(0, len(own), batch_size):
            target = as_float(own[first : first + batch_size].to(self.device))
            before = torch.zeros_like(target)
            for step, (action, canvases) in enumerate(
                    self.paint(before, target, steps, rounded=True)):
                for after in canvases:
                    change = (after - before).abs().mean((1, 2, 3))  # (B,)
                    sums[1, step] += (change >= VISIBLE_CHANGE).sum() / len(canvases)
                    before = after
                sums[0, step] += (before - target).square().mean((1, 2, 3)).sum()
                sums[2, step] += split_action(action)[0][..., OPACITIES].mean((1, 2)).sum()
            finished.append(as_uint8(before).cpu())
        sums = (ranks.all_reduce(sums) if ranks else sums).cpu() / len(targets)
        return PaintingStatistics(*sums, torch.cat(finished))
