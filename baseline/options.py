"""The options of a training or an evaluation: what a script's command line says, frozen.

The names are those of the flags, and of the options in a run's ``run.json``.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of ``train.py``.

    What the method does not have is None; beside ``resume`` so is all that was not typed.
    """

    warmup: int | None
    discount: float | None
    batch_size: int
    rmsize: int | None
    env_batch: int
    tau: float | None
    max_step: int
    noise_factor: float | None
    validate_interval: int
    validate_episodes: int
    train_times: int | None
    episode_train_times: int | None
    resume: str | None
    output: Path
    debug: bool
    seed: int
    method: str
    reward: str | None
    actor_rate: float | None
    critic_rate: float | None
    bundle: int
    data: Path
    renderer: Path
    init: Path | None
    minutes: float | None
    fast: bool
    device: str
    precision: str


@dataclass(frozen=True, kw_only=True)
class RendererOptions:
    """Options of ``train_renderer.py``; beside ``resume`` what was not typed is None."""

    steps: int | None
    minutes: float | None
    batch_size: int
    lr: float
    schedule: str
    stroke: str
    scratch: bool
    seed: int
    output: Path
    log: Path
    resume: str | None
    validate_interval: int
    fast: bool
    device: str
    precision: str


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of ``evaluate.py``."""

    data: Path
    split: str
    limit: int | None
    actor: Path
    renderer: Path
    max_step: int
    batch_size: int
    json: Path | None
    device: str
    precision: str
