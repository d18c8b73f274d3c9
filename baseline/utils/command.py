"""What every script's command line shares."""

import argparse
import math
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


def number(kind: type, low: float, below: float, what: str) -> Callable[[str], int | float]:
    """An argparse type: a number of that kind from ``low`` and below ``below``."""

    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = below
        if not low <= value < below:
            raise argparse.ArgumentTypeError(f"{text} is not {what}")
        return value

    return read


positive_int = number(int, 1, math.inf, "a whole number from 1")
whole_number = number(int, 0, math.inf, "a whole number from 0")
positive_float = number(float, sys.float_info.min, math.inf, "a number above 0")
weight = number(float, 0, math.inf, "a number from 0")
seconds = number(float, 0.1, 3600.1, "a number of seconds from 0.1 to 3600")
seed = number(int, 1, 2**32, "a whole number from 1 to 4294967295")


def add_device_flags(parser: argparse.ArgumentParser) -> None:
    """Add --device and --precision."""
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"),
                        help="where the networks run (auto: a GPU where there is one)")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"),
                        help="auto: bf16 where the device computes in it, fp32 elsewhere")
