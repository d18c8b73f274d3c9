"""The door to numba: kernels are compiled at their first call, kept, and it is said."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

from utils.command import UserError

os.environ.pop("NUMBA_THREADING_LAYER", None)  # another program's, which may not be there
if os.environ.get("OMP_NUM_THREADS", "").isdecimal():  # or numba would give PyTorch its own
    os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
warnings.filterwarnings("ignore", "Environment variable 'NUMBA_")
try:
    from numba import njit, parallel_chunksize, prange
    from numba.core import event
except (ValueError, RuntimeError) as error:  # of nonsense in other variables
    raise UserError(f"numba does not start: {error}; see its variables NUMBA_..") from error

__all__ = ["compiled", "parallel_chunksize", "prange"]
# Without a home numba would make a folder called ~ where it is.
KEPT = os.access(Path(__file__).parent, os.W_OK) or os.path.expanduser("~") != "~"


class Compiling(event.Listener):
    """Says, once, that kernels are compiled, which takes its time."""

    said = False

    def on_start(self, _: event.Event) -> None:
        """A kernel was not found where compiled ones are kept."""
        if not self.said:
            print("compiling the rasteriser, once", flush=True)
        self.said = True

    def on_end(self, _: event.Event) -> None:
        """It is done."""


event.register("numba:compile", Compiling())


def compiled(**options: bool) -> Callable[[Callable], Callable]:
    """Compile a kernel, and keep it for later runs where there is a place for it."""

    def decorate(kernel: Callable) -> Callable:
        try:
            return njit(cache=KEPT, **options)(kernel)
        except RuntimeError:  # neither the program's folder nor the user's can be written
            return njit(**options)(kernel)

    return decorate
