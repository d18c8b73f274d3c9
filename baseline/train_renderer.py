#!/usr/bin/env python3
"""Train the renderer network to draw what the rasteriser draws."""

import argparse
import math
import os
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from tensorboardX import SummaryWriter
from torch.utils.data import DataLoader, Dataset
from torchvision.utils import make_grid
from tqdm import tqdm

from Renderer.model import Renderer
from Renderer.stroke_gen import FAMILIES, SHAPE_DIM, draw_batch
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
from utils.device import Precision, pick_device
from utils.run import Budget, Run, StopSignals, resumed
from utils.schedule import cosine, set_rate, stepped
from utils.weights import half_state, load_weights, make_folder, save_atomically

VALIDATION_SEED = 2**32  # no training seed reaches it
VALIDATION_STROKES = 2048
PAIRS_SHOWN = 32
BURN_IN = 40  # steps before --minutes becomes a number of steps


class StrokeBatches(Dataset):
    """Batch k of the training strokes, a function of (seed, k) alone."""

    def __init__(self, seed: int, batch_size: int, family: str) -> None:
        self.seed, self.batch_size, self.family = seed, batch_size, family

    def __getitem__(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns strokes (n, 10) and their pictures (n, 128, 128), both in [0, 1]."""
        rng = np.random.default_rng((self.seed, k))
        strokes = torch.from_numpy(rng.random((self.batch_size, SHAPE_DIM), np.float32))
        return strokes, draw_batch(strokes, family=self.family)


def start_worker(_: int) -> None:
    """One thread for drawing; signals are the main process's to handle."""
    cv2.setNumThreads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


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


def picture_pairs(drawn: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """A grid of pairs, drawn | network, white paint on black.  Returns (3, H, W) in [0, 1]."""
    pairs = torch.stack((drawn[:PAIRS_SHOWN], made), 1).flatten(0, 1)  # (2n, 128, 128)
    return make_grid(1 - pairs[:, None], nrow=8, pad_value=0.5)


def train(options: argparse.Namespace) -> None:
    """Train as the options say; see ``parse_args``."""
    device = pick_device(options.device)
    log = None
    if options.resume is not None:
        log = Run.reopen(TRAIN_LOG, "Renderer", options.resume)
        options = resumed(options, log)
    output = Path(options.output)
    make_folder(output.parent)
    precision = Precision(options.precision, device)
    rng = np.random.default_rng(VALIDATION_SEED)
    strokes = torch.from_numpy(rng.random((VALIDATION_STROKES, SHAPE_DIM), np.float32))
    drawn = draw_batch(strokes, family=options.stroke).to(device)
    strokes = strokes.to(device)

    torch.manual_seed(options.seed)
    renderer = Renderer().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(renderer.parameters(), fused=True)
    step, total, best = 0, options.steps, math.inf
    if log is not None:
        state = log.load()
        renderer.load_state_dict(state["renderer"])
        optimizer.load_state_dict(state["optimizer"])
        step, total = state["step"], state["total"]
    if output.exists():
        there = Renderer().to(device) if log or options.scratch else renderer
        load_weights(there, output, "the weight file to go on from", "name another --output")
        best, _ = validate(there, strokes, drawn, precision)
        print(f"{output} has a squared error of {best:.6f}")
    if log is None:
        log = Run.create(TRAIN_LOG, "Renderer", vars(options))
    budget = Budget(options.minutes, step, BURN_IN) if options.minutes and total is None else None
    print(f"{log.folder}: step {step} of {total or '?'} on {device} in {precision}", flush=True)

    def save() -> None:
        log.save({
            "renderer": renderer.state_dict(), "optimizer": optimizer.state_dict(),
            "step": step, "total": total,
        })

    writer = SummaryWriter(str(log.folder), flush_secs=10)
    forward = torch.compile(renderer) if options.compile else renderer
    drawers = 1 if device.type == "cpu" else max(1, min(8, (os.cpu_count() or 1) - 1))
    batches = iter(DataLoader(
        StrokeBatches(options.seed, options.batch_size, options.stroke),
        batch_size=None, sampler=range(step, total or sys.maxsize), num_workers=drawers,
        prefetch_factor=16, worker_init_fn=start_worker, pin_memory=device.type == "cuda",
    ))
    bar = tqdm(initial=step, total=total, unit="step", disable=None)
    losses = torch.zeros((), device=device)
    since = 0
    with StopSignals() as signals, writer, bar:
        while total is None or step < total:
            rate = learning_rate(options.schedule, step / total if total else 0, options.lr)
            set_rate(optimizer, rate)
            inputs, wanted = (t.to(device, non_blocking=True) for t in next(batches))
            with precision.autocast():
                made = forward(inputs)
            loss = F.mse_loss(made.float(), wanted)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses += loss.detach()
            since += 1
            step += 1
            bar.update()
            if total is None:
                total = bar.total = budget.total_steps(step)
            stopped = signals.stopped
            if step % options.validate_interval == 0 or step == total or stopped:
                train_error = losses.item() / since
                error, shown = validate(renderer, strokes, drawn, precision)
                if not math.isfinite(train_error + error):
                    raise UserError(
                        f"the training diverged by step {step} (error {error}, training "
                        f"{train_error}); {log.folder} keeps the last good checkpoint, if there is "
                        "one yet; start again with a smaller --lr"
                    )
                writer.add_scalar("train/squared_error", train_error, step)
                writer.add_scalar("validation/squared_error", error, step)
                writer.add_scalar("train/learning_rate", rate, step)
                if step % (10 * options.validate_interval) == 0 or step == total:
                    writer.add_image("validation/drawn_and_network", picture_pairs(drawn, shown),
                                     step)
                if error < best:
                    best = error
                    save_atomically(half_state(renderer), output)
                save()
                bar.write(f"step {step}: squared error {error:.6f} (training {train_error:.6f}, "
                          f"best {best:.6f})", file=sys.stdout)
                sys.stdout.flush()
                losses.zero_()
                since = 0
            if stopped:
                print(f"stopped; go on with: python3 {os.path.relpath(__file__)} "
                      f"--resume {os.path.relpath(log.folder)}")
                return
    log.finish()
    print(f"finished; {output} has a squared error of {best:.6f}")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=positive_int, help="default: 500000")
    length.add_argument("--minutes", type=positive_float,
                        help="choose the number of steps that fits, after a burn-in")
    parser.add_argument("--batch_size", type=positive_int, default=64)
    parser.add_argument("--lr", type=positive_float, default=5e-4, help="the highest rate of Adam")
    parser.add_argument("--schedule", default="cosine", choices=("cosine", "stepped"))
    parser.add_argument("--stroke", default="bezier", choices=tuple(FAMILIES))
    parser.add_argument("--output", help="the weight file to write (renderer.pkl; of another "
                        "family, its name, such as bezierwotrans.pkl)")
    parser.add_argument("--scratch", action="store_true",
                        help="start anew, not from the weights in --output")
    parser.add_argument("--resume", nargs="?", const="", metavar="DIR",
                        help="go on with the run in DIR, or with the newest unfinished one")
    parser.add_argument("--validate_interval", type=positive_int, default=1000,
                        help="steps between validations and checkpoints")
    parser.add_argument("--compile", action="store_true",
                        help="compile the network (faster; needs a C++ compiler)")
    parser.add_argument("--seed", type=seed, default=1234)
    add_device_flags(parser)
    options = parser.parse_args()
    if options.steps is None and options.minutes is None:
        options.steps = 500_000
    default = RENDERER if options.stroke == "bezier" else ROOT / f"{options.stroke}.pkl"
    options.output = str(Path(options.output or default).absolute())
    return options


if __name__ == "__main__":
    run(lambda: train(parse_args()))
