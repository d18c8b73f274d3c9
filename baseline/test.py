#!/usr/bin/env python3
"""Paint images stroke by stroke: frames, a video, and the strokes themselves."""

import argparse
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain, groupby
from pathlib import Path

import numpy as np
from tqdm import tqdm

from DRL.painter import Painter
from outputs import Files, check_places
from painting import (
    Painting,
    Progress,
    errors,
    paint_overlapping,
    paint_tiles,
    scatter,
    show_exact,
)
from Renderer.canvas import BUNDLE, fitting_grid, plan
from Renderer.model import TrainedRender, load_render
from Renderer.stroke_gen import WIDTH
from utils.command import (
    ACTOR,
    RENDERER,
    ROOT,
    Parser,
    UserError,
    add_device_flags,
    enough_memory,
    new_file,
    number,
    path,
    positive_float,
    positive_int,
    run,
    seconds,
    seed,
    whole_number,
)
from utils.device import Precision, pick_device
from utils.frames import frame_step
from utils.pictures import list_pictures, psnr, read_picture

TILES_AT_ONCE = 64  # that the actor sees in one batch
LARGEST_CANVAS = 8192  # pixels
LARGEST_OVERLAP = 96
LARGEST_GRID = 1 + (LARGEST_CANVAS - WIDTH) // (WIDTH - LARGEST_OVERLAP)


def divide(text: str) -> tuple[int, int] | None:
    """An argparse type: D or RxC tiles; auto is None."""
    if text == "auto":
        return None
    if not (numbers := re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text, re.ASCII)):
        raise argparse.ArgumentTypeError(f"{text[:100]} is not D, RxC or auto")
    rows, columns = int(numbers[1]), int(numbers[2] or numbers[1])
    if max(rows, columns) > LARGEST_GRID:
        raise argparse.ArgumentTypeError(f"{LARGEST_GRID} rows or columns are the most")
    return rows, columns


def batches(paths: list[Path], grid: tuple[int, int] | None) -> Iterator[
        tuple[tuple[int, int], list[Painting]]]:
    """Read pictures; those in a row with the same grid of tiles come together, as many as fit."""
    def grid_of(painting: Painting) -> tuple[int, int]:
        return grid or fitting_grid(*painting.picture.shape[:2])

    paintings = (Painting(path, read_picture(path)) for path in paths)
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


def show_progress(steps: Progress, total: int) -> None:
    """Paint; show a bar on a terminal, lines elsewhere."""
    with tqdm(total=total, unit="step", disable=None) as bar:
        for stage, step, error in steps:
            bar.set_postfix_str(f"{stage.name}, squared error {error:.5f}")
            bar.update()
            if bar.disable:
                print(f"{stage.name} step {step}: squared error {error:.5f}", flush=True)


def refine_painting(painting: Painting, render: TrainedRender, steps: int, seed: int) -> None:
    """Refine the strokes of a painting and say what it gave."""
    from Renderer.refine import refine

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
        painting.parts = [refine(strokes, target, steps, seed, report)]
    say(f"after {steps} steps of refining in {time.monotonic() - start:.1f} s")


def paint(
    options: argparse.Namespace, painter: Painter | None, render: TrainedRender,
    shape: tuple[int, int], paintings: list[Painting], several: bool,
) -> list[float]:
    """Paint pictures on a grid of tiles, side by side where tiles do not overlap.

    Returns their squared errors.
    """
    start = time.monotonic()
    height, width, stages = plan(*shape, options.overlap, options.max_step)
    if max(height, width) > LARGEST_CANVAS:
        raise UserError(f"{shape[0]}x{shape[1]} tiles make a canvas of {width}x{height} pixels; "
                        f"{LARGEST_CANVAS} a side are the most")
    if not all(stage.steps for stage in stages):
        raise UserError(f"--max_step {options.max_step} leaves no step for the tiles; "
                        "use --max_step 2 or more, or --divide 1")
    steps = sum(stage.steps for stage in stages)
    bundle = painter.bundle if painter else BUNDLE
    files = [Files(options, painting, several, bundle * steps) for painting in paintings]
    with ExitStack() as stack:
        if not options.refine:
            for each in files:
                each.open(stack)
        if painter is None:
            for painting in paintings:
                scatter(painting, render.family, height, width, stages, options.seed)
        elif options.overlap:
            for painting in paintings:
                show_progress(paint_overlapping(painter, painting, height, width, stages), steps)
        else:
            show_progress(paint_tiles(painter, paintings, height, width, stages), steps)
        if options.refine:
            for painting, each in zip(paintings, files, strict=True):
                refine_painting(painting, render, options.refine, options.seed)
                each.open(stack)
                show_exact(painting, stages, bundle, each.wanted)
    spent = time.monotonic() - start
    kept = ("max_step", "overlap", "refine", "seed", "actor", "renderer")
    settings = {name: vars(options)[name] for name in kept} | {"divide": f"{shape[0]}x{shape[1]}"}
    canvas = "exact raster" if options.refine or options.overlap else "neural canvas"
    for painting, each in zip(paintings, files, strict=True):
        written = each.finish(settings)
        print(f"{painting.path.name}: {len(painting.strokes())} strokes, {spent:.1f} s"
              + f" for {len(paintings)} images together" * (len(paintings) > 1)
              + f", squared error {painting.error:.5f} ({canvas}), PSNR "
              f"{psnr(painting.error):.2f} dB; {written}", flush=True)
        if later := each.frames.later_frames():
            print(f"warning: {later[0]} and {len(later) - 1} more frames of an earlier painting "
                  "follow them; delete those before making a video", file=sys.stderr)
    return [painting.error for painting in paintings]


@enough_memory("--divide, or fewer images at once")
def main(options: argparse.Namespace) -> None:
    """Paint as the options say; see ``parse_args``."""
    start = time.monotonic()
    precision = Precision(options.precision, pick_device(options.device))
    paths = list_pictures(options.img)
    check_places(options, paths)
    groups = batches(paths, options.divide)
    first = next(groups)  # before the weights, for what is no image
    if options.actor == Path("none"):
        painter, render = None, load_render(options.renderer, precision)
    else:
        painter = Painter.load(options.actor, options.renderer, precision)
        render = painter.render
    all_errors = [error for shape, paintings in chain([first], groups) for error in
                  paint(options, painter, render, shape, paintings, len(paths) > 1)]
    if len(paths) > 1:
        print(f"{len(paths)} images: mean squared error {np.mean(all_errors):.5f}, "
              f"{(time.monotonic() - start) / len(paths):.1f} s an image")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--img", type=path, nargs="+", default=[ROOT / "image" / "test.png"],
                        metavar="PATH", help="images to paint, or folders of them; what is "
                        "transparent in one counts as white")
    parser.add_argument("--max_step", type=positive_int, default=40,
                        help="steps, each of as many strokes as the actor chooses at once; with "
                        "--divide, half of them on the tiles")
    parser.add_argument("--divide", type=divide, default=(4, 4), metavar="D|RxC|auto",
                        help="paint the second half on D x D tiles, or on R rows and C columns; "
                        "1: no second half; auto: tiles that hardly stretch the image")
    parser.add_argument("--overlap", type=number(
                        int, 0, LARGEST_OVERLAP + 1, f"a whole number from 0 to {LARGEST_OVERLAP}"),
                        default=0, metavar="PX", help="let neighbouring tiles, of 128 pixels, "
                        "share PX of them and paint all on one canvas, without seams")
    parser.add_argument("--refine", type=whole_number, default=0, metavar="N",
                        help="improve all strokes together by N steps after the actor")
    parser.add_argument("--actor", type=path, default=ACTOR,
                        help="weights of the actor; none: random strokes, to be refined")
    parser.add_argument("--renderer", type=path, default=RENDERER, help="weights of the renderer")
    parser.add_argument("--seed", type=seed, default=1234, help="of what --refine draws by chance")
    parser.add_argument("--imgid", type=whole_number, default=0, help="number of the first frame")
    parser.add_argument("--output", type=path, default=Path("output"),
                        help="folder for the frames generated<N>.png; of several images each gets "
                        "a folder in it, and its name in all other files'")
    parser.add_argument("--frames", nargs="+", default=["all"], metavar="all|every N|last",
                        help="the frames to write")
    parser.add_argument("--video", type=new_file, metavar="FILE", help="a video too, .mp4 or .gif")
    parser.add_argument("--fps", type=positive_float, default=30, help="frames a second of it")
    parser.add_argument("--seconds", type=seconds,
                        help="length of the video; an SVG paints itself in that time")
    parser.add_argument("--strokes", type=new_file, nargs="+", default=[], metavar="FILE",
                        help="the strokes too, as .json (for replay.py) or .svg")
    parser.add_argument("--compare", type=new_file, metavar="FILE",
                        help="an image too of target, painting and error side by side")
    add_device_flags(parser)
    options = parser.parse_args()
    options.frames = frame_step(" ".join(options.frames))
    check(options)
    return options


def check(options: argparse.Namespace) -> None:
    """Raise UserError where options do not go together."""
    if options.overlap and options.divide == (1, 1):
        raise UserError("--overlap needs tiles: --divide 2 or more")
    if options.actor == Path("none") and not options.refine:
        raise UserError("--actor none gives random strokes; improve them with --refine N")
    if options.seconds and not (options.video or any(
            path.suffix.lower() == ".svg" for path in options.strokes)):
        raise UserError("--seconds needs --video or --strokes FILE.svg")


if __name__ == "__main__":
    run(lambda: main(parse_args()))
