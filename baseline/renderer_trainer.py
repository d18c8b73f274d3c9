"""A training of the renderer: what it holds, its validations, its checkpoint and weight file."""

import math
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.utils import make_grid

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
from utils.command import RENDERER, Options, UserError
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


class RendererTraining:
    """All that a training run of the renderer holds; a ``Job`` of ``running.loop``."""

    settled = True
    alternative = "--minutes 60, a training that ends after an hour"

    def __init__(self, options: Options, ranks: Ranks) -> None:
        """Build all of it; the network is that of the output file, where there is one.

        Raises UserError where the options do not fit.
        """
        self.options, self.ranks = options, ranks
        self.device = device = pick_device(options.device)
        self.burn_in = BURN_IN[device.type]
        if options.fast:
            need_compiler()
        self.data = StrokeBatches(
            options.seed, ranks.shard(options.batch_size, "--batch_size"), options.stroke, ranks)
        make_room(options.output)
        self.precision = Precision(options.precision, device, learning=True)
        rng = np.random.default_rng(VALIDATION_SEED)
        strokes = torch.from_numpy(rng.random((VALIDATION_STROKES, SHAPE_DIM), np.float32))
        self.drawn = draw_batch(strokes, family=options.stroke).to(device)
        self.strokes = strokes.to(device)
        self.done, self.total, self.rate = 0, options.steps, 0.0
        self.loss_sum, self.losses = torch.zeros((), device=device), 0  # since a validation
        torch.manual_seed(options.seed)
        self.renderer = Renderer().to(device, memory_format=torch.channels_last)
        # Starting at the mean opacity: from 0.5 the first steps would all push towards bare canvas,
        # where the sigmoid is flat and the gradient of small strokes vanishes.
        self.renderer.conv6.bias.data.fill_((1 - self.drawn).mean().logit())
        # Collective operations stay out of graphs.
        graphed = options.fast and device.type == "cuda" and ranks.world == 1
        self.optimizer = adam(self.renderer, graphed)
        self.load_best(Renderer() if options.scratch else self.renderer)
        if self.best < math.inf:
            print(self.result())
        ranks.broadcast_network(self.renderer)
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

    def check(self, error: float | None = None) -> float:
        """Return the mean loss since the last validation; error: that of a new one, if any.

        Raises UserError where they or the weights are NaN or infinite.
        """
        loss = self.ranks.mean(self.loss_sum / self.losses).item()
        if not (math.isfinite(loss + (error or 0)) and finite(self.renderer)):
            measured = "" if error is None else f"squared error {error:.4g}, "
            raise UserError(
                f"the training diverged by step {self.done} ({measured}training {loss:.4g}); "
                f"{self.run.folder} keeps the last good checkpoint, if there is one yet; start "
                "again with a smaller --lr")
        return loss

    def load_best(self, network: Renderer) -> None:
        """Load the output file, if any, into a network, and measure it."""
        self.best, path = math.inf, self.options.output
        if path.is_file():
            family = load_weights(network, path, "the weight file", "name another --output")
            if family != self.options.stroke:
                raise UserError(f"{path} holds a renderer of {family} strokes, not of "
                                f"{self.options.stroke}; move it away or name another --output")
            self.best, _ = drawing_error(
                network.to(self.device), self.strokes, self.drawn, self.precision)

    def save_best(self, error: float) -> None:
        """Write the network, of this error, where that of the output file is not less."""
        path = self.options.output
        lock = lock_folder(path.parent, wait=True)
        self.load_best(Renderer())  # another training run may have written it
        if error < self.best:
            save_atomically(half_state(self.renderer, family=self.options.stroke), path)
            self.best = error
        os.close(lock)

    def result(self) -> str:
        """Return the error of the output file, in words."""
        return f"{self.options.output} has a squared error of {self.best:.6f}"

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

    def validate(self) -> None:
        error, output = drawing_error(self.renderer, self.strokes, self.drawn, self.precision)
        loss, step = self.check(error), self.done
        if self.ranks.main:
            self.events.scalars({"train/squared_error": loss, "validation/squared_error": error,
                                 "train/learning_rate": self.rate}, step)
            if step % (10 * self.options.validate_interval) == 0 or self.over:
                pairs = torch.stack((self.drawn[: len(output)], output), 1).flatten(0, 1)
                # White strokes on black.
                grid = make_grid(1 - pairs[:, None], nrow=8, pad_value=0.5)
                self.events.image("validation/drawn_and_network", grid, step)
            self.save_best(error)
        say(f"step {step}: squared error {error:.6f} (training {loss:.6f}, "
            f"best {self.best:.6f})")
        self.loss_sum.zero_()
        self.losses = 0

    def save(self) -> None:
        if self.ranks.main:
            self.run.save({
                "renderer": self.renderer.state_dict(), "optimizer": self.optimizer.state_dict(),
                "step": self.done, "total": self.total})

    def describe(self) -> str:
        return f"step {self.done} of {self.total or '?'} on {self.device} in {self.precision}"

    def report(self) -> str:
        path = self.options.output
        if self.best == math.inf:
            return f"{path} comes with the first validation"
        flags = ("--renderer", path) if path != RENDERER else ()
        return f"{self.result()}; train an agent with: {command('train.py', *flags)}"
