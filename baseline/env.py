"""The environment: many paintings side by side, each of its own target."""

from collections.abc import Callable

import torch

from images import Images
from Renderer.canvas import as_float


class Environment:
    """A vectorized environment whose paintings all advance together.

    canvas, target: (B, 3, 128, 128) uint8; step_count: actions painted, of ``max_step``.
    """

    def __init__(
        self, data: Images, advance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        env_batch: int, max_step: int, device: torch.device,
    ) -> None:
        """advance: maps canvases (B, 3, 128, 128) uint8 and actions (B, 13 N) to canvases."""
        self.data, self.advance, self.max_step, self.device = data, advance, max_step, device
        self.reset(torch.zeros(env_batch, dtype=torch.int64))

    def reset(self, target_code: torch.Tensor) -> None:
        """Begin an episode with the targets of codes (B,), see ``Images.targets``."""
        self.target_code = target_code.to(self.device)
        self.target = self.data.targets(self.target_code)
        self.canvas = torch.zeros_like(self.target)
        self.step_count = 0
        self.initial_error = self.error()  # (B,)

    def error(self) -> torch.Tensor:
        """Return the mean squared error (B,) of each canvas, pixels in [0, 1]."""
        return (as_float(self.canvas) - as_float(self.target)).square().mean((1, 2, 3))

    @torch.no_grad()
    def step(self, action: torch.Tensor) -> torch.Tensor:
        """Paint actions (B, 13 N); return the fraction (B,) of the initial error they remove."""
        before = self.error()
        self.canvas = self.advance(self.canvas, action)
        self.step_count += 1
        return (before - self.error()) / self.initial_error.clamp(min=1e-8)

    def state(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return canvas and target (B, 3, 128, 128) in [0, 1], and the progress (B,)."""
        progress = torch.full((len(self.canvas),), self.step_count / self.max_step,
                              device=self.device)
        return as_float(self.canvas), as_float(self.target), progress

    @property
    def done(self) -> bool:
        """Return whether the episode is over."""
        return self.step_count >= self.max_step

    def state_dict(self) -> dict:
        """Return the state of the episode."""
        return {"image": self.target_code, "canvas": self.canvas, "step_count": self.step_count}

    def load_state_dict(self, state: dict) -> None:
        """Load a state of ``state_dict``."""
        self.reset(state["image"])
        self.canvas = state["canvas"].to(self.device)
        self.step_count = state["step_count"]
