"""An actor's first lessons: to imitate a painter that scans the picture, then to surpass it.

The scanning painter needs no learning.  It lays short opaque strokes side by side, first a coarse
layer and then a fine one, each stroke in the target's mean colour around its place.
"""

import math

import torch
import torch.nn.functional as F

from DRL.learner import Learner, Metrics, Seen, Setup
from DRL.rpm import Transitions
from facts import BUNDLE, WIDTH
from Renderer.canvas import as_float, composite
from utils.schedule import cosine, stepped

RATES = (1e-3, 3e-4, 1e-4)  # for the first fifth of a training, the second, and the rest
COARSE_PART = 1 / 8  # of an episode
COARSE, FINE = (5, 5), (12, 15)  # rows and columns of the layers; rows for 40 bundles of 5
COARSE_STROKE, FINE_STROKE = (0.05, 0.5), (0.035, 0.14)  # half a stroke's length, and its radius
OPACITY = 0.95


def scan(target: torch.Tensor, progress: torch.Tensor, bundle: int = BUNDLE) -> torch.Tensor:
    """The scanning painter's bundle.

    The strokes of a bundle lie side by side in a row.  Bundle by bundle the row moves down, and
    where a layer has more columns than a bundle has strokes, up again beside them.

    target: (B, 3, 128, 128) in [0, 1]; progress: (B,) in [0, 1), step / max_step.  Returns
    (B, 13 bundle).
    """
    coarse, fine = (_layer(target, part, *layer, bundle) for part, *layer in (
        (progress / COARSE_PART, COARSE, COARSE_STROKE, 0),
        ((progress - COARSE_PART) / (1 - COARSE_PART), FINE, FINE_STROKE,
         math.ceil(COARSE[1] / bundle)),
    ))
    return torch.where(progress[:, None, None] < COARSE_PART, coarse, fine).flatten(1)


def _layer(
    target: torch.Tensor, part: torch.Tensor, cells: tuple[int, int], size: tuple[float, float],
    turns: int, bundle: int,
) -> torch.Tensor:
    """The strokes (B, bundle, 13) of a layer of which a ``part`` (B,) is painted.

    turns: how often the row went down or up before this layer.
    """
    bands, (half, radius) = math.ceil(cells[1] / bundle), size
    along = part.clamp(0, 1 - 1e-6) * bands  # (B,)
    band = along.floor()
    row = (along - band + 0.5 / cells[0]).clamp(max=1 - 0.5 / cells[0])
    row = torch.where((band + turns) % 2 == 0, row, 1 - row)[:, None].expand(-1, bundle)
    beside = (torch.arange(bundle, device=target.device) + 0.5) / bundle  # (bundle,)
    column = (band[:, None] + beside) / bands  # (B, bundle)
    means = F.interpolate(target, (cells[0], bands * bundle), mode="area")
    places = 2 * torch.stack((column, row), -1)[:, None] - 1  # (B, 1, bundle, 2)
    colours = F.grid_sample(means, places, padding_mode="border", align_corners=False)
    top, bottom = (row - half).clamp(min=0), (row + half).clamp(max=1)
    middle, radius, opacity = (torch.full_like(row, v) for v in (0.5, radius, OPACITY))
    shape = (top, column, middle, middle, bottom, column, radius, radius, opacity, opacity)
    return torch.cat((torch.stack(shape, -1), colours[:, :, 0].mT), -1)


def own_and_others(canvas: torch.Tensor) -> torch.Tensor:
    """The actor's own canvases (B, 3, 128, 128) in [0, 1], but every fourth that of another fourth.

    So it learns to paint over anything, as on tiles.
    """
    canvas = canvas.clone()
    canvas[::4] = canvas[::4].roll(1, 0)
    return canvas


class Apprentice(Learner):
    """The agent while it imitates the scanning painter; it needs no reward."""

    def __init__(self, setup: Setup, *, actor_rate: float | None = None) -> None:
        """actor_rate: highest rate of a cosine, in place of the three steps."""
        super().__init__(setup, {})
        self.peak = actor_rate

    def rates(self, progress: float) -> dict[str, float]:
        """Three steps, or half a cosine."""
        rate = cosine(progress, self.peak) if self.peak else stepped(progress, RATES, (0.2, 0.4))
        return {"actor": rate}

    def learn(self, batch: Transitions, target: torch.Tensor) -> tuple[Metrics, torch.Tensor]:
        """One step of the actor."""
        tensors = batch.canvas, target, batch.step
        return self.replay(self._learn)(*tensors), batch.next_canvas

    def _learn(self, canvas: torch.Tensor, target: torch.Tensor, step: torch.Tensor) -> Metrics:
        canvas = self.look(own_and_others(as_float(canvas)))
        self.actor.train(self.phase.norm)
        metrics = self.descend("actor", self.policy_loss, canvas, self.look(as_float(target)), step)
        self.actor.eval()
        return metrics

    def policy_loss(
        self, canvas: Seen, target: Seen, step: torch.Tensor
    ) -> tuple[torch.Tensor, Metrics]:
        """Cross entropy of the actor's numbers against the scanning painter's, less the least."""
        progress = step / self.max_step
        action = self.calls["actor"](canvas.small, target.small, progress)  # (B, 13 N)
        with torch.autocast(self.precision.device.type, enabled=False):
            wanted = scan(target.whole, progress, self.bundle)
            loss = F.binary_cross_entropy(action, wanted) - F.binary_cross_entropy(wanted, wanted)
        return loss, {"difference": (action - wanted).square().mean()}


class Journeyman(Apprentice):
    """The agent while it learns to do better where the scanning painter would paint."""

    def __init__(self, setup: Setup, **options) -> None:
        """See ``Apprentice``."""
        super().__init__(setup, **options)
        device = self.precision.device
        white = torch.ones(1, 3, WIDTH, WIDTH, device=device)
        # What the scanning painter covers in each step.
        self.patches = torch.empty(self.max_step, 1, WIDTH, WIDTH, device=device)
        starts = torch.arange(self.max_step, device=device) / self.max_step
        with torch.no_grad():
            for patch, start in zip(self.patches, starts, strict=True):
                bundle = scan(white, start[None], self.bundle)
                patch[:] = composite(self.render, 0 * white, bundle)[0, :1]

    def policy_loss(
        self, canvas: Seen, target: Seen, step: torch.Tensor
    ) -> tuple[torch.Tensor, Metrics]:
        """The squared error within the patch of now, and what the bundle spoils around it.

        The patch is what the scanning painter's bundle covers.  Nothing is to be gained outside,
        so the actor leaves the rest of the picture to later bundles.
        """
        patch = self.patches[step]
        action = self.calls["actor"](canvas.small, target.small, step / self.max_step)
        painted = self.composite(canvas.whole, action)
        before = (canvas.whole - target.whole).square()
        after = (painted - target.whole).square()
        area = 3 * patch.sum((1, 2, 3)).clamp(min=1)  # of all channels
        error = (patch * after).sum((1, 2, 3)) / area
        spoilt = ((1 - patch) * F.relu(after - before)).sum((1, 2, 3)) / area
        return (error + spoilt).mean(), {"patch": error.mean(), "spoilt": spoilt.mean()}
