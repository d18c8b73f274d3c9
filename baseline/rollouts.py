"""When a method acts and when it learns: rollouts with a replay memory, or a sampler of images.

A schedule does the smallest piece of work at a time and returns its results.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from constants import CANVAS
from DRL.ddpg import DDPG
from DRL.learner import Metrics
from DRL.rpm import ReplayMemory
from env import Environment
from grid.learner import GridLearner
from images import Images
from Renderer.canvas import STROKE_DIM
from running.device import free_memory, need_memory
from utils.command import Options


class Tick(NamedTuple):
    """The results of a piece of work."""

    metrics: Metrics | None = None  # of an update
    steps: int = 0  # of the environment; of a sampler updates
    episode: Metrics | None = None  # statistics of the episode that it ended


class Schedule:
    """An order of acting and learning.

    Its ``tick`` takes the training's counts of steps and episodes and its progress in [0, 1].
    """

    burn_in = 1  # timed steps before the pace is known
    between_rounds = True  # whether an episode and its updates are over
    idle = True  # whether the training may end here
    learn_from = 0  # the first step after which updates are due
    tick: Callable[[int, int, float], Tick]

    def reset(self, step: int) -> None:
        """Start at a step of a training run whose ``state_dict`` is lost."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that neither the method nor the random state holds."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what ``state_dict`` returned."""


class ReplayRollouts(Schedule):
    """Rollouts with exploration noise into a replay memory; updates follow each episode.

    All paintings of the environment advance together.
    """

    def __init__(
        self, data: Images, method: DDPG, rng: np.random.Generator, options: Options
    ) -> None:
        """Start an episode; batch, environment and memory are this process's shards.

        The memory is on the CPU where a GPU lacks the space.  Raises MemoryError where both do.
        """
        self.data, self.method, self.rng, self.options = data, method, rng, options
        self.device, ranks = method.precision.device, method.ranks
        self.batch_size = ranks.shard(options.batch_size, "--batch_size")
        self.env = Environment(data, method.advance, ranks.shard(options.env_batch, "--env_batch"),
                               options.max_step, self.device)
        transitions = options.rmsize * options.max_step // ranks.world
        needed = 1.1 * transitions * (CANVAS + 4 * options.bundle * STROKE_DIM)  # bytes
        crowded = self.device.type == "cuda" and free_memory(self.device) < 1.5 * needed
        memory_device = torch.device("cpu") if crowded else self.device
        need_memory(needed, memory_device)
        self.memory = ReplayMemory(transitions, len(self.env.canvas), options.max_step,
                                   memory_device, options.bundle)
        self.updates_due = 0  # of the round after the last episode
        self.learn_from = options.warmup
        self.begin_episode()

    def __str__(self) -> str:
        return (f"the replay memory takes {self.memory.nbytes / 1e9:.2f} GB on "
                f"{self.memory.canvas.device}")

    @property
    def between_rounds(self) -> bool:
        return not self.updates_due and self.env.step_count == 0

    idle = between_rounds

    def begin_episode(self) -> None:
        """Reset the environment to blank canvases and new images."""
        self.reward = torch.zeros((), device=self.device)  # of the episode
        self.env.reset(self.data.sample(len(self.env.canvas), self.rng))
        self.memory.begin(self.env.canvas, self.env.target_code)

    def tick(self, step: int, episode: int, progress: float) -> Tick:
        """Do an update where one is due, or take a step of the environment."""
        if self.updates_due:
            self.updates_due -= 1
            batch = self.memory.sample(self.batch_size, self.rng, self.data.targets)
            return Tick(self.method.update(batch.to(self.device), progress))
        env, method = self.env, self.method
        action = method.rollout_action(
            *env.state(), (self.options.seed, method.ranks.rank, episode))
        self.reward = self.reward + env.step(action).mean()
        self.memory.append(action, env.canvas)
        if not env.done:
            return Tick(steps=1)
        statistics = {"error": env.error().mean(), "reward": self.reward}
        if step + 1 >= self.learn_from:
            self.updates_due = self.options.episode_train_times
        self.begin_episode()
        return Tick(steps=1, episode=statistics)

    def reset(self, step: int) -> None:
        """Empty the memory; updates resume after another warm-up."""
        self.learn_from = step + self.options.warmup
        self.updates_due = self.memory.time_steps = 0
        self.begin_episode()

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory.state_dict(), "env": self.env.state_dict(),
                "updates_due": self.updates_due, "learn_from": self.learn_from}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.env.load_state_dict(state["env"])
        self.memory.load_state_dict(state["memory"])
        self.updates_due, self.learn_from = state["updates_due"], state["learn_from"]


class PictureSampler(Schedule):
    """Random images for every update of a method that paints them itself.

    A round has one update for each bundle of a painting.
    """

    burn_in = 10

    def __init__(
        self, data: Images, method: GridLearner, rng: np.random.Generator, options: Options
    ) -> None:
        """Raise UserError where the paintings of a batch do not divide evenly into shards."""
        self.data, self.method, self.rng, self.length = data, method, rng, options.max_step
        self.paintings = method.ranks.shard(options.batch_size // options.max_step,
                                            f"the paintings of --batch_size {options.batch_size},")

    def __str__(self) -> str:
        return f"{self.paintings} paintings an update"

    @property
    def learn_from(self) -> int:
        """Return the first update that paints; those before, which imitate, take less time."""
        return self.method.imitation_updates

    def tick(self, step: int, episode: int, progress: float) -> Tick:
        """Do an update."""
        target = self.data.targets(self.data.sample(self.paintings, self.rng))
        metrics = self.method.update(target, progress)
        self.between_rounds = (step + 1) % self.length == 0
        return Tick(metrics, 1, {} if self.between_rounds else None)
