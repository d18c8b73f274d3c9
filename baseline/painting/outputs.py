"""The files that paintings are written to."""

import argparse
import os
import re
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from painting.frames import FrameWriter, every, fitted
from painting.painting import Painting
from painting.stroke_file import write_json
from painting.svg import write_svg
from painting.video import KINDS, Video, video_kind
from utils.command import LONGEST_NAME, UserError
from utils.files import in_turn, keep_apart, make_room, real
from utils.listing import SUFFIXES
from utils.pictures import compare, compared_width, picture_file, resized, write_picture

LARGE = 2e6  # pixels of an image, above which not all frames are written unasked
FRAME_BYTES = 0.37  # a pixel of a frame, about: 0.23 on the whole canvas, 0.48 on 4x4 tiles


class Paths(NamedTuple):
    """Where the files of one painting go."""

    frames: Path | None  # a folder, where some are to be written
    painting: Path  # the finished one
    video: Path | None
    strokes: list[Path]
    compare: Path | None

    @classmethod
    def of(cls, options: argparse.Namespace, name: str | None) -> "Paths":
        """name: that of the painting, where there are more of them; see ``own_names``."""
        def own(path: Path | None) -> Path | None:
            return path and (path.with_stem(f"{path.stem}-{name}") if name else path)

        if names_a_picture(options.output):
            folder = options.output.parent if options.frames else None
            painting = own(options.output)
        else:
            folder = options.output / name if name else options.output
            painting = folder / "painting.png"
        return cls(folder, painting, own(options.video), list(map(own, options.strokes)),
                   own(options.compare))

    def files(self) -> list[Path]:
        """All but the frames and the finished painting."""
        return [path for path in (self.video, *self.strokes, self.compare) if path]


def own_names(images: list[Path]) -> list[str | None]:
    """A name for each painting's files: its image's, with a number from the second of a name on.

    One painting alone needs none.
    """
    if len(images) == 1:
        return [None]
    names: list[str | None] = []
    stems, used = {image.stem.casefold() for image in images}, set()
    for image in images:
        name, number = image.stem, 1
        while name.casefold() in used or (number > 1 and name.casefold() in stems):
            number += 1
            name = f"{image.stem}-{number}"
        names.append(name)
        used.add(name.casefold())
    return names


def names_a_picture(output: Path) -> bool:
    """Whether ``--output`` is a file for the finished painting, and no folder."""
    return output.suffix.lower() in {*SUFFIXES, ".hdr"} and not output.is_dir()


def check_places(options: argparse.Namespace, images: list[Path]) -> None:
    """Raise UserError where a file cannot be written, or would take the place of another one."""
    for path in options.strokes:
        if path.suffix.lower() not in (".json", ".svg"):
            raise UserError(f"cannot write {path}: the name of a stroke file ends in .json or .svg")
    if options.video:
        video_kind(options.video, options.fps)
    if options.compare:
        picture_file(options.compare)
    if names_a_picture(options.output):
        picture_file(options.output)
        if options.frames and len(images) > 1:
            raise UserError("frames of several images need a folder for each: let --output be one")
    elif options.output.suffix.lower() in (".json", ".svg", *KINDS) and not options.output.is_dir():
        raise UserError(f"--output {options.output} is no picture; --strokes writes strokes and "
                        "--video videos")
    read = dict.fromkeys(images, "the image") | dict.fromkeys(
        (options.actor, options.renderer), "the weights")
    written, folders = [], set()
    for image, name in zip(images, own_names(images), strict=True):
        if name in (".", ".."):
            raise UserError(f"{image} gives no name for its folder; paint it alone or rename it")
        paths = Paths.of(options, name)
        for path in (paths.painting, *paths.files()):
            if path.is_dir():
                raise UserError(f"cannot write {path}: it is a folder")
            if len(os.fsencode(path.name)) > LONGEST_NAME:
                raise UserError(f"the name {path.name} is too long; paint {image} alone")
            written.append(path)
        folders.add(paths.frames and real(paths.frames))
    for path, what in keep_apart(written, read).items():
        if path.parent in folders and re.fullmatch(r"generated\d+\.png", path.name):
            raise UserError(f"a frame could take the place of {what}; name another --output")


class Files:
    """The files of one painting."""

    def __init__(self, options: argparse.Namespace, painting: Painting, total: int) -> None:
        """total: frames of the painting.  Raises UserError where a folder cannot be written.

        ``wanted`` are the frames that go anywhere, from 0; where strokes are refined no others need
        to be made.
        """
        self.painting, self.seconds = painting, options.seconds
        self.paths = Paths.of(options, painting.name)
        height, width = painting.picture.shape[:2]
        picture_file(self.paths.painting, height, width)
        if self.paths.compare:
            picture_file(self.paths.compare, height, compared_width(width))
        for path in self.paths.files():
            make_room(path)
        folder, times = self.paths.frames, []
        if folder:
            large = not options.frames and height * width > LARGE
            if large:
                size = FRAME_BYTES * height * width * total
                print(f"{painting.path.name}: only the last of {total} frames is written; "
                      f"--frames all would take about {size / 1e6:.0f} MB", flush=True)
            times.append(every(sys.maxsize if large else options.frames or 1, total))
        if self.paths.video:
            times.append(fitted(total, options.fps, options.seconds))
        needed = np.any([*times, np.arange(total) == total - 1], 0)
        self.wanted = np.flatnonzero(needed) if options.refine else np.arange(total)
        self.frames = FrameWriter(folder, options.imgid, width, height,
                                  times[0][self.wanted]) if folder else None
        self.video = Video(self.paths.video, height=height, width=width, fps=options.fps,
                           times=times[-1][self.wanted]) if self.paths.video else None
        self.sinks = [sink for sink in (self.frames, self.video) if sink]

    def open(self, stack: ExitStack) -> None:
        """Let the painting's frames go to the files until ``stack`` ends."""
        for sink in self.sinks:
            self.painting.sinks.append(stack.enter_context(sink))

    def finish(self, settings: dict[str, Any]) -> str:
        """Write what is made of a whole painting, itself first.

        Returns a list of all files for the user.  Raises UserError where one could not be written,
        after the others.
        """
        picture, strokes = self.painting.picture, self.painting.strokes()
        size = picture.shape[:2]
        painted = resized(self.painting.frame, *size[::-1])
        source = {"image": self.painting.path.name} | settings
        work = [partial(write_picture, self.paths.painting, painted)]
        work += [partial(write_json, path, strokes, size, source)
                 if path.suffix.lower() == ".json" else
                 partial(write_svg, path, strokes, size, self.seconds)
                 for path in self.paths.strokes]
        if self.paths.compare:
            work.append(lambda: write_picture(self.paths.compare, compare(picture, painted)))
        in_turn((*work, *(sink.check for sink in self.sinks)))
        frames = self.frames.written() if self.frames else []
        return "; ".join((*frames, *map(str, self.paths.files())))

    def later_frames(self) -> list[Path]:
        """Frames of an earlier painting that follow this one's."""
        return self.frames.later_frames() if self.frames else []
