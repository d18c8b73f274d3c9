"""All that a training of the agent holds, and its checkpoint."""

import argparse
import hashlib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from constants import CANVAS, METHOD_FLAGS
from DRL.actor import load_actor
from DRL.ddpg import DDPG
from DRL.learner import Learner, Setup
from DRL.model_free import ModelFreeDDPG
from DRL.rollout import Measured
from DRL.rpm import Transitions
from grid.learner import GridLearner
from images import Images
from monitor import Monitor
from Renderer.model import load_render
from running.device import Precision, compiling, need_compiler, need_memory, pick_device
from running.loop import Budget, loop
from running.ranks import Ranks
from running.run import Run, fitting, log_folder
from states import FromMemory, FromPictures
from utils.command import UserError, enough_memory
from utils.weights import half_state, load_file, load_weights, save_atomically

METHODS: dict[str, type[Learner]] = {"ddpg": DDPG, "model_free": ModelFreeDDPG, "grid": GridLearner}


class Training:
    """Everything a training holds: method, states, counters, random numbers; a ``Job``.

    Where several processes train together, each has its own paintings, memory and random
    numbers, an even part of what the options say, and all have the same networks.
    """

    COUNTERS = ("global_step", "global_episode", "total_steps", "seconds", "best", "best_update",
                "best_averaged")
    unit, exchange_every = "step", 1

    def __init__(self, options: argparse.Namespace, data: Images, ranks: Ranks) -> None:
        """options: those of ``train.py``.  Raises UserError where ranks cannot share evenly."""
        self.options, self.data, self.ranks = options, data, ranks
        self.monitor = Monitor(ranks, options.debug)
        self.device = device = pick_device(options.device)
        self.batch_size = ranks.part(options.batch_size, "--batch_size")
        self.env_batch = ranks.part(options.env_batch, "--env_batch")
        need_memory(2 * (self.batch_size + self.env_batch) * CANVAS, device)
        if options.fast:
            need_compiler()
        precision = Precision(options.precision, device, learning=True)
        render = load_render(Path(options.renderer), precision)
        self.family = render.family  # of the strokes
        kind = METHODS[options.method]
        data.move(device)
        self.setup = Setup(
            render=render, precision=precision, ranks=ranks, max_step=options.max_step,
            bundle=options.bundle, fast=options.fast)
        torch.manual_seed(options.seed)  # the same networks in every process
        self.method = kind(self.setup, **{
            name: value for name in METHOD_FLAGS[options.method]
            if (value := getattr(options, name)) is not None})
        self.seed_anew(0)  # other paintings in every process
        self.inputs = {  # what a checkpoint does not hold but depends on
            "renderer": hashlib.sha256(Path(options.renderer).read_bytes()).hexdigest(),
            "images": hashlib.sha256(os.fsencode("\n".join(data.names))).hexdigest(),
        }
        if ranks.share(self.inputs) != self.inputs:
            raise UserError(f"process {ranks.rank} finds another renderer or other images than the "
                            "first; put the same files on every machine")
        self.global_step = 0  # of the environment; with grid updates
        self.global_episode = 0
        self.total_steps = None if options.minutes else options.train_times
        self.seconds = 0.0  # of work, over all that it was resumed
        self.best = math.inf  # the lowest validation error,
        self.best_update = -1  # the update after which it was measured,
        self.best_averaged = False  # and whether it was the EMA's
        self.source = (FromPictures if kind is GridLearner else FromMemory)(self)
        if options.init:
            self.start_from(Path(options.init))
        for network in (*self.method.networks.values(), *self.method.target_networks.values(),
                        self.method.ema_actor):
            ranks.make_same(network)

    def seed_anew(self, step: int) -> None:
        """Random numbers that depend on the seed, the process and the step alone."""
        sequence = np.random.SeedSequence((self.options.seed, self.ranks.rank, step))
        self.rng = np.random.default_rng(sequence)
        torch.manual_seed(int(sequence.generate_state(1)[0]))

    def start_from(self, folder: Path) -> None:
        """Take the networks of another training; its actor must be there, the rest may be."""
        path, method = folder / "actor.pkl", self.method
        actor, family = load_actor(path, "the actor to start from", "see --init in --help")
        if family != self.family:
            raise UserError(
                f"the actor to start from {path} paints with {family} strokes, but the "
                f"renderer {self.options.renderer} draws {self.family} strokes")
        if actor.readout != method.actor.readout:
            raise UserError(f"the actor to start from {path} has the read-out {actor.readout}; "
                            f"--method {self.options.method} needs {method.actor.readout}")
        if actor.bundle != method.bundle:
            raise UserError(f"the actor to start from {path} paints bundles of {actor.bundle} "
                            f"strokes; --bundle says {method.bundle}")
        method.go_on_from(actor)
        for name in method.networks.keys() - {"actor"}:
            if (path := folder / f"{name}.pkl").is_file():
                load_weights(method.networks[name], path, f"the {name} to start from",
                             "see --init in --help")
        for name, network in method.target_networks.items():
            network.load_state_dict(method.networks[name].state_dict())

    @property
    def global_update(self) -> int:
        """How often the networks learnt."""
        return self.method.updates

    @property
    def episode_numbers(self) -> tuple[int, ...]:
        """Numbers that no other episode of the training has, nor another process's."""
        return self.options.seed, self.ranks.rank, self.global_episode

    @property
    def progress(self) -> float:
        """How much of the training is over, in [0, 1]; 0 as long as its length is not known."""
        return min(1.0, self.global_step / self.total_steps) if self.total_steps else 0.0

    def update(self, batch: Transitions | None, target: torch.Tensor) -> None:
        """Update the networks; see ``Learner.learn``."""
        self.monitor.gather(self.method.update(batch, target, self.progress))

    # What follows is the loop's; see ``running.loop.Job``.

    @property
    def done(self) -> int:
        return self.global_step

    @property
    def total(self) -> int | None:
        return self.total_steps

    @total.setter
    def total(self, steps: int | None) -> None:
        self.total_steps = steps

    @property
    def over(self) -> bool:
        return (self.total_steps is not None and self.global_step >= self.total_steps
                and self.source.idle)

    @property
    def settled(self) -> bool:
        return self.source.between_rounds and self.global_step >= self.source.burn_in[1]

    @property
    def due(self) -> bool:
        return (self.source.between_rounds
                and self.global_episode % self.options.validate_interval == 0)

    def tick(self) -> None:
        start = time.monotonic()
        self.source.tick()
        ended = self.source.between_rounds
        if ended and self.device.type == "cuda":
            torch.cuda.synchronize()  # so that the clock is true once a round
        self.seconds += time.monotonic() - start
        if ended:
            self.monitor.round(self)

    def introduce(self) -> str:
        return (f"step {self.global_step} of {self.total_steps or '?'}, {len(self.data.train)} "
                f"training and {len(self.data.test)} test images, on {self.device} in "
                f"{self.setup.precision}; {self.source}")

    def report(self) -> str:
        return f"{self.run.folder / 'actor.pkl'} has an error of {self.best:.5f}"

    def check(self) -> None:
        self.monitor.check(self)

    def validate(self) -> None:
        """Measure the actor and its EMA on test images; the better one counts."""
        self.monitor.round(self)  # what is left where the training ends within one
        self.check()
        options = self.options
        tests = self.data.test[: options.validate_episodes * options.env_batch]

        def measure(averaged: bool) -> Measured:
            return self.method.painter(averaged).measure(
                self.data.images[tests], options.max_step, self.env_batch, self.ranks)

        live = measured = measure(False)
        average = measure(True) if self.global_update else live
        averaged = bool(average.errors[-1] < live.errors[-1])
        if averaged:
            measured = average
        if (error := measured.errors[-1].item()) < self.best:
            self.best, self.best_update = error, self.global_update
            self.best_averaged = averaged
        self.monitor.validation(self, measured, averaged, len(tests), {
            "error_live": live.errors[-1].item(), "error_average": average.errors[-1].item()})

    def attach(self, run: Run) -> None:
        """Log and save in the folder of a run from here on."""
        self.run = run
        self.monitor.open(run.folder, self)

    def save(self) -> None:
        """Write the checkpoint, and beside it what each process has to itself.

        And the networks, where they are the best ones.
        """
        name = f"memory-{self.global_step}-{self.global_update}"
        mine = self.own_file(self.run, name)
        save_atomically({
            "source": self.source.state_dict(),
            "numpy": self.rng.bit_generator.state, "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
        }, mine)
        self.ranks.wait()
        if self.ranks.main:
            self.run.save({
                "method": self.method.state_dict(), "inputs": self.inputs, "memory": name,
                "family": self.family,
                **{name: getattr(self, name) for name in self.COUNTERS},
            })
        self.ranks.wait()
        for old in self.run.folder.glob("memory-*.pt"):  # of other numbers of processes too
            if not old.match(f"{name}-*of{self.ranks.world}.pt"):
                old.unlink(missing_ok=True)
        self.save_best(self.run)

    def save_best(self, run: Run) -> None:
        """Write the networks, where they are the best ones."""
        if self.best_update != self.global_update or not self.ranks.main:
            return
        networks = dict(self.method.networks)
        networks["actor"] = self.method.finished(self.best_averaged)
        for name, network in networks.items():
            more = {"readout": network.readout} if name == "actor" else {}
            save_atomically(half_state(network, family=self.family, **more),
                            run.folder / f"{name}.pkl")

    def own_file(self, run: Run, name: str) -> Path:
        """The file beside the checkpoint of what this process has to itself."""
        return run.folder / f"{name}-{self.ranks.rank}of{self.ranks.world}.pt"

    def load(self, run: Run) -> None:
        """Take up the checkpoint; without its memory files states are made anew."""
        state = self.ranks.share(run.load() if self.ranks.main else None)
        with fitting(run.checkpoint_file):
            if (family := state.get("family", "bezier")) != self.family:
                raise UserError(f"{run.folder} paints with {family} strokes, but the renderer "
                                f"{self.options.renderer} draws {self.family} strokes by now")
            self.method.load_state_dict(state["method"])
            for name in self.COUNTERS:
                setattr(self, name, state[name])
            mine = self.own_file(run, state["memory"])
            changed = [name for name in self.inputs if self.inputs[name] != state["inputs"][name]]
        if not self.ranks.any(bool(changed) or not mine.is_file()):
            self.seed_anew(self.global_step)  # for a device that the checkpoint was not on
            own = load_file(mine, "replay memory", "delete it")
            with fitting(mine, "delete it"):
                self.source.load_state_dict(own["source"])
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
            self.source.reset()
        self.save_best(run)  # if the process was killed before it could
        if not (run.folder / "actor.pkl").is_file():
            self.best = math.inf  # deleted


def train(
    options: argparse.Namespace, parse_args: Callable[[list[str]], argparse.Namespace]
) -> None:
    """Train as the options say; parse_args: how those of a run that is resumed are read."""
    with (Ranks(options.device or "auto") as ranks,
          enough_memory("--batch_size, --env_batch or --rmsize"), compiling()):
        parent, run_folder = log_folder(options.output), None
        if options.resume is not None:
            run_folder, options = Run.reopen(parent, "Paint", options, ranks, parse_args)
        if (ranks.world > 1 and options.method != "grid"
                and pick_device(options.device).type == "cpu"):
            raise UserError(f"--method {options.method} needs a GPU for each of {ranks.world} "
                            "processes, as batch normalization is synchronized on GPUs only; "
                            "start one process on a CPU")
        with ranks.one_by_one():
            data = Images(Path(options.data), options.cache and Path(options.cache))
        training = Training(options, data, ranks)
        if run_folder:
            training.load(run_folder)
            run_folder.keep_options()
        else:
            run_folder = Run.create(parent, "Paint", vars(options), ranks)
        training.attach(run_folder)
        budget = None
        if training.total is None:
            budget = Budget(options.minutes, *training.source.burn_in)
        loop(training, run_folder, ranks, budget)
