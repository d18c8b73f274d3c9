#!/usr/bin/env python3
"""Train the renderer network to draw what the rasteriser draws."""

import argparse
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.utils import make_grid
from tqdm import tqdm

from Renderer.model import Renderer
from Renderer.stroke_batch import draw_batch
from Renderer.stroke_data import StrokeBatches, drawn_ahead, drawn_on
from Renderer.stroke_gen import FAMILIES, SHAPE_DIM
from utils.command import (
    RENDERER,
    ROOT,
    TRAIN_LOG,
    Parser,
    UserError,
    add_device_flags,
    enough_memory,
    new_file,
    positive_float,
    positive_int,
    run,
    seed,
)
from utils.device import Precision, need_compiler, pick_device
from utils.events import Events
from utils.files import lock_folder, make_folder
from utils.graph import Graphed
from utils.ranks import Ranks
from utils.run import Budget, Run, StopSignals, fitting, resumed
from utils.schedule import adam, cosine, load_optimizer, set_rate, stepped
from utils.weights import finite, half_state, load_weights, save_atomically

VALIDATION_SEED = 2**32  # no training seed reaches it
VALIDATION_STROKES = 2048
PAIRS_SHOWN = 32
STEPS_BETWEEN_EXCHANGES = 20  # of stop signals between processes
BURN_IN = {"cpu": 40, "cuda": 400}  # steps before --minutes becomes a number of steps


def learning_rate(schedule: str, progress: float, peak: float) -> float:
    """The rate at ``progress`` in [0, 1]: half a cosine, or a tenth after 40 % and 80 %."""
    if schedule == "cosine":
        return cosine(progress, peak)
    return stepped(progress, (peak, peak / 10, peak / 100), (0.4, 0.8))


@torch.no_grad()
def validate(
    renderer: Renderer, strokes: torch.Tensor, drawn: torch.Tensor, precision: Precision
) -> tuple[float, torch.Tensor]:
    """The mean squared error on fixed strokes, and the first pictures the network made."""
    error, shown = 0.0, []
    for inputs, wanted in zip(strokes.split(256), drawn.split(256), strict=True):
        with precision.autocast():
            made = renderer(inputs).float()  # (n, 128, 128)
        error += (made - wanted).square().mean((1, 2)).sum().item()
        shown.append(made[:PAIRS_SHOWN])
    return error / len(strokes), shown[0]


def stamp(path: Path) -> tuple[int, ...] | None:
    """What tells whether a file is still the same; None where there is none."""
    if not path.exists():
        return None
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def picture_pairs(drawn: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """A grid of pairs, drawn | network, white paint on black.  Returns (3, H, W) in [0, 1]."""
    pairs = torch.stack((drawn[:PAIRS_SHOWN], made), 1).flatten(0, 1)  # (2n, 128, 128)
    return make_grid(1 - pairs[:, None], nrow=8, pad_value=0.5)


def train(options: argparse.Namespace) -> None:
    """Train as the options say; see ``parse_args``."""
    with Ranks(options.device or "auto") as ranks:
        log = None
        if options.resume is not None:
            log = Run.reopen(TRAIN_LOG, "Renderer", options.resume, ranks)
            options = resumed(options, log, parse_args)
        learn_to_draw(options, log, ranks)


@enough_memory("--batch_size")
def learn_to_draw(options: argparse.Namespace, log: Run | None, ranks: Ranks) -> None:
    """Train from the checkpoint of ``log``, or in a new run where it is None."""
    device = pick_device(options.device)
    if options.fast:
        need_compiler()
    batch_size = ranks.part(options.batch_size, "--batch_size")
    output = Path(options.output)
    make_folder(output.parent)
    precision = Precision(options.precision, device)
    rng = np.random.default_rng(VALIDATION_SEED)
    strokes = torch.from_numpy(rng.random((VALIDATION_STROKES, SHAPE_DIM), np.float32))
    drawn = draw_batch(strokes, family=options.stroke).to(device)
    strokes = strokes.to(device)

    torch.manual_seed(options.seed)
    renderer = Renderer().to(device, memory_format=torch.channels_last)
    # Starting at the mean opacity: from 0.5 the first steps would all push towards bare canvas,
    # and where strokes are small, so far that the sigmoid is flat and nothing is learnt any more.
    renderer.conv6.bias.data.fill_((1 - drawn).mean().logit())
    # Exchanges between processes stay out of graphs.
    graphed = options.fast and device.type == "cuda" and ranks.world == 1
    optimizer = adam(renderer, graphed)
    step, total, best = 0, options.steps, math.inf
    if log is not None:
        state = ranks.share(log.load() if ranks.main else None)
        with fitting(log.checkpoint_file):
            renderer.load_state_dict(state["renderer"])
            load_optimizer(optimizer, state["optimizer"])
            step, total = state["step"], state["total"]

    def error_there(there: Renderer) -> float:
        """Fill a network from the output file.  Returns its error."""
        family = load_weights(
            there, output, "the weight file to go on from", "name another --output")
        if family != options.stroke:
            raise UserError(f"{output} holds a renderer of {family} strokes, not of "
                            f"{options.stroke}; move it away or name another --output")
        return validate(there.to(device), strokes, drawn, precision)[0]

    if seen := stamp(output):
        best = error_there(Renderer() if log or options.scratch else renderer)
        print(f"{output} has a squared error of {best:.6f}")
    ranks.make_same(renderer)

    def save() -> None:
        """Write the checkpoint."""
        if ranks.main:
            log.save({"renderer": renderer.state_dict(), "optimizer": optimizer.state_dict(),
                      "step": step, "total": total})

    if log is None:
        log = Run.create(TRAIN_LOG, "Renderer", vars(options), ranks)
    else:
        log.keep_options()
    budget = Budget(options.minutes, step, BURN_IN[device.type])
    forward = torch.compile(renderer) if options.fast else renderer

    def learn(inputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        with precision.autocast():
            made = forward(inputs)
        loss = F.mse_loss(made.float(), wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        ranks.mean_gradients(renderer)
        optimizer.step()
        return loss.detach()

    learn = Graphed(learn, graphed)
    data = StrokeBatches(
        options.seed, batch_size, options.stroke, ranks, drawn=device.type == "cpu")
    end = total or sys.maxsize
    events = Events(log.folder, step + 1, ranks.main)
    bar = tqdm(initial=step, total=total, unit="step", disable=None if ranks.main else True)
    losses = torch.zeros((), device=device)
    since = 0
    with StopSignals() as signals, bar:
        if not log.checkpoint_file.exists():
            save()  # so that it can be resumed from the beginning
        print(f"{log.folder}: step {step} of {total or '?'} on {device} in {precision}"
              + f", {ranks.world} processes" * (ranks.world > 1), flush=True)
        batches = (drawn_ahead(data, step, end) if device.type == "cpu" else
                   drawn_on(device, data, step, end, options.fast))
        while total is None or step < total:
            rate = learning_rate(options.schedule, step / total if total else 0, options.lr)
            set_rate(optimizer, rate)
            losses += learn(*next(batches))
            since += 1
            step += 1
            bar.update()
            if total is None:
                total = bar.total = ranks.share(budget.total_steps(step))
            # Processes must agree, which takes an exchange; one alone stops at once.
            stopped = (signals.stopped if ranks.world == 1 else
                       step % STEPS_BETWEEN_EXCHANGES == 0 and ranks.any(signals.stopped))
            if step % options.validate_interval == 0 or step == total or stopped:
                train_error = ranks.total(losses).item() / since / ranks.world
                error, shown = validate(renderer, strokes, drawn, precision)
                if not (math.isfinite(train_error + error) and finite(renderer)):
                    raise UserError(
                        f"the training diverged by step {step} (squared error {error:.4g}, "
                        f"training {train_error:.4g}); {log.folder} keeps the last good "
                        "checkpoint, if there is one yet; start again with a smaller --lr"
                    )
                events.scalar("train/squared_error", train_error, step)
                events.scalar("validation/squared_error", error, step)
                events.scalar("train/learning_rate", rate, step)
                if step % (10 * options.validate_interval) == 0 or step == total:
                    events.image("validation/drawn_and_network", picture_pairs(drawn, shown), step)
                events.flush()
                if ranks.main:
                    lock = lock_folder(output.parent, wait=True)
                    if seen != stamp(output):  # another training's, or it is gone
                        best = error_there(Renderer()) if output.exists() else math.inf
                    if error < best:
                        save_atomically(half_state(renderer, options.stroke), output)
                    seen = stamp(output)
                    os.close(lock)
                save()
                best = min(best, error)
                bar.write(f"step {step}: squared error {error:.6f} (training {train_error:.6f}, "
                          f"best {best:.6f})", file=sys.stdout)
                sys.stdout.flush()
                losses.zero_()
                since = 0
            if stopped:
                print(f"stopped; go on with: {ranks.launcher} {os.path.relpath(__file__)} "
                      f"--resume {os.path.relpath(log.folder)}")
                return
    if ranks.main:
        log.finish()
    print(f"finished; {output} has a squared error of {best:.6f}")


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line, or other arguments."""
    parser = Parser(description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=positive_int, help="default: 500000")
    length.add_argument("--minutes", type=positive_float,
                        help="choose the number of steps that fits, after a burn-in")
    parser.add_argument("--batch_size", type=positive_int, default=64)
    parser.add_argument("--lr", type=positive_float, default=5e-4, help="the highest rate of Adam")
    parser.add_argument("--schedule", default="cosine", choices=("cosine", "stepped"))
    parser.add_argument("--stroke", default="bezier", choices=tuple(FAMILIES),
                        help="the family of strokes to learn")
    parser.add_argument("--output", type=new_file, help="the weight file to write "
                        "(renderer.pkl; of another family, its name, such as triangle.pkl)")
    parser.add_argument("--scratch", action="store_true",
                        help="start anew, not from the weights in --output")
    parser.add_argument("--resume", nargs="?", const="", metavar="DIR",
                        help="go on with the run in DIR, or with the newest unfinished one")
    parser.add_argument("--validate_interval", type=positive_int, default=1000,
                        help="steps between validations and checkpoints")
    parser.add_argument("--fast", action="store_true",
                        help="compile the network (needs a C++ compiler) and, on a GPU, replay "
                        "steps as CUDA graphs (never tried on a GPU yet)")
    parser.add_argument("--seed", type=seed, default=1234)
    add_device_flags(parser)
    options = parser.parse_args(arguments)
    if options.resume is None and options.steps is None and options.minutes is None:
        options.steps = 500_000
    if options.resume is None and options.output is None:
        bezier = options.stroke == "bezier"
        options.output = RENDERER if bezier else ROOT / f"{options.stroke}.pkl"
    if options.output:
        options.output = str(options.output.absolute())
    return options


if __name__ == "__main__":
    run(lambda: train(parse_args()))
