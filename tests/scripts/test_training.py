"""Both trainings by the scripts: resume, logs, weights, bad input and divergence."""

import copy
import csv
import json
import signal
from types import SimpleNamespace

import pytest
import torch

from curve import read_run
from DRL.actor import load_actor
from helpers import (
    RENDERER_TINY,
    TINY,
    assert_finite,
    assert_same,
    load,
    save_run,
    state_of,
    tick,
    training_of,
)
from running.ranks import Ranks
from running.run import Run, resumed
from train import parse_args
from utils.command import UserError, enough_memory

pytestmark = pytest.mark.usefixtures("narrow")


def test_renderer_training_of_minutes_from_inside_baseline(checkout):
    before = load(checkout.root / "renderer.pkl")
    out = checkout.run("train_renderer.py", "--minutes", 0.05, "--batch_size", 4,
                       "--stroke", "bezierwotrans", cwd=checkout.root / "baseline")
    assert "finished" in out
    folder = checkout.root / "train_log" / "Renderer-run1"
    state = load(folder / "checkpoint.pt")
    assert state["step"] == state["total"] >= 2
    assert load(checkout.root / "bezierwotrans.pkl").keys() == before.keys()
    assert_same(load(checkout.root / "renderer.pkl"), before)  # the other family's file
    assert list(folder.glob("events.*"))


@pytest.mark.parametrize(("ticks", "method"), [
    (4, ("--noise_factor", 0.1)),  # within a round of updates
    (6, ("--reward", "l2")),  # within an episode
])
def test_resume_is_bit_exact(checkout, tmp_path, ticks, method):
    first = training_of(checkout, *method)
    tick(first, ticks)
    before = copy.deepcopy(state_of(first)), torch.get_rng_state()
    run = save_run(first, tmp_path)
    assert_same((state_of(first), torch.get_rng_state()), before)
    saved_at = first.method.updates
    tick(first, 6)
    second = training_of(checkout, *method, "--seed", 99)
    second.load(run)
    tick(second, 6)
    assert second.method.updates == first.method.updates > saved_at
    assert_same(state_of(second), state_of(first))


def test_train_script_logs_saves_stops_and_resumes(checkout):
    process = checkout.start("train.py", *TINY, "--train_times", 12, "--debug")
    process.wait_for("test images after 15 strokes")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0, process.errors
    assert "stopped" in process.output
    assert "--resume train_log/Paint-run1" in process.output
    assert "test.py -o mine.png --actor train_log/Paint-run1/actor.pkl\n" in process.output
    out = checkout.run("train.py", "--resume")
    folder = checkout.root / "train_log" / "Paint-run1"
    assert out.startswith(str(folder))
    assert "step 0 of" not in out
    assert "finished" in out
    for name in ("actor", "critic", "wgan"):
        assert load(folder / f"{name}.pkl")
    assert json.loads((folder / "run.json").read_text())["finished"]
    curve = read_run(folder, 15)
    assert curve.frames[-1] == 8 * 2  # of 2 transitions an update
    printed_error = float(out.split("step 12, update 8: error ")[1].split()[0])
    assert printed_error == pytest.approx(curve.errors[-1], abs=6e-6)
    out = checkout.run("train.py", "--resume", folder, "--train_times", 15)
    assert "step 12 of 15" in out
    assert "step 15, update 10: error" in out
    assert json.loads((folder / "run.json").read_text())["options"]["train_times"] == 15
    out = checkout.run("test.py", "--actor", folder / "actor.pkl", "--max_step", 1, "--divide", 1)
    assert "5 strokes" in out


def test_train_script_of_minutes_from_init(checkout):
    out = checkout.run("train.py", *TINY, "--actor_rate", 1e-4, "--init", "..", "--minutes", 0.02,
                       cwd=checkout.root / "baseline")
    folder = checkout.root / "train_log" / "Paint-run1"
    assert "finished" in out
    assert load_actor(folder / "actor.pkl", "", "")[1] == "bezier"
    assert load(folder / "checkpoint.pt")["total_steps"] >= 7


@pytest.mark.parametrize("flags", [
    ("--reward", "l2"), ("--method", "grid", "--init", "x", "--batch_size", "640"),
    ("--discount", "0.857"), ("--method", "model_free", "--minutes", "3"), ("--batch_size", "96"),
])
def test_resumed_run_keeps_its_options(tmp_path, flags):
    options = parse_args(list(flags))
    saved = json.loads(json.dumps(vars(options), default=str))
    run = Run.create(tmp_path, "Paint", saved | {"cache": "an older flag"}, Ranks())
    kept = vars(resumed({}, run, parse_args))
    for name, value in vars(options).items():
        assert name in ("init", "resume") or kept[name] == value


def test_resumed_log_goes_on_at_the_checkpoint(checkout, tmp_path):
    training = training_of(checkout)
    run = Run.create(tmp_path, "Paint", {}, Ranks())
    training.attach(run)
    for _ in range(2):
        tick(training, 5)
        training.validate()
    training.save()
    log = (run.folder / "log.csv").read_text()
    tick(training, 5)
    training.validate()
    assert (run.folder / "log.csv").read_text().startswith(log)
    resumed_training = training_of(checkout)
    resumed_training.load(run)
    resumed_training.attach(run)
    resumed_training.monitor.write_log()
    assert (run.folder / "log.csv").read_text() == log
    rows = list(csv.DictReader(log.splitlines()))
    assert [(row["update"], row["frames"]) for row in rows] == [("2", "4"), ("4", "8")]
    assert {"seconds", "error_5", "error_15"} <= rows[0].keys()
    assert float(rows[1]["critic/loss"]) > 0


def test_better_of_actor_and_ema_is_saved(checkout, tmp_path, monkeypatch):
    training = training_of(checkout)
    run = Run.create(tmp_path, "Paint", {}, Ranks())
    training.attach(run)
    tick(training, 5)
    training.method.ema_actor.fc.bias.data.fill_(3.0)
    errors = {}
    actors = {ema: training.method.policy(ema).actor for ema in (False, True)}

    def policy(ema=False):
        measured = torch.full((3,), errors[ema]), torch.zeros(4, 3, 128, 128, dtype=torch.uint8)
        return SimpleNamespace(actor=actors[ema], bundle=5, measure=lambda *inputs: measured)

    monkeypatch.setattr(training.method, "policy", policy)
    for error, ema_error, saves_ema in ((0.2, 0.05, True), (0.025, 0.2, False), (0.03, 0.2, False)):
        errors |= {False: error, True: ema_error}
        training.validate()
        training.save()
        bias = load_actor(run.folder / "actor.pkl", "", "")[0].fc.bias
        assert bool((bias == 3).all()) == saves_ema
    assert training.best == pytest.approx(0.025)


def test_last_episode_is_finished_and_saved(checkout):
    out = checkout.run("train.py", *TINY, "--reward", "l2", "--train_times", 4,
                       "--validate_interval", 50)
    assert "step 6, update 4" in out
    assert (checkout.root / "train_log" / "Paint-run1" / "actor.pkl").is_file()
    error = checkout.run("train_renderer.py", "--resume", "train_log/Paint-run1", status=2)
    assert "not a run of this script" in error


def test_run_in_use_is_refused(checkout):
    process = checkout.start("train_renderer.py", *RENDERER_TINY, "--steps", 100000,
                             "--validate_interval", 2, "--output", "w.pkl")
    try:
        process.wait_for("step 2:")
        error = checkout.run("train_renderer.py", "--resume", "train_log/Renderer-run1", status=2)
    finally:
        process.signal(signal.SIGKILL)
    assert "in use by another process" in error


BAD_INPUT = (
    ("train.py", ("--data", "nowhere"), "nowhere"),
    ("train.py", ("--renderer", "nowhere.pkl"), "nowhere.pkl"),
    ("train.py", ("--renderer", "actor.pkl"), "another network"),
    ("train.py", ("--resume",), "no unfinished run"),
    ("train.py", ("--discount", "1.5"), "1.5"),
    ("train.py", ("--method", "grid", "--tau", "0.1"), "--method grid does not know --tau"),
    ("train.py", ("--minutes", "1", "--train_times", "9"), "does not go with --minutes"),
    ("train.py", ("--batch_size", "many"), "many is not a whole number from 1"),
    ("train.py", ("--init", "image"), "actor.pkl"),
    ("train_renderer.py", ("--output", "image/test.png"), "test.png"),
    ("train_renderer.py", ("--output", "image"), "cannot write image: it is a folder"),
    ("train_renderer.py", ("--stroke", "square"), "square"),
)


def test_bad_input_gives_an_error_line_and_writes_nothing(checkout):
    checkout.refuse(BAD_INPUT)


@pytest.mark.parametrize(("script", "flags", "says"), [
    ("train_renderer.py", (*RENDERER_TINY, "--steps", 40, "--lr", 1e12, "--validate_interval", 2,
                           "--output", "w.pkl"), "diverged by step 2 (squared error "),
    # The first two episodes give a checkpoint each before learning begins.
    ("train.py", (*TINY, "--train_times", 30, "--warmup", 9, "--actor_rate", 1e20),
     "diverged in update 2: wgan/loss "),
    ("train.py", (*TINY, "--train_times", 30, "--warmup", 9, "--critic_rate", 1e15),
     "diverged in update 1: wgan/loss "),
])
def test_divergence_keeps_the_last_good_checkpoint(checkout, script, flags, says):
    error = checkout.run(script, *flags, status=2)
    assert says in error
    assert "keeps the last good checkpoint" in error
    assert error.count("\n") == 1
    files = [*checkout.root.glob("w.pkl"), *checkout.root.glob("train_log/*/*.p*")]
    assert len(files) >= 4 or script == "train_renderer.py"
    for file in files:
        assert_finite(load(file))


def test_first_diverged_update_is_named(checkout, tmp_path):
    training = training_of(checkout)
    monitor = training.monitor
    monitor.folder = tmp_path
    for losses, says in (((1.0, float("nan"), 3e9), r"update 2: loss nan reward 0\.5;"),
                         ((-2e9,), r"update 3: loss -2e\+09 reward 0\.5;")):
        for loss in losses:
            training.method.updates += 1
            monitor.gather({"loss": torch.tensor(loss), "reward": torch.tensor(0.5)})
        with pytest.raises(UserError, match=f"diverged in {says}"):
            training.check()
        training.method.updates = 2
        monitor.round_metrics = []
    training.check()
    training.method.actor.fc.bias.data[3] = float("inf")
    with pytest.raises(UserError, match="weights are NaN or infinite"):
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
def test_too_little_memory_of_a_device_names_the_flags(error):
    with pytest.raises(UserError, match="^.*smaller --batch_size [(].*$"), \
            enough_memory("--batch_size"):
        raise error
    with pytest.raises(RuntimeError, match="another"), enough_memory("--batch_size"):
        raise RuntimeError("another one")


@pytest.mark.parametrize(("name", "content", "says"), [
    ("checkpoint.pt", b"", "checkpoint.pt"), ("checkpoint.pt", {}, "of another version or"),
    ("checkpoint.pt", [1], "of another version or"), ("run.json", b"{", "run.json"),
    ("run.json", b'{"finished": 0, "options": 3}', "run.json"), ("run.json", None, "run.json"),
    ("run.json", {"rmsize": -1}, "run.json: argument --rmsize: -1 is not"),
    ("run.json", {"more": 1}, "run.json: unrecognized arguments: --more=1"),
    ("log.csv", b"update,frames\n1," + b"9" * 200_000, "log.csv"),
    ("memory-3-0-0of1.pt", {"env": {}}, "delete it"), ("memory-3-0-0of1.pt", b"PK", "delete it"),
])
def test_broken_run_gives_an_error_line(checkout, name, content, says):
    training = training_of(checkout)
    tick(training, 3)
    training.attach(
        Run.create(checkout.root / "train_log", "Paint", vars(training.options), Ranks()))
    training.save()
    training.run = None  # it holds the lock
    file = checkout.root / "train_log" / "Paint-run1" / name
    assert file.exists() or name == "log.csv"  # which begins with the first validation
    if content is None:
        file.unlink()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    elif name == "run.json":
        options = json.loads(file.read_text())["options"]
        file.write_text(json.dumps({"finished": False, "options": options | content}))
    else:
        torch.save(content, file)
    checkout.refuse((("train.py", ("--resume",), says),))


def test_fast_without_a_compiler_is_refused(checkout):
    broken = checkout.root / "broken"
    broken.write_text("#!/bin/sh\nfor i in 1 2 3; do echo broken $i >&2; done; exit 1\n")
    broken.chmod(0o755)
    for script, environment, error in (
            ("train_renderer.py", {"PATH": "/nowhere", "CXX": "none"},
             "error: --fast needs a C++ compiler, like g++; install one or leave it out"),
            ("train.py", {"CXX": str(broken)},
             f"error: --fast: the compiler {broken} does not work (broken 1); ")):
        process = checkout.start(script, "--fast", environment=environment)
        assert process.wait() == 2
        assert process.errors.startswith(error)
        assert process.errors.count("\n") == 1
    assert not (checkout.root / "train_log").exists()


@pytest.mark.parametrize(("bundle", "max_step", "steps"), [
    (1, 6, [5, 6]), (2, 11, [20, 22]), (5, 5, [5, 20, 25]),
    (8, 2, [16]),
])
def test_errors_are_logged_where_bundles_end(monkeypatch, checkout, bundle, max_step, steps):
    training = training_of(checkout, "--validate_episodes", 1, "--bundle", bundle,
                           "--max_step", max_step)
    numbers = {}
    monkeypatch.setattr(training.monitor, "log", lambda step, values: numbers.update(values))
    training.validate()
    assert training.method.discount == 0.95**bundle
    assert training.method.noise == 0
    assert set(numbers) == {f"validation/error_{strokes}_strokes" for strokes in steps}
    (row,) = training.monitor.rows
    assert [name for name in row if name.startswith("error_") and name[6:].isdigit()] == [
        f"error_{strokes}" for strokes in steps]


def test_checkpoint_of_another_bundle_is_refused(checkout, tmp_path):
    run = save_run(training_of(checkout, "--bundle", 2), tmp_path)
    with pytest.raises(UserError, match="of other options"):
        training_of(checkout).load(run)
