"""Files are written whole, to whatever a path leads to, on file systems with locks or without."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from conftest import ROOT
from utils import files
from utils.command import UserError
from utils.files import lock, lock_folder, make_room, replacing, write_atomically


def put(path: Path, text: str = "new") -> None:
    make_room(path)
    write_atomically(path, lambda file: file.write(text.encode()))


def test_what_a_link_leads_to_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_text("old")
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "link").symlink_to("../far/file")
    put(tmp_path / "near" / "link")
    assert (tmp_path / "near" / "link").is_symlink()
    assert (tmp_path / "far" / "file").read_text() == "new"
    assert len(list(tmp_path.rglob("*"))) == 4  # nothing beside them


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / "link").symlink_to("gone")
    for write in (put, make_room):
        with pytest.raises(UserError, match="link: a link that leads nowhere, to gone"):
            write(tmp_path / "link")
    assert os.listdir(tmp_path) == ["link"]


def test_what_is_no_folder_is_named(tmp_path):
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "file").touch()
    for name, says in (("link", "is a link that leads nowhere"), ("file", "is no folder")):
        for write in (put, make_room):
            with pytest.raises(UserError, match=f"{name} {says}"):
                write(tmp_path / name / "new")


def test_pipes_and_devices_are_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    put(tmp_path / "pipe")
    reader.join(60)
    assert got == ["new"]
    assert (tmp_path / "pipe").is_fifo()
    before = os.stat("/dev/null")
    put(Path("/dev/null"))
    assert os.path.samestat(os.stat("/dev/null"), before)


@pytest.mark.parametrize("output", [
    "/dev/stdout", "/proc/self/fd/1", "/dev/fd/1", "/proc/thread-self/fd/1", "link"])
def test_what_is_printed_stays_where_output_goes_to_a_file(tmp_path, output):
    if output == "link":
        (output := tmp_path / "link").symlink_to("/dev/stdout")
    code = ("import sys; sys.path.insert(0, 'baseline')\n"
            "from pathlib import Path; from utils.files import make_room, write_atomically\n"
            "print('first', flush=True); path = Path(sys.argv[1]); make_room(path)\n"
            "write_atomically(path, lambda file: file.write(b'second\\n'))")
    with open(tmp_path / "log", "w") as log:
        subprocess.run([sys.executable, "-c", code, output], cwd=ROOT, stdout=log, check=True)
    assert (tmp_path / "log").read_text() == "first\nsecond\n"


def test_beginnings_have_names_of_their_own(tmp_path):
    """Processes of two containers may have the same number."""
    with replacing(tmp_path / "a") as one, replacing(tmp_path / "a") as two:
        assert one.name != two.name
        one.write(b"1")
        two.write(b"2")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert os.listdir(tmp_path) == ["a"]


def test_a_beginning_that_was_taken_for_a_leftover_is_begun_anew(tmp_path, monkeypatch):
    tries = []

    def robbed(descriptor: int, wait: bool) -> bool:
        tries.append(os.listdir(tmp_path)[0])
        if len(tries) == 1:
            (tmp_path / tries[0]).unlink()
        return True

    monkeypatch.setattr(files, "lock", robbed)
    put(tmp_path / "a")
    assert len(set(tries)) == 2
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES])
def test_without_locks_the_work_goes_on_and_says_so_once(tmp_path, monkeypatch, capsys, code):
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    files._no_locks.cache_clear()
    monkeypatch.setattr(fcntl, "flock", refuse)
    with open(tmp_path / ".lock", "w") as file:
        assert not lock(file.fileno(), wait=False, how=refuse)
    os.close(lock_folder(tmp_path, wait=False))
    assert capsys.readouterr().err.count("cannot be locked here") == 1


def test_folders_are_locked_where_only_what_is_writable_can_be(tmp_path, monkeypatch):
    """As on NFS."""
    real = fcntl.flock

    def nfs(descriptor: int, operation: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", nfs)
    held = lock_folder(tmp_path, wait=False)
    with pytest.raises(BlockingIOError):
        lock_folder(tmp_path, wait=False)
    os.close(held)
    os.close(lock_folder(tmp_path, wait=False))
