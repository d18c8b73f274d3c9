"""Paint pictures one after the other: picture to strokes, to refined strokes, to files."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from constants import BUNDLE, STEPS
from grid.policy import load_policy
from painting.drawing import draw_frames, size_of
from painting.frames import Frames, Writer
from painting.options import PaintOptions
from painting.outputs import check_places, own_names, write_files, writers_of
from painting.refine import refine
from painting.steps import (
    Step,
    paint_neural,
    paint_steps,
    random_steps,
    squared_error,
    target_of,
)
from painting.tiles import Stage, fitting_grid, plan
from Renderer.model import load_render
from Renderer.raster import paint_exact
from Renderer.strokes import Strokes
from running.device import Precision, pick_device
from running.run import StopSignals
from utils.command import ACTOR, RENDERER, UserError, enough_memory, one_line
from utils.files import in_turn
from utils.listing import list_pictures
from utils.pictures import psnr, read_cutout, resized

MAX_STEPS = 56  # of a stage, that help the actor that comes with this
REFINED_SIDE = 256  # pixels of the canvas that strokes are refined on, at least


class Artist(NamedTuple):
    """Where strokes come from."""

    bundle: int  # strokes of a step on each tile
    steps: Callable[[np.ndarray, list[Stage]], Iterator[Step]]  # of a picture (h, w, 3) uint8


def load_artist(options: PaintOptions) -> Artist:
    """Load the weights that the options ask for.

    An actor of the paper's method sees the canvas of the neural renderer, one with a grid read-out
    that of the exact rasterizer, unless the options say otherwise.  Raises UserError where weights
    are missing, broken, or of different families.
    """
    precision = Precision(options.precision, pick_device(options.device))
    if options.actor is None:
        family = options.stroke or load_render(options.renderer or RENDERER, precision).family
        return Artist(BUNDLE, partial(random_steps, family, seed=options.seed))
    needed = RENDERER if options.canvas == "neural" else None
    policy = load_policy(options.actor, options.renderer or needed, precision)
    neural = (options.canvas or policy.canvas) == "neural"
    paint = partial(paint_neural, policy.render) if neural else paint_exact
    return Artist(policy.bundle, partial(paint_steps, policy, paint=paint))


def readable(
    options: PaintOptions, unread: list[Path]
) -> Iterator[tuple[PaintOptions, Path, np.ndarray, np.ndarray | None]]:
    """Yield each picture and its opacity, with its path and the options with its own files.

    Those of several that cannot be read are skipped, named and added to ``unread``.
    """
    for path, name in zip(options.images, own_names(options.images), strict=True):
        try:
            picture, alpha = read_cutout(path, options.behind)
        except UserError as error:
            if name is None:
                raise
            unread.append(path)
            print(f"warning: {one_line(str(error))}; it is skipped", file=sys.stderr)
        else:
            yield (options.named(name), path, picture,
                   alpha if options.background == "none" else None)


def stages_of(options: PaintOptions, picture: np.ndarray) -> list[Stage]:
    """Return the stages of the painting of a picture."""
    grid = fitting_grid(*picture.shape[:2]) if options.divide == "auto" else options.divide
    return plan(*grid, options.max_step)


def watched(steps: Iterator[Step], total: int, signals: StopSignals) -> Iterator[Step]:
    """Pass steps on until a signal comes; show a bar on a terminal, lines elsewhere.

    total: steps of the painting.
    """
    done = 0
    with tqdm(total=total, unit="step", disable=None) as bar:
        for done, step in enumerate(steps, 1):
            yield step
            if step.error is not None:
                bar.set_postfix_str(f"{step.name}, squared error {step.error:.5f}")
                bar.update()
                if bar.disable:
                    print(f"{step.name}: squared error {step.error:.5f}", flush=True)
            if signals.stopped:
                print(f"stopped after {done} of {total} steps", flush=True)
                break


def refined(
    strokes: Strokes, picture: np.ndarray, options: PaintOptions, signals: StopSignals
) -> Strokes:
    """Refine strokes and say what it gave; a signal ends it with the best by then."""
    def report(error: float) -> None:
        errors.append(error)
        bar.set_postfix_str(f"refining, squared error {error:.5f}")
        bar.update()
        if bar.disable and (len(errors) - 1) % max(1, options.refine // 10) == 0:
            print(f"refining step {len(errors)}: squared error {error:.5f}", flush=True)

    errors: list[float] = []
    strokes = strokes.scaled(max(1, REFINED_SIDE // max(strokes.height, strokes.width)))
    target = target_of(picture, strokes.height, strokes.width)
    with tqdm(total=options.refine, unit="step", disable=None) as bar:
        strokes = refine(strokes, target, options.refine, options.seed, report,
                         lambda: signals.stopped)
    if signals.stopped:
        print(f"stopped after {len(errors)} of {options.refine} steps of refining", flush=True)
    return strokes


def paint_picture(
    options: PaintOptions, path: Path, picture: np.ndarray, alpha: np.ndarray | None,
    artist: Artist, signals: StopSignals,
) -> float:
    """Paint a picture, write its files and return its error; a signal ends it early.

    options: with the painting's own files; picture: (h, w, 3) uint8 BGR; alpha: the opacity of
    the painting to write, (h, w) uint8, or None.
    """
    start = time.monotonic()
    stages = stages_of(options, picture)
    total = sum(stage.steps for stage in stages)
    height, width = size_of(*picture.shape[:2], options.size)
    photo, alpha = (each if each is None else resized(each, width, height)
                    for each in (picture, alpha))
    frames = total * artist.bundle
    writers = writers_of(options, path.name, (height, width), frames)
    with ExitStack() as stack:
        for writer in writers:
            stack.enter_context(writer)
        steps = list(watched(artist.steps(picture, stages), total, signals))
        strokes = Strokes.join(step.strokes for step in steps)
        if options.refine and not signals.stopped:
            strokes = refined(strokes, picture, options, signals)
        counts = [step.tiles for step in steps for _ in range(len(step.strokes) // step.tiles)]
        painting = draw_frames(strokes, counts, (height, width), writers, frames)
    error = squared_error(*(np.float32(each) / 255 for each in (painting, photo)))
    spent = time.monotonic() - start
    source = {"image": path.name, "refine": options.refine, "seed": options.seed,
              "max_step": total, "divide": f"{stages[-1].rows}x{stages[-1].columns}",
              "actor": options.actor.name if options.actor else "none",
              "renderer": options.renderer.name if options.renderer else "none"}
    in_turn((lambda: write_files(options, photo, alpha, painting, strokes, source),
             *(writer.check for writer in writers)))
    say(options, path, writers, f"{len(strokes)} strokes, {spent:.1f} s, squared error "
        f"{error:.5f}, PSNR {psnr(error):.2f} dB at {width}x{height}")
    return error


def say(options: PaintOptions, path: Path, writers: list[Writer], result: str) -> None:
    """Print the result of a painting and its files."""
    frames = [writer for writer in writers if isinstance(writer, Frames)]
    written = [text for each in frames for text in each.written()]
    others = [str(file) for file in options.files() if file != options.painting]
    print("; ".join((f"{path.name}: {result}", *written, *others)), flush=True)
    if later := [path for each in frames for path in each.later_frames()]:
        print(f"warning: {later[0]} and {len(later) - 1} more frames of an earlier painting "
              "follow them; delete those before making a video", file=sys.stderr)
    if options.painting:
        print(f"the painting: {options.painting}", flush=True)


@enough_memory("--divide")
def paint_pictures(options: PaintOptions) -> None:
    """Paint as the options say; exit status 1 where images are skipped."""
    start = time.monotonic()
    options = replace(options, images=list_pictures(options.images))
    check_places(options)
    unread: list[Path] = []
    pictures = readable(options, unread)
    if (first := next(pictures, None)) is None:  # before the weights
        raise UserError("none of the images can be read")
    if stages_of(options, first[2])[0].steps > MAX_STEPS and options.actor == ACTOR:
        print(f"warning: this actor learned to paint in {STEPS} steps; more than some {MAX_STEPS}, "
              f"or {2 * MAX_STEPS} with tiles, hardly make its paintings better", file=sys.stderr)
    artist = load_artist(options)
    errors, failures = [], []
    with StopSignals() as signals:
        for own, path, picture, alpha in chain([first], pictures):
            try:
                errors.append(paint_picture(own, path, picture, alpha, artist, signals))
            except UserError as error:  # the others are painted
                failures.append(error)
            if signals.stopped:
                break
    if failures:
        raise failures[0]
    end(options, errors, unread, signals, time.monotonic() - start)


def end(
    options: PaintOptions, errors: list[float], unread: list[Path], signals: StopSignals,
    spent: float,
) -> None:
    """Sum up the paintings of several images; exit where images are missing."""
    count, total = len(errors), len(options.images)
    if total > 1 and count:
        print(f"{count} images: mean squared error {np.mean(errors):.5f}, "
              f"{spent / count:.1f} s an image", flush=True)
    if unread:
        print(f"{len(unread)} of {total} images were skipped: "
              + ", ".join(one_line(str(path)) for path in unread), file=sys.stderr)
    if signals.stopped:
        print(f"{count} of {total} images were painted", file=sys.stderr)
        sys.exit(128 + signals.number)
    if unread:
        sys.exit(1)
