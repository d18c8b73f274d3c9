"""Model-free DDPG, the paper's comparison: no gradient flows through the renderer.

The critic sees the action itself, and the actor learns from the critic alone.
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F

from DRL.critic import Critic
from DRL.ddpg import DDPG
from DRL.layers import progress_plane
from DRL.rpm import Transitions
from Renderer.canvas import BUNDLE, STROKE_DIM, as_float
from Renderer.stroke_gen import WIDTH


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
        """canvas, target: (B, 3, 128, 128) in [0, 1]; progress: (B,); action: (B, 13 bundle).

        Returns (B, 1).
        """
        numbers = action[..., None, None].expand(-1, -1, WIDTH, WIDTH)
        planes = torch.cat((canvas, target, progress_plane(progress), numbers), 1)
        return self.judge(self.coordinates(planes))


class ModelFreeDDPG(DDPG):
    """The agent that knows strokes by their numbers and canvases alone.

    It explores with noise on the actor's parameters.
    """

    def __init__(self, *inputs, **options) -> None:
        super().__init__(*inputs, **options)
        self.explorer = copy.deepcopy(self.actor)
        self.episode: tuple[int, ...] = ()  # the one that the explorer is for

    def new_critic(self) -> ActionCritic:
        return ActionCritic(self.bundle)

    def explore(
        self, canvas: torch.Tensor, target: torch.Tensor, step: int, episode: tuple[int, ...]
    ) -> torch.Tensor:
        """The bundle of an actor with Gaussian noise on its parameters.

        The noise is a function of ``episode``, so that a resumed one has the same.
        """
        if episode != self.episode:
            self.episode = episode
            self.disturb(episode)
        return self.act(canvas, target, step, self.explorer)

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
        self, batch: Transitions, target: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """mse(Q(s, a), r + discount (1 - done) Q_slow(s', a'))."""
        canvas, now = as_float(batch.canvas), as_float(batch.next_canvas)
        later = (batch.step + 1) / self.max_step  # (B,)
        with torch.no_grad():
            action = self.slow["actor"](now, target, later)
            value = self.slow["critic"](now, target, later, action)
            alive = (batch.step + 1 < self.max_step).float()[:, None]  # (B, 1)
            goal = self.reward(canvas, now, target) + self.discount * alive * value
        value = self.calls["critic"](canvas, target, batch.step / self.max_step, batch.action)
        return F.mse_loss(value, goal), {"value": value.detach().mean(), "goal": goal.mean()}

    def policy_loss(
        self, batch: Transitions, target: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """- mean Q(s, actor(s))."""
        canvas, progress = as_float(batch.canvas), batch.step / self.max_step
        action = self.calls["actor"](canvas, target, progress)
        value = self.calls["critic"](canvas, target, progress, action)
        return -value.mean(), {"q": value.detach().mean()}
