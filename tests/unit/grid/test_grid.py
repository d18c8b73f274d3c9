"""The grid method: passes over grid cells, and learning by gradients of whole paintings."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from DRL.actor import Actor, fold_batch_norm, folded_weights, load_actor, normalized_convolutions
from DRL.learner import Setup
from grid.learner import MUON_RMS, GridLearner
from grid.passes import DETAILS, FULL, PAINTING, QUADRANTS, pass_actions, plan, select_cells
from grid.policy import GridPolicy
from grid.start import imitation_batch, initialize, target_strokes
from helpers import assert_same, save_run, state_of, tick, training_of
from painting.stroke_file import absolute_points, absolute_radii
from Renderer.canvas import as_float
from Renderer.layout import Layout, stacked
from Renderer.raster import paint_exact
from Renderer.raster_gradient import stroke_gradient
from running.device import Precision, pick_device
from running.optim import orthogonal
from running.ranks import Ranks
from utils.command import UserError
from utils.weights import half_state


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Return 64 smooth pictures (64, 3, 128, 128) uint8."""
    seeds = torch.rand(64, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(seeds, 128, mode="bicubic").clamp(0, 1)
    return (255 * smooth).to(torch.uint8)


def new_learner(family: str = "bezier", precision: str = "fp32") -> GridLearner:
    """Return a learner that paints at once, without imitating first."""
    torch.manual_seed(0)
    render = SimpleNamespace(family=family)
    learner = GridLearner(Setup(render=render, precision=Precision(precision, pick_device("cpu"))))
    learner.imitation_updates = 0
    return learner


@pytest.fixture(scope="module")
def learner(pictures) -> GridLearner:
    """Return a learner whose actor has just been initialized."""
    learner = new_learner()
    initialize(learner.actor, as_float(pictures[:16]), "bezier")
    return learner


@pytest.mark.parametrize("steps", [*range(1, 60), 100])
def test_plan_paints_every_step(steps):
    for passes in (plan(steps), plan(steps, on_top=True)):
        assert sum(which.bundles for which in passes) == steps
        assert all(0 < which.bundles <= which.side**2 for which in passes)


def test_planned_passes_have_their_order():
    assert [(which.zoom, which.side, which.bundles) for which in PAINTING] == [
        (1, 2, 4), (1, 4, 16), (2, 8, 20)]
    assert [which.bundles for which in plan(20)] == [4, 13, 3]
    assert [which.bundles for which in plan(90, on_top=True)] == [16, 40, 34]


def test_selected_cells_have_the_largest_errors():
    target = torch.zeros(2, 3, 128, 128)
    canvas = target.clone()
    canvas[0, :, 40:60, 70:90] = 1  # cell 6 of 16, quadrant 1 of 4
    canvas[0, :, 100:110, :10] = 0.5  # cell 12, quadrant 2
    canvas[1, 0, :, 127] = 1  # cells 3, 7, 11, 15, quadrants 1 and 3
    assert select_cells(canvas, target, FULL._replace(bundles=2))[0].tolist() == [6, 12]
    assert select_cells(canvas, target, FULL._replace(bundles=4))[1].tolist() == [3, 7, 11, 15]
    assert select_cells(canvas, target, FULL).tolist() == 2 * [list(range(16))]
    assert select_cells(canvas, target, QUADRANTS._replace(bundles=2)).tolist() == [[1, 2], [1, 3]]
    assert select_cells(canvas, target, DETAILS._replace(bundles=2))[0].tolist() == [28, 29]


@pytest.mark.parametrize("family", ["bezier", "triangle", "round", "bezierwotrans"])
def test_strokes_on_enlarged_quadrants_are_those_on_the_picture(family):
    chance = torch.Generator().manual_seed(0)
    corners = torch.rand(1, 3, 2, 2, generator=chance)
    picture = corners.repeat_interleave(64, 2).repeat_interleave(64, 3)
    chosen = torch.rand(4, 16, 65, generator=chance)  # on the quadrants

    def actor(canvas, target, progress):
        assert torch.equal(target[..., 64, 64], corners[0].flatten(1).T)
        return chosen

    inputs = actor, torch.zeros_like(picture), picture
    actions = pass_actions(*inputs, DETAILS._replace(bundles=64), family)
    tiles = np.array([(top, left, 64) for top in (0, 64) for left in (0, 64)])
    quadrants = Layout(128, 128, tiles, np.tile((0, 0, 128, 128), (4, 1)))
    whole = quadrants._replace(tiles=np.tile((0, 0, 128), (4, 1)))
    cells = torch.arange(64).view(2, 4, 2, 4).transpose(1, 2).reshape(4, 16)  # of each quadrant
    strokes = whole.strokes(family, actions[0, cells].flatten(1))
    expected = quadrants.strokes(family, chosen.flatten(1))
    assert np.allclose(absolute_points(strokes), absolute_points(expected), atol=1e-3)
    assert np.allclose(absolute_radii(strokes), absolute_radii(expected), atol=0.251)  # pixels
    assert np.array_equal(strokes.shapes[:, 8:], expected.shapes[:, 8:])
    assert np.array_equal(strokes.colors, expected.colors)
    selected = select_cells(*inputs[1:], DETAILS)[0]
    assert torch.equal(pass_actions(*inputs, DETAILS, family), actions[:, selected])


def test_folded_weights_give_the_same_actions_and_gradients(learner, pictures):
    """In fp64: in fp32 rounding turns a ReLU here and there on or off."""
    actor, folded = (copy.deepcopy(each).double() for each in (learner.actor, learner.folded))
    target = as_float(pictures[:2]).double()
    inputs = target * 0.3, target, torch.tensor([0.2, 0.7]).double()
    actor.requires_grad_(True)
    outputs = actor(*inputs), functional_call(folded, folded_weights(actor), inputs)
    assert torch.allclose(*outputs, atol=1e-9)
    weights = [actor.layer3[0].conv1.weight, actor.layer4[1].bn2.weight, actor.bn1.bias]
    grads = [torch.autograd.grad(output.square().sum(), weights) for output in outputs]
    for grad, folded_grad in zip(*grads, strict=True):
        assert torch.allclose(grad, folded_grad, rtol=1e-7, atol=1e-9)


def test_training_and_painting_see_the_same_canvases(learner, pictures):
    target = as_float(pictures[:4])
    with torch.no_grad():
        bundles, canvases = learner.paint(learner.folded_actor(), target)
    policy = GridPolicy(learner.actor, learner.render, learner.precision)
    *_, (action, last) = policy.paint(torch.zeros_like(target), target, 40)
    assert torch.allclose(action, bundles[-1][:, -1], atol=1e-4)
    error = (last - target).square().mean()
    trained = np.square(canvases[-1] - stacked(target)).mean()
    assert error.item() == pytest.approx(trained, rel=1e-3)
    errors, _ = policy.measure(pictures[:4], 40, 4)
    assert errors[-1].item() == pytest.approx(trained, rel=1e-3)


@pytest.mark.parametrize("family", ["bezier", "triangle", "round", "bezierwotrans"])
def test_target_strokes_paint_the_picture_coarsely(pictures, family):
    target = as_float(pictures[:8])
    errors, layout = [target.square().mean().item()], Layout.column(len(target))
    for which in (QUADRANTS, FULL, DETAILS):
        canvas, actions = imitation_batch(target, which, family)
        canvas = stacked(canvas)
        paint_exact(layout.strokes(family, actions.flatten(1)), canvas)
        errors.append(np.square(canvas - stacked(target)).mean())
    assert (np.diff(np.log(errors)) < np.log(0.95)).all()


def test_gradient_on_a_canvas_is_that_in_the_whole_painting(pictures):
    picture, column = stacked(as_float(pictures[:1])), Layout.column(1)
    strokes = column.strokes(
        "bezier", target_strokes(as_float(pictures[:1]), 4, "bezier").reshape(1, -1))
    canvas, painting = np.zeros((2, *picture.shape), np.float32)
    paint_exact(strokes, painting)
    paint_exact(strokes[:30], canvas)
    before = canvas.copy()
    (error, grad), (part_error, part_grad) = (
        stroke_gradient(strokes, picture), stroke_gradient(strokes[30:], picture, canvas))
    assert np.array_equal(canvas, before)
    assert error == pytest.approx(np.square(painting - picture).mean(), rel=1e-4)
    assert part_error == pytest.approx(error, rel=1e-4)
    assert torch.allclose(part_grad, grad[30:], rtol=1e-3, atol=1e-8)
    errors = []
    for change in (0.05, -0.1):  # exact, as the error is quadratic in the colors
        strokes.colors[40, 1] += change
        errors.append(stroke_gradient(strokes, picture)[0])
    difference = (errors[0] - errors[1]) / 0.1
    assert grad[40, 11].item() == pytest.approx(difference, rel=0.02, abs=2e-6)


def test_lr_multipliers_move_the_outputs_of_all_layers_alike(learner, pictures):
    """If all weights of a layer go up; with equal steps some layers move 30 times more."""
    learner.set_multipliers(as_float(pictures[:4]))
    moves = []

    def hook(number: int):
        def measure(layer, inputs, y) -> None:
            moves.append([
                (F.conv2d(inputs[0], weight.expand_as(layer.weight), None, layer.stride,
                          layer.padding) / y.std((0, 2, 3), keepdim=True)
                 ).mean((0, 2, 3)).median().item()
                for weight in (learner.multipliers[number], torch.ones(()))])
        return measure

    handles = [conv.register_forward_hook(hook(number)) for number, (_, conv, *_) in
               enumerate(normalized_convolutions(learner.actor))]
    target, progress = as_float(pictures[:8]), torch.tensor([0, 0.1, 0.2, 0.6]).repeat(2)
    with torch.no_grad():
        learner.actor(target.roll(8, 3) * 0.7, target, progress)
    for handle in handles:
        handle.remove()
    scaled, plain = np.array(moves).T
    assert scaled.min() > 30 and scaled.max() < 300
    assert plain.max() > 30 * plain.min()


@pytest.mark.parametrize("shape", [(40, 90), (90, 40)])
@pytest.mark.parametrize("dtype, off", [(torch.float32, 1e-3), (torch.bfloat16, 0.1)])
def test_orthogonal_matrix_has_singular_values_of_about_1(shape, dtype, off):
    """But for those that are much smaller than the largest."""
    chance = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(side, 30, generator=chance)).Q for side in shape)
    matrix = left @ torch.diag(torch.logspace(0, -2, 30)) @ right.T
    along = left.T @ orthogonal(1e-7 * matrix, dtype) @ right
    assert 0.6 < along.diagonal().min() and along.diagonal().max() < 1.25
    assert (along - torch.diag(along.diagonal())).abs().max() < off
    assert not orthogonal(0 * matrix, dtype).any()


def test_processes_share_the_optimizer_step(pictures, monkeypatch):
    learner = new_learner()
    learner.set_multipliers(as_float(pictures[:4]))
    before = [weight.clone() for weight in learner.filters]

    def step(ranks: SimpleNamespace | Ranks) -> list[torch.Tensor]:
        monkeypatch.setattr(learner, "ranks", ranks)
        learner.optimizers["actor"].param_groups[0]["lr"] = 1e-3
        for number, weight in enumerate(learner.actor.parameters()):
            chance = torch.Generator().manual_seed(number)
            weight.grad = torch.randn(weight.shape, generator=chance)
        for weight, momentum, start in zip(learner.filters, learner.momenta, before, strict=True):
            weight.copy_(start)
            momentum.zero_()
        learner.step()
        return [start - weight for weight, start in zip(learner.filters, before, strict=True)]

    alone = step(Ranks())
    parts = [step(SimpleNamespace(rank=rank, world=2, all_reduce=lambda part: part))
             for rank in range(2)]
    for whole, one, other, multiplier in zip(alone, *parts, learner.multipliers, strict=False):
        assert torch.allclose(whole, one + other, atol=1e-6)
        assert one.any() != other.any()
        rms = (whole / 1e-3 / multiplier).square().mean().sqrt().item()
        assert rms == pytest.approx(MUON_RMS, rel=0.4)


@pytest.mark.parametrize("family", ["bezier", pytest.param("triangle", marks=pytest.mark.slow)])
def test_learning_imitates_and_then_lowers_the_error(pictures, family):
    learner = new_learner(family, "auto")
    learner.imitation_updates = 30
    errors = [learner.update(pictures[4 * update % 64 :][:4], 0.1)["actor/error"].item()
              for update in range(50)]
    assert np.mean(errors[24:30]) < 0.7 * np.mean(errors[:6])
    assert np.mean(errors[-5:]) < 0.8 * np.mean(errors[30:35])
    statistics = learner.actor.bn1.running_mean.clone()
    learner.update(pictures[:4], 0.1)
    assert torch.equal(learner.actor.bn1.running_mean, statistics)


def test_loaded_actor_has_the_read_out_of_its_file(tmp_path):
    for readout in ("mean", "grid"):
        torch.save(half_state(Actor(2, readout), family="round", readout=readout),
                   tmp_path / f"{readout}.pkl")
        actor, family = load_actor(tmp_path / f"{readout}.pkl", "the actor", "try another")
        assert (actor.readout, actor.bundle, family) == (readout, 2, "round")
    state = torch.load(tmp_path / "grid.pkl", weights_only=True)
    torch.save(dict(state), tmp_path / "plain.pkl")  # without metadata, as published ones
    assert load_actor(tmp_path / "plain.pkl", "the actor", "")[0].readout == "mean"
    state._metadata[""]["readout"] = "max"
    torch.save(state, tmp_path / "max.pkl")
    with pytest.raises(UserError, match="has the read-out max, which is not known here"):
        load_actor(tmp_path / "max.pkl", "the actor", "try another")


def test_grid_read_out_is_the_last_layer_at_each_grid_cell(pictures):
    torch.manual_seed(0)
    actor, target = Actor(readout="grid").eval(), as_float(pictures[:2])
    inputs = target * 0.5, target, torch.tensor([0.0, 0.6])
    with torch.no_grad():
        cells = actor(*inputs)
        actor.readout = "mean"
        mean = actor(*inputs)
        assert cells.shape == (2, 16, 65)
        assert torch.allclose(cells.logit().mean(1), mean.logit(), atol=1e-4)
        assert torch.allclose(fold_batch_norm(actor)(*inputs), mean, atol=1e-5)


def test_shifted_layout_covers_the_canvas():
    tops = np.array([(128 * row, 128 * column, 128) for row in range(2) for column in range(3)])
    layout = Layout(256, 384, tops, np.hstack((tops[:, :2], tops[:, :2] + 128)))
    shifted = layout.shifted()
    assert len(shifted.tiles) == 12
    cover = np.zeros((512, 640), int)  # with 128 pixels more around the canvas
    for top, left, side in shifted.tiles + (128, 128, 0):
        cover[top : top + side, left : left + side] += 1
    assert (cover[128:-128, 128:-128] == 1).all()
    assert (shifted.clips == (0, 0, 256, 384)).all()
    canvas = np.random.default_rng(0).random((256, 384, 3), np.float32)
    corner = shifted.cut(canvas)[0]
    assert torch.equal(corner[:, 64:, 64:], torch.from_numpy(canvas[:64, :64]).permute(2, 0, 1))
    assert torch.equal(corner[:, :64], corner[:, 64:].flip(1))


@pytest.mark.parametrize("init", [False, True])
def test_resume_of_grid_training_is_bit_exact(checkout, tmp_path, init):
    flags = ("--method", "grid", "--max_step", 40, "--batch_size", 40)
    if init:
        torch.save(half_state(Actor(readout="grid"), readout="grid"), tmp_path / "actor.pkl")
    first = training_of(checkout, *flags, *(("--init", tmp_path) if init else ()), memory=False)
    tick(first, 2)
    run = save_run(first, tmp_path)
    tick(first, 2)
    second = training_of(checkout, *flags, "--seed", 99, memory=False)
    second.load(run)
    tick(second, 2)
    assert_same(state_of(second), state_of(first))
