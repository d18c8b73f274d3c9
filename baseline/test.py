#!/usr/bin/env python3
"""Paint images stroke by stroke: frames, a video, and the strokes themselves."""

import argparse
import re
from pathlib import Path

from constants import STEPS, VIDEOS
from painting.options import PaintOptions, frame_step
from utils.command import (
    ACTOR,
    RENDERER,
    ROOT,
    Parser,
    UserError,
    add_device_flags,
    new_file,
    number,
    path_type,
    positive_float,
    positive_int,
    run,
    seconds_type,
    seed_type,
    whole_number,
)
from utils.listing import FOREIGN, SUFFIXES

LARGEST_OVERLAP = 96


def divide(text: str) -> tuple[int, int] | None:
    """Return D or RxC as rows and columns of tiles, auto as None: an argparse type."""
    if text == "auto":
        return None
    if not (numbers := re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text, re.ASCII)):
        raise argparse.ArgumentTypeError(f"{text[:100]} is not D, RxC or auto")
    return int(numbers[1]), int(numbers[2] or numbers[1])


def parse_args() -> PaintOptions:
    """Return the options of the command line; raise UserError where they do not go together."""
    parser = Parser(__doc__, "python3 baseline/test.py photo.jpg -o painting.png")
    parser.add_argument("images", type=path_type, nargs="*", metavar="PATH",
                        help="images to paint, or folders of them (image/test.png), before all "
                        "flags; what is transparent counts as white")
    add = parser.add_argument_group("how to paint").add_argument
    add("--max_step", type=positive_int, metavar="N",
        help="steps, each of as many strokes as the actor chooses at once; with --divide, half of "
        f"them on the tiles ({STEPS}, and {STEPS} more on the tiles)")
    add("--divide", type=divide, default="4", metavar="D|RxC|auto",
        help="paint the second half on D x D tiles, or on R rows and C columns; 1: no second "
        "half; auto: tiles that hardly stretch the image")
    add("--overlap", default=0, metavar="PX",
        type=number(int, 0, LARGEST_OVERLAP + 1, f"a whole number from 0 to {LARGEST_OVERLAP}"),
        help="let neighboring tiles, of 128 pixels, share PX of them and paint all on one "
        "canvas, without seams")
    add("--refine", type=whole_number, default=0, metavar="N",
        help="improve all strokes together by N steps after the actor")
    add("--actor", type=path_type, default=ACTOR, metavar="FILE",
        help="weights of the actor; none: random strokes, to be refined")
    add("--renderer", type=path_type, default=RENDERER, metavar="FILE",
        help="weights of the renderer")
    add("--seed", type=seed_type, default=1234, metavar="N",
        help="of what --refine draws by chance")
    add = parser.add_argument_group("what to write").add_argument
    add("-o", "--output", type=path_type, default=Path("output"), metavar="PATH",
        help="folder for the finished painting.png and the frames generated<N>.png, or a file for "
        "the finished painting (then frames come beside it where --frames asks for some); of "
        "several images each gets a folder in it, and its name in all other files'")
    add("--frames", nargs="+", metavar="all|every N|last",
        help="the frames to write (all, of images above 2 megapixels the last)")
    add("--video", type=new_file, metavar="FILE", help="a video too, .mp4 or .gif")
    add("--fps", type=positive_float, default=30, metavar="N", help="frames a second of it")
    add("--seconds", type=seconds_type, metavar="S",
        help="length of the video; an SVG paints itself in that time")
    add("--strokes", type=new_file, nargs="+", action="extend", default=[], metavar="FILE",
        help="the strokes too, as .json (for replay.py) or .svg")
    add("--compare", type=new_file, metavar="FILE",
        help="an image too of target, painting and error side by side")
    add("--imgid", type=whole_number, default=0, metavar="N", help="number of the first frame")
    running = parser.add_argument_group("running")
    running.add_argument("--img", type=path_type, nargs="+", action="extend", metavar="PATH",
                         help="images, as without a flag")
    add_device_flags(running)
    flags = vars(parser.parse_args())
    images, img, output = flags.pop("images"), flags.pop("img"), flags["output"]
    if images and img:
        raise UserError("name the images alone or by --img, not both")
    flags["frames"] = flags["frames"] and frame_step(" ".join(flags["frames"]))
    options = PaintOptions(
        images=images or img or [ROOT / "image" / "test.png"],
        alone=output.suffix.lower() in SUFFIXES | FOREIGN and not output.is_dir(), **flags)
    check(options)
    return options


def check(options: PaintOptions) -> None:
    """Raise UserError where options do not go together."""
    if options.overlap and options.divide == (1, 1):
        raise UserError("--overlap needs tiles: --divide 2 or more")
    if options.actor == Path("none") and not options.refine:
        raise UserError("--actor none gives random strokes; improve them with --refine N")
    if options.seconds and not (options.video or any(
            path.suffix.lower() == ".svg" for path in options.strokes)):
        raise UserError("--seconds needs --video or --strokes FILE.svg")
    other_kinds = {".json", ".svg", *VIDEOS} - SUFFIXES
    if options.output.suffix.lower() in other_kinds and not options.output.is_dir():
        raise UserError(f"--output {options.output} is no picture; --strokes writes strokes and "
                        "--video videos")


def main(options: PaintOptions) -> None:
    """Paint as the options say."""
    from painting.paint import paint_pictures  # its imports take seconds, mistakes none

    paint_pictures(options)


if __name__ == "__main__":
    run(lambda: main(parse_args()))
