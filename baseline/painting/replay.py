"""Paint a stroke file again, at any size, as a picture, a video or SVG."""

import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from constants import VIDEOS
from painting.drawing import draw_frames, size_of
from painting.frames import Writer, fitted
from painting.options import ReplayOptions
from painting.stroke_file import read_json
from painting.svg import write_plot, write_svg
from painting.video import open_video
from Renderer.strokes import Strokes
from utils.command import UserError, enough_memory
from utils.pictures import picture_file, write_picture


def draw(
    strokes: Strokes, size: tuple[int, int], writers: list[Writer]
) -> np.ndarray:
    """Draw strokes with a progress bar, one a frame; see ``draw_frames``."""
    with tqdm(total=len(strokes), unit="stroke", disable=None) as bar:
        return draw_frames(strokes, [1] * len(strokes), size, writers, len(strokes), bar.update)


def write_video(
    path: Path, strokes: Strokes, size: tuple[int, int], fps: float, seconds: float | None
) -> str:
    """Write a video, a frame per stroke or as many as fit in the seconds; describe its size."""
    times = fitted(len(strokes), fps, seconds)
    with open_video(path, height=size[0], width=size[1], fps=fps, times=times) as video:
        draw(strokes, (video.height, video.width), [video])
    video.check()
    return f"{video.width}x{video.height}, {times.sum() / fps:.1f} s at {fps:g} frames a second"


@enough_memory("--size")
def paint_again(options: ReplayOptions) -> None:
    """Paint and write as the options of ``replay.py`` say."""
    start = time.monotonic()
    output, kind = options.output, options.output.suffix.lower()
    strokes, size, _ = read_json(options.file)
    strokes = strokes[: options.until]
    if len(strokes) == 0:
        raise UserError(f"{options.file} holds no strokes")
    size = size_of(*size, options.size or max(size))
    what = f"{size[1]}x{size[0]}"
    if options.lines:
        write_plot(output, strokes, size, options.millimetres)
    elif kind == ".svg":
        write_svg(output, strokes, size, options.seconds)
    elif kind in VIDEOS:
        what = write_video(output, strokes, size, options.fps or 30, options.seconds)
    else:
        picture_file(output, *size)
        write_picture(output, draw(strokes, size, []))
    spent = time.monotonic() - start
    print(f"{len(strokes)} strokes in {spent:.1f} s: {output}, {what}", flush=True)
