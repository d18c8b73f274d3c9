"""The loop of both trainings on a job that does nothing, and budgets of minutes."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from running import loop as module
from running.loop import Pace, command, loop
from running.ranks import Ranks
from running.run import Run, StopSignals
from utils.command import STOP_SIGNALS, UserError


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock)
    return clock


class CountingJob:
    """A job that counts its steps and records the loop's calls."""

    burn_in, settled, alternative = 1, True, "a nap"

    def __init__(self, run: Run, total: int | None, interval: int = 100) -> None:
        self.run, self.total, self.interval = run, total, interval
        self.done, self.calls = 0, []
        self.actions = {}  # what happens in which step
        self.diverged = False

    @property
    def over(self) -> bool:
        return self.total is not None and self.done >= self.total

    @property
    def due(self) -> bool:
        return self.done % self.interval == 0

    def tick(self) -> None:
        self.done += 1
        self.actions.get(self.done, lambda: None)()

    def validate(self) -> None:
        self.calls.append(("validate", self.done))

    def check(self) -> None:
        if self.diverged:
            raise UserError("the training diverged")
        self.calls.append(("check", self.done))

    def save(self) -> None:
        self.run.save({"done": self.done, "total": self.total})
        self.calls.append(("save", self.done))

    def describe(self) -> str:
        return f"from {self.done}"

    def report(self) -> str:
        return f"came to {self.done}"


def new_run(folder: Path) -> Run:
    return Run.create(folder, "Count", {}, Ranks())


def test_job_runs_to_its_end(tmp_path, capsys):
    run = new_run(tmp_path)
    job = CountingJob(run, 5, interval=2)
    loop(job, run, Ranks())
    assert job.calls == [("save", 0), *((what, step) for step in (2, 4, 5)
                                        for what in ("validate", "save"))]
    assert capsys.readouterr().out == f"{run.folder}: from 0\nfinished; came to 5\n"
    assert '"finished": true' in (run.folder / "run.json").read_text()
    job.calls.clear()
    loop(job, run, Ranks())
    assert job.calls == []
    assert "finished; came to 5" in capsys.readouterr().out


def test_lines_tell_pace_and_time_left(tmp_path, capsys, clock):
    """Before the first step, in the first steps, and between settled ticks alone."""
    job = CountingJob(new_run(tmp_path), 100_000)
    pace, waits = Pace(job, None, bar=False), []
    job.settled = False
    for seconds, settled in ((8, None), (12, False), (10, True), (7, True), (3, None)):
        clock.now += seconds
        if settled is not None:
            job.settled, job.done = settled, job.done + 1
            pace.tick()
        waits.append(pace.log())
    assert capsys.readouterr().out.splitlines() == [
        "0 of 100000 steps; the first takes 8 seconds so far",
        "1 of 100000 steps, 20 s a step, 555.5 hours to go at the pace of the first steps",
        "less time: a nap",
        "2 of 100000 steps, 15 s a step, 416.7 hours to go at the pace of the first steps",
        *2 * ["3 of 100000 steps, 7 s a step, 194.4 hours to go"]]
    assert waits == [module.FIRST_WAIT, *4 * [module.LINE_WAIT]]
    pace = Pace(job, 2, bar=True)  # which shows the later ones
    clock.now, job.done, job.total = clock.now + 8, 43, None
    pace.tick()
    assert pace.log() is None
    assert capsys.readouterr().out == "43 of ? steps, 5 steps a second, 2 minutes to go\n"


def test_slow_step_does_not_hold_back_lines(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT", 0.02)
    run = new_run(tmp_path)
    job = CountingJob(run, 1)
    job.actions[1] = lambda: time.sleep(0.3)
    loop(job, run, Ranks())
    assert capsys.readouterr().out.count("of 1 steps; the first takes 0 seconds so far\n") > 3


def test_commands_name_paths_by_their_shortest_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "baseline" / "train.py")])
    assert command("test.py", "PHOTO", "--actor", tmp_path / "my run" / "a.pkl") == (
        "python3 baseline/test.py PHOTO --actor 'my run/a.pkl'")
    assert command("train.py", "--resume", Path("/a")).endswith("--resume /a")


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_stop_signal_saves_and_prints_the_resume_command(tmp_path, capsys, number):
    before = signal.getsignal(number)
    run = new_run(tmp_path / "my runs")
    job = CountingJob(run, 10)
    job.actions[4] = lambda: signal.raise_signal(number)
    loop(job, run, Ranks())
    assert job.calls[1:] == [("check", 4), ("save", 4)]
    out = capsys.readouterr().out
    assert "came to 4\nstopped; resume with: python3 " in out
    assert out.endswith("my runs/Count-run1'\n")  # quoted for a shell
    assert "finished" not in out
    assert '"finished": false' in (run.folder / "run.json").read_text()
    assert signal.getsignal(number) == before


def test_second_stop_signal_within_a_second_is_ignored(clock, capfd):
    ends = []
    former = signal.signal(signal.SIGTERM, lambda *_: ends.append("at once"))
    try:
        with StopSignals() as signals:
            for seconds in (0, 0.05, 0.9):  # a system, a parent, a launcher
                clock.now += seconds
                signal.raise_signal(signal.SIGTERM)
            assert (signals.stopped, signals.number, ends) == (True, signal.SIGTERM, [])
            clock.now += 1
            signal.raise_signal(signal.SIGTERM)
            assert ends == ["at once"]
    finally:
        signal.signal(signal.SIGTERM, former)
    assert capfd.readouterr().err.count("stopping") == 1


def test_warnings_of_batch_systems_never_end_it_at_once(clock):
    """Linux repeats XCPU each second; TERM comes at the end."""
    with StopSignals() as signals:
        for number in (signal.SIGXCPU, signal.SIGXCPU, signal.SIGUSR1, signal.SIGTERM):
            signal.raise_signal(number)
            clock.now += 30
    assert (signals.stopped, signals.number) == (True, signal.SIGXCPU)


@dataclass(frozen=True)
class Options:
    """The flags of a training's length."""

    resume: Path | None = None
    steps: int | None = None
    minutes: float | None = None


def reopened(folder: Path, **flags: object) -> Run:
    """Return the run that --resume opens."""
    return Run.reopen(folder, "Count", Options(**flags), Ranks(), lambda arguments: Options())[0]


def test_resume_takes_the_newest_readable_and_unlocked_run(tmp_path, capsys):
    runs = [new_run(tmp_path) for _ in range(6)]
    for age, run in enumerate(runs):
        if age != 5:
            run.save({"step": age, "total": 9})
            os.utime(run.checkpoint_file, (age, age + 1))
    runs[4].write(finished=True)
    (runs[3].folder / "run.json").write_text("{")
    runs[2].checkpoint_file.write_bytes(b"")
    os.utime(runs[2].checkpoint_file, (3, 3.5))
    held = runs[1].folder
    folder, other = runs[0].folder, runs[5].folder
    runs.clear()
    code = ("import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX)\n"
            "print(flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code, held / ".lock"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        run = reopened(tmp_path)
        holder.stdin.close()
    assert run.folder == folder
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("skipped: ")
    for says in ("run4/run.json is of another version", "run3/checkpoint.pt is empty",
                 "run2 is in use by another process"):
        assert says in line
    assert other.name not in line  # which is not as new as a checkpoint
    run.write(finished=True)
    (held / "checkpoint.pt").unlink()
    with pytest.raises(UserError, match=r"no unfinished run in .*run6 holds no checkpoint"):
        reopened(tmp_path)


@pytest.mark.parametrize(("flags", "total"), [({"steps": 12}, 12), ({"minutes": 3.0}, None)])
@pytest.mark.parametrize("names", [("step", "total"), ("global_step", "total_steps")])
def test_finished_run_resumes_for_another_length(tmp_path, capsys, flags, total, names):
    run = Run.create(tmp_path, "Count", {"steps": 9, "minutes": None}, Ranks())
    run.save(dict(zip(names, (9, 9), strict=True)))
    run.write(finished=True)
    assert reopened(tmp_path, resume=run.folder).load()[names[1]] == 9
    says = "is finished; --resume DIR with --minutes N or --steps N continues"
    assert says in capsys.readouterr().out
    longer = reopened(tmp_path, resume=run.folder, **flags)
    assert longer.load()[names[1]] == total
    assert longer.options == {"steps": None, "minutes": None} | flags
    with pytest.raises(UserError, match="has done 9 steps; --steps 9 is not more"):
        reopened(tmp_path, resume=run.folder, steps=9)


def test_stopped_training_that_diverged_is_not_saved(tmp_path):
    run = new_run(tmp_path)
    job = CountingJob(run, 10)
    job.diverged = True
    job.actions[4] = lambda: signal.raise_signal(signal.SIGTERM)
    with pytest.raises(UserError, match="diverged"):
        loop(job, run, Ranks())
    assert job.calls == [("save", 0)]


def test_processes_stop_at_the_same_step(tmp_path, monkeypatch):
    """They exchange signals after each tick, and stop where any of them got one."""
    run, ranks = new_run(tmp_path), Ranks()
    ranks.world = 2
    exchanged = []
    monkeypatch.setattr(ranks, "any", lambda flag: exchanged.append(flag) or flag)
    monkeypatch.setattr(ranks, "broadcast", lambda value: value)
    job = CountingJob(run, 100)
    job.actions[7] = lambda: signal.raise_signal(signal.SIGTERM)
    loop(job, run, ranks)
    assert exchanged == [*7 * [False], True]  # the first: whether there is a checkpoint
    assert job.calls[1:] == [("check", 7), ("save", 7)]


@pytest.mark.parametrize(("minutes", "seconds", "more"), [
    (1, (10, *5 * [0.5]), (60 - 12.5) / 0.5),  # the first step takes long
    (0.01, 6 * [5], 1),  # it is late already
])
def test_minutes_become_steps_after_the_burn_in(tmp_path, clock, minutes, seconds, more):
    job = CountingJob(new_run(tmp_path), None)
    job.done, job.burn_in = 7, 5  # a resumed training
    pace = Pace(job, minutes, bar=False)
    for each in seconds:
        assert pace.total() is None
        clock.now += each
        job.done += 1
        pace.tick()
    assert pace.total() == job.done + more


@pytest.mark.parametrize("interval", [1, 7, 100])
@pytest.mark.parametrize(("minutes", "low", "high"), [(1, 118, 122), (0.01, 11, 12)])
def test_training_ends_at_its_minute(tmp_path, clock, interval, minutes, low, high):
    """However often it validates; the steps of the burn-in are done at least."""
    run = new_run(tmp_path)
    job = CountingJob(run, None, interval)
    job.burn_in = 10

    def tick() -> None:
        job.done += 1
        clock.now += 0.5

    job.tick = tick
    loop(job, run, Ranks(), minutes)
    assert job.done == job.total
    assert low <= job.done <= high
