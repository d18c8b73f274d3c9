"""The log of a training run: log.csv, TensorBoard events, pictures, printed lines."""

import csv
import io
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torchvision.utils import make_grid

from constants import LOGGED_STROKES, WIDTH
from DRL.rollout import Policy
from running.events import Events
from running.loop import say
from running.ranks import Ranks
from running.run import fitting
from utils.command import LOG, ROOT, UserError
from utils.files import write_atomically
from utils.pictures import read_picture
from utils.weights import finite

PHOTOS = ("test.png", "chelsea.jpg", "coffee.jpg", "rocket.jpg")  # in the project's own image/
DIVERGED = 1e9  # absolute value of a metric that no sound training comes near


class Monitor:
    """Gathers the metrics of a training run; the main process logs and prints them."""

    def __init__(
        self, ranks: Ranks, networks: dict[str, nn.Module], batch_size: int, debug: bool
    ) -> None:
        """Gather metrics from here on.

        networks: they must stay finite; batch_size: frames an update, of all processes;
        debug: print every episode and every round of updates.
        """
        self.ranks, self.networks, self.batch_size, self.debug = ranks, networks, batch_size, debug
        self.folder: Path | None = None
        self.events: Events | None = None
        self.rows: list[dict[str, str]] = []  # of log.csv
        self.last_round = 0, 0.0  # its update and seconds
        self.names: list[str] = []  # of metrics
        self.round_metrics: list[torch.Tensor] = []  # of the updates since the last round
        self.means: list[list[float]] = []  # of the rounds since the last validation

    def open(self, folder: Path, step: int, update: int, seconds: float) -> None:
        """Log in a run's folder; rows of log.csv from beyond ``update`` are dropped."""
        self.folder = folder
        self.photos = free_photos()  # before signals are waited for, as reading hides stderr
        self.last_round = update, seconds
        file = folder / LOG
        if file.is_file():
            with fitting(file, "move it away"):
                self.rows = [row for row in csv.DictReader(io.StringIO(file.read_text()))
                             if int(row["update"]) <= update]
        self.events = Events(folder, step + 1) if self.ranks.main else None

    def log(self, step: int, values: dict[str, float], shown: bool = False) -> None:
        """Log numbers for TensorBoard; shown: print them too."""
        if self.events:
            self.events.scalars(values, step)
        if shown:
            say(f"step {step}: {text(values)}")

    def gather(self, metrics: dict[str, torch.Tensor]) -> None:
        """Add the metrics of an update to those of its round, without waiting for the device."""
        self.names = list(metrics)
        self.round_metrics.append(torch.stack(list(metrics.values())))

    def check(self, update: int) -> None:
        """Raise UserError where a network, or an update since the last round, diverged."""
        values = torch.stack(self.round_metrics or [torch.zeros(1)])  # (updates, metrics)
        diverged = (~(values.abs() <= DIVERGED)).any(1).tolist()
        if any(diverged):
            first = diverged.index(True)
            metrics = dict(zip(self.names, values[first].tolist(), strict=True))
            says = f"in update {update - len(values) + first + 1}: {text(metrics)}"
        elif not all(map(finite, self.networks.values())):
            says = f"by update {update}: weights are NaN or infinite"
        else:
            return
        raise UserError(
            f"the training diverged {says}; {self.folder} keeps the last good checkpoint, if "
            "there is one yet; lower rates may help (--actor_rate, --critic_rate)")

    def round(self, step: int, update: int, seconds: float, rates: dict[str, float]) -> None:
        """Log a round of updates, by the means of its metrics over updates and processes.

        seconds: of work since the training began.  Raises UserError where it diverged.
        """
        if not self.round_metrics:
            return
        self.check(update)
        means = self.ranks.mean(sum(self.round_metrics) / len(self.round_metrics)).tolist()
        self.round_metrics = []
        self.means.append(means)
        frames = (update - self.last_round[0]) * self.batch_size
        frame_rate = frames / max(1e-9, seconds - self.last_round[1])
        self.last_round = update, seconds
        self.log(step, {f"train/{name}": value
                        for name, value in zip(self.names, means, strict=True)}
                 | {f"rate/{name}": rate for name, rate in rates.items()}
                 | {"frames_a_second": frame_rate}, self.debug)

    def episode(self, step: int, statistics: dict[str, torch.Tensor]) -> None:
        """Log the means over processes of an episode's statistics, where there are any."""
        if statistics:
            means = self.ranks.mean(torch.stack(list(statistics.values()))).tolist()
            self.log(step, {f"episode/{name}": value
                            for name, value in zip(statistics, means, strict=True)}, self.debug)

    def validation(
        self, now: tuple[int, int, float], measured: torch.Tensor, images: int,
        policy: Policy, errors: dict[str, float],
    ) -> None:
        """Log a validation, in log.csv too.

        now: step, update, and seconds of work; measured: error of ``policy`` after each action
        (steps,) on that number of images; errors: more columns of log.csv.
        """
        step, update, seconds = now
        steps, bundle = len(measured), policy.bundle
        total = steps * bundle
        row: dict[str, float] = {
            "update": update, "frames": update * self.batch_size, "seconds": round(seconds)}
        for strokes in sorted({*LOGGED_STROKES, total}):
            number, rest = divmod(strokes, bundle)
            if strokes <= total and not rest:
                row[f"error_{strokes}"] = error = measured[number - 1].item()
                self.log(step, {f"validation/error_{strokes}_strokes": error})
        row |= errors
        if self.means:
            row |= dict(zip(self.names, np.mean(self.means, 0).tolist(), strict=True))
        self.means = []
        self.rows.append({name: f"{value:.6g}" if isinstance(value, float) else str(value)
                          for name, value in row.items()})
        if self.events:
            self.write_log()
            if len(photos := self.photos):
                painted = policy.measure(photos, steps, len(photos))[1]
                grid = make_grid(torch.cat((photos, painted)).flip(1), nrow=len(photos))  # RGB
                self.events.image("validation/photos_and_paintings", grid, step)
        say(f"step {step}, update {update}: error {measured[-1]:.5f} on {images} test images "
            f"after {total} strokes")

    def write_log(self) -> None:
        """Write log.csv, with a cell for every name that a row has."""
        text = io.StringIO()
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.folder / LOG, lambda file: file.write(text.getvalue().encode()))


def text(values: dict[str, float]) -> str:
    """Return numbers with their names."""
    return " ".join(f"{name} {value:.4g}" for name, value in values.items())


def free_photos() -> torch.Tensor:
    """Return the project's own photos (N, 3, 128, 128) uint8 BGR."""
    files = [path for name in PHOTOS if (path := ROOT / "image" / name).is_file()]
    small = [cv2.resize(read_picture(path), (WIDTH, WIDTH)) for path in files]
    pictures = np.array(small, np.uint8).reshape(-1, WIDTH, WIDTH, 3)
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)
