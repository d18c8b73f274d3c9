"""A training run: its folder, lock, checkpoint and the signals that end it early."""

import csv
import fcntl
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from shlex import quote
from typing import Any

from running.ranks import Ranks
from utils.command import END_SIGNALS, LOG, Options, UserError, on_stop_signals, one_line
from utils.files import make_room, refusing, remove_leftovers, write_atomically
from utils.locks import lock
from utils.weights import load_file, save_atomically

# Flags allowed with --resume: those of the machine, and the lengths, of which one replaces all.
PLACES = {"data", "device", "log", "output", "renderer"}
LENGTHS = {"minutes", "steps", "train_times"}
NOT_RESUMED = {"cache", "init", "resume"}  # in run.json; cache was a flag once
SAME_STOP = 1.0  # seconds from a stop signal to another that is a second one
STOPPING = b"stopping as soon as all is saved; once more ends it at once, without that\n"
Parse = Callable[[list[str]], Options]  # reads a script's flags


class Run:
    """The folder of one training run.

    It holds ``run.json`` (the options, and whether the run is finished), the TensorBoard
    events, ``checkpoint.pt`` and a lock that lives as long as the process.
    """

    def __init__(self, folder: Path, options: dict[str, Any], main: bool = True) -> None:
        """main: False in all but one of the processes that train together."""
        self.folder, self.options, self.main = folder, options, main
        self.length: dict[str, float] = {}  # the flag of LENGTHS given with --resume, if any
        self.checkpoint_file = folder / "checkpoint.pt"
        for file in (self.checkpoint_file, folder / LOG, *folder.glob("*.pkl")):
            make_room(file)  # and the folder, on a machine without the main one's disk
        if not main:
            return
        with refusing(f"cannot write in {folder}"):
            self._lock = open(folder / ".lock", "w")  # noqa: SIM115, until the process ends
            try:
                # Children, which outlive a killed process, do not inherit it, unlike flock's.
                lock(self._lock.fileno(), wait=False, how=fcntl.lockf)
            except BlockingIOError as error:
                raise UserError(f"{folder} is in use by another process") from error
        remove_leftovers(folder)

    @classmethod
    def create(cls, parent: Path, prefix: str, options: dict[str, Any], ranks: Ranks) -> "Run":
        """Make the folder ``parent/prefix-runN`` with the first free N from 1."""
        if not ranks.main:
            return cls(ranks.broadcast(None), options, main=False)
        make_room(parent / prefix)
        with refusing(f"cannot write in {parent}"):
            for folder in (parent / f"{prefix}-run{number}" for number in count(1)):
                with suppress(FileExistsError):
                    folder.mkdir()
                    break
        run = cls(folder, options)
        run.write(finished=False)
        ranks.broadcast(folder)
        return run

    @classmethod
    def reopen(
        cls, parent: Path, prefix: str, typed: Options, ranks: Ranks, parse_args: Parse
    ) -> tuple["Run", Options]:
        """Return the run that --resume names, and its options.

        Without a name it is the newest unfinished one that can be read and that no process
        holds; newer ones are named in a line.
        """
        given = {name: value for name, value in vars(typed).items()
                 if value is not None and name != "resume"}
        if wrong := given.keys() - PLACES - LENGTHS:
            raise UserError(f"--resume uses the flags of the run; leave out --{min(wrong)}")
        if not ranks.main:
            run = cls(*ranks.broadcast(None), main=False)
            return run, resumed(given, run, parse_args)
        saved = {folder: os.path.isfile(file := folder / "checkpoint.pt") and os.path.getmtime(file)
                 for folder in ([typed.resume] if typed.resume else parent.glob(f"{prefix}-run*"))}
        longer = " or ".join(f"--{name} N" for name in sorted(LENGTHS & vars(typed).keys()))
        longer, skipped = f"--resume DIR with {longer} continues a finished one", []
        for folder in sorted(saved, key=saved.get, reverse=True):
            try:
                if saved[folder] is False:
                    raise UserError(f"{folder} holds no checkpoint.pt to resume from")
                if not folder.resolve().name.startswith(f"{prefix}-run"):
                    raise UserError(f"{folder} is not a run of this script: {prefix}-runN would be")
                file = folder / "run.json"
                with refusing(f"{file} cannot be read"), fitting(file):
                    content = json.loads(file.read_text())
                    finished, options = bool(content["finished"]), dict(content["options"])
                if finished and not typed.resume:
                    continue
                run = cls(folder, options)
                options = resumed(given, run, parse_args)
                run.load()
            except UserError as error:
                if typed.resume:
                    raise
                skipped.append(one_line(str(error)))
                continue
            if skipped:
                print(f"skipped: {'; '.join(skipped)}", flush=True)
            if finished and not run.length:
                print(f"{folder} is finished; {longer}", flush=True)
            ranks.broadcast((folder, run.options))
            return run, options
        raise UserError("; ".join((f"no unfinished run in {parent}", *skipped, longer)))

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint, whole or not at all.

        Raises UserError where the run's folder was deleted, after writing it again.
        """
        save_atomically(state, self.checkpoint_file)
        if not (self.folder / "run.json").exists():
            self.write(finished=False)
            raise UserError(f"{self.folder} was deleted while the training ran; its checkpoint is "
                            f"there again, continue with --resume {quote(str(self.folder))}")

    def load(self) -> dict[str, Any]:
        """Return the checkpoint, with the length given with --resume in place of its own.

        Raises UserError where it cannot be read, or has done as much already.
        """
        state = load_file(self.checkpoint_file, "checkpoint", "start a new run without --resume")
        with fitting(self.checkpoint_file):
            done, total = ("step", "total") if "step" in state else ("global_step", "total_steps")
            for name, value in self.length.items():
                if name != "minutes" and value <= state[done]:
                    raise UserError(f"{self.folder} has done {state[done]} steps; --{name} "
                                    f"{value} is not more than that")
                state[total] = None if name == "minutes" else value
        return state

    def write(self, finished: bool) -> None:
        """Write the options, and whether the run is finished, so that --resume skips it."""
        text = json.dumps({"finished": finished, "options": self.options}, indent=1, default=str)
        if self.main:
            write_atomically(self.folder / "run.json",
                             lambda file: file.write(f"{text}\n".encode()))


@contextmanager
def fitting(file: Path, otherwise: str = "start a new run without --resume") -> Iterator[None]:
    """Raise UserError where the content of a file does not fit what reads it."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError,
            csv.Error) as error:
        raise UserError(f"{file} is of another version or of other options; {otherwise}") from error


def resumed(given: dict[str, Any], run: Run, parse_args: Parse) -> Options:
    """Return the options of a run, with the flags given with --resume in place of its own.

    Raises UserError where run.json holds what no command line can say.
    """
    run.length = {name: given[name] for name in LENGTHS & given.keys()}
    if run.length:
        run.options |= dict.fromkeys(LENGTHS & run.options.keys()) | run.length
    arguments = [f"--{name}" if value is True else f"--{name}={value}"
                 for name, value in run.options.items()
                 if name not in NOT_RESUMED and value not in (None, False)]
    try:
        options = parse_args(arguments)
    except UserError as error:
        raise UserError(f"{run.folder / 'run.json'}: {error}") from error
    run.options |= given
    return type(options)(**vars(options) | given)


class StopSignals(ExitStack):
    """A context in which the first stop signal sets ``stopped``, and ``number`` to its own.

    A second Ctrl-C, SIGTERM or loss of the terminal ends the process at once, where it comes later
    than SAME_STOP: a system and a launcher may both send the first.
    """

    def __enter__(self) -> "StopSignals":
        self.stopped, self.number, self._first = False, 0, math.inf
        self.enter_context(on_stop_signals(self._stop))
        return self

    def _stop(self, number: int, frame: object) -> None:
        if not self.stopped:
            self.stopped, self.number = True, number
            with suppress(OSError):
                os.write(2, STOPPING)  # print may be at work below this
        if number in END_SIGNALS:
            self._first = min(self._first, now := time.monotonic())
            if now - self._first >= SAME_STOP:
                self.close()
                signal.raise_signal(number)
