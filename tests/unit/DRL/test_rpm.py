"""The replay memory: transitions, wrap-around, uniform sampling, size."""

import numpy as np
import pytest
import torch

from DRL.rpm import ReplayMemory, Transitions
from helpers import assert_same

ENV_BATCH, MAX_STEP = 2, 3


def canvas_of(moment: int) -> torch.Tensor:
    """Return canvases whose pixels tell the moment and the painting."""
    paintings = torch.arange(ENV_BATCH, dtype=torch.uint8).view(-1, 1, 1, 1)
    return (2 * (moment % 120) + paintings).expand(-1, 3, 128, 128)


def fill(memory: ReplayMemory, episodes: int, steps_of_last: int = MAX_STEP) -> None:
    moment = 0
    for episode in range(episodes):
        memory.begin(canvas_of(moment), torch.arange(ENV_BATCH) + 10 * episode)
        for _ in range(MAX_STEP if episode < episodes - 1 else steps_of_last):
            moment += 1
            memory.append(torch.full((ENV_BATCH, 65), moment / 100), canvas_of(moment))
        moment += 1


def sample(memory: ReplayMemory, count: int, seed: int) -> Transitions:
    """Draw transitions whose targets are the codes themselves."""
    return memory.sample(count, np.random.default_rng(seed), lambda code: code)


def check(memory: ReplayMemory, newest_episode: int) -> None:
    batch = sample(memory, 500, 0)
    pixel, next_pixel = (x[:, 0, 0, 0].int() for x in (batch.canvas, batch.next_canvas))
    assert (next_pixel - pixel == 2).all()  # the same painting, a moment later
    moment = pixel // 2
    assert torch.equal(moment % (MAX_STEP + 1), batch.step)
    assert batch.step.max() == MAX_STEP - 1
    assert torch.allclose(batch.action[:, 0], (moment + 1) / 100)
    assert torch.equal(batch.target, 10 * (moment // (MAX_STEP + 1)) + pixel % 2)
    assert batch.target.max() // 10 == newest_episode


@pytest.mark.parametrize(("episodes", "steps_of_last"), [
    (2, MAX_STEP), (7, 0), (7, 1), (7, 2), (7, 3)])
def test_memory_keeps_exactly_the_newest_transitions(episodes, steps_of_last):
    memory = ReplayMemory(12, ENV_BATCH, MAX_STEP)
    fill(memory, episodes, steps_of_last)
    assert len(memory) == 12
    ended = (episodes - 1) * MAX_STEP + steps_of_last
    numbers = [4 * (k // MAX_STEP) + k % MAX_STEP for k in range(ended - 6, ended)]
    assert memory.canvas[memory.transition_slots(), 0, 0, 0, 0].tolist() == [2 * m for m in numbers]
    check(memory, episodes - 1 if steps_of_last else episodes - 2)


def test_sampling_is_uniform():
    memory = ReplayMemory(12, ENV_BATCH, MAX_STEP)
    fill(memory, 4)
    batch = sample(memory, 12_000, 1)
    _, counts = batch.canvas[:, 0, 0, 0].unique(return_counts=True)
    assert len(counts) == 12
    # Chi squared with 11 degrees of freedom exceeds 31.3 once in a thousand.
    assert ((counts - 1000.0) ** 2 / 1000).sum() < 31.3


def test_state_dict_restores_the_memory():
    memory, restored = (ReplayMemory(12, ENV_BATCH, MAX_STEP) for _ in range(2))
    fill(memory, 5, 2)
    restored.load_state_dict(memory.state_dict())
    assert_same(tuple(sample(restored, 50, 2)), tuple(sample(memory, 50, 2)))


def test_transition_takes_at_most_52_kilobytes():
    memory = ReplayMemory(80 * 40, 8, 40)
    assert memory.nbytes / (80 * 40) <= 52_000
