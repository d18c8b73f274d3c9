"""Starts scripts as processes of their own, forked after the imports that take seconds."""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from functools import cache
from pathlib import Path

SLOW_IMPORTS = ("av", "cv2", "matplotlib.figure", "numba", "PIL.Image",
                "tensorboardX", "torch", "torchvision", "tqdm")


class Script:
    """A script that runs; what it prints goes to files."""

    def __init__(self, script: Path, *flags: object, cwd: Path,
                 environment: dict[str, str] | None = None) -> None:
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
        reading, writing = os.pipe()
        self._status = os.fdopen(reading)
        request = {"script": str(script), "flags": list(map(str, flags)), "cwd": str(cwd),
                   "environment": environment or {}}
        socket.send_fds(server(), [json.dumps(request).encode()],
                        [*(file.fileno() for file in self._files), writing])
        os.close(writing)
        self.pid = int(self._status.readline())
        self.returncode: int | None = None

    def wait(self, timeout: float = 280) -> int:
        """The exit status, or minus the signal that ended it; killed if it takes too long."""
        if self.returncode is None:
            late = not self.over(timeout)
            if late:
                self.kill()
            self.returncode = int(self._status.readline())
            assert not late, f"killed after {timeout} s\n{self.output}\n{self.errors}"
        return self.returncode

    def over(self, seconds: float) -> bool:
        """Whether it ends within so many seconds."""
        ended = self.returncode is not None
        return ended or bool(select.select([self._status], [], [], seconds)[0])

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._read(0)

    @property
    def errors(self) -> str:
        """What it has written on stderr so far."""
        return self._read(1)

    def _read(self, number: int) -> str:
        file = self._files[number].fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode()

    def wait_for(self, text: str) -> str:
        """Wait until it has printed ``text``.  Returns all it has printed."""
        while text not in (seen := self.output):
            assert not self.over(0.005), (
                f"it ended without {text!r}\n{self.output}\n{self.errors}")
        return seen

    def worked(self) -> float:
        """The seconds of a processor that it has taken, however busy the machine is; 0 if over."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.signal(signal.SIGKILL)


@cache
def server() -> socket.socket:
    """The connection to the process that forks."""
    mine, its = socket.socketpair()
    subprocess.Popen([sys.executable, __file__, str(its.fileno())], pass_fds=[its.fileno()],
                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                     env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    return mine


def serve(connection: socket.socket) -> None:
    """Fork for every request until the other side is gone.  Returns in the scripts' processes."""
    for module in SLOW_IMPORTS:
        __import__(module)
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, *_ = socket.recv_fds(connection, 2**16, 3)
        if not message:
            os._exit(0)
        *outputs, status = descriptors
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if not (pid := os.fork()):
                signal.signal(signal.SIGINT, signal.default_int_handler)
                connection.close()
                become(json.loads(message), outputs, status)
                return
            os.write(status, f"{pid}\n".encode())
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            os.write(status, f"{code}\n".encode())
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def become(request: dict, outputs: list[int], status: int) -> None:
    """Make this process look as if it had been started for that script."""
    for number, descriptor in enumerate(outputs, 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.close(status)
    os.setpgid(0, 0)
    os.chdir(request["cwd"])
    os.environ.update(request["environment"])
    sys.path[0] = os.path.dirname(request["script"])
    sys.argv = [request["script"], *request["flags"]]


def run() -> int:
    """Run the script to its end.  Returns its exit status."""
    status = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        status = end.code or 0
    except KeyboardInterrupt:  # among its imports
        traceback.print_exc()
        status = 128 + signal.SIGINT
    except BaseException:  # noqa: BLE001, as Python itself does
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    return status


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
    # Without taking apart all that was imported, which would copy its memory first.
    os._exit(run())
