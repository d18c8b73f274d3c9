"""The actor: maps canvas and target to the next strokes."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from constants import BUNDLE, LARGEST_BUNDLE, READOUTS
from DRL.layers import STAGES, MatmulConv2d, Planes, in_fp32, residual_stages
from Renderer.canvas import STROKE_DIM
from utils.command import UserError
from utils.weights import load_built


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalization and a shortcut (He et al., 2016)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        conv = MatmulConv2d if out == STAGES[-1] else nn.Conv2d
        self.conv1 = conv(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = conv(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Actor(nn.Module):
    """A ResNet-18 with batch normalization, from nine input channels to an action."""

    def __init__(self, bundle: int = BUNDLE, readout: str = "mean") -> None:
        """Build the network.

        bundle: N, strokes per action.  readout: "mean", the paper's, applies the last layer
        to the mean of the last feature map; "grid" applies it to each of the map's 4x4 grid cells.
        """
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
        """Return actions (B, 13 N) in [0, 1]; with read-out "grid" (B, 16, 13 N), row by row.

        canvas, target: (B, 3, 128, 128) in [0, 1]; progress: (B,), step / max_step.
        """
        return self.from_planes(self.planes((canvas, target), progress))

    def from_planes(self, planes: torch.Tensor) -> torch.Tensor:
        """Return the actions of input channels (B, 9, 128, 128)."""
        x = F.relu(self.bn1(self.conv1(planes)))  # (B, 64, 64, 64)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        x = x.flatten(2).mT if self.readout == "grid" else x.mean((2, 3))  # (B, [16,] 512)
        return torch.sigmoid(in_fp32(self.fc, x))


def load_actor(path: Path, what: str, otherwise: str) -> tuple[Actor, str]:
    """Load an actor from a weight file; return it and the family of its strokes.

    The shape of the last layer gives the bundle, the file's metadata the read-out.  Another shape
    is loaded into an actor of the default size, so that loading reports the mismatch.  what,
    otherwise: see ``load_file``.  Raises UserError where the file does not fit.
    """
    def build(state: dict[str, torch.Tensor]) -> Actor:
        bundle, rest = divmod(state["fc.bias"].numel() if "fc.bias" in state else 0, STROKE_DIM)
        return Actor(bundle if not rest and 1 <= bundle <= LARGEST_BUNDLE else BUNDLE)

    actor, metadata = load_built(build, path, what, otherwise)
    actor.readout = metadata.get("readout", "mean")
    if actor.readout not in READOUTS:
        raise UserError(f"{what} {path} has the read-out {actor.readout}, which is not known here: "
                        f"{' and '.join(READOUTS)} are; {otherwise}")
    return actor, metadata["family"]


def normalized_convolutions(actor: Actor) -> list[tuple[str, nn.Conv2d, str, nn.Module]]:
    """Return each convolution and the batch normalization that follows it, with their names."""
    layers = [(name, layer) for name, layer in actor.named_modules()
              if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.SyncBatchNorm)]
    return [(*conv, *norm) for conv, norm in zip(layers[::2], layers[1::2], strict=True)]


def folded_weights(actor: Actor) -> dict[str, torch.Tensor]:
    """Return the weights of ``fold_batch_norm(actor)``, differentiable in the actor's weights.

    In eval mode batch normalization is a scale and a shift of each channel.
    """
    weights = {"fc.weight": actor.fc.weight, "fc.bias": actor.fc.bias}
    for name, conv, _, norm in normalized_convolutions(actor):
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight = conv.weight * scale[:, None, None, None]
        weights[f"{name}.weight"] = weight.contiguous(memory_format=torch.channels_last)
        weights[f"{name}.bias"] = norm.bias - norm.running_mean * scale
    return weights


def fold_batch_norm(actor: Actor) -> Actor:
    """Fold the batch normalization of an actor in eval mode into its convolutions, in place.

    The actions stay the same up to rounding; the keys are no longer those of weight files.
    """
    for conv_name, conv, norm_name, norm in normalized_convolutions(actor):
        actor.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
        actor.set_submodule(norm_name, nn.Identity())
    return actor
