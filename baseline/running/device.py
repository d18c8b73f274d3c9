"""The device of the networks, its memory, their precision, and the compiler of --fast."""

import ctypes
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import torch

from utils.command import UserError

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # of glibc's malloc.h


def pick_device(name: str) -> torch.device:
    """Return the device that auto, cpu or cuda names.  Raises UserError where there is no GPU.

    On the CPU denormal numbers are flushed to zero in the whole process: the moments of Adam decay
    into them, and a step would take ten times as long.  Freed memory is kept for later use.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no GPU here; use --device cpu")
    if name == "cpu" or not torch.cuda.is_available():
        torch.set_flush_denormal(True)
        with suppress(OSError, AttributeError):  # another C library than glibc
            mallopt = ctypes.CDLL("libc.so.6").mallopt
            mallopt(M_MMAP_THRESHOLD, 2**30)  # no page faults in each step
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        return torch.device("cpu")
    local = os.environ.get("LOCAL_RANK", "")
    index, count = int(local) if local.isdecimal() else 0, torch.cuda.device_count()
    if index >= count:
        raise UserError(f"process {index + 1} of this machine finds {count} GPUs; start as many "
                        "processes as there are GPUs")
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def free_memory(device: torch.device) -> float:
    """Return the free memory of a device in bytes; infinity where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with suppress(OSError):
        if match := re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text()):
            return 1024.0 * int(match[1])
    return math.inf


def need_memory(needed: float, device: torch.device) -> None:
    """Raise MemoryError where a device has fewer bytes free.

    Linux grants memory that it does not have, and kills the process that uses it.
    """
    if needed > (free := free_memory(device)):
        raise MemoryError(f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")


def need_compiler() -> None:
    """Raise UserError where PyTorch finds no compiler for --fast, or one that does not work."""
    names = os.environ.get("CXX"), os.environ.get("CC"), "g++", "gcc", "clang"
    if not (compiler := next((name for name in names if name and shutil.which(name)), None)):
        raise UserError("--fast needs a C++ compiler, like g++; install one or leave it out")
    done = subprocess.run([compiler, "-x", "c++", "-fsyntax-only", "-"], input=b"int one = 1;\n",
                          capture_output=True, check=False)
    if done.returncode:
        says = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise UserError(f"--fast: the compiler {compiler} does not work ({says}); fix it or leave "
                        "--fast out")


@contextmanager
def compiling() -> Iterator[None]:
    """Raise UserError where what --fast compiles in this context makes the compiler fail."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
            raise
        lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
        raise UserError(f"--fast: compiling failed ({lines[0].strip()}); fix the compiler or "
                        "leave --fast out") from error


def computes_in_bf16(device: torch.device) -> bool:
    """Return whether the device has bf16 arithmetic (emulated bf16 is slower than fp32)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    with suppress(OSError):
        return bool({"avx512_bf16", "amx_bf16"} & set(Path("/proc/cpuinfo").read_text().split()))
    return False


class Precision:
    """The precision of the networks' arithmetic; weights and losses stay in fp32.

    The discriminator's gradient in the gradient penalty is such arithmetic too.
    """

    def __init__(self, name: str, device: torch.device, learning: bool = False) -> None:
        """name: fp32, tf32 or bf16; auto: bf16 where the device has its arithmetic, else fp32.

        On a processor auto is bf16 for learning alone, so that paintings hardly differ from one
        processor to another.  tf32 rounds factors to 10 bits, in the whole process.  Raises
        UserError for tf32 on a processor.
        """
        self.device, self.tf32 = device, name == "tf32"
        auto = name == "auto" and (learning or device.type == "cuda")
        self.bf16 = name == "bf16" or auto and computes_in_bf16(device)
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.tf32
        elif self.tf32:
            raise UserError("--precision tf32 needs a GPU; here there are fp32 and bf16")

    def __str__(self) -> str:
        return "bf16" if self.bf16 else "tf32" if self.tf32 else "fp32"

    def autocast(self) -> AbstractContextManager:
        """Return a context in which matrix products and convolutions run in this precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)
