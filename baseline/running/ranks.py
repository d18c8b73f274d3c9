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

LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets


def launched() -> tuple[int, int]:
    """The number of this process and that of all, as the environment says; 0 of 1 if it does not.

    Raises UserError where it says that in part, or no numbers.
    """
    values = {name: os.environ.get(name, "") for name in LAUNCHER}
    alone = not values["RANK"] and values["WORLD_SIZE"] in ("", "1")
    rank, world = ("0", "1") if alone else (values["RANK"], values["WORLD_SIZE"])
    local = {name: os.environ.get(name) or "0" for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    for name, value in ({"RANK": rank, "WORLD_SIZE": world} | local).items():
        if not re.fullmatch("[0-9]{1,6}", value):
            raise UserError(f"the environment has {name}={value!r}; torchrun sets "
                            f"{', '.join(LAUNCHER)}: set all of them, or none")
    if int(rank) >= int(world):
        raise UserError(f"the environment has RANK={rank} of WORLD_SIZE={world} processes; they "
                        "count from 0")
    if int(world) > 1 and (missing := [name for name, value in values.items() if not value]):
        raise UserError(f"the environment has no {missing[0]}, which torchrun sets with "
                        "WORLD_SIZE")
    return int(rank), int(world)


class OthersLost(Exception):
    """Another process left in the middle of an exchange; it has said why."""


@contextmanager
def exchange() -> Iterator[None]:
    """What waits for the other processes goes in here."""
    try:
        yield
    except RuntimeError as error:
        raise OthersLost(str(error).splitlines()[0]) from error


class Ranks:
    """This process among all; alone, and free of charge, where torchrun did not start it.

    A context: leaving it takes leave of the others.
    """

    def __init__(self, device: str = "cpu") -> None:
        """device: what the user asked for, auto, cpu or cuda."""
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
        """What starts a script with as many processes."""
        count = os.environ.get("LOCAL_WORLD_SIZE") or self.world
        return "python3" if self.world == 1 else f"torchrun --nproc_per_node={count}"

    def part(self, count: int, what: str) -> int:
        """This process's share of ``count``.  Raises UserError where shares would differ."""
        if count % self.world:
            raise UserError(f"{what} {count} cannot be shared evenly by {self.world} processes")
        return count // self.world

    @contextmanager
    def one_by_one(self) -> Iterator[None]:
        """The first process of each machine goes through here before the others on it."""
        first = int(os.environ.get("LOCAL_RANK") or 0) == 0
        first or self.wait()
        yield
        first and self.wait()

    def wait(self) -> None:
        """Until every process got here."""
        self.any(False)

    def share(self, value: Any) -> Any:
        """Return the main process's value of anything that can be pickled."""
        values = [value]
        if self.world > 1:
            with exchange():
                dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return bool(self.total(torch.tensor(float(flag))))

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of all processes' values; change ``value`` in place."""
        if self.world > 1:
            with exchange():
                dist.all_reduce(value)
        return value

    def make_same(self, network: nn.Module) -> None:
        """Give every process the main one's parameters and buffers."""
        for value in network.state_dict().values() if self.world > 1 else ():
            with exchange():
                dist.broadcast(value, 0)

    def mean_gradients(self, network: nn.Module) -> None:
        """Give every process the mean of all processes' gradients, in one exchange."""
        if self.world == 1:
            return
        gradients = [p.grad for p in network.parameters()]
        flat = self.total(torch.cat([g.flatten() for g in gradients])).div_(self.world)
        parts = flat.split([g.numel() for g in gradients])
        torch._foreach_copy_(
            gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.world > 1 and error is None:
            dist.destroy_process_group()
        elif self.world > 1:
            # The others may wait in an exchange; taking leave in order would wait for them.
            if isinstance(error, SystemExit):  # torchrun ends all where one ended
                os._exit(error.code)
            bad_input = isinstance(error, UserError)
            says = f"error: {error}" if bad_input else "".join(format_exception(error))
            if isinstance(error, OthersLost):
                says = f"process {self.rank} of {self.world} lost another one: {error}"
            print(says, file=sys.stderr, flush=True)
            os._exit(2 if bad_input else 1)
