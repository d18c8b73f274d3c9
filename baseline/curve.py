#!/usr/bin/env python3
"""Draw the error of training runs on test images against their length, over the paper's curves."""

import argparse
import csv
import os
import warnings
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from utils import command as cli
from utils.command import LOG, TRAIN_LOG, UserError
from utils.files import keep_apart, refusing, write_atomically

PAPER = TRAIN_LOG / "paper_curves.csv"
COLUMNS = ("series", "training_frames", "test_l2_mse")  # of PAPER, among others
KINDS = (".svg", ".png", ".pdf")


class Curve(NamedTuple):
    """A line of the picture."""

    name: str
    frames: list[float]  # training frames: updates times batch size, as the paper counts them
    errors: list[float]  # the MSE after each, over pixels in [0, 1]


def log_of(source: Path) -> Path:
    """Return the log in a run's folder; the source itself where it is a file."""
    return source / LOG if source.is_dir() else source


def read_run(source: Path, strokes: int) -> Curve:
    """Return the curve of a run, from its folder or a copy of its log.

    Raises UserError where it has no error after that number of strokes.
    """
    file, tag = log_of(source), f"error_{strokes}"
    if file.suffix.lower() != ".csv":
        raise UserError(f"{source} is no folder of a training run, and no .csv file")
    try:
        with refusing(f"{file} cannot be read"):
            rows = list(csv.DictReader(file.read_text().splitlines()))
        # Rows without the error are skipped: a resumed run may log other lengths than before.
        points = [(cli.weight(row.get("frames") or "nothing"), cli.weight(row[tag]))
                  for row in rows if row.get(tag)]
    except (argparse.ArgumentTypeError, ValueError, csv.Error) as error:
        raise UserError(f"{file} is no log of a training of the agent: {error}") from error
    if not points:
        names = [name.removeprefix("error_") for name in rows[0] if name] if rows else []
        measured = ", ".join(name for name in names if name.isdecimal())
        raise UserError(f"{file} holds no error after {strokes} strokes, but of "
                        f"{measured or 'none'}: see --strokes")
    name = file.parent.resolve().name if file.name == LOG else file.stem
    return Curve(cli.one_line(name), *map(list, zip(*points, strict=True)))


def read_paper(names: list[str]) -> list[Curve]:
    """Return curves of the paper.  Raises UserError where it has none of a name."""
    curves: dict[str, Curve] = {}
    for row in csv.DictReader(PAPER.read_text().splitlines()):
        series, frames, error = (row[name] for name in COLUMNS)
        curve = curves.setdefault(series, Curve(series, [], []))
        curve.frames.append(float(frames))
        curve.errors.append(float(error))
    if unknown := [name for name in names if name not in curves]:
        raise UserError(f"the paper has no series {unknown[0]}; --paper can be: "
                        f"{', '.join(curves)}")
    return [curves[name] for name in names]


def draw(ours: list[Curve], paper: list[Curve], strokes: int, kind: str, file: BinaryIO) -> None:
    """Draw all curves on logarithmic axes into a file of a kind like "svg"."""
    os.environ.pop("MPLBACKEND", None)  # a notebook's would be imported, though no window is shown
    from matplotlib.figure import Figure  # takes long to import, and --help needs none
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(7.5, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for source, curves, style, width in (("paper", paper, ".-", 0.8), ("ours", ours, "o-", 2)):
        for name, frames, errors in curves:
            axes.plot(frames, errors, style, markersize=5, linewidth=width,
                      label=f"{source}: {name}")
    axes.set(xscale="log", yscale="log", title=f"Test images after {strokes} strokes",
             xlabel="training frames (updates × batch size)",
             ylabel="mean squared error, pixels in [0, 1]")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    warnings.filterwarnings("ignore", "Glyph .* missing")  # of a folder's name in any alphabet
    axes.grid(which="major", alpha=0.3)
    for text in axes.legend().get_texts():
        text.set_parse_math(False)  # a folder may be called $
    figure.savefig(file, format=kind)


def main(options: argparse.Namespace) -> None:
    """Draw as the options say; see ``parse_args``."""
    paper = read_paper(options.paper) if options.paper else []
    ours = [read_run(folder, options.strokes) for folder in options.runs]
    kind = options.output.suffix[1:].lower()
    write_atomically(options.output, partial(draw, ours, paper, options.strokes, kind))
    for name, frames, errors in (*paper, *ours):
        print(f"{name}: {errors[-1]:.5f} after {frames[-1]:,.0f} frames", flush=True)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(
        __doc__, 'python3 baseline/curve.py train_log/Paint-run1 --paper "CelebA 200"')
    add = parser.add_argument
    add("runs", nargs="+", type=cli.path_type, metavar="RUN",
        help=f"a folder that train.py made, or a {LOG} of one; each is a line")
    add("--paper", nargs="+", default=[], metavar="SERIES",
        help='curves of the paper to add, like "CelebA 200"; an unknown one lists them all')
    add("--strokes", type=cli.positive_int, default=200, metavar="N",
        help="the error after that number of strokes")
    add("-o", "--output", type=cli.new_file, metavar="FILE", default=Path("curve.svg"),
        help=f"the picture: {', '.join(KINDS)}")
    options = parser.parse_args()
    if options.output.suffix.lower() not in KINDS:
        raise UserError(f"--output {options.output} must end in {', '.join(KINDS)}")
    keep_apart([options.output],
               {log_of(source): "the log" for source in options.runs} | {PAPER: "the curves"})
    return options


if __name__ == "__main__":
    cli.run(lambda: main(parse_args()))
