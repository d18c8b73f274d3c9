"""Weight files and other files that must never be half written."""

import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from utils.command import UserError


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill ``path`` so that it holds the old or the new content at any moment.

    Raises UserError where the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def save_atomically(value: Any, path: Path) -> None:
    """torch.save to ``path``, whole or not at all."""
    write_atomically(path, partial(torch.save, value))


def make_folder(folder: Path) -> None:
    """Make a folder where there is none, and try that files can be written in it.

    Raises UserError where they cannot.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror or error}") from error


def load_file(path: Path, what: str, otherwise: str) -> Any:
    """Load a file of tensors and plain values; no code in it is ever run.

    what: the file's name for the user.  otherwise: what the user can do without it.
    """
    if not path.is_file():
        raise UserError(f"{what} {path} does not exist; {otherwise}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {what} {path}: {error.strerror or error}") from error
    except Exception as error:
        raise UserError(f"{what} {path} is not a weight file; {otherwise}") from error


def load_weights(network: nn.Module, path: Path, what: str, otherwise: str) -> str:
    """Fill ``network`` from a state dict of any float precision whose keys fit exactly.

    Returns the family of strokes that the weights are for: bezier where they do not say.
    """
    state = load_file(path, what, otherwise)
    mine = network.state_dict()
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"{what} {path} holds no state dict; {otherwise}")
    if state.keys() != mine.keys() or any(state[k].shape != mine[k].shape for k in mine):
        raise UserError(f"{what} {path} holds the weights of another network; {otherwise}")
    if not all(torch.isfinite(v).all() for v in state.values()):
        raise UserError(f"{what} {path} holds numbers that are not finite; {otherwise}")
    network.load_state_dict(dict(state))
    metadata = getattr(state, "_metadata", None)
    own = metadata.get("") if isinstance(metadata, dict) else None
    return str(own.get("family", "bezier")) if isinstance(own, dict) else "bezier"


def half_state(network: nn.Module, family: str = "bezier") -> OrderedDict[str, torch.Tensor]:
    """The network's state dict on the CPU, floats in half precision: the shipped format.

    Its metadata, which PyTorch saves with every state dict beside the keys, say which family of
    strokes the weights are for.
    """
    state = network.state_dict()
    half = OrderedDict(
        (key, (value.half() if value.is_floating_point() else value).cpu().contiguous())
        for key, value in state.items()
    )
    half._metadata = state._metadata
    half._metadata[""]["family"] = family
    return half
