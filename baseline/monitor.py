"""What a training tells: log.csv, TensorBoard events, pictures, lines."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torchvision.utils import make_grid

from constants import WIDTH
from DRL.rollout import Measured
from running.events import Events
from running.loop import say
from running.ranks import Ranks
from running.run import fitting
from utils.command import LOG, ROOT, UserError
from utils.files import write_atomically
from utils.pictures import read_picture
from utils.weights import finite

if TYPE_CHECKING:
    from trainer import Training

PHOTOS = ("test.png", "chelsea.jpg", "coffee.jpg", "rocket.jpg")
STROKES_LOGGED = (5, 20, 50, 100, 200, 400, 1000)  # where a bundle ends there
EXPLODED = 1e9  # no metric of a sound training comes near


class Gathered:
    """Sums of metrics, gathered without waiting for the device.

    ``bad`` is the first update that went wrong, from 1, or 0; ``worst`` are its metrics.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums = self.worst = self.bad = torch.zeros(())
        self.updates = 0

    def add(self, metrics: dict[str, torch.Tensor]) -> None:
        """Note those of an update."""
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

    def text(self, values: list[float]) -> str:
        """Metrics as text."""
        return " ".join(f"{name} {value:.4g}"
                        for name, value in zip(self.names, values, strict=True))


class Monitor:
    """What the main process writes and prints of a training; silent until it is opened."""

    def __init__(self, ranks: Ranks, debug: bool) -> None:
        """debug: print every episode and every round of learning."""
        self.ranks, self.debug = ranks, debug
        self.folder: Path | None = None
        self.events: Events | None = None
        self.rows: list[dict[str, str]] = []  # of log.csv
        self.since = {"updates": 0, "seconds": 0.0}  # the last round
        self.round_metrics = Gathered()
        self.means: list[dict[str, float]] = []  # of the rounds since the last validation

    def open(self, folder: Path, training: "Training") -> None:
        """Write into a run's folder; lines of log.csv from beyond the checkpoint go."""
        self.folder = folder
        self.photos = free_photos()  # before signals are waited for, as reading hides stderr
        self.since = {"updates": training.global_update, "seconds": training.seconds}
        file = folder / LOG
        if file.is_file():
            with fitting(file, "move it away"):
                rows = csv.DictReader(io.StringIO(file.read_text()))
                self.rows = [row for row in rows if int(row["update"]) <= training.global_update]
        self.events = Events(folder, training.global_step + 1, self.ranks.main)

    def scalar(self, name: str, value: float, step: int) -> None:
        """Log a number for TensorBoard."""
        if self.events:
            self.events.scalar(name, value, step)

    def gather(self, metrics: dict[str, torch.Tensor]) -> None:
        """Note the metrics of an update."""
        self.round_metrics.add(metrics)

    def check(self, training: "Training") -> None:
        """Raises UserError where an update since the last round, or the networks, went wrong."""
        gathered = self.round_metrics
        if bad := int(gathered.bad):
            first = training.global_update - gathered.updates + bad
            says = f"in update {first}: {gathered.text(gathered.worst.tolist())}"
        elif bad := not all(finite(network) for network in training.method.networks.values()):
            says = f"by update {training.global_update}: weights are no finite numbers"
        if bad:
            raise UserError(
                f"the training diverged {says}; {self.folder} keeps the last good checkpoint, if "
                "there is one yet; lower rates may help (--actor_rate, --critic_rate)")

    def round(self, training: "Training") -> None:
        """Log a round of learning, by its metrics' means over updates and processes.

        Raises UserError where it went wrong.
        """
        gathered = self.round_metrics
        if not gathered.updates:
            return
        self.check(training)
        means = (self.ranks.total(gathered.sums) / (self.ranks.world * gathered.updates)).tolist()
        self.means.append(dict(zip(gathered.names, means, strict=True)))
        for name, value in self.means[-1].items():
            self.scalar(f"train/{name}", value, training.global_step)
        for name, rate in training.method.rates(training.progress).items():
            self.scalar(f"rate/{name}", rate, training.global_step)
        frames = (training.global_update - self.since["updates"]) * training.options.batch_size
        rate = frames / max(1e-9, training.seconds - self.since["seconds"])
        self.since = {"updates": training.global_update, "seconds": training.seconds}
        self.scalar("frames_a_second", rate, training.global_step)
        if self.debug:
            say(f"  {gathered.text(means)}; {rate:.1f} frames a second")
        if self.events:
            self.events.flush()
        self.round_metrics = Gathered()

    def episode(self, training: "Training", error: torch.Tensor, reward: torch.Tensor) -> None:
        """Log the error and the removed share of it of an episode of the training paintings."""
        both = torch.stack((error, reward))
        error, reward = (self.ranks.total(both) / self.ranks.world).tolist()
        self.scalar("episode/error", error, training.global_step)
        self.scalar("episode/reward", reward, training.global_step)
        if self.debug:
            say(f"episode {training.global_episode + 1}, step {training.global_step}: error "
                f"{error:.5f}, reward {reward:.4f}")

    def validation(
        self, training: "Training", measured: Measured, averaged: bool, images: int,
        more: dict[str, float],
    ) -> None:
        """Log a validation, in log.csv too.

        averaged: whether the actor's EMA was measured; more: what else is to stand there.
        """
        step, bundle, steps = training.global_step, training.options.bundle, len(measured.errors)
        total = steps * bundle
        row: dict[str, float] = {
            "update": training.global_update,
            "frames": training.global_update * training.options.batch_size,
            "seconds": round(training.seconds),
        }
        for strokes in sorted({*STROKES_LOGGED, total}):
            last, rest = divmod(strokes, bundle)
            if strokes <= total and not rest:
                row[f"error_{strokes}"] = error = measured.errors[last - 1].item()
                self.scalar(f"validation/error_{strokes}_strokes", error, step)
                self.scalar(f"live_strokes/bundle_{last}", measured.live[last - 1], step)
                self.scalar(f"opacity/bundle_{last}", measured.opacity[last - 1], step)
        row |= {"live": measured.live.mean().item(), "opacity": measured.opacity.mean().item()}
        for name in dict.fromkeys(name for means in self.means for name in means):
            more[name] = float(np.mean([means[name] for means in self.means]))
        self.means = []
        self.rows.append({name: f"{value:.6g}" if isinstance(value, float) else str(value)
                          for name, value in (row | more).items()})
        if self.ranks.main and self.folder:
            self.write_log()
            if len(photos := self.photos):
                painter = training.method.painter(averaged)
                painted = painter.measure(photos, steps, len(photos)).canvas
                grid = make_grid(torch.cat((photos, painted)).flip(1), nrow=len(photos))  # RGB
                self.events.image("validation/photos_and_paintings", grid, step)
            self.events.flush()
        live = " ".join(f"{share:.2f}" for share in measured.live[:: max(1, steps // 8)])
        say(f"step {step}, update {training.global_update}: error {measured.errors[-1]:.5f} on "
            f"{images} test images after {total} strokes; live strokes {live}")

    def write_log(self) -> None:
        """Write log.csv anew, with a cell for every name that a line has."""
        text = io.StringIO()
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.folder / LOG, lambda file: file.write(text.getvalue().encode()))


def free_photos() -> torch.Tensor:
    """The project's own photos (N, 3, 128, 128) uint8 BGR: no other pictures are logged."""
    files = [path for name in PHOTOS if (path := ROOT / "image" / name).is_file()]
    small = [cv2.resize(read_picture(path), (WIDTH, WIDTH)) for path in files]
    pictures = np.array(small, np.uint8).reshape(-1, WIDTH, WIDTH, 3)
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)
