"""Model-based DDPG, the paper's method: the equations of its losses."""

from functools import partial

import torch
import torch.nn.functional as F

from DRL.critic import Critic
from DRL.learner import Learner, Metrics, Seen, Setup, learning, named
from DRL.rpm import Transitions
from DRL.wgan import Discriminator, gradient_penalty
from Renderer.canvas import as_float, as_uint8
from running.optim import cosine, stepped

DISCOUNT = 0.95  # of a stroke
# The reference's rates for the first fifth of a training, the second, and the rest.
RATES = {
    "actor": (1e-3, 3e-4, 1e-4), "critic": (3e-4, 1e-4, 3e-5), "wgan": (3e-4, 3e-4, 3e-4)
}
SMALLEST = 1e-6  # of a value's difference from its goal, where gradients are divided by it


class DDPG(Learner):
    """The agent.

    reward "wgan": the gain in the slow discriminator's score.  reward "l2": the share of the
    canvas's squared error that the bundle removes.
    """

    paints = True

    def __init__(
        self, setup: Setup, *, discount: float | None = None, tau: float = 0.001,
        reward: str = "wgan", noise_factor: float = 0.0, penalty_every: int = 1,
        joint: bool = False, actor_rate: float | None = None, critic_rate: float | None = None,
    ) -> None:
        """discount: of a bundle (0.95 a stroke); noise_factor: standard deviation, see ``explore``.

        penalty_every: updates from one gradient penalty to the next, which weighs as much more
        (lazy regularisation, Karras et al. 2020).  joint: one pass of the critic, and of the slow
        discriminator, for both losses; the actor then learns from the critic of before its step,
        and the critic of the actor's own bundles alone.
        actor_rate, critic_rate: highest rates of a cosine, in place of the reference's steps.
        """
        self.discount = DISCOUNT**setup.bundle if discount is None else discount
        self.reward_kind, self.noise = reward, noise_factor
        self.penalty_every, self.joint = penalty_every, joint
        self.peaks = {"actor": actor_rate, "critic": critic_rate}
        others = {"critic": self.new_critic(setup)}
        if reward == "wgan":
            others["wgan"] = Discriminator()
        super().__init__(setup, others, tau, {"wgan": (0.5, 0.999)})
        self.critic, self.discriminator = self.networks["critic"], self.networks.get("wgan")

    def new_critic(self, setup: Setup) -> Critic:
        """The critic before it has learnt anything."""
        return Critic()

    def rates(self, progress: float) -> dict[str, float]:
        """The reference's, in three steps, or half a cosine where a peak was named."""
        return {
            name: cosine(progress, peak) if (peak := self.peaks.get(name)) else
            stepped(progress, RATES[name], (0.2, 0.4))
            for name in self.networks
        }

    def explore(
        self, canvas: torch.Tensor, target: torch.Tensor, progress: torch.Tensor,
        episode: tuple[int, ...],
    ) -> torch.Tensor:
        """The actor's bundles (B, 13 N) with Gaussian noise on them."""
        action = super().explore(canvas, target, progress, episode)
        if self.noise:
            action = (action + torch.randn_like(action) * self.noise).clamp(0, 1)
        return action

    def score(self, painted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """How much canvases (B, 3, 128, 128) are like their targets (B, 1), slowly learnt."""
        return self.slow_calls["wgan"](torch.cat((target, painted), 1))

    def reward(
        self, before: torch.Tensor, after: torch.Tensor, target: torch.Tensor,
        old: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The reward (B, 1) of getting from one canvas (B, 3, 128, 128) to another.

        old: the score of the one before, where it is known.  No gradient flows to it.
        """
        if self.reward_kind == "wgan":
            if old is None:
                with torch.no_grad():
                    old = self.score(before, target)
            return self.score(after, target) - old
        first = (before - target).square().mean((1, 2, 3))
        return (1 - (after - target).square().mean((1, 2, 3)) / (first + 1e-6))[:, None]

    @torch.no_grad()
    def goal(
        self, now: Seen, target: Seen, step: torch.Tensor, score: torch.Tensor | None = None
    ) -> torch.Tensor:
        """discount (1 - done) (r' + V_slow(s', a')) (B, 1), for the canvas ``now`` of s'.

        step: (B,), that of the bundle that led there; score: of ``now``.  The reward of that
        bundle itself stands on both sides of Q = r + V and cancels.
        """
        progress = (step + 1) / self.max_step  # (B,)
        action = self.slow_calls["actor"](now.small, target.small, progress)
        after = self.look(self.composite(now.whole, action))
        value = self.slow_calls["critic"](
            now.small, after.small, target.small, progress + 1 / self.max_step)
        reward = self.reward(now.whole, after.whole, target.whole, score)
        alive = (step + 1 < self.max_step).float()[:, None]  # (B, 1)
        return self.discount * alive * (value + reward)

    def value(
        self, before: Seen, after: torch.Tensor, target: Seen, step: torch.Tensor
    ) -> torch.Tensor:
        """V(s, a) (B, 1) of a bundle that led from one canvas to the other (B, 3, size, size)."""
        return self.calls["critic"](
            before.small, after, target.small, (step + 1) / self.max_step)

    def value_loss(
        self, before: Seen, after: Seen, now: Seen, target: Seen, step: torch.Tensor
    ) -> tuple[torch.Tensor, Metrics]:
        """mse(V(s, a), its goal); ``after`` is what the bundle painted, ``now`` that in 8 bits."""
        goal = self.goal(now, target, step)
        value = self.value(before, after.small, target, step)
        return F.mse_loss(value, goal), {"value": value.mean(), "goal": goal.mean()}

    def policy_loss(
        self, before: Seen, painted: Seen, target: Seen, step: torch.Tensor,
        score: torch.Tensor | None = None, slope: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, Metrics]:
        """- mean(reward + V) of the actor's own bundles, through renderer and compositing.

        score: of ``painted``, slope: d mean(V) / d painted.small, where they are known already.
        The score of the canvas before is then left out, as it has no gradient.
        """
        reward = score
        if score is None:
            reward = self.reward(before.whole, painted.whole, target.whole)
        if slope is None:
            value = self.value(before, painted.small, target, step).mean()
        else:
            value = (slope * painted.small).sum()  # has that gradient, not that value
        return -reward.mean() - value, {"reward" if score is None else "score": reward.mean()}

    def judge(
        self, before: Seen, painted: Seen, now: Seen, target: Seen, step: torch.Tensor,
        score: torch.Tensor | None,
    ) -> tuple[Metrics, torch.Tensor]:
        """One step of the critic by ``value_loss``, and the slope of its value on the way.

        score: of ``painted``, which stands for that of ``now``, its 8 bits.
        Samples do not meet in the critic, so the gradient of the loss to a canvas is that of its
        value times 2 (V - goal) / B, by which it is divided here.
        """
        with self.step("critic") as weights:
            with self.precision.autocast():
                goal = self.goal(now, target, step, score)
                leaf = painted.small.detach().requires_grad_()
                value = self.value(before, leaf, target, step)  # (B, 1)
            off = value.detach() - goal
            off = torch.where(off.abs() < SMALLEST, SMALLEST, off)
            value.backward(2 / len(off) * off, inputs=[leaf, *weights])
        slope = leaf.grad / (2 * off[..., None, None])
        return named("critic", {
            "loss": off.square().mean(), "value": value.mean(), "goal": goal.mean()}), slope

    def wgan_loss(
        self, painted: torch.Tensor, target: torch.Tensor, alpha: torch.Tensor, weight: int = 1
    ) -> tuple[torch.Tensor, Metrics]:
        """D(fake) - D(real) + penalty; real = (target, target), fake = (target, painting).

        weight: that of the penalty; 0 leaves it out.
        """
        real, fake = torch.cat((target, target), 1), torch.cat((target, painted), 1)
        real_score, fake_score = self.discriminator(torch.cat((real, fake))).chunk(2)
        penalty = torch.zeros((), device=alpha.device)
        if weight:
            penalty = gradient_penalty(self.discriminator, real, fake, alpha)
        real_mean, fake_mean = real_score.mean(), fake_score.mean()
        loss = fake_mean - real_mean + weight * penalty
        return loss, {"real": real_mean, "fake": fake_mean, "penalty": weight * penalty}

    def learn(self, batch: Transitions, target: torch.Tensor) -> tuple[Metrics, torch.Tensor]:
        """One step of discriminator, critic and actor, then of their slow copies.

        Transitions without actions are of the bundles that the actor chooses now.
        """
        weight = self.penalty_every * (self.updates % self.penalty_every == 0)
        alpha = torch.rand(len(target), device=target.device)
        tensors = [part for part in batch if part is not None]
        return self.replay(partial(self._learn, weight), weight)(target, alpha, *tensors)

    def _learn(
        self, weight: int, target: torch.Tensor, alpha: torch.Tensor, canvas: torch.Tensor,
        *others: torch.Tensor,
    ) -> tuple[Metrics, torch.Tensor]:
        """``learn`` as a function of tensors: targets, the penalty's alpha and a batch's."""
        *kept, _, step = others
        canvas, target = self.look(as_float(canvas)), self.look(as_float(target))
        with learning(self.actor), self.precision.autocast():
            self.actor.train(self.phase.norm)
            action = self.calls["actor"](canvas.small, target.small, step / self.max_step)
            self.actor.eval()
            painted = self.look(self.composite(canvas.whole, action))
        done = as_uint8(painted.whole.detach())
        if kept:  # the critic learns from these bundles, and else from the actor's
            with torch.no_grad(), self.precision.autocast():
                tried = self.look(self.composite(canvas.whole, kept[0]))
        else:
            tried = Seen(*(each.detach() for each in painted))
        now = self.look(as_float(kept[1] if kept else done))
        metrics, score, slope = {}, None, None
        if self.discriminator is not None:
            metrics |= self.descend("wgan", self.wgan_loss, now.whole, target.whole, alpha, weight)
        if self.joint:
            if self.discriminator is not None:
                with self.precision.autocast():
                    score = self.score(painted.whole, target.whole)  # (B, 1)
            found, slope = self.judge(
                canvas, tried, now, target, step, None if score is None else score.detach())
            metrics |= found
        else:
            metrics |= self.descend("critic", self.value_loss, canvas, tried, now, target, step)
        metrics |= self.descend("actor", self.policy_loss, canvas, painted, target, step, score,
                                slope)
        self.follow_all()
        return metrics, done
