"""What a benchmark needs: timing, counting work, and what the machine can do."""

import statistics
import time
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from running.device import Precision


class Work(TorchDispatchMode):
    """Counts floating-point operations of matrix products and convolutions, and bytes.

    Bytes are what every operation by itself reads and writes; views move nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Run an operation and count it."""
        kwargs = kwargs or {}
        with self:  # some operations are several in one
            parts = function.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        out = function(*args, **kwargs)
        if (count := flop_registry.get(function._overloadpacket)) is not None:
            self.operations += count(*args, **kwargs, out_val=out)
        if not function.is_view:
            tensors = (t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor))
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return out


def seconds_of(work: Callable[[], object], device: torch.device, count: int) -> float:
    """The median of ``count`` runs after a burn-in of a third as many, five at least on a GPU."""
    gpu = device.type == "cuda"
    seconds = []
    for _ in range(count + max(5 if gpu else 1, count // 3)):
        start = time.perf_counter()
        work()
        if gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[-count:])


def machine(precision: Precision) -> tuple[float, float]:
    """Floating-point operations a second of a matrix product, and bytes a second of a copy."""
    device, size = precision.device, 8192 if precision.device.type == "cuda" else 2048
    a, b = torch.rand(2, size, size, device=device,
                      dtype=torch.bfloat16 if precision.bf16 else torch.float32)
    product = seconds_of(lambda: a @ b, device, 10)
    big = torch.rand(2**26, device=device)
    there = torch.empty_like(big)
    copy = seconds_of(lambda: there.copy_(big), device, 10)
    return 2 * size**3 / product, 2 * big.numel() * 4 / copy
