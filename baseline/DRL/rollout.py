"""An actor and a renderer, which paint targets together: the only roll-out."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from constants import WIDTH
from DRL.actor import Actor, fold_batch_norm, load_actor
from Renderer.canvas import as_float, as_uint8, paint_strokes, split_action
from Renderer.model import TrainedRender, load_render
from Renderer.stroke_gen import SHAPE_DIM
from running.device import Precision
from running.ranks import Ranks
from utils.command import UserError

LIVE_CHANGE = 0.001  # a live stroke changes the canvas by this much on average, or more
OPACITIES = slice(SHAPE_DIM - 2, SHAPE_DIM)  # of a stroke's shape


class Measured(NamedTuple):
    """How the paintings of a set of pictures came along."""

    errors: torch.Tensor  # (steps,) mean squared error after each bundle, over all pictures
    live: torch.Tensor  # (steps,) share of each bundle's strokes that changed the canvas
    opacity: torch.Tensor  # (steps,) mean opacity of each bundle's strokes
    canvas: torch.Tensor  # (N, 3, 128, 128) uint8, the finished paintings


class Painter:
    """Both networks, the actor in eval mode, which sees the neural canvas."""

    canvas = "neural"  # or "exact": what the actor sees

    def __init__(self, actor: Actor, render: TrainedRender, precision: Precision) -> None:
        self.device, self.precision = precision.device, precision
        self.actor, self.render = actor, render
        self.bundle, self.family = actor.bundle, render.family

    def checked(self, actor: Path, renderer: Path) -> "Painter":
        """Return self.  Raises UserError where what it paints is not finite.

        actor, renderer: the files that the networks are from.
        """
        blank = torch.zeros(1, 3, WIDTH, WIDTH, device=self.device)
        grey = torch.linspace(0, 1, WIDTH, device=self.device).expand_as(blank)
        _, canvases = next(self.paint(blank, grey, 1))
        if not canvases[-1].isfinite().all():
            raise UserError(f"the actor {actor} and the renderer {renderer} paint what are no "
                            "finite numbers; name others with --actor and --renderer")
        return self

    @torch.no_grad()
    def act(
        self, canvas: torch.Tensor, target: torch.Tensor, progress: float | torch.Tensor
    ) -> torch.Tensor:
        """The next bundle (B, 13 N).

        canvas, target: (B, 3, 128, 128) in [0, 1]; progress: in [0, 1), of all or (B,).
        """
        if not isinstance(progress, torch.Tensor):
            progress = torch.full((len(canvas),), progress, device=self.device)
        with self.precision.autocast():
            return self.actor(canvas, target, progress)

    @torch.no_grad()
    def paint(
        self, canvas: torch.Tensor, target: torch.Tensor, steps: int, rounded: bool = False
    ) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
        """Paint ``steps`` bundles on every canvas.

        canvas, target: (B, 3, 128, 128) in [0, 1]; rounded: let the last canvas of a step be
        in 8 bits, as in the paper's evaluation.  Yields for each step the action (B, 13 N) and
        the canvases (B, 3, 128, 128) after each of its N strokes.
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
    ) -> Measured:
        """Paint all of ``targets``, (N, 3, 128, 128) uint8, from black.

        With ranks each process paints its part; the numbers are of all, the canvases its own.
        """
        sums = torch.zeros(3, steps, device=self.device)
        finished = []
        own = targets[ranks.rank :: ranks.world] if ranks else targets
        for target in own.split(batch_size) if len(own) else ():
            target = as_float(target.to(self.device))
            before = torch.zeros_like(target)
            for step, (action, canvases) in enumerate(
                    self.paint(before, target, steps, rounded=True)):
                for after in canvases:
                    change = (after - before).abs().mean((1, 2, 3))  # (B,)
                    sums[1, step] += (change >= LIVE_CHANGE).sum() / len(canvases)
                    before = after
                sums[0, step] += (before - target).square().mean((1, 2, 3)).sum()
                sums[2, step] += split_action(action)[0][..., OPACITIES].mean((1, 2)).sum()
            finished.append(as_uint8(before).cpu())
        sums = (ranks.all_reduce(sums) if ranks else sums).cpu() / len(targets)
        return Measured(*sums, torch.cat(finished) if finished else own)


def load_pair(
    actor: Path, renderer: Path, precision: Precision
) -> tuple[Actor, TrainedRender]:
    """Load an actor, its batch normalization folded, and a renderer.

    Raises UserError where one is missing or holds the weights of another network, and where the
    two are for different families of strokes.
    """
    render = load_render(renderer, precision)
    network, family = load_actor(actor, "the actor", "train one with baseline/train.py, or "
                                 "name another with --actor")
    if family != render.family:
        raise UserError(f"the actor {actor} paints with {family} strokes and the renderer "
                        f"{renderer} draws {render.family} strokes; name two of one "
                        "family with --actor and --renderer")
    fold_batch_norm(network.eval())
    return network.to(precision.device, memory_format=torch.channels_last), render
