"""Atomic writing of files, locks, and running a script's main."""

import errno
import fcntl
import io
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers import ROOT
from painting.frames import Frames
from utils import files, locks
from utils.command import STOP_SIGNALS, UserError, enough_memory, path_type, run
from utils.files import keep_apart, make_room, replacing, write_atomically
from utils.locks import lock, lock_folder


def put(path: Path, text: str = "new") -> None:
    make_room(path)
    write_atomically(path, lambda file: file.write(text.encode()))


def test_target_of_a_link_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_text("old")
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "link").symlink_to("../far/file")
    put(tmp_path / "near" / "link")
    assert (tmp_path / "near" / "link").is_symlink()
    assert (tmp_path / "far" / "file").read_text() == "new"
    assert len(list(tmp_path.rglob("*"))) == 4  # nothing beside them


@pytest.mark.parametrize(("name", "says"), [
    ("link", "link: a link that leads nowhere, to gone"),
    ("link/new", "link is a link that leads nowhere"), ("file/new", "file is no folder")])
@pytest.mark.parametrize("write", [put, make_room])
def test_broken_link_and_missing_folder_are_named(tmp_path, name, says, write):
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=says):
        write(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


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
def test_writing_to_stdout_keeps_what_was_printed_to_its_file(tmp_path, output):
    if output == "link":
        (output := tmp_path / "link").symlink_to("/dev/stdout")
    code = ("import sys\n"
            "from pathlib import Path; from utils.files import make_room, write_atomically\n"
            "print('first', flush=True); path = Path(sys.argv[1]); make_room(path)\n"
            "write_atomically(path, lambda file: file.write(b'second\\n')); print('third')")
    with open(tmp_path / "log", "w") as log:
        subprocess.run([sys.executable, "-c", code, output], cwd=ROOT / "baseline", stdout=log,
                       check=True)
    assert (tmp_path / "log").read_text() == "first\nsecond\nthird\n"


def test_temporary_files_have_unique_names(tmp_path):
    with replacing(tmp_path / "a") as one, replacing(tmp_path / "a") as two:
        assert one.name != two.name
        one.write(b"1")
        two.write(b"2")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert os.listdir(tmp_path) == ["a"]


def test_deleted_temporary_file_is_written_once_more(tmp_path, monkeypatch):
    """Another process may take it for a leftover."""
    names = []

    def delete_first(descriptor: int, wait: bool) -> bool:
        names.append(os.listdir(tmp_path)[0])
        if len(names) == 1:
            (tmp_path / names[0]).unlink()
        return True

    monkeypatch.setattr(files, "lock", delete_first)
    with replacing(tmp_path / "a") as file:
        assert os.path.exists(file.name)
    assert len(set(names)) == 2
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES])
def test_missing_locks_give_one_warning(tmp_path, monkeypatch, capsys, code):
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    locks._warn.cache_clear()
    monkeypatch.setattr(fcntl, "flock", refuse)
    with open(tmp_path / ".lock", "w") as file:
        assert not lock(file.fileno(), wait=False, how=refuse)
    os.close(lock_folder(tmp_path, wait=False))
    assert capsys.readouterr().err.count("cannot be locked here") == 1


def test_folders_are_locked_on_nfs(tmp_path, monkeypatch):
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


@pytest.fixture
def home() -> Iterator[Path]:
    """Return a folder that anyone may write to, where this process is not the superuser."""
    superuser = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        if superuser:
            os.seteuid(12345)
        yield Path(folder)
        if superuser:
            os.seteuid(0)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_replaced_file_keeps_its_mode(home, mode):
    (home / "file").write_text("old")
    (home / "file").chmod(mode)
    put(home / "file")
    assert (home / "file").read_text() == "new"
    assert stat.S_IMODE((home / "file").stat().st_mode) == mode
    assert os.listdir(home) == ["file"]


@pytest.mark.skipif(os.geteuid() != 0, reason="files of other users")
def test_replaced_file_keeps_its_owner_and_group(tmp_path):
    (tmp_path / "file").touch()
    os.chown(tmp_path / "file", 12345, 12346)
    put(tmp_path / "file")
    state = (tmp_path / "file").stat()
    assert (state.st_uid, state.st_gid) == (12345, 12346)


@pytest.mark.skipif(os.geteuid() != 0, reason="files of other users")
def test_writable_file_of_another_user_keeps_its_owner(home):
    (home / "file").write_text("old and longer")
    os.seteuid(0)
    os.chown(home / "file", 12346, 12346)
    os.chmod(home / "file", 0o666)
    os.seteuid(12345)
    put(home / "file")
    assert (home / "file").stat().st_uid == 12346
    assert (home / "file").read_text() == "new"
    assert os.listdir(home) == ["file"]


def test_hard_links_keep_one_content(tmp_path):
    (tmp_path / "one").write_text("old and longer")
    os.link(tmp_path / "one", tmp_path / "two")
    put(tmp_path / "one")
    assert (tmp_path / "two").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]
    with pytest.raises(UserError, match="two would take the place of the photo .*one"):
        keep_apart([tmp_path / "two"], {tmp_path / "one": "the photo"})
    keep_apart([tmp_path / "two"], {tmp_path / "another": "the photo"})


def test_read_only_file_is_refused_before_any_work(home):
    (home / "generated2.png").write_text("old")
    (home / "generated2.png").chmod(0o444)
    says = r"cannot write .*generated2\.png: Permission denied"
    for refuse in (put, make_room, lambda path: keep_apart([path], {}),
                   lambda path: Frames(path.parent, 0, 8, 8, np.ones(3, int)).__enter__()):
        with pytest.raises(UserError, match=says):
            refuse(home / "generated2.png")
    assert (home / "generated2.png").read_text() == "old"


def test_home_folders_are_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for text, path in (("~/a", tmp_path / "a"), ("~", tmp_path), ("~root/a", Path("/root/a")),
                       ("a/~/b", Path("a/~/b"))):
        assert path_type(text) == path
    with pytest.raises(Exception, match=r"^~nobody-here/a: nobody's home folder"):
        path_type("~nobody-here/a")


def test_script_runs_twice_in_a_notebook_and_in_a_thread(monkeypatch):
    """A notebook's streams are no files and have no encoding; its signal handlers stay."""
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    output, errors = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", errors)
    for _ in range(2):
        run(lambda: print("done"))
        with pytest.raises(SystemExit, match="2"):
            run(lambda: os.stat("/nowhere/file"))
    assert (sys.stdout, sys.stderr) == (output, errors)
    thread = threading.Thread(target=lambda: run(lambda: print("done")))
    thread.start()
    thread.join(60)
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == handlers
    assert output.getvalue() == 3 * "done\n"
    assert errors.getvalue().count("error: ") == 2


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_stop_signal_ends_a_script_in_order(number):
    with pytest.raises(SystemExit) as end:
        run(lambda: signal.raise_signal(number))
    assert end.value.code == 128 + number


@pytest.mark.parametrize("name", [path.name for path in (ROOT / "baseline").glob("*.py")
                                  if "__main__" in path.read_text()])
def test_windows_gives_an_error_line(name):
    code = ("import runpy, signal, sys\n"
            "del signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU\n"
            "sys.modules['fcntl'] = None; sys.path[0] = '.'\n"
            f"runpy.run_path('{name}', run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "baseline", check=False,
                          capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: this runs on Linux and macOS; on Windows in WSL")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("use", "name"), [
    (lambda: os.posix_fallocate, "os.posix_fallocate"),
    (lambda: os.statvfs("/").f_nothing, "os.f_nothing"),
    (lambda: signal.SIGNOTHING, "signal.SIGNOTHING")])
def test_missing_function_of_the_system_is_named(monkeypatch, capsys, use, name):
    monkeypatch.delattr(os, "posix_fallocate")
    with pytest.raises(SystemExit, match="2"), enough_memory("--x"):
        run(use)
    assert capsys.readouterr().err == f"error: this system lacks {name}, which Linux has\n"
