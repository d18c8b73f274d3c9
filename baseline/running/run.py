"""A training run: its folder, lock, checkpoint and the signals that end it early."""

import csv
import fcntl
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any, TypeVar

from running.ranks import Ranks
from utils.command import STOP_SIGNALS, TRAIN_LOG, UserError
from utils.files import lock, make_folder, own_folder, reason, remove_leftovers, write_atomically
from utils.weights import load_file, save_atomically

Options = TypeVar("Options")  # a frozen dataclass
CHANGEABLE = {"cache", "data", "device", "log", "output", "renderer"}  # options of resumed runs
STOPPING = b"stopping as soon as all is saved; once more ends it at once, without that\n"


def log_folder(named: Path | None) -> Path:
    """Return where the folders of runs go: where the user says, or see ``own_folder``."""
    return own_folder(TRAIN_LOG) if named in (None, TRAIN_LOG) else named


class Run:
    """The folder of one training run.

    It holds ``run.json`` (the options, and whether the run is finished), the TensorBoard
    events, ``checkpoint.pt`` and a lock that lives as long as the process.
    """

    def __init__(self, folder: Path, options: dict[str, Any], main: bool = True) -> None:
        """main: False in all but one of the processes that train together."""
        self.folder = folder
        self.options = options
        self.main = main
        self.checkpoint_file = folder / "checkpoint.pt"
        if not main:
            make_folder(folder)  # on a machine without the main one's disk
            return
        try:
            self._lock = open(folder / ".lock", "w")  # noqa: SIM115, until the process ends
        except OSError as error:
            raise UserError(f"cannot write in {folder}: {reason(error)}") from error
        try:
            # Unlike flock's, this lock is not the children's too, which outlive a killed process.
            lock(self._lock.fileno(), wait=False, how=fcntl.lockf)
        except BlockingIOError as error:
            raise UserError(f"{folder} is in use by another process") from error
        remove_leftovers(folder)

    @classmethod
    def create(cls, parent: Path, prefix: str, options: dict[str, Any], ranks: Ranks) -> "Run":
        """Make the folder ``parent/prefix-runN`` with the first free N from 1."""
        if not ranks.main:
            return cls(ranks.share(None), options, main=False)
        try:
            make_folder(parent)
            taken = [
                int(match[1])
                for path in parent.iterdir()
                if (match := re.fullmatch(rf"{prefix}-run(\d+)", path.name))
            ]
            number = max(taken, default=0) + 1
            while True:
                try:
                    (folder := parent / f"{prefix}-run{number}").mkdir()
                    break
                except FileExistsError:
                    number += 1
            run = cls(folder, options)
            run._write(finished=False)
        except OSError as error:
            raise UserError(f"cannot write in {parent}: {error.strerror or error}") from error
        ranks.share(folder)
        return run

    @classmethod
    def reopen(cls, parent: Path, prefix: str, which: str, ranks: Ranks) -> "Run":
        """Open a run to go on with: ``which`` is its folder, or "" for the newest unfinished."""
        if not ranks.main:
            return cls(*ranks.share(None), main=False)
        if which:
            folder = Path(which)
            if not (folder / "checkpoint.pt").is_file():
                raise UserError(f"{folder} holds no checkpoint.pt to resume from")
            if not folder.resolve().name.startswith(f"{prefix}-run"):
                raise UserError(f"{folder} is not a run of this script: {prefix}-runN would be")
        else:
            unfinished = [
                path.parent
                for path in parent.glob(f"{prefix}-run*/checkpoint.pt")
                if not _read(path.parent)[0]
            ]
            if not unfinished:
                raise UserError(f"no unfinished run in {parent}; start one without --resume")
            folder = max(unfinished, key=lambda path: (path / "checkpoint.pt").stat().st_mtime)
        run = cls(folder, _read(folder)[1])
        ranks.share((folder, run.options))
        return run

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint, whole or not at all.

        Raises UserError where the run's folder was deleted, after writing it anew.
        """
        save_atomically(state, self.checkpoint_file)
        if not (self.folder / "run.json").exists():
            self._write(finished=False)
            raise UserError(f"{self.folder} was deleted while the training ran; its checkpoint is "
                            f"there again, go on with --resume {quote(str(self.folder))}")

    def load(self) -> dict[str, Any]:
        """Read the checkpoint."""
        return load_file(self.checkpoint_file, "checkpoint", "start a new run without --resume")

    def keep_options(self) -> None:
        """Write the options of a run that goes on, once all that they name was found."""
        if self.main:
            self._write(finished=False)

    def finish(self) -> None:
        """Mark the run as finished, so that --resume passes it over."""
        self._write(finished=True)

    def _write(self, finished: bool) -> None:
        text = json.dumps({"finished": finished, "options": self.options}, indent=1, default=str)
        write_atomically(
            self.folder / "run.json", lambda file: file.write(f"{text}\n".encode()))


def _read(folder: Path) -> tuple[bool, dict[str, Any]]:
    """Whether a run is finished, and its options."""
    file = folder / "run.json"
    try:
        with fitting(file):
            content = json.loads(file.read_text())
            return bool(content["finished"]), dict(content["options"])
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error


@contextmanager
def fitting(
    file: Path, otherwise: str = "start a new run without --resume"
) -> Iterator[None]:
    """Taking up what a file holds goes in here.  Raises UserError where it does not fit."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError,
            csv.Error) as error:
        raise UserError(f"{file} is of another version or of other options; {otherwise}") from error


def resumed(typed: Options, run: Run, parse_args: Callable[[list[str]], Options]) -> Options:
    """Return the options of a run to go on with; those of CHANGEABLE that were typed now win.

    Raises UserError where others were typed, or run.json holds what nobody can type.
    """
    given = {name: value for name, value in vars(typed).items()
             if value is not None and name != "resume"}
    if wrong := given.keys() - CHANGEABLE:
        raise UserError(f"--resume goes on with the flags of the run; leave out --{min(wrong)}")
    usual = vars(parse_args([]))
    arguments = [f"--{name}" if value is True else f"--{name}={value}"
                 for name, value in run.options.items()
                 if name not in ("init", "resume") and value not in (None, False)
                 and not (name in CHANGEABLE and value == str(usual.get(name)))]
    try:
        options = parse_args(arguments)
    except UserError as error:
        raise UserError(f"{run.folder / 'run.json'}: {error}") from error
    run.options |= given
    return replace(options, **given)


class StopSignals:
    """Within this context the first Ctrl-C, SIGTERM or loss of the terminal sets ``stopped``.

    ``number`` is the signal's.
    """

    def __enter__(self) -> "StopSignals":
        self.stopped, self.number = False, 0
        self._before = {
            number: signal.signal(number, self._stop)
            for number in STOP_SIGNALS
            if signal.getsignal(number) != signal.SIG_IGN  # as nohup wants it
        }
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: object) -> None:
        self.stopped, self.number = True, number
        with suppress(OSError):
            os.write(sys.stderr.fileno(), STOPPING)  # print may be at work below this
        for each, handler in self._before.items():
            signal.signal(each, handler)  # a second one ends the process at once
