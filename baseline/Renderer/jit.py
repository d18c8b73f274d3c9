"""Start numba, which compiles the kernels of the exact rasterizer."""

import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

from utils.command import UserError


def start_numba() -> None:
    """Import numba with the variables that it reads then, and let it say when it compiles.

    Raises UserError where others of its variables keep it from starting.
    """
    os.environ.pop("NUMBA_THREADING_LAYER", None)  # another program's, which may not be there
    if os.environ.get("OMP_NUM_THREADS", "").isdecimal():  # or numba would give PyTorch its own
        os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
    warnings.filterwarnings("ignore", "Environment variable 'NUMBA_")
    try:
        from numba.core import event
    except (ValueError, RuntimeError) as error:  # of nonsense in other variables
        raise UserError(f"numba does not start: {error}; see its variables NUMBA_..") from error

    say = cache(lambda: print("compiling the rasterizer, once: some 10 s", flush=True))

    class Compiling(event.Listener):
        """Says at the first kernel that is not among the kept ones that compiling takes seconds."""

        def on_start(self, _: event.Event) -> None:
            say()

        on_end = on_start

    event.register("numba:compile", Compiling())


def compiled(**options: bool) -> Callable[[Callable], Callable]:
    """Compile a kernel at its first call, and keep it on disk where there is a place for it."""
    from numba import njit

    # Without a home numba would make a folder called ~ in the working directory.
    keep = os.access(Path(__file__).parent, os.W_OK) or os.path.expanduser("~") != "~"

    def decorate(kernel: Callable) -> Callable:
        try:
            return njit(cache=keep, **options)(kernel)
        except RuntimeError:  # neither the program's folder nor the user's can be written
            return njit(**options)(kernel)

    return decorate
