#!/usr/bin/env python3
"""Paint images stroke by stroke: frames, a video, and the strokes themselves."""

import argparse
import re
from pathlib import Path

from constants import BUNDLE, FAMILY_NAMES, STEPS, VIDEOS
from painting.options import PaintOptions, frame_step
from utils import command as cli
from utils.listing import FOREIGN, SUFFIXES

REFINE = 20  # steps
STROKE_FILES = (".json", ".svg")


def divide(text: str) -> tuple[int, int] | str:
    """Return D or RxC as rows and columns of tiles, auto as it is: an argparse type."""
    if text == "auto":
        return text
    if not (numbers := re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text, re.ASCII)):
        raise argparse.ArgumentTypeError(f"{text[:100]} is not D, RxC or auto")
    return int(numbers[1]), int(numbers[2] or numbers[1])


def color(text: str) -> str:
    """Return a color as #rrggbb, or none: an argparse type."""
    from PIL.ImageColor import getrgb

    try:
        return text if text == "none" else "#{:02x}{:02x}{:02x}".format(*getrgb(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text[:100]} is no color and not none") from error


def command_line() -> cli.Parser:
    """Return the parser of the flags."""
    parser = cli.Parser(__doc__, "python3 baseline/test.py photo.jpg -o painting.png")
    parser.add_argument("images", type=cli.path_type, nargs="*", metavar="PATH",
                        help="images to paint, or folders of them (image/test.png)")
    add = parser.add_argument_group("how to paint").add_argument
    add("--max_step", type=cli.positive_int, metavar="N",
        help=f"steps, each of {BUNDLE} strokes on each tile; half of them on the whole image, or "
        "on the coarsest grid of the shape of --divide, half on its tiles "
        f"({2 * STEPS}: {STEPS} and {STEPS}; {STEPS} if there is no coarser grid)")
    add("--divide", type=divide, metavar="D|RxC|auto",
        help="paint the second half on D x D tiles, or on R rows and C columns; auto: to fit the "
        "image's shape, 4x4 if square (the default); 1: no second half (the default of --stroke)")
    add("--refine", type=cli.whole_number, default=REFINE, metavar="N",
        help="improve all strokes together by N gradient steps afterwards")
    add("--actor", type=cli.path_type, metavar="FILE",
        help="weights of the actor (actor.pkl); none: random strokes, to be refined")
    add("--stroke", choices=FAMILY_NAMES,
        help="random strokes of this family, to be refined; no weights are needed")
    add("--renderer", type=cli.path_type, metavar="FILE",
        help="weights of the renderer, for actors that see its canvas (renderer.pkl)")
    add("--canvas", choices=("exact", "neural"), help="canvas that the actor sees: of the exact "
        "rasterizer or of the neural renderer (as it was trained)")
    add("--seed", type=cli.seed_type, default=1234, metavar="N", help="of the random numbers")
    add = parser.add_argument_group("what to write").add_argument
    add("-o", "--output", type=cli.path_type, default=Path("output"), metavar="PATH",
        help="folder for the finished painting.png and the frames generated<N>.png; or a file: a "
        "picture of the painting, its strokes (.svg, .json) or a film (.mp4, .gif); of several "
        "images each gets its own folder there, or its name added to the file's")
    add("--size", type=cli.size_type, metavar="N",
        help="pixels of the painting's longer side (the image's, at least 512 a side)")
    add("--background", type=color, metavar="COLOR|none", help="color behind transparency (white) "
        "and of the ground of an .svg (black); none: the painting keeps the image's transparency")
    add("--frames", nargs="+", metavar="all|every N|last",
        help="the frames to write (all, of images above 2 megapixels the last)")
    add("--video", type=cli.new_file, metavar="FILE", help="a video too, .mp4 or .gif")
    add("--fps", type=cli.positive_float, default=30, metavar="N", help="frames a second of it")
    add("--seconds", type=cli.seconds_type, metavar="S",
        help="length of the video; an SVG paints itself in that time")
    add("--strokes", type=cli.new_file, nargs="+", action="extend", default=[], metavar="FILE",
        help="the strokes too, as .json (for replay.py) or .svg")
    add("--compare", type=cli.new_file, metavar="FILE",
        help="an image too of target, painting and error side by side")
    add("--imgid", type=cli.whole_number, default=0, metavar="N", help="number of the first frame")
    running = parser.add_argument_group("running")
    running.add_argument("--img", type=cli.path_type, nargs="+", action="extend", metavar="PATH",
                         help="images, as without a flag")
    cli.add_device_flags(running)
    return parser


def parse_args() -> PaintOptions:
    """Return the options of the command line; raise UserError where they do not go together."""
    flags = vars(command_line().parse_args())
    images, img, output = flags.pop("images"), flags.pop("img"), flags["output"]
    if images and img:
        raise cli.UserError("name the images alone or by --img, not both")
    flags["frames"] = flags["frames"] and frame_step(" ".join(flags["frames"]))
    kind = "" if output.is_dir() else output.suffix.lower()
    if kind in STROKE_FILES:
        flags["strokes"].append(output)
    elif kind in VIDEOS:
        if flags["video"]:
            raise cli.UserError(f"--output {output} and --video {flags['video']} are both videos")
        flags["video"] = output
    elif kind and kind not in SUFFIXES | FOREIGN:
        raise cli.UserError(f"--output {output}: {kind} is no kind of picture, film or strokes; "
                        "the name of a new folder has no dot")
    if flags["actor"] == Path("none") or (flags["stroke"] and not flags["actor"]):
        flags |= {"actor": None, "divide": flags["divide"] or (1, 1)}
    else:
        flags |= {"actor": flags["actor"] or cli.ACTOR, "divide": flags["divide"] or "auto"}
    options = PaintOptions(
        **flags, images=images or img or [cli.ROOT / "image" / "test.png"], alone=bool(kind))
    if options.actor is None and not options.refine:
        raise cli.UserError("random strokes need --refine N, say 300")
    if options.stroke and (options.actor or options.renderer or options.canvas):
        raise cli.UserError("--stroke takes no --actor, --renderer or --canvas")
    if options.background == "none" and options.alone and kind in (".bmp", ".jpeg", ".jpg"):
        raise cli.UserError(f"{output} cannot hold transparency; write a .png")
    if options.seconds and not (options.video or any(
            path.suffix.lower() == ".svg" for path in options.strokes)):
        raise cli.UserError("--seconds needs a video or an .svg to write")
    return options


def main(options: PaintOptions) -> None:
    """Paint as the options say."""
    from painting.paint import paint_pictures  # its imports take seconds, mistakes none

    paint_pictures(options)


if __name__ == "__main__":
    cli.run(lambda: main(parse_args()))
