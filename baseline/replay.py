#!/usr/bin/env python3
"""Paint a stroke file again, at any size, as a picture, a video or SVG."""

import argparse
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from painting.frames import fitted
from painting.raster import paint_frames
from painting.stroke_file import read_json
from painting.strokes import Strokes
from painting.svg import write_svg
from painting.video import KINDS, Video
from utils.command import (
    Parser,
    UserError,
    enough_memory,
    new_file,
    number,
    path,
    positive_float,
    positive_int,
    run,
    seconds,
)
from utils.pictures import picture_file, write_picture

LARGEST = 16384  # pixels a side


def size_with_side(size: tuple[int, int], side: int | None) -> tuple[int, int]:
    """A height and width with this longest side."""
    share = (side or max(size)) / max(size)
    height, width = (max(1, round(length * share)) for length in size)
    if max(height, width) > LARGEST:
        raise UserError(f"{width}x{height} is too large; --size takes {LARGEST} at most")
    return height, width


def frames(
    strokes: Strokes, size: tuple[int, int], ends: Iterable[int]
) -> Iterator[np.ndarray]:
    """The picture after so many strokes each time, with a progress bar."""
    with tqdm(total=len(strokes), unit="stroke", disable=None) as bar:
        yield from paint_frames(strokes, *size, ends, bar.update)


def write_video(
    path: Path, strokes: Strokes, size: tuple[int, int], fps: float, seconds: float | None
) -> str:
    """Write a video in which a stroke is a frame, or as many of them as fit in the seconds."""
    times = fitted(len(strokes), fps, seconds)
    shown = np.flatnonzero(times)
    with Video(path, height=size[0], width=size[1], fps=fps, times=times[shown]) as video:
        for frame in frames(strokes, (video.height, video.width), (shown + 1).tolist()):
            video.write(frame)
    return f"{video.width}x{video.height}, {times.sum() / fps:.1f} s at {fps:g} frames a second"


@enough_memory("--size")
def main(options: argparse.Namespace) -> None:
    """Paint as the options say; see ``parse_args``."""
    start = time.monotonic()
    output, kind = options.output, options.output.suffix.lower()
    strokes, size, _ = read_json(options.file)
    strokes = strokes[: options.until]
    if len(strokes) == 0:
        raise UserError(f"{options.file} holds no strokes")
    size = size_with_side(size, options.size)
    what = f"{size[1]}x{size[0]}"
    if kind == ".svg":
        write_svg(output, strokes, size, options.seconds)
    elif kind in KINDS:
        what = write_video(output, strokes, size, options.fps or 30, options.seconds)
    else:
        picture_file(output)
        write_picture(output, next(frames(strokes, size, [len(strokes)])))
    spent = time.monotonic() - start
    print(f"{len(strokes)} strokes in {spent:.1f} s: {output}, {what}", flush=True)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("file", type=path, help="the JSON that test.py --strokes wrote")
    parser.add_argument("--output", type=new_file, default=Path("replay.png"),
                        help="a picture (.png, .jpg, ..), a video (.mp4, .gif) or .svg")
    parser.add_argument("--size", metavar="N",
                        type=number(int, 1, LARGEST + 1, f"a whole number from 1 to {LARGEST}"),
                        help="longest side in pixels (default: as the picture that was painted)")
    parser.add_argument("--until", type=positive_int, metavar="N",
                        help="paint the first N strokes only")
    parser.add_argument("--fps", type=positive_float, help="frames a second of a video (30)")
    parser.add_argument("--seconds", type=seconds,
                        help="length of a video, or of an SVG that paints itself")
    options = parser.parse_args()
    kind = options.output.suffix.lower()
    if options.output.resolve() == options.file.resolve():
        raise UserError(f"--output {options.output} would take the place of the strokes")
    if options.fps and kind not in KINDS:
        raise UserError(f"--fps is for videos; {options.output} is none")
    if options.seconds and kind not in (*KINDS, ".svg"):
        raise UserError(f"--seconds is for videos and SVG; {options.output} is neither")
    return options


if __name__ == "__main__":
    run(lambda: main(parse_args()))
