"""The learning step against golden numbers, and where its gradients go."""

import copy
import math

import pytest
import torch
from torch import nn

from DRL.ddpg import DDPG, follow, learning
from DRL.rpm import Transitions
from golden_networks import UPDATE, assert_golden, fill, image, u8
from Renderer.canvas import as_float, paint
from Renderer.model import Renderer
from utils.device import Precision

FP32 = Precision("fp32", torch.device("cpu"))


@pytest.fixture(scope="module")
def renderer():
    return fill(Renderer(), "renderer", 1).requires_grad_(False)


@pytest.fixture
def golden_agent(renderer):
    agent = DDPG(renderer, FP32)
    for name, seed, gain in (("actor", 2, 1.0), ("critic", 3, 0.8), ("wgan", 4, 2.0)):
        fill(agent.networks[name], name, seed, gain)
        fill(agent.slow[name], name, seed + 10, gain)
    return agent


@pytest.fixture(scope="module")
def batch():
    import numpy as np

    action = torch.from_numpy(np.random.default_rng(8).random((4, 65)).astype(np.float32))
    return Transitions(
        u8(image(4, 3, 105)), action, u8(image(4, 3, 107)), torch.zeros(4, dtype=torch.int64),
        torch.tensor([0, 13, 26, 39]),
    )


TARGET = u8(image(4, 3, 106))
RATES = {"actor": 1e-3, "critic": 1e-3, "wgan": 1e-3}


def gradient_norm(network: nn.Module) -> float:
    return math.sqrt(sum(p.grad.double().square().sum().item() for p in network.parameters()))


def test_golden_reward(golden_agent, renderer, batch):
    with torch.no_grad():
        canvas = as_float(batch.canvas)
        reward = golden_agent.reward(
            canvas, paint(renderer, canvas, batch.action), as_float(TARGET))
    expected = torch.tensor(UPDATE["reward"])
    assert torch.allclose(reward[:, 0], expected, rtol=1e-4, atol=0)


def test_golden_critic_step(golden_agent, batch):
    with learning(golden_agent.critic):
        loss, metrics = golden_agent.value_loss(batch, as_float(TARGET))
        loss.backward()
    assert_golden(loss, UPDATE["value_loss"])
    assert_golden(gradient_norm(golden_agent.critic), UPDATE["critic_grad_norm"])
    assert_golden(metrics["goal"], sum(UPDATE["next_value_discounted"]) / 4)
    mean_value = sum(q - r for q, r in zip(UPDATE["q"], UPDATE["reward"], strict=True)) / 4
    assert_golden(metrics["value"], mean_value)


def test_golden_actor_step(golden_agent, batch):
    with learning(golden_agent.actor):
        loss, _ = golden_agent.policy_loss(batch, as_float(TARGET))
        loss.backward()
    assert_golden(loss, UPDATE["policy_loss"])
    assert_golden(gradient_norm(golden_agent.actor), UPDATE["actor_grad_norm"])
    row = golden_agent.act(batch.canvas[:1], TARGET[:1], 0)[0]
    assert_golden(row, UPDATE["policy_action_row0"])


def test_golden_discriminator_step(golden_agent, batch):
    with learning(golden_agent.discriminator):
        loss, metrics = golden_agent.wgan_loss(
            batch, as_float(TARGET), torch.tensor(UPDATE["wgan_alpha"]))
        loss.backward()
    assert_golden(loss, UPDATE["wgan_loss"])
    for name in ("real", "fake", "penalty"):
        assert_golden(metrics[name], UPDATE[f"wgan_{name}"])
    assert_golden(gradient_norm(golden_agent.discriminator), UPDATE["wgan_grad_norm"])


def test_each_loss_reaches_its_own_network_only(golden_agent, renderer, batch):
    target = as_float(TARGET)
    others = [renderer, *golden_agent.networks.values(), *golden_agent.slow.values()]
    for name, loss_of in (("actor", golden_agent.policy_loss), ("critic", golden_agent.value_loss),
                          ("wgan", lambda b, t: golden_agent.wgan_loss(b, t, torch.rand(4)))):
        network = golden_agent.networks[name]
        with learning(network):
            loss_of(batch, target)[0].backward()
        assert gradient_norm(network) > 0
        for other in others:
            if other is not network:
                assert all(p.grad is None for p in other.parameters())
        network.zero_grad(set_to_none=True)


def test_update_moves_networks_and_slow_copies(golden_agent, batch):
    before = {n: [p.clone() for p in net.parameters()] for n, net in golden_agent.networks.items()}
    slow = {n: [p.clone() for p in net.parameters()] for n, net in golden_agent.slow.items()}
    metrics = golden_agent.update(batch, TARGET, RATES)
    assert all(torch.isfinite(value) for value in metrics.values())
    for name, network in golden_agent.networks.items():
        new = list(network.parameters())
        assert not torch.equal(new[0], before[name][0])
        for mine, old, its in zip(golden_agent.slow[name].parameters(), slow[name], new,
                                  strict=True):
            assert torch.allclose(mine, old + 0.001 * (its - old), atol=1e-6)
    assert not golden_agent.actor.training


@pytest.mark.parametrize("freeze_norm", [False, True])
def test_batch_norm_keeps_its_statistics_where_it_is_to(renderer, batch, freeze_norm):
    torch.manual_seed(0)
    agent = DDPG(renderer, FP32, discount=0, reward="l2", freeze_norm=freeze_norm)
    before = copy.deepcopy(agent.actor)
    agent.update(batch, TARGET, RATES)
    assert not torch.equal(agent.actor.bn1.weight, before.bn1.weight)
    for name, buffer in agent.actor.named_buffers():
        if "running" in name:
            assert torch.equal(buffer, before.get_buffer(name)) == freeze_norm


def test_follow_copies_buffers():
    network, slow = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    network(torch.rand(4, 3, 2, 2))
    follow(slow, network, 0.5)
    assert torch.equal(slow.running_mean, network.running_mean)
    assert slow.running_mean.data_ptr() != network.running_mean.data_ptr()


def test_greedy_agent_has_neither_critic_nor_discriminator(renderer, batch):
    agent = DDPG(renderer, FP32, discount=0, reward="l2")
    assert set(agent.networks) == {"actor"}
    metrics = agent.update(batch, TARGET, RATES)
    assert set(metrics) == {"actor/loss", "actor/reward", "actor/q"}


def test_l2_reward_is_the_share_of_the_error_removed(renderer):
    agent = DDPG(renderer, FP32, discount=0, reward="l2")
    target, before = image(2, 3, 1), torch.zeros(2, 3, 128, 128)
    half = target * 0.5
    assert torch.allclose(agent.reward(before, half, target), torch.tensor(0.75), atol=1e-4)


def test_unrolling_stops_at_the_end_of_the_episode(renderer, batch):
    """The last bundle of an episode, unrolled, is one bundle; an earlier one is more."""
    torch.manual_seed(0)
    agents = [DDPG(renderer, FP32, discount=0, reward="l2", unroll=n) for n in (1, 3)]
    agents[1].load_state_dict(agents[0].state_dict())
    for rows, same in ((slice(3, 4), True), (slice(0, 1), False)):
        part = Transitions(*(field[rows] for field in batch))
        with torch.no_grad():
            one, three = (a.policy_loss(part, as_float(TARGET[rows]))[0] for a in agents)
        assert torch.equal(one, three) == same


def test_opacity_pull_favours_opaque_strokes(renderer, batch):
    agents = [DDPG(renderer, FP32, discount=0, reward="l2", opacity_pull=p) for p in (0.0, 2.0)]
    agents[1].load_state_dict(agents[0].state_dict())
    with torch.no_grad():
        plain, pulled = (a.policy_loss(batch, as_float(TARGET))[0] for a in agents)
        action = agents[0].act(batch.canvas, TARGET, 0)
        for row in range(1, 4):
            action[row] = agents[0].act(
                batch.canvas[row:row + 1], TARGET[row:row + 1], int(batch.step[row]))[0]
    opacity = action.view(4, 5, 13)[..., 8:10].mean()
    assert torch.allclose(pulled - plain, 2 * (1 - opacity), atol=1e-5)


def test_progress_beyond_255_steps(renderer):
    """A step plane in eight bits would wrap."""
    agent = DDPG(fill(Renderer(), "renderer", 1), FP32, max_step=1000)
    fill(agent.actor, "actor", 2)
    seen = []
    agent.actor.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2]))
    agent.act(TARGET[:1], TARGET[:1], 800)
    assert seen[0].item() == pytest.approx(0.8)


@pytest.mark.parametrize("reward", ["wgan", "l2"])
def test_bf16_agrees_with_fp32(renderer, batch, reward):
    """The fast path of the arithmetic on the same inputs, to bf16's three digits."""
    torch.manual_seed(0)
    bf16 = Precision("bf16", torch.device("cpu"))
    agents = [DDPG(renderer, precision, reward=reward) for precision in (FP32, bf16)]
    for agent in agents:
        for name, seed, gain in (("actor", 2, 1.0), ("critic", 3, 0.8)):
            fill(agent.networks[name], name, seed, gain)
            fill(agent.slow[name], name, seed + 10, gain)
        if reward == "wgan":
            fill(agent.networks["wgan"], "wgan", 4, 2.0)
            fill(agent.slow["wgan"], "wgan", 14, 2.0)
    for agent in agents:
        for network in (*agent.networks.values(), *agent.slow.values()):
            network.eval()
    with torch.no_grad():
        plain, fast = (a.act(batch.canvas, TARGET, 3) for a in agents)
    assert fast.dtype == torch.float32
    assert (plain - fast).abs().max() < 0.02
    metrics = [a.update(batch, TARGET, RATES) for a in agents]
    assert metrics[0].keys() == metrics[1].keys()
    assert torch.allclose(metrics[0]["critic/loss"], metrics[1]["critic/loss"], rtol=0.3, atol=0)
