"""Pictures to strokes to files, in one call."""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, groupby
from pathlib import Path

import numpy as np
from tqdm import tqdm

from constants import BUNDLE, STEPS
from DRL.rollout import Painter
from grid.painter import load_painter
from painting.outputs import Files, check_places, own_names
from painting.painting import (
    Painting,
    Progress,
    errors,
    paint_grid,
    paint_overlapping,
    paint_tiles,
    scatter,
    show_exact,
)
from painting.tiles import canvas_side, fitting_grid, plan
from Renderer.model import TrainedRender, load_render
from running.device import Precision, pick_device
from running.run import StopSignals
from utils.command import ACTOR, UserError, enough_memory, one_line
from utils.listing import list_pictures
from utils.pictures import psnr, read_picture

TILES_AT_ONCE = 64  # that the actor sees in one batch
LARGEST_CANVAS = 8192  # pixels
MOST_STEPS = 56  # in a stage, that help the actor that comes with this


def readable(paths: list[Path], left_out: list[Path]) -> Iterator[Painting]:
    """A painting of each picture; of several those that cannot be read are left out, and named."""
    for path, name in zip(paths, own_names(paths), strict=True):
        try:
            picture = read_picture(path)
        except UserError as error:
            if name is None:
                raise
            left_out.append(path)
            print(f"warning: {one_line(str(error))}; it is left out", file=sys.stderr)
        else:
            yield Painting(path, picture, name)


def batches(paintings: Iterable[Painting], grid: tuple[int, int] | None) -> Iterator[
        tuple[tuple[int, int], list[Painting]]]:
    """Paintings in a row with the same grid of tiles come together, as many as fit."""
    def grid_of(painting: Painting) -> tuple[int, int]:
        return grid or fitting_grid(*painting.picture.shape[:2])

    for shape, alike in groupby(paintings, grid_of):
        most = max(1, TILES_AT_ONCE // (shape[0] * shape[1]))
        few = []
        for painting in alike:
            few.append(painting)
            if len(few) == most:
                yield shape, few
                few = []
        if few:
            yield shape, few


def show_progress(steps: Progress, total: int, signals: StopSignals) -> None:
    """Paint until all is done or a signal comes; show a bar on a terminal, lines elsewhere."""
    done = 0
    with tqdm(total=total, unit="step", disable=None) as bar:
        for stage, step, error in steps:
            bar.set_postfix_str(f"{stage.name}, squared error {error:.5f}")
            bar.update()
            done += 1
            if bar.disable:
                print(f"{stage.name} step {step}: squared error {error:.5f}", flush=True)
            if signals.stopped:
                break
    if done < total:
        print(f"stopped after {done} of {total} steps", flush=True)


def refine_painting(
    painting: Painting, render: TrainedRender, steps: int, seed: int, signals: StopSignals
) -> None:
    """Refine the strokes of a painting and say what it gave; a signal ends it with the best."""
    from painting.refine import refine

    def say(when: str) -> None:
        neural, painting.error = errors(painting, render, render.precision.device)
        print(f"{painting.path.name} {when}: squared error {painting.error:.5f} on the exact "
              f"raster, {neural:.5f} on the neural canvas", flush=True)

    say("before refining")
    start = time.monotonic()
    strokes = painting.strokes()
    with tqdm(total=steps, unit="step", disable=None) as bar:
        def report(error: float) -> None:
            bar.set_postfix_str(f"refining, squared error {error:.5f}")
            bar.update()
            nonlocal done
            done += 1
            if bar.disable and done % max(1, steps // 10) == 0:
                print(f"refining step {done}: squared error {error:.5f}", flush=True)

        done = 0
        target = painting.target(strokes.height, strokes.width)
        painting.parts = [refine(strokes, target, steps, seed, report,
                                 lambda: signals.stopped)]
    say(f"stopped after {done} of {steps} steps" if signals.stopped else
        f"after {steps} steps of refining in {time.monotonic() - start:.1f} s")


def paint_batch(
    options: argparse.Namespace, painter: Painter | None, render: TrainedRender,
    shape: tuple[int, int], paintings: list[Painting], signals: StopSignals,
) -> list[float]:
    """Paint pictures on a grid of tiles, side by side where tiles do not overlap.

    A signal ends it with what is painted by then.  Returns the squared errors of what is.
    """
    start = time.monotonic()
    height, width = (canvas_side(tiles, options.overlap) for tiles in shape)
    if max(height, width) > LARGEST_CANVAS:
        raise UserError(f"{shape[0]}x{shape[1]} tiles make a canvas of {width}x{height} pixels; "
                        f"{LARGEST_CANVAS} a side are the most")
    height, width, stages = plan(*shape, options.overlap, options.max_step)
    if not all(stage.steps for stage in stages):
        raise UserError(f"--max_step {options.max_step} leaves no step for the tiles; "
                        "use --max_step 2 or more, or --divide 1")
    steps = sum(stage.steps for stage in stages)
    if max(stage.steps for stage in stages) > MOST_STEPS and options.actor == ACTOR and not (
            options.refine):
        print(f"warning: this actor learnt to paint in {STEPS} steps; more than some {MOST_STEPS}, "
              f"or {2 * MOST_STEPS} with tiles, hardly make its paintings better", file=sys.stderr)
    bundle = painter.bundle if painter else BUNDLE
    files = [Files(options, painting, bundle * steps) for painting in paintings]
    with ExitStack() as stack:
        if not options.refine:
            for each in files:
                each.open(stack)
        if painter is None:
            for painting in paintings:
                scatter(painting, render.family, height, width, stages, options.seed)
        elif options.overlap or painter.canvas == "exact":
            paint = paint_grid if painter.canvas == "exact" else paint_overlapping
            for painting in paintings:
                if not signals.stopped:
                    show_progress(paint(painter, painting, height, width, stages), steps, signals)
        else:
            show_progress(paint_tiles(painter, paintings, height, width, stages), steps, signals)
        for painting, each in zip(paintings, files, strict=True):
            if not painting.parts:  # stopped before
                continue
            if not options.refine:
                painting.end()
                continue
            if signals.stopped:
                _, painting.error = errors(painting, render, render.precision.device)
            else:
                refine_painting(painting, render, options.refine, options.seed, signals)
            each.open(stack)
            show_exact(painting, stages, bundle, each.wanted)
    begun = [pair for pair in zip(paintings, files, strict=True) if pair[0].parts]
    spent = time.monotonic() - start
    settings = {name: vars(options)[name] for name in ("overlap", "refine", "seed")} | {
        "max_step": steps, "divide": f"{shape[0]}x{shape[1]}",
        "actor": options.actor.name, "renderer": options.renderer.name}
    exact = options.refine or options.overlap or painter.canvas == "exact"
    canvas = "exact raster" if exact else "neural canvas"
    failures = []
    for painting, each in begun:
        try:
            written = each.finish(settings)
        except UserError as error:  # which takes nothing from the others
            failures.append(error)
            continue
        print(f"{painting.path.name}: {len(painting.strokes())} strokes, {spent:.1f} s"
              + f" for {len(begun)} images together" * (len(begun) > 1)
              + f", squared error {painting.error:.5f} ({canvas}), PSNR "
              f"{psnr(painting.error):.2f} dB" + f"; {written}" * bool(written), flush=True)
        if later := each.later_frames():
            print(f"warning: {later[0]} and {len(later) - 1} more frames of an earlier painting "
                  "follow them; delete those before making a video", file=sys.stderr)
        print(f"the painting: {each.paths.painting}", flush=True)
    if failures:
        raise failures[0]
    return [painting.error for painting, _ in begun]


@enough_memory("--divide, or fewer images at once")
def paint_pictures(options: argparse.Namespace) -> None:
    """Paint as the options of ``test.py`` say; exit status 1 where images are left out."""
    start = time.monotonic()
    precision = Precision(options.precision, pick_device(options.device))
    paths = list_pictures(options.img)
    check_places(options, paths)
    if options.overlap and not options.refine:
        print("warning: without --refine N paintings on overlapping tiles come out worse than on "
              "tiles side by side", file=sys.stderr)
    left_out: list[Path] = []
    groups = batches(readable(paths, left_out), options.divide)
    if (first := next(groups, None)) is None:  # before the weights
        raise UserError("none of the images can be read")
    if options.actor == Path("none"):
        painter, render = None, load_render(options.renderer, precision)
    else:
        painter = load_painter(options.actor, options.renderer, precision)
        render = painter.render
    all_errors = []
    with StopSignals() as signals:
        for shape, paintings in chain([first], groups):
            all_errors += paint_batch(options, painter, render, shape, paintings, signals)
            if signals.stopped:
                break
    if len(paths) > 1 and all_errors:
        print(f"{len(all_errors)} images: mean squared error {np.mean(all_errors):.5f}, "
              f"{(time.monotonic() - start) / len(all_errors):.1f} s an image", flush=True)
    if left_out:
        print(f"{len(left_out)} of {len(paths)} images were left out: "
              + ", ".join(one_line(str(path)) for path in left_out), file=sys.stderr)
    if signals.stopped:
        print(f"{len(all_errors)} of {len(paths)} images were painted", file=sys.stderr)
        sys.exit(128 + signals.number)
    if left_out:
        sys.exit(1)
