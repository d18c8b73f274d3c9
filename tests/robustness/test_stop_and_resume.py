"""Nothing is lost: killed, stopped, on full and read-only disks, without folders, two at once.

Trainings are ended at random moments and resumed until they are finished; what comes out must be,
to the bit, what an uninterrupted training gives.
"""

import csv
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from best_renderer import drawing_error
from grid.painter import load_painter
from helpers import Checkout, Script, assert_finite, assert_same
from images import Images
from painting.stroke_file import read_json
from Renderer.model import Renderer
from Renderer.stroke_batch import draw_batch
from Renderer.stroke_gen import SHAPE_DIM
from renderer_trainer import VALIDATION_SEED
from running.device import Precision
from running.run import STOPPING
from utils.command import STOP_SIGNALS
from utils.files import write_atomically
from utils.pictures import read_picture
from utils.weights import load_weights

pytestmark = pytest.mark.usefixtures("narrow")
EPISODE = 3  # steps
FP32 = Precision("fp32", torch.device("cpu"))


class Job(NamedTuple):
    """A training that is ended and resumed."""

    script: str
    flags: tuple
    interval: int  # steps from one checkpoint to the next
    best: str  # the weight file


AGENT = Job("train.py", (
    "--max_step", EPISODE, "--env_batch", 2, "--batch_size", 2, "--validate_interval", 2,
    "--validate_episodes", 1, "--debug", "--device", "cpu", "--precision", "fp32"),
    2 * EPISODE, "train_log/Paint-run1/actor.pkl")


def agent(*flags: object) -> Job:
    """A training of the agent."""
    return AGENT._replace(flags=(*AGENT.flags, *flags))


PAINT = agent("--rmsize", 4, "--warmup", 3, "--episode_train_times", 1)
QUICK = PAINT._replace(flags=(*PAINT.flags, "--reward", "l2"))
RENDER = Job("train_renderer.py", (
    "--batch_size", 4, "--validate_interval", 6, "--device", "cpu", "--precision", "fp32",
    "--scratch", "--output", "w.pkl"), 6, "w.pkl")


def length(job: Job, intervals: int) -> tuple:
    """Flags for a training of that many intervals."""
    steps = "--train_times" if job.script == "train.py" else "--steps"
    return (*job.flags, steps, intervals * job.interval)


def folder(checkout: Checkout) -> Path:
    """The folder of the only run."""
    (run,) = (checkout.root / "train_log").iterdir()
    return run


def checkpoint(checkout: Checkout) -> dict:
    return torch.load(folder(checkout) / "checkpoint.pt", weights_only=True)


def step_of(state: dict) -> int:
    return state.get("step", state.get("global_step"))


def last_step(output: str) -> int:
    """The last step that a training said it has done."""
    steps = [int(line.split("step ")[1].split()[0].strip(":,")) for line in output.splitlines()
             if line.startswith(("step ", "episode "))]
    return max(steps, default=0)


def outcome(checkout: Checkout) -> dict:
    """All that a training leaves, but for how its time was spent."""
    left = checkpoint(checkout)
    left.pop("seconds", None)
    if (log := folder(checkout) / "log.csv").is_file():
        left["log"] = [{name: row[name] for name in row if name in ("update", "frames") or
                        name.startswith("error")} for row in csv.DictReader(log.open())]
    if "memory" in left:
        (file,) = folder(checkout).glob("memory-*.pt")
        left["memory"] = torch.load(file, weights_only=True)
    return left


class Chain:
    """A training that is ended at random moments and resumed, again and again."""

    def __init__(self, checkout: Checkout, job: Job, intervals: int, seed: int) -> None:
        self.checkout, self.job = checkout, job
        self.rng = np.random.default_rng(seed)
        self.flags = length(job, intervals)
        self.runs = checkout.root / "train_log"
        self.while_writing = 0  # how often it was ended while a file was written
        self.over = False  # before a signal came

    def ended_by(self, number: int, seconds: float) -> Script:
        """Start or resume, and send a signal before it has worked for about so many seconds.

        In half of the cases that is while a file is being written, in some while it starts.
        """
        process = self.checkout.start(self.job.script, *self.flags)
        early = self.rng.random() < 0.1
        if not early:
            process.wait_for(": step ")
            assert list(self.runs.glob("*/checkpoint.pt"))
        if not early and self.rng.random() < 0.5:
            end = process.worked() + seconds
            while process.worked() < end and not self.writes() and not process.over(0.001):
                pass
            seconds = 0
        end = process.worked() + self.rng.uniform(0, seconds)
        while process.worked() < end and not process.over(0.001):
            pass
        self.while_writing += self.writes()
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.signal(number)
        self.over = process.wait() == 0 and "finished; " in process.output
        if list(self.runs.glob("*/checkpoint.pt")):
            self.flags = ("--resume",)
        else:
            assert early
            shutil.rmtree(self.runs, ignore_errors=True)  # killed before there was anything
        return process

    def writes(self) -> bool:
        """Whether a file is being written."""
        return any(self.runs.glob("*/.*.part"))

    def finish(self) -> None:
        """Go on to the end."""
        if not self.over:
            process = self.checkout.start(self.job.script, *self.flags)
            assert process.wait(900) == 0, process.errors
            assert "finished" in process.output
        assert not self.writes()


def uninterrupted(job: Job, intervals: int) -> tuple[dict, float]:
    """What a training gives, and the seconds of work that an interval of it takes."""
    root = Path(tempfile.mkdtemp())
    checkout = Checkout(root / "checkout")
    process = checkout.start(job.script, *length(job, intervals))
    process.wait_for(": step ")
    start = end = process.worked()
    while not process.over(0.01):
        end = max(end, process.worked())
    assert process.wait() == 0, process.errors
    seconds = (end - start) / intervals
    left = outcome(checkout)
    shutil.rmtree(root)
    return left, seconds


known = cache(uninterrupted)


def error_of(checkout: Checkout, job: Job) -> float:
    """The error of a weight file, as the training measures it; the file must load."""
    if job is RENDER:
        network = Renderer()
        strokes = torch.from_numpy(
            np.random.default_rng(VALIDATION_SEED).random((64, SHAPE_DIM), np.float32))
        load_weights(network, checkout.root / job.best, "the renderer", "")
        return drawing_error(network, strokes, draw_batch(strokes), FP32)[0]
    data = Images(checkout.root / "data" / "img_align_celeba", checkout.root / "cache")
    painter = load_painter(checkout.root / job.best, checkout.root / "renderer.pkl", FP32)
    return painter.measure(data.images[data.test[:2]], EPISODE, 2).errors[-1].item()


def killed(tmp_path: Path, job: Job, kills: int) -> None:
    """Kill and resume a training; compare with one that nobody killed."""
    expected, seconds = known(job, max(4, kills))
    checkout = Checkout(tmp_path / "killed")
    chain, before, errors, lost = Chain(checkout, job, max(4, kills), kills), 0, [], []
    for _ in range(kills):
        process = chain.ended_by(signal.SIGKILL, 1.5 * seconds)
        if chain.over:
            break
        assert process.returncode == -signal.SIGKILL, process.errors
        assert process.errors == ""
        now = step_of(checkpoint(checkout)) if chain.flags == ("--resume",) else 0
        assert now >= before
        before = now
        lost.append(max(0, last_step(process.output) - now))
        for file in checkout.root.glob("train_log/*/*.pkl"):
            assert_finite(torch.load(file, weights_only=True))
        if (checkout.root / job.best).exists():
            errors.append(error_of(checkout, job))
    chain.finish()
    assert max(lost, default=0) <= job.interval
    assert kills < 50 or errors
    assert errors == sorted(errors, reverse=True)
    assert_same(outcome(checkout), expected)
    print(f"{job.script}: {kills} kills survived, {chain.while_writing} of them while a file was "
          f"written; {max(lost, default=0)} steps lost at most, of {job.interval}")


@pytest.mark.parametrize("job", [QUICK, RENDER], ids=["agent", "renderer"])
def test_killed_trainings_go_on(tmp_path, job):
    killed(tmp_path, job, 3)


@pytest.mark.slow
@pytest.mark.parametrize("job", [PAINT, RENDER], ids=["agent", "renderer"])
def test_trainings_killed_fifty_times_go_on(tmp_path, job):
    killed(tmp_path, job, 50)


def stopped(tmp_path: Path, job: Job, stops: int) -> None:
    """Stop and resume a training; no step may be done twice or left out."""
    expected, seconds = known(job, 4 * stops)
    checkout = Checkout(tmp_path / "stopped")
    chain, done, beginnings = Chain(checkout, job, 4 * stops, stops), 0, []
    for i in range(stops):
        number = STOP_SIGNALS[i % len(STOP_SIGNALS)]
        process = chain.ended_by(number, seconds)
        if chain.over:
            break
        if "stopped; go on" not in process.output:  # before it had done anything
            assert process.returncode in (128 + number, -number), process.errors
            continue
        assert process.errors.encode() == STOPPING
        assert process.returncode == 0
        beginnings.append(int(process.output.split(": step ")[1].split()[0]))
        assert beginnings[-1] == done
        done = step_of(checkpoint(checkout))
    chain.finish()
    assert beginnings
    assert_same(outcome(checkout), expected)
    print(f"{job.script}: stopped and resumed {len(beginnings)} times, nothing lost")


@pytest.mark.parametrize("job", [QUICK, RENDER], ids=["agent", "renderer"])
def test_stopped_trainings_lose_nothing(tmp_path, job):
    stopped(tmp_path, job, 3)


@pytest.mark.slow
@pytest.mark.parametrize("job", [PAINT, RENDER], ids=["agent", "renderer"])
def test_trainings_stopped_twenty_times_lose_nothing(tmp_path, job):
    stopped(tmp_path, job, 20)


@pytest.mark.parametrize("job", [QUICK, RENDER], ids=["agent", "renderer"])
def test_one_seed_gives_the_same_weights_twice(job):
    assert_same(known(job, 4)[0], uninterrupted(job, 4)[0])


@contextmanager
def disk(place: Path, options: str) -> Iterator[Callable[[str], None]]:
    """A small disk, mounted at a folder.  Gives what changes its options."""
    place.mkdir(parents=True, exist_ok=True)

    def mount(*arguments: str) -> bool:
        done = subprocess.run(["mount", *arguments, str(place)], capture_output=True, check=False)
        return done.returncode == 0

    if shutil.which("mount") is None or not mount("-t", "tmpfs", "-o", options, "tmpfs"):
        pytest.skip("no disks can be mounted here")
    try:
        yield lambda options: mount("-o", f"remount,{options}")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def used(place: Path) -> int:
    """KiB taken on a disk."""
    usage = shutil.disk_usage(place)
    return (usage.total - usage.free) >> 10


def says_once(process: Script, words: str) -> None:
    """A script must have ended with one line that says so."""
    assert process.wait() == 2, process.errors
    (line,) = [line for line in process.errors.splitlines() if not line.startswith("warning: ")]
    assert line.startswith("error: ")
    assert words in line, line


@pytest.mark.parametrize("job", [QUICK, RENDER], ids=["agent", "renderer"])
def test_a_disk_that_becomes_full(checkout, job):
    """The checkpoint before stays; with more room the training goes on."""
    runs = checkout.root / "train_log"
    with disk(runs, "size=1g") as remount:
        process = checkout.start(job.script, *length(job, 30))
        process.wait_for("\nstep ")
        before = step_of(checkpoint(checkout))
        while not remount(f"size={used(runs) + 64}k"):
            pass  # more was written meanwhile
        says_once(process, "No space left on device")
        assert step_of(checkpoint(checkout)) >= before
        remount("size=1g")
        process = checkout.start(job.script, "--resume")
        process.wait_for("\nstep ")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert not list(runs.glob("*/.*.part"))


def test_full_and_read_only_disks(checkout):
    """Nothing can be written from the beginning."""
    runs, output, cache = (checkout.root / name for name in ("train_log", "output", "data/cache"))
    checkout.run("evaluate.py", "--max_step", 1, "--limit", 1)  # for the cache
    checkout.run("test.py", "--max_step", 1, "--divide", 1, "--strokes", "s.json")
    shutil.move(cache, checkout.root / "kept")
    for options, words in (("ro", "Read-only file system"), ("size=4k", "No space left on device")):
        with disk(cache, options):
            says_once(checkout.start("evaluate.py", "--max_step", 1, "--cache", cache), words)
        shutil.copytree(checkout.root / "kept", cache, dirs_exist_ok=True)
        with disk(runs, options):
            for job, flag in ((QUICK, "--output"), (RENDER, "--log")):
                says_once(checkout.start(job.script, *length(job, 2), flag, runs / "own"), words)
        shutil.rmtree(cache)
        with disk(output, options):
            for flags in (("--frames", "all"), ("--frames", "last", "--video", "output/v.mp4"),
                          ("--strokes", "output/s.svg"), ("--compare", "output/c.png")):
                says_once(checkout.start("test.py", "--max_step", 1, "--divide", 1, *flags), words)
            for name in ("p.png", "p.mp4"):
                says_once(checkout.start("replay.py", "s.json", "--size", 999, "--output",
                                         output / name), words)
            for path in output.iterdir():  # what there was room for
                assert (path.suffix == ".svg" and path.read_text().endswith("</svg>\n")
                        or read_picture(path).any())


def test_a_read_only_checkout(checkout):
    """Caches and logs go into the user's cache folder."""
    user = checkout.root / "user"
    with disk(checkout.root / "data" / "cache", "ro"), disk(checkout.root / "train_log", "ro"):
        for script, *flags in (("evaluate.py", "--max_step", 1, "--limit", 1),
                               (QUICK.script, *length(QUICK, 1)),
                               (RENDER.script, *length(RENDER, 1))):
            process = checkout.start(script, *flags, environment={"XDG_CACHE_HOME": str(user)})
            assert process.wait() == 0, process.errors
    own = user / "learning-to-paint"
    assert {path.name for path in (own / "train_log").iterdir()} == {"Paint-run1", "Renderer-run1"}
    assert len(list((own / "cache").glob("img_align_celeba-*.npy"))) == 1


def test_images_that_vanish(checkout):
    """A training needs them only when it starts; it goes on once it is told where they are."""
    faces, away = (checkout.root / "data" / name for name in ("img_align_celeba", "away"))
    process = checkout.start(QUICK.script, *length(QUICK, 40))
    process.wait_for("episode 1")
    faces.rename(away)
    process.wait_for("episode 4")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    before = checkpoint(checkout)
    says_once(checkout.start(QUICK.script, "--resume"), f"{faces} is no folder of images")
    assert_same(checkpoint(checkout), before)
    says_once(checkout.start(QUICK.script, "--resume", "--data", "none"), "none is no folder")
    assert str(faces) in (folder(checkout) / "run.json").read_text()
    for flags in (("--data", away), ()):
        process = checkout.start(QUICK.script, "--resume", *flags)
        process.wait_for(f": step {before['global_step']} of")
        process.kill()
        process.wait()
    says_once(checkout.start(QUICK.script, "--resume", "--tau", 0.1), "leave out --tau")


@pytest.mark.parametrize("job", [QUICK, RENDER], ids=["agent", "renderer"])
def test_a_log_folder_that_is_deleted(checkout, job):
    """The training writes it anew, and ends; resumed it comes to what it would have come to."""
    expected = dict(known(job, 4)[0])
    process = checkout.start(job.script, *length(job, 4))
    process.wait_for("\nepisode 3" if job is QUICK else "\nstep ")
    run = folder(checkout)
    while run.exists():  # it may write meanwhile
        shutil.rmtree(run, ignore_errors=True)
    says_once(process, "was deleted while the training ran")
    assert "finished" in checkout.run(job.script, "--resume")
    left = outcome(checkout)
    # Of weights that were deleted, and of what was.
    for name in {"best", "best_update", "best_averaged", "log"} & left.keys():
        left.pop(name), expected.pop(name)
    assert_same(left, expected)
    assert error_of(checkout, job) < 1


def test_a_folder_that_is_deleted_while_a_file_is_written(tmp_path):
    tries = []

    def write(file) -> None:
        file.write(b"whole")
        if not tries:
            shutil.rmtree(tmp_path / "run")
        tries.append(1)

    write_atomically(tmp_path / "run" / "file", write)
    assert [path.read_bytes() for path in (tmp_path / "run").iterdir()] == [b"whole"]
    assert len(tries) == 2


def test_trainings_side_by_side(checkout):
    """Each has its folder."""
    many = [checkout.start(job.script, *length(job, 2)) for job in 2 * (QUICK, RENDER)]
    for process in many:
        assert process.wait() == 0, process.errors
    names = sorted(path.name for path in (checkout.root / "train_log").iterdir())
    assert names == ["Paint-run1", "Paint-run2", "Renderer-run1", "Renderer-run2"]
    for name in names:
        assert (checkout.root / "train_log" / name / "checkpoint.pt").is_file()


def test_the_better_of_two_renderers_stays(checkout):
    """One that trains badly never replaces what another one has written meanwhile."""
    bad = checkout.start(RENDER.script, *length(RENDER, 8), "--lr", 1)
    bad.wait_for("\nstep ")
    worse = error_of(checkout, RENDER)
    checkout.run(RENDER.script, *length(RENDER, 1), "--seed", 2)
    better = error_of(checkout, RENDER)
    assert bad.wait() == 0
    assert error_of(checkout, RENDER) <= min(better, worse)


def test_paintings_into_one_folder(checkout):
    """The second one is refused while the first goes on; its own frames are all there."""
    flags = ("test.py", "--max_step", 80, "--divide", 1)
    first = checkout.start(*flags)
    first.wait_for("step 1:")
    first.signal(signal.SIGSTOP)
    says_once(checkout.start(*flags), "another painting goes to output")
    first.signal(signal.SIGCONT)
    assert first.wait() == 0
    assert len(list((checkout.root / "output").glob("generated*.png"))) == 400
    checkout.run("test.py", "--max_step", 1, "--divide", 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_painting_with_what_there_is(checkout, number):
    """Files are whole, and hold the strokes so far."""
    flags = ("test.py", "--max_step", 2000, "--divide", 1, "--video", "v.mp4", "--frames", "last",
             "--strokes", "s.json")
    process = checkout.start(*flags)
    process.wait_for("step 2:")
    assert list(checkout.root.glob(".v.mp4.*.part"))
    process.signal(number)
    assert process.wait() == 128 + number
    steps = int(re.search(r"stopped after (\d+) of 2000 steps", process.output)[1])
    assert len(read_json(checkout.root / "s.json")[0]) == 5 * steps
    assert process.output.endswith("the painting: output/painting.png\n")
    frame, painting = (read_picture(checkout.root / "output" / name)
                       for name in ("generated0.png", "painting.png"))
    assert np.array_equal(frame, painting)
    assert not list(checkout.root.glob(".*.part"))
    assert (checkout.root / "v.mp4").stat().st_size > 1000


def test_paintings_that_are_ended_at_once_leave_no_beginnings(checkout):
    script = checkout.root / "baseline" / "running" / "run.py"
    script.write_text(script.read_text().replace("SAME_STOP = 1.0", "SAME_STOP = 1e-9"))
    process = checkout.start("test.py", "--max_step", 2000, "--divide", 1, "--video", "v.mp4",
                             "--frames", "last")
    process.wait_for("step 2:")
    process.signal(signal.SIGINT)
    process.signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert not list(checkout.root.glob(".*.part")) + list((checkout.root / "output").iterdir())
