"""Actions of any number of strokes: weights, training, painting, evaluation."""

import re

import pytest
import torch

from DRL.actor import Actor, load_actor
from helpers import fill, image, save_run, training_of
from Renderer.canvas import composite, paint_strokes
from Renderer.model import Renderer
from utils.command import UserError
from utils.weights import half_state, save_atomically


@torch.no_grad()
def test_bundle_equals_its_strokes_one_after_another():
    render, canvas, action = fill(Renderer(), "renderer", 1), image(2, 3, 104), torch.rand(2, 39)
    canvases = paint_strokes(render, canvas, action)
    assert len(canvases) == 3
    for i, expected in enumerate(canvases):
        canvas = composite(render, canvas, action[:, 13 * i : 13 * i + 13])
        assert torch.allclose(canvas, expected, atol=1e-6)


@pytest.mark.parametrize("bundle", [1, 2, 5, 8])
def test_loaded_actor_has_the_bundle_of_its_file(bundle, tmp_path):
    torch.manual_seed(0)
    actor = Actor(bundle)
    save_atomically(half_state(actor, family="round"), tmp_path / "actor.pkl")
    loaded, family = load_actor(tmp_path / "actor.pkl", "the actor", "train one")
    assert (loaded.bundle, family) == (bundle, "round")
    assert torch.equal(loaded.fc.weight, actor.fc.weight.half().float())
    with torch.no_grad():
        action = loaded.eval()(image(3, 3, 1), image(3, 3, 2), torch.rand(3))
    assert action.shape == (3, 13 * bundle)


@pytest.mark.parametrize(("outputs", "inputs", "nearest"), [
    (66, 512, "(65, 512)"), (13, 500, "(13, 512)"), (0, 512, "(65, 512)"),
    (13013, 512, "(65, 512)"),
])
def test_last_layer_of_no_bundle_is_refused(outputs, inputs, nearest, tmp_path):
    state = half_state(Actor())
    state["fc.weight"], state["fc.bias"] = torch.zeros(outputs, inputs), torch.zeros(outputs)
    torch.save(state, tmp_path / "actor.pkl")
    shapes = re.escape(f"fc.weight has the shape ({outputs}, {inputs}), not {nearest}")
    with pytest.raises(UserError, match=shapes):
        load_actor(tmp_path / "actor.pkl", "the actor", "train one")


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("bundle", "max_step", "steps"), [
    (1, 6, {5: 5, 6: 6}), (2, 11, {20: 10, 22: 11}), (5, 5, {5: 1, 20: 4, 25: 5}),
    (8, 2, {16: 2}),
])
def test_errors_are_logged_where_bundles_end(monkeypatch, checkout, bundle, max_step, steps):
    training = training_of(checkout, "--validate_episodes", 1, "--bundle", bundle,
                           "--max_step", max_step)
    numbers = {}
    monkeypatch.setattr(training.monitor, "log", lambda step, values: numbers.update(values))
    training.validate()
    assert training.method.discount == 0.95**bundle
    assert training.method.noise == 0
    assert set(numbers) == {
        *(f"validation/error_{strokes}_strokes" for strokes in steps),
        *(f"{what}/bundle_{last}" for last in steps.values()
          for what in ("live_strokes", "opacity"))}
    (row,) = training.monitor.rows
    assert [name for name in row if name.startswith("error_") and name[6:].isdigit()] == [
        f"error_{strokes}" for strokes in steps]


@pytest.mark.usefixtures("narrow")
def test_checkpoint_of_another_bundle_is_refused(checkout, tmp_path):
    run = save_run(training_of(checkout, "--bundle", 2), tmp_path)
    with pytest.raises(UserError, match="of other options"):
        training_of(checkout).load(run)
