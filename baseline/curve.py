#!/usr/bin/env python3
"""Draw the error of training runs on test images against their length, over the paper's curves."""

import argparse
import csv
import io
import os
import re
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from utils.command import (
    LOG,
    TRAIN_LOG,
    Parser,
    UserError,
    new_file,
    one_line,
    path_type,
    positive_int,
    run,
    weight,
)
from utils.files import in_turn, keep_apart, reason, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = TRAIN_LOG / "paper_curves.csv"
KINDS = (".svg", ".png", ".pdf")


class Curve(NamedTuple):
    """A line of the picture."""

    name: str
    frames: list[float]  # training frames: updates times batch size, as the paper counts them
    errors: list[float]  # as many; mean squared error over pixels in [0, 1]


def log_of(source: Path) -> Path:
    """The log of a run's folder, or a log itself."""
    return source / LOG if source.is_dir() else source


def read_run(source: Path, strokes: int) -> Curve:
    """The curve of a run, from its folder or a log like the one in there.

    Raises UserError where there is none for so many strokes.
    """
    if not source.is_dir() and source.suffix.lower() != ".csv":
        raise UserError(f"{source} is no folder of a training run, and no .csv file")
    file = log_of(source)
    tag = f"error_{strokes}"
    try:
        rows = list(csv.DictReader(file.read_text().splitlines()))
        # A line without the error is let be: a resumed run may log other lengths than before.
        points = [(weight(row.get("frames") or "nothing"), weight(row[tag]))
                  for row in rows if row.get(tag)]
    except OSError as error:
        raise UserError(f"{file} cannot be read: {reason(error)}") from error
    except (argparse.ArgumentTypeError, ValueError, csv.Error) as error:
        raise UserError(f"{file} is no log of a training of the agent: {error}") from error
    if not points:
        names = "\n".join({name for row in rows for name, cell in row.items() if name and cell})
        there = sorted(re.findall(r"^error_(\d{1,9})$", names, re.MULTILINE), key=int)
        raise UserError(f"{file} holds no error after {strokes} strokes, but of "
                        f"{', '.join(there) or 'none'}: see --strokes")
    name = file.parent.resolve().name if file.name == LOG else file.stem
    return Curve(one_line(name), *map(list, zip(*points, strict=True)))


def read_paper(names: list[str]) -> list[Curve]:
    """Curves of the paper.  Raises UserError where it has none of a name."""
    try:
        rows = list(csv.DictReader(PAPER.read_text().splitlines()))
    except OSError as error:
        raise UserError(f"{PAPER} cannot be read: {reason(error)}") from error
    if unknown := [name for name in names if name not in {row["series"] for row in rows}]:
        known = ", ".join(dict.fromkeys(row["series"] for row in rows))
        raise UserError(f"the paper has no series {unknown[0]}; --paper can be: {known}")
    columns = ("training_frames", "test_l2_mse")
    return [Curve(name, *([float(row[column]) for row in rows if row["series"] == name]
                          for column in columns))
            for name in names]


def draw(ours: list[Curve], paper: list[Curve], strokes: int) -> "Figure":
    """A picture of all curves, on logarithmic axes."""
    os.environ.pop("MPLBACKEND", None)  # a notebook's would be looked for, though no window is
    from matplotlib.figure import Figure  # takes long to import, and --help needs none
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(7.5, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for curve in paper:
        axes.plot(curve.frames, curve.errors, ".-", markersize=5, linewidth=0.8,
                  label=f"paper: {curve.name}")
    for curve in ours:
        axes.plot(curve.frames, curve.errors, "o-", markersize=5, linewidth=2,
                  label=f"ours: {curve.name}")
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
    return figure


def main(options: argparse.Namespace) -> None:
    """Draw as the options say; see ``parse_args``."""
    paper = read_paper(options.paper) if options.paper else []
    ours = [read_run(folder, options.strokes) for folder in options.runs]
    figure, kind = draw(ours, paper, options.strokes), options.output.suffix[1:].lower()
    files = {options.output: lambda file: figure.savefig(file, format=kind)}
    if options.csv:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("series", "training_frames", "test_l2_mse"))
        for name, frames, errors in ours:
            writer.writerows((name, int(x), f"{y:.6f}")
                             for x, y in zip(frames, errors, strict=True))
        files[options.csv] = lambda file: file.write(text.getvalue().encode())
    in_turn(partial(write_atomically, path, write) for path, write in files.items())
    for name, frames, errors in (*paper, *ours):
        print(f"{name}: {errors[-1]:.5f} after {frames[-1]:,.0f} frames", flush=True)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__doc__, 'python3 baseline/curve.py train_log/Paint-run1 --paper "CelebA 200"')
    add = parser.add_argument
    add("runs", nargs="+", type=path_type, metavar="RUN",
        help=f"a folder that train.py made, or a {LOG} of one; each is a line")
    add("--paper", nargs="+", default=[], metavar="SERIES",
        help='curves of the paper beside them, such as "CelebA 200"; an unknown one lists them all')
    add("--strokes", type=positive_int, default=200, metavar="N",
        help="the error after so many strokes")
    add("-o", "--output", type=new_file, metavar="FILE", default=Path("curve.svg"),
        help=f"the picture: {', '.join(KINDS)}")
    add("--csv", type=new_file, metavar="FILE", help="our points as numbers too")
    options = parser.parse_args()
    if options.output.suffix.lower() not in KINDS:
        raise UserError(f"--output {options.output} must end in {', '.join(KINDS)}")
    keep_apart([options.output, options.csv],
               {log_of(source): "the log" for source in options.runs} | {PAPER: "the curves"})
    return options


if __name__ == "__main__":
    run(lambda: main(parse_args()))
