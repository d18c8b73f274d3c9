"""Files of paintings and of stroke files that are painted again: checks, frames, finished ones."""

import os
import re
import sys
import time
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from constants import VIDEOS
from painting.frames import Frames, Writer, draw_frames, every, fitted, size_of
from painting.options import PaintOptions
from painting.stroke_file import read_json, write_json
from painting.svg import write_plot, write_svg
from painting.video import open_video, video_kind
from Renderer.strokes import Strokes
from utils.command import MAX_NAME_LENGTH, Options, UserError, enough_memory
from utils.files import in_turn, keep_apart, make_room, real
from utils.pictures import compare, picture_file, write_picture

LARGE = 2e6  # pixels of an image, above which not all frames are written unasked
FRAME_BYTES = 0.55  # a pixel of a frame, about: measured on a portrait at 1500x1500


def own_names(images: list[Path]) -> list[str | None]:
    """Return a name for each painting's files: its image's, with a number where it is taken.

    One painting alone needs none.
    """
    if len(images) == 1:
        return [None]
    stems, used = {image.stem.casefold() for image in images}, set()
    names: list[str | None] = []
    for image in images:
        numbered = (f"{image.stem}-{number}" for number in count(2))
        free = (name for name in numbered if name.casefold() not in stems | used)
        names.append(next(free) if image.stem.casefold() in used else image.stem)
        used.add(names[-1].casefold())
    return names


def check_places(options: PaintOptions) -> None:
    """Raise UserError where a file cannot be written, or would take the place of another one."""
    for path in options.strokes:
        if path.suffix.lower() not in (".json", ".svg"):
            raise UserError(f"cannot write {path}: the name of a stroke file ends in .json or .svg")
    if options.video:
        video_kind(options.video, options.fps)
    for path in filter(None, (options.compare, options.painting if options.alone else None)):
        picture_file(path)
    if options.alone and options.frames and len(options.images) > 1:
        raise UserError("frames of several images need a folder for each: let --output be one")
    read = dict.fromkeys(options.images, "the image") | dict.fromkeys(
        filter(None, (options.actor, options.renderer)), "the weights")
    written, folders = [], set()
    for image, name in zip(options.images, own_names(options.images), strict=True):
        if name in (".", ".."):
            raise UserError(f"{image} gives no name for its folder; paint it alone or rename it")
        own = options.named(name)
        for path in own.files():
            if len(os.fsencode(path.name)) > MAX_NAME_LENGTH:
                raise UserError(f"the name {path.name} is too long; paint {image} alone")
            written.append(path)
        folders.add(own.folder and real(own.folder))
    for path, what in keep_apart(written, read).items():
        if path.parent in folders and re.fullmatch(r"generated\d+\.png", path.name):
            raise UserError(f"a frame could take the place of {what}; name another --output")


def writers_of(
    options: PaintOptions, image: str, size: tuple[int, int], total: int
) -> list[Writer]:
    """Return the writers of the frames of a painting.

    options: with the painting's own files; image: its name; size: height and width of the
    painting; total: frames.  Raises UserError where a file or a folder cannot be written.
    """
    height, width = size
    if options.painting:
        picture_file(options.painting, height, width)
    if options.compare:
        lines = np.zeros((2, 1, width, 3), np.uint8)
        picture_file(options.compare, height, compare(*lines).shape[1])
    for path in options.files():
        make_room(path)
    writers: list[Writer] = []
    if options.folder:
        large = not options.frames and height * width > LARGE
        if large:
            written_bytes = FRAME_BYTES * height * width * total
            print(f"{image}: only the last of {total} frames is written; "
                  f"--frames all would take about {written_bytes / 1e6:.0f} MB", flush=True)
        step = sys.maxsize if large else options.frames or 1
        writers.append(Frames(options.folder, options.imgid, width, height, every(step, total)))
    if options.video:
        writers.append(open_video(options.video, height=height, width=width, fps=options.fps,
                                  times=fitted(total, options.fps, options.seconds)))
    return writers


def write_files(
    options: PaintOptions, photo: np.ndarray, alpha: np.ndarray | None, painting: np.ndarray,
    strokes: Strokes, source: dict[str, Any],
) -> None:
    """Write what is made of a whole painting.

    photo, painting: (h, w, 3) uint8 BGR; alpha: the opacity of the picture to write, (h, w) uint8,
    or None; source: the settings in a stroke file.  Raises UserError after the other files.
    """
    def write(path: Path) -> None:
        if path == options.compare:
            write_picture(path, compare(photo, painting))
        elif path == options.painting:
            write_picture(path, painting if alpha is None else np.dstack((painting, alpha)))
        elif path.suffix.lower() == ".json":
            write_json(path, strokes, painting.shape[:2], source)
        else:
            write_svg(path, strokes, painting.shape[:2], options.seconds, options.ground)

    in_turn(partial(write, path) for path in options.files() if path != options.video)


@enough_memory("--size")
def paint_again(options: Options) -> None:
    """Paint and write as the options of ``replay.py`` say."""
    start = time.monotonic()
    output, kind = options.output, options.output.suffix.lower()
    strokes, size, _ = read_json(options.file)
    strokes = strokes[: options.until]
    if len(strokes) == 0:
        raise UserError(f"{options.file} holds no strokes")
    height, width = size = size_of(*size, options.size or max(size))
    what = f"{width}x{height}"
    if options.lines:
        write_plot(output, strokes, size, options.millimetres)
    elif kind == ".svg":
        write_svg(output, strokes, size, options.seconds)
    elif kind in VIDEOS:
        fps = options.fps or 30
        times = fitted(len(strokes), fps, options.seconds)
        with open_video(output, height=height, width=width, fps=fps, times=times) as video:
            draw(strokes, (video.height, video.width), [video])
        video.check()
        what = f"{video.width}x{video.height}, {times.sum() / fps:.1f} s at {fps:g} frames a second"
    else:
        picture_file(output, height, width)
        write_picture(output, draw(strokes, size, []))
    spent = time.monotonic() - start
    print(f"{len(strokes)} strokes in {spent:.1f} s: {output}, {what}", flush=True)


def draw(strokes: Strokes, size: tuple[int, int], writers: list[Writer]) -> np.ndarray:
    """Draw strokes with a progress bar, one a frame; see ``draw_frames``."""
    with tqdm(total=len(strokes), unit="stroke", disable=None) as bar:
        return draw_frames(strokes, [1] * len(strokes), size, writers, len(strokes), bar.update)
