"""A trained actor and its renderer, which paint targets together."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from DRL.actor import Actor
from Renderer.canvas import paint_strokes
from Renderer.model import Renderer
from utils.command import ROOT
from utils.device import Precision
from utils.weights import load_weights


class Painter:
    """Both networks in eval mode, loaded from weight files."""

    def __init__(
        self, actor: Path, renderer: Path, device: torch.device, precision: Precision
    ) -> None:
        """Raises UserError where a file is missing or holds the weights of another network."""
        self.device, self.precision = device, precision
        self.actor, self.renderer = Actor(), Renderer()
        for network, file, name, script in (
            (self.renderer, renderer, "renderer", "train_renderer.py"),
            (self.actor, actor, "actor", "train.py"),
        ):
            script = os.path.relpath(ROOT / "baseline" / script)
            load_weights(network, file, name,
                         f"name another with --{name}, or train one: python3 {script}")
            network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)

    @torch.inference_mode()
    def paint(
        self, canvas: torch.Tensor, target: torch.Tensor, steps: int
    ) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
        """Paint ``steps`` bundles on every canvas.

        canvas, target: (B, 3, 128, 128) in [0, 1].  Yields for each step the action (B, 65) and
        the canvases (B, 3, 128, 128) after each of its five strokes.
        """
        for step in range(steps):
            progress = torch.full((len(canvas),), step / steps, device=self.device)
            with self.precision.autocast():
                action = self.actor(canvas, target, progress)
                canvases = paint_strokes(self.renderer, canvas, action)
            canvas = canvases[-1]
            yield action, canvases
