"""The rules of the house: style, complexity, the length of files, and who imports whom."""

import ast
import os
import subprocess
import sys
from pathlib import Path

from helpers import ROOT

BASELINE = ROOT / "baseline"
LONGEST_FILE = 250  # lines
PACKAGES = {"utils", "running", "Renderer", "DRL", "grid"}
# Modules beside the packages from below upwards: each may import those before it.  Painting stands
# below the scripts alone.
ORDER = (
    {"constants"}, PACKAGES, {"images", "options"}, {"env"}, {"rollouts", "monitor", "checkpoint"},
    {"best_renderer", "evaluation"}, {"trainer", "renderer_trainer"}, {"painting"},
    {"train", "train_renderer", "evaluate", "test", "replay", "curve"},
)


def run(*command: str) -> None:
    """Run a tool in the root with baseline/ on Python's path; it must succeed."""
    tool, *arguments = command
    tool = Path(sys.executable).with_name(tool)
    done = subprocess.run((tool, *arguments), cwd=ROOT, capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": str(BASELINE)})
    assert done.returncode == 0, done.stdout + done.stderr


def imported(file: Path) -> set[str]:
    """Return the names that a file's imports begin with, those inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    return names


def test_ruff_finds_nothing():
    run("ruff", "check", "--no-cache")


def test_packages_import_downwards():
    run("lint-imports", "--no-cache")


def test_modules_import_downwards():
    known, below = set().union(*ORDER), set()
    files = {file.stem: file for file in BASELINE.glob("*.py")}
    assert files.keys() == known - PACKAGES - {"painting"}
    for layer in ORDER:
        for name in sorted(layer & files.keys()):
            upwards = imported(files[name]) & known - below
            assert not upwards, f"{name}.py imports {upwards}"
        below |= layer
    for package in PACKAGES | {"painting"}:
        for file in (BASELINE / package).glob("*.py"):
            beside = imported(file) & files.keys() - {"constants"}
            assert not beside, f"{file} imports {beside}"


def test_files_are_short():
    long = {str(file.relative_to(ROOT)): count for file in BASELINE.rglob("*.py")
            if (count := len(file.read_text().splitlines())) > LONGEST_FILE}
    assert not long
