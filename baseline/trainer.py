"""A training of the agent: its method, its schedule, its counters and validations."""

import math
import time

import numpy as np
import torch

import checkpoint
from constants import CANVAS, METHOD_FLAGS
from DRL.ddpg import DDPG
from DRL.learner import Learner, Setup
from DRL.model_free import ModelFreeDDPG
from grid.learner import GridLearner
from images import Images
from monitor import Monitor
from Renderer.model import load_render
from rollouts import PictureSampler, ReplayRollouts, Schedule
from running.device import Precision, need_compiler, need_memory, pick_device
from running.loop import command
from running.ranks import Ranks
from running.run import Run, fitting
from utils.command import RENDERER, Options, UserError
from utils.weights import half_state, save_atomically

METHODS: dict[str, tuple[type[Learner], type[Schedule]]] = {
    "ddpg": (DDPG, ReplayRollouts), "model_free": (ModelFreeDDPG, ReplayRollouts),
    "grid": (GridLearner, PictureSampler)}


class Training:
    """All that a training run of the agent holds; a ``Job`` of ``running.loop``.

    Where several processes train together, all have the same networks; each has a shard of the
    batch, its own environment and replay memory, and its own random numbers.
    """

    COUNTERS = ("global_step", "global_episode", "seconds", "best", "best_update")

    def __init__(self, options: Options, data: Images, ranks: Ranks) -> None:
        """Build all of it.  Raises UserError where a batch does not divide evenly into shards."""
        self.options, self.data, self.ranks = options, data, ranks
        self.device = pick_device(options.device)
        batch_size = ranks.shard(options.batch_size, "--batch_size")
        self.env_batch = ranks.shard(options.env_batch, "--env_batch")
        need_memory(2 * (batch_size + self.env_batch) * CANVAS, self.device)
        if options.fast:
            need_compiler()
        precision = Precision(options.precision, self.device, learning=True)
        setup = Setup(render=load_render(options.renderer, precision), precision=precision,
                      ranks=ranks, max_step=options.max_step, bundle=options.bundle,
                      fast=options.fast)
        learner, schedule = METHODS[options.method]
        torch.manual_seed(options.seed)  # the same networks in every process
        self.method = learner(setup, **{
            name: value for name in METHOD_FLAGS[options.method]
            if (value := getattr(options, name)) is not None})
        data.move(self.device)
        self.inputs = checkpoint.digests(options.renderer, data.names)
        if ranks.broadcast(self.inputs) != self.inputs:
            raise UserError(f"process {ranks.rank} finds another renderer or other images than the "
                            "first; put the same files on every machine")
        self.total = None if options.minutes else options.train_times
        self.global_step = self.global_episode = 0  # steps of the environment; updates of grid
        self.seconds = 0.0  # of work, over all resumptions
        self.best, self.best_update = math.inf, -1  # lowest validation error, and its update
        self.best_is_ema = False
        self.rng = np.random.default_rng()
        self.seed()
        self.schedule = schedule(data, self.method, self.rng, options)
        self.burn_in = self.schedule.burn_in
        if options.init:
            checkpoint.load_networks(self.method, options)
        self.method.broadcast_networks()
        self.monitor = Monitor(ranks, self.method.networks, options.batch_size, options.debug)
        self.alternative = "--minutes 60, a training that ends after an hour"
        if self.device.type == "cpu" and options.method != "grid":
            self.alternative = "--method grid --minutes 10, the method for processors"

    def seed(self) -> None:
        """Seed random numbers by the seed, the process and the step alone."""
        sequence = np.random.SeedSequence((self.options.seed, self.ranks.rank, self.global_step))
        self.rng.bit_generator.state = np.random.PCG64(sequence).state
        torch.manual_seed(int(sequence.generate_state(1)[0]))

    @property
    def progress(self) -> float:
        """Return the fraction of the training that is over; 0 while its length is not known."""
        return min(1.0, self.global_step / self.total) if self.total else 0.0

    @property
    def done(self) -> int:
        return self.global_step

    @property
    def over(self) -> bool:
        return self.total is not None and self.global_step >= self.total and self.schedule.idle

    @property
    def settled(self) -> bool:
        return self.schedule.idle and self.global_step >= self.schedule.learn_from

    @property
    def due(self) -> bool:
        return (self.schedule.between_rounds
                and self.global_episode % self.options.validate_interval == 0)

    def tick(self) -> None:
        start = time.monotonic()
        tick = self.schedule.tick(self.global_step, self.global_episode, self.progress)
        self.global_step += tick.steps
        if tick.metrics is not None:
            self.monitor.gather(tick.metrics)
        if tick.episode is not None:
            self.global_episode += 1
            self.monitor.episode(self.global_step, tick.episode)
        ended = self.schedule.between_rounds
        if ended and self.device.type == "cuda":
            torch.cuda.synchronize()  # so that the clock is true once a round
        self.seconds += time.monotonic() - start
        if ended:
            self.end_round()

    def end_round(self) -> None:
        """Log the updates since the last round.  Raises UserError where one diverged."""
        self.monitor.round(self.global_step, self.method.updates, self.seconds,
                           self.method.rates(self.progress))

    def check(self) -> None:
        self.monitor.check(self.method.updates)

    def validate(self) -> None:
        """Measure the actor and its EMA on test images; the better one counts."""
        self.end_round()  # the rest, where the training ends within one
        self.check()
        options = self.options
        tests = self.data.test[: options.validate_episodes * options.env_batch]
        policies = [self.method.policy(ema) for ema in (False, True)]
        measured = [policy.measure(
            self.data.images[tests], options.max_step, self.env_batch, self.ranks)[0]
            for policy in policies[: 2 if self.method.updates else 1]]
        errors = [each[-1].item() for each in measured]
        error = min(errors)
        ema = errors.index(error) == 1
        if error < self.best:
            self.best, self.best_update, self.best_is_ema = error, self.method.updates, ema
        self.monitor.validation(
            (self.global_step, self.method.updates, self.seconds), measured[ema], len(tests),
            policies[ema], {"error_actor": errors[0], "error_ema": errors[-1]})

    def describe(self) -> str:
        return (f"step {self.global_step} of {self.total or '?'}, {len(self.data.train)} "
                f"training and {len(self.data.test)} test images, on {self.device} in "
                f"{self.method.precision}; {self.schedule}")

    def report(self) -> str:
        actor, renderer = self.run.folder / "actor.pkl", self.options.renderer
        words = "--actor", actor, *(("--renderer", renderer) if renderer != RENDERER else ())
        error = f"has an error of {self.best:.5f}" if self.best < math.inf else "is not measured"
        return f"{actor} {error}; paint with: {command('test.py', '-o', 'mine.png', *words)}"

    def attach(self, run: Run) -> None:
        self.run = run
        self.monitor.open(run.folder, self.global_step, self.method.updates, self.seconds)

    def save(self) -> None:
        state = {"method": self.method.state_dict(), "inputs": self.inputs,
                 "family": self.method.render.family, "total_steps": self.total,
                 "best_averaged": self.best_is_ema,
                 **{name: getattr(self, name) for name in self.COUNTERS}}
        checkpoint.save(self.run, self.ranks, state, {
            "source": self.schedule.state_dict(), "numpy": self.rng.bit_generator.state,
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if self.device.type == "cuda" else None})
        self.save_best(self.run)

    def save_best(self, run: Run) -> None:
        """Write the networks where they are the best ones, or none were measured so far."""
        if self.best_update in (-1, self.method.updates) and self.ranks.main:
            actor = self.method.policy(self.best_is_ema).actor
            for name, network in (self.method.networks | {"actor": actor}).items():
                metadata = {"readout": actor.readout} if name == "actor" else {}
                state = half_state(network, family=self.method.render.family, **metadata)
                save_atomically(state, run.folder / f"{name}.pkl")

    def load(self, run: Run) -> None:
        """Load the checkpoint of a run; without its memory files the schedule is reset."""
        state, own = checkpoint.load(run, self.ranks, self.inputs)
        with fitting(run.checkpoint_file):
            family, drawn = state.get("family", "bezier"), self.method.render.family
            if family != drawn:
                raise UserError(f"{run.folder} paints with {family} strokes, but the renderer "
                                f"{self.options.renderer} draws {drawn} strokes now")
            self.method.load_state_dict(state["method"])
            for name in self.COUNTERS:
                setattr(self, name, state[name])
            self.total, self.best_is_ema = state["total_steps"], state["best_averaged"]
        self.seed()  # also for a device that the checkpoint was not on
        if own is None:
            self.schedule.reset(self.global_step)
        else:
            with fitting(checkpoint.own_file(run, self.ranks, state["memory"]), "delete it"):
                self.schedule.load_state_dict(own["source"])
                self.rng.bit_generator.state = own["numpy"]
                torch.set_rng_state(own["torch"])
                if own["cuda"] is not None and self.device.type == "cuda":
                    torch.cuda.set_rng_state(own["cuda"])
        self.save_best(run)  # if the process was killed before it could
        if not (run.folder / "actor.pkl").is_file():  # deleted
            self.best, self.best_update = math.inf, -1


def build(options: Options, ranks: Ranks) -> Training:
    """Return a new training.  Raises UserError where its processes lack what they need."""
    if ranks.world > 1 and options.method != "grid" and pick_device(options.device).type == "cpu":
        raise UserError(f"--method {options.method} needs a GPU for each of {ranks.world} "
                        "processes, as batch normalization is synchronized on GPUs only; "
                        "start one process on a CPU")
    with ranks.main_first():
        data = Images(options.data)
    return Training(options, data, ranks)
