"""The method of cells: the exact raster's gradient, for all cells of a picture at once.

A painting is four passes over its picture, by the cells of the actor's last map: those of the
quarters, those in the middle, and all of them twice; ``DRL.wiring`` says how an actor comes to keep
them apart.  While it learns, a pass takes one look at the picture and paints what each of its cells
would.  The error of the painting is carried back to every stroke, and from there to the actor, with
what it sees cut off from the gradient.

The actor's normalisation is by statistics that stay, so nothing but the size of a step keeps its
units alive: a layer with many or large inputs moves far more than others at the same rate.  So each
weight goes a share of a step, by the layer's inputs, as in maximal update parametrisation.  The
steps are Adam's, but those of the filters of convolutions are Muon's.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from constants import STEPS, WIDTH
from DRL.actor import Actor
from DRL.convolution import convolve
from DRL.layers import in_full
from DRL.learner import Learner, Metrics, Setup
from DRL.orthogonal import orthogonal
from DRL.rpm import Transitions
from DRL.wiring import (
    CELLS,
    PASSES,
    SEEN,
    Layer,
    Wiring,
    fixed,
    is_wired,
    open_gate,
    plain_strokes,
    shut,
    through,
)
from painting.refine import descend
from Renderer.canvas import STROKE_DIM, as_float
from Renderer.raster import Boxes, paint_exact, place
from Renderer.raster_gradient import gradient
from Renderer.stroke_gen import SHAPE_DIM
from Renderer.strokes import Strokes
from running.optim import adam, cosine

RATE, WARM_UP = 3e-3, 100  # updates in which it rises
REACH = 100.0  # deviations an output moves where all its weights move together, by the rate
FARTHEST = 3.0  # a weight goes, by a step
MOMENTUM, SIZE = 0.9, 0.3  # of filters' steps; the root of the mean square of their numbers
MEASURED = 300  # updates until inputs are measured again
PROBES = 4  # paintings that they are measured on
EARLY = 0.3  # weight of the error after an earlier pass
FEW = 2  # the passes over some of the cells
ROUND = 3  # updates: one that learns these passes too, two that learn those over all cells alone
OPACITIES = 0.9, 0.6  # of the strokes that a new actor begins with, on quarters and on cells
RIDGE = 1e-3  # of each input's own square
STATES = 512  # that a new actor begins with


class Cells(Learner):
    """The agent, with its gate open; ``finished`` gives the actor that paints."""

    def __init__(self, setup: Setup, *, actor_rate: float | None = None) -> None:
        """actor_rate: highest rate of a cosine."""
        super().__init__(setup, {})
        self.peak = actor_rate or RATE
        self.wiring = Wiring(self.actor)
        self.shares: list[torch.Tensor] = []  # of a step that each parameter goes
        self.filters, self.rest = (
            [weight for weight in self.actor.parameters() if (weight.dim() == 4) == filters]
            for filters in (True, False))
        self.momenta = [torch.zeros_like(weight) for weight in self.filters]
        self.optimizers["actor"] = adam(nn.ParameterList(self.rest), False)

    def rates(self, progress: float) -> dict[str, float]:
        """Half a cosine, after a rise."""
        rise = min(1, (self.updates + 1) / WARM_UP)
        return {"actor": rise * cosine(progress, self.peak)}

    def finished(self, averaged: bool = False) -> Actor:
        """The actor of now, or its average, with its gate at work."""
        return shut(super().finished(averaged))

    def go_on_from(self, actor: Actor) -> None:
        """Start from an actor that this method has trained.  Raises ValueError for others.

        What is fixed by hand is laid anew: its passes may have been others.
        """
        if not is_wired(actor):
            raise ValueError("was not trained with --method cells")
        kept = [tensor[at].clone() for tensor, at in fixed(self.actor, by_hand=True)]
        super().go_on_from(actor)
        for network in (self.actor, self.ema_actor):
            for (tensor, at), values in zip(fixed(network, by_hand=True), kept, strict=True):
                tensor.detach()[at] = values
            open_gate(network)

    @torch.no_grad()
    def begin(self, target: torch.Tensor) -> None:
        """Fit the last layer of a new actor to ``plain_strokes``, by ridge regression.

        target: (B, 3, 128, 128) uint8.
        """
        target, count = as_float(target.cpu()), len(target)
        coarse, fine = (plain_strokes(target, side, opacity)
                        for side, opacity in zip((2, CELLS), OPACITIES, strict=True))
        bundles = [coarse, *(fine[:, list(cells)] for cells in PASSES[1:])]
        canvas = np.zeros((count, WIDTH, WIDTH, 3), np.float32)
        rows = [torch.arange(number, count, len(PASSES)) for number in range(len(PASSES))]
        step = torch.empty(count, dtype=torch.int64)
        for number, mine in enumerate(rows):
            part = canvas[mine.numpy()]
            for painted in bundles[:number]:
                paint_on(part, painted[mine].reshape(len(mine), -1, STROKE_DIM))
            canvas[mine.numpy()] = part
            step[mine] = drawn(number, len(mine))
        canvas = as_planes(canvas)
        states = slice(0, count // 4)
        self.wiring.calibrate(self.planes(canvas[states], target[states], step[states]))
        seen = self.last_map(canvas, target, step, Folded()).cpu()
        x, y = [], []
        for mine, cells, bundle in zip(rows, PASSES, bundles, strict=True):
            again = CELLS**2 // len(cells)  # so that each pass counts alike
            x.append(seen[mine][:, list(cells)].flatten(0, 1).repeat(again, 1))
            y.append(bundle[mine].flatten(0, 1).repeat(again, 1))
        x = torch.cat(x).double()
        x = torch.cat((x, torch.ones(len(x), 1)), 1)
        y = torch.cat(y).double().clamp(0.015, 0.985).logit()
        square = x.T @ x
        ridge = torch.diag(RIDGE * square.diagonal() + 1e-6)
        weights = torch.linalg.solve(square + ridge, x.T @ y).T
        self.actor.fc.weight.copy_(weights[:, :-1])
        self.actor.fc.bias.copy_(weights[:, -1])
        self.ema_actor.load_state_dict(self.actor.state_dict())

    def planes(
        self, canvas: torch.Tensor, target: torch.Tensor, step: torch.Tensor
    ) -> torch.Tensor:
        """What the actor sees at a step (B,), of STEPS, on its device."""
        device = self.precision.device
        return self.actor.planes((canvas.to(device), target.to(device)),
                                 (step / STEPS).to(device))

    def last_map(
        self, canvas: torch.Tensor, target: torch.Tensor, step: torch.Tensor, layer: Layer
    ) -> torch.Tensor:
        """The last map (B, 16, 512), each cell as it is read where it is alone."""
        planes = self.planes(canvas, target, step)
        with self.precision.autocast():
            x = through(self.actor, planes, layer)
        return x.flatten(2).mT.float() / SEEN

    @torch.no_grad()
    def measure(self, target: torch.Tensor) -> None:
        """Set the shares by what each layer is given in paintings of targets (B, 3, 128, 128)."""
        _, canvases = self.paint(target, len(PASSES))
        before = [np.zeros_like(canvases[0]), *canvases[:3]]
        seen = torch.cat([self.planes(as_planes(canvas), target, drawn(number, len(target)))
                          for number, canvas in enumerate(before)])
        shares = {parameter: torch.ones_like(parameter) for parameter in self.actor.parameters()}

        def layer(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
            y = conv(x)
            deviation = y.std((0, 2, 3))
            middle = deviation.median()
            share = share_of(x.abs().mean((0, 2, 3)), deviation.clamp(middle / 10, 3 * middle),
                             conv.weight[0, 0].numel())
            shares[conv.weight] = share[:, :, None, None]
            return norm(y)

        last = through(self.actor, seen, layer)
        weight = self.actor.fc.weight
        shares[weight] = share_of(last.mean((0, 2, 3)) / SEEN, weight.new_ones(len(weight)))
        for share in shares.values():
            self.ranks.total(share).div_(self.ranks.world)
        for tensor, at in fixed(self.actor):
            if tensor in shares:
                shares[tensor][at] = 0
        self.shares = list(shares.values())

    @contextmanager
    def step(self, name: str) -> Iterator[list[nn.Parameter]]:
        """One of the actor, where each weight goes its share, and what is fixed stays."""
        before = [weight.detach().clone() for weight in self.rest]
        self.actor.zero_grad(set_to_none=True)
        with super().step(name) as weights:
            yield weights
        shares = dict(zip(weights, self.shares, strict=True))
        for weight, old in zip(self.rest, before, strict=True):
            weight.copy_(torch.lerp(old, weight, shares[weight]))
        rate = self.optimizers[name].param_groups[0]["lr"]
        steps = self.orthogonal_steps([shares[weight] for weight in self.filters])
        for weight, step in zip(self.filters, steps, strict=True):
            weight.sub_(step, alpha=rate)

    def orthogonal_steps(self, shares: list[torch.Tensor]) -> list[torch.Tensor]:
        """Steps of the filters (N, C, k, k) by their gradients, each from one of the processes.

        Orthogonal where shares are the unit, and about as large as Adam's would be.
        """
        found = []
        for number, (weight, momentum, share) in enumerate(
                zip(self.filters, self.momenta, shares, strict=True)):
            momentum.lerp_(weight.grad, 1 - MOMENTUM)
            step = torch.zeros_like(weight)
            if number % self.ranks.world == self.ranks.rank:
                matrix = (share * torch.lerp(weight.grad, momentum, MOMENTUM)).flatten(1)
                size = SIZE * max(matrix.shape) ** 0.5
                step.copy_((size * orthogonal(matrix)).view_as(weight)).mul_(share)
            found.append(step)
        return [self.ranks.total(step) for step in found]

    def state_dict(self) -> dict:
        """The shares and momenta too."""
        return super().state_dict() | {"shares": self.shares, "momenta": self.momenta}

    def load_state_dict(self, state: dict) -> None:
        """Take up what ``state_dict`` gave."""
        super().load_state_dict(state)
        self.shares = [share.to(self.precision.device) for share in state["shares"]]
        torch._foreach_copy_(self.momenta, state["momenta"])

    def learn(self, batch: Transitions | None, target: torch.Tensor) -> Metrics:
        """One step of the actor; it paints the targets itself."""
        target, turn = as_float(target.cpu()), self.updates % ROUND
        if self.updates % MEASURED == 0:
            self.measure(target[:PROBES])
        first = 0 if turn == 0 else FEW  # of the passes that are learnt; those before are taken
        with self.step("actor") as weights:
            bundles, canvases = self.paint(target, first)
            below = canvases[first - 1] if first else None

            def slopes_of(passes: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
                learnt = [bundle.detach() for bundle in bundles[first:passes]]
                error, slope = slopes(in_order(learnt), target, below)
                return error, by_pass(slope, learnt)

            error, slope = slopes_of(len(PASSES))
            if turn < 2:  # another moment too: after a pass over few cells, or the first over all
                earlier = FEW + 1 if first else 1 + self.updates // ROUND % FEW
                for mine, its in zip(slope, slopes_of(earlier)[1], strict=False):
                    mine += EARLY * its
            for mine in slope[: FEW - first]:
                mine *= ROUND  # for the updates that take them as they are
            loss = sum((s * b).sum()
                       for s, b in zip(slope, bundles[first:], strict=True)) / len(target)
            loss.backward(inputs=weights)
        return {"actor/error": error}

    def paint(
        self, target: torch.Tensor, first: int
    ) -> tuple[list[torch.Tensor], list[np.ndarray]]:
        """Paint targets (B, 3, 128, 128) in [0, 1] in four passes.

        first: of the passes whose bundles have a gradient.  Returns their bundles, (B, cells,
        13 N), and the canvases (B, 128, 128, 3) BGR in [0, 1] after each pass.
        """
        count, bundles, canvases, layer = len(target), [], [], Folded()
        canvas = np.zeros((count, WIDTH, WIDTH, 3), np.float32)
        for number, cells in enumerate(PASSES):
            with torch.set_grad_enabled(number >= first):
                seen = self.last_map(as_planes(canvas), target, drawn(number, count), layer)
                bundles.append(torch.sigmoid(in_full(self.actor.fc, seen[:, list(cells)])).cpu())
            paint_on(canvas, bundles[-1].detach().reshape(count, -1, STROKE_DIM))
            canvases.append(canvas.copy())
        return bundles, canvases


def drawn(number: int, count: int) -> torch.Tensor:
    """Steps (count,) of a pass: each cell's is its own, and which one all see is chance."""
    begun = sum(map(len, PASSES[:number]))
    return begun + torch.randint(len(PASSES[number]), (count,))


def share_of(inputs: torch.Tensor, deviation: torch.Tensor, taps: int = 1) -> torch.Tensor:
    """Shares (N, C) of a step that a layer's weights go, taps for each input and output.

    inputs: mean sizes (C,); deviation: of the outputs (N,).  All inputs have a like part in what an
    output moves; of those that hardly are there, a step stays bounded.
    """
    usual = inputs[inputs <= inputs.quantile(0.95)].mean()  # without a few that are huge
    share = REACH * deviation[:, None] / (taps * len(inputs) * (inputs + 0.1 * usual + 1e-6))
    return share.clamp(max=FARTHEST)


class Folded:
    """Layers of an actor, a normalisation by the statistics it has and a convolution folded into
    one when they are first used; gradients flow."""

    def __init__(self) -> None:
        self.known: dict[nn.Conv2d, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
        """What the two make of x."""
        if conv not in self.known:
            with torch.enable_grad():  # the first to use it may need none
                scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
                weight = (conv.weight * scale[:, None, None, None]).contiguous(
                    memory_format=torch.channels_last)
                self.known[conv] = weight, norm.bias - norm.running_mean * scale
        return convolve(x, *self.known[conv], conv.stride, conv.padding)


def as_planes(canvas: np.ndarray) -> torch.Tensor:
    """Canvases (B, 128, 128, 3) as (B, 3, 128, 128)."""
    return torch.from_numpy(canvas).permute(0, 3, 1, 2).contiguous()


def in_order(bundles: list[torch.Tensor]) -> torch.Tensor:
    """The bundles of some passes, (B, cells, 13 N), as strokes (B, n, 13)."""
    return torch.cat(bundles, 1).reshape(len(bundles[0]), -1, STROKE_DIM)


def by_pass(strokes: torch.Tensor, bundles: list[torch.Tensor]) -> list[torch.Tensor]:
    """The other way round: strokes (B, n, 13) as such bundles."""
    counts = [bundle.shape[1] for bundle in bundles]
    numbers = strokes.reshape(len(strokes), sum(counts), -1)
    return [part.clone() for part in numbers.split(counts, 1)]


def paint_on(canvas: np.ndarray, strokes: torch.Tensor) -> None:
    """Paint strokes (B, n, 13) on canvases (B, 128, 128, 3), in place, one below the other."""
    count, each, _ = strokes.shape
    tops = np.repeat(WIDTH * np.arange(count), each)
    paint_exact(on_canvas(strokes.reshape(-1, STROKE_DIM), tops, WIDTH * count),
                canvas.reshape(-1, WIDTH, 3))


def on_canvas(strokes: torch.Tensor, tops: np.ndarray, height: int) -> Strokes:
    """Strokes (n, 13), each on a square tile of its own top (n,), on a canvas of 128 columns."""
    numbers, left = strokes.numpy(), np.zeros_like(tops)
    return Strokes("bezier", height, WIDTH, np.ascontiguousarray(numbers[:, :SHAPE_DIM]),
                   np.ascontiguousarray(numbers[:, SHAPE_DIM:]),
                   np.stack((tops, left, left + WIDTH), 1),
                   np.stack((tops, left, tops + WIDTH, left + WIDTH), 1))


def slopes(
    strokes: torch.Tensor, target: torch.Tensor, below: np.ndarray | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared errors' mean, and the gradient (B, n, 13) of each to its painting's strokes.

    strokes: (B, n, 13); target: (B, 3, 128, 128) in [0, 1]; below: what they are painted on,
    (B, 128, 128, 3), or None: black.
    """
    errors, found = [], torch.zeros_like(strokes)
    for number, (numbers, slope) in enumerate(zip(strokes, found, strict=True)):
        painting = on_canvas(numbers, np.zeros(len(numbers), np.int64), WIDTH)
        picture = target[number].permute(1, 2, 0).contiguous().numpy()
        shapes = torch.from_numpy(painting.shapes).requires_grad_()
        placed = place(painting, shapes)
        result = gradient(Boxes(painting, placed, margin=1), painting.colours, picture,
                          None if below is None else below[number])
        descend(placed, result)
        slope[:, :SHAPE_DIM] = shapes.grad
        slope[:, SHAPE_DIM:] = torch.from_numpy(result.colours)
        errors.append(np.square(result.canvas - picture).mean())
    return torch.tensor(errors).mean(), found * (2 / target[0].numel())
