"""Paint pictures one after the other: picture to strokes, to refined strokes, to files."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from constants import BUNDLE
from grid.policy import load_policy
from painting.frames import Frames, draw_frames, size_of
from painting.options import PaintOptions
from painting.outputs import check_places, own_names, write_files, writers_of
from painting.refine import refine
from painting.steps import Step, paint_neural, paint_steps, random_steps, target_of
from painting.tiles import Stage, fitting_grid, plan
from Renderer.model import load_render
from Renderer.raster import paint_exact
from Renderer.strokes import Strokes
from running.device import Precision, pick_device
from running.run import StopSignals
from utils.command import RENDERER, UserError, enough_memory, one_line
from utils.files import in_turn
from utils.listing import list_pictures
from utils.pictures import psnr, read_cutout, resized

REFINED_SIDE = 256  # pixels; to be refined, smaller canvases are enlarged by a whole factor


# Strokes per tile and step, and a function that yields the steps for a picture (h, w, 3) uint8.
StrokeSource = tuple[int, Callable[[np.ndarray, list[Stage]], Iterator[Step]]]


def load_stroke_source(options: PaintOptions) -> StrokeSource:
    """Load the weights that the options ask for.

    Raises UserError where weights are missing, broken, or of different families.
    """
    precision = Precision(options.precision, pick_device(options.device))
    if options.actor is None:
        family = options.stroke or load_render(options.renderer or RENDERER, precision).family
        return BUNDLE, partial(random_steps, family, seed=options.seed)
    needed = RENDERER if options.canvas == "neural" else None
    policy = load_policy(options.actor, options.renderer or needed, precision)
    neural = (options.canvas or policy.canvas) == "neural"
    paint = partial(paint_neural, policy.render) if neural else paint_exact
    return policy.bundle, partial(paint_steps, policy, paint=paint)


def stages_of(options: PaintOptions, picture: np.ndarray) -> list[Stage]:
    """Return the stages of the painting of a picture (h, w, 3)."""
    grid = fitting_grid(*picture.shape[:2]) if options.divide == "auto" else options.divide
    return plan(*grid, options.max_step)


def show(bar: tqdm, name: str, error: float, prints: bool = True) -> None:
    """Advance a progress bar by a step, or print its line where there is no terminal."""
    bar.set_postfix_str(f"{name}, squared error {error:.5f}")
    bar.update()
    if bar.disable and prints:
        print(f"{name}: squared error {error:.5f}", flush=True)


def choose_strokes(
    options: PaintOptions, picture: np.ndarray, chosen: Iterator[Step], total: int,
    signals: StopSignals,
) -> tuple[Strokes, list[int]]:
    """Return the strokes for a picture (h, w, 3) uint8 and the number of strokes per frame.

    chosen: ``total`` steps; their strokes are refined.  A stop signal ends early, with the best.
    """
    steps, errors = [], []
    with tqdm(total=total, unit="step", disable=None) as bar:
        for step in chosen:
            steps.append(step)
            if step.error is not None:
                show(bar, step.name, step.error)
            if signals.stopped:
                print(f"stopped after {len(steps)} of {total} steps", flush=True)
                break
    strokes = Strokes.join(step.strokes for step in steps)
    counts = [step.tiles for step in steps for _ in range(len(step.strokes) // step.tiles)]
    if not options.refine or signals.stopped:
        return strokes, counts

    def report(error: float) -> None:
        errors.append(error)
        show(bar, f"refining step {len(errors)}", error,
             (len(errors) - 1) % max(1, options.refine // 10) == 0)

    strokes = strokes.scaled(max(1, REFINED_SIDE // max(strokes.height, strokes.width)))
    target = target_of(picture, strokes.height, strokes.width)
    with tqdm(total=options.refine, unit="step", disable=None) as bar:
        strokes = refine(strokes, target, options.refine, options.seed, report,
                         lambda: signals.stopped)
    if signals.stopped:
        print(f"stopped after {len(errors)} of {options.refine} steps of refining", flush=True)
    return strokes, counts


def paint_picture(
    options: PaintOptions, path: Path, picture: np.ndarray, alpha: np.ndarray | None,
    stages: list[Stage], stroke_source: StrokeSource, signals: StopSignals,
) -> float:
    """Paint a picture, write its files and return its error; a signal ends it early.

    options: with the painting's own files; picture: (h, w, 3) uint8 BGR; alpha: its opacity,
    (h, w) uint8, or None.
    """
    start = time.monotonic()
    total = sum(stage.steps for stage in stages)
    height, width = size_of(*picture.shape[:2], options.size)
    photo = resized(picture, width, height)
    alpha = None if options.background != "none" or alpha is None else resized(alpha, width, height)
    bundle, choose_steps = stroke_source
    frames = total * bundle
    writers = writers_of(options, path.name, (height, width), frames)
    with ExitStack() as stack:
        for writer in writers:
            stack.enter_context(writer)
        strokes, counts = choose_strokes(
            options, picture, choose_steps(picture, stages), total, signals)
        painting = draw_frames(strokes, counts, (height, width), writers, frames)
    error = float(np.square(np.float32(painting) - photo).mean() / 255**2)
    spent = time.monotonic() - start
    source = {"image": path.name, "refine": options.refine, "seed": options.seed,
              "max_step": total, "divide": f"{stages[-1].rows}x{stages[-1].columns}",
              "actor": options.actor.name if options.actor else "none",
              "renderer": options.renderer and options.renderer.name}
    in_turn((lambda: write_files(options, photo, alpha, painting, strokes, source),
             *(writer.check for writer in writers)))
    folders = [writer for writer in writers if isinstance(writer, Frames)]
    print(f"{path.name}: {len(strokes)} strokes, {spent:.1f} s, squared error {error:.5f}, "
          f"PSNR {psnr(error):.2f} dB at {width}x{height}", *map(Frames.written, folders),
          *(file for file in options.files() if file != options.painting), sep="; ", flush=True)
    for folder in folders:
        folder.warn_of_others()
    if options.painting:
        print(f"the painting: {options.painting}", flush=True)
    return error


@enough_memory("--divide")
def paint_pictures(options: PaintOptions) -> None:
    """Paint as the options say; exit status 1 where images are skipped."""
    start = time.monotonic()
    options = replace(options, images=list_pictures(options.images))
    check_places(options)
    stroke_source, unread, errors, failures = None, [], [], []
    with StopSignals() as signals:
        for path, name in zip(options.images, own_names(options.images), strict=True):
            try:
                picture, alpha = read_cutout(path, options.behind)
            except UserError as error:
                if name is None:
                    raise
                unread.append(str(path))
                print(f"warning: {one_line(str(error))}; it is skipped", file=sys.stderr)
                continue
            stages = stages_of(options, picture)
            stroke_source = stroke_source or load_stroke_source(options)
            try:
                errors.append(paint_picture(
                    options.named(name), path, picture, alpha, stages, stroke_source, signals))
            except UserError as error:  # the others are painted
                failures.append(error)
            if signals.stopped:
                break
    if stroke_source is None:
        raise UserError("none of the images can be read")
    if failures:
        raise failures[0]
    count, total = len(errors), len(options.images)
    if count > 1:
        print(f"{count} images: mean squared error {np.mean(errors):.5f}, "
              f"{(time.monotonic() - start) / count:.1f} s an image", flush=True)
    if unread:
        print(f"{len(unread)} of {total} images were skipped: "
              + ", ".join(map(one_line, unread)), file=sys.stderr)
    if signals.stopped:
        print(f"{count} of {total} images were painted", file=sys.stderr)
        sys.exit(128 + signals.number)
    if unread:
        sys.exit(1)
