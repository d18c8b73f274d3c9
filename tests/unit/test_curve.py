"""The learning curve: its arithmetic, the paper's points, the picture, bad input."""

import csv
import re
import shutil
from itertools import pairwise

import pytest

from curve import LOG, PAPER, read_paper, read_run
from helpers import ROOT, write_run

# The ends of the paper's curves, as read off its figures.
ENDS = {
    "DDPG": 0.0423, "DDPG+PatchQ": 0.0109, "model-based DDPG": 0.0033, "1x200": 0.0050,
    "2x100": 0.0039, "5x40": 0.0033, "8x25": 0.0036, "100 strokes": 0.0050, "200 strokes": 0.0033,
    "400 strokes": 0.0030, "1000 strokes": 0.0024, "MNIST 5": 0.0060, "SVHN 40": 0.0013,
    "CelebA 200": 0.0031, "ImageNet 400": 0.0084,
}


def test_log_is_read_from_a_run_or_a_file(tmp_path):
    folder = write_run(tmp_path / "run.csv")
    shutil.copy(folder / LOG, tmp_path / "kept.csv")
    for path, name in ((folder, "run.csv"), (folder / LOG, "run.csv"),
                       (tmp_path / "kept.csv", "kept")):
        assert read_run(path, 200) == (name, [8, 16, 24], [0.05, 0.03, 0.04])
    assert read_run(folder, 5).errors == [0.1, 0.06, 0.08]
    # A run may be resumed with episodes of another length.
    (tmp_path / "a.csv").write_text("frames,error_5,error_9\n8,0.2,\n16,0.1,0.05\n24\n32,,0.04\n")
    assert [read_run(tmp_path / "a.csv", n).frames for n in (5, 9)] == [[8, 16], [16, 32]]


def test_shipped_logs_have_the_errors_of_the_readme():
    frames = 805_120, 805_120 + 947_200, 805_120 + 947_200 + 1_068_160, 4_542_720
    run = read_run(ROOT / "train_log" / "actor.csv", 200)
    errors = dict(zip(run.frames, map(float, run.errors), strict=True))
    assert list(errors) == sorted(errors)
    assert [round(errors[end], 4) for end in frames] == [0.0083, 0.0072, 0.0059, 0.0052]
    method = read_run(ROOT / "train_log" / "ddpg.csv", 200)
    assert (method.frames[-1], round(float(method.errors[-1]), 4)) == (1_431_360, 0.0119)


def test_points_of_the_paper_end_as_in_its_figures():
    curves = read_paper(list(ENDS))
    assert {curve.name: round(float(curve.errors[-1]), 4) for curve in curves} == ENDS
    for _, frames, errors in curves:
        assert 20 < len(frames) <= 40
        assert all(a < b for a, b in pairwise(frames))
        assert all(0.001 < error < 0.31 for error in errors)
    with PAPER.open() as file:
        assert {row["series"] for row in csv.DictReader(file)} == ENDS.keys()


@pytest.fixture
def drawing(checkout):
    """Return a checkout with the paper's points and a run."""
    (checkout.root / "train_log").mkdir()
    shutil.copy(PAPER, checkout.root / "train_log")
    write_run(checkout.root / "$x_")
    return checkout


def test_script_draws_the_named_curves(drawing):
    write_run(drawing.root / "two", (0.02, 0.01, 0.01))
    out = drawing.run("curve.py", "$x_", "two", "--paper", "CelebA 200", "5x40")
    assert out.splitlines() == ["CelebA 200: 0.00313 after 19,104,957 frames",
                                "5x40: 0.00325 after 15,055,852 frames",
                                "$x_: 0.04000 after 24 frames", "two: 0.01000 after 24 frames"]
    svg = (drawing.root / "curve.svg").read_text()
    assert len(svg) < 150_000
    for text in ("paper: CelebA 200", "paper: 5x40", "ours: $x_", "ours: two",
                 "training frames (updates × batch size)", "mean squared error, pixels in [0, 1]",
                 "Test images after 200 strokes"):
        assert f"<!-- {text} -->" in svg
    assert len(re.findall('id="line2d_', svg)) > 3
    process = drawing.start("curve.py", "$x_", "--strokes", 5, "--output", "made/a.png",
                            environment={"MPLBACKEND": "module://of_another_environment"})
    assert process.wait() == 0, process.errors
    assert (drawing.root / "made" / "a.png").read_bytes().startswith(b"\x89PNG")


def test_bad_input_gives_an_error_line_and_writes_nothing(drawing):
    (drawing.root / "full.svg").symlink_to("/dev/full")
    for name in ("empty", "folder.svg"):
        (drawing.root / name).mkdir()
    for name, text in (("nothing", ""), ("head", "update,frames,error_200\n"),
                       ("word", "frames,error_200\n8,0.1\n16,much\n"),
                       ("nan", "frames,error_200\n8,nan\n"), ("uncounted", "error_200\n0.1\n"),
                       ("many", "frames,error_200\n8,0.1,0.2\n16," + "9" * 200_000)):
        (drawing.root / f"{name}.csv").write_text(text)
    drawing.refuse((
        ("curve.py", (), "RUN"),
        ("curve.py", ("none",), "none is no folder of a training run, and no .csv file"),
        ("curve.py", ("empty",), "empty/log.csv cannot be read: No such file"),
        ("curve.py", ("head.csv",), "holds no error after 200 strokes, but of none"),
        ("curve.py", ("$x_", "--strokes", 7), "after 7 strokes, but of 5, 200: see --strokes"),
        ("curve.py", ("word.csv",), "word.csv is no log of a training of the agent: much is not"),
        ("curve.py", ("nan.csv",), "nan.csv is no log of a training of the agent: nan is not"),
        ("curve.py", ("uncounted.csv",), "is no log of a training of the agent: nothing is not a"),
        ("curve.py", ("many.csv",), "many.csv is no log of a training of the agent"),
        ("curve.py", ("$x_", "--paper", "CelebA"), "no series CelebA; --paper can be: DDPG, "),
        ("curve.py", ("$x_", "--output", "a.txt"), "must end in .svg, .png, .pdf"),
        ("curve.py", ("$x_", "--output", "folder.svg"), "cannot write folder.svg: it is a folder"),
        ("curve.py", ("$x_", "--output", "full.svg"), "No space left on device"),
    ))
