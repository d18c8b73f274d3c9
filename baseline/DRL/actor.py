"""The actor: looks at canvas and target and chooses the next strokes."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from constants import BUNDLE, LARGEST_BUNDLE
from DRL.layers import STAGES, Planes, in_full, residual_stages
from Renderer.canvas import STROKE_DIM
from utils.weights import load_built


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation around a shortcut."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Actor(nn.Module):
    """An 18-layer residual network with batch normalisation: nine planes to a bundle."""

    def __init__(self, bundle: int = BUNDLE) -> None:
        """Build it for actions of ``bundle`` strokes."""
        super().__init__()
        self.bundle = bundle
        self.planes = Planes()
        self.conv1 = nn.Conv2d(9, STAGES[0], 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STAGES[0])
        self.layer1, self.layer2, self.layer3, self.layer4 = residual_stages(Block)
        self.fc = nn.Linear(STAGES[-1], bundle * STROKE_DIM)

    def forward(
        self, canvas: torch.Tensor, target: torch.Tensor, progress: torch.Tensor
    ) -> torch.Tensor:
        """Return actions (B, 13 bundle) in [0, 1].

        canvas, target: (B, 3, 128, 128) in [0, 1]; progress: (B,), step / max_step.
        """
        return self.choose(self.planes((canvas, target), progress))

    def choose(self, planes: torch.Tensor) -> torch.Tensor:
        """Return actions (B, 13 bundle) in [0, 1] for all nine planes (B, 9, 128, 128)."""
        x = F.relu(self.bn1(self.conv1(planes)))  # (B, 64, 64, 64)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        x = x.mean((2, 3))  # (B, 512), over the 4x4 map
        return torch.sigmoid(in_full(self.fc, x))


def load_actor(path: Path, what: str, otherwise: str) -> tuple[Actor, str]:
    """The actor of a weight file, and the family of its strokes; see ``load_weights``.

    The file's last layer tells how many strokes it chooses at once.
    """
    def build(state: dict[str, torch.Tensor]) -> Actor:
        bundle, rest = divmod(state["fc.bias"].numel() if "fc.bias" in state else 0, STROKE_DIM)
        return Actor(BUNDLE if rest or not 1 <= bundle <= LARGEST_BUNDLE else bundle)

    return load_built(build, path, what, otherwise)


def fold_batch_norm(actor: Actor) -> None:
    """Work an actor's batch normalisations, in eval mode, into its convolutions.

    It chooses the same bundles with less work, but its keys are no longer those of weight files.
    """
    for module in list(actor.modules()):
        if isinstance(module, Actor | Block):
            module.conv1 = fuse_conv_bn_eval(module.conv1, module.bn1)
            module.bn1 = nn.Identity()
        if isinstance(module, Block):
            module.conv2 = fuse_conv_bn_eval(module.conv2, module.bn2)
            module.bn2 = nn.Identity()
            if len(module.shortcut):
                module.shortcut = fuse_conv_bn_eval(*module.shortcut)
