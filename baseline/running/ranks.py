"""The processes that train one model together, as ``torchrun`` starts them."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import format_exception
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from utils.command import UserError, on_stop_signals

# What torchrun sets.
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def launched() -> tuple[int, int]:
    """Return this process's rank and the number of processes; 0 and 1 without a launcher.

    Raises UserError where the launcher's variables are incomplete, or no numbers.
    """
    values = {name: os.environ.get(name, "") for name in LAUNCHER}
    rank, world, local, *address = values.values()
    if not rank and world in ("", "1"):
        return 0, 1
    numbers = all(re.fullmatch("[0-9]{1,6}", value) for value in (rank, world, local or "0"))
    if not numbers or int(rank) >= int(world) or int(world) > 1 and not all(address):
        text = " ".join(f"{name}={value}" for name, value in values.items())
        raise UserError(f"the environment of torchrun is not complete, or no ranks from 0: {text}")
    return int(rank), int(world)


class OthersLost(Exception):
    """Another process left in the middle of a collective operation; it has said why."""


@contextmanager
def collective() -> Iterator[None]:
    """Raise OthersLost where another process left a collective operation."""
    try:
        yield
    except RuntimeError as error:
        raise OthersLost(str(error).splitlines()[0]) from error


class Ranks:
    """This process among all; alone where torchrun did not start it.

    A context; at its end the process leaves the group.
    """

    def __init__(self, device: str = "cpu") -> None:
        """device: as the user named it, auto, cpu or cuda."""
        self.rank, self.world = launched()
        if self.world > 1:
            gpu = device != "cpu" and torch.cuda.is_available()
            try:
                with on_stop_signals(signal.SIG_DFL):  # Python cannot handle one in there
                    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
            except (RuntimeError, ValueError) as error:  # an address where nobody is, no number
                raise UserError("the other processes cannot be reached: "
                                f"{str(error).splitlines()[0]}") from error
            if not self.main:
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115, until the process ends

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    @property
    def launcher(self) -> str:
        """Return what starts a script with as many processes."""
        count = os.environ.get("LOCAL_WORLD_SIZE") or self.world
        return "python3" if self.world == 1 else f"torchrun --nproc_per_node={count}"

    def shard(self, count: int, what: str) -> int:
        """Return ``count`` per process.  Raises UserError where it does not divide evenly."""
        if count % self.world:
            raise UserError(f"{what} {count} cannot be divided evenly by {self.world} processes")
        return count // self.world

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the first process of each machine go through this context before the others."""
        first = int(os.environ.get("LOCAL_RANK") or 0) == 0
        first or self.barrier()
        yield
        first and self.barrier()

    def barrier(self) -> None:
        """Wait until every process gets here."""
        self.any(False)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return bool(self.all_reduce(torch.tensor(float(flag))))

    def broadcast(self, value: Any) -> Any:
        """Return the main process's value of anything that can be pickled."""
        values = [value]
        if self.world > 1:
            with collective():
                dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def all_reduce(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of all processes' values, in place."""
        if self.world > 1:
            with collective():
                dist.all_reduce(value)
        return value

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean of all processes' values, in place."""
        return self.all_reduce(value).div_(self.world)

    def broadcast_network(self, network: nn.Module) -> None:
        """Give every process the main one's parameters and buffers."""
        for value in network.state_dict().values() if self.world > 1 else ():
            with collective():
                dist.broadcast(value, 0)

    def average_gradients(self, network: nn.Module) -> None:
        """Give every process the mean of all processes' gradients.

        DistributedDataParallel does this for a network that a loss calls once.  Here losses call
        one several times, frozen, folded or under a second derivative.
        """
        for parameter in network.parameters() if self.world > 1 else ():
            self.mean(parameter.grad)

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.world > 1 and error is None:
            dist.destroy_process_group()
        elif self.world > 1:
            # The others may wait in a collective operation; an orderly end would wait for them.
            if isinstance(error, SystemExit):  # torchrun ends all where one ended
                os._exit(error.code)
            bad_input = isinstance(error, UserError)
            says = f"error: {error}" if bad_input else "".join(format_exception(error))
            if isinstance(error, OthersLost):
                says = f"process {self.rank} of {self.world} lost another one: {error}"
            print(says, file=sys.stderr, flush=True)
            os._exit(2 if bad_input else 1)
