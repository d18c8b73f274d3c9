"""The actor: sees canvas and target and chooses the next strokes."""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from constants import BUNDLE, LARGEST_BUNDLE, READOUTS
from DRL.layers import STAGES, Planes, in_full, residual_stages
from Renderer.canvas import STROKE_DIM
from utils.command import UserError
from utils.weights import load_built


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalization around a shortcut."""

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
    """An 18-layer residual network with batch normalization: nine planes to strokes.

    An action is a bundle of N strokes.  Read-out "mean", the paper's, applies the last layer to the
    mean of the last feature map; "grid" applies it to each of its 4x4 cells.
    """

    def __init__(self, bundle: int = BUNDLE, readout: str = "mean") -> None:
        """bundle: N; readout: "mean" or "grid"."""
        super().__init__()
        self.bundle, self.readout = bundle, readout
        self.planes = Planes()
        self.conv1 = nn.Conv2d(9, STAGES[0], 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STAGES[0])
        self.layer1, self.layer2, self.layer3, self.layer4 = residual_stages(Block)
        self.fc = nn.Linear(STAGES[-1], bundle * STROKE_DIM)

    def forward(
        self, canvas: torch.Tensor, target: torch.Tensor, progress: torch.Tensor
    ) -> torch.Tensor:
        """Choose actions.

        canvas, target: (B, 3, 128, 128) in [0, 1]; progress: (B,), step / max_step.
        Returns (B, 13 N) in [0, 1]; with a grid read-out (B, 16, 13 N), cells in reading order.
        """
        return self.choose(self.planes((canvas, target), progress))

    def choose(self, planes: torch.Tensor) -> torch.Tensor:
        """Choose actions by all nine planes (B, 9, 128, 128)."""
        x = F.relu(self.bn1(self.conv1(planes)))  # (B, 64, 64, 64)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        x = x.flatten(2).mT if self.readout == "grid" else x.mean((2, 3))  # (B, [16,] 512)
        return torch.sigmoid(in_full(self.fc, x))


def load_actor(path: Path, what: str, otherwise: str) -> tuple[Actor, str]:
    """Return the actor of a weight file, and the family of its strokes; see ``load_weights``.

    The file's last layer tells how many strokes an action has, its metadata the read-out.
    """
    def build(state: dict[str, torch.Tensor]) -> Actor:
        bundle, rest = divmod(state["fc.bias"].numel() if "fc.bias" in state else 0, STROKE_DIM)
        return Actor(BUNDLE if rest or not 1 <= bundle <= LARGEST_BUNDLE else bundle)

    actor, metadata = load_built(build, path, what, otherwise)
    actor.readout = metadata.get("readout", "mean")
    if actor.readout not in READOUTS:
        raise UserError(f"{what} {path} has the read-out {actor.readout}, which is not known here: "
                        f"{' and '.join(READOUTS)} are; {otherwise}")
    return actor, metadata["family"]


def normalized_convolutions(actor: Actor) -> Iterator[tuple[str, nn.Conv2d, nn.BatchNorm2d]]:
    """Yield each convolution with its name and the batch normalization that follows it."""
    yield "conv1", actor.conv1, actor.bn1
    for name, block in actor.named_modules():
        if isinstance(block, Block):
            yield f"{name}.conv1", block.conv1, block.bn1
            yield f"{name}.conv2", block.conv2, block.bn2
            if len(block.shortcut):
                yield f"{name}.shortcut.0", *block.shortcut


def folded_weights(actor: Actor) -> dict[str, torch.Tensor]:
    """Return the parameters of the same actor without batch normalization, differentiably.

    In eval mode a normalization is a scale and a shift of each channel.  The keys are those of
    what ``fold_batch_norm`` makes of an actor.
    """
    weights = {"fc.weight": actor.fc.weight, "fc.bias": actor.fc.bias}
    for name, conv, norm in normalized_convolutions(actor):
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight = conv.weight * scale[:, None, None, None]
        weights[f"{name}.weight"] = weight.contiguous(memory_format=torch.channels_last)
        weights[f"{name}.bias"] = norm.bias - norm.running_mean * scale
    return weights


def fold_batch_norm(actor: Actor) -> Actor:
    """Fold an actor's batch normalizations, in eval mode, into its convolutions, in place.

    It chooses the same actions with less work, but its keys are no longer those of weight files.
    """
    for module in list(actor.modules()):
        if isinstance(module, Actor | Block):
            module.conv1 = fuse_conv_bn_eval(module.conv1, module.bn1)
            module.bn1 = nn.Identity()
        if isinstance(module, Block):
            module.conv2 = fuse_conv_bn_eval(module.conv2, module.bn2)
            module.bn2 = nn.Identity()
            if len(module.shortcut):
                module.shortcut = nn.Sequential(fuse_conv_bn_eval(*module.shortcut), nn.Identity())
    return actor
