"""Weight files."""

import mmap
import os
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from pickletools import genops
from reprlib import repr as shown
from typing import Any, NoReturn

import torch
from torch import nn

from constants import WIDTH
from utils.command import UserError
from utils.files import write_atomically

# What the pickles in files of tensors and plain values name.
PLAIN = (r"collections OrderedDict|torch\._utils _rebuild_(tensor(_v2)?|parameter)"
         r"|torch (BFloat16|Bool|Byte|Char|Double|Float|Half|Int|Long|Short)Storage")
# Parts of keys that DataParallel, DistributedDataParallel and torch.compile add, and the newer
# names of what weight norm has.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
COUNTER = "num_batches_tracked"  # old versions did not write it, and some write it as a float
BESIDE = {"n_averaged"}  # what AveragedModel counts
NEW_NAMES = {"parametrizations.weight.original0": "weight_g",
             "parametrizations.weight.original1": "weight_v"}
MOST_PARTS = 10_000  # of a checkpoint that are looked through for weights
FEWEST = 10  # tensors of a network in there; an optimiser has three for each of its parameters
ARCHIVES = re.compile(
    rb"\x1f[\x8b\x9d]|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd|\x04\x22\x4d\x18|\x5d\0\0.\0"
    rb"|PK\x05\x06|.{257}ustar", re.DOTALL)
OTHERS = {rb".{8}\{\s*\"": "is a file of safetensors and no state dict of PyTorch",
          rb"\x93NUMPY": "is an array of NumPy and no state dict of PyTorch"}
# What a weight file may say beside its keys: the family of the strokes, the read-out of an actor.
METADATA = {"family", "readout"}
LONGEST_PICKLE = 10**6  # operations; those of a checkpoint are some ten thousand


def finite(network: nn.Module) -> bool:
    """Whether all numbers of a network are."""
    return all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())


def save_atomically(value: Any, path: Path) -> None:
    """torch.save to ``path``, whole or not at all."""
    write_atomically(path, partial(torch.save, value))


def load_file(path: Path, what: str, otherwise: str) -> Any:
    """Load a file of tensors and plain values; no code in it is ever run.

    what: the file's name for the user.  otherwise: what the user can do without it.
    """
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")  # of files by other versions of PyTorch
            flaw = _flaw(path)
            if not flaw:
                return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{what} {path} does not exist; {otherwise}") from error
    except OSError as error:
        raise UserError(f"cannot read {what} {path}: {error.strerror or error}") from error
    except Exception as error:
        raise UserError(
            f"{what} {path} is damaged or not a weight file; {otherwise}") from error
    raise UserError(f"{what} {path} {flaw}; {otherwise}")


def _flaw(path: Path) -> str:  # noqa: C901, PLR0912, a line for each flaw
    """Why a file is not one of tensors and plain values, as far as can be told before loading it.

    PyTorch itself refuses to run code.  This says which, and keeps away from the rest that it
    knows, which takes memory as it likes.  Raises an exception where the file is damaged.
    """
    with open(path, "rb") as file, ExitStack() as stack:
        beginning = file.read(300)
        start = beginning.lstrip()
        if ARCHIVES.match(beginning):
            return "is an archive; unpack it first"
        for pattern, flaw in OTHERS.items():
            if re.match(pattern, beginning, re.DOTALL):
                return flaw
        if start.startswith(b"<"):
            return "is a web page, saved in place of a file"
        if start.startswith(b"version https://git-lfs"):
            return "is a pointer to a file; fetch that with git lfs pull"
        if not os.fstat(file.fileno()).st_size:
            return "is empty"
        whole = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        pickles = repeat(whole, 5)  # one after the other in files of before PyTorch 1.6
        if start.startswith(b"PK"):
            archive = zipfile.ZipFile(file)
            if archive.namelist() and not any(
                    name.endswith("/data.pkl") for name in archive.namelist()):
                return "is an archive; unpack it first"
            if any(part.filename.endswith("/constants.pkl") for part in archive.infolist()):
                return "is a TorchScript archive and no state dict"
            if sum(part.file_size for part in archive.infolist()) > len(whole):
                return "is compressed, which weight files are not"
            if archive.testzip():  # PyTorch would take damaged numbers
                return "is damaged"
            pickles = (archive.read(name) for name in archive.namelist()
                       if name.endswith("/data.pkl"))
        texts = []
        for number, (opcode, value, _) in enumerate(chain.from_iterable(map(genops, pickles))):
            if isinstance(value, str):
                texts.append(value)
            if opcode.name == "STACK_GLOBAL":
                value = " ".join(texts[-2:])
            if "GLOBAL" in opcode.name and not re.fullmatch(PLAIN, value):
                if not re.fullmatch(r"\S+ \S+", value):
                    raise ValueError("no pickle")
                name = value[:100].replace(" ", ".")
                if re.match(r"torch\._utils\._rebuild_|torch\.\w+Storage", name):
                    return f"holds other tensors than plain ones of floats ({name})"
                return f"would run code ({name}); it was not loaded"
            if number == LONGEST_PICKLE:
                return "is not a weight file"
    return ""


def load_weights(network: nn.Module, path: Path, what: str, otherwise: str) -> str:
    """Fill ``network`` from a state dict of any float precision whose keys fit exactly.

    Returns the family of strokes that the weights are for: bezier where they do not say.
    """
    return load_built(lambda state: network, path, what, otherwise)[1]["family"]


def load_built(
    build: Callable[[dict[str, torch.Tensor]], nn.Module], path: Path, what: str, otherwise: str
) -> tuple[nn.Module, dict[str, str]]:
    """``load_weights`` into a network that ``build`` makes by what the state dict says.

    Returns the network and the file's metadata, "family" always among it.  Files that older
    versions wrote for pictures of another size than 128 pixels are refused.
    """
    def refuse(flaw: str) -> NoReturn:
        raise UserError(f"{what} {path} {flaw}; {otherwise}")

    flaws = []
    candidates = ((whole, state) for whole in state_dicts(load_file(path, what, otherwise))
                  for state in with_modules(unwrapped(whole)))
    for found, state in candidates:
        network = build(state)
        if not (flaw := misfit(network, state)):
            break
        flaws.append(flaw)
    else:
        refuse(flaws[0] if flaws else "holds no state dict")
    network.load_state_dict(state)
    metadata = getattr(found, "_metadata", None)
    own = dict.get(metadata, "") if isinstance(metadata, dict) else None
    written = dict(own) if isinstance(own, dict) else {}
    if type(size := written.get("size", WIDTH)) is not int or size != WIDTH:
        refuse(f"is for pictures of {shown(size)} pixels a side, not {WIDTH}")
    known = {"family": "bezier"} | {name: written[name] for name in METADATA & written.keys()}
    return network, {name: value[:100] if isinstance(value, str) else shown(value)
                     for name, value in known.items()}


def state_dicts(loaded: Any) -> list[dict[str, torch.Tensor]]:
    """The state dicts in what was loaded: itself, or those in a checkpoint's dicts of dicts.

    Plain values among the weights, such as a number of updates, are left out.
    """
    found, todo = [], [loaded]
    for value in todo:  # grows on the way
        values = list(dict.values(value)) if isinstance(value, dict) else (
            list(value) if isinstance(value, list | tuple) else [])
        others = [each for each in values if not isinstance(each, torch.Tensor)]
        tensors = len(values) - len(others)
        if isinstance(value, dict) and tensors and (
                tensors >= FEWEST or value is loaded and not others):
            found.append(OrderedDict((key, each) for key, each in dict.items(value)
                                     if isinstance(each, torch.Tensor)))
            found[-1]._metadata = getattr(value, "_metadata", None)
        if len(todo) < MOST_PARTS:
            todo += others
    return found


def with_modules(state: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """A state dict, and those of the modules in it, as where several networks are in one."""
    yield state
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        module, _, rest = key.partition(".")
        modules.setdefault(module, {})[rest] = value
    yield from (unwrapped(each) for each in modules.values() if len(each) >= FEWEST)


def unwrapped(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict without what wrappers put before its keys, in PyTorch's older names."""
    keys = {key: [part for part in str(key).split(".") if part not in WRAPPERS]
            for key in found if key not in BESIDE}
    while len({parts[0] for parts in keys.values() if parts}) == 1 and all(
            len(parts) > 1 for parts in keys.values()):
        keys = {key: parts[1:] for key, parts in keys.items()}
    state = {".".join(parts): dict.__getitem__(found, key) for key, parts in keys.items()}
    for new, old in NEW_NAMES.items():
        state = {key.replace(new, old): value for key, value in state.items()}
    return state


def misfit(network: nn.Module, state: dict[str, torch.Tensor]) -> str:
    """What keeps weights from fitting a network; empty where they do.

    Counters of batches, which old versions did not write, are added.
    """
    mine = network.state_dict()
    for key in mine.keys() - state.keys():
        if key.endswith(COUNTER):
            state[key] = mine[key]
    other = "holds the weights of another network"
    if alien := next((key for key in (*mine, *state) if key not in mine or key not in state), None):
        return f"{other}: {'no' if alien in mine else 'also'} {alien[:100]}"
    for key, own in mine.items():
        if (value := state[key]).shape != own.shape:
            return f"{other}: {key} has the shape {(*value.shape,)}, not {(*own.shape,)}"
        if value.is_floating_point() != own.is_floating_point() and not key.endswith(COUNTER):
            return f"holds numbers of the type {value.dtype} in {key}"
        if not torch.isfinite(value.to(own.dtype)).all():
            return f"holds numbers that are not finite in {key}"
    return ""


def half_state(network: nn.Module, **metadata: str) -> OrderedDict[str, torch.Tensor]:
    """Return the network's state dict on the CPU, floats in half precision: the shipped format.

    metadata: what PyTorch is to save with the state dict beside its keys; see METADATA.
    """
    state = network.state_dict()
    half = OrderedDict(
        (key, (value.half() if value.is_floating_point() else value).cpu().contiguous())
        for key, value in state.items()
    )
    half._metadata = state._metadata
    half._metadata[""] |= metadata
    return half
