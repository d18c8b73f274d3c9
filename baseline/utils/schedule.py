"""Learning rates as pure functions of progress."""

import math

import torch


def cosine(progress: float, peak: float, floor: float = 0.01) -> float:
    """Half a cosine from ``peak`` at progress 0 to ``floor * peak`` at 1."""
    progress = min(max(progress, 0.0), 1.0)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def stepped(progress: float, rates: tuple[float, ...], ends: tuple[float, ...]) -> float:
    """``rates[i]`` until progress reaches ``ends[i]``; the last rate after all of them."""
    return next((r for r, end in zip(rates, ends, strict=False) if progress < end), rates[-1])


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
