"""Puts baseline/ on the path, as it is for the scripts in it, and lays out a small checkout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores, one thread for each
    os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "baseline"))


# Runs scripts from a folder, each in a process forked after the slow imports.  Prints the exit
# status of each and what it wrote on stderr.
REFUSALS = """
import json, os, runpy, sys, tempfile, traceback
folder, cases = sys.argv[1], json.loads(sys.argv[2])
sys.path[0] = folder
import painting, outputs, trainer, Renderer.raster
results = []
for script, *flags in cases:
    with tempfile.TemporaryFile() as errors, open(os.devnull, "w") as nothing:
        if not (child := os.fork()):
            os.dup2(nothing.fileno(), 1), os.dup2(errors.fileno(), 2)
            sys.argv, status = [os.path.join(folder, script), *flags], 0
            try:
                runpy.run_path(sys.argv[0], run_name="__main__")
            except SystemExit as end:
                status = end.code or 0
            except BaseException:
                traceback.print_exc()
                status = 1
            sys.stderr.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        results.append((status, errors.read().decode()))
print(json.dumps(results))
"""


class Checkout:
    """A copy of the scripts with small weights and images, so that default paths stay in it."""

    def __init__(self, root: Path) -> None:
        import torch

        from DRL.actor import Actor
        from Renderer.model import Renderer
        from utils.weights import half_state, save_atomically

        self.root = root
        shutil.copytree(ROOT / "baseline", root / "baseline",
                        ignore=shutil.ignore_patterns("*.pyc"))  # compiled kernels stay
        torch.manual_seed(0)
        save_atomically(half_state(Renderer()), root / "renderer.pkl")
        save_atomically(half_state(Actor()), root / "actor.pkl")
        rng = np.random.default_rng(0)
        faces = root / "data" / "img_align_celeba"
        for folder in (faces, root / "image"):
            folder.mkdir(parents=True)
        for number in (1, 5, 2001, *range(2002, 2008)):
            blocks = rng.integers(0, 256, (7, 6, 3), np.uint8)
            cv2.imwrite(str(faces / f"{number:06}.jpg"), cv2.resize(blocks, (178, 218)))
        cv2.imwrite(str(root / "image" / "test.png"), cv2.resize(blocks, (150, 100)))

    def start(self, script: str, *flags: object, cwd: Path | None = None) -> subprocess.Popen:
        """Start a script from ``cwd``, the checkout's root by default."""
        return subprocess.Popen(
            [sys.executable, str(self.root / "baseline" / script), *map(str, flags)],
            cwd=cwd or self.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        )

    def run(self, script: str, *flags: object, cwd: Path | None = None, status: int = 0) -> str:
        """Run a script to its end, which must be ``status``.  Returns what it printed.

        That is its output where all went well, and its errors otherwise.
        """
        process = self.start(script, *flags, cwd=cwd)
        out, errors = process.communicate(timeout=280)
        assert process.returncode == status, f"{out}\n{errors}"
        return errors if status else out

    def refuse(self, cases: tuple[tuple[str, tuple, str], ...]) -> None:
        """Each (script, flags, words) must end with one line that says so, and write nothing."""
        before = self.files()
        process = subprocess.run(
            [sys.executable, "-c", REFUSALS, str(self.root / "baseline"),
             json.dumps([(script, *map(str, flags)) for script, flags, _ in cases])],
            check=False, cwd=self.root, capture_output=True, text=True, timeout=280,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
        assert process.returncode == 0, process.stderr
        for (*case, says), (status, error) in zip(cases, json.loads(process.stdout), strict=True):
            assert status == 2, (case, error)
            assert says in error, (case, error)
            assert error.count("\n") == 1, (case, error)
            assert error.startswith("error: ")
        assert {f for f in self.files() - before if "cache" not in f} == set()

    def files(self) -> set[str]:
        """Every file in the checkout."""
        return {str(p.relative_to(self.root)) for p in self.root.rglob("*") if p.is_file()}


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A fresh small checkout."""
    return Checkout(tmp_path / "checkout")


@pytest.fixture(scope="session")
def compiled() -> None:
    """Compile the exact rasteriser before checkouts copy it, which would each compile it anew."""
    from Renderer.refine import refine
    from Renderer.strokes import Strokes

    for family in ("round", "triangle"):
        one = Strokes(family, 128, 128, np.full((1, 10), 0.5, np.float32),
                      np.ones((1, 3), np.float32), np.array([[0, 0, 128]]),
                      np.array([[0, 0, 128, 128]]))
        refine(one, np.ones((128, 128, 3), np.float32), 1)
