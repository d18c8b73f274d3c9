"""The direct method, a finisher: the error of whole paintings, carried back to every stroke.

It has no critic and no reward, and goes on from an actor that paints well: what it follows is
the gradient of the finished canvas's error.
"""

import torch

from DRL.learner import Learner, Metrics, Setup
from DRL.rpm import Transitions
from Renderer.canvas import as_float
from running.optim import cosine

RATE = 2e-5
EARLY = 0.02  # weight of the error of each canvas before the last


class Direct(Learner):
    """The agent.

    It learns from bundles of whole paintings: ``carry_back`` finds the gradient of a painting's
    error to the numbers of a bundle, and an update hands it on to the actor.  What the actor
    sees is cut off from the gradient (Song et al., D.VA, 2025).
    """

    def __init__(
        self, setup: Setup, *, actor_rate: float | None = None, early: float = EARLY
    ) -> None:
        """actor_rate: highest rate of a cosine; early: weight of the earlier canvases' errors."""
        super().__init__(setup, {})
        self.peak, self.early = actor_rate or RATE, early

    def rates(self, progress: float) -> dict[str, float]:
        """Half a cosine."""
        return {"actor": cosine(progress, self.peak)}

    def slope(self, canvas: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The gradient (B, 3, 128, 128) of each canvas's mean squared error to its pixels."""
        return 2 / canvas[0].numel() * (canvas - target)

    def carry_back(
        self, canvas: torch.Tensor, action: torch.Tensor, target: torch.Tensor,
        slope: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Carry a gradient back through a bundle.

        canvas: that the bundle (B, 13 N) was painted on, target: (B, 3, 128, 128) uint8; slope:
        of the whole loss to the canvas it led to.  Returns that to the canvas before, its own
        error's included, and that to the bundle's numbers.  Rounding to 8 bits counts as nothing.
        On a GPU the next call overwrites both.
        """
        return self.replay(self._carry_back, "back")(canvas, action, target, slope)

    def _carry_back(
        self, canvas: torch.Tensor, action: torch.Tensor, target: torch.Tensor,
        slope: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        canvas, target = as_float(canvas), as_float(target)
        before, numbers = canvas.clone().requires_grad_(), action.clone().requires_grad_()
        with torch.enable_grad(), self.precision.autocast():
            painted = self.composite(before, numbers)
        painted.backward(slope)
        return before.grad + self.early * self.slope(canvas, target), numbers.grad

    def learn(self, batch: Transitions, target: torch.Tensor) -> tuple[Metrics, torch.Tensor]:
        """One step of the actor; the batch's actions are gradients to its own."""
        metrics = self.replay(self._learn)(batch.canvas, batch.action, target, batch.step)
        return metrics, batch.next_canvas

    def _learn(
        self, canvas: torch.Tensor, gradient: torch.Tensor, target: torch.Tensor,
        step: torch.Tensor,
    ) -> Metrics:
        canvas, target = self.look(as_float(canvas)), self.look(as_float(target))
        self.actor.train(self.phase.norm)
        metrics = self.descend("actor", self.policy_loss, canvas.small, gradient, target.small,
                               step)
        self.actor.eval()
        return metrics

    def policy_loss(
        self, canvas: torch.Tensor, gradient: torch.Tensor, target: torch.Tensor,
        step: torch.Tensor,
    ) -> tuple[torch.Tensor, Metrics]:
        """A number whose gradient to the actor's bundles is the one that was carried back."""
        action = self.calls["actor"](canvas, target, step / self.max_step)
        loss = (gradient * action).sum(1).mean()
        return loss, {"gradient": gradient.norm(dim=1).mean()}
