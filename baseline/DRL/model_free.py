"""Model-free DDPG, the paper's comparison: no gradient flows through the renderer.

The critic sees the action itself, and the actor learns from the critic alone.
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F

from constants import BUNDLE
from DRL.critic import Critic
from DRL.ddpg import DDPG
from DRL.learner import Metrics, Seen, Setup
from DRL.rollout import Painter
from Renderer.canvas import STROKE_DIM, as_float

PARAMETER_NOISE = 0.05  # the paper's


class ActionCritic(Critic):
    """The value Q(s, a) of a bundle, each of whose numbers is a constant plane."""

    def __init__(self, bundle: int = BUNDLE) -> None:
        super().__init__(9 + bundle * STROKE_DIM)

    def forward(
        self,
        canvas: torch.Tensor,
        target: torch.Tensor,
        progress: torch.Tensor,
        action: torch.Tensor,
    ) -> torch.Tensor:
        """canvas, target: (B, 3, 128, 128) in [0, 1], or shrunk; progress: (B,).

        action: (B, 13 bundle).  Returns (B, 1).
        """
        numbers = torch.cat((progress[:, None], action), 1)
        return self.judge(self.planes((canvas, target), numbers))


class ModelFreeDDPG(DDPG):
    """The agent that knows strokes by their numbers and canvases alone.

    It explores with noise on the actor's parameters.
    """

    paints = False

    def __init__(self, setup: Setup, *, noise_factor: float = PARAMETER_NOISE, **options) -> None:
        super().__init__(setup, noise_factor=noise_factor, **options)
        self.explorer = copy.deepcopy(self.actor)
        self.explored: tuple = ()  # the episode and the number of updates that it is for

    def new_critic(self, setup: Setup) -> ActionCritic:
        return ActionCritic(setup.bundle)

    def explore(
        self, canvas: torch.Tensor, target: torch.Tensor, progress: torch.Tensor,
        episode: tuple[int, ...],
    ) -> torch.Tensor:
        """The bundles of an actor with Gaussian noise on its parameters.

        The noise is a function of ``episode``, so that a resumed one has the same.  In a pool the
        actor learns within an episode.
        """
        if (episode, self.updates) != self.explored:
            self.explored = episode, self.updates
            self.disturb(episode)
        self.explorer.size = self.actor.size
        return Painter(self.explorer, self.render, self.precision).act(canvas, target, progress)

    @torch.no_grad()
    def disturb(self, episode: tuple[int, ...]) -> None:
        """Make the explorer the actor of now, with other noise in every episode."""
        self.explorer.load_state_dict(self.actor.state_dict())
        seed = int(np.random.SeedSequence(episode).generate_state(1, np.uint64)[0] >> 1)
        generator = torch.Generator(self.precision.device).manual_seed(seed)
        for weights in self.explorer.parameters():
            weights += self.noise * torch.randn(
                weights.shape, generator=generator, device=weights.device)

    def value_loss(
        self, before: Seen, action: torch.Tensor, now: Seen, target: Seen, step: torch.Tensor
    ) -> tuple[torch.Tensor, Metrics]:
        """mse(Q(s, a), r + discount (1 - done) Q_slow(s', a'))."""
        later = (step + 1) / self.max_step  # (B,)
        with torch.no_grad():
            chosen = self.slow_calls["actor"](now.small, target.small, later)
            value = self.slow_calls["critic"](now.small, target.small, later, chosen)
            alive = (step + 1 < self.max_step).float()[:, None]  # (B, 1)
            reward = self.reward(before.whole, now.whole, target.whole)
            goal = reward + self.discount * alive * value
        value = self.calls["critic"](before.small, target.small, step / self.max_step, action)
        return F.mse_loss(value, goal), {"value": value.mean(), "goal": goal.mean()}

    def policy_loss(
        self, before: Seen, target: Seen, step: torch.Tensor
    ) -> tuple[torch.Tensor, Metrics]:
        """- mean Q(s, actor(s))."""
        progress = step / self.max_step
        action = self.calls["actor"](before.small, target.small, progress)
        value = self.calls["critic"](before.small, target.small, progress, action).mean()
        return -value, {"q": value}

    def _learn(
        self, weight: int, target: torch.Tensor, alpha: torch.Tensor, canvas: torch.Tensor,
        action: torch.Tensor, later: torch.Tensor, _: torch.Tensor, step: torch.Tensor,
    ) -> tuple[Metrics, torch.Tensor]:
        canvas, now, target = (self.look(as_float(each)) for each in (canvas, later, target))
        metrics = {}
        if self.discriminator is not None:
            metrics |= self.descend("wgan", self.wgan_loss, now.whole, target.whole, alpha, weight)
        metrics |= self.descend("critic", self.value_loss, canvas, action, now, target, step)
        self.actor.train(self.phase.norm)
        metrics |= self.descend("actor", self.policy_loss, canvas, target, step)
        self.actor.eval()
        self.follow_all()
        return metrics, later
