"""The schedules of rollouts and updates, on a policy that learns nothing."""

import numpy as np
import pytest
import torch

from rollouts import PictureSampler, ReplayRollouts, Schedule
from running.device import Precision
from running.ranks import Ranks
from train import parse_args


class Pictures:
    """Two gray pictures."""

    def sample(self, count: int, rng: np.random.Generator) -> torch.Tensor:
        return torch.from_numpy(rng.integers(2, size=count))

    def targets(self, code: torch.Tensor) -> torch.Tensor:
        return (100 * (1 + code)).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 128, 128)


class Policy:
    """A method that brightens canvases by a gray level a step and learns nothing."""

    precision, ranks = Precision("fp32", torch.device("cpu")), Ranks()

    def __init__(self) -> None:
        self.explored, self.batches = [], []

    def rollout_action(self, canvas, target, progress, episode) -> torch.Tensor:
        self.explored.append((progress.tolist(), episode))
        return torch.zeros(len(canvas), 65)

    def advance(self, canvas, action) -> torch.Tensor:
        return canvas + 1

    def update(self, batch, progress) -> dict[str, torch.Tensor]:
        self.batches.append(batch)
        return {"progress": torch.tensor(progress)}


def schedule_of(kind: type[Schedule], policy: Policy, *flags: str) -> Schedule:
    options = parse_args([*flags, "--seed", "7"])
    return kind(Pictures(), policy, np.random.default_rng(0), options)


def test_updates_follow_each_episode_after_the_warm_up():
    policy = Policy()
    schedule = schedule_of(
        ReplayRollouts, policy, "--max_step", "2", "--env_batch", "3", "--batch_size", "4",
        "--rmsize", "6", "--warmup", "3", "--episode_train_times", "2")
    step = episode = 0
    ticks, rounds = [], []
    for number in range(6):
        tick = schedule.tick(step, episode, number / 10)
        step, episode = step + tick.steps, episode + (tick.episode is not None)
        ticks.append("update" if tick.metrics else "episode" if tick.episode else "step")
        rounds.append(schedule.between_rounds)
    assert ticks == ["step", "episode", "step", "episode", "update", "update"]
    assert rounds == [False, True, False, False, False, True]
    assert (step, episode) == (4, 2)
    assert tick.metrics["progress"].item() == pytest.approx(0.5)
    assert policy.explored == [(3 * [p], (7, 0, e)) for e in (0, 1) for p in (0, 0.5)]
    for batch in policy.batches:
        assert (batch.next_canvas == batch.canvas + 1).all()
        assert (batch.canvas[:, 0, 0, 0] == batch.step).all()
        assert set(batch.target.unique().tolist()) <= {100, 200}


def test_lost_memory_is_filled_for_the_warm_up():
    schedule = schedule_of(
        ReplayRollouts, Policy(), "--max_step", "2", "--env_batch", "1", "--batch_size", "1",
        "--rmsize", "6", "--warmup", "2", "--episode_train_times", "1")
    for step in range(2):
        schedule.tick(step, 0, 0)
    assert schedule.updates_due == 1
    schedule.reset(10)
    assert len(schedule.memory) == schedule.updates_due == 0
    assert schedule.learn_from == 12


def test_picture_sampler_updates_in_every_tick():
    policy = Policy()
    schedule = schedule_of(PictureSampler, policy, "--method", "grid", "--batch_size", "80")
    ticks = [schedule.tick(step, 0, 0.0) for step in range(40)]
    assert all(tick.metrics and tick.steps == 1 for tick in ticks)
    assert [tick.episode is not None for tick in ticks] == [False] * 39 + [True]
    assert all(batch.shape == (2, 3, 128, 128) for batch in policy.batches)
