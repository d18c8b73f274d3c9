"""Weight files."""

import mmap
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from pickletools import genops
from reprlib import repr as shown
from typing import Any, BinaryIO

import torch
from torch import nn

from utils.command import UserError
from utils.files import reason, write_atomically

OTHER_FILES = {  # by their first bytes
    rb"\Z": "is empty",
    rb"\x1f[\x8b\x9d]|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd|\x04\x22\x4d\x18|\x5d\0\0.\0"
    rb"|PK\x05\x06|.{257}ustar": "is an archive; unpack it first",
    rb".{8}\{\s*\"": "is a file of safetensors and no state dict of PyTorch",
    rb"\x93NUMPY": "is an array of NumPy and no state dict of PyTorch",
    rb"\s*<": "is a web page, saved in place of a file",
    rb"\s*version https://git-lfs": "is a pointer to a file; fetch that with git lfs pull",
}
# The globals in the pickles of files of tensors and plain values.
PLAIN_GLOBALS = (r"collections OrderedDict|torch\._utils _rebuild_(tensor(_v2)?|parameter)"
                 r"|torch (BFloat16|Bool|Byte|Char|Double|Float|Half|Int|Long|Short)Storage")
MAX_OPERATIONS = 10**6  # of pickles; those of a checkpoint have some ten thousand
# Parts of keys that DataParallel, DistributedDataParallel and torch.compile add.
WRAPPERS = re.compile(
    r"(?<![^.])(module|_(orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module))\.")
NEWER_NAME = "parametrizations.weight.original"  # of weight normalization's weight_g and weight_v
COUNTER = "num_batches_tracked"  # not in files of old versions, and a float in some
MAX_PARTS, MAX_KEY_LENGTH, MAX_PREFIXES = 100_000, 200, 64  # that are searched for weights
MIN_TENSORS = 10  # of a network in a checkpoint; an optimizer has three for each parameter
METADATA = {"family", "readout"}  # of a weight file: of strokes, of an actor


def finite(network: nn.Module) -> bool:
    """Return whether all numbers of a network are finite."""
    return all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())


def save_atomically(value: Any, path: Path) -> None:
    """Save a value with torch.save, whole or not at all."""
    write_atomically(path, partial(torch.save, value))


def load_file(path: Path, what: str, otherwise: str) -> Any:
    """Load a file of tensors and plain values without running code from it.

    what: the file's name for the user.  otherwise: what the user can do without it.
    """
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")  # of files by other versions of PyTorch
            if not (flaw := _flaw(file)):
                file.seek(0)
                return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        flaw = "does not exist"
    except OSError as error:
        raise UserError(f"cannot read {what} {path}: {reason(error)}") from error
    except Exception:  # noqa: BLE001, broken files raise errors of any type
        flaw = "is damaged or not a weight file"
    raise UserError(f"{what} {path} {flaw}; {otherwise}")


def _flaw(file: BinaryIO) -> str:
    """Return why a file is not one of tensors and plain values; or "".  Damage may raise anything.

    PyTorch refuses code without naming it, and lets globals that it knows take any memory.
    """
    beginning = file.read(300)
    if kind := next((kind for kind in OTHER_FILES if re.match(kind, beginning, re.DOTALL)), None):
        return OTHER_FILES[kind]
    content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    pickles = repeat(content, 5)  # one after the other, before PyTorch 1.6
    if beginning.startswith(b"PK"):
        archive = zipfile.ZipFile(file)
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            return "is a TorchScript archive and no state dict"
        if sum(part.file_size for part in archive.infolist()) > len(content):
            return "is compressed, which weight files are not"
        if archive.testzip():  # PyTorch would load damaged numbers
            return "is damaged"
        pickles = [archive.read(name) for name in names if name.endswith("/data.pkl")]
    strings = []
    operations = chain.from_iterable(map(genops, pickles))
    for opcode, value, _ in islice(operations, MAX_OPERATIONS):
        if isinstance(value, str):
            strings.append(value)
        if opcode.name == "STACK_GLOBAL":
            value = " ".join(strings[-2:])
        if "GLOBAL" in opcode.name and not re.fullmatch(PLAIN_GLOBALS, value):
            module, name = value[:100].split()
            if re.match(r"torch(\._utils _rebuild_| \w+Storage)", value):
                return f"holds other tensors than plain ones of floats ({module}.{name})"
            return f"would run code ({module}.{name}); it was not loaded"
    if not pickles:
        return "is an archive; unpack it first"
    return "is not a weight file" if next(operations, None) else ""


def load_weights(network: nn.Module, path: Path, what: str, otherwise: str) -> str:
    """Fill a network from a state dict of any float precision with exactly its keys.

    Returns the family of strokes that the weights are for: bezier where the file names none.
    """
    return load_built(lambda state: network, path, what, otherwise)[1]["family"]


def load_built(
    build: Callable[[dict[str, torch.Tensor]], nn.Module], path: Path, what: str, otherwise: str
) -> tuple[nn.Module, dict[str, str]]:
    """Build a network for a state dict and fill it; see ``load_weights``.

    Returns the network and the file's metadata, always with "family".
    """
    tensors, all_metadata = _flatten(load_file(path, what, otherwise))
    flaws = []
    for prefix in _prefixes(list(tensors)):
        state = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()
                 if key.startswith(prefix)}
        network = build(state)
        if flaw := _misfit(network, state):
            flaws.append(flaw)
            continue
        network.load_state_dict(state)
        metadata = all_metadata[max(filter(prefix.startswith, all_metadata), key=len)]
        metadata = {"family": "bezier"} | metadata
        return network, {name: value[:100] if isinstance(value, str) else shown(value)
                         for name, value in metadata.items() if name in METADATA}
    raise UserError(f"{what} {path} {flaws[0] if flaws else 'holds no state dict'}; {otherwise}")


def _flatten(loaded: Any) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, Any]]]:
    """Return the tensors in nested dicts and lists, and the metadata of each state dict.

    Both by their dotted keys, without wrappers and in PyTorch's older names.
    """
    tensors, metadata, todo = {}, {"": {}}, [("", loaded)]
    for path, value in todo:  # grows meanwhile
        items = ()
        if isinstance(value, torch.Tensor) and not path.endswith("n_averaged."):  # AveragedModel's
            tensors[path[:-1]] = value
        elif isinstance(value, dict):
            items = dict.items(value)
            with suppress(AttributeError, KeyError, TypeError, ValueError):
                metadata[path] = dict(value._metadata[""])
        elif isinstance(value, list | tuple):
            items = enumerate(value)
        if len(todo) < MAX_PARTS and len(path) < MAX_KEY_LENGTH:
            todo += [(WRAPPERS.sub("", f"{path}{key}.").replace(f"{NEWER_NAME}0", "weight_g")
                      .replace(f"{NEWER_NAME}1", "weight_v"), item) for key, item in items
                     if isinstance(item, torch.Tensor | dict | list | tuple)]
    return tensors, metadata


def _prefixes(keys: list[str]) -> list[str]:
    """Return what the keys of a network among others may begin with, what most begin with first."""
    counts = Counter(key[:end] for key in keys for end in (
        *(dot.end() for dot in reversed([*re.finditer(r"\.", key[:MAX_KEY_LENGTH])])), 0))
    least = min(MIN_TENSORS, len(keys))
    return [prefix for prefix, count in counts.most_common(MAX_PREFIXES) if count >= least]


def _misfit(network: nn.Module, state: dict[str, torch.Tensor]) -> str:
    """Return why weights do not fit a network; or "".  Add counters that old versions lack."""
    expected = network.state_dict()
    for key in expected.keys() - state.keys():
        if key.endswith(COUNTER):
            state[key] = expected[key]
    other = "holds the weights of another network"
    if alien := next((key for key in (*expected, *state)
                      if key not in expected or key not in state), None):
        return f"{other}: {'no' if alien in expected else 'also'} {alien[:100]}"
    for key, tensor in expected.items():
        if (value := state[key]).shape != tensor.shape:
            return f"{other}: {key} has the shape {(*value.shape,)}, not {(*tensor.shape,)}"
        if value.is_floating_point() != tensor.is_floating_point() and not key.endswith(COUNTER):
            return f"holds numbers of the type {value.dtype} in {key}"
        if not torch.isfinite(value.to(tensor.dtype)).all():
            return f"holds numbers that are not finite in {key}"
    return ""


def half_state(network: nn.Module, **metadata: str) -> dict[str, torch.Tensor]:
    """Return the network's state dict on the CPU, floats in half precision: the shipped format.

    metadata: values for the names in METADATA, which PyTorch saves with the state dict.
    """
    state = network.state_dict()
    for key, value in list(state.items()):
        state[key] = (value.half() if value.is_floating_point() else value).cpu().contiguous()
    state._metadata[""] |= metadata
    return state
