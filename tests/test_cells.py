"""The method of cells: a gate by the step, and all bundles of a painting in four passes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from DRL.actor import Actor
from DRL.cells import SIZE, Cells, Folded, as_planes, by_pass, in_order, paint_on, slopes
from DRL.convolution import ByProducts
from DRL.learner import Setup
from DRL.orthogonal import orthogonal
from DRL.wiring import (
    BEFORE,
    EVERY,
    MEANS,
    PASSES,
    fixed,
    is_wired,
    plain_strokes,
    stages,
    through,
)
from Renderer.canvas import as_float
from Renderer.model import Renderer
from running.device import Precision, pick_device
from running.ranks import Ranks
from running.run import Run
from test_training import assert_same, everything, go_on, training_of
from utils.weights import half_state


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """64 pictures (64, 3, 128, 128) uint8 that are smooth."""
    seeds = torch.rand(64, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(seeds, 128, mode="bicubic").clamp(0, 1)
    return (255 * smooth).to(torch.uint8)


@pytest.fixture(scope="module")
def learner(pictures) -> Cells:
    """One that has begun."""
    torch.manual_seed(0)
    cpu = pick_device("cpu")
    learner = Cells(Setup(render=None, precision=Precision("fp32", cpu)))
    learner.begin(pictures)
    return learner


CELL_OF = [cell for cells in PASSES for cell in cells]  # a step


def test_a_map_is_what_the_actor_comes_to(learner, pictures):
    """With normalisations folded in."""
    target, actor = as_float(pictures[:4]), learner.actor
    canvas, step = target.flip(0), torch.tensor([0, 4, 8, 39])
    with torch.no_grad():
        x = F.relu(actor.bn1(actor.conv1(actor.planes((canvas, target), step / 40))))
        for stage in stages(actor):
            x = stage(x)
        fast = learner.last_map(canvas, target, step, Folded())
    assert torch.allclose(x.flatten(2).mT / 16, fast, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inputs, filters, size, kernel, stride", [
    (9, 8, 16, 3, 2), (8, 12, 8, 3, 1), (8, 12, 9, 1, 2)])
def test_a_convolution_by_products_has_the_gradients_of_the_plain_one(
    inputs, filters, size, kernel, stride
):
    chance = torch.Generator().manual_seed(0)
    given = [torch.randn(shape, generator=chance) for shape in (
        (3, inputs, size, size), (filters, inputs, kernel, kernel), (filters,))]
    given[0] = given[0].contiguous(memory_format=torch.channels_last)
    both = []
    for convolution in (ByProducts.apply, F.conv2d):
        own = [tensor.clone().requires_grad_() for tensor in given]
        y = convolution(*own, (stride, stride), (kernel // 2, kernel // 2))
        y.square().sum().backward()
        both.append([y, *(tensor.grad for tensor in own)])
    for fast, plain in zip(*both, strict=True):
        assert fast.shape == plain.shape
        assert torch.allclose(fast, plain, rtol=1e-4, atol=1e-3)


def test_colours_and_signs_reach_the_last_map(learner, pictures):
    target, step = as_float(pictures[:4]), torch.tensor([3, 7, 8, 24])
    with torch.no_grad():
        seen = learner.last_map(target.flip(0), target, step, Folded())
    means = F.pixel_unshuffle(F.avg_pool2d(target, 8), 4).flatten(2).mT  # (4, 16 cells, 48)
    assert torch.allclose(seen[1:, :, 48:96], means[1:], atol=1e-4)
    assert not seen[0, :, :96].any()
    signs = 16 * seen[:, 5, [*range(MEANS[4], MEANS[4] + 5), BEFORE]]
    place = 32 / 127
    assert torch.allclose(signs, torch.tensor([
        [3 / 40, place, place, 0, 0, 1], [7 / 40, place, place, 1, 0, 1],
        [8 / 40, place, place, 1, 0, 0], [24 / 40, place, place, 1, 1, 0],
    ]), atol=1e-5)


def test_a_shut_actor_paints_what_the_steps_cell_alone_would(learner, pictures):
    """In half precision too, as it is stored."""
    step = torch.arange(40)
    target = as_float(pictures[:40])
    canvas = target * torch.rand(40, 1, 1, 1, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        every = torch.sigmoid(learner.actor.fc(learner.last_map(canvas, target, step, Folded())))
        alone = every[step, CELL_OF]
        actor = learner.finished()
        assert torch.allclose(actor(canvas, target, step / 40), alone, atol=1e-5)
        stored = Actor()
        stored.load_state_dict(half_state(actor))
        stored.eval()
        assert (stored(canvas, target, step / 40) - alone).abs().max() < 0.02


@pytest.mark.parametrize("steps", [20, 50, 100])
def test_paintings_of_other_lengths_have_a_cell_for_every_step(learner, pictures, steps):
    step = torch.arange(steps) * 40 / steps
    target = as_float(pictures[:1]).expand(steps, -1, -1, -1)
    with torch.no_grad():
        seen = learner.last_map(target * 0.5, target, step, Folded())
        every = torch.sigmoid(learner.actor.fc(seen))
        alone = learner.finished()(target * 0.5, target, step / 40)
    nearest = (every - alone[:, None]).abs().amax(2)
    assert nearest.amin(1).max() < 1e-4
    assert set(nearest.argmin(1).tolist()) == set(range(16))


def test_only_an_actor_with_a_gate_is_gone_on_from(learner, pictures):
    actor = learner.finished()
    stored = Actor()
    stored.load_state_dict(half_state(actor))
    stored.eval()
    assert is_wired(actor) and is_wired(stored)
    assert not is_wired(Actor())
    again = Cells(learner.setup)
    with pytest.raises(ValueError, match="not trained with --method cells"):
        again.go_on_from(Actor())
    actor.bn1.bias[MEANS[0] + 3 : MEANS[0] + 5].add_(100)  # of passes that begin elsewhere
    again.go_on_from(actor)
    assert torch.equal(again.actor.state_dict()["layer4.1.conv2.weight"],
                       again.ema_actor.state_dict()["layer4.1.conv2.weight"])
    target, step = as_float(pictures[:2]), torch.tensor([2, 30])
    with torch.no_grad():
        mine, its = (one.last_map(target * 0.3, target, step, Folded()) for one in (again, learner))
    assert torch.allclose(mine, its, atol=1e-4)


def test_passes_are_ordered_as_the_actor_alone_paints():
    number = torch.arange(40.0)[None, :, None].expand(2, -1, 65)
    bundles = list(number.split([len(cells) for cells in PASSES], 1))
    strokes = in_order(bundles)
    assert torch.equal(strokes.reshape(2, 40, 65), number)
    for mine, its in zip(by_pass(strokes, bundles), bundles, strict=True):
        assert torch.equal(mine, its)


def test_a_new_actor_paints_plain_strokes(learner, pictures):
    target, step = as_float(pictures[-16:]), torch.full((16,), EVERY)
    with torch.no_grad():
        seen = learner.last_map(target * 0, target, step, Folded())
        bundles = torch.sigmoid(learner.actor.fc(seen))
    difference = (bundles - plain_strokes(target, 4, 0.6)).abs().mean()
    assert difference < 0.05
    assert (bundles - bundles.mean((0, 1))).abs().mean() > 2 * difference


def test_slopes_are_those_of_the_mean_squared_error(pictures):
    """By colours, whose gradient is exact."""
    target = as_float(pictures[:2])
    strokes = plain_strokes(target, 4, 0.6).reshape(2, -1, 13)[:, :40]
    error, slope = slopes(strokes, target)

    def errors(strokes: torch.Tensor) -> np.ndarray:
        canvas = np.zeros((2, 128, 128, 3), np.float32)
        paint_on(canvas, strokes)
        return np.square(canvas - target.permute(0, 2, 3, 1).numpy()).mean((1, 2, 3))

    assert error.item() == pytest.approx(errors(strokes).mean(), rel=1e-4)
    for number, colour in ((0, 10), (17, 11), (39, 12)):
        moved = strokes.clone()
        moved[:, number, colour] += 0.05
        back = strokes.clone()
        back[:, number, colour] -= 0.05
        difference = (errors(moved) - errors(back)) / 0.1
        assert slope[:, number, colour].numpy() == pytest.approx(difference, rel=0.02, abs=2e-6)


def test_strokes_on_a_canvas_have_the_gradient_that_they_have_in_the_painting(pictures):
    target = as_float(pictures[:2])
    strokes = plain_strokes(target, 4, 0.6).reshape(2, -1, 13)
    below = np.zeros((2, 128, 128, 3), np.float32)
    paint_on(below, strokes[:, :30])
    before = below.copy()
    error, slope = slopes(strokes, target)
    same, part = slopes(strokes[:, 30:], target, below)
    assert np.array_equal(below, before)
    assert same.item() == pytest.approx(error.item(), rel=1e-4)
    assert torch.allclose(part, slope[:, 30:], rtol=1e-3, atol=1e-8)


def states(learner: Cells, pictures: torch.Tensor) -> torch.Tensor:
    """What its actor sees of half painted pictures, at steps of every pass."""
    target = as_float(pictures)
    step = torch.tensor([2, 6, 20, 31]).repeat(len(target))[: len(target)]
    return learner.planes(target.roll(8, 3) * 0.7, target, step)


def test_a_step_moves_the_outputs_of_all_layers_alike(learner, pictures):
    """Where all weights of a layer go up; a step that is not shared moves some 30 times more."""
    learner.measure(as_float(pictures[:4]))
    shares = dict(zip(map(id, learner.actor.parameters()), learner.shares, strict=True))
    moves = []

    def layer(conv, norm, x):
        y, free = conv(x), slice(learner.wiring.wired.get(norm, 0), None)
        moves.append([
            (F.conv2d(x, weight.expand_as(conv.weight), None, conv.stride, conv.padding)
             / y.std((0, 2, 3), keepdim=True)).mean((0, 2, 3))[free].median().item()
            for weight in (shares[id(conv.weight)], torch.ones(()))])
        return norm(y)

    with torch.no_grad():
        through(learner.actor, states(learner, pictures[:8]), layer)
    shared, whole = np.array(moves).T
    assert 20 < shared.min() and shared.max() < 120
    assert whole.max() > 30 * whole.min()


@pytest.mark.parametrize("shape", [(40, 90), (90, 40)])
def test_an_orthogonal_step_has_singular_values_of_about_1(shape):
    """Of those that are not much smaller than the largest; what is 0 stays so."""
    chance = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(side, 30, generator=chance)).Q for side in shape)
    left[5:8] = right[5:8] = 0  # as where outputs or inputs are fixed
    matrix = left @ torch.diag(torch.logspace(0, -2, 30)) @ right.T
    turned = orthogonal(1e-7 * matrix)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    along = u[:, :30].T @ turned @ v[:30].T
    assert 0.6 < along.diagonal().min() and along.diagonal().max() < 1.25
    assert (along - torch.diag(along.diagonal())).abs().max() < 1e-3
    assert not turned[5:8].any() and not turned[:, 5:8].any()
    assert not orthogonal(0 * matrix).any()


def test_processes_share_what_one_alone_would_step(learner, pictures, monkeypatch):
    learner.measure(as_float(pictures[:4]))
    shares = [share for share in learner.shares if share.dim() == 4]
    for number, weight in enumerate(learner.filters):
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
    alone, parts = learner.orthogonal_steps(shares), []
    for rank in range(2):
        ranks = SimpleNamespace(rank=rank, world=2, total=lambda part: part)
        monkeypatch.setattr(learner, "ranks", ranks)
        for momentum in learner.momenta:
            momentum.zero_()
        parts.append(learner.orthogonal_steps(shares))
    for whole, mine, its, share in zip(alone, *parts, shares, strict=True):
        assert torch.equal(whole, mine + its)
        assert mine.any() != its.any()
        free = share.expand_as(whole) > 0
        size = (whole[free] / share.expand_as(whole)[free]).square().mean().sqrt().item()
        assert size == pytest.approx(SIZE, rel=0.4)
    for weight, momentum in zip(learner.filters, learner.momenta, strict=True):
        momentum.zero_()
        weight.grad = None


def test_learning_lowers_the_error_and_keeps_the_wiring(pictures, monkeypatch):
    torch.manual_seed(0)
    learner = Cells(Setup(render=None, precision=Precision("auto", pick_device("cpu"))))
    learner.begin(pictures)
    before = {name: tensor.clone() for name, tensor in learner.actor.state_dict().items()}
    kept = [tensor[at].clone() for tensor, at in fixed(learner.actor)]
    errors, canvases, paint = [], [], learner.paint

    def recorded(*inputs):
        bundles, canvases[:] = paint(*inputs)
        return bundles, canvases

    monkeypatch.setattr(learner, "paint", recorded)
    for update in range(24):
        some = pictures[4 * update % 64 :][:4]
        errors.append(learner.update(None, some, 0.1)["actor/error"].item())
        found = (as_planes(canvases[-1]) - as_float(some)).square().mean().item()
        assert found == pytest.approx(errors[-1], rel=0.2)  # in another order
    assert np.mean(errors[-8:]) < 0.8 * np.mean(errors[:8])
    after = learner.actor.state_dict()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == ("running" in name or "tracked" in name), name
    for (tensor, at), value in zip(fixed(learner.actor), kept, strict=True):
        assert torch.equal(tensor[at], value)
    silent = []

    def layer(conv, norm, x):
        y = norm(conv(x))
        silent.append((y.amax((0, 2, 3)) <= 0).float().mean().item())
        return y

    with torch.no_grad():
        through(learner.actor, states(learner, pictures[:16]), layer)
    assert max(silent) < 0.2


def test_training_saves_an_actor_that_paints_and_goes_on_from_it(checkout, compiled):
    flags = ("--method", "cells", "--batch_size", 80, "--train_times", 3, "--env_batch", 2,
             "--validate_episodes", 1, "--device", "cpu")
    checkout.run("train.py", *flags)
    folder = checkout.root / "train_log" / "Paint-run1"
    out = checkout.run("test.py", "--actor", folder / "actor.pkl", "--max_step", 40, "--divide", 1)
    assert "200 strokes" in out
    checkout.run("train.py", *flags, "--init", folder)
    for family in ("bezierwotrans", "triangle"):
        state = torch.load(checkout.root / "renderer.pkl", weights_only=True)
        other = Renderer()
        other.load_state_dict(state)
        torch.save(half_state(other, family), checkout.root / f"{family}.pkl")
    checkout.refuse(tuple(("train.py", (*flags, *more), says) for more, says in (
        (("--renderer", "bezierwotrans.pkl"), "needs bezier strokes"),
        (("--renderer", "triangle.pkl"), "needs bezier strokes"),
        (("--init", "."), "was not trained with --method cells"),
        (("--max_step", 3), "needs --max_step 40, not 3"),
        (("--bundle", 4), "needs --bundle 5, not 4"),
        (("--fast",), "does not know --fast"),
        (("--batch_size", 50), "not a multiple of 40"),
        (("--rmsize", 5), "does not know --rmsize"),
        (("--warmup", 5), "does not know --warmup"),
        (("--episode_train_times", 5), "does not know --episode_train_times"),
        (("--tau", 0.1), "does not know --tau"),
    )))


def test_training_resumes_to_the_bit(checkout, tmp_path):
    flags = ("--method", "cells", "--max_step", 40, "--batch_size", 40)
    first = training_of(checkout, *flags, memory=False)
    go_on(first, 2)
    log = Run.create(tmp_path, "Paint", {}, Ranks())
    first.attach(log)
    first.save()
    go_on(first, 2)
    second = training_of(checkout, *flags, "--seed", 99, memory=False)
    second.load(log)
    go_on(second, 2)
    assert_same(everything(second), everything(first))
