"""Layers of the agent's networks.

The names of modules and parameters are the keys of a published weight format.
"""

import torch
import torch.nn.functional as F
from torch import nn

from constants import WIDTH

STAGES = (64, 128, 256, 512)  # channels of an 18-layer residual network


class TReLU(nn.Module):
    """relu(x - alpha) + alpha with a learned alpha, 0 at first (Xiang and Li, 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        alpha = self.alpha.to(x.dtype)  # or bf16 would be promoted to fp32
        return F.relu(x - alpha) + alpha


class WeightNormConv2d(nn.Module):
    """A convolution with weight g v / |v|, one g per output channel (Salimans and Kingma, 2016).

    PyTorch's own parametrization computes the same but has other keys than the published
    ``bias, weight_g, weight_v``.
    """

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, out, kernel)  # for its initialization
        self.stride, self.padding = stride, kernel // 2
        self.bias = nn.Parameter(conv.bias.detach())
        self.weight_g = nn.Parameter(self._norm(conv.weight.detach()))
        self.weight_v = nn.Parameter(conv.weight.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight(), self.bias, self.stride, self.padding)

    def weight(self) -> torch.Tensor:
        """Return the filters (out, channels, kernel, kernel)."""
        return self.weight_v * (self.weight_g / self._norm(self.weight_v))

    def input_grad(self, output_grad: torch.Tensor) -> torch.Tensor:
        """Return the gradient (B, channels, stride H, stride W) with respect to the input.

        output_grad: (B, out, H, W), with respect to the output.
        """
        return F.conv_transpose2d(output_grad, self.weight(), None, self.stride, self.padding,
                                  self.stride - 1)

    @staticmethod
    def _norm(weight: torch.Tensor) -> torch.Tensor:
        return weight.square().sum((1, 2, 3), keepdim=True).sqrt()  # (out, 1, 1, 1)


class MatmulConv2d(nn.Conv2d):
    """A 3x3 convolution with padding 1; under autocast on a CPU, one matrix product.

    On maps of few pixels the product and its gradients are faster than the convolution's.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        stride, (height, width) = self.stride[0], x.shape[2:]
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        pixels = [x[:, row:row + height:stride, column:column + width:stride]
                  for row in range(3) for column in range(3)]
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(torch.cat(pixels, -1), weight, self.bias).permute(0, 3, 1, 2)


class Planes(nn.Module):
    """The input of a network: pictures, numbers as constant planes, and CoordConv's planes.

    Those hold the row i/127 and the column j/127 of each pixel (Liu et al., 2018).
    """

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


def in_fp32(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return layer(x) without autocast: bf16 is too coarse for values and strokes."""
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.to(next(layer.parameters()).dtype))


def residual_stages(block: type[nn.Module]) -> list[nn.Sequential]:
    """Return four stages of two blocks; the first block of each halves height and width."""
    channels = (STAGES[0], *STAGES)
    return [nn.Sequential(block(before, after, 2), block(after, after, 1))
            for before, after in zip(channels, STAGES, strict=False)]
