"""Any number of strokes at once: training, weights, painting, evaluation."""

import json

import pytest
import torch

from DRL.actor import Actor, load_actor
from DRL.rpm import ReplayMemory
from helpers import TINY, fill, image, training_of
from painting.stroke_file import read_json
from Renderer.canvas import composite, paint_strokes
from Renderer.model import Renderer
from running.ranks import Ranks
from running.run import Run
from utils.command import UserError
from utils.weights import half_state, save_atomically


@torch.no_grad()
def test_a_bundle_is_its_strokes_one_after_the_other():
    render, canvas, action = fill(Renderer(), "renderer", 1), image(2, 3, 104), torch.rand(2, 39)
    canvases = paint_strokes(render, canvas, action)
    assert len(canvases) == 3
    for i, expected in enumerate(canvases):
        canvas = composite(render, canvas, action[:, 13 * i : 13 * i + 13])
        assert torch.allclose(canvas, expected, atol=1e-6)


@pytest.mark.parametrize("bundle", [1, 2, 5, 8])
def test_the_file_tells_the_bundle(bundle, tmp_path):
    torch.manual_seed(0)
    actor = Actor(bundle)
    save_atomically(half_state(actor, family="round"), tmp_path / "actor.pkl")
    loaded, family = load_actor(tmp_path / "actor.pkl", "the actor", "train one")
    assert (loaded.bundle, family) == (bundle, "round")
    assert torch.equal(loaded.fc.weight, actor.fc.weight.half().float())
    with torch.no_grad():
        action = loaded.eval()(image(3, 3, 1), image(3, 3, 2), torch.rand(3))
    assert action.shape == (3, 13 * bundle)


@pytest.mark.parametrize(("weight", "bias", "says"), [
    ((66, 512), 66, r"fc\.weight has the shape \(66, 512\), not \(65, 512\)"),
    ((26, 512), 65, r"fc\.weight has the shape \(26, 512\), not \(65, 512\)"),
    ((13, 500), 13, r"fc\.weight has the shape \(13, 500\), not \(13, 512\)"),
    ((0, 512), 0, r"fc\.weight has the shape \(0, 512\), not \(65, 512\)"),
    ((13013, 512), 13013, r"fc\.weight has the shape \(13013, 512\), not \(65, 512\)"),
])
def test_a_last_layer_of_no_bundle_is_refused(weight, bias, says, tmp_path):
    state = half_state(Actor())
    state["fc.weight"], state["fc.bias"] = torch.zeros(weight), torch.zeros(bias)
    torch.save(state, tmp_path / "actor.pkl")
    with pytest.raises(UserError, match=says):
        load_actor(tmp_path / "actor.pkl", "the actor", "train one")


def test_the_memory_keeps_bundles_of_any_length():
    memory = ReplayMemory(6, 2, 3, bundle=8)
    blank = torch.zeros(2, 3, 128, 128, dtype=torch.uint8)
    memory.begin(blank, torch.zeros(2, dtype=torch.int64))
    action = torch.rand(2, 104)
    memory.append(action, blank)
    assert torch.equal(memory.action[0], action)
    assert memory.nbytes > ReplayMemory(6, 2, 3).nbytes


def logged(monkeypatch, checkout, *flags) -> tuple[object, dict[str, float]]:
    """A training, and what one validation of it logs."""
    training = training_of(checkout, "--validate_episodes", 1, "--validate_interval", 1, *flags)
    numbers = {}
    monkeypatch.setattr(training.monitor, "log", lambda step, values: numbers.update(values))
    training.validate()
    return training, numbers


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("bundle", "max_step", "expected"), [
    (1, 6, {5: 5, 6: 6}), (2, 11, {20: 10, 22: 11}), (5, 5, {5: 1, 20: 4, 25: 5}),
    (8, 2, {16: 2}),
])
def test_errors_are_logged_where_bundles_end(
        monkeypatch, checkout, bundle, max_step, expected):
    training, numbers = logged(monkeypatch, checkout, "--bundle", bundle, "--max_step", max_step)
    assert training.method.discount == 0.95**bundle
    assert training.method.noise == 0
    assert set(numbers) == {
        *(f"validation/error_{strokes}_strokes" for strokes in expected),
        *(f"{what}/bundle_{last}" for last in expected.values()
          for what in ("live_strokes", "opacity"))}
    (row,) = training.monitor.rows
    assert [name for name in row if name.startswith("error_") and name[6:].isdigit()] == [
        f"error_{strokes}" for strokes in expected]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("bundle", [2, 8])
def test_from_a_training_to_paintings(checkout, compiled, bundle):
    """The real scripts; the actor's file alone tells its bundle."""
    method = () if bundle == 2 else ("--reward", "l2")
    out = checkout.run("train.py", *TINY, "--bundle", bundle, "--train_times", 3, *method)
    assert f"after {3 * bundle} strokes" in out
    actor = checkout.root / "train_log" / "Paint-run1" / "actor.pkl"
    out = checkout.run("test.py", "--actor", actor, "--max_step", 2, "--divide", 2,
                       "--strokes", "s.json", "--precision", "fp32",
                       *(("--refine", 1) if bundle == 2 else ()))
    strokes, _, _ = read_json(checkout.root / "s.json")
    assert len(strokes) == 5 * bundle
    assert f"{5 * bundle} strokes" in out
    frames = {"painting.png", *(f"generated{n}.png" for n in range(2 * bundle))}
    assert {file.name for file in (checkout.root / "output").iterdir()} == frames
    result = json.loads(checkout.run("evaluate.py", "--actor", actor, "--max_step", 10,
                                     "--limit", 2).splitlines()[-1])
    assert result["strokes"] == {2: [20], 8: [80]}[bundle]
    if bundle == 2:
        overlapping = checkout.run("test.py", "--actor", actor, "--max_step", 2, "--divide", 2,
                                   "--overlap", 32, "--frames", "last")
        assert "10 strokes" in overlapping
        checkout.refuse((
            ("train.py", ("--init", actor.parent), "bundles of 2 strokes; --bundle says 5"),
            ("train.py", ("--init", ".", "--bundle", 1), "bundles of 5 strokes; --bundle says 1"),
            ("train.py", ("--resume", actor.parent, "--bundle", 2), "leave out --bundle"),
            ("train.py", ("--bundle", 0), "0 is not a whole number from 1 to 1000"),
        ))


@pytest.mark.usefixtures("narrow")
def test_a_checkpoint_of_another_bundle_is_refused(checkout, tmp_path):
    log = Run.create(tmp_path, "Paint", {}, Ranks())
    training = training_of(checkout, "--bundle", 2)
    training.attach(log)
    training.save()
    with pytest.raises(UserError, match="of other options"):
        training_of(checkout).load(log)
