"""The replay memory."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from constants import BUNDLE, WIDTH
from Renderer.canvas import STROKE_DIM


class Transitions(NamedTuple):
    """A batch to learn from."""

    canvas: torch.Tensor  # (B, 3, 128, 128) uint8
    action: torch.Tensor  # (B, 13 N) float32 in [0, 1]
    next_canvas: torch.Tensor  # (B, 3, 128, 128) uint8
    target: torch.Tensor  # (B, 3, 128, 128) uint8
    step: torch.Tensor  # (B,) int64, 0 .. max_step - 1

    def to(self, device: torch.device) -> "Transitions":
        """Return the batch on a device."""
        return Transitions(*(part.to(device) for part in self))


class ReplayMemory:
    """A ring of the newest moments of ``env_batch`` paintings that advance together.

    Targets are kept as codes that name images, mirrored or not.
    A moment is one canvas of every painting, so each canvas is stored once: the transition
    at a moment leads to the canvas of the next.  The last moment of an episode leads nowhere
    and is never sampled as a beginning.
    """

    def __init__(
        self, transitions: int, env_batch: int, max_step: int, device: torch.device | str = "cpu",
        bundle: int = BUNDLE,
    ) -> None:
        """Reserve the memory.

        transitions: how many of the newest to keep, rounded up to whole moments; bundle: strokes
        an action.
        """
        kept = math.ceil(transitions / env_batch)
        self.kept, self.max_step = kept, max_step
        # Room for the last moment of each episode among them, and for the newest.
        size = kept + math.ceil(kept / max_step) + 1
        self.canvas = torch.zeros(
            size, env_batch, 3, WIDTH, WIDTH, dtype=torch.uint8, device=device
        )
        self.action = torch.zeros(size, env_batch, bundle * STROKE_DIM, device=device)
        self.image = torch.zeros(size, env_batch, dtype=torch.int64, device=device)
        self.step = np.zeros(size, np.int64)  # max_step marks the last moment of an episode
        self.moments = 0  # ever begun

    @property
    def nbytes(self) -> int:
        """Return the bytes that the memory takes on its device."""
        return sum(t.numel() * t.element_size() for t in (self.canvas, self.action, self.image))

    def begin(self, canvas: torch.Tensor, image: torch.Tensor) -> None:
        """Store the blank canvases (B, 3, 128, 128) uint8 of a new episode and its targets (B,)."""
        self._store(canvas, image, 0)

    def append(self, action: torch.Tensor, canvas: torch.Tensor) -> None:
        """Store an action (B, 13 N) on the newest canvases, and the canvases it led to."""
        here = (self.moments - 1) % len(self.step)
        self.action[here] = action
        self._store(canvas, self.image[here].clone(), self.step[here] + 1)

    def _store(self, canvas: torch.Tensor, image: torch.Tensor, step: int) -> None:
        slot = self.moments % len(self.step)
        self.canvas[slot], self.image[slot], self.step[slot] = canvas, image, step
        self.moments += 1

    def beginnings(self) -> np.ndarray:
        """Return the slots of the moments that transitions begin at, oldest first."""
        size = len(self.step)
        oldest = max(0, self.moments - size)
        slots = np.arange(oldest, self.moments - 1) % size
        return slots[self.step[slots] < self.max_step][-self.kept :]

    def __len__(self) -> int:
        """Return how many transitions can be sampled."""
        return len(self.beginnings()) * self.canvas.shape[1]

    def sample(
        self, batch_size: int, rng: np.random.Generator,
        targets: Callable[[torch.Tensor], torch.Tensor],
    ) -> Transitions:
        """Draw transitions uniformly, with replacement.

        targets: from codes (B,) to their pictures.  Raises ValueError where the memory is empty.
        """
        beginnings = self.beginnings()
        if not len(beginnings):
            raise ValueError("the replay memory is empty")
        device = self.canvas.device
        slots = rng.choice(beginnings, batch_size)
        columns = torch.from_numpy(rng.integers(self.canvas.shape[1], size=batch_size)).to(device)
        step = torch.from_numpy(self.step[slots]).to(device)
        now = torch.from_numpy(slots).to(device)
        after = (now + 1) % len(self.step)
        return Transitions(
            self.canvas[now, columns], self.action[now, columns], self.canvas[after, columns],
            targets(self.image[now, columns]), step,
        )

    def state_dict(self) -> dict:
        """Return everything that is stored."""
        used = min(self.moments, len(self.step))
        arrays = {name: getattr(self, name)[:used] for name in ("canvas", "action", "image")}
        if used < len(self.step):  # torch.save would write the whole storage of a part
            arrays = {name: array.clone() for name, array in arrays.items()}
        return {"moments": self.moments, "step": self.step[:used].tolist(), **arrays}

    def load_state_dict(self, state: dict) -> None:
        """Load what ``state_dict`` of a memory of the same size returned."""
        used = len(state["step"])
        self.moments = state["moments"]
        self.step[:used] = state["step"]
        for name in ("canvas", "action", "image"):
            getattr(self, name)[:used] = state[name]
