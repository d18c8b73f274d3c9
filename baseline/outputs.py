"""The files that a painting is written to."""

import argparse
from contextlib import ExitStack
from pathlib import Path

from painting import Painting
from Renderer.stroke_file import write_json
from Renderer.svg import write_svg
from utils.frames import every, fitted
from utils.pictures import FrameWriter, compare, resized, write_picture
from utils.video import Video
from utils.weights import make_folder


class Files:
    """The files of one painting."""

    def __init__(
        self, options: argparse.Namespace, painting: Painting, several: bool, total: int
    ) -> None:
        """several: whether there are more paintings, so that each needs names of its own.

        total: frames of the painting.  Raises UserError where something cannot be written.
        """
        def own(path: Path | None) -> Path | None:
            return path.with_stem(f"{path.stem}-{painting.path.stem}") if several and path else path

        self.options, self.painting = options, painting
        folder = options.output / painting.path.stem if several else options.output
        video, self.compare = own(options.video), own(options.compare)
        self.strokes = [own(path) for path in options.strokes]
        self.written = [path for path in (video, *self.strokes, self.compare) if path]
        for each in (folder, *(path.parent for path in self.written)):
            make_folder(each)
        height, width = painting.picture.shape[:2]
        self.frames = FrameWriter(folder, options.imgid, width, height,
                                  every(options.frames, total))
        self.sinks = [self.frames]
        if video:
            self.sinks.append(Video(video, height=height, width=width, fps=options.fps,
                                    times=fitted(total, options.fps, options.seconds)))

    def open(self, stack: ExitStack) -> None:
        """Let the painting's frames go to the files until ``stack`` ends."""
        for sink in self.sinks:
            self.painting.sinks.append(stack.enter_context(sink))

    def finish(self) -> None:
        """Write what is made of a whole painting."""
        options, picture = self.options, self.painting.picture
        size = picture.shape[:2]
        kept = ("max_step", "divide", "overlap", "refine", "seed")
        settings = {"image": self.painting.path.name} | {k: vars(options)[k] for k in kept}
        for path in self.strokes:
            if path.suffix.lower() == ".json":
                write_json(path, self.painting.strokes(), size, settings)
            else:
                write_svg(path, self.painting.strokes(), size, options.seconds)
        if self.compare:
            write_picture(self.compare, compare(picture, resized(self.painting.frame, *size[::-1])))
