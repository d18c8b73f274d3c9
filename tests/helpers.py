"""What tests share: a small checkout and its scripts, golden networks, trainings, searches."""

import argparse
import contextlib
import csv
import importlib
import importlib.util
import io
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from PIL import Image
from torch import nn

from curve import LOG
from images import Images
from painting.stroke_file import write_json
from Renderer.stroke_gen import FAMILIES
from Renderer.strokes import Strokes
from running.ranks import Ranks
from train import parse_args
from trainer import Training
from utils.command import Parser, UserError

# Hypothesis keeps what it knows of Unicode there, and in the checkout otherwise.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY",
                      str(Path(tempfile.gettempdir()) / "hypothesis"))
TESTS = Path(__file__).parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
ARRAYS = np.load(GOLDEN / "golden.npz")
UPDATE = json.loads((GOLDEN / "golden_update.json").read_text())

TINY = ("--max_step", 3, "--env_batch", 2, "--batch_size", 2, "--rmsize", 6, "--warmup", 3,
        "--episode_train_times", 2, "--validate_interval", 1, "--validate_episodes", 1,
        "--device", "cpu")
RENDERER_TINY = ("--batch_size", 4, "--scratch", "--precision", "fp32", "--device", "cpu")
SMALL = ("--max_step", 3, "--env_batch", 2, "--batch_size", 2, "--device", "cpu",
         "--precision", "fp32", "--train_times", 100, "--seed", 7)
MEMORY = ("--rmsize", 6, "--warmup", 3, "--episode_train_times", 2)


class Script:
    """A script that runs; what it prints goes to files."""

    def __init__(self, script: Path, *flags: object, cwd: Path,
                 environment: dict[str, str] | None = None) -> None:
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
        reading, writing = os.pipe()
        self._status = os.fdopen(reading)
        request = {"script": str(script), "flags": list(map(str, flags)), "cwd": str(cwd),
                   "environment": environment or {}}
        socket.send_fds(server(), [json.dumps(request).encode()],
                        [*(file.fileno() for file in self._files), writing])
        os.close(writing)
        self.pid = int(self._status.readline())
        self.returncode: int | None = None

    def wait(self, timeout: float = 280) -> int:
        """The exit status, or minus the signal that ended it; killed if it takes too long."""
        if self.returncode is None:
            late = not self.over(timeout)
            if late:
                self.kill()
            self.returncode = int(self._status.readline())
            assert not late, f"killed after {timeout} s\n{self.output}\n{self.errors}"
        return self.returncode

    def over(self, seconds: float) -> bool:
        """Whether it ends within so many seconds."""
        ended = self.returncode is not None
        return ended or bool(select.select([self._status], [], [], seconds)[0])

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._read(0)

    @property
    def errors(self) -> str:
        """What it has written on stderr so far."""
        return self._read(1)

    def _read(self, number: int) -> str:
        file = self._files[number].fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode()

    def wait_for(self, text: str) -> str:
        """Wait until it has printed ``text``.  Returns all it has printed."""
        while text not in (seen := self.output):
            assert not self.over(0.005), (
                f"it ended without {text!r}\n{self.output}\n{self.errors}")
        return seen

    def worked(self) -> float:
        """The seconds of a processor that it has taken, however busy the machine is; 0 if over."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.signal(signal.SIGKILL)


@cache
def server() -> socket.socket:
    """The connection to the process that forks."""
    mine, its = socket.socketpair()
    subprocess.Popen([sys.executable, TESTS / "fork_server.py", str(its.fileno())],
                     pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                     env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    return mine


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


def key_list(name: str) -> dict[str, list[int]]:
    """The published keys and shapes of a network, in order."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def golden_value(key: str, v: np.ndarray, gain: float) -> np.ndarray:
    """The entry of a golden state dict that is made from the normal numbers v."""
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


def image(n: int, channels: int, seed: int) -> torch.Tensor:
    """Random pictures (n, channels, 128, 128) in [0, 1]."""
    numbers = np.random.default_rng(seed).random((n, channels, 128, 128))
    return torch.from_numpy(numbers.astype(np.float32))


def u8(x: torch.Tensor) -> torch.Tensor:
    """To uint8 by truncation."""
    return (x * 255).to(torch.uint8)


def assert_golden(actual: torch.Tensor | float, expected: np.ndarray | float) -> None:
    """Agreement to a relative 1e-4 of the largest value."""
    expected = np.asarray(expected)
    actual = np.asarray(torch.as_tensor(actual).detach().cpu())
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


def weights_of(path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def assert_same(one, other) -> None:
    """Equality to the bit, however deep."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, its in zip(one, other, strict=True):
            assert_same(mine, its)
    else:
        assert one == other


def assert_finite(value) -> None:
    """However deep; a best error that nothing was measured for yet is infinite."""
    if isinstance(value, torch.Tensor):
        assert torch.isfinite(value).all()
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            assert_finite(each)


def training_of(checkout, *flags, memory=True):
    """A tiny Training object in this process."""
    folder = checkout.root / "data" / "img_align_celeba"
    options = parse_args([*map(str, (
        *SMALL, *(MEMORY if memory else ()), "--data", folder, "--renderer",
        checkout.root / "renderer.pkl", *flags))])
    return Training(options, Images(folder, checkout.root / "cache"), Ranks())


def go_on(training, ticks: int) -> None:
    """Pieces of work, as the loop asks for them."""
    for _ in range(ticks):
        training.tick()


def everything(training) -> dict:
    return {
        "method": training.method.state_dict(), "schedule": training.schedule.state_dict(),
        "numpy": training.rng.bit_generator.state,
    }


class Network(nn.Module):
    """A small network with all that the real ones hold: floats and an integer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 4), 0.5))
        self.bias = nn.Parameter(torch.zeros(4))
        self.register_buffer("count", torch.tensor(7))


class Call:
    """Pickled, it calls a function as it is loaded."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def saved(value: object, **flags: object) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file, **flags)
    return file.getvalue()


def weights(**change: object) -> dict:
    """The network's state dict with those values in place of, or beside, its own."""
    return {**Network().state_dict(), **change}


def archive(parts: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as made:
        for name, data in parts.items():
            made.writestr(name, data)
    return file.getvalue()


def parts(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as read:
        return {name: read.read(name) for name in read.namelist()}


SCRIPTS = ("curve.py", "evaluate.py", "replay.py", "test.py", "train.py", "train_renderer.py")


def load_script(name: str) -> ModuleType:
    """A script as a module, of test.py too, which is a name of the standard library."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "baseline" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flags_of(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[argparse.Action]:
    """What a script's own parser knows."""
    parsers = []

    def parse(parser: argparse.ArgumentParser, _: list[str] | None = None) -> None:
        parsers.append(parser)
        raise UserError("that is all")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="that is all"):
        patch.setattr(Parser, "parse_args", parse)
        script.parse_args()
    return [action for action in parsers[0]._actions if action.dest != "help"]


def write_run(folder: Path, errors: tuple[float, ...] = (0.05, 0.03, 0.04)) -> Path:
    """A training's folder: a validation after each 2 updates of 4 transitions."""
    folder.mkdir()
    with (folder / LOG).open("w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("update", "frames", "seconds", "error_5", "error_200", "live", "opacity",
                         "actor/loss"))
        writer.writerows((2 * n, 8 * n, 60 * n, 2 * error, error, 0.5, "", -1.5)
                         for n, error in enumerate(errors, 1))
    return folder


LONGEST = 10  # seconds that an input may take of the processor,
BUSY = 6  # times as many by the clock, where the machine does much else

thorough = pytest.mark.parametrize(
    "thorough", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["quick", "thorough"])


def search(check: Callable[[Any], None], inputs: st.SearchStrategy, count: int,
           thorough: bool, capfd: pytest.CaptureFixture) -> None:
    """Check that many inputs, each in its time; nothing may be printed.  Say how many."""
    tried = 0

    @settings(max_examples=count, deadline=None, database=None, print_blob=False,
              derandomize=not thorough, suppress_health_check=list(HealthCheck))
    @given(inputs)
    def one(value: object) -> None:
        nonlocal tried
        tried += 1
        signal.setitimer(signal.ITIMER_REAL, BUSY * LONGEST)
        start = time.thread_time()
        check(value)
        assert time.thread_time() - start < LONGEST
        signal.setitimer(signal.ITIMER_REAL, 0)

    number = random.SystemRandom().randrange(2**32)
    if thorough:
        one = seed(number)(one)
    with alarmed():
        one()
    printed = capfd.readouterr()
    assert printed == ("", ""), printed
    with capfd.disabled() if thorough else contextlib.nullcontext():
        print(f"{tried} inputs tried" + f", from the seed {number}" * thorough)


@contextlib.contextmanager
def alarmed() -> Iterator[None]:
    """An input that never ends becomes an error, where it ever comes back to Python."""
    def late(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def images() -> list[bytes]:
    """A small picture in many kinds of files."""
    rng = np.random.default_rng(0)
    photo = cv2.resize(rng.integers(0, 256, (4, 5, 3), np.uint8), (44, 36))
    clear = np.dstack((photo, photo[..., 0]))
    kinds = [(suffix, photo) for suffix in (
        ".png", ".jpg", ".webp", ".bmp", ".gif", ".tiff", ".jp2", ".ppm", ".avif")]
    kinds += [(".png", clear), (".webp", clear), (".tiff", clear), (".png", clear * np.uint16(257)),
              (".pgm", photo[..., 0]), (".pbm", photo[..., 0]), (".png", photo[..., 0]),
              (".tiff", np.float32(photo[..., 0])), (".tiff", photo * np.uint16(257)),
              (".jp2", photo[..., 0] * np.uint16(257)), (".avif", photo[..., 0])]
    made = [cv2.imencode(suffix, picture)[1].tobytes() for suffix, picture in kinds]
    image, exif = Image.fromarray(photo), Image.Exif()
    exif[0x112] = 6
    others = [image.transpose(Image.Transpose.ROTATE_90), image.rotate(90)]
    for mode, kind, flags in (
            ("RGB", "jpeg", {"progressive": True, "exif": exif}), ("CMYK", "jpeg", {}),
            ("P", "png", {"exif": exif}), ("1", "tiff", {}),
            ("RGB", "tiff", {"compression": "jpeg"}),
            ("P", "gif", {"save_all": True, "append_images": others, "loop": 0}),
            ("RGB", "tiff", {"save_all": True, "append_images": others}), ("RGB", "mpo", {}),
            ("RGB", "png", {"save_all": True, "append_images": others}), ("L", "jpeg2000", {}),
            ("P", "tiff", {"compression": "tiff_lzw"}), ("CMYK", "tiff", {}),
            ("LA", "tiff", {"compression": "tiff_deflate"}), ("P", "bmp", {}),
            ("RGB", "avif", {"save_all": True, "append_images": [image.rotate(180)]})):
        file = io.BytesIO()
        image.convert(mode).save(file, kind, **flags)
        made.append(file.getvalue())
    return made


def stroke_files(folder: Path) -> list[dict]:
    """A file of each family."""
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
