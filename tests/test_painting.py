"""Painting and evaluation: the real scripts, from three folders, on good and bad input."""

import json
import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from conftest import ROOT
from DRL.painter import Painter
from env import CelebA
from Renderer.canvas import as_float, paint
from Renderer.stroke_gen import draw_batch
from utils.device import Precision
from utils.pictures import psnr, read_picture

MODULES = sorted(
    str(path.relative_to(ROOT / "baseline").with_suffix("")).replace(os.sep, ".")
    for path in (ROOT / "baseline").rglob("*.py")
    if path.name not in ("__init__.py", "test.py")
)


@pytest.mark.parametrize("where", [".", "baseline", "elsewhere"])
def test_defaults_hang_on_the_repository_and_output_on_the_users_folder(checkout, where):
    folder = checkout.root / where
    folder.mkdir(exist_ok=True)
    before = checkout.files()
    checkout.run("test.py", "--max_step", 1, "--divide", 1, cwd=folder)
    made = {str((folder / "output" / f"generated{n}.png").relative_to(checkout.root))
            for n in range(5)}
    assert checkout.files() - before == made


def test_the_divide_scheme(checkout):
    """Half the steps on the canvas, half on the tiles; a frame a stroke; numbers from --imgid."""
    out = checkout.run("test.py", "--max_step", 5, "--divide", 2, "--imgid", 7)
    lines = re.findall(r"(canvas|2x2 tiles) step (\d+): squared error (\d\.\d+)\n", out)
    assert [(name, int(step)) for name, step, _ in lines] == [
        ("canvas", 1), ("canvas", 2), ("2x2 tiles", 1), ("2x2 tiles", 2)]
    assert "50 strokes" in out  # 2 x 5, then 2 x 5 x 4
    frames = sorted((checkout.root / "output").iterdir())
    assert {f.name for f in frames} == {f"generated{n}.png" for n in range(7, 27)}
    last = cv2.imread(str(checkout.root / "output" / "generated26.png"))
    assert last.shape == (100, 150, 3)
    target = cv2.imread(str(checkout.root / "image" / "test.png"))
    error = np.square((last.astype(float) - target) / 255).mean()
    assert error == pytest.approx(float(lines[-1][2]), rel=0.1)  # resizing aside
    assert np.log10(error) == pytest.approx(-psnr(error) / 10)


def test_later_frames_of_an_older_painting_are_named(checkout):
    checkout.run("test.py", "--max_step", 2, "--divide", 1)
    process = checkout.start("test.py", "--max_step", 1, "--divide", 1)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0
    assert "output/generated5.png and 4 more frames of an earlier painting" in errors


def test_evaluation_measures_both_canvases(checkout):
    out = checkout.run("evaluate.py", "--split", "test", "--max_step", 3, "--batch_size", 2,
                       "--json", "result.json", "--precision", "fp32")
    result = json.loads(out.splitlines()[-1])
    assert result == json.loads((checkout.root / "result.json").read_text())
    assert result["images"] == 3
    assert result["strokes"] == [5, 15]
    data = CelebA(checkout.root / "data" / "img_align_celeba", checkout.root / "cache")
    painter = Painter(checkout.root / "actor.pkl", checkout.root / "renderer.pkl",
                      Precision("fp32", torch.device("cpu")))
    target = as_float(data.images[data.test])
    exact = torch.zeros_like(target)
    steps = list(painter.paint(exact, target, 3))
    for action, _ in steps:
        exact = paint(draw_batch, exact, action)
    for name, canvas in (("l2_neural", steps[-1][1][-1]), ("l2_raster", exact)):
        expected = (canvas - target).square().mean().item()
        assert result[name][-1] == pytest.approx(expected, rel=1e-3)
    everything = json.loads(checkout.run("evaluate.py", "--max_step", 1, "--limit", 7)
                            .splitlines()[-1])
    assert everything["images"] == 7


@pytest.mark.parametrize(("name", "picture", "expected"), [
    ("grey.png", np.full((9, 7), 100, np.uint8), (100, 100, 100)),
    ("alpha.png", np.full((9, 7, 4), (0, 0, 200, 51), np.uint8), (204, 204, 244)),
    ("deep.png", np.full((9, 7, 3), (256 * 10, 256 * 20, 256 * 30), np.uint16), (10, 20, 30)),
])
def test_any_kind_of_image_is_read(tmp_path, name, picture, expected):
    cv2.imwrite(str(tmp_path / name), picture)
    read = read_picture(tmp_path / name)
    assert read.shape == (9, 7, 3)
    assert read[4, 4].tolist() == list(expected)


BAD_INPUT = (
    ("test.py", ("--img", "nowhere.png"), "nowhere.png"),
    ("test.py", ("--img", "actor.pkl"), "not an image"),
    ("test.py", ("--actor", "nowhere.pkl"), "nowhere.pkl"),
    ("test.py", ("--actor", "renderer.pkl"), "another network"),
    ("test.py", ("--renderer", "image/test.png"), "not a weight file"),
    ("test.py", ("--divide", "0"), "--divide"),
    ("test.py", ("--max_step", "0"), "--max_step"),
    ("test.py", ("--max_step", "1"), "no step for the tiles"),
    ("test.py", ("--imgid", "-1"), "--imgid"),
    ("test.py", ("--output", "actor.pkl"), "actor.pkl"),
    ("test.py", ("--output", "/proc/nowhere"), "/proc/nowhere"),
)


def test_bad_painting_input_is_one_line_and_writes_nothing(checkout):
    checkout.refuse(BAD_INPUT)


def test_bad_evaluation_input_is_one_line(checkout):
    error = checkout.run("evaluate.py", "--data", "nowhere", status=2)
    assert "nowhere" in error
    assert error.count("\n") == 1


def test_weights_that_would_run_code_are_refused(checkout):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(checkout.root / "attacked"),)

    torch.save(Attack(), checkout.root / "attack.pkl")
    error = checkout.run("test.py", "--actor", "attack.pkl", status=2)
    assert "attack.pkl" in error
    assert not (checkout.root / "attacked").exists()


def test_importing_creates_nothing(tmp_path):
    code = (f"import sys; sys.path.insert(0, {str(ROOT / 'baseline')!r}); "
            f"import {', '.join(MODULES)}")
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    before = {p for p in ROOT.rglob("*") if ".git" not in p.parts and "__pycache__" not in p.parts}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=environment)
    assert list(tmp_path.iterdir()) == []
    after = {p for p in ROOT.rglob("*") if ".git" not in p.parts and "__pycache__" not in p.parts}
    assert after == before
