"""Files that are never half written, and folders that one process has to itself."""

import errno
import fcntl
import glob
import os
import re
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from utils.command import UserError

# Links to what a process has open.
OPEN_FILES = re.compile(r"(/dev/fd|/proc/(self|thread-self|\d+(/task/\d+)?)/fd)/\d+")
MOST_LINKS = 40  # one behind the other
OWN = "LEARNING_TO_PAINT_DIR"  # the environment's name for a folder of caches and logs


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file beside ``path`` that takes its place at the end, or goes where there is none.

    At any moment ``path`` holds the old or the new content.  What killed processes left of
    earlier tries is removed.  Of a link, what it leads to is replaced; devices and pipes are
    written to.  Raises OSError where the folder cannot be written, or a link leads nowhere.
    """
    if not _is_replaceable(path):
        with open(path, "ab") as file:
            yield file
        return
    path = _behind(path)
    make_folder(path.parent)
    remove_leftovers(path.parent, path.name)
    temporary, file = _begun(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_replaceable(path: Path) -> bool:
    """Whether a path is that of a file, or of none yet, and not of a device, a pipe or the like."""
    link = os.readlink(path) if path.is_symlink() else ""
    each = path
    for _ in range(MOST_LINKS):
        if OPEN_FILES.fullmatch(str(each)):
            return False
        if not each.is_symlink():
            break
        each = each.parent / os.readlink(each)
    try:
        return stat.S_ISREG(mode := os.stat(path).st_mode) or stat.S_ISDIR(mode)
    except (FileNotFoundError, NotADirectoryError):
        if link:
            raise FileNotFoundError(errno.ENOENT, f"a link that leads nowhere, to {link}") from None
        return True


def _behind(path: Path) -> Path:
    """The file that a link leads to, or the path itself."""
    return real(path) if path.is_symlink() else path


def real(path: Path) -> Path:
    """An absolute path without links, but for those that lead in a circle."""
    return Path(os.path.realpath(path))


def _begun(path: Path) -> tuple[Path, BinaryIO]:
    """A new empty file beside ``path`` with a name that no machine has, locked while it is open."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        file = open(temporary, "xb")  # noqa: SIM115, for the caller
        lock(file.fileno(), wait=True)  # no leftover
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(temporary), os.fstat(file.fileno())):
                return temporary, file
        file.close()  # taken for a leftover before it was locked


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove the beginnings of files, or of one called ``name``, that nobody writes any more."""
    for left in folder.glob(f".{name if name == '*' else glob.escape(name)}.*.part"):
        with suppress(OSError), open(left, "r+b") as file:
            if lock(file.fileno(), wait=False):
                left.unlink()


def lock(descriptor: int, wait: bool, how: Callable = fcntl.flock) -> bool:
    """Keep other processes from locking a file, opened for writing, until it is closed.

    Raises BlockingIOError where another one holds the lock and ``wait`` is False.  Where the
    file system knows no locks that is said, once, and False returned.
    """
    try:
        how(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        # Of flock "permission denied" is no lock that another process holds.
        if error.errno == errno.EAGAIN or how is fcntl.lockf and error.errno == errno.EACCES:
            raise BlockingIOError(error.errno, error.strerror) from error
        _no_locks(error.strerror)
        return False
    return True


@cache
def _no_locks(says: str) -> None:
    print(f"warning: files cannot be locked here ({says}); let no other process write them",
          file=sys.stderr)


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


def in_turn(work: Iterable[Callable[[], object]]) -> None:
    """Do all of it; raise the first of the UserErrors in the end."""
    failures = []
    for each in work:
        try:
            each()
        except UserError as error:
            failures.append(error)
    if failures:
        raise failures[0]


def lock_folder(folder: Path, wait: bool) -> int:
    """A descriptor that keeps other processes from locking the folder until it is closed.

    Raises BlockingIOError where another one holds the lock and ``wait`` is False.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # no locks of folders, as on NFS
        os.close(descriptor)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            lock(descriptor, wait)
        except BlockingIOError:
            os.close(descriptor)
            raise
    return descriptor


def own_folder(usual: Path) -> Path:
    """Where what belongs to a folder of the repository goes, as ``data/cache``.

    Into a folder of that name in OWN's, where the environment names one; else there; else, where
    that cannot be written, into the user's cache folder.
    """
    if named := os.environ.get(OWN):
        return Path(named) / usual.name
    there = next(folder for folder in (usual, *usual.parents) if folder.exists())
    if os.access(there, os.W_OK) and not os.statvfs(there).f_flag & os.ST_RDONLY:
        return usual
    home = os.environ.get("HOME", "~") and os.path.expanduser("~")  # an empty one is no root
    found = (path for path in (os.environ.get("XDG_CACHE_HOME", ""), home and f"{home}/.cache",
                               tempfile.gettempdir()) if os.path.isabs(path))
    return Path(next(found)) / "learning-to-paint" / usual.name


def make_folder(folder: Path) -> None:
    """Make a folder where there is none.  Raises OSError, or UserError where another thing is."""
    if os.path.lexists(folder) and not folder.is_dir():
        nowhere = folder.is_symlink() and not folder.exists()
        raise UserError(f"{folder} is " + ("a link that leads nowhere" if nowhere else "no folder"))
    folder.mkdir(parents=True, exist_ok=True)


def make_room(path: Path) -> None:
    """Make the folder of a file to write where there is none, and try that it can be written.

    Raises UserError where it cannot.
    """
    try:
        if not _is_replaceable(path):
            return
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    folder = _behind(path).parent
    try:
        make_folder(folder)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror or error}") from error


def keep_apart(written: Iterable[Path | None], read: dict[Path, str]) -> dict[Path, str]:
    """Raise UserError where a file to write, if any, is one that is read, or another to write.

    read: what each of those is.  Devices and pipes have room for all.  Returns what all real paths
    are.
    """
    taken = {real(path): f"{what} {path}" for path, what in read.items()}
    for path in filter(None, written):
        if path.exists() and not path.is_file():
            continue
        if (there := real(path)) in taken:
            raise UserError(f"{path} would take the place of {taken[there]}")
        taken[there] = "another file to write"
    return taken


def reason(error: BaseException) -> str:
    """What the system says, in one line, of an error or of the one that it came from."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return reason(error.__context__) if error.__context__ else str(error).partition("\n")[0]
