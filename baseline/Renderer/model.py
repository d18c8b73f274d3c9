"""The neural renderer: a differentiable approximation of the rasterizer in ``stroke_gen``."""

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from Renderer.stroke_gen import FAMILIES, SHAPE_DIM
from running.device import Precision
from utils.command import UserError
from utils.weights import load_weights

HIDDEN = (512, 1024, 2048, 4096)  # outputs of the linear layers; the last are 16 x 16 x 16


class Renderer(nn.Module):
    """The picture of a stroke from its ten shape numbers.

    The names of the layers are the keys of a published weight format.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3, self.fc4 = (
            nn.Linear(*sizes) for sizes in pairwise((SHAPE_DIM, *HIDDEN)))
        self.conv1 = nn.Conv2d(16, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(8, 16, 3, padding=1)
        self.conv4 = nn.Conv2d(16, 16, 3, padding=1)
        self.conv5 = nn.Conv2d(4, 8, 3, padding=1)
        self.conv6 = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, strokes: torch.Tensor) -> torch.Tensor:
        """Return 1 - opacity (n, 128, 128) in [0, 1] of strokes (n, 10) in [0, 1]."""
        # The first layer and the sigmoid stay in fp32: bf16 would round coordinates to a quarter
        # pixel and low opacities to 0.
        with torch.autocast(strokes.device.type, enabled=False):
            x = F.relu(self.fc1(strokes.float()))
        for linear in (self.fc2, self.fc3, self.fc4):
            x = F.relu(linear(x))
        x = x.view(-1, 16, 16, 16)
        for first, second in ((self.conv1, self.conv2), (self.conv3, self.conv4),
                              (self.conv5, self.conv6)):
            x = F.pixel_shuffle(second(F.relu(first(x))), 2)
        return 1 - torch.sigmoid(x[:, 0].float())  # (n, 128, 128)


class TrainedRender:
    """A ``Render`` by a trained network, frozen, in a precision and for a family of strokes.

    Gradients flow through it to the strokes.
    """

    def __init__(self, network: Renderer, family: str, precision: Precision) -> None:
        network.eval().requires_grad_(False)
        self.network = network.to(precision.device, memory_format=torch.channels_last)
        self.family, self.precision = family, precision

    def __call__(self, strokes: torch.Tensor) -> torch.Tensor:
        """Return 1 - opacity (n, 128, 128) in [0, 1] of strokes (n, 10) in [0, 1]."""
        with self.precision.autocast():
            return self.network(strokes)


def load_render(path: Path, precision: Precision) -> TrainedRender:
    """Load a trained renderer; raise UserError where the file holds none."""
    network = Renderer()
    family = load_weights(network, path, "the renderer", "train one with baseline/"
                          "train_renderer.py, or name another with --renderer")
    if family not in FAMILIES:
        raise UserError(f"the renderer {path} draws {family} strokes, which are not known here: "
                        f"{', '.join(FAMILIES)} are")
    return TrainedRender(network, family, precision)
