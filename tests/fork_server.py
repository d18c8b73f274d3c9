"""Start scripts as processes that are forked after the imports that take seconds."""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import threading
import traceback

SLOW_IMPORTS = ("av", "cv2", "matplotlib.figure", "numba", "PIL.Image",
                "tensorboardX", "torch", "torchvision", "tqdm")


def serve(connection: socket.socket) -> None:
    """Fork for every request until the connection is closed; return in the scripts' processes."""
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
    """Make this process look as if it had been started for the script of a request."""
    for number, descriptor in enumerate(outputs, 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.close(status)
    os.setpgid(0, 0)
    os.chdir(request["cwd"])
    os.environ.update(request["environment"])
    sys.path[0] = os.path.dirname(request["script"])
    sys.argv = [request["script"], *request["flags"]]
    for name, value in request["settings"].items():
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
        setattr(sys.modules[module], attribute,
                tuple(value) if isinstance(value, list) else value)


def run() -> int:
    """Run the script to its end and return its exit status."""
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
