"""The learning step against golden numbers, and where its gradients go."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from DRL.ddpg import DDPG
from DRL.learner import Seen, Setup, follow, learning
from DRL.rpm import Transitions
from golden_networks import UPDATE, assert_golden, fill, image, u8
from Renderer.canvas import as_float, as_uint8, composite
from Renderer.model import Renderer
from running.device import Precision

FP32 = Precision("fp32", torch.device("cpu"))


class GoldenRender:
    """A renderer that knows its family, as a trained one does."""

    family = "bezier"

    def __init__(self) -> None:
        self.network = fill(Renderer(), "renderer", 1).requires_grad_(False)

    def __call__(self, strokes: torch.Tensor) -> torch.Tensor:
        return self.network(strokes)


@pytest.fixture(scope="module")
def renderer():
    return GoldenRender()


def golden(renderer, precision=FP32, setup=None, **options) -> DDPG:
    """The agent with golden networks, of which no actor uses its batch's statistics."""
    setup = {"norm_until": 0.0} | (setup or {})
    agent = DDPG(Setup(render=renderer, precision=precision, **setup), **options)
    for name, seed, gain in (("actor", 2, 1.0), ("critic", 3, 0.8), ("wgan", 4, 2.0)):
        if name in agent.networks:
            fill(agent.networks[name], name, seed, gain)
            fill(agent.slow[name], name, seed + 10, gain)
    return agent


@pytest.fixture
def golden_agent(renderer):
    return golden(renderer)


@pytest.fixture(scope="module")
def batch():
    action = torch.from_numpy(np.random.default_rng(8).random((4, 65)).astype(np.float32))
    return Transitions(
        u8(image(4, 3, 105)), action, u8(image(4, 3, 107)), torch.zeros(4, dtype=torch.int64),
        torch.tensor([0, 13, 26, 39]),
    )


TARGET = u8(image(4, 3, 106))


def gradient_norm(network: nn.Module) -> float:
    return math.sqrt(sum(p.grad.double().square().sum().item() for p in network.parameters()))


def losses(agent, batch, alpha=None) -> dict:
    """The loss of each network and its metrics, by name, as functions without arguments."""
    canvas, now, target = (agent.look(as_float(each))
                           for each in (batch.canvas, batch.next_canvas, TARGET))
    tried = agent.look(composite(agent.render, canvas.whole, batch.action))

    def policy():
        action = agent.actor(canvas.small, target.small, batch.step / agent.max_step)
        painted = agent.look(composite(agent.render, canvas.whole, action))
        return agent.policy_loss(canvas, painted, target, batch.step)

    return {
        "actor": policy,
        "critic": lambda: agent.value_loss(canvas, tried, now, target, batch.step),
        "wgan": lambda: agent.wgan_loss(
            now.whole, target.whole, torch.rand(4) if alpha is None else alpha),
    }


def test_golden_reward(golden_agent, renderer, batch):
    with torch.no_grad():
        canvas = as_float(batch.canvas)
        reward = golden_agent.reward(
            canvas, composite(renderer, canvas, batch.action), as_float(TARGET))
    expected = torch.tensor(UPDATE["reward"])
    assert torch.allclose(reward[:, 0], expected, rtol=1e-4, atol=3e-6)  # of scores near 1


def test_golden_critic_step(golden_agent, batch):
    with learning(golden_agent.critic):
        loss, metrics = losses(golden_agent, batch)["critic"]()
        loss.backward()
    assert_golden(loss, UPDATE["value_loss"])
    assert_golden(gradient_norm(golden_agent.critic), UPDATE["critic_grad_norm"])
    assert_golden(metrics["goal"], sum(UPDATE["next_value_discounted"]) / 4)
    mean_value = sum(q - r for q, r in zip(UPDATE["q"], UPDATE["reward"], strict=True)) / 4
    assert_golden(metrics["value"], mean_value)


def test_golden_actor_step(golden_agent, batch):
    with learning(golden_agent.actor):
        loss, _ = losses(golden_agent, batch)["actor"]()
        loss.backward()
    assert_golden(loss, UPDATE["policy_loss"])
    assert_golden(gradient_norm(golden_agent.actor), UPDATE["actor_grad_norm"])
    row = golden_agent.painter().act(as_float(batch.canvas[:1]), as_float(TARGET[:1]), 0.0)[0]
    assert_golden(row, UPDATE["policy_action_row0"])


def test_golden_discriminator_step(golden_agent, batch):
    with learning(golden_agent.discriminator):
        loss, metrics = losses(golden_agent, batch, torch.tensor(UPDATE["wgan_alpha"]))["wgan"]()
        loss.backward()
    assert_golden(loss, UPDATE["wgan_loss"])
    for name in ("real", "fake", "penalty"):
        assert_golden(metrics[name], UPDATE[f"wgan_{name}"])
    assert_golden(gradient_norm(golden_agent.discriminator), UPDATE["wgan_grad_norm"])


def test_each_loss_reaches_its_own_network_only(golden_agent, renderer, batch):
    others = [renderer.network, *golden_agent.networks.values(), *golden_agent.slow.values(),
              golden_agent.average]
    for name, loss_of in losses(golden_agent, batch).items():
        network = golden_agent.networks[name]
        with learning(network):
            loss_of()[0].backward()
        assert gradient_norm(network) > 0
        for other in others:
            if other is not network:
                assert all(p.grad is None for p in other.parameters())
        network.zero_grad(set_to_none=True)


def test_an_update_takes_the_golden_steps(golden_agent, batch, monkeypatch):
    """The losses and the gradients that its optimisers get are the golden ones."""
    monkeypatch.setattr(torch, "rand", lambda *size, **more: torch.tensor(UPDATE["wgan_alpha"]))
    before = {name: copy.deepcopy(net) for name, net in golden_agent.networks.items()}
    norms: dict[str, float] = {}
    for name, optimizer in golden_agent.optimizers.items():
        optimizer.register_step_pre_hook(
            lambda *_, name=name: norms.update(
                {name: gradient_norm(golden_agent.networks[name])}))
    monkeypatch.setattr(golden_agent, "rates", lambda progress: dict.fromkeys(before, 0.0))
    metrics, canvas = golden_agent.update(batch, TARGET, 0.0)
    for name, loss in (("actor", "policy"), ("critic", "value"), ("wgan", "wgan")):
        assert_golden(metrics[f"{name}/loss"], UPDATE[f"{loss}_loss"])
        assert_golden(norms[name], UPDATE[f"{name}_grad_norm"])
    assert canvas.dtype == torch.uint8
    assert canvas.shape == batch.canvas.shape


def test_update_moves_networks_and_slow_copies(golden_agent, batch):
    before = {n: [p.clone() for p in net.parameters()] for n, net in golden_agent.networks.items()}
    slow = {n: [p.clone() for p in net.parameters()] for n, net in golden_agent.slow.items()}
    metrics, _ = golden_agent.update(batch, TARGET, 0.0)
    assert all(torch.isfinite(value) for value in metrics.values())
    for name, network in golden_agent.networks.items():
        new = list(network.parameters())
        assert not torch.equal(new[0], before[name][0])
        for mine, old, its in zip(golden_agent.slow[name].parameters(), slow[name], new,
                                  strict=True):
            assert torch.allclose(mine, old + 0.001 * (its - old), atol=1e-6)
    assert not golden_agent.actor.training


def own(batch) -> Transitions:
    """The states of a batch alone, as a pool has them."""
    return batch._replace(action=None, next_canvas=None)


def test_states_alone_are_learnt_from_as_with_the_actors_own_bundles(renderer, batch, monkeypatch):
    """A pool's update is the memory's, where that holds what the actor would do now."""
    monkeypatch.setattr(torch, "rand", lambda *size, **more: torch.tensor(UPDATE["wgan_alpha"]))
    agents = [golden(renderer, setup={"norm_until": 0.0}) for _ in range(2)]
    canvas, progress = as_float(batch.canvas), batch.step / 40
    action = agents[0].painter().act(canvas, as_float(TARGET), progress)
    painted = as_uint8(composite(renderer, canvas, action))
    kept = batch._replace(action=action, next_canvas=painted)
    results = [agent.update(states, TARGET, 0.0)
               for agent, states in zip(agents, (own(batch), kept), strict=True)]
    assert torch.equal(results[0][1], painted)
    for name, value in results[0][0].items():
        assert torch.allclose(value, results[1][0][name], rtol=1e-4, atol=1e-7), name
    for name, network in agents[0].networks.items():
        for mine, its in zip(network.parameters(), agents[1].networks[name].parameters(),
                             strict=True):
            assert torch.allclose(mine, its, atol=5e-5), name


def test_one_pass_of_the_critic_gives_both_gradients(golden_agent, batch):
    """The critic's own, and that of its value to the canvas, as two passes do."""
    agent, step = golden_agent, batch.step
    canvas, now, target = (agent.look(as_float(each))
                           for each in (batch.canvas, batch.next_canvas, TARGET))
    tried = agent.look(composite(agent.render, canvas.whole, batch.action))
    with learning(agent.critic):
        agent.value_loss(canvas, tried, now, target, step)[0].backward()
    plain = [p.grad.clone() for p in agent.critic.parameters()]
    leaf = tried.small.clone().requires_grad_()
    agent.value(canvas, leaf, target, step).mean().backward()
    joint = []
    agent.optimizers["critic"].register_step_pre_hook(
        lambda *_: joint.extend(p.grad.clone() for p in agent.critic.parameters()))
    metrics, slope = agent.judge(canvas, tried, now, target, step, None)
    assert_golden(metrics["critic/loss"], UPDATE["value_loss"])
    assert torch.allclose(slope, leaf.grad, rtol=1e-3, atol=1e-3 * leaf.grad.abs().max())
    for mine, its in zip(joint, plain, strict=True):
        assert torch.allclose(mine, its, rtol=1e-3, atol=1e-4 * its.abs().max().item())


def test_a_joint_update_differs_by_the_critics_step_and_a_rounding_alone(
        renderer, batch, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *size, **more: torch.tensor(UPDATE["wgan_alpha"]))
    agents = [golden(renderer, joint=joint) for joint in (False, True)]
    gradients = [[], []]
    for agent, found in zip(agents, gradients, strict=True):
        monkeypatch.setattr(agent, "rates", lambda progress: dict.fromkeys(agents[0].networks, 0.0))
        for name in ("critic", "actor"):
            agent.optimizers[name].register_step_pre_hook(
                lambda *_, found=found, net=agent.networks[name]: found.append(
                    torch.cat([p.grad.flatten() for p in net.parameters()])))
        agent.update(own(batch), TARGET, 0.0)
    for plain, joint in zip(*gradients, strict=True):
        assert (plain - joint).norm() < 0.02 * plain.norm()


def test_the_penalty_comes_every_nth_time_and_weighs_as_much_more(renderer, batch, monkeypatch):
    agent = golden(renderer, penalty_every=3)
    monkeypatch.setattr(agent, "rates", lambda progress: dict.fromkeys(agent.networks, 0.0))
    monkeypatch.setattr(torch, "rand", lambda *size, **more: torch.tensor(UPDATE["wgan_alpha"]))
    penalties = [agent.update(batch, TARGET, 0.0)[0]["wgan/penalty"].item() for _ in range(4)]
    assert penalties[1] == penalties[2] == 0
    assert_golden(penalties[0], 3 * UPDATE["wgan_penalty"])
    assert penalties[3] == pytest.approx(penalties[0])


@pytest.mark.usefixtures("narrow")
def test_sizes_are_taken_up_in_the_course_of_a_training(renderer, batch):
    agent = DDPG(Setup(render=renderer, precision=FP32, norm_until=0.0,
                       sizes=((32, 0.2), (64, 0.7), (128, 1.0))))
    seen = []
    for name in ("actor", "critic"):
        agent.networks[name].register_forward_pre_hook(
            lambda module, inputs: seen.append(inputs[0].shape[-1]))
    for progress, size in ((0.0, 32), (0.3, 64), (0.9, 128), (1.0, 128)):
        agent.update(own(batch), TARGET, progress)
        assert set(seen) == {size}
        assert agent.painter().actor.size == agent.painter(True).actor.size == size
        seen.clear()
    whole = as_float(TARGET)
    small = Seen(whole, whole.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5)))
    agent.enter(0.5)
    assert torch.allclose(agent.look(whole).small, small.small, atol=1e-6)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("norm_until", "kept"), [(1.0, False), (0.5, True)])
def test_batch_norm_keeps_its_statistics_where_it_is_to(renderer, batch, norm_until, kept):
    torch.manual_seed(0)
    agent = DDPG(Setup(render=renderer, precision=FP32, norm_until=norm_until), reward="l2")
    before = copy.deepcopy(agent.actor)
    agent.update(batch, TARGET, 0.5)
    assert not torch.equal(agent.actor.bn1.weight, before.bn1.weight)
    for name, buffer in agent.actor.named_buffers():
        if "running" in name:
            assert torch.equal(buffer, before.get_buffer(name)) == kept


def test_the_slow_actor_normalises_by_its_own_batch(renderer, batch):
    """Statistics of the actor of now do not fit its weights."""
    goals = []
    for norm_until in (1.0, 0.0):
        for mean in (0.0, 1.0):
            agent = golden(renderer, setup={"norm_until": norm_until})
            agent.phase = None  # golden networks are in eval mode
            agent.enter(0.0)
            agent.slow["actor"].bn1.running_mean.fill_(mean)
            goals.append(agent.goal(*(agent.look(as_float(each)) for each in (
                batch.next_canvas, TARGET)), batch.step))
    assert torch.equal(goals[0], goals[1])
    assert not torch.allclose(goals[2], goals[3], rtol=0.01)


def test_follow_copies_buffers():
    network, slow = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    network(torch.rand(4, 3, 2, 2))
    follow(slow, network, 0.5)
    assert torch.equal(slow.running_mean, network.running_mean)
    assert slow.running_mean.data_ptr() != network.running_mean.data_ptr()
    average = nn.BatchNorm2d(3)
    follow(average, network, 0.5, 0.5)
    assert torch.allclose(average.running_mean, network.running_mean / 2)
    assert average.num_batches_tracked == 1


def test_the_average_is_about_a_hundredth_of_the_training_long(renderer, batch, monkeypatch):
    """Of 10,000 updates it moves by 1 % a step; at first it follows closely."""
    agent, shares = golden(renderer), []
    monkeypatch.setattr("DRL.learner.follow",
                        lambda slow, network, tau, *buffers: shares.append((tau, *buffers)))
    monkeypatch.setattr(agent, "learn", lambda batch, target: ({}, target))
    for updates in (0, 90, 4999):
        agent.updates = updates
        agent.update(batch, TARGET, (updates + 1) / 10_000)
    assert [share for share, _ in shares] == pytest.approx([9 / 11, 9 / 101, 0.01])
    assert all(share == buffers for share, buffers in shares)


def test_rates_are_the_references_at_the_same_shares(renderer):
    agent = DDPG(Setup(render=renderer, precision=FP32))
    assert [agent.rates(p)["actor"] for p in (0, 0.19, 0.2, 0.39, 0.4, 1)] == [
        1e-3, 1e-3, 3e-4, 3e-4, 1e-4, 1e-4]
    assert [agent.rates(p)["critic"] for p in (0, 0.2, 0.4)] == [3e-4, 1e-4, 3e-5]
    assert {agent.rates(p)["wgan"] for p in (0, 0.2, 0.4)} == {3e-4}
    agent = DDPG(Setup(render=renderer, precision=FP32), actor_rate=1e-2)
    assert agent.rates(0)["actor"] == 1e-2
    assert agent.rates(1)["actor"] == pytest.approx(1e-4)


def test_l2_reward_is_the_share_of_the_error_removed(renderer):
    agent = DDPG(Setup(render=renderer, precision=FP32), reward="l2")
    assert set(agent.networks) == {"actor", "critic"}
    target, before = image(2, 3, 1), torch.zeros(2, 3, 128, 128)
    half = target * 0.5
    assert torch.allclose(agent.reward(before, half, target), torch.tensor(0.75), atol=1e-4)


def test_progress_beyond_255_steps(renderer):
    """A step plane in eight bits would wrap."""
    agent = golden(renderer, setup={"max_step": 1000})
    seen = []
    agent.slow["critic"].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[3]))
    target = agent.look(as_float(TARGET[:1]))
    agent.goal(target, target, torch.tensor([799]))
    assert seen[0].item() == pytest.approx(0.801)


@pytest.mark.parametrize("options", [{}, {"reward": "l2"}, {"joint": True, "penalty_every": 2}])
def test_bf16_agrees_with_fp32(renderer, batch, options):
    """The fast path of the arithmetic on the same inputs, to bf16's three digits."""
    torch.manual_seed(0)
    bf16 = Precision("bf16", torch.device("cpu"))
    agents = [golden(renderer, precision, **options) for precision in (FP32, bf16)]
    with torch.no_grad():
        plain, fast = (a.painter().act(as_float(batch.canvas), as_float(TARGET), 3 / 40)
                       for a in agents)
    assert fast.dtype == torch.float32
    assert (plain - fast).abs().max() < 0.02
    states = own(batch) if "joint" in options else batch
    metrics = [a.update(states, TARGET, 0.0)[0] for a in agents]
    assert metrics[0].keys() == metrics[1].keys()
    assert torch.allclose(metrics[0]["critic/loss"], metrics[1]["critic/loss"], rtol=0.3, atol=0)
