"""Every fast path against the plain one on the same inputs."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import bench
from DRL.ddpg import DDPG
from DRL.learner import Setup
from DRL.model_free import ModelFreeDDPG
from DRL.rpm import Transitions
from DRL.wgan import GRADIENT_PENALTY_WEIGHT, Discriminator, gradient_penalty
from helpers import fill, fill_agent, image, u8
from Renderer.canvas import as_float
from Renderer.model import Renderer, TrainedRender
from Renderer.stroke_batch import draw_batch, draw_tensor
from Renderer.stroke_data import StrokeBatches, drawn_ahead
from Renderer.stroke_gen import bezier_discs
from running.device import Precision, compiling
from running.graph import WARM_CALLS, Graphed
from running.ranks import Ranks
from utils.command import UserError

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = torch.device("cuda", 0)


def agent_on(device: torch.device, fast: bool, kind: type[DDPG] = DDPG, **options) -> DDPG:
    """Return an agent with golden networks on a device."""
    torch.manual_seed(0)
    precision = Precision("fp32", device)
    render = TrainedRender(fill(Renderer(), "renderer", 1), "bezier", precision)
    agent = kind(Setup(render=render, precision=precision, fast=fast), **options)
    if kind is DDPG:
        fill_agent(agent)
    agent.target_networks["actor"].train()
    return agent


def batch_on(device: torch.device, seed: int) -> Transitions:
    """Return a random batch."""
    rng = np.random.default_rng(seed)
    batch = Transitions(
        u8(image(4, 3, seed)), torch.from_numpy(rng.random((4, 65), np.float32)),
        u8(image(4, 3, seed + 1)), u8(image(4, 3, seed + 2)),
        torch.from_numpy(rng.integers(40, size=4)),
    )
    return batch.to(device)


def assert_same_steps(plain: DDPG, fast: DDPG, batch: Transitions) -> None:
    """Compare the agents' actions and the canvases that they lead to."""
    inputs = as_float(batch.canvas), as_float(batch.target), batch.step / 40, (1, 2)
    actions = [agent.rollout_action(*inputs) for agent in (plain, fast)]
    assert (actions[0] - actions[1]).abs().max() <= 1e-3
    canvases = [agent.advance(batch.canvas, actions[0].clone()).int() for agent in (plain, fast)]
    assert (canvases[0] - canvases[1]).abs().max() <= 1


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("options", [
    {}, pytest.param({"kind": ModelFreeDDPG}, marks=pytest.mark.slow)])
def test_compiled_update_equals_the_plain_one(monkeypatch, options):
    """Traced and differentiated as by the compiler, without the minutes of building kernels."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain, fast = (agent_on(torch.device("cpu"), fast, **options) for fast in (False, True))
    for seed in (105, 205):
        batch = batch_on(torch.device("cpu"), seed)
        assert_same_steps(plain, fast, batch)
        alpha = torch.rand(4, generator=torch.Generator().manual_seed(seed))
        metrics, fast_metrics = (agent.step_all(alpha, *batch) for agent in (plain, fast))
        assert metrics.keys() == fast_metrics.keys()
        for name, expected in metrics.items():
            assert fast_metrics[name].item() == pytest.approx(
                expected.item(), rel=2e-3, abs=1e-4), name
    for name, network in plain.networks.items():
        for (key, one), other in zip(network.named_parameters(), fast.networks[name].parameters(),
                                     strict=True):
            assert (one.grad - other.grad).norm() <= 0.02 * one.grad.norm() + 1e-7, key


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("kind", ["plain", "default"])
def test_benchmark_of_an_update(monkeypatch, kind):
    """The plain update gives the renderer's weights gradients too."""
    agent = bench.agent_of(Precision("fp32", torch.device("cpu")), kind)
    monkeypatch.setattr(bench, "agent_of", lambda precision, kind: agent)
    bench.update(agent.precision, kind, 2)()
    grads = [parameter.grad is not None for parameter in agent.render.network.parameters()]
    assert set(grads) == {kind == "plain"}
    assert agent.updates == 1


@pytest.fixture
def critic_inputs() -> tuple:
    """Return a discriminator and the inputs of its gradient penalty."""
    discriminator = fill(Discriminator(), "wgan", 4, 2.0)
    real, fake = (torch.cat((image(3, 3, 7), image(3, 3, seed)), 1) for seed in (7, 8))
    return discriminator, real, fake, torch.tensor([0.1, 0.5, 0.8])


def weight_gradients(penalty: torch.Tensor, discriminator: Discriminator) -> torch.Tensor:
    """Return the gradients of all weights in one vector."""
    weights = [p for name, p in discriminator.named_parameters() if "weight" in name]
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(penalty, weights)])


def test_penalty_is_that_of_a_differentiated_backward_pass(critic_inputs):
    discriminator, real, fake, alpha = critic_inputs
    mixed = torch.lerp(fake, real, alpha.view(-1, 1, 1, 1)).requires_grad_()
    (grad,) = torch.autograd.grad(discriminator(mixed).sum(), mixed, create_graph=True)
    plain = GRADIENT_PENALTY_WEIGHT * (grad.flatten(1).norm(dim=1) - 1).square().mean()
    penalty = gradient_penalty(*critic_inputs)
    assert penalty.item() == pytest.approx(plain.item(), rel=1e-5)
    expected, gradients = (weight_gradients(each, discriminator) for each in (plain, penalty))
    assert (gradients - expected).norm() <= 1e-5 * expected.norm()


def test_failed_compiler_gives_an_error_line():
    kind = type("CppCompileError", (RuntimeError,), {"__module__": "torch._inductor.exc"})
    with pytest.raises(UserError, match=r"--fast: compiling failed \(C\+\+ compile error\); "), \
            compiling():
        raise kind("\nC++ compile error\n\nCommand: /bin/false")
    with pytest.raises(RuntimeError, match="other"), compiling():
        raise RuntimeError("other")


def test_error_in_drawing_ahead_is_raised(monkeypatch):
    data = StrokeBatches(7, 4, "bezier", Ranks())
    ahead = drawn_ahead(data, 0, 10**9)
    next(ahead)
    ahead.close()  # at once, though not all is read
    monkeypatch.setattr("Renderer.stroke_data.draw_batch", lambda *_, **more: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(drawn_ahead(data, 0, 3))


def test_compiled_drawing_equals_the_plain_one():
    discs = bezier_discs(torch.from_numpy(np.random.default_rng(4).random((8, 10))))
    assert torch.equal(draw_tensor(discs, compiled=True), draw_tensor(discs))


def test_strokes_drawn_ahead_are_functions_of_their_number():
    data = StrokeBatches(7, 4, "bezier", Ranks())
    for k, (strokes, drawn) in enumerate(drawn_ahead(data, 3, 6), 3):
        numbers = np.random.default_rng((7, k)).random((4, 10), np.float32)
        assert np.array_equal(strokes, numbers)
        assert torch.equal(drawn, draw_batch(strokes))
    assert k == 5


def test_two_processes_share_the_strokes_of_one():
    whole = StrokeBatches(7, 4, "bezier", Ranks())[5]
    parts = [StrokeBatches(7, 2, "bezier", SimpleNamespace(rank=rank, world=2))[5]
             for rank in range(2)]
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), whole)


@needs_gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("family", ["bezier", "triangle", "round"])
def test_gpu_draws_ten_thousand_strokes_alike(compiled, family):
    numbers = np.random.default_rng(3).random((10_000, 10))
    numbers[:2000] = numbers[:2000].round()  # corners, ends of every range
    for some in torch.from_numpy(numbers).split(500):
        drawn = draw_batch(some.to(GPU), family, compiled)
        assert drawn.is_cuda
        assert (drawn.cpu() - draw_batch(some, family)).abs().max() <= 1e-6


@needs_gpu
def test_graph_does_every_call_once():
    total = torch.zeros((), device=GPU)

    def add(value: torch.Tensor) -> torch.Tensor:
        total.add_(value.sum())
        return total * 2

    graphed = Graphed(add, on=True)
    for k in range(1, WARM_CALLS + 5):
        value = graphed(torch.full((3,), float(k), device=GPU))
        assert value.item() == 3 * k * (k + 1)


@needs_gpu
@pytest.mark.parametrize("options", [{}, {"reward": "l2"}, {"kind": ModelFreeDDPG}])
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_graphed_update_equals_the_plain_one(monkeypatch, options, compiled):
    """To rounding; a learning rate that changes late reaches the graph."""
    if not compiled:  # graphs alone, without the minutes of building kernels
        monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    plain, fast = (agent_on(GPU, fast, **options) for fast in (False, True))
    assert fast.graphed
    calls = WARM_CALLS + 4
    for k in range(calls):
        rates = dict.fromkeys(plain.networks, 1e-5 if k < calls - 2 else 0.0)
        batch = batch_on(GPU, 105 + 10 * k)
        before = [p.clone() for p in fast.actor.parameters()]
        for agent in (plain, fast):
            monkeypatch.setattr(agent, "rates", lambda progress, rates=rates: rates)
        if "kind" not in options or k < 3:
            assert_same_steps(plain, fast, batch)
        metrics = []
        for agent in (plain, fast):
            torch.manual_seed(k)
            metrics.append(agent.update(batch, k / calls))
        for name, expected in metrics[0].items():
            assert metrics[1][name].item() == pytest.approx(
                expected.item(), rel=0.02, abs=1e-3), name
        if k == calls - 2:
            frozen = before
    assert all(torch.equal(p, q) for p, q in zip(frozen, fast.actor.parameters(), strict=True))


def test_cpu_paints_in_fp32_by_default(monkeypatch):
    monkeypatch.setattr("running.device.computes_in_bf16", lambda device: True)
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert not Precision("auto", cpu).bf16
    assert Precision("auto", cpu, learning=True).bf16 and Precision("auto", gpu).bf16
    assert Precision("bf16", cpu).bf16 and not Precision("fp32", gpu, learning=True).bf16


def test_products_are_rounded_to_tf32_only_on_request():
    gpu, flags = torch.device("cuda", 0), (torch.backends.cudnn, torch.backends.cuda.matmul)
    for name, rounded in (("tf32", True), ("fp32", False)):
        assert str(Precision(name, gpu)) == name
        assert [each.allow_tf32 for each in flags] == [rounded, rounded]
    with pytest.raises(UserError, match="tf32 needs a GPU"):
        Precision("tf32", torch.device("cpu"))


def test_penalty_in_bf16_has_about_the_same_gradient(critic_inputs):
    gradients = []
    for bf16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            penalty = gradient_penalty(*critic_inputs)
        gradients.append(weight_gradients(penalty, critic_inputs[0]))
    assert (gradients[0] - gradients[1]).norm() <= 0.1 * gradients[0].norm()
