"""The replay memory (Lin, 1992)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from constants import BUNDLE, WIDTH
from Renderer.canvas import STROKE_DIM


class Transitions(NamedTuple):
    """A batch of transitions."""

    canvas: torch.Tensor  # (B, 3, 128, 128) uint8
    action: torch.Tensor  # (B, 13 N) float32 in [0, 1]
    next_canvas: torch.Tensor  # (B, 3, 128, 128) uint8
    target: torch.Tensor  # (B, 3, 128, 128) uint8
    step: torch.Tensor  # (B,) int64, 0 .. max_step - 1

    def to(self, device: torch.device) -> "Transitions":
        """Return the batch on a device."""
        return Transitions(*(part.to(device) for part in self))


class ReplayMemory:
    """A ring buffer of the newest time steps of ``env_batch`` paintings that advance together.

    A slot holds the canvases of one time step, so each canvas is stored once: a transition leads
    from a slot to the next one.  No transition begins at the last time step of an episode.
    Targets are stored as codes, see ``Images.targets``.
    """

    def __init__(
        self, transitions: int, env_batch: int, max_step: int, device: torch.device | str = "cpu",
        bundle: int = BUNDLE,
    ) -> None:
        """Allocate the memory.

        transitions: capacity, rounded up to whole time steps; bundle: strokes per action.
        """
        self.capacity, self.max_step = math.ceil(transitions / env_batch), max_step  # time steps
        # Extra slots: one terminal canvas per episode, and the current one.
        size = self.capacity + math.ceil(self.capacity / max_step) + 1
        self.canvas = torch.zeros(
            size, env_batch, 3, WIDTH, WIDTH, dtype=torch.uint8, device=device)
        self.action = torch.zeros(size, env_batch, bundle * STROKE_DIM, device=device)
        self.target_code = torch.zeros(size, env_batch, dtype=torch.int64, device=device)
        self.step = np.zeros(size, np.int64)  # max_step in a terminal slot
        self.time_steps = 0  # stored so far, overwritten ones too

    @property
    def nbytes(self) -> int:
        """Return the bytes that the memory takes on its device."""
        return self.canvas.nbytes + self.action.nbytes + self.target_code.nbytes

    def begin(self, canvas: torch.Tensor, target_code: torch.Tensor) -> None:
        """Store a new episode's blank canvases (B, 3, 128, 128) uint8 and target codes (B,)."""
        self._store(canvas, target_code, 0)

    def append(self, action: torch.Tensor, canvas: torch.Tensor) -> None:
        """Store an action (B, 13 N) on the newest canvases, and the canvases it led to."""
        last_slot = (self.time_steps - 1) % len(self.step)
        self.action[last_slot] = action
        self._store(canvas, self.target_code[last_slot].clone(), self.step[last_slot] + 1)

    def _store(self, canvas: torch.Tensor, target_code: torch.Tensor, step: int) -> None:
        slot = self.time_steps % len(self.step)
        self.canvas[slot], self.target_code[slot], self.step[slot] = canvas, target_code, step
        self.time_steps += 1

    def transition_slots(self) -> np.ndarray:
        """Return the slots that transitions begin at, oldest first."""
        size = len(self.step)
        slots = np.arange(max(0, self.time_steps - size), self.time_steps - 1) % size
        return slots[self.step[slots] < self.max_step][-self.capacity :]

    def __len__(self) -> int:
        """Return how many transitions can be sampled."""
        return len(self.transition_slots()) * self.canvas.shape[1]

    def sample(
        self, batch_size: int, rng: np.random.Generator,
        targets: Callable[[torch.Tensor], torch.Tensor],
    ) -> Transitions:
        """Sample transitions uniformly, with replacement.

        targets: maps target codes (B,) to pictures.  Raises ValueError where the memory is empty.
        """
        slots = rng.choice(self.transition_slots(), batch_size)
        paintings = rng.integers(self.canvas.shape[1], size=batch_size)
        slot, painting, step = (torch.from_numpy(each).to(self.canvas.device)
                                for each in (slots, paintings, self.step[slots]))
        next_slot = (slot + 1) % len(self.step)
        return Transitions(
            self.canvas[slot, painting], self.action[slot, painting],
            self.canvas[next_slot, painting], targets(self.target_code[slot, painting]), step)

    def state_dict(self) -> dict:
        """Return the stored time steps."""
        used = min(self.time_steps, len(self.step))
        arrays = {"canvas": self.canvas, "action": self.action, "image": self.target_code}
        if used < len(self.step):  # torch.save writes the whole storage of a slice
            arrays = {name: array[:used].clone() for name, array in arrays.items()}
        return {"moments": self.time_steps, "step": self.step[:used].tolist(), **arrays}

    def load_state_dict(self, state: dict) -> None:
        """Load a state of ``state_dict``, of a memory of the same size."""
        used = len(state["step"])
        self.time_steps = state["moments"]
        self.step[:used] = state["step"]
        self.canvas[:used], self.action[:used] = state["canvas"], state["action"]
        self.target_code[:used] = state["image"]
