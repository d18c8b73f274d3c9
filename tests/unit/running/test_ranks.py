"""Two processes that train together against one with the whole batch."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers import ROOT, TESTS, Checkout, fill, image, u8
from running.ranks import LAUNCHER, Ranks
from utils.command import UserError

WORKER = Path(__file__)


def update_once(rank: int, world: int) -> dict[str, torch.Tensor]:
    """Do an update by this process's part of a fixed batch and return the gradients.

    Batch normalization stays in eval mode, as it is synchronized on GPUs only.
    """
    from DRL.ddpg import DDPG
    from DRL.learner import Setup
    from DRL.rpm import Transitions
    from Renderer.model import Renderer, TrainedRender
    from running.device import Precision
    from running.ranks import Ranks

    precision = Precision("fp32", torch.device("cpu"))
    with Ranks() as ranks:
        assert (ranks.rank, ranks.world) == (rank, world)
        render = TrainedRender(fill(Renderer(), "renderer", 1), "bezier", precision)
        torch.manual_seed(0)
        part = slice(rank, None, world)
        batch = Transitions(
            u8(image(4, 3, 105)), torch.rand(4, 65), u8(image(4, 3, 107)), u8(image(4, 3, 106)),
            torch.tensor([0, 13, 26, 39]),
        )
        alpha = torch.rand(4)
        agent = DDPG(Setup(render=render, precision=precision, ranks=ranks))
        for name, seed, gain in (("actor", 2, 1.0), ("critic", 3, 0.8), ("wgan", 4, 2.0)):
            fill(agent.networks[name], name, seed, gain)
            fill(agent.target_networks[name], name, seed + 10, gain)
        agent.actor.train = lambda mode=True: agent.actor
        agent.step_all(*(each[part] for each in (alpha, *batch)))
        return {f"{name} {key}": parameter.grad for name, network in agent.networks.items()
                for key, parameter in network.named_parameters()}


def free_port() -> int:
    """One that nothing listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def torchrun(*command: object, cwd: Path) -> str:
    """Run a command in two processes.  Returns what they printed."""
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
    """Run a script in two processes, as torchrun does.  Returns what they printed, or errors."""
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost",
              "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    both = [checkout.start(script, *flags, environment=shared | dict.fromkeys(
        ("RANK", "LOCAL_RANK"), str(rank))) for rank in range(2)]
    for each in both:
        assert (each.wait() == 0) == good, f"{each.output}\n{each.errors}"
    return "".join(each.output if good else each.errors for each in both)


def test_an_update_in_two_processes_is_that_of_one(tmp_path):
    """To rounding, which flips ReLUs of the actor: another order of the batch does as much."""
    torchrun(WORKER, tmp_path, cwd=tmp_path)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    whole = update_once(0, 1)
    for name, expected in whole.items():
        assert torch.equal(parts[0][name], parts[1][name]), name
        allowed = 0.01 if name.startswith("actor") else 1e-4
        assert (parts[0][name] - expected).norm() <= allowed * expected.norm(), name


@pytest.mark.parametrize(("variables", "says"), [
    ({"WORLD_SIZE": "2"}, "has RANK=''"),
    ({"RANK": "1"}, "has WORLD_SIZE=''"),
    ({"RANK": "one", "WORLD_SIZE": "2"}, "has RANK='one'"),
    ({"RANK": "0", "WORLD_SIZE": "-2"}, "has WORLD_SIZE='-2'"),
    ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 of WORLD_SIZE=2"),
    ({"RANK": "0", "WORLD_SIZE": "2"}, "has no MASTER_ADDR"),
    ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "?"}, "has LOCAL_RANK='?'"),
    ({"LOCAL_RANK": "zero"}, "has LOCAL_RANK='zero'"),
    ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "x"},
     "cannot be reached"),
])
def test_a_launchers_variables_in_part_are_refused(monkeypatch, variables, says):
    for name in (*LAUNCHER, "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, variables.get(name, ""))
    with pytest.raises(UserError, match=re.escape(says)):
        Ranks()


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": "1"}, {"RANK": "0", "WORLD_SIZE": "1"}])
def test_one_process_of_one_is_alone(monkeypatch, variables):
    for name in LAUNCHER:
        monkeypatch.setenv(name, variables.get(name, ""))
    assert (Ranks().rank, Ranks().world) == (0, 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_waiting_for_others_ends_by_a_signal(number):
    code = ("import sys; sys.path.insert(0, 'baseline')\n"
            "from utils.command import run; from running.ranks import Ranks, on_stop_signals\n"
            "from contextlib import contextmanager; import running.ranks\n"
            "@contextmanager\n"
            "def said(handler):\n"
            "    with on_stop_signals(handler):\n"
            "        print('waits', flush=True)\n"
            "        yield\n"
            "running.ranks.on_stop_signals = said; run(lambda: Ranks('cpu'))")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launched = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port)}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=os.environ | launched,
                          stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "waits\n"
        process.send_signal(number)
        assert process.wait(60) == -number


@pytest.mark.usefixtures("narrow")
def test_uneven_shares_are_refused(checkout):
    before = checkout.files()
    errors = in_two(checkout, "train_renderer.py", "--batch_size", 3, "--device", "cpu", good=False)
    assert "error: --batch_size 3 cannot be shared evenly by 2 processes\n" in errors
    assert checkout.files() == before


@pytest.mark.usefixtures("narrow")
def test_what_one_process_refuses_no_other_trips_over(checkout):
    """The second process waits for the first to read the images, which says what is wrong."""
    (checkout.root / "empty").mkdir()
    errors = in_two(checkout, "train.py", "--method", "grid", "--data", "empty",
                    "--device", "cpu", good=False)
    assert "empty holds no images" in errors
    assert errors.count("error: ") == 1
    assert "train.py\", line" not in errors


@pytest.mark.usefixtures("narrow")
def test_renderer_training_in_two_processes(checkout):
    """The same losses as one process has, one log, one checkpoint, resumed by one alone."""
    flags = ("--batch_size", 4, "--precision", "fp32", "--device", "cpu", "--steps", 4,
             "--validate_interval", 2, "--output", checkout.root / "w.pkl", "--scratch")
    two = in_two(checkout, "train_renderer.py", *flags)
    one = checkout.run("train_renderer.py", *flags)
    assert two.count("finished") == 1
    assert "2 processes" in two
    errors = [[line.split()[4] for line in out.splitlines() if line.startswith("step ")]
              for out in (one, two)]
    assert len(errors[0]) == 2
    for mine, its in zip(*errors, strict=True):
        assert float(mine) == pytest.approx(float(its), rel=1e-3)
    assert sorted(p.name for p in (checkout.root / "train_log").iterdir()) == [
        "Renderer-run1", "Renderer-run2"]
    assert len(list((checkout.root / "train_log" / "Renderer-run1").glob("events.*"))) == 1


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("method", ["ddpg", "model_free"])
def test_batch_norm_in_several_processes_on_a_cpu_is_refused(checkout, method):
    before = checkout.files()
    errors = in_two(checkout, "train.py", "--method", method, "--device", "cpu", good=False)
    assert errors.splitlines()[0].startswith(
        f"error: --method {method} needs a GPU for each of 2 processes")
    assert "line" not in errors
    assert checkout.files() == before


def test_grid_method_in_two_processes_resume_in_one(checkout, compiled):
    """By the real launcher; uneven parts are refused."""
    flags = ("--method", "grid", "--env_batch", 2, "--validate_episodes", 1, "--device", "cpu")
    errors = in_two(checkout, "train.py", *flags, "--batch_size", 120, good=False)
    assert "paintings of --batch_size 120, 3 cannot be shared evenly by 2 processes" in errors
    out = torchrun(checkout.root / "baseline" / "train.py", *flags, "--batch_size", 80,
                   "--train_times", 3, cwd=checkout.root)
    assert "1 paintings an update, 2 processes" in out
    assert out.count("finished") == 1
    folder = checkout.root / "train_log" / "Paint-run1"
    assert len(list(folder.glob("memory-*of2.pt"))) == 2
    out = checkout.run("train.py", "--resume", folder, "--train_times", 4)
    assert "is gone: the memory is filled anew" in out
    assert "step 4" in out
    assert [p.name[-8:] for p in folder.glob("memory-*")] == ["-0of1.pt"]


if __name__ == "__main__":
    mine = int(os.environ["RANK"])
    torch.save(update_once(mine, 2), Path(sys.argv[1]) / f"{mine}.pt")
