"""Where the states come from that a method learns from."""

import math
from typing import TYPE_CHECKING, Any

import torch

from constants import CANVAS
from DRL.rpm import ReplayMemory, Transitions
from env import Environment, Pool
from Renderer.canvas import STROKE_DIM, as_float
from running.device import free_memory, need_memory

if TYPE_CHECKING:
    from trainer import Training


class FromEpisodes:
    """Paintings that advance together to their end; then there is a round of updates."""

    mark = ""

    def __init__(self, training: "Training") -> None:
        self.training = training
        self.env = Environment(training.data, training.method.advance, training.env_batch,
                         training.options.max_step, training.device)
        self.updates_due = 0  # of the round after the last episode
        self.reward = torch.zeros((), device=training.device)  # of the episode, for monitoring

    @property
    def idle(self) -> bool:
        """Whether the training may end here."""
        return self.between_rounds

    @property
    def between_rounds(self) -> bool:
        """Whether an episode and the learning after it are over, and the next not begun."""
        return not self.updates_due and self.env.step_count == 0

    def begin_episode(self) -> None:
        """Blank canvases before new images."""
        training = self.training
        self.env.reset(training.data.sample(len(self.env.canvas), training.rng))

    def act(self) -> torch.Tensor:
        """One step of the environment.  Returns the bundles (B, 13 N)."""
        training, env = self.training, self.env
        progress = torch.full((len(env.canvas),), env.step_count / env.max_step,
                              device=training.device)
        action = training.method.explore(as_float(env.canvas), as_float(env.target), progress,
                                         training.episode_numbers)
        self.reward = self.reward + env.step(action).mean()
        training.global_step += 1
        if env.done:
            training.monitor.episode(training, env.error().mean(), self.reward)
            self.reward = torch.zeros_like(self.reward)
        return action

    def learn(self, batch: Transitions, target: torch.Tensor) -> None:
        """One update of the round."""
        self.training.update(batch, target)
        self.updates_due -= 1


class FromMemory(FromEpisodes):
    """The paper's: transitions drawn from a replay memory of the newest episodes."""

    def __init__(self, training: "Training") -> None:
        options, ranks = training.options, training.ranks
        super().__init__(training)
        transitions = options.rmsize * options.max_step // ranks.world
        self.memory = ReplayMemory(
            transitions, len(self.env.canvas), options.max_step,
            memory_device(transitions, options.bundle, training.device), options.bundle)
        self.learn_from = options.warmup  # no learning before this step
        self.begin_episode()

    @property
    def burn_in(self) -> tuple[int, int]:
        """Steps before a budget knows the rate, and those of them that are not timed.

        A round with its updates is timed.
        """
        length = self.env.max_step
        skipped = (math.ceil(self.learn_from / length) + 1) * length
        return skipped + length, skipped

    def __str__(self) -> str:
        return (f"the replay memory takes {self.memory.nbytes / 1e9:.2f} GB on "
                f"{self.memory.canvas.device}")

    def begin_episode(self) -> None:
        """Blank canvases before new images."""
        super().begin_episode()
        self.memory.begin(self.env.canvas, self.env.image)

    def tick(self) -> None:
        """A step of the environment or an update."""
        training, memory, env = self.training, self.memory, self.env
        if self.updates_due:
            batch = memory.sample(training.batch_size, training.rng)
            batch = Transitions(*(part.to(training.device) for part in batch))
            self.learn(batch, training.data.targets(batch.image))
            return
        memory.append(self.act(), env.canvas)
        if env.done:
            training.global_episode += 1
            if training.global_step >= self.learn_from:
                self.updates_due = training.options.episode_train_times
            self.begin_episode()

    def state_dict(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return {"memory": self.memory.state_dict(), "env": self.env.state_dict(),
                "updates_due": self.updates_due, "learn_from": self.learn_from}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        self.env.load_state_dict(state["env"])
        self.memory.load_state_dict(state["memory"])
        self.updates_due, self.learn_from = state["updates_due"], state["learn_from"]

    def begin_anew(self) -> None:
        """Forget all and fill the memory before learning goes on."""
        self.learn_from = self.training.global_step + self.training.options.warmup
        self.updates_due = self.memory.moments = 0
        self.begin_episode()


class FromPool:
    """Paintings that the updates themselves paint on, each at a step of its own."""

    def __init__(self, training: "Training") -> None:
        self.training = training
        self.paintings = training.ranks.part(training.options.pool, "--pool")
        need_memory(self.paintings * CANVAS, training.device)
        self.begin_anew()

    def __str__(self) -> str:
        canvas = self.pool.canvas
        return f"the pool takes {canvas.numel() / 1e9:.2f} GB on {canvas.device}"

    @property
    def burn_in(self) -> tuple[int, int]:
        """Steps before a budget knows the rate, and those of them that are not timed."""
        return 20, 10

    idle, mark = True, ""

    @property
    def between_rounds(self) -> bool:
        """Whether as many updates are over as a painting has steps."""
        return self.training.global_step % self.training.options.max_step == 0

    def tick(self) -> None:
        """An update."""
        training, method = self.training, self.training.method
        rows, batch = self.pool.sample(training.batch_size, training.rng)
        target = training.data.targets(batch.image)
        if not method.paints:
            action = method.explore(as_float(batch.canvas), as_float(target),
                                    batch.step / method.max_step, training.episode_numbers)
            later = method.advance(batch.canvas, action)
            batch = batch._replace(action=action, next_canvas=later)
        self.pool.advance(rows, training.update(batch, target), training.rng)
        training.global_step += 1
        training.global_episode = training.global_step // training.options.max_step

    def state_dict(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return self.pool.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        self.pool.load_state_dict(state)

    def begin_anew(self) -> None:
        """Blank canvases before new images."""
        training = self.training
        self.pool = Pool(training.data, self.paintings, training.options.max_step,
                         training.device, training.rng)


class FromPaintings(FromEpisodes):
    """The direct method's: all bundles of whole paintings, with the gradients to them.

    A round paints, carries the error back bundle by bundle, and learns from them in random order,
    but for the last few, which fill no batch.
    """

    def __init__(self, training: "Training") -> None:
        super().__init__(training)
        env = self.env
        need_memory(env.max_step * len(env.canvas) * CANVAS, env.device)
        self.canvases = torch.zeros(  # (steps, P, 3, 128, 128), those that bundles are painted on
            env.max_step, *env.canvas.shape, dtype=torch.uint8, device=env.device)
        self.actions = torch.zeros(  # (steps, P, 13 N); those carried back to are gradients
            *self.canvases.shape[:2], STROKE_DIM * training.options.bundle, device=env.device)
        self.begin_anew()

    @property
    def mark(self) -> str:
        """What tells moments apart between which no step was taken and no update done."""
        return f"-{self.carried}"

    @property
    def burn_in(self) -> tuple[int, int]:
        """Steps before a budget knows the rate, and those of them that are not timed."""
        return 2 * self.env.max_step, self.env.max_step

    def __str__(self) -> str:
        return f"{len(self.env.canvas)} paintings a round"

    def begin_anew(self) -> None:
        """Forget the paintings that were begun."""
        self.updates_due = 0
        self.slope: torch.Tensor | None = None  # of the loss to the canvas carried back to
        self.carried = self.env.max_step  # the step it was carried back to
        self.order = torch.zeros(0, dtype=torch.int64)
        self.begin_episode()

    def tick(self) -> None:
        """A bundle painted, or carried back through, or an update."""
        env = self.env
        if self.updates_due:
            self.learn_some()
        elif not env.done:
            step = env.step_count
            self.canvases[step] = env.canvas
            self.actions[step] = self.act()
        else:
            self.carry()

    def carry(self) -> None:
        """Carry the error back through one bundle of all paintings."""
        method, env = self.training.method, self.env
        if self.slope is None:
            self.slope = method.slope(as_float(env.canvas), as_float(env.target))
        self.carried -= 1
        step = self.carried
        self.slope, self.actions[step] = method.carry_back(
            self.canvases[step], self.actions[step], env.target, self.slope)
        if step == 0:
            self.training.global_episode += 1
            count = self.actions[..., 0].numel()
            self.order = torch.from_numpy(self.training.rng.permutation(count))
            self.updates_due = count // self.training.batch_size

    def learn_some(self) -> None:
        """An update from the next bundles in random order."""
        size, env = self.training.batch_size, self.env
        here = self.order[(self.updates_due - 1) * size : self.updates_due * size]
        step, row = (part.to(self.training.device) for part in (
            here // len(env.canvas), here % len(env.canvas)))
        canvas = self.canvases[step, row]
        batch = Transitions(canvas, self.actions[step, row], canvas, env.image[row], step)
        self.learn(batch, env.target[row])
        if not self.updates_due:
            self.begin_anew()

    def state_dict(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        names = "updates_due", "slope", "carried", "order"
        painted = {name: getattr(self, name)[: self.env.step_count].clone()
                   for name in ("canvases", "actions")}
        return {"env": self.env.state_dict(), **{name: getattr(self, name) for name in names},
                **painted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        self.env.load_state_dict(state["env"])
        for name in state.keys() - {"env", "canvases", "actions"}:
            setattr(self, name, state[name])
        for name in ("canvases", "actions"):
            getattr(self, name)[: len(state[name])] = state[name]
        if self.slope is not None:
            self.slope = self.slope.to(self.training.device)


class FromPictures(FromPool):
    """The grid method's: new pictures for every update, which paints them itself."""

    def __init__(self, training: "Training") -> None:
        self.training = training
        options = training.options
        self.paintings = training.ranks.part(options.batch_size // options.max_step,
                                             f"the paintings of --batch_size {options.batch_size},")

    def __str__(self) -> str:
        return f"{self.paintings} paintings an update"

    def tick(self) -> None:
        """An update."""
        training = self.training
        image = training.data.sample(self.paintings, training.rng)
        training.update(None, training.data.targets(image))
        training.global_step += 1
        training.global_episode = training.global_step // training.options.max_step

    def state_dict(self) -> dict[str, Any]:
        """Nothing: random numbers are the training's."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is left from before."""

    def begin_anew(self) -> None:
        """Nothing is kept."""


def memory_device(transitions: int, bundle: int, device: torch.device) -> torch.device:
    """The device for the replay memory: the host where a GPU has no room for it.

    Raises MemoryError where that has none either.
    """
    needed = 1.1 * transitions * (CANVAS + 4 * bundle * STROKE_DIM)
    if device.type == "cuda" and free_memory(device) < 1.5 * needed:
        device = torch.device("cpu")
    need_memory(needed, device)
    return device
