"""Style, complexity, lengths of files and the order of imports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT, imported_names

BASELINE = ROOT / "baseline"
LONGEST_FILE = 250  # lines
PACKAGES = {"utils", "running", "Renderer", "DRL", "grid"}
# Modules outside the packages from below upwards: each imports only those before it.
ORDER = (
    {"constants"}, PACKAGES, {"images"}, {"env"}, {"rollouts", "monitor", "checkpoint"},
    {"evaluation"}, {"trainer", "renderer_trainer"}, {"painting"},
    {"train", "train_renderer", "evaluate", "test", "replay", "curve"},
)


@pytest.mark.parametrize("command", [
    ("ruff", "check", "--no-cache"), ("lint-imports", "--no-cache")], ids=lambda words: words[0])
def test_linter_finds_nothing(command):
    tool = Path(sys.executable).with_name(command[0])
    done = subprocess.run((tool, *command[1:]), cwd=ROOT, capture_output=True, text=True,
                          check=False, env=os.environ | {"PYTHONPATH": str(BASELINE)})
    assert done.returncode == 0, done.stdout + done.stderr


def test_modules_import_downwards():
    known, below = set().union(*ORDER), set()
    files = {file.stem: file for file in BASELINE.glob("*.py")}
    assert files.keys() == known - PACKAGES - {"painting"}
    for layer in ORDER:
        for name in sorted(layer & files.keys()):
            upwards = imported_names(files[name].read_text()) & known - below
            assert not upwards, f"{name}.py imports {upwards}"
        below |= layer
    for package in PACKAGES | {"painting"}:
        for file in (BASELINE / package).glob("*.py"):
            siblings = imported_names(file.read_text()) & files.keys() - {"constants"}
            assert not siblings, f"{file} imports {siblings}"


def test_files_are_short():
    long = {str(file.relative_to(ROOT)): count for file in BASELINE.rglob("*.py")
            if (count := len(file.read_text().splitlines())) > LONGEST_FILE}
    assert not long
