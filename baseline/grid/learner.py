"""The grid method: the gradient of whole paintings, drawn by the exact rasterizer.

The actor paints pictures in four passes (``grid.passes``).  The gradient of a finished painting's
squared error flows through the exact rasterizer to the numbers of all its strokes, and from there
into the actor; what the actor sees is cut off from it.  There is no critic and no discriminator.

Batch normalization keeps the statistics of the first pictures, as a batch has few of them.  Each
weight has a learning-rate multiplier of its own, in the spirit of maximal update parametrization
(Yang and Hu, 2021), so that no layer outruns the others and few ReLUs die.  Convolutions take the
orthogonal steps of Muon (Jordan et al., 2024), all else Adam's.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from DRL.actor import Actor, fold_batch_norm, folded_weights, normalized_convolutions
from DRL.learner import Learner, Metrics, Setup, learning
from grid.multipliers import measure_multipliers
from grid.painter import GridPainter
from grid.passes import PAINTING, choose
from grid.start import IMITATION, imitation_loss, initialize
from Renderer.canvas import as_float
from Renderer.layout import Layout, stacked, unstacked
from Renderer.raster import paint_exact
from Renderer.raster_gradient import stroke_gradient
from running.optim import adam, cosine, orthogonal

RATE, WARM_UP = 3e-3, 100  # highest learning rate; updates in which it rises to its cosine
MOMENTUM = 0.9  # of Muon
MUON_RMS = 0.3  # root mean square of a Muon step over rate and multipliers; about that of Adam
MEASURE_EVERY = 300  # updates between measurements of the activations
MEASURED = 4  # pictures that they are measured on
EARLY_WEIGHT = 0.3  # of the error after an earlier pass
COARSE = 2  # passes, the first ones, that are learned in every COARSE_EVERY-th update only
COARSE_EVERY = 3

Policy = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class GridLearner(Learner):
    """An actor with a grid read-out that learns from whole paintings."""

    def __init__(self, setup: Setup, *, actor_rate: float | None = None) -> None:
        """Build the actor; actor_rate: the highest rate of a cosine after a warm-up."""
        super().__init__(setup, {}, readout="grid")
        self.family = setup.render.family
        self.peak = actor_rate or RATE
        self.folded = fold_batch_norm(copy.deepcopy(self.actor))  # its weights are never used
        self.filters = [conv.weight for _, conv, _ in normalized_convolutions(self.actor)]
        self.momenta = [torch.zeros_like(weight) for weight in self.filters]
        self.multipliers: list[torch.Tensor] = []  # of the filters and, last, of the last layer
        own = set(map(id, self.filters))
        rest = [weight for weight in self.actor.parameters() if id(weight) not in own]
        self.optimizers["actor"] = adam(nn.ParameterList(rest), False)
        self.imitating = IMITATION  # updates until which it imitates plain strokes

    def rates(self, progress: float) -> dict[str, float]:
        """Return the learning rate at ``progress`` in [0, 1]: half a cosine, after a warm-up."""
        return {"actor": min(1, (self.updates + 1) / WARM_UP) * cosine(progress, self.peak)}

    def start_from(self, actor: Actor) -> None:
        """Load the weights of an actor with a grid read-out, which needs no imitation."""
        super().start_from(actor)
        self.imitating = 0

    def painter(self, averaged: bool = False) -> GridPainter:
        """Return a painter with the actor or its EMA."""
        return GridPainter(self.finished(averaged), self.render, self.precision)

    def state_dict(self) -> dict:
        """Return the multipliers, momenta and the length of the imitation too."""
        return super().state_dict() | {"multipliers": self.multipliers, "momenta": self.momenta,
                                       "imitating": self.imitating}

    def load_state_dict(self, state: dict) -> None:
        """Load what ``state_dict`` returned."""
        super().load_state_dict(state)
        self.multipliers = [each.to(self.precision.device) for each in state["multipliers"]]
        torch._foreach_copy_(self.momenta, state["momenta"])
        self.imitating = state["imitating"]

    def update(self, batch: torch.Tensor, progress: float) -> Metrics:
        """Take one optimizer step by paintings of targets (B, 3, 128, 128) uint8.

        Returns the mean squared error of the finished paintings; in the first updates, of the
        imitated numbers.
        """
        self.set_rates(progress)
        target, actor = as_float(batch.cpu()), self.actor
        if self.updates == 0 and self.imitating:
            initialize(actor, target, self.family)
            self.ranks.broadcast_network(actor)
            self.ema_actor.load_state_dict(actor.state_dict())
        if self.updates % MEASURE_EVERY == 0 or self.updates == self.imitating:
            self.measure_activations(target[:MEASURED])
        with learning(actor):
            policy = self.policy()
            if self.updates < self.imitating:
                loss = error = imitation_loss(policy, target, self.updates, self.family)
            else:
                loss, error = self.painting_loss(policy, target)
            actor.zero_grad(set_to_none=True)
            loss.backward()
        self.ranks.average_gradients(actor)
        self.step()
        self.update_ema(progress)
        return {"actor/error": error.detach()}

    def policy(self) -> Policy:
        """Return the actor with its batch normalization folded; gradients flow to its weights.

        It takes and returns tensors on the CPU, where the rasterizer is.
        """
        weights, device = folded_weights(self.actor), self.precision.device

        def act(*inputs: torch.Tensor) -> torch.Tensor:
            with self.precision.autocast():
                inputs = tuple(each.to(device) for each in inputs)
                return functional_call(self.folded, weights, inputs).cpu()

        return act

    @torch.no_grad()
    def step(self) -> None:
        """Take one step by the gradients: of Muon for filters, of Adam for all else."""
        optimizer, last = self.optimizers["actor"], self.actor.fc.weight
        lr = optimizer.param_groups[0]["lr"]
        before, dtype = last.clone(), torch.bfloat16 if self.precision.bf16 else last.dtype
        optimizer.step()
        *multipliers, last_multiplier = self.multipliers
        last.copy_(torch.lerp(before, last, last_multiplier))
        steps = []
        for number, (weight, momentum, multiplier) in enumerate(
                zip(self.filters, self.momenta, multipliers, strict=True)):
            momentum.lerp_(weight.grad, 1 - MOMENTUM)
            steps.append(torch.zeros_like(weight))
            if number % self.ranks.world == self.ranks.rank:  # the others' come from others
                nesterov = torch.lerp(weight.grad, momentum, MOMENTUM)
                direction = orthogonal((multiplier * nesterov).flatten(1), dtype).view_as(weight)
                rms = MUON_RMS * max(direction.flatten(1).shape) ** 0.5
                steps[-1].copy_(rms * direction * multiplier)
        for weight, step in zip(self.filters, steps, strict=True):
            weight.sub_(self.ranks.all_reduce(step), alpha=lr)

    @torch.no_grad()
    def measure_activations(self, target: torch.Tensor) -> None:
        """Set the learning-rate multipliers by the activations in some paintings."""
        _, canvases = self.paint(self.policy(), target)
        seen = torch.cat([torch.zeros_like(target), *map(unstacked, canvases[:-1])])
        progress = torch.tensor([which.progress for which in PAINTING])
        inputs = (seen, target.repeat(len(PAINTING), 1, 1, 1),
                  progress.repeat_interleave(len(target)))
        with self.precision.autocast():
            measured = measure_multipliers(
                self.actor, *(each.to(self.precision.device) for each in inputs))
        self.multipliers = [self.ranks.all_reduce(each).div_(self.ranks.world) for each in measured]

    def painting_loss(
        self, policy: Policy, target: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Paint, and return a scalar with the paintings' gradient, and their squared error.

        Two of three updates learn the passes over all cells alone; two of three count the error
        after an earlier pass too.
        """
        turn = self.updates % COARSE_EVERY
        first = 0 if turn == 0 else COARSE  # of the passes that are learned
        bundles, canvases = self.paint(policy, target, first)
        below = canvases[first - 1] if first else None
        error, grads = self.gradient(bundles[first:], target, below)
        if turn != COARSE_EVERY - 1:
            end = COARSE + 1 if first else 1 + self.updates // COARSE_EVERY % COARSE
            _, early_grads = self.gradient(bundles[first:end], target, below)
            for grad, early_grad in zip(grads, early_grads, strict=False):  # of the passes by then
                grad += EARLY_WEIGHT * early_grad
        if first == 0:  # as much as if they were learned in every update
            for grad in grads[:COARSE]:
                grad *= COARSE_EVERY
        loss = sum((grad * bundle).sum()
                   for grad, bundle in zip(grads, bundles[first:], strict=True))
        return loss / len(target), torch.tensor(error)

    def paint(
        self, policy: Policy, target: torch.Tensor, first: int = len(PAINTING)
    ) -> tuple[list[torch.Tensor], list[np.ndarray]]:
        """Paint targets (B, 3, 128, 128) in [0, 1], from black.

        first: of the passes through which gradients flow.  Returns the bundles of each pass,
        (B, bundles, 13 N), and the stacked canvas (128 B, 128, 3) after it.
        """
        column, canvas = Layout.column(len(target)), np.zeros(stacked(target).shape, np.float32)
        bundles, canvases = [], []
        for number, which in enumerate(PAINTING):
            with torch.set_grad_enabled(number >= first):
                bundles.append(choose(policy, column.cut(canvas), target, which))
            for action in bundles[-1].unbind(1):
                paint_exact(column.strokes(self.family, action), canvas)
            canvases.append(canvas.copy())
        return bundles, canvases

    def gradient(
        self, bundles: list[torch.Tensor], target: torch.Tensor, below: np.ndarray | None
    ) -> tuple[float, list[torch.Tensor]]:
        """Return the mean squared error of paintings, and its gradient to each one's bundles.

        below: the stacked canvas that they are painted on, or None: black.
        """
        single, counts = Layout.column(1), [each.shape[1] for each in bundles]
        errors, grads = [], []
        for number, picture in enumerate(target):
            action = torch.cat([each[number] for each in bundles]).reshape(1, -1)
            rows = slice(number * picture.shape[1], (number + 1) * picture.shape[1])
            error, grad = stroke_gradient(single.strokes(self.family, action),
                                          stacked(picture[None]),
                                          None if below is None else below[rows])
            errors.append(error)
            grads.append(grad.view(sum(counts), -1))
        return float(np.mean(errors)), [
            part.clone() for part in torch.stack(grads).split(counts, 1)]
