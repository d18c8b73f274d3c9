"""What the project needs from elsewhere: the lists are true, and running fetches nothing."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import RENDERER_TINY, ROOT, TINY, Checkout

MODULES = {"opencv-python": "cv2", "pillow": "PIL", "ipykernel": "IPython"}  # else the same
RUN = {  # what is not imported: the file that runs it, and how
    "pytest-xdist": ("README.md", "pytest -q -n 2"),
    "tensorboard": ("README.md", "tensorboard --logdir train_log"),
    "ruff": ("tests/test_house.py", 'run("ruff", '),
    "import-linter": ("tests/test_house.py", 'run("lint-imports", '),
}

# Python runs it at its start: what could reach beyond this machine is noted and fails.  Let be
# are Unix sockets, and the programs that ctypes asks for the paths of libraries.
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
REACHING = (
    "socket.create_connection(('127.0.0.1', 9))",
    "socket.gethostbyname('localhost')",
    "socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1', 9))",
    "urllib.request.urlopen('http://127.0.0.1:9')",
    "subprocess.run(['true'])",
    "os.system('true')",
    "os.fork() or socket.create_connection(('127.0.0.1', 9))",
)


def requirements(file: str, bound: str = ">=") -> dict[str, str]:
    """Name -> version; every line of the file must be a name, the bound and a version."""
    lines = (ROOT / file).read_text().splitlines()
    pairs = [re.fullmatch(rf"([\w-]+){bound}(\d[\d.]*)", line).groups() for line in lines]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def modules(names: dict[str, str]) -> set[str]:
    """The modules that requirements bring, without those that are only run as commands."""
    return {MODULES.get(name, name) for name in names if name not in RUN}


def imported(sources: list[str]) -> set[str]:
    """The packages that Python sources import from elsewhere, at any depth."""
    found = set()
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
    ours = {path.stem for folder in ("baseline", "tests") for path in (ROOT / folder).iterdir()
            if path.is_dir() or path.suffix == ".py"}
    return found - ours - sys.stdlib_module_names


def python_files(folder: str) -> list[str]:
    """The sources of a folder."""
    return [path.read_text() for path in sorted((ROOT / folder).rglob("*.py"))]


def notebook_cells() -> list[str]:
    """The sources of the notebook."""
    cells = json.loads((ROOT / "LearningToPaint.ipynb").read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_scripts_need_what_is_listed_and_nothing_else():
    assert imported(python_files("baseline")) == modules(requirements("requirements.txt"))


def test_the_tests_need_what_is_listed_and_nothing_else():
    found = imported([*python_files("tests"), *notebook_cells()])
    found.discard("google")  # where the notebook runs on Colab
    own = modules(requirements("tests/requirements.txt"))
    assert own <= found <= own | modules(requirements("requirements.txt"))


def test_what_is_listed_and_not_imported_is_run():
    listed = requirements("requirements.txt") | requirements("tests/requirements.txt")
    for name, (file, command) in RUN.items():
        assert name in listed
        assert command in (ROOT / file).read_text()


def test_the_oldest_versions_are_the_lower_bounds():
    one, two = requirements("requirements.txt"), requirements("tests/requirements.txt")
    assert not one.keys() & two.keys()
    assert requirements("tests/oldest.txt", "==") == one | two
    for name, version in re.findall(r'"([\w-]+)>=([\d.]+)"', "".join(notebook_cells())):
        assert (one | two)[name] == version


def guarded(folder: Path, code: str, **variables: str) -> tuple[subprocess.CompletedProcess, str]:
    """Run code in a process whose guard is in the folder.  Returns it and what it reached for."""
    (folder / "sitecustomize.py").write_text(GUARD)
    reached = folder / "reached"
    reached.write_text("")
    process = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=280,
        env=os.environ | variables | {"PYTHONPATH": str(folder), "REACHED": str(reached),
                                      "PYTHONDONTWRITEBYTECODE": "1"})
    return process, reached.read_text()


def test_the_guard_sees_what_reaches_out(tmp_path: Path):
    """Also where the program carries on after the error; sockets of this machine are let be."""
    code = "import contextlib, os, socket, subprocess, urllib.request\n" + "\n".join(
        f"with contextlib.suppress(OSError): {attempt}" for attempt in REACHING)
    process, reached = guarded(tmp_path, f"{code}\nos._exit(0)")
    assert process.returncode == 0, process.stderr
    assert len(reached.splitlines()) == len(REACHING), reached
    listening = "import socket\nwith socket.socket(socket.AF_UNIX) as one:\n one.bind('{0}')\n" \
                " one.listen()\n socket.socket(socket.AF_UNIX).connect('{0}')"
    process, reached = guarded(tmp_path, listening.format(tmp_path / "here"))
    assert (process.returncode, reached) == (0, ""), process.stderr


@pytest.mark.usefixtures("compiled", "narrow")
def test_the_scripts_fetch_nothing(checkout: Checkout, tmp_path: Path):
    """One process, to import once, runs all six; nothing was fetched before into its home."""
    runs = (("train_renderer.py", *RENDERER_TINY, "--steps", 2, "--output", "own.pkl"),
            ("train.py", *TINY, "--train_times", 3, "--episode_train_times", 1),
            ("evaluate.py", "--max_step", 1, "--limit", 1, "--device", "cpu"),
            ("test.py", "--max_step", 2, "--divide", 2, "--strokes", "painting.json",
             "--video", "painting.mp4", "--device", "cpu"),
            ("replay.py", "painting.json", "--size", 64),
            ("curve.py", "train_log/Paint-run1", "--strokes", 15))
    code = f"""
import os, runpy, sys
os.chdir({str(checkout.root)!r})
for script, *flags in {[tuple(map(str, run)) for run in runs]}:
    sys.path[0] = "baseline"
    sys.argv = [f"baseline/{{script}}", *flags]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
    process, reached = guarded(tmp_path, code, **dict.fromkeys(
        ("HOME", "TORCH_HOME", "XDG_CACHE_HOME"), str(tmp_path / "home")))
    assert process.returncode == 0, process.stderr
    assert reached == ""
    assert {"own.pkl", "painting.json", "painting.mp4", "replay.png", "curve.svg",
            "train_log/Paint-run1/actor.pkl"} <= checkout.files()
    assert '"images": 1' in process.stdout
