"""Files that are never half written, and folders that one process has to itself."""

import errno
import glob
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from utils.command import UserError
from utils.locks import lock

# Links to what a process has open.
OPEN_FILES = re.compile(r"(/dev/fd|/proc/(self|thread-self|\d+(/task/\d+)?)/fd)/\d+")
MOST_LINKS = 40  # one behind the other
OWN = "LEARNING_TO_PAINT_DIR"  # the environment's name for a folder of caches and logs


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """Yield a new file that takes the place of ``path`` at the end, or goes where there is none.

    At any moment ``path`` holds the old or the new content, and it keeps its mode, owner, group
    and attributes.  Of a link, what it leads to is replaced.  Devices and pipes are written to,
    and in the end so are files with several names and those that cannot be replaced.
    durable: wait for the disk, and remove what killed processes left of earlier tries.
    Raises OSError where the file or its folder cannot be written, or a link leads nowhere.
    """
    if (target := _target(path)) is None:
        with open(path, "ab") as file:
            yield file
        return
    make_folder(target.parent)
    if durable:
        remove_leftovers(target.parent, target.name)
    temporary, file = _begun(target)
    try:
        with file:
            movable = _is_movable(temporary, target)
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            with suppress(OSError):  # as of a mount point
                if movable:
                    os.replace(temporary, target)
                    return
            with open(temporary, "rb") as new, open(target, "r+b") as old:
                shutil.copyfileobj(new, old)
                old.truncate()
                os.fsync(old.fileno())
    finally:
        temporary.unlink(missing_ok=True)


def _target(path: Path) -> Path | None:
    """Return the file that writing to a path replaces; None for devices, pipes and open files.

    Raises OSError where that is a folder, or may not be written, or a link leads nowhere.
    """
    each = path
    for _ in range(MOST_LINKS):
        if OPEN_FILES.fullmatch(str(each)):
            return None
        if not each.is_symlink():
            break
        each = each.parent / os.readlink(each)
    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return None
        os.close(os.open(path, os.O_WRONLY))
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise FileNotFoundError(
                errno.ENOENT, f"a link that leads nowhere, to {os.readlink(path)}") from None
    return real(path) if path.is_symlink() else path


def _is_movable(temporary: Path, target: Path) -> bool:
    """Return whether a new file, given the attributes of what it replaces, can take its place."""
    try:
        shutil.copystat(target, temporary)
        os.chown(temporary, (old := target.stat()).st_uid, old.st_gid)
    except OSError:  # another user's
        return not target.exists()
    return old.st_nlink == 1


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


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Raise UserError, ``what`` and why, in place of an OSError or what PyTorch makes of one."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise UserError(f"{what}: {reason(error)}") from error


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill ``path``, whole or not at all; see ``replacing``.

    Raises UserError where it cannot be written.
    """
    def fill() -> None:
        with replacing(path) as file:
            write(file)

    with refusing(f"cannot write {path}"):
        try:
            fill()
        except FileNotFoundError:  # the folder was deleted meanwhile
            fill()


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


def own_folder(usual: Path) -> Path:
    """Where what belongs to a folder of the repository goes, as ``data/cache``.

    Into a folder of that name in OWN's, where the environment names one; else there; else, where
    that cannot be written, into the user's cache folder.
    """
    if named := os.environ.get(OWN):
        return Path(os.path.expanduser(named)) / usual.name
    there = next(folder for folder in (usual, *usual.parents) if folder.exists())
    if os.access(there, os.W_OK):
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
    """Make the folder of a file to write where there is none; raise UserError if neither can be."""
    with refusing(f"cannot write {path}"):
        target = _target(path)
    if target:
        with refusing(f"cannot write in {target.parent}"):
            make_folder(target.parent)
            tempfile.TemporaryFile(dir=target.parent).close()


def keep_apart(written: Iterable[Path | None], read: dict[Path, str]) -> dict[Path, str]:
    """Raise UserError where a file to write, if any, is one that is read, or another to write.

    So it does where one may not be written.  read: what each of those is.  Devices and pipes have
    room for all.  Returns what all real paths are.
    """
    taken = {real(path): f"{what} {path}" for path, what in read.items()}
    for path in filter(None, written):
        with refusing(f"cannot write {path}"):
            target = _target(path)
        if target is None:
            continue
        if (there := real(target)) in taken:
            raise UserError(f"{path} would take the place of {taken[there]}")
        taken[there] = "another file to write"
    return taken


def reason(error: BaseException) -> str:
    """What the system says, in one line, of an error or of the one that it came from."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return reason(error.__context__) if error.__context__ else str(error).partition("\n")[0]
