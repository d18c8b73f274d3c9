"""A convolution on a processor whose weights' gradient is one product of matrices.

oneDNN computes that gradient slowly where there is no AVX-512: in fp32, for the last stage's 512
filters on maps of 4x4, in 20 ms where this takes 8 (eight maps, a core of an AMD EPYC, Zen 3).
"""

import torch
import torch.nn.functional as F

Pair = tuple[int, int]
SLOW = torch.backends.cpu.get_cpu_capability() == "AVX2"  # whether oneDNN's is


def convolve(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: Pair, padding: Pair
) -> torch.Tensor:
    """``F.conv2d``, by the faster gradient; x: (B, C, H, W), weight: (N, C, k, k), bias: (N,)."""
    if SLOW and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        return ByProducts.apply(x, weight, bias, stride, padding)
    return F.conv2d(x, weight, bias, stride, padding)


class ByProducts(torch.autograd.Function):
    """The same for both; see the module."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor, weight: torch.Tensor,
        bias: torch.Tensor, stride: Pair, padding: Pair,
    ) -> torch.Tensor:
        """As ``convolve``."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, slope: torch.Tensor) -> tuple:
        """Of x, where it is needed, weight and bias."""
        x, weight = ctx.saved_tensors
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = torch.nn.grad.conv2d_input(x.shape, weight, slope, ctx.stride, ctx.padding)
        rows = slope.permute(0, 2, 3, 1).flatten(0, 2)
        seen = windows(x, weight.shape[2:], ctx.stride, ctx.padding)
        of_weight = (rows.T @ seen.flatten(0, 2).flatten(1)).view(len(weight), *seen.shape[3:])
        return of_x, of_weight.permute(0, 3, 1, 2), rows.sum(0), None, None


def windows(x: torch.Tensor, size: torch.Size, stride: Pair, padding: Pair) -> torch.Tensor:
    """What each place of a convolution of x (B, C, H, W) sees: (B, H', W', k, k, C)."""
    (top, left), (rows, columns) = padding, stride
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, top, top))
    x = x.unfold(1, size[0], rows).unfold(2, size[1], columns)
    return x.permute(0, 1, 2, 4, 5, 3)
