"""The critic: the value V of the canvas that an action leads to."""

import torch
from torch import nn

from DRL.layers import STAGES, Planes, TReLU, WeightNormConv2d, in_fp32, residual_stages


class Block(nn.Module):
    """Two weight-normalized 3x3 convolutions with TReLU and a shortcut."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = WeightNormConv2d(channels, out, 3, stride)
        self.conv2 = WeightNormConv2d(out, out, 3)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(WeightNormConv2d(channels, out, 1, stride))
        self.relu_1 = TReLU()
        self.relu_2 = TReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu_1(self.conv1(x))
        return self.relu_2(self.conv2(y) + self.shortcut(x))


class Critic(nn.Module):
    """A ResNet-18 with weight normalization and TReLU, from input channels to a value."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.planes = Planes()
        self.conv1 = WeightNormConv2d(channels, STAGES[0], 3, 2)
        self.layer1, self.layer2, self.layer3, self.layer4 = residual_stages(Block)
        self.fc = nn.Linear(STAGES[-1], 1)
        self.relu_1 = TReLU()

    def forward(
        self, canvas: torch.Tensor, next_canvas: torch.Tensor, target: torch.Tensor,
        progress: torch.Tensor,
    ) -> torch.Tensor:
        """Return the value (B, 1) of ``next_canvas``.

        canvas, next_canvas, target: (B, 3, 128, 128) in [0, 1]; progress: (B,), of next_canvas.
        """
        return self.from_planes(self.planes((canvas, next_canvas, target), progress))

    def from_planes(self, planes: torch.Tensor) -> torch.Tensor:
        """Return the value (B, 1) of input channels (B, C, 128, 128)."""
        x = self.relu_1(self.conv1(planes))  # (B, 64, 64, 64)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        x = x.mean((2, 3))  # (B, 512), over the 4x4 map
        return in_fp32(self.fc, x)
