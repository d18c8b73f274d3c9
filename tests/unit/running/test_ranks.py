"""Two processes that train together, against one with the whole batch."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from DRL.ddpg import DDPG
from DRL.learner import Setup
from DRL.rpm import Transitions
from helpers import FP32, ROOT, TESTS, Checkout, fill, fill_agent, image, load, u8
from Renderer.model import Renderer, TrainedRender
from running.ranks import LAUNCHER, Ranks
from utils.command import UserError

WORKER = Path(__file__)


def update_once(rank: int, world: int) -> dict[str, torch.Tensor]:
    """Update by this process's part of a fixed batch and return the gradients.

    Batch normalization stays in eval mode, as it is synchronized on GPUs only.
    """
    with Ranks() as ranks:
        assert (ranks.rank, ranks.world) == (rank, world)
        render = TrainedRender(fill(Renderer(), "renderer", 1), "bezier", FP32)
        torch.manual_seed(0)
        part = slice(rank, None, world)
        batch = Transitions(
            u8(image(4, 3, 105)), torch.rand(4, 65), u8(image(4, 3, 107)), u8(image(4, 3, 106)),
            torch.tensor([0, 13, 26, 39]),
        )
        alpha = torch.rand(4)
        agent = DDPG(Setup(render=render, precision=FP32, ranks=ranks))
        fill_agent(agent)
        agent.actor.train = lambda mode=True: agent.actor
        agent.step_all(*(each[part] for each in (alpha, *batch)))
        return {f"{name} {key}": parameter.grad for name, network in agent.networks.items()
                for key, parameter in network.named_parameters()}


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def torchrun(*command: object, cwd: Path) -> str:
    """Run a command in two processes and return what they printed."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2",
         f"--master_port={free_port()}", *map(str, command)],
        cwd=cwd, capture_output=True, text=True, timeout=280, check=False,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
                          "PYTHONPATH": f"{TESTS}:{ROOT / 'baseline'}"},
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def in_two(checkout: Checkout, script: str, *flags: object, good: bool = True) -> str:
    """Run a script in two processes, like torchrun, and return their output or their errors."""
    launcher = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost",
                "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    processes = [checkout.start(script, *flags, environment=launcher | dict.fromkeys(
        ("RANK", "LOCAL_RANK"), str(rank))) for rank in range(2)]
    for process in processes:
        assert (process.wait() == 0) == good, f"{process.output}\n{process.errors}"
    return "".join(process.output if good else process.errors for process in processes)


def test_gradients_of_two_processes_are_those_of_one(tmp_path):
    """To rounding, which flips ReLUs of the actor: another order of the batch does as much."""
    torchrun(WORKER, tmp_path, cwd=tmp_path)
    gradients = [load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, expected in update_once(0, 1).items():
        assert torch.equal(gradients[0][name], gradients[1][name]), name
        tolerance = 0.01 if name.startswith("actor") else 1e-4
        assert (gradients[0][name] - expected).norm() <= tolerance * expected.norm(), name


@pytest.mark.parametrize(("variables", "says"), [
    ({"WORLD_SIZE": "2"}, "no ranks from 0: RANK= WORLD_SIZE=2 "),
    ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK=one"),
    ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 WORLD_SIZE=2"),
    ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR= "),
    ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "?"}, "LOCAL_RANK=?"),
    ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "x"},
     "cannot be reached"),
])
def test_incomplete_variables_of_a_launcher_are_refused(monkeypatch, variables, says):
    for name in LAUNCHER:
        monkeypatch.setenv(name, variables.get(name, ""))
    with pytest.raises(UserError, match=re.escape(says)):
        Ranks()


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": "1"}, {"RANK": "0", "WORLD_SIZE": "1"}])
def test_single_process_has_rank_0_of_1(monkeypatch, variables):
    for name in LAUNCHER:
        monkeypatch.setenv(name, variables.get(name, ""))
    assert (Ranks().rank, Ranks().world) == (0, 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signal_ends_waiting_for_other_processes(number):
    code = ("from utils.command import run; import running.ranks\n"
            "from contextlib import contextmanager\n"
            "on_stop_signals = running.ranks.on_stop_signals\n"
            "@contextmanager\n"
            "def print_waits(handler):\n"
            "    with on_stop_signals(handler):\n"
            "        print('waits', flush=True)\n"
            "        yield\n"
            "running.ranks.on_stop_signals = print_waits; run(lambda: running.ranks.Ranks('cpu'))")
    environment = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(free_port())}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT / "baseline",
                          env=os.environ | environment, stdout=subprocess.PIPE,
                          text=True) as process:
        assert process.stdout.readline() == "waits\n"
        process.send_signal(number)
        assert process.wait(60) == -number


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("script", "flags", "says"), [
    ("train_renderer.py", ("--batch_size", 3),
     "error: --batch_size 3 cannot be divided evenly by 2 processes\n"),
    ("train.py", ("--method", "ddpg"), "error: --method ddpg needs a GPU for each of 2 processes"),
    ("train.py", ("--method", "model_free"),
     "error: --method model_free needs a GPU for each of 2 processes"),
    ("train.py", ("--method", "grid", "--batch_size", 120),
     "paintings of --batch_size 120, 3 cannot be divided evenly by 2 processes"),
    ("train.py", ("--method", "grid", "--data", "empty"), "empty holds no images"),
])
def test_two_processes_refuse_bad_input(checkout, script, flags, says):
    """The second process waits for the first to read the images."""
    (checkout.root / "empty").mkdir()
    files = checkout.files()
    errors = in_two(checkout, script, *flags, "--device", "cpu", good=False)
    assert says in errors
    assert '", line' not in errors  # of a traceback
    assert "images" not in says or errors.count("error: ") == 1
    assert {name for name in checkout.files() - files if "cache" not in name} == set()


@pytest.mark.usefixtures("narrow")
def test_renderer_training_in_two_processes_has_the_losses_of_one(checkout):
    flags = ("--batch_size", 4, "--precision", "fp32", "--device", "cpu", "--steps", 4,
             "--validate_interval", 2, "--output", checkout.root / "w.pkl", "--scratch")
    outputs = in_two(checkout, "train_renderer.py", *flags), checkout.run(
        "train_renderer.py", *flags)
    assert outputs[0].count("finished") == 1
    assert "2 processes" in outputs[0]
    errors = [[float(line.split()[4]) for line in output.splitlines() if line.startswith("step ")]
              for output in outputs]
    assert len(errors[0]) == 2
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)
    runs = checkout.root / "train_log"
    assert sorted(p.name for p in runs.iterdir()) == ["Renderer-run1", "Renderer-run2"]
    assert len(list((runs / "Renderer-run1").glob("events.*"))) == 1


@pytest.mark.usefixtures("narrow")
def test_grid_training_of_two_processes_resumes_in_one(checkout, compiled):
    flags = ("--method", "grid", "--env_batch", 2, "--validate_episodes", 1, "--device", "cpu")
    out = in_two(checkout, "train.py", *flags, "--batch_size", 80, "--train_times", 3)
    assert "1 paintings an update, 2 processes" in out
    assert out.count("finished") == 1
    folder = checkout.root / "train_log" / "Paint-run1"
    assert len(list(folder.glob("memory-*of2.pt"))) == 2
    out = checkout.run("train.py", "--resume", folder, "--train_times", 4)
    assert "is gone: the replay memory is filled again" in out
    assert "step 4" in out
    assert [p.name[-8:] for p in folder.glob("memory-*")] == ["-0of1.pt"]


if __name__ == "__main__":
    own_rank = int(os.environ["RANK"])
    torch.save(update_once(own_rank, 2), Path(sys.argv[1]) / f"{own_rank}.pt")
