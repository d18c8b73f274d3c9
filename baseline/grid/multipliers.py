"""Learning-rate multipliers of an actor's weights, by its activations."""

import torch
from torch import nn

from DRL.actor import Actor, normalized_convolutions

# Output change per unit of learning rate if all weight steps have the same sign:
OUTPUT_CHANGE = 100.0  # of a convolution, in standard deviations of the output
LOGIT_CHANGE = 30.0  # of the last layer, in units of its logits
MAX_MULTIPLIER = 3.0


def measure_multipliers(
    actor: Actor, canvas: torch.Tensor, target: torch.Tensor, progress: torch.Tensor
) -> list[torch.Tensor]:
    """Return the multipliers of each convolution's weights and, last, of the last layer's.

    canvas, target: (B, 3, 128, 128) in [0, 1]; progress: (B,).  In the spirit of maximal update
    parametrization (Yang and Hu, 2021), a multiplier is min(3, 100 s / (n (x + 0.1 m))).
    s: standard deviation of the output channel, clamped to 1/10 .. 3 times the layer's median;
    0.3 in the last layer; n: inputs of an output; x: mean absolute value of the input channel;
    m: mean of x over channels, without the upper 5 %.
    """
    measured = {}

    def hook(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        (x,) = inputs
        if isinstance(layer, nn.Linear):
            size = x.abs().mean((0, 1)).float()  # (C,)
            deviation = torch.full_like(layer.bias, LOGIT_CHANGE / OUTPUT_CHANGE)  # (N,)
        else:
            size, deviation = x.abs().mean((0, 2, 3)).float(), output.float().std((0, 2, 3))
            median = deviation.median()
            deviation = deviation.clamp(median / 10, 3 * median)
        typical = size[size <= size.quantile(0.95)].mean()  # without outliers
        total = layer.weight[0].numel() * (size + 0.1 * typical + 1e-6)
        multiplier = (OUTPUT_CHANGE * deviation[:, None] / total).clamp(max=MAX_MULTIPLIER)
        measured[layer] = multiplier.view(*multiplier.shape, *[1] * (layer.weight.dim() - 2))

    layers = [*(conv for _, conv, *_ in normalized_convolutions(actor)), actor.fc]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    actor(canvas, target, progress)
    for handle in handles:
        handle.remove()
    return [measured[layer] for layer in layers]
