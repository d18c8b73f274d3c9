"""Requirements are complete and none is idle; the scripts fetch nothing."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from helpers import NARROW, RENDERER_TINY, ROOT, TINY, Checkout, imported_names

MODULES = {"opencv-python": "cv2", "pillow": "PIL", "ipykernel": "IPython"}  # else the same
COMMANDS = {  # requirements that are not imported: the file that runs them, and how
    "pytest-xdist": ("README.md", "pytest -q -n 2"),
    "tensorboard": ("README.md", "tensorboard --logdir train_log"),
    "ruff": ("tests/test_house.py", '("ruff", '),
    "import-linter": ("tests/test_house.py", '("lint-imports", '),
}

# Run by Python at its start: records and refuses what could reach beyond this machine, except Unix
# sockets and the programs that ctypes asks for the paths of libraries.
GUARD = """
import os, socket, sys

EVENTS = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
          "socket.gethostbyname", "urllib.Request", "subprocess.Popen", "os.system", "os.exec",
          "os.posix_spawn"}
PROGRAMS = {"ldconfig", "gcc", "cc", "ld", "objdump", "fc-list"}

def guard(event, arguments):
    if event in EVENTS:
        what = getattr(arguments[0], "family", arguments[0])
        asks = event == "subprocess.Popen" and os.path.basename(what) in PROGRAMS
        if what != socket.AF_UNIX and not asks:
            with open(os.environ["REACHED"], "a") as file:
                print(event, repr(what), file=file)
            raise PermissionError(f"{event} is not allowed")

sys.addaudithook(guard)
"""


def requirements(file: str, bound: str = ">=") -> dict[str, str]:
    """Return versions by name; every line must be a name, the bound and a version."""
    lines = (ROOT / file).read_text().splitlines()
    versions = dict(re.fullmatch(rf"([\w-]+){bound}(\d[\d.]*)", line).groups() for line in lines)
    assert len(versions) == len(lines)
    return versions


SCRIPTS_NEED, TESTS_NEED = requirements("requirements.txt"), requirements("tests/requirements.txt")


def modules(names: Iterable[str]) -> set[str]:
    """Return the modules of requirements, without those that only run as commands."""
    return {MODULES.get(name, name) for name in names if name not in COMMANDS}


def foreign(sources: list[str]) -> set[str]:
    """Return the foreign packages that Python sources import."""
    own = {path.stem for folder in ("baseline", "tests") for path in (ROOT / folder).iterdir()
           if path.is_dir() or path.suffix == ".py"}
    return set().union(*map(imported_names, sources)) - own - sys.stdlib_module_names


def notebook_cells() -> list[str]:
    """Return the sources in the notebook."""
    cells = json.loads((ROOT / "LearningToPaint.ipynb").read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def sources(folder: str) -> list[str]:
    """Return the Python sources in a folder."""
    return [path.read_text() for path in (ROOT / folder).rglob("*.py")]


def test_scripts_import_exactly_their_requirements():
    assert foreign(sources("baseline")) == modules(SCRIPTS_NEED)


def test_tests_import_exactly_their_requirements():
    names = foreign([*sources("tests"), *notebook_cells()])
    names.discard("google")  # where the notebook runs on Colab
    assert modules(TESTS_NEED) <= names <= modules(TESTS_NEED | SCRIPTS_NEED)


def test_other_requirements_are_run_as_commands():
    for name, (file, command) in COMMANDS.items():
        assert name in SCRIPTS_NEED | TESTS_NEED
        assert command in (ROOT / file).read_text()


def test_oldest_versions_are_the_lower_bounds():
    assert not SCRIPTS_NEED.keys() & TESTS_NEED.keys()
    versions = SCRIPTS_NEED | TESTS_NEED
    assert requirements("tests/oldest.txt", "==") == versions
    for name, version in re.findall(r'"([\w-]+)>=([\d.]+)"', "".join(notebook_cells())):
        assert versions[name] == version


def guarded(folder: Path, code: str, **variables: str) -> tuple[subprocess.CompletedProcess, str]:
    """Run code in a guarded process and return it and what it reached for."""
    (folder / "sitecustomize.py").write_text(GUARD)
    reached = folder / "reached"
    reached.write_text("")
    process = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=280,
        env=os.environ | variables | {"PYTHONPATH": str(folder), "REACHED": str(reached),
                                      "PYTHONDONTWRITEBYTECODE": "1"})
    return process, reached.read_text()


@pytest.mark.usefixtures("compiled", "narrow")
def test_scripts_fetch_nothing(checkout: Checkout, tmp_path: Path):
    """One process, to import once, runs all six from an empty home folder."""
    commands = (("train_renderer.py", *RENDERER_TINY, "--steps", 2, "--output", "own.pkl"),
                ("train.py", *TINY, "--train_times", 3, "--episode_train_times", 1),
                ("evaluate.py", "--max_step", 1, "--limit", 1, "--device", "cpu"),
                ("test.py", "--max_step", 2, "--divide", 2, "--refine", 1, "--strokes",
                 "painting.json", "--video", "painting.mp4", "--device", "cpu"),
                ("replay.py", "painting.json", "--size", 64),
                ("curve.py", "train_log/Paint-run1", "--strokes", 15))
    code = f"""
import importlib, os, runpy, sys
os.chdir({str(checkout.root)!r})
sys.path.insert(0, "baseline")
for name, widths in {NARROW}.items():
    module, _, attribute = name.rpartition(".")
    setattr(importlib.import_module(module), attribute, widths)
for script, *flags in {[tuple(map(str, command)) for command in commands]}:
    sys.argv = [f"baseline/{{script}}", *flags]
    runpy.run_path(sys.argv[0], run_name="__main__")
import contextlib, socket
with contextlib.suppress(OSError):  # what the guard must see
    socket.create_connection(("127.0.0.1", 9))
"""
    process, reached = guarded(tmp_path, code, **dict.fromkeys(
        ("HOME", "TORCH_HOME", "XDG_CACHE_HOME"), str(tmp_path / "home")))
    assert process.returncode == 0, process.stderr
    assert [line.split()[0] for line in reached.splitlines()] == ["socket.getaddrinfo"]
    assert {"own.pkl", "painting.json", "painting.mp4", "replay.png", "curve.svg",
            "train_log/Paint-run1/actor.pkl"} <= checkout.files()
    assert '"images": 1' in process.stdout
