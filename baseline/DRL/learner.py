"""The base class of all methods: an actor and other networks, target networks, optimizers, EMA."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from constants import BUNDLE
from DRL.actor import Actor
from DRL.rollout import Policy
from Renderer.model import TrainedRender
from running.device import Precision
from running.optim import adam, load_optimizer, set_rate
from running.ranks import Ranks

EMA_LENGTH = 0.01  # fraction of all updates that the EMA of the actor averages over
Metrics = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The settings of every method.

    bundle: strokes per action.  fast: compile the networks, and on a GPU replay updates as CUDA
    graphs.
    """

    render: TrainedRender
    precision: Precision
    ranks: Ranks = field(default_factory=Ranks)
    max_step: int = 40
    bundle: int = BUNDLE
    fast: bool = False


@contextmanager
def unfrozen(network: nn.Module) -> Iterator[None]:
    """Let a network's parameters require gradients; outside of this context all are frozen."""
    network.requires_grad_(True)
    yield
    network.requires_grad_(False)


@torch.no_grad()
def soft_update(
    target: nn.Module, network: nn.Module, tau: float, buffer_tau: float = 1.0
) -> None:
    """Move a target network towards its network: target <- (1 - tau) target + tau network.

    Polyak averaging (Lillicrap et al., 2016).  buffer_tau: for floating-point buffers; others are
    copied.
    """
    torch._foreach_lerp_(list(target.parameters()), list(network.parameters()), tau)
    for buffer, source in zip(target.buffers(), network.buffers(), strict=True):
        if buffer.is_floating_point():
            buffer.lerp_(source, buffer_tau)
        else:
            buffer.copy_(source)


class Learner:
    """An actor and the networks trained with it.

    networks, target_networks, optimizers: by name.  All networks are frozen except during their
    own step.  A subclass adds ``rates(progress)``, the learning rate of each network at a progress
    in [0, 1] of the training run, and ``update(batch, progress)``, which takes a step of each
    network and returns metrics on the device.
    """

    policy_type = Policy

    def __init__(
        self, setup: Setup, others: dict[str, nn.Module], tau: float | None = None,
        readout: str = "mean",
    ) -> None:
        """Build an actor, and target networks and optimizers for it and the other networks.

        tau: of the soft update; None: without target networks.  readout: of the actor.
        """
        self.tau = tau
        self.render, self.precision, self.ranks = setup.render, setup.precision, setup.ranks
        self.max_step, self.bundle = setup.max_step, setup.bundle
        device, distributed = self.precision.device, self.ranks.world > 1
        # The gradient all-reduce is not captured in a CUDA graph.
        self.graphed = setup.fast and device.type == "cuda" and not distributed
        self.networks = {"actor": Actor(setup.bundle, readout).eval()} | others
        for network in self.networks.values():
            network.requires_grad_(False).to(device, memory_format=torch.channels_last)
        if device.type == "cuda" and distributed:
            nn.SyncBatchNorm.convert_sync_batchnorm(self.networks["actor"])
        self.actor = self.networks["actor"]
        self.target_networks = {} if tau is None else copy.deepcopy(self.networks)
        self.ema_actor = copy.deepcopy(self.actor)
        self.optimizers = {n: adam(net, self.graphed) for n, net in self.networks.items()}
        self.updates = 0

    def set_rates(self, progress: float) -> None:
        """Set the learning rates of an update."""
        for name, rate in self.rates(progress).items():
            set_rate(self.optimizers[name], rate)

    def minimize(
        self, name: str, loss_of: Callable[..., tuple[torch.Tensor, Metrics]],
        *inputs: torch.Tensor,
    ) -> Metrics:
        """Backpropagate a loss and take the optimizer step of a network; return the metrics."""
        network, optimizer = self.networks[name], self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        with unfrozen(network):
            with self.precision.autocast():
                loss, metrics = loss_of(*inputs)
            loss.backward(inputs=list(network.parameters()))
        self.ranks.average_gradients(network)
        optimizer.step()
        metrics = {"loss": loss} | metrics
        return {f"{name}/{key}": value.detach() for key, value in metrics.items()}

    def update_ema(self, progress: float) -> None:
        """Count update n and move the actor's EMA, whose decay warms up as 1 - 9 / (10 + n)."""
        self.updates += 1
        tau = min(1, max(9 / (10 + self.updates), progress / self.updates / EMA_LENGTH))
        soft_update(self.ema_actor, self.networks["actor"], tau, tau)

    def policy(self, ema: bool = False) -> Policy:
        """Return the policy of the actor, or of its EMA."""
        actor = self.ema_actor if ema else self.networks["actor"]
        return self.policy_type(actor, self.render, self.precision)

    def load_actor(self, actor: Actor) -> None:
        """Load the weights of an actor with the same read-out; reset EMA and target networks."""
        self.networks["actor"].load_state_dict(actor.state_dict())
        self.ema_actor.load_state_dict(actor.state_dict())
        for name, network in self.target_networks.items():
            network.load_state_dict(self.networks[name].state_dict())

    def broadcast_networks(self) -> None:
        """Give every process the networks of the main one."""
        for network in (*self.networks.values(), *self.target_networks.values(), self.ema_actor):
            self.ranks.broadcast_network(network)

    def state_dict(self) -> dict:
        """Return networks, target networks, optimizers, the EMA and the number of updates."""
        return {
            "networks": {name: n.state_dict() for name, n in self.networks.items()},
            "slow": {name: n.state_dict() for name, n in self.target_networks.items()},
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "average": self.ema_actor.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        """Load a state of ``state_dict``, before the first update."""
        for kind, networks in (("networks", self.networks), ("slow", self.target_networks)):
            for name, network in networks.items():
                network.load_state_dict(state[kind][name])
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, state["optimizers"][name])
        self.ema_actor.load_state_dict(state["average"])
        self.updates = state["updates"]
