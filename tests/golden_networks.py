"""The golden networks: weights made from seeds, for which the outputs are known."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

GOLDEN = Path(__file__).parent / "golden"
ARRAYS = np.load(GOLDEN / "golden.npz")
UPDATE = json.loads((GOLDEN / "golden_update.json").read_text())


def key_list(name: str) -> dict[str, list[int]]:
    """The published keys and shapes of a network, in order."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def golden_value(key: str, v: np.ndarray, gain: float) -> np.ndarray:
    """The entry of a golden state dict that is made from the normal numbers v."""
    if key.endswith("num_batches_tracked"):
        return np.array(1)
    if key.endswith("running_var"):
        return 1 + 0.5 * np.tanh(v)
    if key.endswith("running_mean"):
        return 0.1 * v
    if key.endswith("weight_g"):
        return gain * (1 + 0.1 * v)
    if key.endswith("alpha"):
        return 0.05 * v
    if v.ndim == 1:
        return 1 + 0.2 * v if key.endswith("weight") else 0.1 * v
    fan_in = v.size // v.shape[0]
    return v * np.sqrt(2 / fan_in) * (0.1 if key == "fc.weight" else 1)


@cache
def golden_state(
    shapes: tuple[tuple[str, torch.Size], ...], seed: int, gain: float
) -> dict[str, torch.Tensor]:
    """Return the golden weights of a seed, float32, by key and shape."""
    state = {}
    for k, (key, shape) in enumerate(shapes):
        v = np.random.default_rng(1000 * seed + k).standard_normal(shape)
        state[key] = torch.tensor(golden_value(key, v, gain)).float()
    return state


def fill(network: nn.Module, name: str, seed: int, gain: float = 1.0) -> nn.Module:
    """Give a network the golden weights of a seed, in eval mode; a narrow one has fewer."""
    shapes = tuple((key, value.shape) for key, value in network.state_dict().items())
    assert [key for key, _ in shapes] == list(key_list(name))
    network.load_state_dict(golden_state(shapes, seed, gain))
    return network.eval()


def image(n: int, channels: int, seed: int) -> torch.Tensor:
    """Random pictures (n, channels, 128, 128) in [0, 1]."""
    numbers = np.random.default_rng(seed).random((n, channels, 128, 128))
    return torch.from_numpy(numbers.astype(np.float32))


def u8(x: torch.Tensor) -> torch.Tensor:
    """To uint8 by truncation."""
    return (x * 255).to(torch.uint8)


def assert_golden(actual: torch.Tensor | float, expected: np.ndarray | float) -> None:
    """Agreement to a relative 1e-4 of the largest value."""
    expected = np.asarray(expected)
    actual = np.asarray(torch.as_tensor(actual).detach().cpu())
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()
