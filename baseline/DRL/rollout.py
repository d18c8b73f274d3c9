"""The policy: an actor and a renderer, which paint targets together."""

from collections.abc import Iterator

import torch

from DRL.actor import Actor
from Renderer.canvas import as_float, as_uint8, composite
from Renderer.model import TrainedRender
from running.device import Precision
from running.ranks import Ranks


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
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Paint ``steps`` actions on every canvas.

        canvas, target: (B, 3, 128, 128) in [0, 1]; rounded: round the canvas after each step to 8
        bits, as in the paper's evaluation.  Yields for each step the action (B, 13 N) and the
        canvas (B, 3, 128, 128) after it.
        """
        for step in range(steps):
            action = self.act(canvas, target, step / steps)
            canvas = composite(self.render, canvas, action)
            if rounded:
                canvas = as_float(as_uint8(canvas))
            yield action, canvas

    def measure(
        self, targets: torch.Tensor, steps: int, batch_size: int, ranks: Ranks | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Paint targets (N, 3, 128, 128) uint8 from black.

        Returns the mean squared error after each action (steps,), and the finished paintings
        (N, 3, 128, 128) uint8.  ranks: each process paints a shard, and returns that shard's.
        """
        errors = torch.zeros(steps, device=self.device)
        own = targets[ranks.rank :: ranks.world] if ranks else targets
        finished = [own[:0].cpu()]
        for first in range(0, len(own), batch_size):
            target = as_float(own[first : first + batch_size].to(self.device))
            blank = torch.zeros_like(target)
            for step, (_, canvas) in enumerate(self.paint(blank, target, steps, rounded=True)):
                errors[step] += (canvas - target).square().mean((1, 2, 3)).sum()
            finished.append(as_uint8(canvas).cpu())
        errors = (ranks.all_reduce(errors) if ranks else errors).cpu() / len(targets)
        return errors, torch.cat(finished)
