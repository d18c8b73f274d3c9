"""The grid method: the gradient of whole paintings, drawn by the exact rasterizer.

The actor paints pictures in three passes (``grid.passes``).  The gradient of a finished painting's
squared error flows through the exact rasterizer to the numbers of all its strokes, and from there
into the actor, but not into the canvases that the actor sees.  There is no critic and no
discriminator.

Batch normalization keeps the statistics of the first pictures, as batches are small.  In
convolutions and the last layer each pair of output and input channel has a learning-rate
multiplier, so that all layers are trained at similar rates and few ReLUs die.  Convolutions take
the orthogonal steps of Muon (Jordan et al., 2024), other weights Adam's.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from DRL.actor import Actor, fold_batch_norm, folded_weights, normalized_convolutions
from DRL.learner import Learner, Metrics, Setup, unfrozen
from grid.multipliers import measure_multipliers
from grid.passes import PAINTING, pass_actions, views
from grid.policy import GridPolicy
from grid.start import IMITATION_UPDATES, imitation_loss, initialize
from Renderer.canvas import as_float
from Renderer.layout import Layout, stacked, unstacked
from Renderer.raster import paint_exact
from Renderer.raster_gradient import stroke_gradient
from running.optim import adam, cosine, orthogonal

PEAK_RATE, WARM_UP = 3e-3, 100  # learning rate after the warm-up; updates of the warm-up
MOMENTUM = 0.9  # of Muon
MUON_RMS = 0.3  # RMS of a Muon update before lr and multipliers, matched to Adam's
MULTIPLIER_INTERVAL = 300  # updates between measurements of the multipliers
MULTIPLIER_PICTURES = 4  # on which the multipliers are measured
EARLY_WEIGHT = 0.3  # weight of the squared error after an earlier pass
COARSE_INTERVAL = 3  # updates of which one trains the first pass as well

ActorFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class GridLearner(Learner):
    """An actor with a grid read-out that learns from whole paintings."""

    policy_type = GridPolicy

    def __init__(self, setup: Setup, *, actor_rate: float | None = None) -> None:
        """Build the actor; actor_rate: peak of a cosine decay with a linear warm-up."""
        super().__init__(setup, {}, readout="grid")
        self.family = setup.render.family
        self.peak = actor_rate or PEAK_RATE
        self.folded = fold_batch_norm(copy.deepcopy(self.actor))  # called with ``folded_weights``
        self.filters = [conv.weight for _, conv, *_ in normalized_convolutions(self.actor)]
        self.momenta = [torch.zeros_like(weight) for weight in self.filters]
        self.multipliers: list[torch.Tensor] = []  # of the filters and, last, of the last layer
        filters = set(map(id, self.filters))
        others = [weight for weight in self.actor.parameters() if id(weight) not in filters]
        self.optimizers["actor"] = adam(nn.ParameterList(others), False)
        self.imitation_updates = IMITATION_UPDATES

    def rates(self, progress: float) -> dict[str, float]:
        """Return the learning rate at ``progress`` in [0, 1]: cosine decay with a warm-up."""
        return {"actor": min(1, (self.updates + 1) / WARM_UP) * cosine(progress, self.peak)}

    def load_actor(self, actor: Actor) -> None:
        """Load the weights of an actor with a grid read-out; skip behavior cloning."""
        super().load_actor(actor)
        self.imitation_updates = 0

    def state_dict(self) -> dict:
        """Return the state of ``Learner``, multipliers, momenta and number of cloning updates."""
        return super().state_dict() | {"multipliers": self.multipliers, "momenta": self.momenta,
                                       "imitating": self.imitation_updates}

    def load_state_dict(self, state: dict) -> None:
        """Load a state of ``state_dict``."""
        super().load_state_dict(state)
        self.multipliers = [each.to(self.precision.device) for each in state["multipliers"]]
        torch._foreach_copy_(self.momenta, state["momenta"])
        self.imitation_updates = state["imitating"]

    def update(self, batch: torch.Tensor, progress: float) -> Metrics:
        """Take one optimizer step on a batch of targets (B, 3, 128, 128) uint8.

        Returns the MSE of the finished paintings or, in behavior cloning, of the stroke numbers.
        """
        self.set_rates(progress)
        target = as_float(batch.cpu())
        if self.updates == 0 and self.imitation_updates:
            initialize(self.actor, target, self.family)
            self.ranks.broadcast_network(self.actor)
            self.ema_actor.load_state_dict(self.actor.state_dict())
        if self.updates % MULTIPLIER_INTERVAL == 0 or self.updates == self.imitation_updates:
            self.set_multipliers(target[:MULTIPLIER_PICTURES])
        with unfrozen(self.actor):
            actor = self.folded_actor()
            if self.updates < self.imitation_updates:
                loss = error = imitation_loss(actor, target, self.updates, self.family)
            else:
                loss, error = self.painting_loss(actor, target)
            self.actor.zero_grad(set_to_none=True)
            loss.backward()
        self.ranks.average_gradients(self.actor)
        self.step()
        self.update_ema(progress)
        return {"actor/error": error.detach()}

    def folded_actor(self) -> ActorFunction:
        """Return the actor with folded batch normalization, differentiable in its weights.

        It takes and returns tensors on the CPU, as the rasterizer does.
        """
        weights, device = folded_weights(self.actor), self.precision.device

        def forward(*inputs: torch.Tensor) -> torch.Tensor:
            with self.precision.autocast():
                inputs = tuple(each.to(device) for each in inputs)
                return functional_call(self.folded, weights, inputs).cpu()

        return forward

    @torch.no_grad()
    def step(self) -> None:
        """Take one step: of Muon for the weights of convolutions, of Adam for others."""
        optimizer, fc_weight = self.optimizers["actor"], self.actor.fc.weight
        lr, fc_before = optimizer.param_groups[0]["lr"], fc_weight.clone()
        dtype = torch.bfloat16 if self.precision.bf16 else torch.float32
        optimizer.step()
        *multipliers, fc_multiplier = self.multipliers
        fc_weight.copy_(torch.lerp(fc_before, fc_weight, fc_multiplier))
        steps = []
        for number, (weight, momentum, multiplier) in enumerate(
                zip(self.filters, self.momenta, multipliers, strict=True)):
            momentum.lerp_(weight.grad, 1 - MOMENTUM)
            steps.append(torch.zeros_like(weight))
            if number % self.ranks.world == self.ranks.rank:  # each process steps some filters
                nesterov = torch.lerp(weight.grad, momentum, MOMENTUM)
                direction = orthogonal((multiplier * nesterov).flatten(1), dtype).view_as(weight)
                scale = MUON_RMS * max(direction.flatten(1).shape) ** 0.5
                steps[-1].copy_(scale * direction * multiplier)
        for weight, step in zip(self.filters, steps, strict=True):
            weight.sub_(self.ranks.all_reduce(step), alpha=lr)

    @torch.no_grad()
    def set_multipliers(self, target: torch.Tensor) -> None:
        """Set the learning-rate multipliers from activations measured while painting."""
        _, canvases = self.paint(self.folded_actor(), target)
        canvases = [torch.zeros_like(target), *map(unstacked, canvases[:-1])]
        inputs = [views(canvas, target, each)
                  for canvas, each in zip(canvases, PAINTING, strict=True)]
        inputs = [torch.cat(each).to(self.precision.device) for each in zip(*inputs, strict=True)]
        with self.precision.autocast():
            measured = measure_multipliers(self.actor, *inputs)
        self.multipliers = [self.ranks.all_reduce(each).div_(self.ranks.world) for each in measured]

    def painting_loss(
        self, actor: ActorFunction, target: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a loss whose gradient is that of weighted squared errors, and the final error.

        Of three updates the first trains all passes, the others all but the first; the first and
        the second add the error after the first pass that they train.
        """
        phase = self.updates % COARSE_INTERVAL
        first_trained_pass = 0 if phase == 0 else 1
        bundles, canvases = self.paint(actor, target, first_trained_pass)
        base_canvas = canvases[0] if first_trained_pass else None
        trained_bundles = bundles[first_trained_pass:]
        error, grads = self.gradient(trained_bundles, target, base_canvas)
        if phase != COARSE_INTERVAL - 1:
            _, (early_grad,) = self.gradient(trained_bundles[:1], target, base_canvas)
            grads[0].add_(early_grad, alpha=EARLY_WEIGHT)
        if phase == 0:
            grads[0].mul_(COARSE_INTERVAL)  # as if it were trained in every update
        loss = sum((grad * bundle).sum()
                   for grad, bundle in zip(grads, trained_bundles, strict=True))
        return loss / len(target), torch.tensor(error)

    def paint(
        self, actor: ActorFunction, target: torch.Tensor, first_trained_pass: int = len(PAINTING)
    ) -> tuple[list[torch.Tensor], list[np.ndarray]]:
        """Paint targets (B, 3, 128, 128) in [0, 1], from black.

        first_trained_pass: number of the first pass that gradients flow through.  Returns for each
        pass its bundles (B, bundles, 13 N), and the stacked canvas (128 B, 128, 3) after it.
        """
        stack_layout, canvas = Layout.column(len(target)), np.zeros_like(stacked(target))
        bundles, canvases = [], []
        for number, grid_pass in enumerate(PAINTING):
            with torch.set_grad_enabled(number >= first_trained_pass):
                bundles.append(pass_actions(
                    actor, stack_layout.cut(canvas), target, grid_pass, self.family))
            for action in bundles[-1].unbind(1):
                paint_exact(stack_layout.strokes(self.family, action), canvas)
            canvases.append(canvas.copy())
        return bundles, canvases

    def gradient(
        self, bundles: list[torch.Tensor], target: torch.Tensor, base_canvas: np.ndarray | None
    ) -> tuple[float, tuple[torch.Tensor, ...]]:
        """Return the paintings' MSE, and for each pass the gradients of each one's own error.

        base_canvas: the stacked canvas under the paintings; None: black.
        """
        single, counts = Layout.column(1), [each.shape[1] for each in bundles]
        bases = [None] * len(target) if base_canvas is None else np.split(base_canvas, len(target))
        errors, grads = [], []
        for action, picture, canvas in zip(torch.cat(bundles, 1), target, bases, strict=True):
            error, grad = stroke_gradient(single.strokes(self.family, action.reshape(1, -1)),
                                          stacked(picture[None]), canvas)
            errors.append(error)
            grads.append(grad.view(sum(counts), -1))
        return float(np.mean(errors)), torch.stack(grads).split(counts, 1)
