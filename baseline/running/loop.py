"""The loop of every training: start or resume, work, validate, save, stop."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import join
from typing import Protocol

import torch
from tqdm import tqdm

from running.device import compiling
from running.ranks import Ranks
from running.run import Parse, Run, StopSignals
from utils.command import TRAIN_LOG, Options, enough_memory
from utils.files import own_folder

FIRST_WAIT, LINE_WAIT = 8.0, 18.0  # seconds before a line: until the pace is known, and then
LONG = 3600  # seconds of a training run; a longer one is told how to be shorter


class Job(Protocol):
    """A training, as its loop sees it."""

    done: int  # steps
    total: int | None  # steps; None until a number of minutes has become one of steps
    burn_in: int  # timed steps before that
    settled: bool  # whether the time from this tick to another settled one tells the pace
    over: bool  # whether all steps are done
    due: bool  # whether to validate and save after this tick
    alternative: str  # what takes less time than the default training

    load: Callable[[Run], None]  # load the checkpoint of a run
    attach: Callable[[Run], None]  # log and save in the folder of a run from here on
    tick: Callable[[], None]  # do the smallest piece of work
    validate: Callable[[], None]  # measure the networks; raise UserError where they diverged
    check: Callable[[], None]  # raise UserError where they diverged since the last validation
    save: Callable[[], None]  # write the checkpoint and the best networks so far
    describe: Callable[[], str]  # return what is trained on what, in a line
    report: Callable[[], str]  # return what was trained and the command that uses it, in a line


class Pace:
    """The pace of a job: how long the rest takes, or how many steps fit in a number of minutes.

    It is measured between the first and the last settled tick, so that a run ends near its
    minute whatever else the machine does.
    """

    def __init__(self, job: Job, minutes: float | None, bar: bool) -> None:
        """Start the clock.

        minutes: where the job has no total yet; bar: whether a progress bar is shown.
        """
        now = time.monotonic()
        self.job, self.bar, self.end = job, bar, minutes and now + 60 * minutes
        self.hint = not minutes and not job.done  # whether to name the alternative
        self.start = self.last = now, job.done  # time and steps
        self.settled: tuple[tuple[float, int], ...] = ()  # of the first and the last settled tick

    def tick(self) -> None:
        """Store the time after a tick of the job."""
        if self.job.settled and not self.settled and torch.cuda.is_initialized():
            torch.cuda.synchronize()  # queued work is not done yet
        self.last = time.monotonic(), self.job.done
        if self.job.settled:
            self.settled = *self.settled[:1], self.last

    def total(self) -> int | None:
        """Return the number of steps that fits in the minutes; None while that is not known."""
        job = self.job
        if not self.settled and time.monotonic() > self.end:
            return job.done
        if not (self.settled and job.settled) or job.done < self.settled[0][1] + job.burn_in:
            return None
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.tick()
        (start, before), (now, done) = self.settled
        return done + max(1, int((self.end - now) / (now - start) * (done - before)))

    def log(self) -> float | None:
        """Print how far the job is; return the seconds until the next line, None: there is none."""
        job, now = self.job, time.monotonic()
        text = f"{job.done} of {job.total or '?'} steps"
        settled = len(self.settled) == 2 and self.settled[0][1] < self.settled[1][1]
        (start, before), (end, done) = self.settled if settled else (self.start, self.last)
        if done == before:
            say(f"{text}; the first takes {duration(now - start)} so far")
            return FIRST_WAIT
        pace = (end - start) / (done - before)  # seconds a step
        text += f", {pace:.3g} s a step" if pace > 1 else f", {1 / pace:.3g} steps a second"
        left = self.end - now if job.total is None else (job.total - done) * pace + end - now
        say(f"{text}, {duration(max(0, left))} to go"
            + " at the pace of the first steps" * (not settled and job.total is not None))
        if self.hint and left > LONG:
            say(f"less time: {job.alternative}")
        self.hint = False
        return None if self.bar else LINE_WAIT


def duration(seconds: float) -> str:
    """Return a time in words, in the largest fitting unit."""
    size, unit = next(((size, unit) for size, unit in ((3600, "hours"), (60, "minutes"))
                       if seconds >= 1.5 * size), (1, "seconds"))
    return f"{seconds / size:.{int(size == 3600)}f} {unit}"


def say(text: str) -> None:
    """Print a line, above a progress bar where there is one."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


@contextmanager
def repeating(call: Callable[[], float | None]) -> Iterator[None]:
    """Call a function in a thread after FIRST_WAIT seconds, and again after those it returns."""
    over = threading.Event()

    def repeat() -> None:
        wait = FIRST_WAIT
        while not over.wait(wait):
            wait = call()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def command(script: str, *arguments: str | Path, launcher: str = "python3") -> str:
    """Return a shell's command that runs a script in the folder of this one."""
    words = Path(sys.argv[0]).parent / script, *arguments
    return f"{launcher} " + join(
        shortest(word) if isinstance(word, Path) else word for word in words)


def shortest(path: Path) -> str:
    """Return a path as an absolute one or as one from the user's folder."""
    relative = os.path.relpath(path.absolute())
    return min("./" * relative.startswith("-") + relative, str(path.absolute()), key=len)


def start(
    options: Options, parent: Path | None, prefix: str, parse_args: Parse,
    build: Callable[[Options, Ranks], Job], memory_flags: str,
) -> None:
    """Start or resume a training run and work until it is over or a signal comes.

    parent, prefix: of the folder of the run; memory_flags: flags that say how much memory it takes.
    """
    clock = time.monotonic()

    def prepare() -> float:
        say(f"preparing images and networks: {duration(time.monotonic() - clock)} so far")
        return LINE_WAIT

    with Ranks(options.device or "auto") as ranks, enough_memory(memory_flags), compiling():
        with repeating(prepare):
            run, parent = None, own_folder(TRAIN_LOG) if parent in (None, TRAIN_LOG) else parent
            if options.resume is not None:
                run, options = Run.reopen(parent, prefix, options, ranks, parse_args)
            job = build(options, ranks)
            if run:
                job.load(run)
                run.write(finished=False)
            else:
                run = Run.create(parent, prefix, vars(options), ranks)
            job.attach(run)
        loop(job, run, ranks, None if job.total else options.minutes)


def loop(job: Job, run: Run, ranks: Ranks, minutes: float | None = None) -> None:
    """Work until the job is over or a signal comes; minutes: where the job has no total yet."""
    bar = tqdm(initial=job.done, total=job.total, unit="step", disable=None if ranks.main else True)
    pace = Pace(job, minutes, bar=not bar.disable)
    with StopSignals() as signals, bar, repeating(pace.log):
        if not ranks.any(run.checkpoint_file.exists()):
            job.save()  # so that it can be resumed from the beginning
        say(f"{run.folder}: {job.describe()}" + f", {ranks.world} processes" * (ranks.world > 1))
        while not job.over:
            job.tick()
            pace.tick()
            # What is over stays so, or one more step would fit again and again.
            if minutes and (job.total is None or job.due and not job.over):
                job.total = ranks.broadcast(pace.total())
            bar.total = job.total
            bar.update(job.done - bar.n)
            stopped = ranks.any(signals.stopped)  # in any process
            if job.due or job.over:
                job.validate()
                job.save()
            elif stopped:
                job.check()
                job.save()
            if stopped and not job.over:
                say(job.report())
                script = os.path.basename(sys.argv[0])
                say("stopped; resume with: "
                    + command(script, "--resume", run.folder, launcher=ranks.launcher))
                return
    run.write(finished=True)
    say(f"finished; {job.report()}")
