"""The scanning painter, the actor that imitates it, and the one that surpasses it."""

import pytest
import torch
import torch.nn.functional as F

from conftest import ROOT
from DRL.actor import load_actor
from DRL.apprentice import OPACITY, Apprentice, Journeyman, scan
from DRL.learner import Setup, learning
from DRL.rpm import Transitions
from golden_networks import image, u8
from monitor import free_photos
from Renderer.canvas import as_float, composite
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
        canvas = composite(render, canvas, scan(target, torch.full((4,), step / steps), bundle))
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
    agent = Apprentice(Setup(render=no_renderer, precision=FP32, sizes=((32, 1.0),)))
    assert set(agent.networks) == {"actor"}
    assert not agent.slow
    target = u8(image(5, 3, 106))
    batch = Transitions(u8(image(5, 3, 105)), torch.rand(5, 65), u8(image(5, 3, 107)),
                        torch.zeros(5, dtype=torch.int64), torch.tensor([0, 4, 20, 39, 5]))
    losses = [agent.update(batch, target, 0.0)[0]["actor/loss"].item() for _ in range(15)]
    assert losses[-1] < 0.3 * losses[0]

    wanted, seen = scan(as_float(target), batch.step / 40), []
    canvas, whole = agent.look(as_float(batch.canvas)), agent.look(as_float(target))
    agent.calls["actor"] = lambda *inputs: wanted
    loss, metrics = agent.policy_loss(canvas, whole, batch.step)
    assert loss == metrics["difference"] == 0
    agent.calls["actor"] = lambda *inputs: seen.append(inputs) or torch.full_like(wanted, 0.5)
    loss, metrics = agent.policy_loss(canvas, whole, batch.step)
    assert metrics["difference"] == F.mse_loss(wanted, torch.full_like(wanted, 0.5))
    for mine, its in zip(seen[0], (canvas.small, whole.small, batch.step / 40), strict=True):
        assert torch.equal(mine, its)
    entropy = torch.special.entr(wanted) + torch.special.entr(1 - wanted)
    assert loss.item() == pytest.approx((0.6931472 - entropy).mean().item(), abs=1e-5)


@pytest.mark.parametrize("kind", [Apprentice, Journeyman])
@pytest.mark.parametrize("size", [128, 64])
def test_every_fourth_canvas_is_another_ones(kind, size, monkeypatch):
    """Before it is shrunk; the loss is told of the same canvases."""
    render = load_render(ROOT / "renderer.pkl", FP32)
    agent = kind(Setup(render=render, precision=FP32, max_step=3, sizes=((size, 1.0),)))
    target, canvas, told = u8(image(5, 3, 106)), u8(image(5, 3, 105)), []
    batch = Transitions(canvas, torch.rand(5, 65), canvas, torch.zeros(5, dtype=torch.int64),
                        torch.tensor([0, 1, 2, 1, 0]))

    def descend(name, loss_of, *inputs):
        told.extend(inputs)
        return {}

    monkeypatch.setattr(agent, "descend", descend)
    _, later = agent.update(batch, target, 0.0)
    assert later is batch.next_canvas
    others = agent.look(as_float(canvas)[[4, 1, 2, 3, 0]])
    seen, wanted, step = told
    assert seen.small.shape == (5, 3, size, size)
    for mine, its in ((seen, others), (wanted, agent.look(as_float(target)))):
        assert torch.equal(mine.whole, its.whole)
        assert torch.equal(mine.small, its.small)
    assert torch.equal(step, batch.step)


def test_a_patch_counts_where_the_scanning_painter_would_paint():
    """Its own strokes spoil nothing; others count outside the patch only where they spoil."""
    render = load_render(ROOT / "renderer.pkl", FP32)
    agent = Journeyman(Setup(render=render, precision=FP32))
    assert set(agent.networks) == {"actor"}
    target = as_float(free_photos())[[0, 1, 2, 3, 0]]
    step = torch.tensor([0, 7, 20, 39, 30])
    canvas = torch.linspace(0.3, 0.7, 5)[:, None, None, None].expand_as(target)

    def losses(action):
        def actor(seen, *inputs):
            assert torch.equal(seen, canvas)
            return action
        agent.calls["actor"] = actor
        loss, metrics = agent.policy_loss(agent.look(canvas), agent.look(target), step)
        assert loss.item() == pytest.approx(sum(metrics.values()).item(), rel=1e-5)
        return loss.item(), metrics["spoilt"].item()

    wanted = scan(target, step / 40)
    patch = composite(render, torch.zeros_like(target), scan(torch.ones_like(target), step / 40))
    after = (composite(render, canvas, wanted) - target).square()
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
        agent.policy_loss(agent.look(canvas), agent.look(target), step)[0].backward()
    assert agent.actor.fc.weight.grad.abs().sum() > 0


@pytest.mark.usefixtures("narrow")
def test_a_lesson_and_what_comes_after_it(checkout):
    """Smaller pictures at first, and statistics that are kept in the end."""
    out = checkout.run("train.py", *TINY, "--method", "scan", "--sizes", 32, "--train_times", 6,
                       "--debug")
    assert "actor/difference" in out
    folder = checkout.root / "train_log" / "Paint-run1"
    assert not {"critic.pkl", "wgan.pkl"} & {path.name for path in folder.iterdir()}
    actor, _ = load_actor(folder / "actor.pkl", "the actor", "")
    assert actor.size == 32
    assert "20 strokes" in checkout.run("test.py", "--actor", folder / "actor.pkl", "--max_step", 4,
                                        "--divide", 1)  # as it has learnt to
    out = checkout.run("train.py", *TINY, "--init", folder, "--method", "patch", "--norm_until", 0,
                       "--sizes", 64, "--train_times", 6, "--debug")
    assert "actor/spoilt" in out
    later, _ = load_actor(folder.with_name("Paint-run2") / "actor.pkl", "the actor", "")
    assert later.size == 64
    assert torch.equal(later.bn1.running_mean, actor.bn1.running_mean)
    memory = TINY.index("--rmsize")
    out = checkout.run("train.py", *TINY[:memory], *TINY[memory + 6 :], "--init", folder,
                       "--method", "direct", "--train_times", 6, "--debug")
    assert "actor/gradient" in out


@pytest.mark.usefixtures("narrow")
def test_a_run_with_frozen_statistics_is_resumed(checkout):
    flags = (*TINY, "--method", "scan", "--sizes", 32, "--train_times", 3)
    checkout.run("train.py", *flags)
    folder = checkout.root / "train_log"
    checkout.run("train.py", *flags, "--init", folder / "Paint-run1", "--norm_until", 0)
    options = folder / "Paint-run2" / "run.json"
    text = options.read_text()
    assert '"finished": true' in text
    options.write_text(text.replace('"finished": true', '"finished": false'))
    assert "finished" in checkout.run("train.py", "--resume", options.parent)


def test_a_lesson_needs_bezier_strokes(checkout):
    save_atomically(half_state(Renderer(), "round"), checkout.root / "round.pkl")
    checkout.refuse(tuple(
        ("train.py", ("--method", lesson, "--renderer", checkout.root / "round.pkl"),
         f"--method {lesson} needs bezier strokes") for lesson in ("scan", "patch")
    ))


def test_what_does_not_go_with_a_lesson_is_refused(checkout):
    checkout.refuse(tuple(
        ("train.py", ("--method", lesson, *flags),
         f"--method {lesson} does not know {flags[0]}")
        for lesson in ("scan", "patch")
        for flags in (("--joint",), ("--discount", 0.5), ("--reward", "l2"), ("--tau", 0.1),
                      ("--penalty_every", 2), ("--critic_rate", 0.1), ("--early", 0))
    ) + (("train.py", ("--sizes", 43), "--sizes"),))
