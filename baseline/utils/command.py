"""The parts that the command lines of all scripts share."""

import argparse
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import make_dataclass
from pathlib import Path
from shlex import quote
from typing import Any, NoReturn

from constants import LONGEST_SIDE
from utils.streams import prepare_streams

try:
    import fcntl  # noqa: F401, which Windows lacks
except ImportError:
    print("error: this runs on Linux and macOS; on Windows in WSL, https://aka.ms/wsl, with the "
          "same commands", file=sys.stderr)
    sys.exit(2)

ROOT = Path(__file__).resolve().parents[2]  # the repository
TRAIN_LOG = ROOT / "train_log"
LOG = "log.csv"  # in the agent's training run's folder, one line for each validation
RENDERER = ROOT / "renderer.pkl"
ACTOR = ROOT / "actor.pkl"
# From users, systems and lost terminals; batch systems send others before.
END_SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
STOP_SIGNALS = *END_SIGNALS, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU
SYSTEM_MODULES = {"fcntl", "mmap", "os", "signal"}  # some systems lack parts of them
Options = Any  # of a script: a frozen dataclass whose fields are its flags, see ``freeze``
MAX_LINE_LENGTH = 2000  # characters of an error
MAX_NAME_LENGTH = 200  # bytes of an output file's name, which may get a number or a suffix


class UserError(Exception):
    """An error that the user can fix; its message is the one line to print."""


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Show each flag's default in brackets at the end of its line, where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default is False or action.default in (None, argparse.SUPPRESS, []):
            return action.help
        return f"{action.help} ({str(action.default).removeprefix(f'{ROOT}{os.sep}')})"


class Parser(argparse.ArgumentParser):
    """A parser of command lines that raises UserError for mistakes, without the usage."""

    def __init__(self, description: str, example: str) -> None:
        super().__init__(description=description, epilog=f"example: {example}",
                         formatter_class=Help)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the flags)")

    def parse_args(self, arguments: list[str] | None = None) -> argparse.Namespace:
        """Parse a command line; with --resume, flags that are not typed are None."""
        options = super().parse_args(arguments)
        if vars(options).get("resume") is not None:
            blank = argparse.Namespace(**dict.fromkeys(vars(options)))
            options = super().parse_args(arguments, blank)
        return options


def freeze(flags: argparse.Namespace) -> Options:
    """Return the flags of a script as a frozen dataclass with a field for each."""
    return make_dataclass("Options", vars(flags), frozen=True)(**vars(flags))


@contextmanager
def on_stop_signals(handler: Callable | int) -> Iterator[None]:
    """Handle the signals that stop a program; put back the former handlers afterwards.

    Ignored signals stay ignored, as nohup wants it.  Only the main thread may set handlers.
    """
    is_main = threading.current_thread() is threading.main_thread()
    former = {number: signal.signal(number, handler) for number in STOP_SIGNALS
              if is_main and signal.getsignal(number) not in (signal.SIG_IGN, None)}
    try:
        yield
    finally:
        for number, former_handler in former.items():
            signal.signal(number, former_handler)


def run(main: Callable[[], None]) -> None:
    """Run a script; report errors of the user and the system in one line with exit status 2."""
    prepare_streams()
    try:
        # An exception, so that no file is left half written.
        with on_stop_signals(lambda number, _: sys.exit(128 + number)):
            main()
        sys.stdout.flush()
        if error := getattr(sys.stdout, "failure", None):
            raise UserError(f"cannot write to the standard output: {error.strerror}")
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package in sys.stdlib_module_names:
            fail(f"this Python was built without its module {error.name}")
        fail(f"the package {error.name} is missing: {quote(sys.executable)} -m pip install -r "
             + quote(str(ROOT / "requirements.txt")))
    except AttributeError as error:
        module = getattr(error.obj, "__name__", type(error.obj).__module__)
        if module not in SYSTEM_MODULES:
            raise
        fail(f"this system lacks {module}.{error.name}, which Linux has")
    except (UserError, OSError) as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Print an error on stderr and exit with status 2."""
    sys.stdout.flush()
    print(f"error: {one_line(message)}", file=sys.stderr, flush=True)
    sys.exit(2)


def one_line(text: str) -> str:
    """Return a text as one printable line, without the middle where it is too long."""
    if len(text) > MAX_LINE_LENGTH:
        text = f"{text[: MAX_LINE_LENGTH // 2]} .. {text[-MAX_LINE_LENGTH // 2 :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@contextmanager
def enough_memory(flags: str) -> Iterator[None]:
    """Raise UserError, naming the flags to make smaller, where memory is exhausted in here."""
    try:
        yield
    except Exception as error:
        # By its words: OpenCV, worker processes and GPU libraries raise errors of their own types.
        cause = re.search(r".*(out of memory|([Cc]an(no|')t|[Ff]ailed to|[Uu]nable to) allocate|"
                         "ALLOC_FAILED|MemoryError|signal: Killed|ion overflow|array is too big|"
                         "dimension exceeded).*", f"{type(error).__name__}: {error}")
        if not cause or isinstance(error, UserError):
            raise
        raise UserError(f"not enough memory, it seems: try a smaller {flags} "
                        f"({cause[0].strip()})") from error


def number(kind: type, low: float, below: float, what: str) -> Callable[[str], int | float]:
    """Return an argparse type for numbers of a kind in [low, below)."""

    def read(text: str) -> int | float:
        with suppress(ValueError):
            if re.fullmatch(r"[-+.\deE]+", text, re.ASCII) and low <= kind(text) < below:
                return kind(text)
        raise argparse.ArgumentTypeError(f"{text[:100]} is not {what}")

    return read


positive_int = number(int, 1, 2**31, "a whole number from 1 to 2147483647")
whole_number = number(int, 0, 2**31, "a whole number from 0 to 2147483647")
positive_float = number(float, 1e-30, 1e30, "a number above 0, below 1e30")
weight = number(float, 0, 1e30, "a number from 0, below 1e30")
seconds_type = number(float, 0.1, 3600.1, "a number of seconds from 0.1 to 3600")
seed_type = number(int, 1, 2**32, "a whole number from 1 to 4294967295")
size_type = number(int, 1, LONGEST_SIDE + 1, f"a whole number from 1 to {LONGEST_SIDE}")


def path_type(text: str) -> Path:
    """Return a path, whether a file is there or not; expand ~/ and ~NAME/: an argparse type."""
    path = os.path.expanduser(text)
    try:
        if not text:  # for example an unset variable of the shell
            raise ValueError("an empty path")
        if re.match("https?://", text, re.IGNORECASE):
            raise ValueError("an address and no path")
        if re.match("~(/|$|[^/]+/)", path) and not os.path.lexists(path):
            raise ValueError("nobody's home folder; a name that begins with ~ is written ./~")
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        flaw = getattr(error, "strerror", error)
        raise argparse.ArgumentTypeError(f"{text}: {flaw}") from error
    return Path(path)


def new_file(text: str) -> Path:
    """Return the path of a file to write, which may exist: an argparse type."""
    path = path_type(text)
    if len(os.fsencode(path.name)) > MAX_NAME_LENGTH:
        raise argparse.ArgumentTypeError(f"{text}: the name is too long")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write {text}: it is a folder")
    return path


def add_device_flags(parser: argparse._ActionsContainer) -> None:
    """Add --device and --precision to a parser or a group of one."""
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"),
                        help="where the networks run; auto: on a GPU where there is one")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "tf32", "bf16"),
                        help="auto: bf16 where the device computes in it (a CPU in trainings "
                        "alone), fp32 elsewhere; tf32: a GPU's fp32 with products of 10 bits")
