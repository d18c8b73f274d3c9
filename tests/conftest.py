"""Puts baseline/ on the path, as it is for the scripts in it, and lays out a small checkout."""

import importlib
import io
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from forks import Script

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores, one thread for each
    os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

for number in (signal.SIGINT, signal.SIGHUP):  # which nohup and shells ignore in the background
    if signal.getsignal(number) == signal.SIG_IGN:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "baseline"))


WIDTHS = {  # modules with numbers that say how wide networks are, and small ones
    "DRL.layers": ("STAGES", (16, 32, 64, 128)), "DRL.actor": ("STAGES", (16, 32, 64, 128)),
    "DRL.critic": ("STAGES", (16, 32, 64, 128)), "Renderer.model": ("HIDDEN", (64, 64, 128, 4096)),
}


def widths() -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """The modules, the names there and what they are now."""
    return tuple((module, name, getattr(importlib.import_module(module), name))
                 for module, (name, _) in WIDTHS.items())


@cache
def small_weights(_: tuple) -> dict[str, bytes]:
    """Weight files of networks that have learnt nothing, as wide as ``widths`` says."""
    import torch

    from DRL.actor import Actor
    from Renderer.model import Renderer
    from utils.weights import half_state

    torch.manual_seed(0)
    files = {"renderer.pkl": io.BytesIO(), "actor.pkl": io.BytesIO()}
    for network, file in zip((Renderer(), Actor()), files.values(), strict=True):
        torch.save(half_state(network), file)
    return {name: file.getvalue() for name, file in files.items()}


class Checkout:
    """A copy of the scripts with small weights and images, so that default paths stay in it.

    Its networks are as wide as those of this process.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(ROOT / "baseline", root / "baseline",
                        ignore=shutil.ignore_patterns("*.pyc"))  # compiled kernels stay
        script = root / "baseline" / "renderer_trainer.py"
        few = script.read_text().replace("VALIDATION_STROKES = 2048", "VALIDATION_STROKES = 64")
        assert few != script.read_text()
        script.write_text(few)  # or most of the time would go into validation
        for module, name, numbers in widths():
            script = root / "baseline" / f"{module.replace('.', '/')}.py"
            script.write_text(re.sub(f"^{name} = .*?\\)", f"{name} = {numbers}",
                                     script.read_text(), flags=re.MULTILINE))
        for name, content in small_weights(widths()).items():
            (root / name).write_bytes(content)
        rng = np.random.default_rng(0)
        faces = root / "data" / "img_align_celeba"
        for folder in (faces, root / "image"):
            folder.mkdir(parents=True)
        for number in (1, 5, 2001, *range(2002, 2008)):
            blocks = rng.integers(0, 256, (7, 6, 3), np.uint8)
            cv2.imwrite(str(faces / f"{number:06}.jpg"), cv2.resize(blocks, (178, 218)))
        cv2.imwrite(str(root / "image" / "test.png"), cv2.resize(blocks, (150, 100)))

    def start(self, script: str, *flags: object, cwd: Path | None = None, **more) -> Script:
        """Start a script from ``cwd``, the checkout's root by default."""
        return Script(self.root / "baseline" / script, *flags, cwd=cwd or self.root, **more)

    def run(self, script: str, *flags: object, cwd: Path | None = None, status: int = 0) -> str:
        """Run a script to its end, which must be ``status``.  Returns what it printed.

        That is its output where all went well, and its errors otherwise.
        """
        process = self.start(script, *flags, cwd=cwd)
        assert process.wait() == status, f"{process.output}\n{process.errors}"
        return process.errors if status else process.output

    def refuse(self, cases: tuple[tuple[str, tuple, str], ...]) -> None:
        """Each (script, flags, words) must end with one line that says so, and write nothing."""
        before = self.files()
        for script, flags, says in cases:
            process = self.start(script, *flags)
            assert process.wait() == 2, (script, flags, process.errors)
            assert says in process.errors, (script, flags, process.errors)
            assert process.errors.count("\n") == 1, (script, flags, process.errors)
            assert process.errors.startswith("error: ")
        assert {f for f in self.files() - before if "cache" not in f} == set()

    def files(self) -> set[str]:
        """Every file in the checkout."""
        return {str(p.relative_to(self.root)) for p in self.root.rglob("*") if p.is_file()}


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """Networks on a CPU let denormal numbers be zero, for their whole process."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Networks of a twentieth of the weights, where what they learn does not matter.

    Long versions of tests have the real ones.
    """
    if not request.node.get_closest_marker("slow"):
        for module, (name, numbers) in WIDTHS.items():
            monkeypatch.setattr(importlib.import_module(module), name, numbers)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A fresh small checkout."""
    return Checkout(tmp_path / "checkout")


@pytest.fixture(scope="session")
def compiled() -> None:
    """Compile the exact rasteriser before checkouts copy it, which would each compile it anew."""
    from painting.refine import refine
    from Renderer.raster import paint_frames
    from Renderer.strokes import Strokes

    for family in ("round", "triangle"):
        one = Strokes(family, 128, 128, np.full((1, 10), 0.5, np.float32),
                      np.ones((1, 3), np.float32), np.array([[0, 0, 128]]),
                      np.array([[0, 0, 128, 128]]))
        refine(one, np.ones((128, 128, 3), np.float32), 1)
        list(paint_frames(one, 128, 128, [1]))
