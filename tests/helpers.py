"""Helpers of the tests: a small checkout and its scripts, golden networks, searches."""

import ast
import contextlib
import csv
import io
import json
import os
import pkgutil
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from torch import nn

from curve import LOG
from DRL.actor import Actor
from DRL.ddpg import DDPG
from images import Images
from painting.stroke_file import write_json
from Renderer.model import Renderer
from Renderer.raster import paint_exact
from Renderer.stroke_gen import FAMILIES
from Renderer.strokes import Strokes
from running.device import Precision
from running.ranks import Ranks
from running.run import Run
from train import parse_args
from trainer import Training
from utils.weights import half_state

# Where Hypothesis stores its tables of Unicode; otherwise in the checkout.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY",
                      str(Path(tempfile.gettempdir()) / "hypothesis"))
TESTS = Path(__file__).parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
ARRAYS = np.load(GOLDEN / "golden.npz")
UPDATE = json.loads((GOLDEN / "golden_update.json").read_text())
FP32 = Precision("fp32", torch.device("cpu"))

EPISODE = ("--max_step", 3, "--env_batch", 2, "--batch_size", 2, "--device", "cpu")
MEMORY = ("--rmsize", 6, "--warmup", 3, "--episode_train_times", 2)
TINY = (*EPISODE, *MEMORY, "--validate_interval", 1, "--validate_episodes", 1)
RENDERER_TINY = ("--batch_size", 4, "--scratch", "--precision", "fp32", "--device", "cpu")


class Script:
    """A running script, whose output goes to files."""

    def __init__(self, script: Path, *flags: object, cwd: Path, settings: dict[str, object],
                 environment: dict[str, str] | None = None) -> None:
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
        reading, writing = os.pipe()
        self._status = os.fdopen(reading)
        request = {"script": str(script), "flags": list(map(str, flags)), "cwd": str(cwd),
                   "environment": environment or {}, "settings": settings}
        socket.send_fds(server(), [json.dumps(request).encode()],
                        [*(file.fileno() for file in self._files), writing])
        os.close(writing)
        self.pid = int(self._status.readline())
        self.returncode: int | None = None

    def wait(self, timeout: float = 280) -> int:
        """Return the exit status, or minus the signal that ended it; kill it after a timeout."""
        if self.returncode is None:
            late = not self.over(timeout)
            if late:
                self.signal(signal.SIGKILL)
            self.returncode = int(self._status.readline())
            assert not late, f"killed after {timeout} s\n{self.output}\n{self.errors}"
        return self.returncode

    def over(self, seconds: float) -> bool:
        """Return whether it ends within this time."""
        ended = self.returncode is not None
        return ended or bool(select.select([self._status], [], [], seconds)[0])

    @property
    def output(self) -> str:
        """Return what it has written to stdout so far."""
        return self._read(0)

    @property
    def errors(self) -> str:
        """Return what it has written to stderr so far."""
        return self._read(1)

    def _read(self, number: int) -> str:
        file = self._files[number].fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode()

    def wait_for(self, text: str) -> None:
        """Wait until it has printed a text."""
        while text not in self.output:
            assert not self.over(0.005), (
                f"it ended without {text!r}\n{self.output}\n{self.errors}")

    def cpu_seconds(self) -> float:
        """Return the processor time that it has taken, 0 if it is over."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self.returncode is None:
            os.kill(self.pid, number)


@cache
def server() -> socket.socket:
    """Start the process that forks and return the connection to it."""
    connection, remote = socket.socketpair()
    subprocess.Popen([sys.executable, TESTS / "fork_server.py", str(remote.fileno())],
                     pass_fds=[remote.fileno()], stdin=subprocess.DEVNULL,
                     stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    return connection


NARROW = {  # settings of modules that make networks narrow
    **dict.fromkeys(("DRL.layers.STAGES", "DRL.actor.STAGES", "DRL.critic.STAGES"),
                    (16, 32, 64, 128)),
    "Renderer.model.HIDDEN": (64, 64, 128, 4096),
}


def narrow_settings() -> dict[str, tuple[int, ...]]:
    """Return those settings of ``NARROW`` that hold in this process."""
    return {name: widths for name, widths in NARROW.items()
            if pkgutil.resolve_name(name) == widths}


@cache
def untrained_weights(narrow: bool) -> dict[str, bytes]:
    """Return weight files of untrained networks, by name."""
    torch.manual_seed(0)
    return {"renderer.pkl": saved(half_state(Renderer())), "actor.pkl": saved(half_state(Actor()))}


class Checkout:
    """A copy of the scripts with small weights and images, so that default paths stay in it.

    Its networks are as wide as those of this process.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(ROOT / "baseline", root / "baseline",
                        ignore=shutil.ignore_patterns("*.pyc"))  # compiled kernels stay
        for name, content in untrained_weights(bool(narrow_settings())).items():
            (root / name).write_bytes(content)
        rng = np.random.default_rng(0)
        faces = root / "data" / "img_align_celeba"
        for folder in (faces, root / "image"):
            folder.mkdir(parents=True)
        for number in (1, 5, 2001, *range(2002, 2008)):
            blocks = rng.integers(0, 256, (7, 6, 3), np.uint8)
            cv2.imwrite(str(faces / f"{number:06}.jpg"), cv2.resize(blocks, (178, 218)))
        cv2.imwrite(str(root / "image" / "test.png"), cv2.resize(blocks, (150, 100)))

    def start(self, script: str, *flags: object, cwd: Path | None = None,
              settings: dict[str, object] | None = None, **more) -> Script:
        """Start a script in ``cwd``, the checkout's root by default."""
        settings = narrow_settings() | (settings or {})
        if script == "train_renderer.py":  # or most of the time would go into validation
            settings["renderer_trainer.VALIDATION_STROKES"] = 64
        return Script(self.root / "baseline" / script, *flags, cwd=cwd or self.root,
                      settings=settings, **more)

    def run(self, script: str, *flags: object, cwd: Path | None = None, status: int = 0) -> str:
        """Run a script to its end and check its exit status.

        Return what it printed on stdout if the status is 0, on stderr otherwise.
        """
        process = self.start(script, *flags, cwd=cwd)
        assert process.wait() == status, f"{process.output}\n{process.errors}"
        return process.errors if status else process.output

    def refuse(self, cases: Iterable[tuple[str, tuple, str]]) -> None:
        """Check that each (script, flags, words) ends with one error line and writes nothing."""
        files = self.files()
        for script, flags, words in cases:
            assert_error_line(self.start(script, *flags), words)
        assert not [name for name in self.files() - files if "cache" not in name]

    def files(self) -> set[str]:
        """Return the paths of all files in the checkout."""
        return {str(p.relative_to(self.root)) for p in self.root.rglob("*") if p.is_file()}


def assert_error_line(process: Script, words: str) -> None:
    """Check that a script ended with status 2 and one error line with these words."""
    assert process.wait() == 2, (words, process.output, process.errors)
    (line,) = [line for line in process.errors.splitlines() if not line.startswith("warning: ")]
    assert line.startswith("error: "), line
    assert words in line, line


def key_list(name: str) -> dict[str, list[int]]:
    """Return the published keys and shapes of a network, in order."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def golden_value(key: str, v: np.ndarray, gain: float) -> np.ndarray:
    """Return the entry of a golden state dict that is made from the normal numbers v."""
    if key.endswith("num_batches_tracked"):
        return np.array(1)
    if key.endswith("running_var"):
        return 1 + 0.5 * np.tanh(v)
    if key.endswith("running_mean"):
        return 0.1 * v
    if key.endswith("weight_g"):
        return gain * (1 + 0.1 * v)
    if key.endswith("alpha"):
        return 0.05 * v
    if v.ndim == 1:
        return 1 + 0.2 * v if key.endswith("weight") else 0.1 * v
    fan_in = v.size // v.shape[0]
    return v * np.sqrt(2 / fan_in) * (0.1 if key == "fc.weight" else 1)


@cache
def golden_state(
    shapes: tuple[tuple[str, torch.Size], ...], seed: int, gain: float
) -> dict[str, torch.Tensor]:
    """Return the golden weights of a seed, float32, by key and shape."""
    state = {}
    for k, (key, shape) in enumerate(shapes):
        v = np.random.default_rng(1000 * seed + k).standard_normal(shape)
        state[key] = torch.tensor(golden_value(key, v, gain)).float()
    return state


def fill(network: nn.Module, name: str, seed: int, gain: float = 1.0) -> nn.Module:
    """Give a network the golden weights of a seed, in eval mode; a narrow one has fewer."""
    shapes = tuple((key, value.shape) for key, value in network.state_dict().items())
    assert [key for key, _ in shapes] == list(key_list(name))
    network.load_state_dict(golden_state(shapes, seed, gain))
    return network.eval()


def fill_agent(agent: DDPG) -> None:
    """Give an agent's networks and target networks their golden weights."""
    for name, seed, gain in (("actor", 2, 1.0), ("critic", 3, 0.8), ("wgan", 4, 2.0)):
        if name in agent.networks:
            fill(agent.networks[name], name, seed, gain)
            fill(agent.target_networks[name], name, seed + 10, gain)


def image(n: int, channels: int, seed: int) -> torch.Tensor:
    """Return random pictures (n, channels, 128, 128) in [0, 1]."""
    numbers = np.random.default_rng(seed).random((n, channels, 128, 128))
    return torch.from_numpy(numbers.astype(np.float32))


def u8(x: torch.Tensor) -> torch.Tensor:
    """Truncate [0, 1] to uint8."""
    return (x * 255).to(torch.uint8)


def assert_golden(actual: torch.Tensor | float, expected: np.ndarray | float) -> None:
    """Check agreement to 1e-4 of the largest value."""
    expected = np.asarray(expected)
    actual = np.asarray(torch.as_tensor(actual).detach().cpu())
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


def load(path: Path) -> dict:
    """Return what a weight file or a checkpoint holds."""
    return torch.load(path, weights_only=True)


def assert_same(first: object, second: object) -> None:
    """Check that two nested structures of tensors are equal bit for bit."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert first == second


def assert_finite(value: object) -> None:
    """Check that all tensors in a nested structure are finite."""
    if isinstance(value, torch.Tensor):
        assert torch.isfinite(value).all()
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            assert_finite(each)


def training_of(checkout: Checkout, *flags: object, memory: bool = True) -> Training:
    """Return a tiny training in this process."""
    folder = checkout.root / "data" / "img_align_celeba"
    options = parse_args([*map(str, (
        *EPISODE, *(MEMORY if memory else ()), "--precision", "fp32", "--train_times", 100,
        "--seed", 7, "--data", folder, "--renderer", checkout.root / "renderer.pkl", *flags))])
    return Training(options, Images(folder, checkout.root / "cache"), Ranks())


def tick(training: Training, ticks: int) -> None:
    """Do this many ticks of a training."""
    for _ in range(ticks):
        training.tick()


def save_run(training: Training, folder: Path) -> Run:
    """Attach a training to a new run below a folder, save it and return the run."""
    run = Run.create(folder, "Paint", {}, Ranks())
    training.attach(run)
    training.save()
    return run


def state_of(training: Training) -> dict:
    """Return all state that a training run resumes with."""
    return {
        "method": training.method.state_dict(), "schedule": training.schedule.state_dict(),
        "numpy": training.rng.bit_generator.state,
    }


class Network(nn.Module):
    """A small network with both types of the real ones' tensors: floats and an integer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 4), 0.5))
        self.bias = nn.Parameter(torch.zeros(4))
        self.register_buffer("count", torch.tensor(7))


class Call:
    """An object whose pickle calls a function when it is loaded."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def saved(value: object, **flags: object) -> bytes:
    """Return what torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file, **flags)
    return file.getvalue()


def weights(**changes: object) -> dict:
    """Return the network's state dict with these values changed or added."""
    return {**Network().state_dict(), **changes}


def archive(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive of files by name."""
    archive_file = io.BytesIO()
    with zipfile.ZipFile(archive_file, "w", compression) as writer:
        for name, data in files.items():
            writer.writestr(name, data)
    return archive_file.getvalue()


def parts(data: bytes) -> dict[str, bytes]:
    """Return the files in a zip archive by name."""
    with zipfile.ZipFile(io.BytesIO(data)) as reader:
        return {name: reader.read(name) for name in reader.namelist()}


def imported_names(source: str) -> set[str]:
    """Return the top-level names that a Python source imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    return names


def write_run(folder: Path, errors: tuple[float, ...] = (0.05, 0.03, 0.04)) -> Path:
    """Write the folder of a run with a validation after every 2 updates of 4 transitions."""
    folder.mkdir()
    with (folder / LOG).open("w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("update", "frames", "seconds", "error_5", "error_200",
                         "critic/value", "actor/loss"))
        writer.writerows((2 * n, 8 * n, 60 * n, 2 * error, error, "", -1.5)
                         for n, error in enumerate(errors, 1))
    return folder


CPU_SECONDS = 10  # the processor time that one input may take
HANG_SECONDS = 60  # the time by the clock, on a busy machine

thorough = pytest.mark.parametrize(
    "thorough", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["quick", "thorough"])


def search(check: Callable[[Any], None], inputs: st.SearchStrategy, count: int,
           thorough: bool, capfd: pytest.CaptureFixture) -> None:
    """Check this many inputs, each within its time; nothing may be printed.  Print the count."""
    checked = 0

    def hang(*_: object) -> None:
        raise AssertionError("it hangs")

    @hypothesis.settings(
        max_examples=count, deadline=None, database=None, print_blob=False,
        derandomize=not thorough, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(inputs)
    def check_all(value: object) -> None:
        nonlocal checked
        checked += 1
        signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
        start = time.thread_time()
        check(value)
        assert time.thread_time() - start < CPU_SECONDS
        signal.setitimer(signal.ITIMER_REAL, 0)

    number = random.SystemRandom().randrange(2**32)
    former = signal.signal(signal.SIGALRM, hang)
    try:
        (hypothesis.seed(number)(check_all) if thorough else check_all)()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    printed = capfd.readouterr()
    assert printed == ("", ""), printed
    with capfd.disabled() if thorough else contextlib.nullcontext():
        print(f"{checked} inputs checked" + f", from the seed {number}" * thorough)


def stroke_files(folder: Path) -> list[dict]:
    """Write a stroke file of each family to s.json in turn and return their contents."""
    rng = np.random.default_rng(0)
    contents = []
    for family in FAMILIES:
        strokes = Strokes(family, 256, 384, rng.random((3, 10)).astype(np.float32),
                          rng.random((3, 3)).astype(np.float32),
                          np.array([[0, 0, 128], [128, 256, 128], [0, 0, 256]]),
                          np.array([[0, 0, 128, 128], [0, 0, 256, 384], [1, 2, 3, 4]]))
        write_json(folder / "s.json", strokes, (100, 150), {"img": "a.png"})
        contents.append(json.loads((folder / "s.json").read_text()))
    return contents


def painted(strokes: Strokes, scale: float = 1) -> np.ndarray:
    """Return the exact rasterizer's canvas (H, W, 3)."""
    canvas = np.zeros((round(strokes.height * scale), round(strokes.width * scale), 3), np.float32)
    paint_exact(strokes, canvas, scale)
    return canvas
