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
from DRL.learner import Metrics, Setup
from DRL.rollout import Policy
from Renderer.canvas import STROKE_DIM

PARAMETER_NOISE = 0.05  # standard deviation


class ActionCritic(Critic):
    """The value Q(s, a) of an action, each of whose numbers is a constant plane."""

    def __init__(self, bundle: int = BUNDLE) -> None:
        super().__init__(9 + bundle * STROKE_DIM)

    def forward(
        self, canvas: torch.Tensor, target: torch.Tensor, progress: torch.Tensor,
        action: torch.Tensor,
    ) -> torch.Tensor:
        """Return the value (B, 1).

        canvas, target: (B, 3, 128, 128) in [0, 1]; progress: (B,); action: (B, 13 bundle).
        """
        numbers = torch.cat((progress[:, None], action), 1)
        return self.from_planes(self.planes((canvas, target), numbers))


class ModelFreeDDPG(DDPG):
    """DDPG without a model of the environment (Lillicrap et al., 2016).

    Rollouts have noise on the actor's parameters in place of its actions.
    """

    def __init__(self, setup: Setup, *, noise_factor: float = PARAMETER_NOISE, **options) -> None:
        super().__init__(setup, ActionCritic(setup.bundle), noise_factor=noise_factor, **options)
        self.perturbed_actor = copy.deepcopy(self.networks["actor"])
        self.perturbed_episode: tuple[int, ...] = ()

    @torch.no_grad()
    def rollout_action(
        self, canvas: torch.Tensor, target: torch.Tensor, progress: torch.Tensor,
        episode: tuple[int, ...],
    ) -> torch.Tensor:
        """Return the actions of an actor with Gaussian noise on its parameters.

        The noise is a function of ``episode``, so that a resumed episode has the same
        (Plappert et al., 2018).
        """
        if episode != self.perturbed_episode:
            self.perturbed_episode = episode
            self.perturbed_actor.load_state_dict(self.networks["actor"].state_dict())
            seed = int(np.random.SeedSequence(episode).generate_state(1, np.uint64)[0] >> 1)
            generator = torch.Generator(self.precision.device).manual_seed(seed)
            for weights in self.perturbed_actor.parameters():
                weights += self.noise * torch.randn(
                    weights.shape, generator=generator, device=weights.device)
        policy = Policy(self.perturbed_actor, self.render, self.precision)
        return policy.act(canvas, target, progress)

    def value_loss(
        self, canvas: torch.Tensor, action: torch.Tensor, next_canvas: torch.Tensor,
        target: torch.Tensor, step: torch.Tensor,
    ) -> tuple[torch.Tensor, Metrics]:
        """Return mse(Q(s, a), td_target), td_target = r + discount (1 - done) Q'(s', a')."""
        progress = (step + 1) / self.max_step  # (B,)
        not_done = (step + 1 < self.max_step).float()[:, None]  # (B, 1)
        with torch.no_grad():
            next_action = self.target_actor(next_canvas, target, progress)
            next_value = self.target_critic(next_canvas, target, progress, next_action)
            reward = self.reward(canvas, next_canvas, target)
            td_target = reward + self.discount * not_done * next_value
        value = self.critic(canvas, target, step / self.max_step, action)
        return F.mse_loss(value, td_target), {"value": value.mean(), "td_target": td_target.mean()}

    def policy_loss(
        self, canvas: torch.Tensor, target: torch.Tensor, step: torch.Tensor
    ) -> tuple[torch.Tensor, Metrics]:
        """Return - mean Q(s, actor(s))."""
        progress = step / self.max_step
        action = self.actor(canvas, target, progress)
        value = self.critic(canvas, target, progress, action).mean()
        return -value, {"q": value}
