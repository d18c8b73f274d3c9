"""Families of strokes: their weights, from one script to the next, and pairs that do not match."""

import json
import shutil

import pytest
import torch

from DRL.actor import Actor
from grid.painter import load_painter
from helpers import RENDERER_TINY, ROOT, TINY
from Renderer.model import Renderer, load_render
from running.device import Precision
from utils.weights import half_state, save_atomically

PRECISION = Precision("fp32", torch.device("cpu"))


@pytest.mark.usefixtures("narrow")
def test_a_family_of_strokes_from_its_renderer_to_a_painting(checkout):
    """Another family's renderer, an agent trained with it, what they paint, and what is refused."""
    out = checkout.run("train_renderer.py", *RENDERER_TINY, "--stroke", "triangle", "--steps", 4,
                       "--validate_interval", 2)
    assert "triangle.pkl has a squared error of" in out
    assert float(out.split()[-1]) < 0.03  # no worse than one shade of grey, from the beginning
    file = checkout.root / "triangle.pkl"
    assert load_render(file, PRECISION).family == "triangle"

    flags = (*TINY, "--reward", "l2", "--renderer", "triangle.pkl", "--train_times", 6)
    assert "finished" in checkout.run("train.py", *flags)
    actor = checkout.root / "train_log" / "Paint-run1" / "actor.pkl"
    assert load_painter(actor, file, PRECISION).family == "triangle"
    result = json.loads(checkout.run(
        "evaluate.py", "--actor", actor, "--renderer", file, "--max_step", 1, "--limit", 2,
    ).splitlines()[-1])
    assert result["images"] == 2
    checkout.refuse((("train.py", ("--init", "train_log/Paint-run1"), "triangle"),))

    save_atomically(half_state(Renderer()), file)
    error = checkout.run("train.py", "--resume", "train_log/Paint-run1", status=2)
    assert "triangle" in error
    assert error.count("\n") == 1


OTHER_FAMILY = (
    ("test.py", ("--renderer", "triangle.pkl"), "triangle"),
    ("test.py", ("--actor", "round.pkl"), "round"),
    ("evaluate.py", ("--actor", "round.pkl", "--renderer", "triangle.pkl"), "round"),
    ("train.py", ("--renderer", "triangle.pkl", "--init", "."), "triangle"),
    ("train.py", ("--renderer", "square.pkl"), "square"),
    ("train_renderer.py", ("--output", "triangle.pkl"), "triangle"),
    ("train_renderer.py", ("--stroke", "triangle", "--output", "renderer.pkl"), "bezier"),
    ("train_renderer.py", ("--scratch", "--stroke", "round", "--output", "triangle.pkl"),
     "triangle"),
)


@pytest.mark.usefixtures("narrow")
def test_families_that_do_not_go_together_are_refused(checkout):
    for network, family in ((Renderer(), "triangle"), (Renderer(), "square"), (Actor(), "round")):
        save_atomically(half_state(network, family=family), checkout.root / f"{family}.pkl")
    checkout.refuse(OTHER_FAMILY)


def test_renderer_training_never_writes_a_worse_file(checkout):
    """It goes on from the file that is there and keeps it where nothing better comes."""
    shutil.copy(ROOT / "renderer.pkl", checkout.root / "renderer.pkl")
    before = (checkout.root / "renderer.pkl").read_bytes()
    out = checkout.run("train_renderer.py", "--batch_size", 1, "--steps", 2, "--lr", 0.5)
    assert "has a squared error of" in out.splitlines()[0]
    assert (checkout.root / "renderer.pkl").read_bytes() == before
    assert float(out.splitlines()[0].split()[-1]) < 0.01 < float(out.splitlines()[-2].split()[4])
