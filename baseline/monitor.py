"""The log of a training: log.csv, TensorBoard events, pictures, printed lines."""

import csv
import io
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torchvision.utils import make_grid

from constants import WIDTH
from DRL.rollout import Measured, Policy
from running.events import Events
from running.loop import say
from running.ranks import Ranks
from running.run import fitting
from utils.command import LOG, ROOT, UserError
from utils.files import write_atomically
from utils.pictures import read_picture
from utils.weights import finite

PHOTOS = ("test.png", "chelsea.jpg", "coffee.jpg", "rocket.jpg")
STROKES_LOGGED = (5, 20, 50, 100, 200, 400, 1000)  # where a bundle ends there
EXPLODED = 1e9  # no metric of a sound training comes near


class Monitor:
    """What the main process writes and prints of a training; silent until it is opened."""

    def __init__(
        self, ranks: Ranks, networks: dict[str, nn.Module], batch_size: int, debug: bool
    ) -> None:
        """Gather metrics from here on.

        networks: those that must stay finite; batch_size: frames an update, of all processes;
        debug: print every episode and every round of learning.
        """
        self.ranks, self.networks, self.batch_size, self.debug = ranks, networks, batch_size, debug
        self.folder: Path | None = None
        self.events: Events | None = None
        self.rows: list[dict[str, str]] = []  # of log.csv
        self.last_round = 0, 0.0  # its update and seconds
        self.names: list[str] = []  # of metrics
        self.round_metrics: list[torch.Tensor] = []  # of the updates since the last round
        self.means: list[dict[str, float]] = []  # of the rounds since the last validation

    def open(self, folder: Path, step: int, update: int, seconds: float) -> None:
        """Write into a run's folder; lines of log.csv from beyond ``update`` go."""
        self.folder = folder
        self.photos = free_photos()  # before signals are waited for, as reading hides stderr
        self.last_round = update, seconds
        file = folder / LOG
        if file.is_file():
            with fitting(file, "move it away"):
                rows = csv.DictReader(io.StringIO(file.read_text()))
                self.rows = [row for row in rows if int(row["update"]) <= update]
        self.events = Events(folder, step + 1, self.ranks.main)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Log numbers for TensorBoard."""
        for name, value in values.items():
            if self.events:
                self.events.scalar(name, value, step)

    def gather(self, metrics: dict[str, torch.Tensor]) -> None:
        """Add the metrics of an update to those of its round, without waiting for the device."""
        self.names = list(metrics)
        self.round_metrics.append(torch.stack(list(metrics.values())))

    def check(self, update: int) -> None:
        """Raise UserError where an update since the last round, or a network, went wrong."""
        count, says = len(self.round_metrics), ""
        values = torch.stack(self.round_metrics or [torch.zeros(1)])  # (updates, metrics)
        wrong = (~(values.abs() <= EXPLODED)).any(1).tolist()
        if any(wrong):
            first = wrong.index(True)
            says = f"in update {update - count + first + 1}: {self.text(values[first].tolist())}"
        elif not all(map(finite, self.networks.values())):
            says = f"by update {update}: weights are no finite numbers"
        if says:
            raise UserError(
                f"the training diverged {says}; {self.folder} keeps the last good checkpoint, if "
                "there is one yet; lower rates may help (--actor_rate, --critic_rate)")

    def text(self, metrics: list[float]) -> str:
        """Return metrics as text."""
        return " ".join(f"{name} {value:.4g}"
                        for name, value in zip(self.names, metrics, strict=True))

    def round(self, step: int, update: int, seconds: float, rates: dict[str, float]) -> None:
        """Log a round of learning, by its metrics' means over updates and processes.

        seconds: of work since the training began.  Raises UserError where it went wrong.
        """
        if not self.round_metrics:
            return
        self.check(update)
        count, sums = len(self.round_metrics), self.ranks.total(sum(self.round_metrics))
        means = (sums / (self.ranks.world * count)).tolist()
        self.means.append(dict(zip(self.names, means, strict=True)))
        frames = (update - self.last_round[0]) * self.batch_size
        frame_rate = frames / max(1e-9, seconds - self.last_round[1])
        self.last_round = update, seconds
        self.log(step, {f"train/{name}": value for name, value in self.means[-1].items()}
                 | {f"rate/{name}": rate for name, rate in rates.items()}
                 | {"frames_a_second": frame_rate})
        if self.debug:
            say(f"  {self.text(means)}; {frame_rate:.1f} frames a second")
        if self.events:
            self.events.flush()
        self.round_metrics = []

    def episode(self, step: int, episode: int, statistics: dict[str, torch.Tensor]) -> None:
        """Log the means over processes of an episode's statistics, where there are any."""
        if not statistics:
            return
        sums = self.ranks.total(torch.stack(list(statistics.values())))
        means = dict(zip(statistics, (sums / self.ranks.world).tolist(), strict=True))
        self.log(step, {f"episode/{name}": value for name, value in means.items()})
        if self.debug:
            text = ", ".join(f"{name} {value:.5f}" for name, value in means.items())
            say(f"episode {episode}, step {step}: {text}")

    def validation(
        self, now: tuple[int, int, float], measured: Measured, images: int, painter: Policy,
        errors: dict[str, float],
    ) -> None:
        """Log a validation, in log.csv too.

        now: step, update, and seconds of work; measured: by ``painter`` on so many images; errors:
        columns of log.csv.
        """
        step, update, seconds = now
        steps, bundle = len(measured.errors), painter.bundle
        total = steps * bundle
        row: dict[str, float] = {
            "update": update, "frames": update * self.batch_size, "seconds": round(seconds)}
        for strokes in sorted({*STROKES_LOGGED, total}):
            last, rest = divmod(strokes, bundle)
            if strokes <= total and not rest:
                row[f"error_{strokes}"] = measured.errors[last - 1].item()
                self.log(step, {
                    f"validation/error_{strokes}_strokes": row[f"error_{strokes}"],
                    f"live_strokes/bundle_{last}": measured.visible[last - 1],
                    f"opacity/bundle_{last}": measured.opacity[last - 1]})
        row |= {"live": measured.visible.mean().item(), "opacity": measured.opacity.mean().item()}
        row |= errors
        for name in dict.fromkeys(name for means in self.means for name in means):
            row[name] = float(np.mean([means[name] for means in self.means]))
        self.means = []
        self.rows.append({name: f"{value:.6g}" if isinstance(value, float) else str(value)
                          for name, value in row.items()})
        if self.ranks.main and self.folder:
            self.write_log()
            self.paint_photos(painter, steps, step)
            self.events.flush()
        live = " ".join(f"{fraction:.2f}" for fraction in measured.visible[:: max(1, steps // 8)])
        say(f"step {step}, update {update}: error {measured.errors[-1]:.5f} on "
            f"{images} test images after {total} strokes; live strokes {live}")

    def paint_photos(self, painter: Policy, steps: int, step: int) -> None:
        """Log the project's own photos and their paintings of ``steps`` bundles."""
        if len(photos := self.photos):
            painted = painter.measure(photos, steps, len(photos)).canvas
            grid = make_grid(torch.cat((photos, painted)).flip(1), nrow=len(photos))  # RGB
            self.events.image("validation/photos_and_paintings", grid, step)

    def write_log(self) -> None:
        """Write log.csv, with a cell for every name that a line has."""
        text = io.StringIO()
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.folder / LOG, lambda file: file.write(text.getvalue().encode()))


def free_photos() -> torch.Tensor:
    """Return the project's own photos (N, 3, 128, 128) uint8 BGR; no others are logged."""
    files = [path for name in PHOTOS if (path := ROOT / "image" / name).is_file()]
    small = [cv2.resize(read_picture(path), (WIDTH, WIDTH)) for path in files]
    pictures = np.array(small, np.uint8).reshape(-1, WIDTH, WIDTH, 3)
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)
