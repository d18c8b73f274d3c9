"""Where a method's training states come from: rollouts in a replay memory, or new pictures."""

import math
from typing import TYPE_CHECKING, Any

import torch

from constants import CANVAS
from DRL.rpm import ReplayMemory, Transitions
from env import Environment
from Renderer.canvas import STROKE_DIM, as_float
from running.device import free_memory, need_memory

if TYPE_CHECKING:
    from trainer import Training


class FromMemory:
    """Rollouts of the policy, kept in a replay memory; a round of updates follows each episode.

    All paintings of the environment advance together.
    """

    def __init__(self, training: "Training") -> None:
        self.training = training
        options = training.options
        self.env = Environment(training.data, training.method.advance, training.env_batch,
                               options.max_step, training.device)
        self.updates_due = 0  # of the round after the last episode
        self.reward = torch.zeros((), device=training.device)  # of the episode, for monitoring
        transitions = options.rmsize * options.max_step // training.ranks.world
        self.memory = ReplayMemory(
            transitions, len(self.env.canvas), options.max_step,
            memory_device(transitions, options.bundle, training.device), options.bundle)
        self.learn_from = options.warmup  # the first step after which updates are due
        self.begin_episode()

    def __str__(self) -> str:
        return (f"the replay memory takes {self.memory.nbytes / 1e9:.2f} GB on "
                f"{self.memory.canvas.device}")

    @property
    def burn_in(self) -> tuple[int, int]:
        """Steps before a budget knows the rate, and those of them that are not timed.

        A round with its updates is timed.
        """
        length = self.env.max_step
        skipped = (math.ceil(self.learn_from / length) + 1) * length
        return skipped + length, skipped

    @property
    def between_rounds(self) -> bool:
        """Whether an episode and its updates are over, and the next episode has not begun."""
        return not self.updates_due and self.env.step_count == 0

    @property
    def idle(self) -> bool:
        """Whether the training may end here."""
        return self.between_rounds

    def begin_episode(self) -> None:
        """Reset the environment to blank canvases and new images."""
        training = self.training
        self.env.reset(training.data.sample(len(self.env.canvas), training.rng))
        self.memory.begin(self.env.canvas, self.env.image)

    def tick(self) -> None:
        """Take a step of the environment, or do an update where one is due."""
        if self.updates_due:
            self.update()
            return
        training, env = self.training, self.env
        self.step()
        if env.done:
            training.monitor.episode(training, env.error().mean(), self.reward)
            self.reward = torch.zeros_like(self.reward)
            training.global_episode += 1
            if training.global_step >= self.learn_from:
                self.updates_due = training.options.episode_train_times
            self.begin_episode()

    def update(self) -> None:
        """Update the networks by a batch of the memory."""
        training = self.training
        batch = self.memory.sample(training.batch_size, training.rng)
        batch = Transitions(*(part.to(training.device) for part in batch))
        training.update(batch, training.data.targets(batch.image))
        self.updates_due -= 1

    def step(self) -> None:
        """Let the exploring policy paint an action on every canvas, and store the transitions."""
        training, env = self.training, self.env
        progress = torch.full((len(env.canvas),), env.step_count / env.max_step,
                              device=training.device)
        action = training.method.explore(as_float(env.canvas), as_float(env.target), progress,
                                         training.episode_numbers)
        self.reward = self.reward + env.step(action).mean()
        self.memory.append(action, env.canvas)
        training.global_step += 1

    def state_dict(self) -> dict[str, Any]:
        """Return everything, for a checkpoint."""
        return {"memory": self.memory.state_dict(), "env": self.env.state_dict(),
                "updates_due": self.updates_due, "learn_from": self.learn_from}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what ``state_dict`` returned."""
        self.env.load_state_dict(state["env"])
        self.memory.load_state_dict(state["memory"])
        self.updates_due, self.learn_from = state["updates_due"], state["learn_from"]

    def reset(self) -> None:
        """Empty the memory and fill it for the warm-up before updates go on."""
        self.learn_from = self.training.global_step + self.training.options.warmup
        self.updates_due = self.memory.moments = 0
        self.begin_episode()


class FromPictures:
    """New pictures for every update of the grid method, which paints them itself."""

    idle = True
    burn_in = 20, 10

    def __init__(self, training: "Training") -> None:
        self.training = training
        options = training.options
        self.paintings = training.ranks.part(options.batch_size // options.max_step,
                                             f"the paintings of --batch_size {options.batch_size},")

    def __str__(self) -> str:
        return f"{self.paintings} paintings an update"

    @property
    def between_rounds(self) -> bool:
        """Whether as many updates are over as a painting has steps."""
        return self.training.global_step % self.training.options.max_step == 0

    def tick(self) -> None:
        """Do an update."""
        training = self.training
        image = training.data.sample(self.paintings, training.rng)
        training.update(None, training.data.targets(image))
        training.global_step += 1
        training.global_episode = training.global_step // training.options.max_step

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: random numbers are the training's."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load nothing."""

    def reset(self) -> None:
        """Reset nothing."""


def memory_device(transitions: int, bundle: int, device: torch.device) -> torch.device:
    """The device for the replay memory: the host where a GPU has no room for it.

    Raises MemoryError where that has none either.
    """
    needed = 1.1 * transitions * (CANVAS + 4 * bundle * STROKE_DIM)
    if device.type == "cuda" and free_memory(device) < 1.5 * needed:
        device = torch.device("cpu")
    need_memory(needed, device)
    return device
