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
from DRL.rollout import Painter
from Renderer.canvas import STROKE_DIM

PARAMETER_NOISE = 0.05  # the paper's


class ActionCritic(Critic):
    """The value Q(s, a) of a bundle, each of whose numbers is a constant plane."""

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
        return self.judge(self.planes((canvas, target), numbers))


class ModelFreeDDPG(DDPG):
    """The agent that knows strokes by their numbers and canvases alone.

    It explores with noise on the actor's parameters.
    """

    def __init__(self, setup: Setup, *, noise_factor: float = PARAMETER_NOISE, **options) -> None:
        super().__init__(setup, noise_factor=noise_factor, **options)
        self.explorer = copy.deepcopy(self.actor)
        self.explored: tuple[int, ...] = ()  # the episode that its noise is for

    def new_critic(self, setup: Setup) -> ActionCritic:
        return ActionCritic(setup.bundle)

    def explore(
        self, canvas: torch.Tensor, target: torch.Tensor, progress: torch.Tensor,
        episode: tuple[int, ...],
    ) -> torch.Tensor:
        """Return the actions of an actor with Gaussian noise on its parameters.

        The noise is a function of ``episode``, so that a resumed episode has the same.
        """
        if episode != self.explored:
            self.explored = episode
            self.disturb(episode)
        return Painter(self.explorer, self.render, self.precision).act(canvas, target, progress)

    @torch.no_grad()
    def disturb(self, episode: tuple[int, ...]) -> None:
        """Copy the actor to the explorer and add the noise of an episode."""
        self.explorer.load_state_dict(self.actor.state_dict())
        seed = int(np.random.SeedSequence(episode).generate_state(1, np.uint64)[0] >> 1)
        generator = torch.Generator(self.precision.device).manual_seed(seed)
        for weights in self.explorer.parameters():
            weights += self.noise * torch.randn(
                weights.shape, generator=generator, device=weights.device)

    def value_loss(
        self, canvas: torch.Tensor, action: torch.Tensor, next_canvas: torch.Tensor,
        target: torch.Tensor, step: torch.Tensor,
    ) -> tuple[torch.Tensor, Metrics]:
        """Return mse(Q(s, a), td_target), td_target = r + discount (1 - done) Q'(s', a')."""
        progress = (step + 1) / self.max_step  # (B,)
        not_done = (step + 1 < self.max_step).float()[:, None]  # (B, 1)
        with torch.no_grad():
            next_action = self.target_calls["actor"](next_canvas, target, progress)
            next_value = self.target_calls["critic"](next_canvas, target, progress, next_action)
            reward = self.reward(canvas, next_canvas, target)
            td_target = reward + self.discount * not_done * next_value
        value = self.calls["critic"](canvas, target, step / self.max_step, action)
        return F.mse_loss(value, td_target), {"value": value.mean(), "td_target": td_target.mean()}

    def policy_loss(
        self, canvas: torch.Tensor, target: torch.Tensor, step: torch.Tensor
    ) -> tuple[torch.Tensor, Metrics]:
        """Return - mean Q(s, actor(s))."""
        progress = step / self.max_step
        action = self.calls["actor"](canvas, target, progress)
        value = self.calls["critic"](canvas, target, progress, action).mean()
        return -value, {"q": value}
