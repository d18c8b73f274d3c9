"""What all methods share: networks, target networks, optimizers, and the EMA of the actor."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from constants import BUNDLE
from DRL.actor import Actor
from DRL.rollout import Painter
from Renderer.canvas import composite
from Renderer.model import TrainedRender
from running.device import Precision
from running.optim import adam, load_optimizer, set_rate
from running.ranks import Ranks

EMA_LENGTH = 0.01  # fraction of all updates that the EMA of the actor averages over
Metrics = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The settings of every method.

    fast: compile the networks, and on a GPU replay updates as CUDA graphs.
    """

    render: TrainedRender
    precision: Precision
    ranks: Ranks = field(default_factory=Ranks)
    max_step: int = 40
    bundle: int = BUNDLE
    fast: bool = False


@contextmanager
def learning(network: nn.Module) -> Iterator[None]:
    """Let a network's parameters require gradients; outside of this context all are frozen."""
    network.requires_grad_(True)
    try:
        yield
    finally:
        network.requires_grad_(False)


@torch.no_grad()
def soft_update(
    target: nn.Module, network: nn.Module, tau: float, buffer_tau: float = 1.0
) -> None:
    """Move a target network towards its network by Polyak averaging.

    buffer_tau: for floating-point buffers; others are copied.
    """
    torch._foreach_lerp_(list(target.parameters()), list(network.parameters()), tau)
    for buffer, source in zip(target.buffers(), network.buffers(), strict=True):
        if buffer_tau < 1 and buffer.is_floating_point():
            buffer.lerp_(source, buffer_tau)
        else:
            buffer.copy_(source)


class Learner:
    """An actor and the networks trained with it; a method adds the equations and the rates.

    networks, target_networks, optimizers: by name.  ema_actor: the EMA of the actor.  All
    networks are frozen except during their own step.
    """

    def __init__(
        self, setup: Setup, others: dict[str, nn.Module], tau: float | None = None,
        betas: dict[str, tuple[float, float]] | None = None, readout: str = "mean",
    ) -> None:
        """Build what is trained.

        others: the networks beside the actor.  tau: of the soft update of the target networks;
        None: there are none.  betas: Adam's, where they are not the usual ones.  readout: the
        actor's.
        """
        self.tau = tau
        self.render, self.precision, self.ranks = setup.render, setup.precision, setup.ranks
        self.max_step, self.bundle = setup.max_step, setup.bundle
        gpu, several = self.precision.device.type == "cuda", self.ranks.world > 1
        self.graphed = setup.fast and gpu and not several  # no exchange between processes in graphs

        def prepared(network: nn.Module) -> nn.Module:
            network.requires_grad_(False)
            return network.to(self.precision.device, memory_format=torch.channels_last)

        self.actor = prepared(Actor(setup.bundle, readout)).eval()
        if gpu and several:
            self.actor = nn.SyncBatchNorm.convert_sync_batchnorm(self.actor)
        self.networks = {"actor": self.actor} | {n: prepared(net) for n, net in others.items()}
        self.target_networks = {} if tau is None else copy.deepcopy(self.networks)
        if self.target_networks:  # the actor's running statistics do not fit the target's weights
            self.target_networks["actor"].train()
        self.ema_actor = copy.deepcopy(self.actor)
        self.optimizers = {
            name: adam(network, self.graphed, (betas or {}).get(name, (0.9, 0.999)))
            for name, network in self.networks.items()
        }
        # How losses call the networks and paint.
        self.calls, self.target_calls = dict(self.networks), dict(self.target_networks)
        if setup.fast:  # but for the discriminator, whose last layer PyTorch 2.11 fails to compile
            for calls in (self.calls, self.target_calls):
                for name in {"actor", "critic"} & calls.keys():
                    calls[name] = torch.compile(calls[name], dynamic=False)
            self.composite = torch.compile(self.composite, dynamic=False)
        if self.graphed:
            torch.backends.cudnn.benchmark = True  # shapes stay
        self.updates = 0

    def composite(self, canvas: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Return the canvases (B, 3, 128, 128) in [0, 1] after an action (B, 13 N) on each."""
        return composite(self.render, canvas, action)

    def rates(self, progress: float) -> dict[str, float]:
        """Return the learning rate of each network at ``progress`` in [0, 1]."""
        raise NotImplementedError

    def update(self, batch: Any, progress: float) -> Metrics:
        """Take a step of each network, then of its target network and of the EMA.

        batch: what the method learns from; progress: of the training, in [0, 1].  Returns means
        over the batch, still on the device.
        """
        raise NotImplementedError

    def set_rates(self, progress: float) -> None:
        """Set the learning rates of an update."""
        for name, rate in self.rates(progress).items():
            set_rate(self.optimizers[name], rate)

    def update_ema(self, progress: float) -> None:
        """Count an update and move the EMA of the actor."""
        self.updates += 1
        tau = min(1, max(9 / (10 + self.updates), progress / self.updates / EMA_LENGTH))
        soft_update(self.ema_actor, self.actor, tau, tau)

    def minimize(
        self, name: str, loss_of: Callable[..., tuple[torch.Tensor, Metrics]],
        *inputs: torch.Tensor,
    ) -> Metrics:
        """Take an optimizer step of a network down a loss; return the loss and its metrics."""
        network, optimizer = self.networks[name], self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        with learning(network):
            with self.precision.autocast():
                loss, metrics = loss_of(*inputs)
            loss.backward(inputs=list(network.parameters()))
        self.ranks.average_gradients(network)
        optimizer.step()
        metrics = {"loss": loss} | metrics
        return {f"{name}/{key}": value.detach() for key, value in metrics.items()}

    def finished(self, averaged: bool = False) -> Actor:
        """Return the actor, or its EMA, as one that paints."""
        return self.ema_actor if averaged else self.actor

    def painter(self, averaged: bool = False) -> Painter:
        """Return a painter with that actor."""
        return Painter(self.finished(averaged), self.render, self.precision)

    def start_from(self, actor: Actor) -> None:
        """Load the weights of an actor with the same read-out; target networks follow."""
        self.actor.load_state_dict(actor.state_dict())
        self.ema_actor.load_state_dict(actor.state_dict())
        for name, network in self.target_networks.items():
            network.load_state_dict(self.networks[name].state_dict())

    def make_same(self) -> None:
        """Give every process the main one's networks."""
        for network in (*self.networks.values(), *self.target_networks.values(), self.ema_actor):
            self.ranks.broadcast_network(network)

    def state_dict(self) -> dict:
        """Return networks, target networks, optimizers, the EMA and the number of updates."""
        return {
            "networks": {name: n.state_dict() for name, n in self.networks.items()},
            "slow": {name: n.state_dict() for name, n in self.target_networks.items()},
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "average": self.ema_actor.state_dict(), "updates": self.updates,
        }

    def load_state_dict(self, state: dict) -> None:
        """Load what ``state_dict`` returned, before the first update."""
        for kind, networks in (("networks", self.networks), ("slow", self.target_networks)):
            for name, network in networks.items():
                network.load_state_dict(state[kind][name])
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, state["optimizers"][name])
        self.ema_actor.load_state_dict(state["average"])
        self.updates = state["updates"]
