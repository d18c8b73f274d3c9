#!/usr/bin/env python3
"""Train the agent to paint a folder of images with a trained renderer."""

import argparse
import math
import os
import time
from pathlib import Path

import torch
from tqdm import tqdm

from env import CelebA
from monitor import Clock, Log, validate
from Renderer.canvas import BUNDLE, LARGEST_BUNDLE
from trainer import LESSONS, Training
from utils.command import (
    RENDERER,
    ROOT,
    TRAIN_LOG,
    Parser,
    UserError,
    add_device_flags,
    enough_memory,
    number,
    path,
    positive_float,
    positive_int,
    run,
    seed,
    weight,
    whole_number,
)
from utils.ranks import Ranks
from utils.run import Run, StopSignals, resumed


def train(options: argparse.Namespace) -> None:
    """Train as the options say; see ``parse_args``."""
    if options.freeze_norm and not options.init and options.resume is None:
        raise UserError("--freeze_norm needs --init: a new actor has no statistics to keep")
    with (Ranks(options.device or "auto") as ranks,
          enough_memory("--batch_size, --env_batch or --rmsize")):
        parent, run_folder = Path(options.output or TRAIN_LOG), None
        if options.resume is not None:
            run_folder = Run.reopen(parent, "Paint", options.resume, ranks)
            options = resumed(options, run_folder, parse_args)
        with ranks.one_by_one():
            data = CelebA(Path(options.data))
        training = Training(options, data, ranks)
        if run_folder:
            training.load(run_folder)
            run_folder.keep_options()
        else:
            run_folder = Run.create(parent, "Paint", vars(options), ranks)
        learn_to_paint(training, run_folder)


def learn_to_paint(training: Training, run_folder: Run) -> None:
    """Act and learn by turns until all steps are taken or a signal comes."""
    options, ranks = training.options, training.ranks
    data, memory = training.data, training.memory
    log, clock = Log(training, run_folder.folder, options.debug), Clock()
    bar = tqdm(initial=training.global_step, total=training.total_steps, unit="step",
               disable=None if ranks.main else True)
    with StopSignals() as signals, bar:
        if not ranks.any(run_folder.checkpoint_file.exists()):
            training.save(run_folder)  # so that it can be resumed from the beginning
        print(f"{run_folder.folder}: step {training.global_step} of "
              f"{training.total_steps or '?'}, {len(data.train)} training and {len(data.test)} "
              f"test images, on {training.device} in {training.agent.precision}; the replay "
              f"memory takes {memory.nbytes / 1e9:.2f} GB on {memory.canvas.device}"
              + f", {ranks.world} processes" * (ranks.world > 1), flush=True)
        while training.updates_due or training.env.step_count or not training.over:
            before = time.monotonic()
            kind = "learn" if training.updates_due else "act"
            if kind == "learn":
                log.update(training.learn())
            else:
                log.rewards += training.act().mean()
                bar.update()
            ended = training.env.done if kind == "act" else not training.updates_due
            if ended and training.device.type == "cuda":
                torch.cuda.synchronize()  # so that the clock is true once a round
            clock.add(kind, time.monotonic() - before)

            if ended and kind == "learn":
                log.round(clock)
                clock.end_round()
                if training.total_steps is None and clock.rounds > 1:
                    left = ranks.share(clock.steps_left(options))
                    training.total_steps = training.global_step + left
                    bar.total = training.total_steps
            elif ended:
                log.episode(clock)
                training.end_episode()
            stopped = ranks.any(signals.stopped)
            due = training.over or training.global_episode % options.validate_interval == 0
            if training.between_rounds and due:
                error = validate(training, log)
                if error < training.best:
                    training.best, training.best_update = error, training.global_update
                training.save(run_folder)
                training.save_best(run_folder)
            elif stopped:
                log.check()
                training.save(run_folder)
            if stopped:
                print(f"stopped; go on with: {ranks.launcher} {os.path.relpath(__file__)} "
                      f"--resume {os.path.relpath(run_folder.folder)}")
                return
    if ranks.main:
        run_folder.finish()
    print(f"finished; {run_folder.folder / 'actor.pkl'} has an error of {training.best:.5f}")


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line, or other arguments."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--data", type=path, default=str(ROOT / "data" / "img_align_celeba"),
        help="a folder of images")
    add("--renderer", type=path, default=str(RENDERER),
        help="the trained renderer; the agent paints with its family of strokes")
    add("--init", type=path, metavar="DIR", help="start from the actor.pkl in DIR, and from "
        "critic.pkl and wgan.pkl where they are there; of the renderer's family")
    add("--output", type=path, default=str(TRAIN_LOG), help="where the folder of the run is made")
    add("--resume", nargs="?", const="", metavar="DIR",
        help="go on with the run in DIR, or with the newest unfinished one")
    add("--warmup", type=whole_number, default=400, help="steps of the environment before learning")
    add("--discount", type=discount,
        help="of a bundle (0.95 a stroke; lessons have none); 0 is greedy and needs no critic")
    add("--batch_size", type=positive_int, default=96)
    add("--rmsize", type=positive_int, default=800, help="episodes in the replay memory")
    add("--env_batch", type=positive_int, default=96, help="paintings side by side")
    add("--tau", type=positive_float, default=0.001, help="how fast slow copies follow")
    add("--bundle", default=BUNDLE, help="strokes that the actor chooses at once",
        type=number(int, 1, LARGEST_BUNDLE + 1, f"a whole number from 1 to {LARGEST_BUNDLE}"))
    add("--max_step", type=positive_int, default=40, help="bundles an episode")
    add("--noise_factor", type=weight,
        help="standard deviation of the noise while exploring: on actions (0); with --model_free "
        "on the actor's parameters, the same in a whole episode (0.05)")
    add("--validate_interval", type=positive_int, default=50,
        help="episodes between validations and checkpoints")
    add("--validate_episodes", type=positive_int, default=5,
        help="how many times env_batch test images a validation paints")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--train_times", type=positive_int, default=2_000_000,
                        help="steps of the environment")
    length.add_argument("--minutes", type=positive_float,
                        help="choose the number of steps that fits, after the second round")
    add("--episode_train_times", type=positive_int, default=10, help="updates after an episode")
    add("--reward", choices=("wgan", "l2", *LESSONS), default="wgan",
        help="scan: none; the actor imitates a painter that scans the picture, as a first lesson; "
        "patch, a second one: the squared error where that painter would paint now")
    add("--shrink", type=int, choices=(1, 2, 4), default=1,
        help="the actor sees pictures so many times smaller and learns faster, at first")
    add("--freeze_norm", action="store_true", help="the actor's batch normalisation keeps the "
        "statistics of --init: less noise where exact numbers are learnt")
    add("--model_free", action="store_true", help="the paper's comparison: the critic judges "
        "actions that it sees as numbers, and no gradient flows through the renderer")
    add("--unroll", type=positive_int, default=1,
        help="bundles in a row that the actor's gradient flows through")
    add("--opacity_pull", type=weight, default=0.0,
        help="weight of the mean of 1 - opacity in the actor's loss")
    add("--actor_rate", type=positive_float,
        help="highest rate of a cosine, in place of the reference's steps 1e-3, 3e-4, 1e-4")
    add("--critic_rate", type=positive_float, help="likewise, in place of 3e-4, 1e-4, 3e-5")
    add("--fast", action="store_true",
        help="compile the networks and, on a GPU, replay updates as CUDA graphs (never tried "
        "on a GPU yet)")
    add("--debug", action="store_true", help="print every episode and round of learning")
    add("--seed", type=seed, default=1234)
    add_device_flags(parser)
    options = parser.parse_args(arguments)
    for name in ("data", "renderer", "output", "init"):
        if getattr(options, name) is not None:
            setattr(options, name, str(Path(getattr(options, name)).absolute()))
    if options.resume is None:
        check_clashes(options)
    return options


def check_clashes(options: argparse.Namespace) -> None:
    """Raise UserError where options do not go together."""
    lesson, clashes = options.reward in LESSONS, ()
    if options.model_free or lesson:
        first = f"--reward {options.reward}" if lesson else "--model_free"
        clashes = (
            ("model_free", lesson and options.model_free, "it needs a reward"),
            ("unroll", options.unroll > 1, "there are no gradients through several bundles"),
            ("opacity_pull", options.opacity_pull > 0,
             f"its actor learns from the {'lesson' if lesson else 'critic'} alone"),
            ("discount", lesson and options.discount, "there is nothing to count"),
            ("discount", options.model_free and options.discount == 0, "it needs a critic"),
        )
    for flag, clash, why in clashes:
        if clash:
            value = "" if flag == "model_free" else f" {getattr(options, flag):g}"
            raise UserError(f"{first} does not go with --{flag}{value}: {why}")


def discount(text: str) -> float:
    """An argparse type: a number in [0, 1), or such as 0.95**5."""
    base, _, power = text.partition("**")
    try:
        value = float(base) ** float(power or 1) if "_" not in text and text.isascii() else -1
    except (ValueError, OverflowError, ZeroDivisionError):
        value = math.nan
    if not (isinstance(value, float) and 0 <= value < 1):  # complex of a negative base
        raise argparse.ArgumentTypeError(f"{text[:100]} is not in [0, 1)")
    return value


if __name__ == "__main__":
    run(lambda: train(parse_args()))
