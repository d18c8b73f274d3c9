"""Model-based DDPG, the paper's method: losses and update step."""

from functools import partial

import torch
import torch.nn.functional as F

from DRL.critic import Critic
from DRL.learner import Learner, Metrics, Setup, soft_update
from DRL.rollout import Policy
from DRL.rpm import Transitions
from DRL.wgan import Discriminator, gradient_penalty
from Renderer.canvas import as_float, as_uint8, composite
from running.graph import Graphed
from running.optim import adam, cosine, stepped

DISCOUNT = 0.95  # per stroke
# The reference's learning rates in the first fifth of a training run, the second, and the rest.
LEARNING_RATES = {
    "actor": (1e-3, 3e-4, 1e-4), "critic": (3e-4, 1e-4, 3e-5), "wgan": (3e-4, 3e-4, 3e-4)
}


class DDPG(Learner):
    """The paper's agent.  An action is a bundle of N strokes."""

    def __init__(
        self, setup: Setup, critic: Critic | None = None, *, discount: float | None = None,
        tau: float = 0.001, reward: str = "wgan", noise_factor: float = 0.0,
        actor_rate: float | None = None, critic_rate: float | None = None,
    ) -> None:
        """Build the networks.

        critic: used in place of the default one.  discount: per action (0.95**N).  reward: "wgan"
        or "l2", see ``reward``.  noise_factor: standard deviation, see ``rollout_action``.
        actor_rate, critic_rate: peak rates of a cosine decay, in place of the reference's steps.
        """
        self.discount = DISCOUNT**setup.bundle if discount is None else discount
        self.reward_kind, self.noise = reward, noise_factor
        self.peak_rates = {"actor": actor_rate, "critic": critic_rate}
        networks = {"critic": critic or Critic()}
        if reward == "wgan":
            networks["wgan"] = Discriminator()
        super().__init__(setup, networks, tau)
        if reward == "wgan":
            self.optimizers["wgan"] = adam(networks["wgan"], self.graphed, betas=(0.5, 0.999))
        # Use batch statistics: the copied running statistics belong to the actor's weights.
        self.target_networks["actor"].train()
        compiled = partial(torch.compile, dynamic=False) if setup.fast else lambda module: module
        self.actor, self.critic = (compiled(self.networks[n]) for n in ("actor", "critic"))
        self.target_actor, self.target_critic = (
            compiled(self.target_networks[n]) for n in ("actor", "critic"))
        self.paint_action = compiled(self.paint_action)
        # PyTorch 2.11 fails to compile the discriminator's last layer.
        self.discriminator = self.networks.get("wgan")
        self.target_discriminator = self.target_networks.get("wgan")
        if self.graphed:
            torch.backends.cudnn.benchmark = True  # the shapes stay the same
        # Functions of tensors.  As CUDA graphs, each overwrites what it returned before.
        self.act = Graphed(Policy(self.actor, self.render, self.precision).act, self.graphed)
        self.advance = Graphed(self._advance, self.graphed)
        self.step_all = Graphed(self._step_all, self.graphed)

    def rates(self, progress: float) -> dict[str, float]:
        """Return the reference's stepped rates, or a cosine decay where a peak was given."""
        return {
            name: cosine(progress, peak) if (peak := self.peak_rates.get(name)) else
            stepped(progress, LEARNING_RATES[name], (0.2, 0.4))
            for name in self.networks
        }

    def rollout_action(
        self, canvas: torch.Tensor, target: torch.Tensor, progress: torch.Tensor,
        episode: tuple[int, ...],
    ) -> torch.Tensor:
        """Return the policy's actions (B, 13 N) with Gaussian noise on them.

        canvas, target: (B, 3, 128, 128) in [0, 1]; progress: (B,); episode: numbers that
        identify the episode.
        """
        action = self.act(canvas, target, progress)
        if self.noise:
            action = (action + torch.randn_like(action) * self.noise).clamp(0, 1)
        return action

    def paint_action(self, canvas: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Return the canvases (B, 3, 128, 128) in [0, 1] after an action (B, 13 N) on each."""
        return composite(self.render, canvas, action)

    @torch.no_grad()
    def _advance(self, canvas: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Return the canvases (B, 3, 128, 128) uint8 after actions (B, 13 N) on such canvases."""
        return as_uint8(self.paint_action(as_float(canvas), action))

    def reward(
        self, canvas: torch.Tensor, next_canvas: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """Return the reward (B, 1) of the step from one canvas (B, 3, 128, 128) to the next.

        "wgan": D'(next_canvas) - D'(canvas), by the target discriminator; D'(canvas) is a
        constant.  "l2": the fraction of the canvas's squared error that the action removes.
        """
        if self.reward_kind == "wgan":
            with torch.no_grad():
                score = self.target_discriminator(torch.cat((target, canvas), 1))
            return self.target_discriminator(torch.cat((target, next_canvas), 1)) - score
        error = (canvas - target).square().mean((1, 2, 3))
        return (1 - (next_canvas - target).square().mean((1, 2, 3)) / (error + 1e-6))[:, None]

    @torch.no_grad()
    def td_target(
        self, next_canvas: torch.Tensor, target: torch.Tensor, step: torch.Tensor
    ) -> torch.Tensor:
        """Return the critic's bootstrapped target (B, 1): discount (1 - done) Q'(s', a').

        Q(s, a) = r + V(s, s'), and Q' alike; r is known, so V is regressed on this target.
        next_canvas, target: (B, 3, 128, 128) in [0, 1]; step: (B,), of the action that led to s'.
        """
        progress = (step + 1) / self.max_step  # (B,)
        action = self.target_actor(next_canvas, target, progress)
        after = self.paint_action(next_canvas, action)
        value = self.target_critic(next_canvas, after, target, progress + 1 / self.max_step)
        reward = self.reward(next_canvas, after, target)
        not_done = (step + 1 < self.max_step).float()[:, None]  # (B, 1)
        return self.discount * not_done * (value + reward)

    def value_loss(
        self, canvas: torch.Tensor, action: torch.Tensor, next_canvas: torch.Tensor,
        target: torch.Tensor, step: torch.Tensor,
    ) -> tuple[torch.Tensor, Metrics]:
        """Return mse(V(s, s'), td_target); V's s' is recomputed, unrounded, from the action."""
        td_target = self.td_target(next_canvas, target, step)
        with torch.no_grad():
            after = self.paint_action(canvas, action)
        value = self.critic(canvas, after, target, (step + 1) / self.max_step)
        return F.mse_loss(value, td_target), {"value": value.mean(), "td_target": td_target.mean()}

    def policy_loss(
        self, canvas: torch.Tensor, target: torch.Tensor, step: torch.Tensor
    ) -> tuple[torch.Tensor, Metrics]:
        """Return - mean(reward + V(s, s')) of the actor's actions; the renderer paints s'."""
        action = self.actor(canvas, target, step / self.max_step)
        after = self.paint_action(canvas, action)
        reward = self.reward(canvas, after, target).mean()
        value = self.critic(canvas, after, target, (step + 1) / self.max_step).mean()
        return -(reward + value), {"reward": reward}

    def wgan_loss(
        self, canvas: torch.Tensor, target: torch.Tensor, alpha: torch.Tensor
    ) -> tuple[torch.Tensor, Metrics]:
        """Return D(fake) - D(real) + penalty; real = (target, target), fake = (target, canvas).

        alpha: (B,) in [0, 1], see ``gradient_penalty``.
        """
        real, fake = torch.cat((target, target), 1), torch.cat((target, canvas), 1)
        real_score, fake_score = self.discriminator(torch.cat((real, fake))).chunk(2)
        penalty = gradient_penalty(self.discriminator, real, fake, alpha)
        real_mean, fake_mean = real_score.mean(), fake_score.mean()
        metrics = {"real": real_mean, "fake": fake_mean, "penalty": penalty}
        return fake_mean - real_mean + penalty, metrics

    def update(self, batch: Transitions, progress: float) -> Metrics:
        """Take a step of discriminator, critic and actor, then of target networks and EMA.

        progress: of the training run, in [0, 1].  Returns means over the batch, on the device.
        """
        self.set_rates(progress)
        alpha = torch.rand(len(batch.target), device=batch.target.device)
        metrics = self.step_all(alpha, *batch)
        self.update_ema(progress)
        return metrics

    def _step_all(
        self, alpha: torch.Tensor, canvas: torch.Tensor, action: torch.Tensor,
        next_canvas: torch.Tensor, target: torch.Tensor, step: torch.Tensor,
    ) -> Metrics:
        canvas, next_canvas, target = map(as_float, (canvas, next_canvas, target))
        metrics = {}
        if self.discriminator is not None:
            metrics |= self.minimize("wgan", self.wgan_loss, next_canvas, target, alpha)
        metrics |= self.minimize("critic", self.value_loss, canvas, action, next_canvas, target,
                                 step)
        self.actor.train()  # normalize by the statistics of the batch
        metrics |= self.minimize("actor", self.policy_loss, canvas, target, step)
        self.actor.eval()
        for name, target_network in self.target_networks.items():
            soft_update(target_network, self.networks[name], self.tau)
        return metrics
