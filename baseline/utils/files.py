"""Files that are never half written, and folders that one process has to itself."""

import fcntl
import glob
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from utils.command import UserError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file beside ``path`` that takes its place at the end, or goes where there is none.

    At any moment ``path`` holds the old or the new content.  What killed processes left of
    earlier tries is removed.  Raises OSError where the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, path.name)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # no leftover
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove the beginnings of files, or of one called ``name``, that nobody writes any more."""
    for left in folder.glob(f".{name if name == '*' else glob.escape(name)}.*.part"):
        with suppress(OSError), open(left, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill ``path``, whole or not at all; see ``replacing``.

    Raises UserError where it cannot be written.
    """
    def fill() -> None:
        with replacing(path) as file:
            write(file)

    try:
        try:
            fill()
        except FileNotFoundError:  # the folder was deleted meanwhile
            fill()
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write {path}: {reason(error)}") from error


def lock_folder(folder: Path, wait: bool) -> int:
    """A descriptor that keeps other processes from locking the folder until it is closed.

    Raises BlockingIOError where another one holds the lock and ``wait`` is False.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def make_folder(folder: Path) -> None:
    """Make a folder where there is none, and try that files can be written in it.

    Raises UserError where they cannot.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror or error}") from error


def reason(error: BaseException) -> str:
    """What the system says, in one line, of an error or of the one that it came from."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return reason(error.__context__) if error.__context__ else str(error).partition("\n")[0]
