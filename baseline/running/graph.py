"""Replaying a function of tensors on a GPU as one CUDA graph."""

from collections.abc import Callable
from typing import Any

import torch

WARM_CALLS = 3  # calls that run as they are before one is captured


class Graphed:
    """Calls ``function`` as it is, or from the fourth call on replays it without the host.

    The function takes tensors that keep their shapes, reads nothing else that changes except
    tensors that keep their place, and never waits for the GPU.  What it returns is overwritten
    by the next call.  Every call does its work exactly once, the captured one too.
    """

    def __init__(self, function: Callable[..., Any], on: bool) -> None:
        self.function, self.on = function, on
        self.calls = 0
        self.stream = torch.cuda.Stream() if on else None

    def __call__(self, *inputs: torch.Tensor) -> Any:
        if not self.on:
            return self.function(*inputs)
        self.calls += 1
        if self.calls <= WARM_CALLS:
            return self._warm(inputs)
        if self.calls == WARM_CALLS + 1:
            self.inputs = [each.clone() for each in inputs]
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.outputs = self.function(*self.inputs)
        for mine, new in zip(self.inputs, inputs, strict=True):
            mine.copy_(new, non_blocking=True)
        self.graph.replay()
        return self.outputs

    def _warm(self, inputs: tuple[torch.Tensor, ...]) -> Any:
        """A call on a stream of its own, as capturing wants the calls before it."""
        stream = self.stream
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            outputs = self.function(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return outputs
