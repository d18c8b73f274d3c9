#!/usr/bin/env python3
"""Paint a stroke file again, at any size, as a picture, a video or SVG."""

from pathlib import Path

from constants import VIDEOS
from utils import command as cli
from utils.files import keep_apart


def parse_args() -> cli.Options:
    """Return the options of the command line; raise UserError where they do not go together."""
    parser = cli.Parser(__doc__, "python3 baseline/replay.py strokes.json --size 2048")
    add = parser.add_argument
    add("file", type=cli.path_type, help="the JSON that test.py --strokes wrote")
    add("-o", "--output", type=cli.new_file, metavar="FILE", default=Path("replay.png"),
        help="a picture (.png, .jpg, ..), a video (.mp4, .gif) or .svg")
    add("--size", type=cli.size_type, metavar="N",
        help="longest side in pixels (as the picture that was painted)")
    add("--until", type=cli.positive_int, metavar="N", help="paint the first N strokes only")
    add("--fps", type=cli.positive_float, metavar="N", help="frames a second of a video (30)")
    add("--seconds", type=cli.seconds_type, metavar="S",
        help="length of a video, or of an SVG that paints itself")
    add("--lines", action="store_true",
        help="write the strokes' center lines as SVG, for plotters: one path each, by color")
    add("--millimetres", type=cli.positive_float, metavar="W", help="width of the page of --lines")
    options = cli.freeze(parser.parse_args())
    kind = options.output.suffix.lower()
    keep_apart([options.output], {options.file: "the strokes"})
    if options.lines and kind != ".svg":
        raise cli.UserError(f"--lines writes an .svg; {options.output} is none")
    if options.millimetres and not options.lines:
        raise cli.UserError("--millimetres is for --lines")
    if options.fps and kind not in VIDEOS:
        raise cli.UserError(f"--fps is for videos; {options.output} is none")
    if options.seconds and (options.lines or kind not in (*VIDEOS, ".svg")):
        raise cli.UserError("--seconds is for videos and for SVG without --lines")
    return options


def main(options: cli.Options) -> None:
    """Paint as the options say."""
    from painting.outputs import paint_again  # its imports take seconds, mistakes none

    paint_again(options)


if __name__ == "__main__":
    cli.run(lambda: main(parse_args()))
