"""A training of the renderer: what it holds, its validations and its checkpoint."""

import math
import sys
from collections.abc import Callable
from contextlib import closing

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.utils import make_grid

from best_renderer import Best, drawing_error
from options import RendererOptions
from Renderer.model import Renderer
from Renderer.stroke_batch import draw_batch
from Renderer.stroke_data import StrokeBatches, drawn_ahead, drawn_on
from Renderer.stroke_gen import SHAPE_DIM
from running.device import Precision, compiling, need_compiler, pick_device
from running.events import Events
from running.graph import Graphed
from running.loop import Budget, loop, say
from running.optim import adam, cosine, load_optimizer, set_rate, stepped
from running.ranks import Ranks
from running.run import Run, fitting, log_folder
from utils.command import UserError, enough_memory
from utils.weights import finite

VALIDATION_SEED = 2**32  # no training seed reaches it
VALIDATION_STROKES = 2048
BURN_IN = {"cpu": 40, "cuda": 400}  # steps before --minutes becomes a number of steps


def learning_rate(schedule: str, progress: float, peak: float) -> float:
    """Return the rate at ``progress`` in [0, 1]: half a cosine, or tenths after 40 and 80 %."""
    if schedule == "cosine":
        return cosine(progress, peak)
    return stepped(progress, (peak, peak / 10, peak / 100), (0.4, 0.8))


def picture_pairs(drawn: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """Return a grid of pairs, drawn | network, white on black, (3, H, W) in [0, 1]."""
    pairs = torch.stack((drawn[: len(made)], made), 1).flatten(0, 1)  # (2n, 128, 128)
    return make_grid(1 - pairs[:, None], nrow=8, pad_value=0.5)


class Drawing:
    """A renderer that learns to draw; a ``Job``, once it is attached to a run."""

    unit, exchange_every, settled = "step", 20, True

    def __init__(self, options: RendererOptions, ranks: Ranks) -> None:
        """Build all of it.  Raises UserError where the options do not fit."""
        self.options, self.ranks = options, ranks
        self.device = device = pick_device(options.device)
        if options.fast:
            need_compiler()
        self.data = StrokeBatches(
            options.seed, ranks.part(options.batch_size, "--batch_size"), options.stroke, ranks)
        self.best = Best(options.output, options.stroke, self.error_of)
        self.precision = Precision(options.precision, device, learning=True)
        rng = np.random.default_rng(VALIDATION_SEED)
        strokes = torch.from_numpy(rng.random((VALIDATION_STROKES, SHAPE_DIM), np.float32))
        self.drawn = draw_batch(strokes, family=options.stroke).to(device)
        self.strokes = strokes.to(device)
        self.done, self.total, self.rate = 0, options.steps, 0.0
        self.losses, self.since = torch.zeros((), device=device), 0  # steps since a validation
        self.build()

    def build(self) -> None:
        """Build the network, from the output file where there is one, and its optimizer."""
        options = self.options
        torch.manual_seed(options.seed)
        self.renderer = Renderer().to(self.device, memory_format=torch.channels_last)
        # Starting at the mean opacity: from 0.5 the first steps would all push towards bare canvas,
        # where strokes are small so far that the sigmoid is flat and nothing is learnt any more.
        self.renderer.conv6.bias.data.fill_((1 - self.drawn).mean().logit())
        # Exchanges between processes stay out of graphs.
        graphed = options.fast and self.device.type == "cuda" and self.ranks.world == 1
        self.optimizer = adam(self.renderer, graphed)
        self.best.begin(Renderer() if options.scratch else self.renderer)
        self.ranks.make_same(self.renderer)
        self.forward = torch.compile(self.renderer) if options.fast else self.renderer
        self.learn = Graphed(self.update, graphed)

    def load(self, run: Run) -> None:
        """Load the checkpoint of a run, in place of what the output file holds."""
        state = self.ranks.share(run.load() if self.ranks.main else None)
        with fitting(run.checkpoint_file):
            self.renderer.load_state_dict(state["renderer"])
            load_optimizer(self.optimizer, state["optimizer"])
            self.done, self.total = state["step"], state["total"]

    def attach(self, run: Run) -> None:
        """Log and save in the folder of a run from here on, and draw batches ahead."""
        self.run, end = run, self.total or sys.maxsize
        self.events = Events(run.folder, self.done + 1, self.ranks.main)
        self.batches = (drawn_ahead(self.data, self.done, end) if self.device.type == "cpu" else
                        drawn_on(self.device, self.data, self.done, end, self.options.fast))

    def update(self, inputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Take a step by strokes (n, 10) and their pictures (n, 128, 128); return the loss."""
        with self.precision.autocast():
            made = self.forward(inputs)
        loss = F.mse_loss(made.float(), wanted)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.ranks.mean_gradients(self.renderer)
        self.optimizer.step()
        return loss.detach()

    def error_of(self, network: Renderer) -> float:
        """Return the error of a network on the fixed strokes."""
        return drawing_error(network.to(self.device), self.strokes, self.drawn, self.precision)[0]

    def sound(self, error: float | None = None) -> float:
        """Return the mean loss since the last validation.  error: that of a new one.

        Raises UserError where they or the weights are no finite numbers.
        """
        loss = self.ranks.total(self.losses.clone()).item() / self.since / self.ranks.world
        if not (math.isfinite(loss + (error or 0)) and finite(self.renderer)):
            measured = "" if error is None else f"squared error {error:.4g}, "
            raise UserError(
                f"the training diverged by step {self.done} ({measured}training {loss:.4g}); "
                f"{self.run.folder} keeps the last good checkpoint, if there is one yet; start "
                "again with a smaller --lr")
        return loss

    # What follows is the loop's; see ``running.loop.Job``.

    @property
    def over(self) -> bool:
        return self.total is not None and self.done >= self.total

    @property
    def due(self) -> bool:
        return self.done % self.options.validate_interval == 0

    def tick(self) -> None:
        progress = self.done / self.total if self.total else 0
        self.rate = learning_rate(self.options.schedule, progress, self.options.lr)
        set_rate(self.optimizer, self.rate)
        self.losses += self.learn(*next(self.batches))
        self.since += 1
        self.done += 1

    def check(self) -> None:
        self.sound()

    def validate(self) -> None:
        error, made = drawing_error(self.renderer, self.strokes, self.drawn, self.precision)
        loss, events, step = self.sound(error), self.events, self.done
        events.scalar("train/squared_error", loss, step)
        events.scalar("validation/squared_error", error, step)
        events.scalar("train/learning_rate", self.rate, step)
        if step % (10 * self.options.validate_interval) == 0 or self.over:
            events.image("validation/drawn_and_network", picture_pairs(self.drawn, made), step)
        events.flush()
        if self.ranks.main:
            self.best.offer(self.renderer, error)
        say(f"step {step}: squared error {error:.6f} (training {loss:.6f}, "
            f"best {self.best.error:.6f})")
        self.losses.zero_()
        self.since = 0

    def save(self) -> None:
        if self.ranks.main:
            self.run.save({
                "renderer": self.renderer.state_dict(), "optimizer": self.optimizer.state_dict(),
                "step": self.done, "total": self.total})

    def introduce(self) -> str:
        return f"step {self.done} of {self.total or '?'} on {self.device} in {self.precision}"

    def report(self) -> str:
        return str(self.best)


def train(options: RendererOptions, parse_args: Callable[[list[str]], RendererOptions]) -> None:
    """Train as the options say; parse_args: how those of a run that is resumed are read."""
    with Ranks(options.device or "auto") as ranks, enough_memory("--batch_size"), compiling():
        run, parent = None, log_folder(options.log)
        if options.resume is not None:
            run, options = Run.reopen(parent, "Renderer", options, ranks, parse_args)
        drawing = Drawing(options, ranks)
        if run:
            drawing.load(run)
            run.keep_options()
        else:
            run = Run.create(parent, "Renderer", vars(options), ranks)
        drawing.attach(run)
        budget = None if drawing.total else Budget(options.minutes, BURN_IN[drawing.device.type])
        with closing(drawing.batches):
            loop(drawing, run, ranks, budget)
