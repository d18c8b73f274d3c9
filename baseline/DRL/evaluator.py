"""Painting a fixed set of pictures to see how well the agent does."""

from typing import NamedTuple

import torch

from DRL.ddpg import DDPG
from Renderer.canvas import as_float, as_uint8, paint_strokes
from utils.ranks import Ranks

LIVE_CHANGE = 0.001  # a live stroke changes the canvas by this much on average, or more


class Evaluation(NamedTuple):
    """How the paintings of a set of pictures came along."""

    errors: torch.Tensor  # (max_step,) mean squared error after each bundle, over all pictures
    live: torch.Tensor  # (max_step,) share of each bundle's strokes that changed the canvas
    canvas: torch.Tensor  # (N, 3, 128, 128) uint8, the finished paintings


@torch.no_grad()
def evaluate(
    agent: DDPG, targets: torch.Tensor, batch_size: int, ranks: Ranks | None = None
) -> Evaluation:
    """Paint all of ``targets``, (N, 3, 128, 128) uint8, in episodes of ``agent.max_step``.

    With ranks each process paints its part; the numbers are of all, the canvases its own.
    """
    errors, live = torch.zeros(2, agent.max_step, device=agent.precision.device)
    finished = []
    own = targets[ranks.rank :: ranks.world] if ranks else targets
    for target in own.split(batch_size) if len(own) else ():
        target = target.to(agent.precision.device)
        wanted = as_float(target)
        canvas = torch.zeros_like(target)
        for step in range(agent.max_step):
            action = agent.act(canvas, target, step)
            before = as_float(canvas)
            canvases = paint_strokes(agent.render, before, action)
            for after in canvases:
                change = (after - before).abs().mean((1, 2, 3))  # (B,)
                live[step] += (change >= LIVE_CHANGE).sum() / len(canvases)
                before = after
            canvas = as_uint8(before)
            errors[step] += (as_float(canvas) - wanted).square().mean((1, 2, 3)).sum()
        finished.append(canvas.cpu())
    sums = torch.stack((errors, live))
    errors, live = (ranks.total(sums) if ranks else sums).cpu() / len(targets)
    return Evaluation(errors, live, torch.cat(finished) if finished else own)
