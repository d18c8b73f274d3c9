"""A stroke file painted again, at any size, as a picture, a video or SVG."""

import argparse
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from constants import LONGEST_SIDE, VIDEOS
from painting.frames import fitted
from painting.plot import write_plot
from painting.stroke_file import read_json
from painting.svg import write_svg
from painting.video import Video
from Renderer.raster import paint_frames
from Renderer.strokes import Strokes
from utils.command import UserError, enough_memory
from utils.pictures import picture_file, write_picture


def size_with_side(size: tuple[int, int], side: int | None) -> tuple[int, int]:
    """A height and width with this longest side."""
    share = (side or max(size)) / max(size)
    height, width = (max(1, round(length * share)) for length in size)
    if max(height, width) > LONGEST_SIDE:
        raise UserError(f"{width}x{height} is too large; --size takes {LONGEST_SIDE} at most")
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
            video.check()
    video.check()
    return f"{video.width}x{video.height}, {times.sum() / fps:.1f} s at {fps:g} frames a second"


@enough_memory("--size")
def paint_again(options: argparse.Namespace) -> None:
    """Paint and write as the options of ``replay.py`` say."""
    start = time.monotonic()
    output, kind = options.output, options.output.suffix.lower()
    strokes, size, _ = read_json(options.file)
    strokes = strokes[: options.until]
    if len(strokes) == 0:
        raise UserError(f"{options.file} holds no strokes")
    size = size_with_side(size, options.size)
    what = f"{size[1]}x{size[0]}"
    if options.lines:
        write_plot(output, strokes, size, options.millimetres)
    elif kind == ".svg":
        write_svg(output, strokes, size, options.seconds)
    elif kind in VIDEOS:
        what = write_video(output, strokes, size, options.fps or 30, options.seconds)
    else:
        picture_file(output, *size)
        write_picture(output, next(frames(strokes, size, [len(strokes)])))
    spent = time.monotonic() - start
    print(f"{len(strokes)} strokes in {spent:.1f} s: {output}, {what}", flush=True)
