"""All that a training of the agent holds, and its checkpoint."""

import argparse
import hashlib
import math
from pathlib import Path

import numpy as np
import torch

from DRL.ddpg import DDPG
from DRL.rpm import ReplayMemory, Transitions
from env import CelebA, Paint
from Renderer.model import load_render
from Renderer.stroke_gen import WIDTH
from utils.device import Precision, pick_device
from utils.run import Run
from utils.schedule import cosine, stepped
from utils.weights import load_file, load_weights, save_atomically

# The reference's rates for the first fifth of a training, the second, and the rest.
RATES = {
    "actor": (1e-3, 3e-4, 1e-4), "critic": (3e-4, 1e-4, 3e-5), "wgan": (3e-4, 3e-4, 3e-4)
}


class Training:
    """Everything a training holds: agent, environment, memory, counters, random numbers."""

    COUNTERS = ("global_step", "global_episode", "global_update", "total_steps", "updates_due",
                "learn_from", "best")

    def __init__(self, options: argparse.Namespace, data: CelebA) -> None:
        """options: those of ``train.py``."""
        self.options, self.data = options, data
        self.device = device = pick_device(options.device)
        precision = Precision(options.precision, device)
        render = load_render(Path(options.renderer), precision)
        data.place(device)
        torch.manual_seed(options.seed)
        self.rng = np.random.default_rng(options.seed)
        self.agent = DDPG(
            render, precision, options.max_step, options.discount, options.tau, options.reward,
            options.unroll, options.opacity_pull,
        )
        self.inputs = {  # what a checkpoint does not hold but depends on
            "renderer": hashlib.sha256(Path(options.renderer).read_bytes()).hexdigest(),
            "images": hashlib.sha256("\n".join(data.names).encode()).hexdigest(),
        }
        self.env = Paint(data, render, options.env_batch, options.max_step, device)
        self.memory = ReplayMemory(
            options.rmsize * options.max_step, options.env_batch, options.max_step,
            memory_device(options, device),
        )
        self.global_step = 0  # steps of the environment, each of env_batch paintings
        self.global_episode = 0
        self.global_update = 0
        self.total_steps = None if options.minutes else options.train_times
        self.updates_due = 0  # of the round after the last episode
        self.learn_from = options.warmup  # no learning before this step
        self.best = math.inf  # the lowest validation error
        if options.init:
            self.start_from(Path(options.init))
        self.begin_episode()

    def start_from(self, folder: Path) -> None:
        """Take the networks of another training; its actor must be there, the rest may be."""
        for name, network in self.agent.networks.items():
            path = folder / f"{name}.pkl"
            if name == "actor" or path.is_file():
                load_weights(network, path, f"the {name} to start from", "see --init in --help")
                self.agent.slow[name].load_state_dict(network.state_dict())

    def begin_episode(self) -> None:
        """Blank canvases before new images."""
        self.env.reset(self.env.draw_images(self.options.env_batch, self.rng))
        self.memory.begin(self.env.canvas, self.env.image)

    def act(self) -> torch.Tensor:
        """One step of the environment.  Returns its monitoring reward (env_batch,)."""
        env = self.env
        action = self.agent.act(env.canvas, env.target, env.step_count)
        if self.options.noise_factor:
            noise = torch.randn_like(action) * self.options.noise_factor
            action = (action + noise).clamp(0, 1)
        reward = env.step(action)
        self.memory.append(action, env.canvas)
        self.global_step += 1
        return reward

    def end_episode(self) -> None:
        """Ask for a round of learning once there is enough to learn from; paint anew."""
        self.global_episode += 1
        if self.global_step >= self.learn_from:
            self.updates_due = self.options.episode_train_times
        self.begin_episode()

    @property
    def over(self) -> bool:
        """Whether all steps are taken."""
        return self.total_steps is not None and self.global_step >= self.total_steps

    @property
    def between_rounds(self) -> bool:
        """Whether an episode and the learning after it are over, and the next not begun."""
        return not self.updates_due and self.env.step_count == 0

    def rates(self) -> dict[str, float]:
        """The learning rates of now."""
        progress = self.global_step / self.total_steps if self.total_steps else 0.0
        rates = {name: stepped(progress, r, (0.2, 0.4)) for name, r in RATES.items()}
        peaks = {"actor": self.options.actor_rate, "critic": self.options.critic_rate}
        return rates | {name: cosine(progress, peak) for name, peak in peaks.items() if peak}

    def learn(self) -> dict[str, torch.Tensor]:
        """One update of the networks."""
        batch = self.memory.sample(self.options.batch_size, self.rng)
        batch = Transitions(*(part.to(self.device) for part in batch))
        metrics = self.agent.update(batch, self.data.targets(batch.image), self.rates())
        self.global_update += 1
        self.updates_due -= 1
        return metrics

    def save(self, log: Run) -> None:
        """Write the checkpoint and the replay memory beside it."""
        memory_file = log.folder / f"memory-{self.global_step}-{self.global_update}.pt"
        save_atomically(self.memory.state_dict(), memory_file)
        log.save({
            "agent": self.agent.state_dict(), "env": self.env.state_dict(),
            "memory": memory_file.name, "numpy": self.rng.bit_generator.state,
            "torch": torch.get_rng_state(), "inputs": self.inputs,
            "cuda": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
            **{name: getattr(self, name) for name in self.COUNTERS},
        })
        for old in log.folder.glob("memory-*.pt"):
            if old != memory_file:
                old.unlink()

    def load(self, log: Run) -> None:
        """Take up the checkpoint; without its memory file the memory is filled anew."""
        state = log.load()
        self.agent.load_state_dict(state["agent"])
        for name in self.COUNTERS:
            setattr(self, name, state[name])
        self.rng.bit_generator.state = state["numpy"]
        torch.set_rng_state(state["torch"])
        if state["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"])
        memory_file = log.folder / state["memory"]
        changed = [name for name in self.inputs if self.inputs[name] != state["inputs"][name]]
        if memory_file.is_file() and not changed:
            self.env.load_state_dict(state["env"])
            self.memory.load_state_dict(load_file(memory_file, "replay memory", "delete it"))
        else:
            why = f"{' and '.join(changed)} changed" if changed else f"{memory_file} is gone"
            print(f"{why}: the memory is filled anew, so this goes on but not exactly as it would "
                  "have")
            self.learn_from = self.global_step + self.options.warmup
            self.updates_due = 0
            self.memory.moments = 0
            self.begin_episode()


def memory_device(options: argparse.Namespace, device: torch.device) -> torch.device:
    """The device for the replay memory: the host where a GPU has no room for it."""
    needed = 1.1 * options.rmsize * options.max_step * 3 * WIDTH**2
    if device.type == "cuda" and torch.cuda.mem_get_info(device)[0] < 1.5 * needed:
        return torch.device("cpu")
    return device
