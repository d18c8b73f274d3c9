"""What a training of the agent tells: times, scalars, pictures, lines."""

import argparse
import math
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from tensorboardX import SummaryWriter
from torchvision.utils import make_grid

from DRL.evaluator import evaluate
from Renderer.canvas import BUNDLE
from Renderer.stroke_gen import WIDTH
from trainer import Training
from utils.command import ROOT, UserError
from utils.pictures import read_picture

PHOTOS = ("test.png", "chelsea.jpg", "coffee.jpg", "rocket.jpg")
BUNDLES_LOGGED = (1, 4, 10, 20, 40, 80, 200)


class Clock:
    """Seconds spent on each kind of work."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.rounds = 0
        self.forget()

    def forget(self) -> None:
        """Begin to count anew."""
        self.seconds = {"act": 0.0, "learn": 0.0}
        self.count = {"act": 0, "learn": 0}

    def add(self, kind: str, seconds: float) -> None:
        """Note one piece of work."""
        self.seconds[kind] += seconds
        self.count[kind] += 1

    def end_round(self) -> None:
        """Count a round; the first one's times hold compiling and other beginnings."""
        self.rounds += 1
        if self.rounds == 1:
            self.forget()

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


class Log:
    """What a training writes to TensorBoard and to the terminal; its main process does."""

    def __init__(self, training: Training, folder: Path, debug: bool) -> None:
        self.training, self.folder, self.debug = training, folder, debug
        self.writer = SummaryWriter(
            str(folder), purge_step=training.global_step + 1, flush_secs=10,
            write_to_disk=training.ranks.main,
        )
        self.sums: dict[str, torch.Tensor] = {}
        self.updates = 0
        self.rewards = torch.zeros((), device=training.device)

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

    def means(self) -> dict[str, float]:
        """The metrics' means over the updates since the last round, and over all processes."""
        if not self.sums:
            return {}
        ranks = self.training.ranks
        means = ranks.total(torch.stack(list(self.sums.values()))) / (ranks.world * self.updates)
        return dict(zip(self.sums, means.tolist(), strict=True))

    def round(self, clock: Clock) -> None:
        """Log a round of learning.  Raises UserError where it went wrong."""
        means = self.means()
        self.sums, self.updates = {}, 0
        text = self.check(means)
        for name, value in means.items():
            self.scalar(f"train/{name}", value)
        for name, rate in self.training.rates().items():
            self.scalar(f"rate/{name}", rate)
        self.scalar("seconds/update", clock.mean("learn"))
        if self.debug:
            print(f"  {text}; {clock.mean('learn'):.3f} s an update", flush=True)

    def episode(self, clock: Clock) -> None:
        """Log an episode of the training paintings, before it is cleared away."""
        training = self.training
        both = torch.stack((training.env.error().mean(), self.rewards))
        error, reward = (training.ranks.total(both) / training.ranks.world).tolist()
        self.rewards = torch.zeros_like(self.rewards)
        self.scalar("episode/error", error)
        self.scalar("episode/reward", reward)
        self.scalar("seconds/step", clock.mean("act"))
        if self.debug:
            print(f"episode {training.global_episode + 1}, step {training.global_step}: error "
                  f"{error:.5f}, reward {reward:.4f}, {clock.mean('act'):.3f} s a step", flush=True)


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
    tests = training.data.test[:count]
    result = evaluate(
        training.agent, training.data.images[tests], training.env_batch, training.ranks)
    for bundle in sorted({*BUNDLES_LOGGED, options.max_step}):
        if bundle <= options.max_step:
            log.scalar(f"validation/error_{bundle * BUNDLE}_strokes", result.errors[bundle - 1])
            log.scalar(f"live_strokes/bundle_{bundle}", result.live[bundle - 1])
    if training.ranks.main and len(photos := free_photos()):
        painted = evaluate(training.agent, photos, len(photos)).canvas
        grid = make_grid(torch.cat((photos, painted)).flip(1), nrow=len(photos))  # RGB
        log.writer.add_image("validation/photos_and_paintings", grid, training.global_step)
    error = result.errors[-1].item()
    log.check({"validation error": error})
    live = " ".join(f"{share:.2f}" for share in result.live[:: max(1, options.max_step // 8)])
    print(f"step {training.global_step}, update {training.global_update}: error {error:.5f} on "
          f"{len(tests)} test images after {options.max_step * BUNDLE} strokes; live strokes "
          f"{live}", flush=True)
    return error
