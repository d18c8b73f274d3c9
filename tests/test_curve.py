"""The learning curve: its arithmetic, the paper's points, the picture, bad input."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from curve import PAPER, Curve, chained, frames_at, read_paper, read_run
from utils.events import Events

# The ends of the paper's curves, as read off its figures.
ENDS = {
    "DDPG": 0.0423, "DDPG+PatchQ": 0.0109, "model-based DDPG": 0.0033, "1x200": 0.0050,
    "2x100": 0.0039, "5x40": 0.0033, "8x25": 0.0036, "100 strokes": 0.0050, "200 strokes": 0.0033,
    "400 strokes": 0.0030, "1000 strokes": 0.0024, "MNIST 5": 0.0060, "SVHN 40": 0.0013,
    "CelebA 200": 0.0031, "ImageNet 400": 0.0084,
}


def write_run(folder: Path, errors: tuple[float, ...] = (0.05, 0.03, 0.04)) -> Path:
    """A training's folder: steps of 10, from 30 rounds of 2 updates of 4, validated after each.

    After the first validation it was stopped and resumed, and lost what it had logged since.
    """
    folder.mkdir()
    options = {"batch_size": 4, "episode_train_times": 2}
    (folder / "run.json").write_text(json.dumps({"finished": True, "options": options}))
    for first, steps in ((1, (30, 40)), (31, (40, 50))):
        events = Events(folder, first)
        for step in steps:
            events.scalar("seconds/update", 0.1, step)
            for strokes, share in ((5, 2), (200, 1)):
                events.scalar(f"validation/error_{strokes}_strokes",
                              share * errors[(step - 30) // 10], step)
        events.flush()
        next(folder.glob("*.*.*.*.*")).rename(folder / f"tfevents.{first}")  # one name a second
    return folder


def test_frames_are_updates_times_batch_size():
    assert frames_at(np.array([1, 39, 40, 41, 120]), np.array([40, 80, 120]), 960).tolist() == [
        0, 0, 960, 960, 2880]


def test_a_run_is_read_from_its_log_and_options(tmp_path):
    name, frames, errors = read_run(write_run(tmp_path / "run"), 200)
    assert name == "run"
    assert frames.tolist() == [8, 16, 24]
    assert errors == pytest.approx([0.05, 0.03, 0.04])
    assert read_run(tmp_path / "run", 5).errors == pytest.approx([0.1, 0.06, 0.08])


def test_a_chain_goes_on_from_the_best_of_each_run():
    first = Curve("a", np.array([8.0, 16.0, 24.0]), np.array([0.05, 0.03, 0.04]))
    last = Curve("b", np.array([5.0, 10.0]), np.array([0.02, 0.025]))
    name, frames, errors = chained([first, last])
    assert name == "a, b"
    assert frames.tolist() == [8, 16, 21, 26]
    assert errors.tolist() == [0.05, 0.03, 0.02, 0.025]


def test_the_shipped_logs_are_what_the_readme_says():
    runs = [read_run(ROOT / "train_log" / f"actor-{number}", 200) for number in range(1, 8)]
    assert [run.frames[-1] for run in runs] == [
        4800 * 32, 4800 * 32, 960 * 32, 2880 * 48, 1320 * 32, 1200 * 32,
        1440 * 32]
    errors = [round(float(run.errors[-1]), 4) for run in runs]
    assert errors == [0.0167, 0.0137, 0.0152, 0.0086, 0.0078, 0.0064, 0.0060]
    assert chained(runs).frames[-1] == 602_880


def test_the_papers_points():
    curves = read_paper(list(ENDS))
    assert {curve.name: round(float(curve.errors[-1]), 4) for curve in curves} == ENDS
    for _, frames, errors in curves:
        assert 20 < len(frames) <= 40
        assert (np.diff(frames) > 0).all()
        assert ((errors > 0.001) & (errors < 0.31)).all()
    with PAPER.open() as file:
        assert {row["series"] for row in csv.DictReader(file)} == ENDS.keys()


@pytest.fixture
def drawing(checkout):
    """A checkout with the paper's points and a run."""
    (checkout.root / "train_log").mkdir()
    shutil.copy(PAPER, checkout.root / "train_log")
    write_run(checkout.root / "$x_")
    return checkout


def test_the_script_draws_lines_of_these_names(drawing):
    write_run(drawing.root / "two", (0.02, 0.01, 0.01))
    out = drawing.run("curve.py", "$x_", "two", "--chain", "--paper", "CelebA 200", "5x40",
                      "--csv", "points.csv")
    assert out.splitlines() == ["CelebA 200: 0.00313 after 19,104,957 frames",
                                "5x40: 0.00325 after 15,055,852 frames",
                                "$x_, two: 0.01000 after 40 frames"]
    assert (drawing.root / "points.csv").read_text().splitlines()[3:] == [
        f'"$x_, two",{frames},{error:.6f}' for frames, error in ((24, 0.02), (32, 0.01), (40, 0.01))
    ]
    svg = (drawing.root / "curve.svg").read_text()
    assert len(svg) < 150_000
    for text in ("paper: CelebA 200", "paper: 5x40", "ours: $x_, two",
                 "training frames (updates × batch size)", "mean squared error, pixels in [0, 1]",
                 "Test images after 200 strokes"):
        assert f"<!-- {text} -->" in svg
    assert len(re.findall('id="line2d_', svg)) > 3
    drawing.run("curve.py", "$x_", "--strokes", 5, "--output", "made/a.png", cwd=drawing.root)
    assert (drawing.root / "made" / "a.png").read_bytes().startswith(b"\x89PNG")


def test_bad_input_is_one_line_and_writes_nothing(drawing):
    for name in ("empty", "lost", "odd", "folder.svg"):
        (drawing.root / name).mkdir()
    for name in ("lost", "odd"):
        write_run(drawing.root / name / "run")
    (drawing.root / "lost" / "run" / "run.json").unlink()
    (drawing.root / "odd" / "run" / "run.json").write_text('{"options": {"batch_size": 1e999}}')
    drawing.refuse((
        ("curve.py", (), "RUN"),
        ("curve.py", ("none",), "none is no folder of a training run"),
        ("curve.py", ("empty",), "empty holds no log of the error after 200 strokes, but of none"),
        ("curve.py", ("$x_", "--strokes", 7), "after 7 strokes, but of 5, 200: see --strokes"),
        ("curve.py", ("lost/run",), "run.json cannot be read: No such file"),
        ("curve.py", ("odd/run",), "holds no options of a training"),
        ("curve.py", ("$x_", "--paper", "CelebA"), "no series CelebA; --paper can be: DDPG, "),
        ("curve.py", ("$x_", "--output", "a.txt"), "must end in .svg, .png, .pdf"),
        ("curve.py", ("$x_", "--output", "folder.svg"), "cannot write folder.svg: Is a directory"),
        ("curve.py", ("$x_", "--output", "/proc/none/a.svg"), "cannot write /proc/none/a.svg"),
        ("curve.py", ("$x_", "--output", "a.svg", "--csv", "a.svg"), "in the place of the picture"),
    ))
