"""The scanning painter, the actor that imitates it, and pictures that are smaller at first."""

import pytest
import torch
import torch.nn.functional as F

from conftest import ROOT
from DRL.actor import Actor
from DRL.apprentice import OPACITY, Apprentice, Journeyman, scan
from DRL.ddpg import learning
from DRL.rpm import Transitions
from golden_networks import image, u8
from monitor import free_photos
from Renderer.canvas import as_float, as_uint8, paint
from Renderer.model import Renderer, load_render
from test_training import TINY
from utils.device import Precision
from utils.weights import half_state, save_atomically

FP32 = Precision("fp32", torch.device("cpu"))


@pytest.mark.parametrize(("bundle", "steps"), [(5, 40), (8, 25), (1, 200)])
def test_the_scanning_painter_paints(bundle, steps):
    target = as_float(free_photos())
    assert len(target) == 4
    render, canvas = load_render(ROOT / "renderer.pkl", FP32), torch.zeros_like(target)
    for step in range(steps):
        canvas = paint(render, canvas, scan(target, torch.full((4,), step / steps), bundle))
    blurred = F.interpolate(F.interpolate(target, (12, 15), mode="area"), (128, 128))
    assert F.mse_loss(canvas, target) < 1.25 * F.mse_loss(blurred, target)


def test_its_strokes_by_hand():
    """Five rows downwards in the first eighth, then three bands of twelve rows: up, down, up."""
    target = torch.tensor([0.2, 0.4, 0.6])[:, None, None].expand(7, 3, 128, 128)
    steps = torch.tensor([0, 1, 4, 5, 16, 17, 39])
    strokes = scan(target, steps / 40).view(7, 5, 13)
    assert ((strokes >= 0) & (strokes <= 1)).all()
    assert torch.allclose(strokes[..., 10:], torch.tensor([0.2, 0.4, 0.6]))
    assert (strokes[..., 8:10] == OPACITY).all()
    assert strokes[:3, :, 6:8].min() > 3 * strokes[3:, :, 6:8].max()  # the radii
    middle = (strokes[..., 0] + strokes[..., 4]) / 2
    assert (middle == middle[:, :1]).all()  # side by side
    cell = 1 / 24  # half a fine one; after 11 of 35 / 3 bundles the row is at the edge
    rows = [0.1, 0.3, 0.9, 1 - cell, cell, cell + 1 / 35, 1 - 32 / 35 - cell]
    assert middle[:, 0].tolist() == pytest.approx(rows, abs=1e-3)
    assert torch.equal(strokes[..., 1], strokes[..., 5])
    tenths, fifteenths = (torch.arange(5) + 0.5) / 5, (torch.arange(5) + 0.5) / 15
    for step, columns in enumerate((tenths, tenths, tenths, fifteenths, fifteenths,
                                    fifteenths + 1 / 3, fifteenths + 2 / 3)):
        assert torch.allclose(strokes[step, :, 1], columns, atol=1e-6)


def test_the_actor_learns_from_what_the_scanning_painter_would_do():
    def no_renderer(strokes):
        raise AssertionError("the renderer was called")

    torch.manual_seed(0)
    agent = Apprentice(no_renderer, FP32, discount=0.0, reward="scan", shrink=4)
    assert set(agent.networks) == {"actor"}
    target = u8(image(5, 3, 106))
    batch = Transitions(u8(image(5, 3, 105)), torch.rand(5, 65), u8(image(5, 3, 107)),
                        torch.zeros(5, dtype=torch.int64), torch.tensor([0, 4, 20, 39, 5]))
    losses = [agent.update(batch, target, {"actor": 1e-3})["actor/loss"].item() for _ in range(15)]
    assert losses[-1] < 0.3 * losses[0]

    wanted = scan(as_float(target), batch.step / 40)
    agent.calls["actor"] = lambda *inputs: wanted
    loss, metrics = agent.policy_loss(batch, as_float(target))
    assert loss == metrics["difference"] == 0
    seen = []
    agent.calls["actor"] = lambda *inputs: seen.append(inputs) or torch.full_like(wanted, 0.5)
    loss, metrics = agent.policy_loss(batch, as_float(target))
    assert metrics["difference"] == F.mse_loss(wanted, torch.full_like(wanted, 0.5))
    canvas, _, progress = seen[0]
    assert torch.equal(canvas, as_float(batch.canvas)[[4, 1, 2, 3, 0]])  # every fourth another's
    assert torch.equal(progress, batch.step / 40)
    entropy = torch.special.entr(wanted) + torch.special.entr(1 - wanted)
    assert loss.item() == pytest.approx((0.6931472 - entropy).mean().item(), abs=1e-5)


def test_a_patch_counts_where_the_scanning_painter_would_paint():
    """Its own strokes spoil nothing; others count outside the patch only where they spoil."""
    render = load_render(ROOT / "renderer.pkl", FP32)
    agent = Journeyman(render, FP32, discount=0.0, reward="patch")
    assert set(agent.networks) == {"actor"}
    target = as_float(free_photos())[[0, 1, 2, 3, 0]]
    step = torch.tensor([0, 7, 20, 39, 30])
    shades = as_uint8(torch.linspace(0.3, 0.7, 5)[:, None, None, None].expand_as(target))
    batch = Transitions(shades, torch.rand(5, 65), shades, torch.zeros(5, dtype=torch.int64), step)
    canvas = as_float(shades)[[4, 1, 2, 3, 0]]  # every fourth another's

    def losses(action):
        def actor(seen, *inputs):
            assert torch.equal(seen, canvas)
            return action
        agent.calls["actor"] = actor
        loss, metrics = agent.policy_loss(batch, target)
        assert loss.item() == pytest.approx(sum(metrics.values()).item(), rel=1e-5)
        return loss.item(), metrics["spoilt"].item()

    wanted = scan(target, step / 40)
    patch = paint(render, torch.zeros_like(target), scan(torch.ones_like(target), step / 40))
    after = (paint(render, canvas, wanted) - target).square()
    by_hand = (patch * after).sum((1, 2, 3)) / patch.sum((1, 2, 3))
    here, spoilt_here = losses(wanted)
    assert here - spoilt_here == pytest.approx(by_hand.mean().item(), rel=1e-5)
    elsewhere, spoilt = losses(scan(target, (step + 3) % 40 / 40))
    assert here < elsewhere
    _, white = losses(scan(torch.ones_like(target), (step + 3) % 40 / 40))
    assert spoilt_here < 1e-3 < spoilt < white
    _, nothing = losses(torch.zeros(5, 65))  # strokes of no opacity
    assert nothing < 1e-3

    with learning(agent.actor):
        agent.calls["actor"] = agent.actor
        agent.policy_loss(batch, target)[0].backward()
    assert agent.actor.fc.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("shrink", [2, 4])
def test_an_actor_that_shrinks_sees_means(shrink):
    torch.manual_seed(0)
    actor, planes = Actor(shrink=shrink).eval(), torch.rand(2, 9, 128, 128)
    small = F.interpolate(planes, scale_factor=1 / shrink, mode="area")
    seen = []
    actor.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        action = actor.choose(planes)
    assert torch.allclose(seen[0], small, atol=1e-6)
    assert action.shape == (2, 65)
    whole = Actor().eval()
    whole.load_state_dict(actor.state_dict())  # of the same keys
    with torch.no_grad():
        other = whole.choose(planes)
    assert not torch.allclose(action, other)
    with learning(actor):
        actor.choose(planes).sum().backward()
    assert actor.conv1.weight.grad.abs().sum() > 0


def test_a_lesson_and_what_comes_after_it(checkout):
    out = checkout.run("train.py", *TINY, "--reward", "scan", "--shrink", 4, "--train_times", 6,
                       "--debug")
    assert "actor/difference" in out
    folder = checkout.root / "train_log" / "Paint-run1"
    assert not {"critic.pkl", "wgan.pkl"} & {path.name for path in folder.iterdir()}
    out = checkout.run("train.py", *TINY, "--init", folder, "--reward", "patch",
                       "--train_times", 6, "--debug")
    assert "actor/spoilt" in out
    out = checkout.run("train.py", *TINY, "--init", folder, "--freeze_norm", "--reward", "l2",
                       "--discount", 0, "--train_times", 6, "--debug")
    assert "actor/reward" in out


def test_a_run_with_frozen_statistics_is_resumed(checkout):
    flags = (*TINY, "--reward", "scan", "--shrink", 4, "--train_times", 3)
    checkout.run("train.py", *flags)
    folder = checkout.root / "train_log"
    checkout.run("train.py", *flags, "--init", folder / "Paint-run1", "--freeze_norm")
    options = folder / "Paint-run2" / "run.json"
    text = options.read_text()
    assert '"finished": true' in text
    options.write_text(text.replace('"finished": true', '"finished": false'))
    assert "finished" in checkout.run("train.py", "--resume", options.parent)


def test_a_lesson_needs_bezier_strokes(checkout):
    save_atomically(half_state(Renderer(), "round"), checkout.root / "round.pkl")
    checkout.refuse(tuple(
        ("train.py", ("--reward", lesson, "--renderer", checkout.root / "round.pkl"),
         f"--reward {lesson} needs bezier strokes") for lesson in ("scan", "patch")
    ))


def test_what_does_not_go_with_a_lesson_is_refused(checkout):
    checkout.refuse(tuple(
        ("train.py", ("--reward", lesson, *flags),
         f"--reward {lesson} does not go with {flags[0]}")
        for lesson in ("scan", "patch")
        for flags in (("--model_free",), ("--unroll", 2), ("--opacity_pull", 0.1),
                      ("--discount", 0.5))
    ) + (("train.py", ("--shrink", 3), "--shrink"),
         ("train.py", ("--freeze_norm",), "--freeze_norm needs --init")))
