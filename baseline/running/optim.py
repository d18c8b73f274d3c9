"""Optimizers, and learning rates as pure functions of progress."""

import math
import warnings

import torch

ITERATIONS = 5  # of Newton-Schulz
NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315  # of Muon: steep at 0, flat around 1


def cosine(progress: float, peak: float, floor: float = 0.01) -> float:
    """Return cosine decay from ``peak`` at progress 0 to ``floor * peak`` at 1."""
    progress = min(max(progress, 0.0), 1.0)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def stepped(progress: float, rates: tuple[float, ...], ends: tuple[float, ...]) -> float:
    """Return ``rates[i]`` until progress reaches ``ends[i]``; the last rate after all of them."""
    return next((r for r, end in zip(rates, ends, strict=False) if progress < end), rates[-1])


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group, in place where it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def adam(
    network: torch.nn.Module, graphed: bool, betas: tuple[float, float] = (0.9, 0.999)
) -> torch.optim.Adam:
    """Return a fused Adam; ``set_rate`` sets its learning rate.

    graphed: keep its state and learning rate on the GPU, so that a CUDA graph can replay a step.
    """
    warnings.filterwarnings("ignore", ".*capturable=True.*")  # the steps before the capture
    rate = torch.zeros((), device="cuda") if graphed else 0.0
    return torch.optim.Adam(network.parameters(), rate, betas, fused=True, capturable=graphed)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load an optimizer's moments and learning rate, but not its settings, before a capture."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
    set_rate(optimizer, float(state["param_groups"][0]["lr"]))


@torch.no_grad()
def orthogonal(matrix: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return a matrix (N, K) with the same singular vectors and singular values of about 1.

    This is the Newton-Schulz iteration of Muon (Jordan et al., 2024), in arithmetic of ``dtype``:
    x <- a x + (b x x^T + c (x x^T)^2) x.  Values end between 0.7 and 1.2; those below 0.0016 of
    the matrix norm stay smaller.
    """
    if len(matrix) > matrix.shape[1]:
        return orthogonal(matrix.T, dtype).T
    x = (matrix / (matrix.norm() + 1e-12)).to(dtype)
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.to(matrix.dtype)
