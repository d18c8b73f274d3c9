"""Layers of the agent's networks.

The names of modules and parameters are the keys of a published weight format.
"""

import torch
import torch.nn.functional as F
from torch import nn

from constants import WIDTH

STAGES = (64, 128, 256, 512)  # channels of an 18-layer residual network


class TReLU(nn.Module):
    """relu(x - alpha) + alpha with a learnt alpha, which starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        alpha = self.alpha.to(x.dtype)  # or bf16 would become fp32 from here on
        return F.relu(x - alpha) + alpha


class WeightNormConv2d(nn.Module):
    """A convolution whose weight is g v / |v|, one scale g per output channel.

    Salimans and Kingma 2016.  PyTorch's own parametrisation computes the same but writes
    other keys than the published ``bias, weight_g, weight_v``.
    """

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        start = nn.Conv2d(channels, out, kernel)
        self.stride, self.padding = stride, kernel // 2
        self.bias = nn.Parameter(start.bias.detach())
        self.weight_g = nn.Parameter(self._length(start.weight.detach()))
        self.weight_v = nn.Parameter(start.weight.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight(), self.bias, self.stride, self.padding)

    def weight(self) -> torch.Tensor:
        """The filters (out, channels, kernel, kernel)."""
        return self.weight_v * (self.weight_g / self._length(self.weight_v))

    def turned_round(self, slope: torch.Tensor) -> torch.Tensor:
        """From the gradient to its output, that to its input, which is wider by the stride."""
        return F.conv_transpose2d(slope, self.weight(), None, self.stride, self.padding,
                                  self.stride - 1)

    @staticmethod
    def _length(weight: torch.Tensor) -> torch.Tensor:
        return weight.square().sum((1, 2, 3), keepdim=True).sqrt()  # (out, 1, 1, 1)


class Planes(nn.Module):
    """What a network looks at: pictures, numbers as constant planes, row i/127 and column j/127."""

    def __init__(self) -> None:
        super().__init__()
        line = torch.linspace(0, 1, WIDTH)
        planes = torch.stack(torch.meshgrid(line, line, indexing="ij"))[None]  # (1, 2, W, W)
        self.register_buffer("coordinates", planes, persistent=False)

    def forward(self, pictures: tuple[torch.Tensor, ...], numbers: torch.Tensor) -> torch.Tensor:
        """Return planes (B, 3 pictures + K + 2, 128, 128).

        pictures: each (B, 3, 128, 128) in [0, 1]; numbers: (B, K) or (B,).
        """
        count = len(numbers)
        constant = numbers.view(count, -1, 1, 1).expand(-1, -1, WIDTH, WIDTH)
        coordinates = self.coordinates.expand(count, -1, -1, -1)
        x = torch.cat((*pictures, constant, coordinates), 1)
        return x.contiguous(memory_format=torch.channels_last)


def in_full(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A last layer in its weights' fp32: bf16 rounds scores by as much as a late bundle earns."""
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.to(next(layer.parameters()).dtype))


def residual_stages(block: type[nn.Module]) -> list[nn.Sequential]:
    """Four stages of two blocks; the first block of each halves the picture."""
    channels = (STAGES[0], *STAGES)
    return [
        nn.Sequential(block(before, after, 2), block(after, after, 1))
        for before, after in zip(channels, STAGES, strict=False)
    ]
