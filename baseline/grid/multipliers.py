"""Learning-rate multipliers of an actor's weights, by its activations."""

import torch
from torch import nn

from DRL.actor import Actor, normalized_convolutions

OUTPUT_STEP = 100.0  # standard deviations an output moves by, over the rate, if all weights agree
LOGIT_STEP = 30.0  # of the last layer, the same in units of its logits
MOST = 3.0  # of a learning-rate multiplier


def measure_multipliers(
    actor: Actor, canvas: torch.Tensor, target: torch.Tensor, progress: torch.Tensor
) -> list[torch.Tensor]:
    """Return the multipliers of each convolution's weights and, last, of the last layer's.

    canvas, target: (B, 3, 128, 128) in [0, 1]; progress: (B,).  A weight's multiplier is its
    output's standard deviation over the mean size of its input and their number, so that all
    inputs move an output alike, and all outputs move by alike fractions of their deviation.
    """
    measured = {}

    def hook(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        (x,) = inputs
        if isinstance(layer, nn.Linear):
            size, taps = x.abs().mean((0, 1)), 1
            deviation = torch.full_like(layer.bias, LOGIT_STEP / OUTPUT_STEP)
        else:
            size, deviation = x.abs().mean((0, 2, 3)), output.float().std((0, 2, 3))
            typical = deviation.median()
            deviation = deviation.clamp(typical / 10, 3 * typical)
            taps = layer.weight[0, 0].numel()
        measured[layer] = multipliers(size.float(), deviation, taps).view(
            *layer.weight.shape[:2], *[1] * (layer.weight.dim() - 2))

    layers = [*(conv for _, conv, _ in normalized_convolutions(actor)), actor.fc]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    actor(canvas, target, progress)
    for handle in handles:
        handle.remove()
    return [measured[layer] for layer in layers]


def multipliers(size: torch.Tensor, deviation: torch.Tensor, taps: int) -> torch.Tensor:
    """Return the learning-rate multipliers (N, C) of a layer's weights.

    size: mean absolute inputs (C,); deviation: standard deviations of the outputs (N,); taps:
    weights for each input and output.  Inputs that are hardly there get a bounded step.
    """
    typical = size[size <= size.quantile(0.95)].mean()  # without the few that are huge
    total = taps * len(size) * (size + 0.1 * typical + 1e-6)
    return (OUTPUT_STEP * deviation[:, None] / total).clamp(max=MOST)
