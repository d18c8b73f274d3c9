"""Networks that learn, each by a loss of its own; which losses is a method's affair."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from constants import BUNDLE, WIDTH
from DRL.actor import Actor
from DRL.layers import shrunk
from DRL.rollout import Painter
from DRL.rpm import Transitions
from Renderer.canvas import as_float, as_uint8, composite
from Renderer.model import TrainedRender
from running.device import Precision
from running.graph import Graphed
from running.optim import adam, load_optimizer, set_rate
from running.ranks import Ranks, share_batch_norm

AVERAGED = 0.01  # of all updates: about as many of the last ones are in the average
Metrics = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What every method is told.

    sizes: (pixels, share) pairs; up to that share of the training, actor and critic see pictures
    of so many pixels a side.  norm_until: the share after which the actor's batch normalisation
    keeps the statistics it has.  fast: compile, and on a GPU replay updates as graphs.
    """

    render: TrainedRender
    precision: Precision
    ranks: Ranks = field(default_factory=Ranks)
    max_step: int = 40
    bundle: int = BUNDLE
    sizes: tuple[tuple[int, float], ...] = ((WIDTH, 1.0),)
    norm_until: float = 1.0
    fast: bool = False


class Phase(NamedTuple):
    """What changes in the course of a training beside its rates."""

    size: int  # of the pictures that actor and critic see, in pixels a side
    norm: bool  # whether the actor's batch normalisation uses the batch's statistics


class Seen(NamedTuple):
    """Pictures in [0, 1], whole and as actor and critic see them."""

    whole: torch.Tensor  # (B, 3, 128, 128)
    small: torch.Tensor  # (B, 3, size, size)


@contextmanager
def learning(network: nn.Module) -> Iterator[None]:
    """Networks are frozen except in here, so that no gradient is gathered that nobody reads."""
    network.requires_grad_(True)
    try:
        yield
    finally:
        network.requires_grad_(False)


@torch.no_grad()
def follow(slow: nn.Module, network: nn.Module, tau: float, buffers: float = 1.0) -> None:
    """Move a copy towards its network; its buffers by another share, or copied."""
    torch._foreach_lerp_(list(slow.parameters()), list(network.parameters()), tau)
    for mine, its in zip(slow.buffers(), network.buffers(), strict=True):
        if buffers < 1 and mine.is_floating_point():
            mine.lerp_(its, buffers)
        else:
            mine.copy_(its)


def named(name: str, metrics: Metrics) -> Metrics:
    """Metrics under the name of their network."""
    return {f"{name}/{key}": value.detach() for key, value in metrics.items()}


class Learner:
    """An actor and what learns beside it; a method adds the losses.

    networks, slow, optimizers: by name; ``average`` is a running average of the actor.  All
    networks are frozen except during their own step.  ``paints`` says whether an update paints
    the states it is given, so that it needs no actions.
    """

    paints = False

    def __init__(
        self, setup: Setup, others: dict[str, nn.Module], tau: float | None = None,
        betas: dict[str, tuple[float, float]] | None = None, readout: str = "mean",
    ) -> None:
        """others: the networks beside the actor; tau: how fast slow copies follow, or None.

        betas: those of Adam where they are not the usual ones; readout: the actor's.
        """
        self.setup, self.tau = setup, tau
        self.render, self.precision, self.ranks = setup.render, setup.precision, setup.ranks
        self.max_step, self.bundle = setup.max_step, setup.bundle
        # Exchanges between processes stay out of graphs.
        self.graphed = (setup.fast and self.precision.device.type == "cuda"
                        and self.ranks.world == 1)

        def prepared(network: nn.Module) -> nn.Module:
            network.requires_grad_(False)
            return network.to(self.precision.device, memory_format=torch.channels_last)

        self.actor = prepared(Actor(setup.bundle, readout)).eval()
        self.networks = {"actor": self.actor} | {n: prepared(net) for n, net in others.items()}
        self.slow = {} if tau is None else copy.deepcopy(self.networks)
        self.average = copy.deepcopy(self.actor)
        self.optimizers = {
            name: adam(network, self.graphed, (betas or {}).get(name, (0.9, 0.999)))
            for name, network in self.networks.items()
        }
        if self.ranks.world > 1:
            share_batch_norm(self.actor)
            if self.slow:
                share_batch_norm(self.slow["actor"])
        # How losses call the networks and paint.
        self.calls, self.slow_calls = dict(self.networks), dict(self.slow)
        if setup.fast:  # but for the discriminator, whose last layer PyTorch 2.11 fails to compile
            for calls in (self.calls, self.slow_calls):
                for name in {"actor", "critic"} & calls.keys():
                    calls[name] = torch.compile(calls[name], dynamic=False)
            self.composite = torch.compile(self.composite, dynamic=False)
        if self.graphed:
            torch.backends.cudnn.benchmark = True  # shapes stay
        self.updates = 0
        self.enter(0.0)

    def composite(self, canvas: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Canvases (B, 3, 128, 128) in [0, 1] after a bundle (B, 13 N) on each."""
        return composite(self.render, canvas, action)

    def rates(self, progress: float) -> dict[str, float]:
        """The learning rate of each network at ``progress`` in [0, 1]."""
        raise NotImplementedError

    def learn(
        self, batch: Transitions | None, target: torch.Tensor
    ) -> tuple[Metrics, torch.Tensor]:
        """One step of each network.

        batch: None where the method paints all its states; target: (B, 3, 128, 128) uint8.
        Returns means over the batch, still on the device, and the next canvases (B, 3, 128, 128)
        uint8.
        """
        raise NotImplementedError

    def look(self, picture: torch.Tensor) -> Seen:
        """Pictures (B, 3, 128, 128) in [0, 1], at the size of now too."""
        return Seen(picture, shrunk(picture, self.phase.size))

    def enter(self, progress: float) -> None:
        """Take up what holds at this point of the training."""
        self.progress = progress
        size = next((s for s, end in self.setup.sizes if progress < end), self.setup.sizes[-1][0])
        phase = Phase(size, progress < self.setup.norm_until)
        if phase == getattr(self, "phase", None):
            return
        self.phase = phase
        if self.slow:  # statistics of the actor of now do not go with weights of 1,000 updates ago
            self.slow["actor"].train(phase.norm)
        self.replays: dict[tuple, Graphed] = {}  # what was captured holds no longer

    def replay(self, function: Callable, *which: object) -> Graphed:
        """``function`` of tensors, as a graph on a GPU; another one for each ``which``."""
        if which not in self.replays:
            self.replays[which] = Graphed(function, self.graphed)
        return self.replays[which]

    def update(
        self, batch: Transitions | None, target: torch.Tensor, progress: float
    ) -> tuple[Metrics, torch.Tensor]:
        """One update: a step of each network, then of their slow copies and of the average.

        target: (B, 3, 128, 128) uint8; progress: of the training, in [0, 1].  Returns what
        ``learn`` does.
        """
        self.enter(progress)
        for name, rate in self.rates(progress).items():
            set_rate(self.optimizers[name], rate)
        metrics, painted = self.learn(batch, target)
        self.updates += 1
        share = max(9 / (10 + self.updates), progress / self.updates / AVERAGED)
        follow(self.average, self.actor, min(share, 1), min(share, 1))
        return metrics, painted

    @contextmanager
    def step(self, name: str) -> Iterator[list[nn.Parameter]]:
        """One step of a network by the gradients to its parameters that are gathered in here."""
        network, optimizer = self.networks[name], self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        with learning(network):
            yield list(network.parameters())
        self.ranks.mean_gradients(network)
        optimizer.step()

    def descend(
        self, name: str, loss_of: Callable[..., tuple[torch.Tensor, Metrics]], *inputs: Any
    ) -> Metrics:
        """One step of a network down a loss.  Returns it and the metrics that come with it."""
        with self.step(name) as weights:
            with self.precision.autocast():
                loss, metrics = loss_of(*inputs)
            loss.backward(inputs=weights)
        return named(name, {"loss": loss} | metrics)

    def follow_all(self) -> None:
        """Move the slow copies."""
        for name, slow in self.slow.items():
            follow(slow, self.networks[name], self.tau)

    def explore(
        self, canvas: torch.Tensor, target: torch.Tensor, progress: torch.Tensor,
        episode: tuple[int, ...],
    ) -> torch.Tensor:
        """The bundles (B, 13 N) that states are made with.

        canvas, target: (B, 3, 128, 128) in [0, 1]; progress: (B,); episode: numbers that only
        one has.  Like the next, what is returned is overwritten by the next call on a GPU.
        """
        return self.replay(self._explore, "explore")(canvas, target, progress)

    def advance(self, canvas: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """The canvases (B, 3, 128, 128) uint8 that bundles (B, 13 N) on such lead to."""
        return self.replay(self._advance, "advance")(canvas, action)

    def _explore(
        self, canvas: torch.Tensor, target: torch.Tensor, progress: torch.Tensor
    ) -> torch.Tensor:
        painter = Painter(self.calls["actor"], self.render, self.precision)
        return painter.act(canvas, target, progress)

    @torch.no_grad()
    def _advance(self, canvas: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return as_uint8(self.composite(as_float(canvas), action))

    def finished(self, averaged: bool = False) -> Actor:
        """The actor of now, or its average, as one that paints."""
        return self.average if averaged else self.actor

    def painter(self, averaged: bool = False) -> Painter:
        """The same with what it needs."""
        return Painter(self.finished(averaged), self.render, self.precision)

    def go_on_from(self, actor: Actor) -> None:
        """Start from another's weights.  Raises ValueError where the method cannot."""
        self.actor.load_state_dict(actor.state_dict())
        self.average.load_state_dict(actor.state_dict())

    def state_dict(self) -> dict:
        """Networks, slow copies, the average, optimisers and the number of updates."""
        return {
            "networks": {name: n.state_dict() for name, n in self.networks.items()},
            "slow": {name: n.state_dict() for name, n in self.slow.items()},
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "average": self.average.state_dict(), "updates": self.updates,
            "progress": self.progress,
        }

    def load_state_dict(self, state: dict) -> None:
        """Take up what ``state_dict`` gave, before the first update."""
        for kind, mine in (("networks", self.networks), ("slow", self.slow)):
            for name, network in mine.items():
                network.load_state_dict(state[kind][name])
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, state["optimizers"][name])
        self.average.load_state_dict(state["average"])
        self.updates = state["updates"]
        self.enter(state["progress"])
