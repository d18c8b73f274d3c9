"""Trainings that are killed or stopped, full and read-only disks, two processes at once.

Trainings are stopped at random moments and resumed until they are finished; the outcome must be
bit for bit that of an uninterrupted training.
"""

import csv
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from grid.policy import load_policy
from helpers import FP32, Checkout, Script, assert_error_line, assert_finite, assert_same, load
from images import Images
from painting.stroke_file import read_json
from Renderer.model import Renderer
from Renderer.stroke_batch import draw_batch
from Renderer.stroke_gen import SHAPE_DIM
from renderer_trainer import VALIDATION_SEED, drawing_error
from running.run import STOPPING
from utils.command import STOP_SIGNALS
from utils.files import FOLDER_VARIABLE
from utils.pictures import read_picture
from utils.weights import load_weights

pytestmark = pytest.mark.usefixtures("narrow")
EPISODE = 3  # steps


class Job(NamedTuple):
    """A training that is stopped and resumed."""

    script: str
    flags: tuple
    interval: int  # steps between checkpoints
    best: str  # the weight file


AGENT = Job("train.py", (
    "--max_step", EPISODE, "--env_batch", 2, "--batch_size", 2, "--validate_interval", 2,
    "--validate_episodes", 1, "--debug", "--device", "cpu", "--precision", "fp32", "--rmsize", 4,
    "--warmup", 3, "--episode_train_times", 1), 2 * EPISODE, "train_log/Paint-run1/actor.pkl")
QUICK_AGENT = AGENT._replace(flags=(*AGENT.flags, "--reward", "l2"))
RENDERER = Job("train_renderer.py", (
    "--batch_size", 4, "--validate_interval", 6, "--device", "cpu", "--precision", "fp32",
    "--scratch", "--output", "w.pkl"), 6, "w.pkl")
each_job = pytest.mark.parametrize("job", [QUICK_AGENT, RENDERER], ids=["agent", "renderer"])


def flags_of(job: Job, intervals: int) -> tuple:
    """Return the flags for a training of this many intervals."""
    steps = "--train_times" if job.script == "train.py" else "--steps"
    return (*job.flags, steps, intervals * job.interval)


def folder(checkout: Checkout) -> Path:
    """Return the folder of the only run."""
    (run,) = (checkout.root / "train_log").iterdir()
    return run


def checkpoint(checkout: Checkout) -> dict:
    """Return the checkpoint of the only run."""
    return load(folder(checkout) / "checkpoint.pt")


def step_of(state: dict) -> int:
    return state.get("step", state.get("global_step"))


def last_step(output: str) -> int:
    """Return the last step that a training printed."""
    steps = [int(line.split("step ")[1].split()[0].strip(":,")) for line in output.splitlines()
             if line.startswith(("step ", "episode "))]
    return max(steps, default=0)


def outcome(checkout: Checkout) -> dict:
    """Return all that a training leaves, except its times."""
    state = checkpoint(checkout)
    state.pop("seconds", None)
    if (log := folder(checkout) / "log.csv").is_file():
        state["log"] = [{name: row[name] for name in row if name in ("update", "frames") or
                         name.startswith("error")} for row in csv.DictReader(log.open())]
    if "memory" in state:
        (file,) = folder(checkout).glob("memory-*.pt")
        state["memory"] = load(file)
    return state


class Chain:
    """A training that is stopped at random moments and resumed until it is finished."""

    def __init__(self, checkout: Checkout, job: Job, intervals: int, seed: int) -> None:
        self.checkout, self.job = checkout, job
        self.rng = np.random.default_rng(seed)
        self.flags = flags_of(job, intervals)
        self.runs = checkout.root / "train_log"
        self.stops_while_writing = 0
        self.over = False

    def stop(self, number: int, seconds: float) -> Script:
        """Start or resume, and send a signal within about this much processor time.

        In half of the cases it comes while a file is being written, in some during the start.
        """
        process = self.checkout.start(self.job.script, *self.flags)
        early = self.rng.random() < 0.1
        if not early:
            process.wait_for(": step ")
            assert list(self.runs.glob("*/checkpoint.pt"))
        if not early and self.rng.random() < 0.5:
            end = process.cpu_seconds() + seconds
            while process.cpu_seconds() < end and not self.writes() and not process.over(0.001):
                pass
            seconds = 0
        end = process.cpu_seconds() + self.rng.uniform(0, seconds)
        while process.cpu_seconds() < end and not process.over(0.001):
            pass
        self.stops_while_writing += self.writes()
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # like a terminal
        else:
            process.signal(number)
        self.over = process.wait() == 0 and "finished; " in process.output
        if list(self.runs.glob("*/checkpoint.pt")):
            self.flags = ("--resume",)
        else:
            assert early
            shutil.rmtree(self.runs, ignore_errors=True)  # killed before the first checkpoint
        return process

    def writes(self) -> bool:
        """Return whether a file is being written."""
        return any(self.runs.glob("*/.*.part"))

    def finish(self) -> None:
        """Resume and train to the end."""
        if not self.over:
            process = self.checkout.start(self.job.script, *self.flags)
            assert process.wait(900) == 0, process.errors
            assert "finished" in process.output
        assert not self.writes()


def uninterrupted(job: Job, intervals: int) -> tuple[dict, float]:
    """Return the outcome of a training and the processor time of an interval, in seconds."""
    with tempfile.TemporaryDirectory() as root:
        checkout = Checkout(Path(root) / "checkout")
        process = checkout.start(job.script, *flags_of(job, intervals))
        process.wait_for(": step ")
        start = end = process.cpu_seconds()
        while not process.over(0.01):
            end = max(end, process.cpu_seconds())
        assert process.wait() == 0, process.errors
        return outcome(checkout), (end - start) / intervals


cached_uninterrupted = cache(uninterrupted)


def error_of(checkout: Checkout, job: Job) -> float:
    """Return the error of a weight file as the training measures it."""
    if job is RENDERER:
        network = Renderer()
        strokes = torch.from_numpy(
            np.random.default_rng(VALIDATION_SEED).random((64, SHAPE_DIM), np.float32))
        load_weights(network, checkout.root / job.best, "the renderer", "")
        return drawing_error(network, strokes, draw_batch(strokes), FP32)[0]
    data = Images(checkout.root / "data" / "img_align_celeba", checkout.root / "cache")
    policy = load_policy(checkout.root / job.best, checkout.root / "renderer.pkl", FP32)
    return policy.measure(data.images[data.test[:2]], EPISODE, 2)[0][-1].item()


def check_steps(process: Script, number: int, former: int, step: int, interval: int) -> int:
    """Check what a stopped training printed and saved and return its lost steps."""
    if number == signal.SIGKILL:
        assert process.returncode == -number, process.errors
        assert process.errors == ""
        assert step >= former
        lost = max(0, last_step(process.output) - step)
        assert lost <= interval
        return lost
    if "stopped; resume" in process.output:
        assert process.errors.encode() == STOPPING
        assert process.returncode == 0
        assert int(process.output.split(": step ")[1].split()[0]) == former
    else:  # before its first step
        assert process.returncode in (128 + number, -number), process.errors
        assert step == former
    return 0


def stop_and_resume(tmp_path: Path, job: Job, signals: Sequence[int], intervals: int) -> None:
    """Stop a training by these signals, resume it and compare it with an uninterrupted one."""
    expected, seconds = cached_uninterrupted(job, intervals)
    checkout = Checkout(tmp_path / "stopped")
    chain, step, errors, lost = Chain(checkout, job, intervals, len(signals)), 0, [], []
    for number in signals:
        process = chain.stop(number, 1.5 * seconds)
        if chain.over:
            break
        resumes = chain.flags == ("--resume",)
        former, step = step, step_of(checkpoint(checkout)) if resumes else 0
        lost.append(check_steps(process, number, former, step, job.interval))
        for file in checkout.root.glob("train_log/*/*.pkl"):
            assert_finite(load(file))
        measured = job is RENDERER or resumes and checkpoint(checkout)["best_update"] >= 0
        if measured and (checkout.root / job.best).exists():
            errors.append(error_of(checkout, job))
    chain.finish()
    assert lost
    assert errors == sorted(errors, reverse=True)
    assert_same(outcome(checkout), expected)
    print(f"{job.script}: stopped and resumed {len(lost)} times, {chain.stops_while_writing} of "
          f"them while a file was written; {max(lost)} steps lost at most, of {job.interval}")


@pytest.mark.parametrize(("job", "kills"), [(QUICK_AGENT, 3), (RENDERER, 3), *(
    pytest.param(job, 50, marks=pytest.mark.slow) for job in (AGENT, RENDERER))])
def test_resume_after_kill_is_bit_exact(tmp_path, job, kills):
    stop_and_resume(tmp_path, job, kills * [signal.SIGKILL], max(4, kills))


@pytest.mark.parametrize(("job", "stops"), [(QUICK_AGENT, 3), (RENDERER, 3), *(
    pytest.param(job, 20, marks=pytest.mark.slow) for job in (AGENT, RENDERER))])
def test_resume_after_stop_loses_no_step(tmp_path, job, stops):
    stop_and_resume(tmp_path, job, (4 * STOP_SIGNALS)[:stops], 4 * stops)


@each_job
def test_same_seed_gives_the_same_weights(job):
    assert_same(cached_uninterrupted(job, 4)[0], uninterrupted(job, 4)[0])


@contextmanager
def disk(place: Path, options: str) -> Iterator[Callable[[str], bool]]:
    """Mount a small disk at a folder and return a function that changes its options."""
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


@each_job
def test_full_disk_keeps_the_last_checkpoint(checkout, job):
    runs = checkout.root / "train_log"
    with disk(runs, "size=1g") as remount:
        process = checkout.start(job.script, *flags_of(job, 30))
        process.wait_for("\nstep ")
        step = step_of(checkpoint(checkout))
        while not remount(f"size={(shutil.disk_usage(runs).used >> 10) + 64}k"):
            pass  # more was written meanwhile
        assert_error_line(process, "No space left on device")
        assert step_of(checkpoint(checkout)) >= step
        remount("size=1g")
        process = checkout.start(job.script, "--resume")
        process.wait_for("\nstep ")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert not list(runs.glob("*/.*.part"))


@pytest.mark.parametrize(("options", "words"), [
    ("ro", "Read-only file system"), ("size=4k", "No space left on device")])
def test_unwritable_disk_gives_an_error_line(checkout, options, words):
    runs, output, cache = (checkout.root / name for name in ("train_log", "output", "data/cache"))
    painting = ("test.py", "--max_step", 1, "--divide", 1, "--refine", 0)
    checkout.run(*painting, "--strokes", "s.json", "-o", "p.png")
    with disk(cache, options):
        process = checkout.start("evaluate.py", "--max_step", 1,
                                 environment={FOLDER_VARIABLE: str(cache.parent)})
        assert_error_line(process, words)
    with disk(runs, options):
        for job, flag in ((QUICK_AGENT, "--output"), (RENDERER, "--log")):
            process = checkout.start(job.script, *flags_of(job, 2), flag, runs / "own")
            assert_error_line(process, words)
    with disk(output, options):
        for command in ((*painting, "--frames", "all"),
                        (*painting, "--frames", "last", "--video", "output/v.mp4"),
                        (*painting, "--strokes", "output/s.svg"),
                        (*painting, "--compare", "output/c.png"),
                        ("replay.py", "s.json", "--size", 999, "--output", output / "p.png"),
                        ("replay.py", "s.json", "--size", 999, "--output", output / "p.mp4")):
            assert_error_line(checkout.start(*command), words)
        for path in output.iterdir():  # small enough for the disk
            assert (path.suffix == ".svg" and path.read_text().endswith("</svg>\n")
                    or read_picture(path).any())


def test_read_only_checkout_writes_to_the_users_cache_folder(checkout):
    user = checkout.root / "user"
    with disk(checkout.root / "data" / "cache", "ro"), disk(checkout.root / "train_log", "ro"):
        for script, *flags in (("evaluate.py", "--max_step", 1, "--limit", 1),
                               (QUICK_AGENT.script, *flags_of(QUICK_AGENT, 1)),
                               (RENDERER.script, *flags_of(RENDERER, 1))):
            process = checkout.start(script, *flags, environment={"XDG_CACHE_HOME": str(user)})
            assert process.wait() == 0, process.errors
    own = user / "learning-to-paint"
    assert {path.name for path in (own / "train_log").iterdir()} == {"Paint-run1", "Renderer-run1"}
    assert len(list((own / "cache").glob("img_align_celeba-*.npy"))) == 1


def test_training_whose_images_are_gone_resumes_with_data(checkout):
    faces, moved = (checkout.root / "data" / name for name in ("img_align_celeba", "moved"))
    process = checkout.start(QUICK_AGENT.script, *flags_of(QUICK_AGENT, 40))
    process.wait_for("\nstep 3: episode")
    faces.rename(moved)
    process.wait_for("\nstep 12: episode")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    state = checkpoint(checkout)
    for flags, words in (((), f"{faces} is no folder of images"),
                         (("--data", "none"), "none is no folder"),
                         (("--tau", 0.1), "leave out --tau")):
        assert_error_line(checkout.start(QUICK_AGENT.script, "--resume", *flags), words)
    assert_same(checkpoint(checkout), state)
    assert str(faces) in (folder(checkout) / "run.json").read_text()
    for flags in (("--data", moved), ()):
        process = checkout.start(QUICK_AGENT.script, "--resume", *flags)
        process.wait_for(f": step {state['global_step']} of")
        process.signal(signal.SIGKILL)
        process.wait()


@each_job
def test_deleted_log_folder_is_written_once_more(checkout, job):
    """The training ends, and resumes to the outcome of an uninterrupted one."""
    expected = dict(cached_uninterrupted(job, 4)[0])
    process = checkout.start(job.script, *flags_of(job, 4))
    process.wait_for("\nstep 9: episode" if job is QUICK_AGENT else "\nstep ")
    run = folder(checkout)
    while run.exists():  # it may write meanwhile
        shutil.rmtree(run, ignore_errors=True)
    assert_error_line(process, "was deleted while the training ran")
    assert "finished" in checkout.run(job.script, "--resume")
    state = outcome(checkout)
    # Of weights and lines that were deleted.
    for name in {"best", "best_update", "best_is_ema", "log"} & state.keys():
        state.pop(name), expected.pop(name)
    assert_same(state, expected)
    assert error_of(checkout, job) < 1


def test_concurrent_trainings_have_folders_of_their_own(checkout):
    processes = [checkout.start(job.script, *flags_of(job, 2))
                 for job in 2 * (QUICK_AGENT, RENDERER)]
    for process in processes:
        assert process.wait() == 0, process.errors
    runs = sorted((checkout.root / "train_log").iterdir())
    assert [run.name for run in runs] == [
        "Paint-run1", "Paint-run2", "Renderer-run1", "Renderer-run2"]
    assert all((run / "checkpoint.pt").is_file() for run in runs)


def test_worse_renderer_never_replaces_a_better_one(checkout):
    bad = checkout.start(RENDERER.script, *flags_of(RENDERER, 8), "--lr", 1)
    bad.wait_for("\nstep ")
    worse = error_of(checkout, RENDERER)
    checkout.run(RENDERER.script, *flags_of(RENDERER, 1), "--seed", 2)
    better = error_of(checkout, RENDERER)
    assert bad.wait() == 0
    assert error_of(checkout, RENDERER) <= min(better, worse)


def test_second_painting_into_a_folder_is_refused(checkout):
    flags = ("test.py", "--max_step", 16, "--divide", 1, "--refine", 0)
    first = checkout.start(*flags)
    first.wait_for("step 1:")
    first.signal(signal.SIGSTOP)
    assert_error_line(checkout.start(*flags), "another painting goes to output")
    first.signal(signal.SIGCONT)
    assert first.wait() == 0
    assert len(list((checkout.root / "output").glob("generated*.png"))) == 80
    checkout.run("test.py", "--max_step", 1, "--divide", 1, "--refine", 0)


PAINTING = ("test.py", "--max_step", 2000, "--divide", 1, "--video", "v.mp4", "--frames", "last")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_ends_painting_with_the_strokes_so_far(checkout, number):
    process = checkout.start(*PAINTING, "--strokes", "s.json")
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


def test_second_signal_ends_painting_without_partial_files(checkout):
    process = checkout.start(*PAINTING, settings={"running.run.SAME_STOP": 1e-9})
    process.wait_for("step 2:")
    process.signal(signal.SIGINT)
    process.signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert not list(checkout.root.glob(".*.part")) + list((checkout.root / "output").iterdir())
