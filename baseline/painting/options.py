"""The command lines of painting as frozen values, which the scripts make once."""

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from utils.command import UserError


@dataclass(frozen=True)
class PaintOptions:
    """How ``test.py`` is to paint which images, and what it writes."""

    images: list[Path]
    max_step: int | None  # None: as many as the actor learned
    divide: tuple[int, int] | str  # rows and columns of tiles, or auto: by the image's shape
    refine: int  # steps
    actor: Path | None  # None: random strokes
    stroke: str | None  # the family of random strokes, None: the renderer's
    renderer: Path | None  # None: renderer.pkl where one is needed
    canvas: str | None  # that the actor sees, exact or neural, None: that it learned on
    seed: int
    output: Path  # a folder, or the file that is wanted
    alone: bool  # whether ``output`` is that file
    size: int | None  # pixels of its longer side
    background: str | None  # behind what is transparent: #rrggbb, none, or None: white
    frames: int | None  # N: write every N-th frame and the last; None: see ``writers_of``
    video: Path | None
    fps: float
    seconds: float | None
    strokes: list[Path]
    compare: Path | None
    imgid: int  # number of the first frame
    device: str
    precision: str

    @property
    def folder(self) -> Path | None:
        """Return the folder of the frames."""
        return self.output if not self.alone else self.output.parent if self.frames else None

    @property
    def painting(self) -> Path | None:
        """Return the file of the finished painting, None where only other files are wanted."""
        if not self.alone:
            return self.output / "painting.png"
        return None if self.output in (self.video, *self.strokes) else self.output

    @property
    def behind(self) -> str:
        """Return the color behind what is transparent in a photo."""
        return "white" if self.background in (None, "none") else self.background

    @property
    def ground(self) -> tuple[int, ...] | None:
        """Return the color of an SVG's ground, RGB: black, as of the canvas, if none was chosen."""
        if self.background == "none":
            return None
        return tuple(bytes.fromhex((self.background or "#000000")[1:]))

    def files(self) -> list[Path]:
        """Return the files to write, but for the frames."""
        return [path for path in (self.painting, self.video, *self.strokes, self.compare) if path]

    def named(self, name: str | None) -> "PaintOptions":
        """Return the options with the files of the one painting of this name among several."""
        if name is None:
            return self

        def own(path: Path | None) -> Path | None:
            return path and path.with_stem(f"{path.stem}-{name}")

        return replace(self, output=own(self.output) if self.alone else self.output / name,
                       video=own(self.video), strokes=list(map(own, self.strokes)),
                       compare=own(self.compare))


def frame_step(text: str) -> int:
    """Read --frames: ``all`` is 1, ``N`` or ``every N`` N, ``last`` more than there are."""
    if text in ("all", "last"):
        return 1 if text == "all" else sys.maxsize
    if not (words := re.fullmatch(r"(?:every\s+)?0*([1-9]\d{0,17})", text, re.ASCII)):
        raise UserError(f"--frames takes all, last, or every N, a whole number from 1; not {text}")
    return int(words[1])
