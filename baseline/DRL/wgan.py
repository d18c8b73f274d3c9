"""The discriminator whose score of a painting is the agent's reward."""

import torch
from torch import nn

from DRL.layers import TReLU, WeightNormConv2d, in_full

PENALTY = 10


class Discriminator(nn.Module):
    """Five strided convolutions: how much a painting looks like its target."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = WeightNormConv2d(6, 16, 5, 2)
        self.conv1 = WeightNormConv2d(16, 32, 5, 2)
        self.conv2 = WeightNormConv2d(32, 64, 5, 2)
        self.conv3 = WeightNormConv2d(64, 128, 5, 2)
        self.conv4 = WeightNormConv2d(128, 1, 5, 2)
        self.relu0, self.relu1, self.relu2, self.relu3 = (TReLU() for _ in range(4))

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """pair: (B, 6, 128, 128), target then painting, in [0, 1].  Returns (B, 1)."""
        x = pair.contiguous(memory_format=torch.channels_last)
        x = self.relu0(self.conv0(x))
        x = self.relu1(self.conv1(x))
        x = self.relu2(self.conv2(x))
        x = self.relu3(self.conv3(x))
        return in_full(self.conv4, x).mean((2, 3))  # over the 4x4 map

    def slope(self, pair: torch.Tensor) -> torch.Tensor:
        """The gradient (B, 6, 128, 128) of each score to its pair, which gradients can go through.

        Between its kinks the network is linear, so this is a chain of its layers turned round.  To
        differentiate a backward pass comes to the same, with convolutions of huge kernels.
        """
        x = pair.contiguous(memory_format=torch.channels_last)
        layers = ((self.conv0, self.relu0), (self.conv1, self.relu1), (self.conv2, self.relu2),
                  (self.conv3, self.relu3))
        sides = []  # of the kinks
        with torch.no_grad():
            for conv, relu in layers:
                x = conv(x)
                sides.append(x > relu.alpha)
                x = relu(x)
        count, size = len(x), x.shape[2] // 2  # of the last map
        slope = x.new_full((count, 1, size, size), 1 / size**2)
        slope = self.conv4.turned_round(slope)
        for (conv, _), side in zip(reversed(layers), reversed(sides), strict=True):
            slope = conv.turned_round(slope * side)
        return slope


def gradient_penalty(
    discriminator: Discriminator, real: torch.Tensor, fake: torch.Tensor, alpha: torch.Tensor
) -> torch.Tensor:
    """10 (|grad D| - 1)^2 at alpha real + (1 - alpha) fake, mean over the batch.

    Gulrajani et al. 2017; in the precision of now, but for the length.
    real, fake: (B, 6, 128, 128); alpha: (B,) in [0, 1].
    """
    slope = discriminator.slope(torch.lerp(fake, real, alpha.view(-1, 1, 1, 1)))
    length = slope.float().flatten(1).norm(dim=1)  # (B,)
    return PENALTY * (length - 1).square().mean()
