"""The updates of the paper's agent against golden numbers, and their gradients."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from DRL.ddpg import DDPG
from DRL.learner import Setup, soft_update, unfrozen
from DRL.rpm import Transitions
from helpers import FP32, UPDATE, assert_golden, fill, fill_agent, image, u8
from Renderer.canvas import as_float, composite
from Renderer.model import Renderer, TrainedRender
from running.device import Precision

TARGET = u8(image(4, 3, 106))


@pytest.fixture(scope="module")
def renderer():
    return TrainedRender(fill(Renderer(), "renderer", 1), "bezier", FP32)


def golden(renderer, precision=FP32, setup=None, **options) -> DDPG:
    """Return the agent with golden networks, whose batch normalization stays in eval mode."""
    agent = DDPG(Setup(render=renderer, precision=precision, **(setup or {})), **options)
    fill_agent(agent)
    agent.actor.train = lambda mode=True: agent.actor
    return agent


@pytest.fixture
def golden_agent(renderer):
    return golden(renderer)


@pytest.fixture(scope="module")
def batch():
    action = torch.from_numpy(np.random.default_rng(8).random((4, 65)).astype(np.float32))
    return Transitions(
        u8(image(4, 3, 105)), action, u8(image(4, 3, 107)), TARGET, torch.tensor([0, 13, 26, 39]))


def gradient_norm(network: nn.Module) -> float:
    return math.sqrt(sum(p.grad.double().square().sum().item() for p in network.parameters()))


def test_golden_reward_and_action(golden_agent, renderer, batch):
    with torch.no_grad():
        canvas = as_float(batch.canvas)
        reward = golden_agent.reward(
            canvas, composite(renderer, canvas, batch.action), as_float(TARGET))
    expected = torch.tensor(UPDATE["reward"])
    assert torch.allclose(reward[:, 0], expected, rtol=1e-4, atol=3e-6)  # of scores near 1
    action = golden_agent.policy().act(canvas[:1], as_float(TARGET[:1]), 0.0)
    assert_golden(action[0], UPDATE["policy_action_row0"])


def test_gradient_of_each_loss_reaches_its_own_network_only(golden_agent, renderer, batch):
    agent = golden_agent
    canvas, next_canvas, target = map(as_float, (batch.canvas, batch.next_canvas, TARGET))
    losses = {
        "actor": lambda: agent.policy_loss(canvas, target, batch.step),
        "critic": lambda: agent.value_loss(canvas, batch.action, next_canvas, target, batch.step),
        "wgan": lambda: agent.wgan_loss(next_canvas, target, torch.rand(4)),
    }
    others = [renderer.network, *agent.networks.values(), *agent.target_networks.values(),
              agent.ema_actor]
    for name, loss_of in losses.items():
        network = agent.networks[name]
        with unfrozen(network):
            loss_of()[0].backward()
        assert gradient_norm(network) > 0
        for other in others:
            if other is not network:
                assert all(p.grad is None for p in other.parameters())
        network.zero_grad(set_to_none=True)


def test_update_has_the_golden_losses_and_gradients(golden_agent, batch, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *size, **more: torch.tensor(UPDATE["wgan_alpha"]))
    norms: dict[str, float] = {}
    for name, optimizer in golden_agent.optimizers.items():
        optimizer.register_step_pre_hook(
            lambda *_, name=name: norms.update(
                {name: gradient_norm(golden_agent.networks[name])}))
    monkeypatch.setattr(golden_agent, "rates",
                        lambda progress: dict.fromkeys(golden_agent.networks, 0.0))
    metrics = golden_agent.update(batch, 0.0)
    for name, loss in (("actor", "policy"), ("critic", "value"), ("wgan", "wgan")):
        assert_golden(metrics[f"{name}/loss"], UPDATE[f"{loss}_loss"])
        assert_golden(norms[name], UPDATE[f"{name}_grad_norm"])
    assert_golden(metrics["critic/td_target"], np.mean(UPDATE["next_value_discounted"]))
    assert_golden(metrics["critic/value"], np.mean(UPDATE["q"]) - np.mean(UPDATE["reward"]))
    for name in ("real", "fake", "penalty"):
        assert_golden(metrics[f"wgan/{name}"], UPDATE[f"wgan_{name}"])


def test_update_moves_networks_and_target_networks(golden_agent, batch):
    before, targets = (
        {name: [p.clone() for p in network.parameters()] for name, network in networks.items()}
        for networks in (golden_agent.networks, golden_agent.target_networks))
    metrics = golden_agent.update(batch, 0.0)
    assert all(torch.isfinite(value) for value in metrics.values())
    for name, network in golden_agent.networks.items():
        online = list(network.parameters())
        assert not torch.equal(online[0], before[name][0])
        for target, old, new in zip(golden_agent.target_networks[name].parameters(),
                                    targets[name], online, strict=True):
            assert torch.allclose(target, old + 0.001 * (new - old), atol=1e-6)
    assert not golden_agent.actor.training


@pytest.mark.usefixtures("narrow")
def test_actor_learns_by_the_statistics_of_its_batch(renderer, batch):
    torch.manual_seed(0)
    agent = DDPG(Setup(render=renderer, precision=FP32), reward="l2")
    before = copy.deepcopy(agent.actor)
    agent.update(batch, 0.5)
    assert not torch.equal(agent.actor.bn1.weight, before.bn1.weight)
    assert not agent.actor.training
    for name, buffer in agent.actor.named_buffers():
        if "running" in name:
            assert not torch.equal(buffer, before.get_buffer(name)), name


def test_target_actor_normalizes_by_its_own_batch(renderer, batch):
    """Running statistics of the actor do not fit the target actor's weights."""
    next_canvas, target = as_float(batch.next_canvas), as_float(TARGET)
    agent = DDPG(Setup(render=renderer, precision=FP32))
    td_targets = []
    for mean in (0.0, 1.0):
        agent.target_networks["actor"].bn1.running_mean.fill_(mean)
        td_targets.append(agent.td_target(next_canvas, target, batch.step))
    assert torch.equal(*td_targets)


def test_soft_update_copies_or_averages_buffers():
    network, target = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    network(torch.rand(4, 3, 2, 2))
    soft_update(target, network, 0.5)
    assert torch.equal(target.running_mean, network.running_mean)
    assert target.running_mean.data_ptr() != network.running_mean.data_ptr()
    ema = nn.BatchNorm2d(3)
    soft_update(ema, network, 0.5, 0.5)
    assert torch.allclose(ema.running_mean, network.running_mean / 2)
    assert ema.num_batches_tracked == 1


def test_ema_spans_a_hundredth_of_the_training(renderer, batch, monkeypatch):
    """Of 10,000 updates it moves by 1 % an update; at first it moves faster."""
    agent, calls = golden(renderer), []
    monkeypatch.setattr("DRL.learner.soft_update",
                        lambda target, network, *taus: calls.append(taus))
    monkeypatch.setattr(agent, "step_all", lambda *inputs: {})
    for updates in (0, 90, 4999):
        agent.updates = updates
        agent.update(batch, (updates + 1) / 10_000)
    assert [tau for tau, _ in calls] == pytest.approx([9 / 11, 9 / 101, 0.01])
    assert all(tau == buffer_tau for tau, buffer_tau in calls)


def test_learning_rates_fall_at_the_references_fractions(renderer):
    agent = DDPG(Setup(render=renderer, precision=FP32))
    assert [agent.rates(p)["actor"] for p in (0, 0.19, 0.2, 0.39, 0.4, 1)] == [
        1e-3, 1e-3, 3e-4, 3e-4, 1e-4, 1e-4]
    assert [agent.rates(p)["critic"] for p in (0, 0.2, 0.4)] == [3e-4, 1e-4, 3e-5]
    assert {agent.rates(p)["wgan"] for p in (0, 0.2, 0.4)} == {3e-4}
    agent = DDPG(Setup(render=renderer, precision=FP32), actor_rate=1e-2)
    assert agent.rates(0)["actor"] == 1e-2
    assert agent.rates(1)["actor"] == pytest.approx(1e-4)


def test_l2_reward_is_the_fraction_of_the_error_removed(renderer):
    agent = DDPG(Setup(render=renderer, precision=FP32), reward="l2")
    assert set(agent.networks) == {"actor", "critic"}
    target, before = image(2, 3, 1), torch.zeros(2, 3, 128, 128)
    half = target * 0.5
    assert torch.allclose(agent.reward(before, half, target), torch.tensor(0.75), atol=1e-4)


def test_progress_beyond_255_steps_is_exact(renderer):
    agent = golden(renderer, setup={"max_step": 1000})
    progress = []
    agent.target_networks["critic"].register_forward_pre_hook(
        lambda module, inputs: progress.append(inputs[3]))
    target = as_float(TARGET[:1])
    agent.td_target(target, target, torch.tensor([799]))
    assert progress[0].item() == pytest.approx(0.801)


@pytest.mark.parametrize("options", [{}, {"reward": "l2"}])
def test_bf16_agrees_with_fp32(renderer, batch, options):
    torch.manual_seed(0)
    bf16 = Precision("bf16", torch.device("cpu"))
    agents = [golden(renderer, precision, **options) for precision in (FP32, bf16)]
    with torch.no_grad():
        plain, fast = (a.policy().act(as_float(batch.canvas), as_float(TARGET), 3 / 40)
                       for a in agents)
    assert fast.dtype == torch.float32
    assert (plain - fast).abs().max() < 0.02
    metrics = [a.update(batch, 0.0) for a in agents]
    assert metrics[0].keys() == metrics[1].keys()
    assert torch.allclose(metrics[0]["critic/loss"], metrics[1]["critic/loss"], rtol=0.3, atol=0)
