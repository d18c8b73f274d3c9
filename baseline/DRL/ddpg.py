"""Model-based DDPG: the networks and how they learn from sampled transitions.

Every loss is a method of tensors; ``update`` takes one optimiser step of each network.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from DRL.actor import Actor
from DRL.critic import Critic
from DRL.rpm import Transitions
from DRL.wgan import Discriminator, gradient_penalty
from Renderer.canvas import BUNDLE, Render, as_float, paint, split_action
from Renderer.stroke_gen import SHAPE_DIM
from utils.device import Precision
from utils.graph import Graphed
from utils.ranks import Ranks, share_batch_norm
from utils.schedule import adam, load_optimizer, set_rate

W0 = SHAPE_DIM - 2  # where the two opacities of a stroke begin


@contextmanager
def learning(network: nn.Module) -> Iterator[None]:
    """Networks are frozen except in here, so that no gradient is gathered that nobody reads."""
    network.requires_grad_(True)
    try:
        yield
    finally:
        network.requires_grad_(False)


@torch.no_grad()
def follow(slow: nn.Module, network: nn.Module, tau: float) -> None:
    """Move a slow copy towards its network; buffers are copied."""
    torch._foreach_lerp_(list(slow.parameters()), list(network.parameters()), tau)
    for mine, its in zip(slow.buffers(), network.buffers(), strict=True):
        mine.copy_(its)


class DDPG:
    """The agent.

    reward "wgan": the gain in the slow discriminator's score.  reward "l2": the share of the
    canvas's squared error that the bundle removes.  Without discount there is no critic, and
    without the WGAN reward no discriminator.
    """

    def __init__(
        self,
        render: Render,
        precision: Precision,
        max_step: int = 40,
        discount: float = 0.95**5,
        tau: float = 0.001,
        reward: str = "wgan",
        unroll: int = 1,
        opacity_pull: float = 0.0,
        ranks: Ranks | None = None,
        fast: bool = False,
        bundle: int = BUNDLE,
        noise: float = 0.0,
        shrink: int = 1,
        freeze_norm: bool = False,
    ) -> None:
        """bundle, shrink: see ``Actor``; noise: see ``explore``.

        freeze_norm: the actor's batch normalisation keeps the statistics it has.
        """
        self.render, self.precision, self.max_step = render, precision, max_step
        self.discount, self.tau, self.reward_kind = discount, tau, reward
        self.unroll, self.opacity_pull = unroll, opacity_pull
        self.ranks, self.bundle, self.noise = ranks or Ranks(), bundle, noise
        self.freeze_norm = freeze_norm
        # Exchanges between processes stay out of graphs.
        graphed = fast and precision.device.type == "cuda" and self.ranks.world == 1

        def place(network: nn.Module) -> nn.Module:
            network.requires_grad_(False)
            return network.to(precision.device, memory_format=torch.channels_last)

        self.actor = place(Actor(bundle, shrink)).eval()
        self.critic = place(self.new_critic()) if discount > 0 else None
        self.discriminator = place(Discriminator()) if reward == "wgan" else None
        self.networks = {
            name: network
            for name, network in (
                ("actor", self.actor), ("critic", self.critic), ("wgan", self.discriminator)
            )
            if network is not None
        }
        self.slow = {name: copy.deepcopy(network) for name, network in self.networks.items()}
        self.optimizers = {
            name: adam(network, graphed, (0.5, 0.999) if name == "wgan" else (0.9, 0.999))
            for name, network in self.networks.items()
        }
        if self.ranks.world > 1:
            share_batch_norm(self.actor)
        self.calls = dict(self.networks)  # how losses call the networks
        if fast:
            for name in {"actor", "critic"} & self.networks.keys():
                self.calls[name] = torch.compile(self.networks[name], dynamic=False)
        self.learn = Graphed(self._learn, graphed)

    def new_critic(self) -> nn.Module:
        """The critic before it has learnt anything."""
        return Critic()

    @torch.no_grad()
    def act(
        self, canvas: torch.Tensor, target: torch.Tensor, step: int, actor: Actor | None = None
    ) -> torch.Tensor:
        """The actor's bundle (B, 13 N) for canvas and target (B, 3, 128, 128) uint8."""
        progress = torch.full((len(canvas),), step / self.max_step, device=canvas.device)
        with self.precision.autocast():
            return (actor or self.actor)(as_float(canvas), as_float(target), progress)

    def explore(
        self, canvas: torch.Tensor, target: torch.Tensor, step: int, episode: tuple[int, ...]
    ) -> torch.Tensor:
        """``act`` with Gaussian noise on the bundle.  episode: numbers that only one has."""
        action = self.act(canvas, target, step)
        if self.noise:
            action = (action + torch.randn_like(action) * self.noise).clamp(0, 1)
        return action

    def reward(
        self, before: torch.Tensor, after: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """The reward (B, 1) of getting from one canvas (B, 3, 128, 128) to another."""
        if self.reward_kind == "l2":
            first = (before - target).square().mean((1, 2, 3))
            return (1 - (after - target).square().mean((1, 2, 3)) / (first + 1e-6))[:, None]
        pairs = torch.cat((torch.cat((target, after), 1), torch.cat((target, before), 1)))
        new, old = self.slow["wgan"](pairs).chunk(2)
        return new - old

    def value_loss(
        self, batch: Transitions, target: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """mse(V(s, a), discount (1 - done) (r' + V_slow(s', a'))).

        The reward of the step itself stands on both sides of Q = r + V and cancels.
        """
        canvas, now = as_float(batch.canvas), as_float(batch.next_canvas)
        progress = (batch.step + 1) / self.max_step  # (B,)
        with torch.no_grad():
            action = self.slow["actor"](now, target, progress)
            after = paint(self.render, now, action)
            value = self.slow["critic"](now, after, target, progress + 1 / self.max_step)
            alive = (batch.step + 1 < self.max_step).float()[:, None]  # (B, 1)
            goal = self.discount * alive * (value + self.reward(now, after, target))
            painted = paint(self.render, canvas, batch.action)
        value = self.calls["critic"](canvas, painted, target, progress)
        return F.mse_loss(value, goal), {"value": value.detach().mean(), "goal": goal.mean()}

    def policy_loss(
        self, batch: Transitions, target: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """- mean(reward + V) of the actor's own bundles, through renderer and compositing.

        With unroll > 1 the actor paints that many bundles in a row, as far as the episode
        goes, and the gradient flows back through all of them.
        """
        start = before = after = as_float(batch.canvas)
        step, pull = batch.step, 0.0
        for i in range(self.unroll):
            action = self.calls["actor"](after, target, step / self.max_step)
            painted = paint(self.render, after, action)
            if i == 0:
                before, after = after, painted
            else:
                alive = (step < self.max_step)[:, None, None, None]
                before = torch.where(alive, after, before)
                after = torch.where(alive, painted, after)
            step = (step + 1).clamp(max=self.max_step)
            if self.opacity_pull:
                pull = pull + 1 - split_action(action)[0][..., W0:].mean()
        reward = self.reward(start, after, target)  # (B, 1)
        value = reward
        if self.critic is not None:
            value = reward + self.calls["critic"](before, after, target, step / self.max_step)
        metrics = {"reward": reward.detach().mean(), "q": value.detach().mean()}
        return self.opacity_pull * pull / self.unroll - value.mean(), metrics

    def wgan_loss(
        self, batch: Transitions, target: torch.Tensor, alpha: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """D(fake) - D(real) + penalty; real = (target, target), fake = (target, painting)."""
        real = torch.cat((target, target), 1)
        fake = torch.cat((target, as_float(batch.next_canvas)), 1)
        real_score, fake_score = self.discriminator(torch.cat((real, fake))).chunk(2)
        with torch.autocast(self.precision.device.type, enabled=False):
            penalty = gradient_penalty(self.discriminator, real, fake, alpha)
        real_mean, fake_mean = real_score.mean(), fake_score.mean()
        return fake_mean - real_mean + penalty, {
            "real": real_mean.detach(), "fake": fake_mean.detach(), "penalty": penalty.detach(),
        }

    def update(
        self, batch: Transitions, target: torch.Tensor, rates: dict[str, float]
    ) -> dict[str, torch.Tensor]:
        """One step of discriminator, critic and actor, then of their slow copies.

        target: (B, 3, 128, 128) uint8; rates: learning rate of each network.  Returns means
        over the batch, still on the device.
        """
        for name, optimizer in self.optimizers.items():
            set_rate(optimizer, rates[name])
        alpha = torch.rand(len(target), device=target.device)
        return self.learn(*batch, target, alpha)

    def _learn(self, *tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        """The update as a function of a batch's tensors, targets and the penalty's alpha."""
        *batch, target, alpha = tensors
        batch, target = Transitions(*batch), as_float(target)
        metrics = {}
        if self.discriminator is not None:
            metrics |= self._step("wgan", self.wgan_loss, batch, target, alpha)
        if self.critic is not None:
            metrics |= self._step("critic", self.value_loss, batch, target)
        self.actor.train(not self.freeze_norm)
        metrics |= self._step("actor", self.policy_loss, batch, target)
        self.actor.eval()
        for name, network in self.networks.items():
            follow(self.slow[name], network, self.tau)
        return metrics

    def _step(self, name: str, loss_of, *inputs) -> dict[str, torch.Tensor]:
        network, optimizer = self.networks[name], self.optimizers[name]
        with learning(network):
            with self.precision.autocast():
                loss, metrics = loss_of(*inputs)
            optimizer.zero_grad(set_to_none=True)
            loss.backward(inputs=list(network.parameters()))
        self.ranks.mean_gradients(network)
        optimizer.step()
        return {f"{name}/loss": loss.detach()} | {f"{name}/{k}": v for k, v in metrics.items()}

    def state_dict(self) -> dict:
        """Networks, slow copies and optimisers."""
        return {
            "networks": {name: n.state_dict() for name, n in self.networks.items()},
            "slow": {name: n.state_dict() for name, n in self.slow.items()},
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
        }

    def load_state_dict(self, state: dict) -> None:
        """Take up what ``state_dict`` gave, before the first update."""
        for kind, mine in (("networks", self.networks), ("slow", self.slow)):
            for name, network in mine.items():
                network.load_state_dict(state[kind][name])
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, state["optimizers"][name])
