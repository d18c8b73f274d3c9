"""Files that are never half written, and the checks of paths before any work."""

import glob
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from utils.command import UserError
from utils.locks import lock

FOLDER_VARIABLE = "LEARNING_TO_PAINT_DIR"  # of the environment: a folder for caches and logs


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """Yield a new file that replaces ``path`` at the end of the context.

    ``path`` always holds the old or the new content, and keeps its mode, owner, group and extended
    attributes.  Of a link, the file that it leads to is replaced.  Devices, pipes, the standard
    output, files with hard links and files that cannot be replaced are written in place.
    durable: wait for the disk, and remove the leftovers of killed processes.
    Raises UserError or OSError where the file cannot be written.
    """
    if (target := _target(path)) is None:
        stream = _stream(path)  # shares the position in a file with what is printed
        with open(stream, "ab", closefd=stream is path) as file:
            yield file
        return
    _make_folder(target.parent)
    if durable:
        remove_leftovers(target.parent, target.name)
    file = _temporary(target)
    temporary = Path(file.name)
    try:
        with file:
            try:
                shutil.copystat(target, temporary)
                os.chown(temporary, (old := target.stat()).st_uid, old.st_gid)
                is_movable = old.st_nlink == 1
            except OSError:  # no target, or another user's
                is_movable = not target.exists()
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            with suppress(OSError):  # for example of a mount point
                if is_movable:
                    os.replace(temporary, target)
                    return
            with open(temporary, "rb") as new, open(target, "r+b") as old:
                shutil.copyfileobj(new, old)
                old.truncate()
                os.fsync(old.fileno())
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(target: Path) -> BinaryIO:
    """Return a new file beside a target, whose lock says that it is no leftover."""
    while True:
        name = f".{target.name}.{secrets.token_hex(4)}.part"
        file = open(target.with_name(name), "xb")  # noqa: SIM115, the caller closes it
        lock(file.fileno(), wait=True)
        if os.path.exists(file.name):  # no process took it for a leftover before
            return file
        file.close()


def _target(path: Path) -> Path | None:
    """Return the file that writing to a path replaces; None for devices, pipes, open streams.

    Raises UserError where it is a folder, may not be written, or a link leads nowhere.
    """
    with refusing(f"cannot write {path}"):
        if path.exists():
            if _stream(path) is not path or not (path.is_file() or path.is_dir()):
                return None
            os.close(os.open(path, os.O_WRONLY))
        elif path.is_symlink():
            raise OSError(0, f"a link that leads nowhere, to {os.readlink(path)}")
    return real(path) if path.is_symlink() else path


def _stream(path: Path) -> Path | int:
    """Return the descriptor of the output or error stream that a path leads to; else the path."""
    status = path.stat()
    return next((number for number in (1, 2) if os.path.samestat(status, os.fstat(number))), path)


def real(path: Path) -> Path:
    """Return the absolute path without links, except links that lead in a circle."""
    return Path(os.path.realpath(path))


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove the unfinished files in a folder that no process writes; only those of a name."""
    for leftover in folder.glob(f".{glob.escape(name) if name else '*'}.*.part"):
        with suppress(OSError), open(leftover, "r+b") as file:
            if lock(file.fileno(), wait=False):
                leftover.unlink()


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Raise UserError, ``what`` and the reason, for an OSError or what PyTorch makes of one."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise UserError(f"{what}: {reason(error)}") from error


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill ``path``, whole or not at all, or raise UserError; see ``replacing``."""
    with refusing(f"cannot write {path}"):
        # Twice: the folder may be deleted meanwhile.
        with suppress(FileNotFoundError), replacing(path) as file:
            write(file)
            return
        with replacing(path) as file:
            write(file)


def in_turn(work: Iterable[Callable[[], object]]) -> None:
    """Call all functions; raise the first UserError at the end."""
    failures = []
    for function in work:
        try:
            function()
        except UserError as error:
            failures.append(error)
    if failures:
        raise failures[0]


def own_folder(usual: Path) -> Path:
    """Return the folder to use for one of the repository, for example ``data/cache``.

    It lies in FOLDER_VARIABLE's folder, if any; else it is the folder itself, where that can be
    written; else it lies in the user's cache folder.
    """
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(os.path.expanduser(named)) / usual.name
    if os.access(next(filter(Path.exists, (usual, *usual.parents))), os.W_OK):
        return usual
    home = os.environ.get("HOME", "~") and os.path.expanduser("~")  # an empty HOME is not /
    caches = os.environ.get("XDG_CACHE_HOME", ""), home and f"{home}/.cache", tempfile.gettempdir()
    return Path(next(filter(os.path.isabs, caches))) / "learning-to-paint" / usual.name


def _make_folder(folder: Path) -> None:
    """Make a folder where there is none; raise OSError or UserError where that is impossible."""
    if os.path.lexists(folder) and not folder.is_dir():
        flaw = "no folder" if folder.exists() else "a link that leads nowhere"
        raise UserError(f"{folder} is {flaw}")
    folder.mkdir(parents=True, exist_ok=True)


def make_room(path: Path) -> None:
    """Make the folder of a file to write; raise UserError where the file cannot be written."""
    if target := _target(path):
        with refusing(f"cannot write in {target.parent}"):
            _make_folder(target.parent)
            tempfile.TemporaryFile(dir=target.parent).close()


def keep_apart(written: Iterable[Path | None], read: dict[Path, str]) -> dict[Path, str]:
    """Return what the real path of each file is.

    Raises UserError where a file to write, if any, cannot be written, or is a file to read or
    another one to write, hard links included.  Devices and pipes may be written several times.
    read: what each of those files is.
    """
    taken = {real(path): f"{what} {path}" for path, what in read.items()}
    for path in filter(None, written):
        if (target := _target(path)) is None:
            continue
        real_path, linked = real(target), target.exists() and target.stat().st_nlink > 1
        real_path = next((file for file in taken if linked and file.exists()
                          and file.samefile(target)), real_path)
        if real_path in taken:
            raise UserError(f"{path} would take the place of {taken[real_path]}")
        taken[real_path] = "another file to write"
    return taken


def reason(error: BaseException) -> str:
    """Return the system's words, in one line, for an error or for the error that caused it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return reason(error.__context__) if error.__context__ else str(error).partition("\n")[0]
