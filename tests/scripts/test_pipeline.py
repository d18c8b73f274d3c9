"""The scripts one after another: train, paint, evaluate; families and bundles that differ."""

import json

import pytest

from DRL.actor import Actor
from helpers import RENDERER_TINY, TINY, load
from painting.stroke_file import read_json
from Renderer.model import Renderer
from utils.weights import half_state, save_atomically

GRID = ("--method", "grid", "--batch_size", 80, "--train_times", 3, "--env_batch", 2,
        "--validate_episodes", 1, "--device", "cpu")


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("bundle", "flags"), [
    (2, ("--method", "model_free", "--debug")), (8, ("--reward", "l2")), (2, ())])
def test_scripts_take_the_bundle_from_the_actors_file(checkout, compiled, bundle, flags):
    out = checkout.run("train.py", *TINY, "--bundle", bundle, "--train_times", 6, *flags)
    assert f"after {3 * bundle} strokes" in out
    assert "critic/td_target" in out or "--debug" not in flags
    folder = checkout.root / "train_log" / "Paint-run1"
    out = checkout.run("test.py", "--actor", folder / "actor.pkl", "--max_step", 2, "--divide", 2,
                       "--strokes", "s.json", "--precision", "fp32", "--size", 150,
                       "--refine", int(bundle == 2))
    strokes, _, _ = read_json(checkout.root / "s.json")
    assert len(strokes) == 5 * bundle
    assert f"{5 * bundle} strokes" in out
    frames = {"painting.png", *(f"generated{n}.png" for n in range(2 * bundle))}
    assert {file.name for file in (checkout.root / "output").iterdir()} == frames
    out = checkout.run("evaluate.py", "--actor", folder / "actor.pkl", "--max_step", 10,
                       "--limit", 2)
    assert json.loads(out.splitlines()[-1])["strokes"] == {2: [20], 8: [80]}[bundle]
    planes = load(folder / "critic.pkl")["conv1.weight_v"].shape[1]
    assert planes == (35 if "model_free" in flags else 12)
    checkout.refuse((
        ("train.py", ("--init", folder), f"bundles of {bundle} strokes; --bundle says 5"),
        ("train.py", ("--init", ".", "--bundle", 1), "bundles of 5 strokes; --bundle says 1"),
        ("train.py", ("--resume", folder, "--bundle", bundle), "leave out --bundle"),
    ))


@pytest.mark.usefixtures("narrow")
def test_grid_training_saves_an_actor_that_paints_and_starts_another(checkout, compiled):
    checkout.run("train.py", *GRID)
    folder = checkout.root / "train_log" / "Paint-run1"
    out = checkout.run("test.py", "--actor", folder / "actor.pkl", "--max_step", 40, "--divide", 1)
    assert "200 strokes" in out
    checkout.run("train.py", *GRID, "--init", folder)
    checkout.refuse(("train.py", (*GRID, *flags), says) for flags, says in (
        (("--init", "."), "has the read-out mean; --method grid needs grid"),
        (("--max_step", 3), "needs --max_step 40, not 3"),
        (("--bundle", 4), "needs --bundle 5, not 4"),
        (("--fast",), "does not know --fast"),
        (("--batch_size", 50), "not a multiple of 40"),
        (("--rmsize", 5), "does not know --rmsize"),
    ))


@pytest.mark.usefixtures("narrow")
def test_family_of_strokes_goes_from_the_renderer_to_the_painting(checkout):
    out = checkout.run("train_renderer.py", *RENDERER_TINY, "--stroke", "triangle", "--steps", 4,
                       "--validate_interval", 2)
    assert "triangle.pkl has a squared error of" in out
    assert float(out.split("squared error of ")[-1].split(";")[0]) < 0.03
    flags = (*TINY, "--reward", "l2", "--renderer", "triangle.pkl", "--train_times", 6)
    assert "finished" in checkout.run("train.py", *flags)
    run = "train_log/Paint-run1"
    out = checkout.run("evaluate.py", "--actor", f"{run}/actor.pkl", "--renderer", "triangle.pkl",
                       "--max_step", 1, "--limit", 2)
    assert json.loads(out.splitlines()[-1])["images"] == 2
    checkout.refuse((("train.py", ("--init", run), "triangle"),))
    save_atomically(half_state(Renderer()), checkout.root / "triangle.pkl")
    checkout.refuse((("train.py", ("--resume", run), "triangle"),))


@pytest.mark.usefixtures("narrow")
def test_different_families_are_refused(checkout):
    for network, family in ((Renderer(), "triangle"), (Renderer(), "square"), (Actor(), "round")):
        save_atomically(half_state(network, family=family), checkout.root / f"{family}.pkl")
    checkout.refuse((
        ("test.py", ("--renderer", "triangle.pkl"), "triangle"),
        ("test.py", ("--actor", "round.pkl"), "round"),
        ("evaluate.py", ("--actor", "round.pkl", "--renderer", "triangle.pkl"), "round"),
        ("train.py", ("--renderer", "triangle.pkl", "--init", "."), "triangle"),
        ("train.py", ("--renderer", "square.pkl"), "square"),
        ("train_renderer.py", ("--output", "triangle.pkl"), "triangle"),
        ("train_renderer.py", ("--stroke", "triangle", "--output", "renderer.pkl"), "bezier"),
        ("train_renderer.py", ("--scratch", "--stroke", "round", "--output", "triangle.pkl"),
         "triangle"),
    ))
