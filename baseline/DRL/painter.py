"""A trained actor and its renderer, which paint targets together."""

from collections.abc import Iterator
from pathlib import Path

import torch

from DRL.actor import fold_batch_norm, load_actor
from Renderer.canvas import paint_strokes
from Renderer.model import load_render
from utils.command import UserError
from utils.device import Precision


class Painter:
    """Both networks in eval mode, loaded from weight files."""

    def __init__(self, actor: Path, renderer: Path, precision: Precision) -> None:
        """Raises UserError where a file is missing or holds the weights of another network.

        So it does where the two are for different families of strokes; ``family`` is the one,
        and ``bundle`` the number of strokes a step.
        """
        self.device, self.precision = precision.device, precision
        self.render = load_render(renderer, precision)
        self.actor, self.family = load_actor(actor, "the actor", "train one with baseline/"
                                             "train.py, or name another with --actor")
        self.bundle = self.actor.bundle
        if self.family != self.render.family:
            raise UserError(f"the actor {actor} paints with {self.family} strokes and the renderer "
                            f"{renderer} draws {self.render.family} strokes; name two of one "
                            "family with --actor and --renderer")
        fold_batch_norm(self.actor.eval())
        self.actor.to(self.device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def act(self, canvas: torch.Tensor, target: torch.Tensor, progress: float) -> torch.Tensor:
        """The next bundle (B, 13 N) for canvas and target (B, 3, 128, 128), progress in [0, 1)."""
        with self.precision.autocast():
            return self.actor(canvas, target, torch.full((len(canvas),), progress,
                                                         device=self.device))

    @torch.inference_mode()
    def paint(
        self, canvas: torch.Tensor, target: torch.Tensor, steps: int
    ) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
        """Paint ``steps`` bundles on every canvas.

        canvas, target: (B, 3, 128, 128) in [0, 1].  Yields for each step the action (B, 13 N)
        and the canvases (B, 3, 128, 128) after each of its N strokes.
        """
        for step in range(steps):
            action = self.act(canvas, target, step / steps)
            canvases = paint_strokes(self.render, canvas, action)
            canvas = canvases[-1]
            yield action, canvases
