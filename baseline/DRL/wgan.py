"""The WGAN discriminator; the gain in its score is the reward."""

from itertools import pairwise

import torch
from torch import nn

from DRL.layers import TReLU, WeightNormConv2d, in_fp32

GRADIENT_PENALTY_WEIGHT = 10  # lambda


class Discriminator(nn.Module):
    """Convolutional discriminator; a higher score means that the canvas resembles its target."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.conv1, self.conv2, self.conv3, self.conv4 = (
            WeightNormConv2d(*sizes, 5, 2) for sizes in pairwise((6, 16, 32, 64, 128, 1)))
        self.relu0, self.relu1, self.relu2, self.relu3 = (TReLU() for _ in range(4))
        self.hidden_layers = ((self.conv0, self.relu0), (self.conv1, self.relu1),
                              (self.conv2, self.relu2), (self.conv3, self.relu3))

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """Return scores (B, 1); pair: (B, 6, 128, 128) in [0, 1], target, then canvas."""
        x = pair.contiguous(memory_format=torch.channels_last)
        for conv, relu in self.hidden_layers:
            x = relu(conv(x))
        return in_fp32(self.conv4, x).mean((2, 3))  # over the 4x4 map

    def input_grad(self, pair: torch.Tensor) -> torch.Tensor:
        """Return the gradient (B, 6, 128, 128) of each score with respect to its pair.

        It is differentiable in the weights.  The network is piecewise linear, so a chain of
        transposed convolutions computes it faster than double backward.
        """
        x = pair.contiguous(memory_format=torch.channels_last)
        masks = []  # where a TReLU passes its input
        with torch.no_grad():
            for conv, relu in self.hidden_layers:
                x = conv(x)
                masks.append(x > relu.alpha)
                x = relu(x)
        size = x.shape[2] // 2  # of the last map
        grad = self.conv4.input_grad(x.new_full((len(x), 1, size, size), 1 / size**2))
        for (conv, _), mask in zip(self.hidden_layers[::-1], masks[::-1], strict=True):
            grad = conv.input_grad(grad * mask)
        return grad


def gradient_penalty(
    discriminator: Discriminator, real: torch.Tensor, fake: torch.Tensor, alpha: torch.Tensor
) -> torch.Tensor:
    """Return GRADIENT_PENALTY_WEIGHT mean((|grad D| - 1)^2) at alpha real + (1 - alpha) fake.

    real, fake: (B, 6, 128, 128); alpha: (B,) in [0, 1].  Gulrajani et al., 2017.
    """
    grad = discriminator.input_grad(torch.lerp(fake, real, alpha.view(-1, 1, 1, 1)))
    norm = grad.float().flatten(1).norm(dim=1)  # (B,)
    return GRADIENT_PENALTY_WEIGHT * (norm - 1).square().mean()
