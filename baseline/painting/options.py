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
    divide: tuple[int, int] | None  # rows and columns of tiles, None: chosen by the image's shape
    overlap: int  # pixels
    refine: int  # steps
    actor: Path
    renderer: Path
    seed: int
    output: Path  # a folder, or the file of the finished painting
    alone: bool  # whether ``output`` is that file
    frames: int | None  # write each such frame; None: what nobody asked for
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
        """Where the frames go."""
        return self.output if not self.alone else self.output.parent if self.frames else None

    @property
    def painting(self) -> Path:
        """Where the finished painting goes."""
        return self.output if self.alone else self.output / "painting.png"

    def files(self) -> list[Path]:
        """Return the files to write, but for the frames and the finished painting."""
        return [path for path in (self.video, *self.strokes, self.compare) if path]

    def named(self, name: str | None) -> "PaintOptions":
        """Return the options with the files of the one painting of this name among several."""
        if name is None:
            return self

        def own(path: Path | None) -> Path | None:
            return path and path.with_stem(f"{path.stem}-{name}")

        return replace(self, output=own(self.output) if self.alone else self.output / name,
                       video=own(self.video), strokes=list(map(own, self.strokes)),
                       compare=own(self.compare))


@dataclass(frozen=True)
class ReplayOptions:
    """What ``replay.py`` is to write of a stroke file."""

    file: Path
    output: Path
    size: int | None  # longest side, pixels
    until: int | None  # strokes
    fps: float | None
    seconds: float | None
    lines: bool
    millimetres: float | None


def frame_step(text: str) -> int:
    """Read --frames: ``all`` is 1, ``N`` or ``every N`` N, ``last`` more than there are."""
    if text in ("all", "last"):
        return 1 if text == "all" else sys.maxsize
    if not (words := re.fullmatch(r"(?:every\s+)?0*([1-9]\d{0,17})", text, re.ASCII)):
        raise UserError(f"--frames takes all, last, or every N, a whole number from 1; not {text}")
    return int(words[1])
