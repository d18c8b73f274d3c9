"""What every script's command line shares."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]  # the repository
TRAIN_LOG = ROOT / "train_log"
RENDERER = ROOT / "renderer.pkl"
ACTOR = ROOT / "actor.pkl"


class UserError(Exception):
    """Something the user can mend; its message is the one line to print."""


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are UserErrors: one line and no usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the flags)")


def run(main: Callable[[], None]) -> None:
    """Run a script: a UserError becomes one line on stderr and exit status 2."""
    try:
        main()
    except UserError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def positive_int(text: str) -> int:
    """An argparse type: a whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return value


def positive_float(text: str) -> float:
    """An argparse type: a number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def seed(text: str) -> int:
    """An argparse type: a whole number from 1 to 2**32 - 1."""
    value = int(text)
    if not 1 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 to 4294967295")
    return value


def add_device_flags(parser: argparse.ArgumentParser) -> None:
    """Add --device and --precision."""
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"),
                        help="where the networks run (auto: a GPU where there is one)")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"),
                        help="auto: bf16 where the device computes in it, fp32 elsewhere")
