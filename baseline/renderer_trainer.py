"""A training of the renderer: what it holds, its validations, its checkpoint and weight file."""

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.utils import make_grid

from options import RendererOptions
from Renderer.model import Renderer
from Renderer.stroke_batch import draw_batch
from Renderer.stroke_data import StrokeBatches, drawn_ahead, drawn_on
from Renderer.stroke_gen import SHAPE_DIM
from running.device import Precision, need_compiler, pick_device
from running.events import Events
from running.graph import Graphed
from running.loop import command, say
from running.optim import adam, cosine, load_optimizer, set_rate, stepped
from running.ranks import Ranks
from running.run import Run, fitting
from utils.command import RENDERER, UserError
from utils.files import make_room
from utils.locks import lock_folder
from utils.weights import finite, half_state, load_weights, save_atomically

VALIDATION_SEED = 2**32  # no training seed reaches it
VALIDATION_STROKES = 2048
VALIDATION_BATCH = 256
PICTURES = 32  # of a validation, in TensorBoard
BURN_IN = {"cpu": 40, "cuda": 400}  # steps


@torch.no_grad()
def drawing_error(
    renderer: Renderer, strokes: torch.Tensor, drawn: torch.Tensor, precision: Precision
) -> tuple[float, torch.Tensor]:
    """Return the mean squared error on strokes (N, 10), and the network's first pictures.

    drawn: (N, 128, 128) by the exact rasterizer.
    """
    error, pictures = 0.0, []
    for inputs, target in zip(strokes.split(VALIDATION_BATCH), drawn.split(VALIDATION_BATCH),
                              strict=True):
        with precision.autocast():
            output = renderer(inputs).float()  # (n, 128, 128)
        error += (output - target).square().mean((1, 2)).sum().item()
        pictures.append(output[:PICTURES])
    return error / len(strokes), pictures[0]


class BestWeights:
    """A weight file that only a better network replaces, whichever training wrote it."""

    def __init__(self, path: Path, family: str, measure: Callable[[Renderer], float]) -> None:
        """measure: returns the error of a network.  Raises UserError for a path not writable."""
        make_room(path)
        self.path, self.family, self.measure = path, family, measure
        self.error = math.inf
        self.stamp = self.read_stamp()  # of the file that the error is of

    def read_stamp(self) -> tuple[int, int] | None:
        """Return what tells the file from its replacement; None where there is no file."""
        stat = self.path.stat() if self.path.is_file() else None
        return stat and (stat.st_ino, stat.st_mtime_ns)

    def load(self, network: Renderer) -> None:
        """Load the file into a network, and measure it."""
        family = load_weights(
            network, self.path, "the weight file to go on from", "name another --output")
        if family != self.family:
            raise UserError(f"{self.path} holds a renderer of {family} strokes, not of "
                            f"{self.family}; move it away or name another --output")
        self.error = self.measure(network)

    def offer(self, network: Renderer, error: float) -> None:
        """Write a network where its error is less than that of the file."""
        lock = lock_folder(self.path.parent, wait=True)
        if self.stamp != self.read_stamp():  # another training's, or it is gone
            self.error = math.inf
            if self.path.is_file():
                self.load(Renderer())
        if error < self.error:
            save_atomically(half_state(network, family=self.family), self.path)
            self.error = error
        self.stamp = self.read_stamp()
        os.close(lock)


class RendererTraining:
    """All that a training of the renderer holds; a ``Job`` of ``running.loop``."""

    settled = True
    alternative = "--minutes 60, a training that ends after an hour"

    def __init__(self, options: RendererOptions, ranks: Ranks) -> None:
        """Build all of it.  Raises UserError where the options do not fit."""
        self.options, self.ranks = options, ranks
        self.device = device = pick_device(options.device)
        self.burn_in = BURN_IN[device.type]
        if options.fast:
            need_compiler()
        self.data = StrokeBatches(
            options.seed, ranks.shard(options.batch_size, "--batch_size"), options.stroke, ranks)
        self.best = BestWeights(options.output, options.stroke, lambda network: drawing_error(
            network.to(device), self.strokes, self.drawn, self.precision)[0])
        self.precision = Precision(options.precision, device, learning=True)
        rng = np.random.default_rng(VALIDATION_SEED)
        strokes = torch.from_numpy(rng.random((VALIDATION_STROKES, SHAPE_DIM), np.float32))
        self.drawn = draw_batch(strokes, family=options.stroke).to(device)
        self.strokes = strokes.to(device)
        self.done, self.total, self.rate = 0, options.steps, 0.0
        self.loss_sum, self.losses = torch.zeros((), device=device), 0  # since a validation
        self.build()

    def build(self) -> None:
        """Build the network, from the output file where there is one, and its optimizer."""
        options = self.options
        torch.manual_seed(options.seed)
        self.renderer = Renderer().to(self.device, memory_format=torch.channels_last)
        # Starting at the mean opacity: from 0.5 the first steps would all push towards bare canvas,
        # where the sigmoid is flat and the gradient of small strokes vanishes.
        self.renderer.conv6.bias.data.fill_((1 - self.drawn).mean().logit())
        # Collective operations stay out of graphs.
        graphed = options.fast and self.device.type == "cuda" and self.ranks.world == 1
        self.optimizer = adam(self.renderer, graphed)
        if self.best.stamp:
            self.best.load(Renderer() if options.scratch else self.renderer)
            print(self.result())
        self.ranks.broadcast_network(self.renderer)
        self.forward = torch.compile(self.renderer) if options.fast else self.renderer
        self.learn = Graphed(self.update, graphed)

    def update(self, inputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Take a step by strokes (n, 10) and their pictures (n, 128, 128); return the loss."""
        with self.precision.autocast():
            output = self.forward(inputs)
        loss = F.mse_loss(output.float(), target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.ranks.average_gradients(self.renderer)
        self.optimizer.step()
        return loss.detach()

    def mean_loss(self, error: float | None = None) -> float:
        """Return the mean loss since the last validation; error: that of a new one, if any.

        Raises UserError where they or the weights are no finite numbers.
        """
        loss = self.ranks.mean(self.loss_sum / self.losses).item()
        if not (math.isfinite(loss + (error or 0)) and finite(self.renderer)):
            measured = "" if error is None else f"squared error {error:.4g}, "
            raise UserError(
                f"the training diverged by step {self.done} ({measured}training {loss:.4g}); "
                f"{self.run.folder} keeps the last good checkpoint, if there is one yet; start "
                "again with a smaller --lr")
        return loss

    def result(self) -> str:
        """Return the error of the weight file, in words."""
        return f"{self.best.path} has a squared error of {self.best.error:.6f}"

    def load(self, run: Run) -> None:
        """Load the checkpoint of a run, in place of what the output file holds."""
        state = self.ranks.broadcast(run.load() if self.ranks.main else None)
        with fitting(run.checkpoint_file):
            self.renderer.load_state_dict(state["renderer"])
            load_optimizer(self.optimizer, state["optimizer"])
            self.done, self.total = state["step"], state["total"]

    def attach(self, run: Run) -> None:
        """Log and save in the folder of a run from here on, and draw batches ahead."""
        self.run, end = run, self.total or sys.maxsize
        self.events = Events(run.folder, self.done + 1) if self.ranks.main else None
        self.batches = (drawn_ahead(self.data, self.done, end) if self.device.type == "cpu" else
                        drawn_on(self.device, self.data, self.done, end, self.options.fast))

    @property
    def over(self) -> bool:
        return self.total is not None and self.done >= self.total

    @property
    def due(self) -> bool:
        return self.done % self.options.validate_interval == 0

    def tick(self) -> None:
        progress, peak = self.done / self.total if self.total else 0, self.options.lr
        self.rate = cosine(progress, peak) if self.options.schedule == "cosine" else stepped(
            progress, (peak, peak / 10, peak / 100), (0.4, 0.8))
        set_rate(self.optimizer, self.rate)
        self.loss_sum += self.learn(*next(self.batches))
        self.losses += 1
        self.done += 1

    def check(self) -> None:
        self.mean_loss()

    def validate(self) -> None:
        error, output = drawing_error(self.renderer, self.strokes, self.drawn, self.precision)
        loss, step = self.mean_loss(error), self.done
        if self.ranks.main:
            self.log(error, loss, output)
            self.best.offer(self.renderer, error)
        say(f"step {step}: squared error {error:.6f} (training {loss:.6f}, "
            f"best {self.best.error:.6f})")
        self.loss_sum.zero_()
        self.losses = 0

    def log(self, error: float, loss: float, output: torch.Tensor) -> None:
        """Write a validation for TensorBoard; output: the network's pictures (n, 128, 128)."""
        self.events.scalars({"train/squared_error": loss, "validation/squared_error": error,
                             "train/learning_rate": self.rate}, self.done)
        if self.done % (10 * self.options.validate_interval) == 0 or self.over:
            pairs = torch.stack((self.drawn[: len(output)], output), 1).flatten(0, 1)
            grid = make_grid(1 - pairs[:, None], nrow=8, pad_value=0.5)  # white strokes on black
            self.events.image("validation/drawn_and_network", grid, self.done)

    def save(self) -> None:
        if self.ranks.main:
            self.run.save({
                "renderer": self.renderer.state_dict(), "optimizer": self.optimizer.state_dict(),
                "step": self.done, "total": self.total})

    def describe(self) -> str:
        return f"step {self.done} of {self.total or '?'} on {self.device} in {self.precision}"

    def report(self) -> str:
        path = self.best.path
        if self.best.error == math.inf:
            return f"{path} comes with the first validation"
        flags = ("--renderer", path) if path != RENDERER else ()
        return f"{self.result()}; train an agent with: {command('train.py', *flags)}"
