"""The one loop of both trainings: work, validate, save, stop."""

import math
import os
import sys
import time
from pathlib import Path
from shlex import quote
from typing import Protocol

import torch
from tqdm import tqdm

from running.ranks import Ranks
from running.run import Run, StopSignals


class Job(Protocol):
    """A training, as its loop sees it."""

    unit: str  # what ``done`` and ``total`` count
    done: int
    total: int | None  # None until a budget of minutes has become a number
    exchange_every: int  # ticks between exchanges of stop signals between processes

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""

    @property
    def settled(self) -> bool:
        """Whether the time since another such moment tells how long what is left will take."""

    @property
    def due(self) -> bool:
        """Whether to validate and save after the tick that was."""

    def tick(self) -> None:
        """Do the smallest piece of work."""

    def validate(self) -> None:
        """Measure how good it has become.  Raises UserError where it diverged."""

    def check(self) -> None:
        """Raise UserError where it diverged since the last validation."""

    def save(self) -> None:
        """Write the checkpoint, and beside it what is the best so far."""

    def introduce(self) -> str:
        """What is going to be done, in a line."""

    def report(self) -> str:
        """What came out of it, in a line."""


class Budget:
    """Turns minutes into a number of units of work, from the rate after a burn-in.

    The first part of the burn-in pays for starting up.  Each later question takes the rate of
    all since, so that the end stays near the minute whatever else the machine does.
    """

    def __init__(self, minutes: float, burn_in: int, skipped: int | None = None) -> None:
        """burn_in: units of work; skipped: those of them, half, that are not timed."""
        self.end, self.burn_in = time.monotonic() + 60 * minutes, burn_in
        self.skipped = burn_in // 2 if skipped is None else skipped
        self.first: int | None = None
        self.warm: tuple[float, int] | None = None

    def total(self, done: int) -> int | None:
        """The number of units to end at, or None within the burn-in."""
        self.first = done if self.first is None else self.first
        worked = done - self.first
        timed = self.warm is None and worked >= self.skipped or worked >= self.burn_in
        if timed and torch.cuda.is_initialized():
            torch.cuda.synchronize()  # what was only queued is no work yet
        now = time.monotonic()
        if self.warm is None and timed:
            self.warm = now, done
        if worked < self.burn_in or self.warm[1] == done:
            return None
        since, start = self.warm
        return done + max(1, int((self.end - now) / (now - since) * (done - start)))


def duration(seconds: float) -> str:
    """A time in words, in the largest fitting unit."""
    size, unit = next(((size, unit) for size, unit in ((3600, "hours"), (60, "minutes"))
                       if seconds >= 1.5 * size), (1, "seconds"))
    return f"{seconds / size:.{int(size == 3600)}f} {unit}"


class Pace:
    """Tells how fast the work goes: soon after it has begun, and each minute where no bar does.

    It is timed from one settled tick to another.
    """

    FIRST, INTERVAL = 20.0, 60.0  # seconds

    def __init__(self, job: Job, bar: bool, hint: bool) -> None:
        """bar: whether a progress bar is shown; hint: whether to name --minutes for long work."""
        self.job, self.bar, self.hint = job, bar, hint
        self.start: float | None = None
        self.due = math.inf

    def tick(self) -> None:
        """After a tick of the job."""
        job, now = self.job, time.monotonic()
        if not job.settled:
            return
        if self.start is None:
            self.start, self.first, self.due = now, job.done, now + self.FIRST
        if now < self.due or job.done == self.first or job.done >= (job.total or math.inf):
            return
        rate = (job.done - self.first) / (now - self.start)
        text = f"{job.done} of {job.total or '?'} {job.unit}s, {rate:.3g} a second"
        if job.total is not None:
            left = (job.total - job.done) / rate
            text += f", {duration(left)} to go"
            if self.hint and left > 3600:
                text += "; --minutes N makes a training that ends after N"
            self.hint = False
        say(text)
        self.due = math.inf if self.bar else now + self.INTERVAL


def say(text: str) -> None:
    """Print a line, above a progress bar where there is one."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def loop(job: Job, run: Run, ranks: Ranks, budget: Budget | None = None) -> None:
    """Work until the job is over or a signal comes.

    budget: where the job has no total yet.
    """
    bar = tqdm(initial=job.done, total=job.total, unit=job.unit,
               disable=None if ranks.main else True)
    ticks, pace = 0, Pace(job, bar=not bar.disable, hint=not budget and not job.done)
    with StopSignals() as signals, bar:
        if not ranks.any(run.checkpoint_file.exists()):
            job.save()  # so that it can be resumed from the beginning
        say(f"{run.folder}: {job.introduce()}" + f", {ranks.world} processes" * (ranks.world > 1))
        while not job.over:
            job.tick()
            ticks += 1
            # What is over stays so, or the budget would give one more unit again and again.
            if budget and (job.total is None or job.due and not job.over):
                job.total = ranks.share(budget.total(job.done))
            if ranks.main:
                pace.tick()
            bar.total = job.total
            bar.update(job.done - bar.n)
            # Processes must agree, which takes an exchange; one alone stops at once.
            stopped = signals.stopped if ranks.world == 1 else (
                ticks % job.exchange_every == 0 and ranks.any(signals.stopped))
            if job.due or job.over:
                job.validate()
                job.save()
            elif stopped:
                job.check()
                job.save()
            if stopped and not job.over:
                script, folder = (os.path.relpath(Path(path).absolute())
                                  for path in (sys.argv[0], run.folder))
                say(f"stopped; go on with: {ranks.launcher} {quote(script)} --resume "
                    f"{'./' * folder.startswith('-')}{quote(folder)}")
                return
    if ranks.main:
        run.write(finished=True)
    say(f"finished; {job.report()}")
