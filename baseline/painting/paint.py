"""Paint pictures one after the other: picture to stages to steps to files."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from constants import BUNDLE, STEPS
from DRL.rollout import Policy
from grid.policy import load_policy
from painting.frames import Frames, Writer
from painting.options import PaintOptions
from painting.outputs import check_places, own_names, write_files, writers_of
from painting.refine import refine
from painting.steps import (
    Step,
    errors,
    paint_steps,
    random_steps,
    repaint_steps,
    target_of,
    write_steps,
)
from painting.tiles import Stage, fitting_grid, plan
from Renderer.model import TrainedRender, load_render
from Renderer.strokes import Strokes
from running.device import Precision, pick_device
from running.run import StopSignals
from utils.command import ACTOR, UserError, enough_memory, one_line
from utils.files import in_turn
from utils.listing import list_pictures
from utils.pictures import psnr, read_picture

MAX_STEPS = 56  # of a stage, that help the actor that comes with this


def readable(
    options: PaintOptions, unread: list[Path]
) -> Iterator[tuple[PaintOptions, Path, np.ndarray]]:
    """Yield each picture, with its path and the options with its own files.

    Those of several that cannot be read are skipped, named and added to ``unread``.
    """
    for path, name in zip(options.images, own_names(options.images), strict=True):
        try:
            picture = read_picture(path)
        except UserError as error:
            if name is None:
                raise
            unread.append(path)
            print(f"warning: {one_line(str(error))}; it is left out", file=sys.stderr)
        else:
            yield options.named(name), path, picture


def stages_of(options: PaintOptions, picture: np.ndarray) -> list[Stage]:
    """Return the stages of the painting of a picture."""
    return plan(*(options.divide or fitting_grid(*picture.shape[:2])), options.overlap,
                options.max_step)


def warn(options: PaintOptions, stages: list[Stage]) -> None:
    """Warn of options that hardly help."""
    if options.overlap and not options.refine:
        print("warning: without --refine N paintings on overlapping tiles come out worse than on "
              "tiles side by side", file=sys.stderr)
    if stages[0].steps > MAX_STEPS and options.actor == ACTOR and not options.refine:
        print(f"warning: this actor learnt to paint in {STEPS} steps; more than some {MAX_STEPS}, "
              f"or {2 * MAX_STEPS} with tiles, hardly make its paintings better", file=sys.stderr)


def watched(steps: Iterable[Step], total: int, signals: StopSignals) -> Iterator[Step]:
    """Pass steps on until a signal comes; show a bar on a terminal, lines elsewhere.

    total: bundles of the painting.
    """
    done = 0
    with tqdm(total=total, unit="step", disable=None) as bar:
        for step in steps:
            yield step
            if step.error is None:
                continue
            done += 1
            bar.set_postfix_str(f"{step.bundle}, squared error {step.error:.5f}")
            bar.update()
            if bar.disable:
                print(f"{step.bundle}: squared error {step.error:.5f}", flush=True)
            if signals.stopped:
                break
    if done < total:
        print(f"stopped after {done} of {total} steps", flush=True)


def refined(
    strokes: Strokes, picture: np.ndarray, name: str, render: TrainedRender,
    options: PaintOptions, signals: StopSignals,
) -> tuple[Strokes, float]:
    """Refine strokes, say what it gave, and return them and their error.

    A signal ends it with the best by then.
    """
    def say(strokes: Strokes, when: str) -> float:
        neural, exact = errors(strokes, picture, render, render.precision.device)
        print(f"{name} {when}: squared error {exact:.5f} on the exact raster, {neural:.5f} on the "
              "neural canvas", flush=True)
        return exact

    def report(error: float) -> None:
        bar.set_postfix_str(f"refining, squared error {error:.5f}")
        bar.update()
        done.append(error)
        if bar.disable and len(done) % max(1, options.refine // 10) == 0:
            print(f"refining step {len(done)}: squared error {error:.5f}", flush=True)

    done: list[float] = []
    say(strokes, "before refining")
    start = time.monotonic()
    target = target_of(picture, strokes.height, strokes.width)
    with tqdm(total=options.refine, unit="step", disable=None) as bar:
        strokes = refine(strokes, target, options.refine, options.seed, report,
                         lambda: signals.stopped)
    return strokes, say(strokes, (
        f"stopped after {len(done)} of {options.refine} steps" if signals.stopped else
        f"after {options.refine} steps of refining in {time.monotonic() - start:.1f} s"))


def refined_steps(
    parts: list[Strokes], picture: np.ndarray, writers: list[Writer], *arguments: object
) -> Iterator[Step]:
    """Refine the strokes of steps and paint them again, the frames that the writers want.

    Frames have the size of the picture, or of the canvas where that is larger.  arguments: see
    ``refined``.
    """
    strokes, error = refined(Strokes.join(parts), picture, *arguments)
    size = np.maximum(picture.shape[:2], (strokes.height, strokes.width)).tolist()
    wanted = [np.flatnonzero(writer.times) for writer in writers] or [np.array([sys.maxsize])]
    yield from repaint_steps(strokes, size, list(map(len, parts)), np.concatenate(wanted), error)


def paint_picture(
    options: PaintOptions, path: Path, picture: np.ndarray, painter: Policy | None,
    render: TrainedRender, signals: StopSignals,
) -> float:
    """Paint a picture, write its files and return its error; a signal ends it early.

    options: with the painting's own files; painter: None for random strokes.
    """
    start = time.monotonic()
    stages = stages_of(options, picture)
    total = sum(stage.steps for stage in stages)
    frames = total * (painter.bundle if painter else BUNDLE)
    writers = writers_of(options, path.name, picture.shape[:2], frames)
    with ExitStack() as stack:
        for writer in writers:
            stack.enter_context(writer)
        steps = painter and watched(paint_steps(painter, picture, stages), total, signals)
        if options.refine:
            parts = ([step.strokes for step in steps] if painter else
                     list(random_steps(render.family, picture, stages, options.seed)))
            steps = refined_steps(parts, picture, writers, path.name, render, options, signals)
        strokes, frame, error = write_steps(steps, writers, frames)
    spent = time.monotonic() - start
    source = {"image": path.name, "overlap": options.overlap, "refine": options.refine,
              "seed": options.seed, "max_step": total,
              "divide": f"{stages[-1].rows}x{stages[-1].columns}",
              "actor": options.actor.name, "renderer": options.renderer.name}
    in_turn((lambda: write_files(options, picture, frame, strokes, source),
             *(writer.check for writer in writers)))
    exact = options.refine or options.overlap or painter.canvas == "exact"
    say(options, path, writers, f"{len(strokes)} strokes, {spent:.1f} s, squared error {error:.5f} "
        f"({'exact raster' if exact else 'neural canvas'}), PSNR {psnr(error):.2f} dB")
    return error


def say(options: PaintOptions, path: Path, writers: list[Writer], result: str) -> None:
    """Print the result of a painting and its files."""
    frames = [writer for writer in writers if isinstance(writer, Frames)]
    written = [text for each in frames for text in each.written()]
    print("; ".join((f"{path.name}: {result}", *written, *map(str, options.files()))), flush=True)
    if later := [path for each in frames for path in each.later_frames()]:
        print(f"warning: {later[0]} and {len(later) - 1} more frames of an earlier painting "
              "follow them; delete those before making a video", file=sys.stderr)
    print(f"the painting: {options.painting}", flush=True)


@enough_memory("--divide")
def paint_pictures(options: PaintOptions) -> None:
    """Paint as the options say; exit status 1 where images are skipped."""
    start = time.monotonic()
    precision = Precision(options.precision, pick_device(options.device))
    options = replace(options, images=list_pictures(options.images))
    check_places(options)
    unread: list[Path] = []
    pictures = readable(options, unread)
    if (first := next(pictures, None)) is None:  # before the weights
        raise UserError("none of the images can be read")
    warn(options, stages_of(options, first[-1]))
    painter = (None if options.actor == Path("none") else
               load_policy(options.actor, options.renderer, precision))
    render = painter.render if painter else load_render(options.renderer, precision)
    all_errors, failures = [], []
    with StopSignals() as signals:
        for own, path, picture in chain([first], pictures):
            try:
                all_errors.append(paint_picture(own, path, picture, painter, render, signals))
            except UserError as error:  # which takes nothing from the others
                failures.append(error)
            if signals.stopped:
                break
    if failures:
        raise failures[0]
    end(options, all_errors, unread, signals, time.monotonic() - start)


def end(
    options: PaintOptions, all_errors: list[float], unread: list[Path], signals: StopSignals,
    spent: float,
) -> None:
    """Sum up the paintings of several images; exit where images are missing."""
    count, total = len(all_errors), len(options.images)
    if total > 1 and count:
        print(f"{count} images: mean squared error {np.mean(all_errors):.5f}, "
              f"{spent / count:.1f} s an image", flush=True)
    if unread:
        print(f"{len(unread)} of {total} images were left out: "
              + ", ".join(one_line(str(path)) for path in unread), file=sys.stderr)
    if signals.stopped:
        print(f"{count} of {total} images were painted", file=sys.stderr)
        sys.exit(128 + signals.number)
    if unread:
        sys.exit(1)
