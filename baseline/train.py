#!/usr/bin/env python3
"""Train the agent to paint a folder of images with a trained renderer."""

import argparse
import math
import os
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from tensorboardX import SummaryWriter
from torchvision.utils import make_grid
from tqdm import tqdm

from DRL.evaluator import evaluate
from env import CelebA
from Renderer.canvas import BUNDLE
from Renderer.stroke_gen import WIDTH
from trainer import Training
from utils.command import (
    RENDERER,
    ROOT,
    TRAIN_LOG,
    Parser,
    UserError,
    add_device_flags,
    positive_float,
    positive_int,
    run,
    seed,
)
from utils.pictures import read_picture
from utils.run import Run, StopSignals, resumed
from utils.weights import half_state, save_atomically

PHOTOS = ("test.png", "chelsea.jpg", "coffee.jpg", "rocket.jpg")
BUNDLES_LOGGED = (1, 4, 10, 20, 40, 80, 200)


class Log:
    """What a training writes to TensorBoard and to the terminal."""

    def __init__(self, training: Training, folder: Path, debug: bool) -> None:
        self.training, self.folder, self.debug = training, folder, debug
        self.writer = SummaryWriter(
            str(folder), purge_step=training.global_step + 1, flush_secs=10
        )
        self.sums: dict[str, torch.Tensor] = {}
        self.updates = 0
        self.rewards = 0.0

    def scalar(self, name: str, value: float) -> None:
        """Log a number at the training's step."""
        self.writer.add_scalar(name, value, self.training.global_step)

    def update(self, metrics: dict[str, torch.Tensor]) -> None:
        """Gather the metrics of an update without waiting for the device."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.updates += 1

    def check(self, numbers: dict[str, float | torch.Tensor]) -> str:
        """The numbers as text.  Raises UserError where one of them is not finite."""
        text = " ".join(f"{name} {float(value):.4g}" for name, value in numbers.items())
        if not all(math.isfinite(value) for value in numbers.values()):
            raise UserError(
                f"the training diverged by step {self.training.global_step} ({text}); "
                f"{self.folder} keeps the last good checkpoint, if there is one yet"
            )
        return text

    def round(self, clock: "Clock") -> None:
        """Log a round of learning.  Raises UserError where it went wrong."""
        means = {name: value.item() / self.updates for name, value in self.sums.items()}
        self.sums, self.updates = {}, 0
        text = self.check(means)
        for name, value in means.items():
            self.scalar(f"train/{name}", value)
        for name, rate in self.training.rates().items():
            self.scalar(f"rate/{name}", rate)
        self.scalar("seconds/update", clock.mean("learn"))
        if self.debug:
            print(f"  {text}; {clock.mean('learn'):.3f} s an update", flush=True)

    def episode(self, clock: "Clock") -> None:
        """Log an episode of the training paintings, before it is cleared away."""
        training = self.training
        error = training.env.error().mean().item()
        reward = float(self.rewards)
        self.rewards = 0.0
        self.scalar("episode/error", error)
        self.scalar("episode/reward", reward)
        self.scalar("seconds/step", clock.mean("act"))
        if self.debug:
            print(f"episode {training.global_episode + 1}, step {training.global_step}: error "
                  f"{error:.5f}, reward {reward:.4f}, {clock.mean('act'):.3f} s a step", flush=True)


class Clock:
    """Seconds spent on each kind of work."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.seconds = {"act": 0.0, "learn": 0.0}
        self.count = {"act": 0, "learn": 0}

    def add(self, kind: str, seconds: float) -> None:
        """Note one piece of work."""
        self.seconds[kind] += seconds
        self.count[kind] += 1

    def mean(self, kind: str) -> float:
        """Mean seconds of a piece of work."""
        return self.seconds[kind] / max(1, self.count[kind])

    def steps_left(self, options: argparse.Namespace) -> int:
        """How many steps of whole episodes still fit into --minutes."""
        episode = (options.max_step * self.mean("act")
                   + options.episode_train_times * self.mean("learn"))
        validation = options.validate_episodes * options.max_step * self.mean("act")
        episode += validation / options.validate_interval
        left = 60 * options.minutes - (time.monotonic() - self.start)
        return max(0, int(left / episode)) * options.max_step


def free_photos() -> torch.Tensor:
    """The project's own photos (N, 3, 128, 128) uint8 BGR: no other pictures are logged."""
    files = [path for name in PHOTOS if (path := ROOT / "image" / name).is_file()]
    small = [cv2.resize(read_picture(path), (WIDTH, WIDTH)) for path in files]
    pictures = np.array(small, np.uint8).reshape(-1, WIDTH, WIDTH, 3)
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


def validate(training: Training, log: Log) -> float:
    """Paint test images and log how it went.  Returns the mean error at the end."""
    options = training.options
    count = options.validate_episodes * options.env_batch
    targets = training.data.images[training.data.test[:count]]
    result = evaluate(training.agent, targets, options.env_batch)
    for bundle in sorted({*BUNDLES_LOGGED, options.max_step}):
        if bundle <= options.max_step:
            log.scalar(f"validation/error_{bundle * BUNDLE}_strokes", result.errors[bundle - 1])
            log.scalar(f"live_strokes/bundle_{bundle}", result.live[bundle - 1])
    if len(photos := free_photos()):
        painted = evaluate(training.agent, photos, len(photos)).canvas
        grid = make_grid(torch.cat((photos, painted)).flip(1), nrow=len(photos))  # RGB
        log.writer.add_image("validation/photos_and_paintings", grid, training.global_step)
    error = result.errors[-1].item()
    log.check({"validation error": error})
    live = " ".join(f"{share:.2f}" for share in result.live[:: max(1, options.max_step // 8)])
    print(f"step {training.global_step}, update {training.global_update}: error {error:.5f} on "
          f"{len(targets)} test images after {options.max_step * BUNDLE} strokes; live strokes "
          f"{live}", flush=True)
    return error


def keep(training: Training, run_folder: Run, error: float) -> None:
    """Write the checkpoint, and the networks where they paint better than ever."""
    if error < training.best:
        training.best = error
        for name, network in training.agent.networks.items():
            save_atomically(half_state(network), run_folder.folder / f"{name}.pkl")
    training.save(run_folder)


def train(options: argparse.Namespace) -> None:
    """Train as the options say; see ``parse_args``."""
    parent, run_folder = Path(options.output), None
    if options.resume is not None:
        run_folder = Run.reopen(parent, "Paint", options.resume)
        options = resumed(options, run_folder)
    training = Training(options, CelebA(Path(options.data)))
    if run_folder:
        training.load(run_folder)
    else:
        run_folder = Run.create(parent, "Paint", vars(options))
    data, memory = training.data, training.memory
    print(f"{run_folder.folder}: step {training.global_step} of {training.total_steps or '?'}, "
          f"{len(data.train)} training and {len(data.test)} test images, on {training.device} in "
          f"{training.agent.precision}; the replay memory takes {memory.nbytes / 1e9:.2f} GB on "
          f"{memory.canvas.device}", flush=True)
    log, clock = Log(training, run_folder.folder, options.debug), Clock()
    bar = tqdm(initial=training.global_step, total=training.total_steps, unit="step", disable=None)
    with StopSignals() as signals, log.writer, bar:
        while training.updates_due or training.env.step_count or not training.over:
            before = time.monotonic()
            kind = "learn" if training.updates_due else "act"
            if kind == "learn":
                log.update(training.learn())
            else:
                log.rewards += training.act().mean()
                bar.update()
            ended = training.env.done if kind == "act" else not training.updates_due
            if ended and training.device.type == "cuda":
                torch.cuda.synchronize()  # so that the clock is true once a round
            clock.add(kind, time.monotonic() - before)

            if ended and kind == "learn":
                log.round(clock)
                if training.total_steps is None:
                    training.total_steps = training.global_step + clock.steps_left(options)
                    bar.total = training.total_steps
            elif ended:
                log.episode(clock)
                training.end_episode()
            stopped = signals.stopped
            due = training.over or training.global_episode % options.validate_interval == 0
            if training.between_rounds and due:
                keep(training, run_folder, validate(training, log))
            elif stopped:
                log.check(log.sums)
                training.save(run_folder)
            if stopped:
                print(f"stopped; go on with: python3 {os.path.relpath(__file__)} "
                      f"--resume {os.path.relpath(run_folder.folder)}")
                return
    run_folder.finish()
    print(f"finished; {run_folder.folder / 'actor.pkl'} has an error of {training.best:.5f}")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--data", default=str(ROOT / "data" / "img_align_celeba"), help="a folder of images")
    add("--renderer", default=str(RENDERER), help="the trained renderer")
    add("--init", metavar="DIR", help="start from the actor.pkl in DIR, and from critic.pkl and "
        "wgan.pkl where they are there")
    add("--output", default=str(TRAIN_LOG), help="where the folder of the run is made")
    add("--resume", nargs="?", const="", metavar="DIR",
        help="go on with the run in DIR, or with the newest unfinished one")
    add("--warmup", type=int, default=400, help="steps of the environment before learning")
    add("--discount", type=discount, default=0.95**5,
        help="of a bundle; 0 is greedy and needs no critic")
    add("--batch_size", type=positive_int, default=96)
    add("--rmsize", type=positive_int, default=800, help="episodes in the replay memory")
    add("--env_batch", type=positive_int, default=96, help="paintings side by side")
    add("--tau", type=positive_float, default=0.001, help="how fast slow copies follow")
    add("--max_step", type=positive_int, default=40, help="bundles of 5 strokes an episode")
    add("--noise_factor", type=float, default=0.0,
        help="standard deviation of the noise on actions while exploring")
    add("--validate_interval", type=positive_int, default=50,
        help="episodes between validations and checkpoints")
    add("--validate_episodes", type=positive_int, default=5,
        help="how many times env_batch test images a validation paints")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--train_times", type=positive_int, default=2_000_000,
                        help="steps of the environment")
    length.add_argument("--minutes", type=positive_float,
                        help="choose the number of steps that fits, after the first round")
    add("--episode_train_times", type=positive_int, default=10, help="updates after an episode")
    add("--reward", choices=("wgan", "l2"), default="wgan")
    add("--unroll", type=positive_int, default=1,
        help="bundles in a row that the actor's gradient flows through")
    add("--opacity_pull", type=float, default=0.0,
        help="weight of the mean of 1 - opacity in the actor's loss")
    add("--actor_rate", type=positive_float,
        help="highest rate of a cosine, in place of the reference's steps 1e-3, 3e-4, 1e-4")
    add("--critic_rate", type=positive_float, help="likewise, in place of 3e-4, 1e-4, 3e-5")
    add("--debug", action="store_true", help="print every episode and round of learning")
    add("--seed", type=seed, default=1234)
    add_device_flags(parser)
    options = parser.parse_args()
    for name in ("data", "renderer", "output", "init"):
        if getattr(options, name) is not None:
            setattr(options, name, str(Path(getattr(options, name)).absolute()))
    return options


def discount(text: str) -> float:
    """An argparse type: a number in [0, 1), or such as 0.95**5."""
    base, _, power = text.partition("**")
    if not (0 <= float(base) < 1 and float(power or 1) > 0):
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return float(base) ** float(power or 1)


if __name__ == "__main__":
    run(lambda: train(parse_args()))
