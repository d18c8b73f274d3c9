"""What a training of the agent tells: times, scalars, pictures, lines."""

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.utils import make_grid

from DRL.evaluator import evaluate
from Renderer.stroke_gen import WIDTH
from trainer import Training
from utils.command import ROOT, UserError
from utils.events import Events
from utils.pictures import read_picture

PHOTOS = ("test.png", "chelsea.jpg", "coffee.jpg", "rocket.jpg")
STROKES_LOGGED = (5, 20, 50, 100, 200, 400, 1000)  # where a bundle ends there
EXPLODED = 1e9  # no metric of a sound training comes near


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
        self.events = Events(folder, training.global_step + 1, training.ranks.main)
        self.forget()
        self.rewards = torch.zeros((), device=training.device)

    def scalar(self, name: str, value: float) -> None:
        """Log a number at the training's step."""
        self.events.scalar(name, value, self.training.global_step)

    def forget(self) -> None:
        """Begin to gather metrics anew."""
        self.names: list[str] = []
        self.sums = self.worst = self.bad = torch.zeros(())
        self.updates = 0

    def update(self, metrics: dict[str, torch.Tensor]) -> None:
        """Gather the metrics of an update without waiting for the device.

        ``bad`` is the first update that went wrong since the last round, from 1, or 0; ``worst``
        are its metrics.
        """
        values = torch.stack(list(metrics.values()))
        self.updates += 1
        if not self.names:
            self.names = list(metrics)
            self.sums, self.worst = torch.zeros_like(values), torch.zeros_like(values)
            self.bad = torch.zeros_like(values[0])
        self.sums = self.sums + values
        here = (self.bad == 0) & ~(values.abs() <= EXPLODED).all()
        self.worst = torch.where(here, values, self.worst)
        self.bad = torch.where(here, self.updates, self.bad)

    def check(self) -> None:
        """Raises UserError where an update since the last round, or the networks, went wrong."""
        training = self.training
        first = training.global_update - self.updates + int(self.bad)
        if bad := bool(self.bad):
            says = f"in update {first}: {self.text(self.worst.tolist())}"
        elif bad := not training.finite():
            says = f"by update {training.global_update}: weights are no finite numbers"
        if bad:
            raise UserError(
                f"the training diverged {says}; {self.folder} keeps the last good checkpoint, if "
                "there is one yet; lower rates may help (--actor_rate, --critic_rate)")

    def text(self, values: list[float]) -> str:
        """Metrics as text."""
        return " ".join(f"{name} {value:.4g}"
                        for name, value in zip(self.names, values, strict=True))

    def round(self, clock: Clock) -> None:
        """Log a round of learning, by its metrics' means over updates and processes.

        Raises UserError where it went wrong.
        """
        self.check()
        ranks = self.training.ranks
        means = (ranks.total(self.sums) / (ranks.world * self.updates)).tolist()
        for name, value in zip(self.names, means, strict=True):
            self.scalar(f"train/{name}", value)
        for name, rate in self.training.rates().items():
            self.scalar(f"rate/{name}", rate)
        self.scalar("seconds/update", clock.mean("learn"))
        self.events.flush()
        if self.debug:
            print(f"  {self.text(means)}; {clock.mean('learn'):.3f} s an update", flush=True)
        self.forget()

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
    total = options.max_step * options.bundle
    for strokes in sorted({*STROKES_LOGGED, total}):
        bundle, rest = divmod(strokes, options.bundle)
        if strokes <= total and not rest:
            log.scalar(f"validation/error_{strokes}_strokes", result.errors[bundle - 1])
            log.scalar(f"live_strokes/bundle_{bundle}", result.live[bundle - 1])
    if training.ranks.main and len(photos := free_photos()):
        painted = evaluate(training.agent, photos, len(photos)).canvas
        grid = make_grid(torch.cat((photos, painted)).flip(1), nrow=len(photos))  # RGB
        log.events.image("validation/photos_and_paintings", grid, training.global_step)
    log.events.flush()
    error = result.errors[-1].item()
    live = " ".join(f"{share:.2f}" for share in result.live[:: max(1, options.max_step // 8)])
    print(f"step {training.global_step}, update {training.global_update}: error {error:.5f} on "
          f"{len(tests)} test images after {total} strokes; live strokes {live}", flush=True)
    return error
