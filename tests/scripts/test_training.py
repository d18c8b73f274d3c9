"""Both trainings: the real scripts on tiny numbers, resume, and what goes wrong."""

import copy
import csv
import json
import signal
from types import SimpleNamespace

import pytest
import torch

from curve import read_run
from DRL.actor import load_actor
from DRL.rollout import Measured
from helpers import (
    RENDERER_TINY,
    TINY,
    Checkout,
    assert_finite,
    assert_same,
    everything,
    go_on,
    training_of,
    weights_of,
)
from running.ranks import Ranks
from running.run import Run, resumed
from train import parse_args
from utils.command import UserError, enough_memory

pytestmark = pytest.mark.usefixtures("narrow")
def interrupt(checkout: Checkout, script: str, *flags: object, after: str) -> str:
    """Start a script, send SIGTERM once it printed ``after``.  Returns all it printed."""
    process = checkout.start(script, *flags)
    process.wait_for(after)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0, process.errors
    return process.output


def test_renderer_training_learns_from_inside_baseline(checkout):
    """The first README's folder; --minutes becomes a number of steps that is kept."""
    before = weights_of(checkout.root / "renderer.pkl")
    out = checkout.run("train_renderer.py", "--minutes", 0.05, "--batch_size", 4,
                       "--stroke", "bezierwotrans", cwd=checkout.root / "baseline")
    assert "finished" in out
    state = torch.load(checkout.root / "train_log" / "Renderer-run1" / "checkpoint.pt",
                       weights_only=True)
    assert state["step"] == state["total"] > 40
    assert weights_of(checkout.root / "bezierwotrans.pkl").keys() == before.keys()
    assert_same(weights_of(checkout.root / "renderer.pkl"), before)  # the other family's file
    assert list((checkout.root / "train_log" / "Renderer-run1").glob("events.*"))


METHODS = [
    (4, ("--noise_factor", 0.1)),  # within a round of updates
    (6, ("--reward", "l2")),  # within an episode
]


@pytest.mark.parametrize(("ticks", "method"), METHODS)
def test_agent_training_resumes_to_the_bit(checkout, tmp_path, ticks, method):
    first = training_of(checkout, *method)
    go_on(first, ticks)
    log = Run.create(tmp_path, "Paint", {}, Ranks())
    before = copy.deepcopy(everything(first)), torch.get_rng_state()
    first.attach(log)
    first.save()
    assert_same((everything(first), torch.get_rng_state()), before)
    saved_at = first.global_update
    go_on(first, 6)
    second = training_of(checkout, *method, "--seed", 99)
    second.load(log)
    go_on(second, 6)
    assert second.global_update == first.global_update > saved_at
    assert_same(everything(second), everything(first))


def test_agent_training_without_its_memory_fills_it_again(checkout, tmp_path, capsys):
    first = training_of(checkout)
    go_on(first, 5)
    log = Run.create(tmp_path, "Paint", {}, Ranks())
    first.attach(log)
    first.save()
    (memory_file,) = log.folder.glob("memory-*.pt")
    memory_file.unlink()
    second = training_of(checkout)
    second.load(log)
    assert "is gone" in capsys.readouterr().out
    assert_same(second.method.state_dict(), first.method.state_dict())
    assert len(second.schedule.memory) == 0
    go_on(second, 3)
    assert second.schedule.updates_due == 2


def test_train_script_logs_saves_stops_and_resumes(checkout):
    flags = (*TINY, "--train_times", 12, "--debug")
    printed = interrupt(checkout, "train.py", *flags, after="test images after 15 strokes")
    assert "stopped" in printed
    assert "--resume train_log/Paint-run1" in printed
    out = checkout.run("train.py", "--resume")
    assert out.startswith(str(checkout.root / "train_log" / "Paint-run1"))
    assert "step 0 of" not in out
    assert "step 12, update 8: error" in out
    assert "finished" in out
    folder = checkout.root / "train_log" / "Paint-run1"
    for name in ("actor", "critic", "wgan"):
        assert weights_of(folder / f"{name}.pkl")
    assert json.loads((folder / "run.json").read_text())["finished"]
    curve = read_run(folder, 15)
    assert curve.frames[-1] == 8 * 2  # of 2 transitions an update
    printed = float(out.split("step 12, update 8: error ")[1].split()[0])
    assert printed == pytest.approx(curve.errors[-1], abs=6e-6)
    out = checkout.run("train.py", "--resume", folder, "--train_times", 15)
    assert "step 12 of 15" in out
    assert "step 15, update 10: error" in out
    assert json.loads((folder / "run.json").read_text())["options"]["train_times"] == 15
    painted = checkout.run("test.py", "--actor", folder / "actor.pkl", "--max_step", 1,
                           "--divide", 1)
    assert "5 strokes" in painted


def test_train_script_minutes_from_init(checkout):
    """From inside baseline/, with the actor of another folder."""
    out = checkout.run("train.py", *TINY, "--actor_rate", 1e-4, "--init", "..", "--minutes", 0.02,
                       cwd=checkout.root / "baseline")
    folder = checkout.root / "train_log" / "Paint-run1"
    assert "finished" in out
    assert load_actor(folder / "actor.pkl", "", "")[1] == "bezier"
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["total_steps"] >= 9


@pytest.mark.parametrize("flags", [
    ("--reward", "l2"), ("--method", "grid", "--init", "x", "--batch_size", "640"),
    ("--discount", "0.95**3"), ("--method", "model_free", "--minutes", "3"), ("--batch_size", "96"),
])
def test_a_resumed_run_has_the_options_it_had(tmp_path, flags):
    """Where they are the usual ones too, but others would come from what was typed beside them."""
    options = parse_args(list(flags))
    run = Run.create(tmp_path, "Paint", json.loads(json.dumps(vars(options), default=str)), Ranks())
    again = resumed({}, run, parse_args)
    same = vars(options).keys() - {"init", "resume"}
    assert {name: getattr(again, name) for name in same} == {
        name: getattr(options, name) for name in same}


def test_a_resumed_log_goes_on_where_the_checkpoint_is(checkout, tmp_path):
    """Lines that were written after it are of updates that are done again."""
    training = training_of(checkout)
    log = Run.create(tmp_path, "Paint", {}, Ranks())
    training.attach(log)
    for _ in range(2):
        go_on(training, 5)
        training.validate()
    training.save()
    whole = (log.folder / "log.csv").read_text()
    go_on(training, 5)
    training.validate()
    assert (log.folder / "log.csv").read_text().startswith(whole)
    again = training_of(checkout)
    again.load(log)
    again.attach(log)
    again.monitor.write_log()
    assert (log.folder / "log.csv").read_text() == whole
    rows = list(csv.DictReader(whole.splitlines()))
    assert [(row["update"], row["frames"]) for row in rows] == [("2", "4"), ("4", "8")]
    assert list(rows[0])[:7] == ["update", "frames", "seconds", "error_5", "error_15", "live",
                                 "opacity"]
    best = [float(row["error_15"]) for row in rows]
    assert best == pytest.approx([min(float(row["error_live"]), float(row["error_average"]))
                                  for row in rows])
    assert float(rows[1]["critic/loss"]) > 0


def test_the_better_of_actor_and_average_is_kept(checkout, tmp_path, monkeypatch):
    training = training_of(checkout)
    log = Run.create(tmp_path, "Paint", {}, Ranks())
    training.attach(log)
    go_on(training, 5)
    training.method.ema_actor.fc.bias.data.fill_(3.0)
    errors = {False: 0.2, True: 0.1}

    def painter(averaged=False):
        measured = Measured(*torch.full((3, 3), errors[averaged]),
                            torch.zeros(4, 3, 128, 128, dtype=torch.uint8))
        return SimpleNamespace(bundle=5, measure=lambda *inputs: measured)

    monkeypatch.setattr(training.method, "painter", painter)
    for better, kept in ((True, True), (False, False), (None, False)):
        if better is not None:
            errors[better], errors[not better] = training_errors(errors)
        training.validate()
        training.save()
        bias = load_actor(log.folder / "actor.pkl", "", "")[0].fc.bias
        assert bool((bias == 3).all()) == kept
    assert training.best == pytest.approx(0.025)


def training_errors(errors: dict) -> tuple[float, float]:
    """Half the lowest error so far, and the highest."""
    return min(errors.values()) / 2, max(errors.values())


def test_the_last_episode_is_finished_and_kept(checkout):
    out = checkout.run("train.py", *TINY, "--reward", "l2", "--train_times", 4,
                       "--validate_interval", 50)
    assert "step 6, update 4" in out
    assert (checkout.root / "train_log" / "Paint-run1" / "actor.pkl").is_file()
    error = checkout.run("train_renderer.py", "--resume", "train_log/Paint-run1", status=2)
    assert "not a run of this script" in error


def test_a_run_in_use_is_refused(checkout):
    process = checkout.start("train_renderer.py", *RENDERER_TINY, "--steps", 100000,
                             "--validate_interval", 2, "--output", "w.pkl")
    try:
        process.wait_for("step 2:")
        error = checkout.run("train_renderer.py", "--resume", "train_log/Renderer-run1", status=2)
    finally:
        process.kill()
    assert "in use by another process" in error


BAD_INPUT = (
    ("train.py", ("--data", "nowhere"), "nowhere"),
    ("train.py", ("--renderer", "nowhere.pkl"), "nowhere.pkl"),
    ("train.py", ("--renderer", "actor.pkl"), "another network"),
    ("train.py", ("--resume",), "no unfinished run"),
    ("train.py", ("--resume", "image"), "checkpoint.pt"),
    ("train.py", ("--discount", "1.5"), "1.5"),
    ("train.py", ("--discount", "0**-1"), "0**-1"),
    ("train.py", ("--discount", "0.95**"), "0.95**"),
    ("train.py", ("--seed", "-1"), "--seed"),
    ("train.py", ("--method", "grid", "--tau", "0.1"), "--method grid does not know --tau"),
    ("train.py", ("--method", "grid", "--warmup", "3"), "grid does not know --warmup"),
    ("train.py", ("--minutes", "1", "--train_times", "9"), "does not go with --minutes"),
    ("train.py", ("--model_free",), "unrecognized arguments: --model_free"),
    ("train.py", ("--batch_size", "many"), "many is not a whole number from 1"),
    ("train.py", ("--init", "image"), "actor.pkl"),
    ("train_renderer.py", ("--steps", "0"), "--steps"),
    ("train_renderer.py", ("--output", "image/test.png"), "test.png"),
    ("train_renderer.py", ("--output", "image"), "cannot write image: it is a folder"),
    ("train_renderer.py", ("--stroke", "square"), "square"),
)


def test_bad_input_is_one_line_and_writes_nothing(checkout):
    checkout.refuse(BAD_INPUT)


@pytest.mark.parametrize(("script", "flags", "says"), [
    ("train_renderer.py", (*RENDERER_TINY, "--steps", 40, "--lr", 1e12, "--validate_interval", 2,
                           "--output", "w.pkl"), "diverged by step 2 (squared error "),
    # The first two episodes bring a checkpoint each, and then learning begins.
    ("train.py", (*TINY, "--train_times", 30, "--warmup", 9, "--actor_rate", 1e20),
     "diverged in update 2: wgan/loss "),
    ("train.py", (*TINY, "--train_times", 30, "--warmup", 9, "--critic_rate", 1e15),
     "diverged in update 1: wgan/loss "),
])
def test_divergence_stops_with_the_last_good_state(checkout, script, flags, says):
    """One line gives the update's metrics; what can be resumed and painted with is finite."""
    error = checkout.run(script, *flags, status=2)
    assert says in error
    assert "keeps the last good checkpoint" in error
    assert error.count("\n") == 1
    files = [*checkout.root.glob("w.pkl"), *checkout.root.glob("train_log/*/*.p*")]
    assert len(files) >= 4 or script == "train_renderer.py"
    for left in files:
        assert_finite(weights_of(left))


def test_the_first_update_that_goes_wrong_is_named(checkout, tmp_path):
    training = training_of(checkout)
    monitor = training.monitor
    monitor.folder = tmp_path
    for loss in (1.0, float("nan"), 3e9):
        training.method.updates += 1
        monitor.gather({"loss": torch.tensor(loss), "reward": torch.tensor(0.5)})
    with pytest.raises(UserError, match=r"diverged in update 2: loss nan reward 0\.5;"):
        training.check()
    monitor.round_metrics = []
    monitor.gather({"loss": torch.tensor(-2e9)})
    with pytest.raises(UserError, match=r"diverged in update 3: loss -2e\+09;"):
        training.check()
    monitor.round_metrics = []
    training.check()
    training.method.actor.fc.bias.data[3] = float("inf")
    with pytest.raises(UserError, match="weights are no finite numbers"):
        training.check()


@pytest.mark.parametrize(("script", "flags", "says"), [
    ("train.py", ("--rmsize", 10**7), "--rmsize"),
    ("train.py", ("--env_batch", 2**31 - 1), "--env_batch"),
    ("train.py", ("--batch_size", 2**31 - 1), "--batch_size"),
    ("train_renderer.py", ("--batch_size", 10**9, "--scratch"), "--batch_size"),
])
def test_too_little_memory_names_the_flags(checkout, script, flags, says):
    error = checkout.run(script, *flags, "--device", "cpu", status=2)
    assert error.startswith("error: not enough memory, it seems: try a smaller --")
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nGPU 0 has ..."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
])
def test_a_devices_memory_too(error):
    with pytest.raises(UserError, match="smaller --batch_size [(]") as caught, \
            enough_memory("--batch_size"):
        raise error
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="another"), enough_memory("--batch_size"):
        raise RuntimeError("another one")


@pytest.mark.parametrize(("name", "content", "says"), [
    ("checkpoint.pt", b"", "checkpoint.pt"), ("checkpoint.pt", {}, "of another version or"),
    ("checkpoint.pt", [1], "of another version or"), ("run.json", b"{", "run.json"),
    ("run.json", b"[]", "run.json"), ("run.json", b'{"finished": 0, "options": 3}', "run.json"),
    ("run.json", {"rmsize": -1}, "run.json: argument --rmsize: -1 is not"),
    ("run.json", {"reward": "zzz"}, "run.json: argument --reward"),
    ("run.json", {"more": 1}, "run.json: unrecognized arguments: --more=1"),
    ("log.csv", b"update,frames\n1," + b"9" * 200_000, "log.csv"),
    ("memory-3-0-0of1.pt", {"env": {}}, "delete it"), ("memory-3-0-0of1.pt", b"PK", "delete it"),
])
def test_a_broken_run_is_refused_in_a_line(checkout, name, content, says):
    first = training_of(checkout)
    go_on(first, 3)
    first.attach(Run.create(checkout.root / "train_log", "Paint", vars(first.options), Ranks()))
    first.save()
    first.run = None  # it holds the lock
    file = checkout.root / "train_log" / "Paint-run1" / name
    assert file.exists() or name == "log.csv"  # which begins with the first validation
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif name == "run.json":
        options = json.loads(file.read_text())["options"]
        file.write_text(json.dumps({"finished": False, "options": options | content}))
    else:
        torch.save(content, file)
    checkout.refuse((("train.py", ("--resume",), says),))
    (checkout.root / "train_log" / "Paint-run1" / "run.json").unlink()
    checkout.refuse((("train.py", ("--resume",), "run.json"),))


def test_fast_without_a_compiler_is_refused(checkout):
    for script in ("train.py", "train_renderer.py"):
        process = checkout.start(script, "--fast", environment={"PATH": "/nowhere", "CXX": "none"})
        assert process.wait() == 2, process.errors
        assert process.errors == ("error: --fast needs a C++ compiler, such as g++; install one or "
                                  "leave it out\n")
    noisy = checkout.root / "noisy"
    noisy.write_text("#!/bin/sh\nfor i in 1 2 3; do echo broken $i >&2; done; exit 1\n")
    noisy.chmod(0o755)
    process = checkout.start("train.py", "--fast", environment={"CXX": str(noisy)})
    assert process.wait() == 2
    assert process.errors == (f"error: --fast: the compiler {noisy} does not work (broken 1); mend "
                              "it or leave --fast out\n")
    assert not (checkout.root / "train_log").exists()
