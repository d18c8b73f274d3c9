"""Search for command lines that give a traceback, a hang or files other than their outputs."""

import argparse
import contextlib
import importlib.util
import io
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import hypothesis.strategies as st
import numpy as np
import pytest
import torch

from DRL.actor import Actor
from helpers import ROOT, search, stroke_files, thorough, write_run
from Renderer.model import Renderer
from utils.command import Parser, UserError, new_file, path_type, run
from utils.files import FOLDER_VARIABLE
from utils.weights import half_state, save_atomically

SCRIPTS = ("curve.py", "evaluate.py", "replay.py", "test.py", "train.py", "train_renderer.py")


def load_script(name: str) -> ModuleType:
    """Return a script as a module, test.py included, which is a name of the standard library."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "baseline" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flags_of(script: ModuleType) -> list[argparse.Action]:
    """Return the arguments of a script's parser."""
    parsers = []

    def parse(parser: argparse.ArgumentParser, _: list[str] | None = None) -> None:
        parsers.append(parser)
        raise UserError("parsed")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="parsed"):
        patch.setattr(Parser, "parse_args", parse)
        script.parse_args()
    return [action for action in parsers[0]._actions if action.dest != "help"]


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    """Return the scripts as modules, by file name."""
    return {name: load_script(name) for name in SCRIPTS}


@pytest.fixture(scope="module")
def flags(scripts) -> dict[str, list[argparse.Action]]:
    """Return the arguments of the scripts, by file name."""
    return {name: flags_of(script) for name, script in scripts.items()}


# Values of each flag that take little time; the first ones are the defaults of the search.
QUICK = {
    "img": ["picture.png", "picture.png folder", "folder", "broken.png", "picture.png ...png"],
    "max_step": ["2", "1"], "divide": ["1", "2", "1x2", "auto"], "refine": ["0", "1"],
    "stroke": ["triangle"], "canvas": ["exact", "neural"], "background": ["none", "red"],
    "actor": ["actor.pkl", "none", "broken.png"], "renderer": ["renderer.pkl", "broken.png"],
    "seed": ["1", "4294967295"], "imgid": ["0", "2147483647"], "output": ["made", "made/p.gif"],
    "frames": ["last", "all", "every 3"], "video": ["made/v.mp4", "made/v.gif"],
    "fps": ["10", "1"], "seconds": ["0.1", "1"], "strokes": ["made/s.json", "made/s.svg"],
    "compare": ["made/c.png", "made/c.jpg"], "device": ["cpu"], "precision": ["fp32", "auto"],
    "file": ["strokes.json", "broken.png"], "size": ["40", "1"], "until": ["2", "9"],
    "data": ["folder", "empty"], "lines": [""], "millimetres": ["210"],
    "split": ["all", "test"], "limit": ["1", "2"],
    "batch_size": ["2", "3"], "json": ["made/r.json"],
    "replay.py output": ["made/r.png", "made/r.svg", "made/r.gif", "made/r.mp4"],
    "runs": ["run", "empty", "broken.png"], "paper": ["DDPG", "1x200 2x100", "none"],
    "curve.py strokes": ["200", "5"], "csv": ["made/c.csv"],
    "curve.py output": ["made/c.svg", "made/c.png", "made/c.pdf"],
}
NEEDED = ("actor", "batch_size", "data", "device", "divide", "file", "frames", "img", "limit",
          "max_step", "output", "renderer", "runs", "size")  # for little work, all in the sandbox
JUNK_WORDS = st.sampled_from([
    "", "0", "-1", "-", "--", "nan", "inf", "-inf", "1e308", "1e-320", "1" + "0" * 30, "9" * 5000,
    "0x10", "1_0", " 1", "\N{ARABIC-INDIC DIGIT ONE}", "1.5", "n" * 5000, "n" * 250 + ".mp4", ".",
    "..", "/", "/dev/null", "/dev/full", "/proc/self/mem", "nowhere/", "nowhere", "folder",
    "picture.png", "...png", "strokes.json", "made", "a\nb", "\x1b[2J", "\udcff.png", "*", "~",
    "99999x99999", "1x", "last", "every 0", "all all", "0.95**5", "1**-1e9", "cpu", "--help=1",
]) | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)


def quick(script: str, action: argparse.Action) -> list[str]:
    """Return the values of a flag in QUICK."""
    return QUICK.get(f"{script} {action.dest}") or QUICK[action.dest]


@st.composite
def command_lines(draw: st.DrawFn, flags: dict[str, list[argparse.Action]],
                  sane: bool) -> tuple[str, list[str]]:
    """Draw a script and its arguments; sane: most of them are valid and take little time."""
    script = draw(st.sampled_from(sorted(flags)))
    words = []
    for action in flags[script]:
        if action.nargs == "*":
            continue  # the images, which --img names too
        if not action.option_strings:
            words += [draw(st.sampled_from(quick(script, action)))]
            continue
        if not sane and draw(st.integers(0, 3)):
            continue
        if sane and action.dest not in NEEDED and draw(st.integers(0, 3)):
            continue
        values = quick(script, action) if sane else [*map(str, action.choices or ()), "1"]
        value = draw(JUNK_WORDS if draw(st.sampled_from([0] * 40 + [1] if sane else [0, 1])) else
                     st.sampled_from([*values[:1] * 3, *values]))
        words += [action.option_strings[0], *(value.split(" ") if action.nargs == "+" else [value]),
                  ][: 1 if action.nargs == 0 else None]
    if draw(st.integers(0, 25)) == 7:
        words.insert(draw(st.integers(0, len(words))), draw(JUNK_WORDS))
    return script, words


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a small file of every kind that the scripts take."""
    here = tmp_path / "sandbox" / "here"
    for name in ("folder", "empty"):
        (here / name).mkdir(parents=True)
    picture = cv2.imencode(".png", np.full((36, 44, 3), 99, np.uint8))[1].tobytes()
    for name in ("picture.png", "...png", "folder/one.png", "folder/...png", "folder/two.png"):
        (here / name).write_bytes(picture)
    (here / "broken.png").write_bytes(picture[:100])
    write_run(here / "run")
    stroke_files(here)
    (here / "s.json").rename(here / "strokes.json")
    torch.manual_seed(0)
    for name, network in (("actor", Actor()), ("renderer", Renderer())):
        save_atomically(half_state(network), here / f"{name}.pkl")
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return here.parent


def listing(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return the size and the time of every file below a folder."""
    return {path: ((state := path.stat()).st_size, state.st_mtime_ns)
            for path in folder.rglob("*") if path.is_file()}


def call(main: Callable[[], None], words: list[str]) -> tuple[int, str]:
    """Call a script as from its command line and return its exit status and its errors."""
    out, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace") for _ in range(2))
    former, status = signal.getsignal(signal.SIGTERM), 0
    with (pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out),
          contextlib.redirect_stderr(errors)):
        patch.setattr(sys, "argv", ["script.py", *words])
        try:
            run(main)
        except SystemExit as end:
            status = end.code or 0
        finally:
            signal.signal(signal.SIGTERM, former)
    errors.flush()
    return status, errors.buffer.getvalue().decode()


def is_output(path: Path, words: list[str]) -> bool:
    """Return whether a word of a command line names a file or its folder of frames."""
    frame = re.fullmatch(r"(generated\d+|painting)\.png", path.name)
    for word in (*words, "output", "replay.png", "curve.svg"):
        place = Path(os.path.abspath(word))
        if path == place or (frame and place in (path.parent, path.parent.parent)):
            return True
        if path.parent == place.parent and path.suffix == place.suffix and path.stem.startswith(
                f"{place.stem}-"):  # of several images
            return True
    return False


def check_end(status: int, errors: str, case: object) -> None:
    """Check that a script succeeded, skipped images or ended with one error line."""
    assert status in (0, 1, 2), (case, errors)
    assert status != 1 or "images were skipped: " in errors, (case, errors)
    assert "Traceback" not in errors, (case, errors)
    lines = errors.splitlines(keepends=True)
    assert sum(line.startswith("error: ") for line in lines) == (status == 2), (case, errors)
    assert status < 2 or lines[-1].startswith("error: "), (case, errors)


def test_every_path_flag_expands_home_folders(flags):
    for name, actions in flags.items():
        for action in actions:
            if action.metavar in ("DIR", "FILE", "PATH", "RUN") or action.dest in (
                    "data", "renderer", "output", "file", "init"):
                assert action.type in (path_type, new_file), (name, action.dest)


@thorough
def test_any_command_line_is_parsed_or_refused(scripts, flags, sandbox, thorough, capfd):
    files, statuses = listing(sandbox), []

    def check(case: tuple[str, list[str]]) -> None:
        script, words = case
        status, errors = call(scripts[script].parse_args, words)
        check_end(status, errors, case)
        assert listing(sandbox) == files
        statuses.append(status)

    search(check, command_lines({name: [a for a in actions if a.option_strings]
                                 for name, actions in flags.items()}, sane=False),
           5_000 if thorough else 150, thorough, capfd)
    assert set(statuses) == {0, 2}


@thorough
def test_any_command_writes_only_its_outputs(monkeypatch, scripts, flags, sandbox, thorough, capfd):
    flags = {name: actions for name, actions in flags.items() if not name.startswith("train")}
    monkeypatch.setenv(FOLDER_VARIABLE, str(sandbox.parent))
    before, statuses = listing(sandbox), []

    def check(case: tuple[str, list[str]]) -> None:
        name, words = case
        status, errors = call(lambda: scripts[name].main(scripts[name].parse_args()), words)
        check_end(status, errors, case)
        after = listing(sandbox)
        for path in after:
            if after[path] != before.get(path):
                assert path not in before, (case, path, "was overwritten")
                assert is_output(path, words), (case, path)
                path.unlink()
        assert before.keys() <= after.keys(), case
        statuses.append(status)

    for name, actions in flags.items():
        check((name, [word for action in actions if action.dest in NEEDED for word in (
            *action.option_strings[:1], quick(name, action)[0])]))
    assert statuses == [0] * len(flags)
    search(check, command_lines(flags, sane=True), 400 if thorough else 12, thorough, capfd)
    assert set(statuses) == {0, 2}
