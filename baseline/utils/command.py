"""What every script's command line shares."""

import argparse
import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any, NoReturn, TextIO

ROOT = Path(__file__).resolve().parents[2]  # the repository
TRAIN_LOG = ROOT / "train_log"
LOG = "log.csv"  # in the folder of a training of the agent, a line a validation
RENDERER = ROOT / "renderer.pkl"
ACTOR = ROOT / "actor.pkl"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last of a lost terminal
LONGEST_LINE = 2000  # characters of an error
LONGEST_NAME = 200  # bytes of a file to write, so that there is room for a number or a suffix


class UserError(Exception):
    """Something the user can mend; its message is the one line to print."""


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Each flag's default in brackets at the end of its line, where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        default = action.default
        if default is None or default is False or default in (argparse.SUPPRESS, []):
            return action.help
        if str(default).startswith(f"{ROOT}{os.sep}"):
            default = Path(default).relative_to(ROOT)
        return f"{action.help} ({default})"


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are UserErrors: one line and no usage."""

    def __init__(self, description: str, example: str) -> None:
        """example: a command to try."""
        super().__init__(description=description, epilog=f"example: {example}",
                         formatter_class=Help)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the flags)")

    def parse_args(self, arguments: list[str] | None = None) -> argparse.Namespace:
        """Read a command line; beside --resume all that is not typed is None."""
        options = super().parse_args(arguments)
        if vars(options).get("resume") is not None:
            nothing = argparse.Namespace(**dict.fromkeys(vars(options)))
            options = super().parse_args(arguments, nothing)
        return options


class Output:
    """A stream to print on, which may lose its reader, its terminal or its room: work goes on.

    ``failure`` is why something else than a reader was lacking, as of a full disk.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write text, if that can be."""
        with self._read_or_not():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Likewise."""
        with self._read_or_not():
            self._stream.flush()

    @contextmanager
    def _read_or_not(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                self.failure = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def run(main: Callable[[], None]) -> None:
    """Run a script: a UserError becomes one line on stderr and exit status 2.

    So does what the system refuses.  SIGTERM ends it like an exception, so that nothing is left
    half written.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # it is closed: nothing else shall get its number
            os.open(os.devnull, os.O_RDWR)
    for name in [name for name in os.environ if name.startswith("TQDM_")]:
        del os.environ[name]  # bars have their settings, and nonsense in there would end them
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115, where it is closed
        stream.reconfigure(errors="backslashreplace")  # names of files may be any bytes
        setattr(sys, name, Output(stream))
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        output = sys.stdout
        main()
        output.flush()
        if error := output.failure:
            raise UserError(f"cannot write to the standard output: {error.strerror}")
    except ModuleNotFoundError as error:
        own = ROOT / "baseline" / (error.name or "").split(".")[0]
        if own.exists() or own.with_suffix(".py").exists():
            raise
        pip = quote(sys.executable), "-m pip install -r", quote(str(ROOT / "requirements.txt"))
        fail(f"the package {error.name} is missing: {' '.join(pip)}")
    except (UserError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def fail(says: str) -> NoReturn:
    """End with a line on stderr and exit status 2."""
    sys.stdout.flush()
    print(f"error: {one_line(says)}", file=sys.stderr, flush=True)
    sys.exit(2)


def one_line(text: str) -> str:
    """A text as one line that a terminal shows as it is; the middle of an endless one is cut."""
    if len(text) > LONGEST_LINE:
        text = f"{text[: LONGEST_LINE // 2]} .. {text[-LONGEST_LINE // 2 :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@contextmanager
def silent_stderr() -> Iterator[TextIO]:
    """Hide what C libraries print on stderr; yield a file that still leads there."""
    with open(os.dup(2), "w") as stderr:
        try:
            with open(os.devnull, "w") as null:
                os.dup2(null.fileno(), 2)
            yield stderr
        finally:
            os.dup2(stderr.fileno(), 2)


@contextmanager
def enough_memory(flags: str) -> Iterator[None]:
    """What may take more memory than there is goes in here; a UserError then names the flags."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # By their words, as OpenCV, workers and the libraries of GPUs have errors of their own.
        says = re.search(".*(out of memory|allocate|ALLOC_FAILED|MemoryError|signal: Killed|"
                         "overflow|too big|dimension exceeded).*",
                         f"{type(error).__name__}: {error}")
        if not says:
            raise
        raise UserError(f"not enough memory, it seems: try a smaller {flags} "
                        f"({says[0].strip()})") from error


def number(kind: type, low: float, below: float, what: str) -> Callable[[str], int | float]:
    """An argparse type: a number of that kind from ``low`` and below ``below``."""

    def read(text: str) -> int | float:
        try:
            value = kind(text) if re.fullmatch(r"[-+.\deE]+", text, re.ASCII) else below
        except ValueError:
            value = below
        if not low <= value < below:
            raise argparse.ArgumentTypeError(f"{text[:100]} is not {what}")
        return value

    return read


positive_int = number(int, 1, 2**31, "a whole number from 1 to 2147483647")
whole_number = number(int, 0, 2**31, "a whole number from 0 to 2147483647")
positive_float = number(float, 1e-30, 1e30, "a number above 0, below 1e30")
weight = number(float, 0, 1e30, "a number from 0, below 1e30")
seconds_type = number(float, 0.1, 3600.1, "a number of seconds from 0.1 to 3600")
seed_type = number(int, 1, 2**32, "a whole number from 1 to 4294967295")


def path_type(text: str) -> Path:
    """An argparse type: a path that can be, whether something is there or not."""
    try:
        if not text:  # a variable of the shell that is not set
            raise ValueError("an empty path")
        if re.match("https?://", text, re.IGNORECASE):
            raise ValueError("an address and no path")
        os.lstat(text)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from error
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error
    return Path(text)


def new_file(text: str) -> Path:
    """An argparse type: the path of a file to write, which may be there."""
    found = path_type(text)
    if len(os.fsencode(found.name)) > LONGEST_NAME:
        raise argparse.ArgumentTypeError(f"{text}: the name is too long")
    if found.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write {text}: it is a folder")
    return found


def frame_step(text: str) -> int:
    """What --frames says: ``all`` is 1, ``N`` or ``every N`` N, ``last`` more than there are."""
    if text in ("all", "last"):
        return 1 if text == "all" else sys.maxsize
    if not (words := re.fullmatch(r"(?:every\s+)?0*([1-9]\d{0,17})", text, re.ASCII)):
        raise UserError(f"--frames takes all, last, or every N, a whole number from 1; not {text}")
    return int(words[1])


def add_device_flags(parser: argparse._ActionsContainer) -> None:
    """Add --device and --precision to a parser or a group of one."""
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"),
                        help="where the networks run; auto: on a GPU where there is one")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "tf32", "bf16"),
                        help="auto: bf16 where the device computes in it (a processor in trainings "
                        "alone), fp32 elsewhere; tf32: a GPU's fp32 with products of 10 bits")
