"""All that a training of the agent holds, and its checkpoint."""

import argparse
import hashlib
import math
import os
from pathlib import Path

import numpy as np
import torch

from DRL.actor import load_actor
from DRL.apprentice import Apprentice, Journeyman
from DRL.ddpg import DDPG
from DRL.model_free import ModelFreeDDPG
from DRL.rpm import ReplayMemory, Transitions
from env import CelebA, Paint
from Renderer.canvas import STROKE_DIM
from Renderer.model import load_render
from Renderer.stroke_gen import WIDTH
from utils.command import UserError
from utils.device import Precision, need_compiler, pick_device
from utils.ranks import Ranks
from utils.run import Run, fitting
from utils.schedule import cosine, stepped
from utils.weights import finite, half_state, load_file, load_weights, save_atomically

DISCOUNT = 0.95  # of a stroke
PARAMETER_NOISE = 0.05  # the paper's, in its model-free setting
LESSONS = {"scan": Apprentice, "patch": Journeyman}  # what --reward says: their agents
# The reference's rates for the first fifth of a training, the second, and the rest.
RATES = {
    "actor": (1e-3, 3e-4, 1e-4), "critic": (3e-4, 1e-4, 3e-5), "wgan": (3e-4, 3e-4, 3e-4)
}


class Training:
    """Everything a training holds: agent, environment, memory, counters, random numbers.

    Where several processes train together, each has its own paintings, memory and random
    numbers, an even part of what the options say, and all have the same networks.
    """

    COUNTERS = ("global_step", "global_episode", "global_update", "total_steps", "updates_due",
                "learn_from", "best", "best_update")

    def __init__(self, options: argparse.Namespace, data: CelebA, ranks: Ranks) -> None:
        """options: those of ``train.py``.  Raises UserError where ranks cannot share evenly."""
        self.options, self.data, self.ranks = options, data, ranks
        self.device = device = pick_device(options.device)
        self.batch_size = ranks.part(options.batch_size, "--batch_size")
        self.env_batch = ranks.part(options.env_batch, "--env_batch")
        if options.fast:
            need_compiler()
        precision = Precision(options.precision, device)
        render = load_render(Path(options.renderer), precision)
        self.family = render.family  # of the strokes
        if options.reward in LESSONS and not self.family.startswith("bezier"):
            raise UserError(f"--reward {options.reward} needs bezier strokes; the renderer "
                            f"{options.renderer} draws {self.family} strokes")
        data.place(device)
        torch.manual_seed(options.seed)  # the same networks in every process
        discount, noise = options.discount, options.noise_factor
        if discount is None:
            discount = 0.0 if options.reward in LESSONS else DISCOUNT**options.bundle
        if noise is None:
            noise = PARAMETER_NOISE if options.model_free else 0.0
        kind = ModelFreeDDPG if options.model_free else LESSONS.get(options.reward, DDPG)
        self.agent = kind(
            render, precision, options.max_step, discount, options.tau, options.reward,
            options.unroll, options.opacity_pull, ranks, options.fast, options.bundle, noise,
            options.shrink, options.freeze_norm,
        )
        self.seed_anew(0)  # other paintings in every process
        self.inputs = {  # what a checkpoint does not hold but depends on
            "renderer": hashlib.sha256(Path(options.renderer).read_bytes()).hexdigest(),
            "images": hashlib.sha256(os.fsencode("\n".join(data.names))).hexdigest(),
        }
        if ranks.share(self.inputs) != self.inputs:
            raise UserError(f"process {ranks.rank} finds another renderer or other images than the "
                            "first; put the same files on every machine")
        self.env = Paint(data, render, self.env_batch, options.max_step, device)
        transitions = options.rmsize * options.max_step // ranks.world
        self.memory = ReplayMemory(transitions, self.env_batch, options.max_step,
                                   memory_device(transitions, options.bundle, device),
                                   options.bundle)
        self.global_step = 0  # steps of the environment, each of --env_batch paintings
        self.global_episode = 0
        self.global_update = 0
        self.total_steps = None if options.minutes else options.train_times
        self.updates_due = 0  # of the round after the last episode
        self.learn_from = options.warmup  # no learning before this step
        self.best = math.inf  # the lowest validation error,
        self.best_update = -1  # and the update after which it was measured
        if options.init:
            self.start_from(Path(options.init))
        for network in (*self.agent.networks.values(), *self.agent.slow.values()):
            ranks.make_same(network)
        self.begin_episode()

    def seed_anew(self, step: int) -> None:
        """Random numbers that depend on the seed, the process and the step alone."""
        sequence = np.random.SeedSequence((self.options.seed, self.ranks.rank, step))
        self.rng = np.random.default_rng(sequence)
        torch.manual_seed(int(sequence.generate_state(1)[0]))

    def start_from(self, folder: Path) -> None:
        """Take the networks of another training; its actor must be there, the rest may be."""
        path, agent = folder / "actor.pkl", self.agent
        actor, family = load_actor(path, "the actor to start from", "see --init in --help")
        if family != self.family:
            raise UserError(
                f"the actor to start from {path} paints with {family} strokes, but the "
                f"renderer {self.options.renderer} draws {self.family} strokes")
        if actor.bundle != agent.bundle:
            raise UserError(f"the actor to start from {path} paints bundles of {actor.bundle} "
                            f"strokes; --bundle says {agent.bundle}")
        agent.actor.load_state_dict(actor.state_dict())
        for name in agent.networks.keys() - {"actor"}:
            if (path := folder / f"{name}.pkl").is_file():
                load_weights(agent.networks[name], path, f"the {name} to start from",
                             "see --init in --help")
        for name, network in agent.networks.items():
            agent.slow[name].load_state_dict(network.state_dict())

    def begin_episode(self) -> None:
        """Blank canvases before new images."""
        self.env.reset(self.env.draw_images(self.env_batch, self.rng))
        self.memory.begin(self.env.canvas, self.env.image)

    def act(self) -> torch.Tensor:
        """One step of the environment.  Returns its monitoring reward (env_batch,)."""
        env, options = self.env, self.options
        action = self.agent.explore(env.canvas, env.target, env.step_count,
                                    (options.seed, self.ranks.rank, self.global_episode))
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
        batch = self.memory.sample(self.batch_size, self.rng)
        batch = Transitions(*(part.to(self.device) for part in batch))
        metrics = self.agent.update(batch, self.data.targets(batch.image), self.rates())
        self.global_update += 1
        self.updates_due -= 1
        return metrics

    def finite(self) -> bool:
        """Whether all numbers of the networks are."""
        return all(finite(network) for network in self.agent.networks.values())

    def save_best(self, log: Run) -> None:
        """Write the networks, where they are the best ones."""
        if self.best_update == self.global_update and self.ranks.main:
            for name, network in self.agent.networks.items():
                save_atomically(half_state(network, self.family), log.folder / f"{name}.pkl")

    def save(self, log: Run) -> None:
        """Write the checkpoint, and beside it what each process has to itself."""
        name = f"memory-{self.global_step}-{self.global_update}"
        mine = self.own_file(log, name)
        save_atomically({
            "memory": self.memory.state_dict(), "env": self.env.state_dict(),
            "numpy": self.rng.bit_generator.state, "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
        }, mine)
        self.ranks.wait()
        if self.ranks.main:
            log.save({
                "agent": self.agent.state_dict(), "inputs": self.inputs, "memory": name,
                "family": self.family,
                **{name: getattr(self, name) for name in self.COUNTERS},
            })
        self.ranks.wait()
        for old in log.folder.glob("memory-*.pt"):  # of other numbers of processes too
            if not old.match(f"{name}-*of{self.ranks.world}.pt"):
                old.unlink(missing_ok=True)

    def own_file(self, log: Run, name: str) -> Path:
        """The file beside the checkpoint of what this process has to itself."""
        return log.folder / f"{name}-{self.ranks.rank}of{self.ranks.world}.pt"

    def load(self, log: Run) -> None:
        """Take up the checkpoint; without its memory files the memory is filled anew."""
        state = self.ranks.share(log.load() if self.ranks.main else None)
        with fitting(log.checkpoint_file):
            if (family := state.get("family", "bezier")) != self.family:
                raise UserError(f"{log.folder} paints with {family} strokes, but the renderer "
                                f"{self.options.renderer} draws {self.family} strokes by now")
            self.agent.load_state_dict(state["agent"])
            for name in self.COUNTERS:
                setattr(self, name, state[name])
            mine = self.own_file(log, state["memory"])
            changed = [name for name in self.inputs if self.inputs[name] != state["inputs"][name]]
        if not self.ranks.any(bool(changed) or not mine.is_file()):
            self.seed_anew(self.global_step)  # for a device that the checkpoint was not on
            own = load_file(mine, "replay memory", "delete it")
            with fitting(mine, "delete it"):
                self.env.load_state_dict(own["env"])
                self.memory.load_state_dict(own["memory"])
                self.rng.bit_generator.state = own["numpy"]
                torch.set_rng_state(own["torch"])
                if own["cuda"] is not None and self.device.type == "cuda":
                    torch.cuda.set_rng_state(own["cuda"])
        else:
            gone = f"{mine.name} or another process's is gone"
            why = f"{' and '.join(changed)} changed" if changed else gone
            print(f"{why}: the memory is filled anew, so this goes on but not exactly as it would "
                  "have")
            self.seed_anew(self.global_step)
            self.learn_from = self.global_step + self.options.warmup
            self.updates_due = 0
            self.memory.moments = 0
            self.begin_episode()
        self.save_best(log)  # if the process was killed before it could
        if not (log.folder / "actor.pkl").is_file():
            self.best = math.inf  # deleted


def memory_device(transitions: int, bundle: int, device: torch.device) -> torch.device:
    """The device for the replay memory: the host where a GPU has no room for it."""
    needed = 1.1 * transitions * (3 * WIDTH**2 + 4 * bundle * STROKE_DIM)
    if device.type == "cuda" and torch.cuda.mem_get_info(device)[0] < 1.5 * needed:
        return torch.device("cpu")
    return device
