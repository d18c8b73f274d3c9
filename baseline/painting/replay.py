"""Paint a stroke file again, at any size, as a picture, a video or SVG."""

import time

import numpy as np
from tqdm import tqdm

from constants import VIDEOS
from painting.frames import Writer, draw_frames, fitted, size_of
from painting.options import ReplayOptions
from painting.stroke_file import read_json
from painting.svg import write_plot, write_svg
from painting.video import open_video
from Renderer.strokes import Strokes
from utils.command import UserError, enough_memory
from utils.pictures import picture_file, write_picture


@enough_memory("--size")
def paint_again(options: ReplayOptions) -> None:
    """Paint and write as the options of ``replay.py`` say."""
    start = time.monotonic()
    output, kind = options.output, options.output.suffix.lower()
    strokes, size, _ = read_json(options.file)
    strokes = strokes[: options.until]
    if not (count := len(strokes)):
        raise UserError(f"{options.file} holds no strokes")
    height, width = size = size_of(*size, options.size or max(size))
    what = f"{width}x{height}"
    if options.lines:
        write_plot(output, strokes, size, options.millimetres)
    elif kind == ".svg":
        write_svg(output, strokes, size, options.seconds)
    elif kind in VIDEOS:
        fps = options.fps or 30
        times = fitted(count, fps, options.seconds)
        with open_video(output, height=height, width=width, fps=fps, times=times) as video:
            draw(strokes, (video.height, video.width), [video])
        video.check()
        what = f"{video.width}x{video.height}, {times.sum() / fps:.1f} s at {fps:g} frames a second"
    else:
        picture_file(output, height, width)
        write_picture(output, draw(strokes, size, []))
    print(f"{count} strokes in {time.monotonic() - start:.1f} s: {output}, {what}", flush=True)


def draw(strokes: Strokes, size: tuple[int, int], writers: list[Writer]) -> np.ndarray:
    """Draw strokes with a progress bar, one a frame; see ``draw_frames``."""
    with tqdm(total=len(strokes), unit="stroke", disable=None) as bar:
        return draw_frames(strokes, [1] * len(strokes), size, writers, len(strokes), bar.update)
