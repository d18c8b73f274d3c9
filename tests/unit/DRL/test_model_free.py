"""The model-free agent: its losses, its gradients and its exploration."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from DRL.learner import Setup, unfrozen
from DRL.model_free import ModelFreeDDPG
from DRL.rpm import Transitions
from helpers import FP32, assert_same, image, save_run, state_of, tick, training_of, u8
from Renderer.canvas import as_float

TARGET = u8(image(3, 3, 106))
MODEL_FREE = ("--method", "model_free")


def agent_of(**options) -> ModelFreeDDPG:
    """Return an agent whose renderer cannot be called."""
    torch.manual_seed(0)
    agent = ModelFreeDDPG(
        Setup(render=SimpleNamespace(family="bezier"), precision=FP32, bundle=2), **options)
    agent.target_networks["actor"].eval()
    return agent


@pytest.fixture(scope="module")
def batch() -> Transitions:
    action = torch.from_numpy(np.random.default_rng(8).random((3, 26), np.float32))
    return Transitions(u8(image(3, 3, 105)), action, u8(image(3, 3, 107)), TARGET,
                       torch.tensor([0, 20, 39]))


@pytest.mark.parametrize("reward", ["l2", "wgan"])
def test_value_loss_is_the_bellman_error_by_hand(batch, reward, monkeypatch):
    """Q' is 2 for every action of the target actor, 5 for others; Q is 0.5."""
    agent = agent_of(reward=reward, discount=0.9)
    chosen = agent.target_networks["actor"](
        batch.next_canvas / 255, TARGET / 255, torch.tensor([1.0, 21, 40]) / 40).detach()

    def target_critic(canvas, target, progress, action):
        assert torch.equal(canvas, batch.next_canvas / 255)
        assert torch.equal(progress, torch.tensor([1.0, 21, 40]) / 40)
        return torch.where((action - chosen).abs().amax(1, keepdim=True) < 1e-5, 2.0, 5.0)

    def critic(canvas, target, progress, action):
        assert torch.equal(canvas, batch.canvas / 255)
        assert torch.equal(progress, torch.tensor([0.0, 20, 39]) / 40)
        assert torch.equal(action, batch.action)
        return torch.full((3, 1), 0.5)

    monkeypatch.setattr(agent, "target_critic", target_critic)
    monkeypatch.setattr(agent, "critic", critic)
    before, after, target = (x.double() / 255 for x in (batch.canvas, batch.next_canvas, TARGET))
    if reward == "l2":
        errors = [(x - target).square().mean((1, 2, 3)) for x in (before, after)]
        earned = 1 - errors[1] / errors[0]
    else:
        score = copy.deepcopy(agent.target_networks["wgan"]).double()
        earned = (score(torch.cat((target, after), 1))
                  - score(torch.cat((target, before), 1))).detach()[:, 0]
    loss, metrics = agent.value_loss(as_float(batch.canvas), batch.action,
                                     as_float(batch.next_canvas), as_float(TARGET), batch.step)
    td_target = earned + torch.tensor([1.8, 1.8, 0])  # 0.9 * 2; the last step ends its episode
    assert metrics["td_target"].item() == pytest.approx(td_target.mean().item(), rel=1e-4)
    assert loss.item() == pytest.approx((td_target - 0.5).square().mean().item(), rel=1e-4)


@pytest.mark.parametrize("reward", ["l2", "wgan"])
def test_learning_never_calls_the_renderer(batch, reward):
    agent = agent_of(reward=reward)
    actor = agent.actor
    with unfrozen(actor):
        loss, metrics = agent.policy_loss(as_float(batch.canvas), as_float(TARGET), batch.step)
        loss.backward()
    assert loss.item() == pytest.approx(-metrics["q"].item())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in actor.fc.parameters())
    assert all(p.grad is None for p in agent.critic.parameters())
    before = copy.deepcopy(agent.networks)
    metrics = agent.update(batch, 0.0)
    assert all(torch.isfinite(value) for value in metrics.values())
    for name, network in agent.networks.items():
        assert not torch.equal(next(network.parameters()), next(before[name].parameters())), name


def test_noise_changes_exploration_and_not_learning(batch):
    agent, progress = agent_of(noise_factor=0.05), torch.full((3,), 3 / 40)
    canvas, target = as_float(batch.canvas), as_float(TARGET)
    clean, state = (copy.deepcopy(x) for x in (agent.actor.state_dict(), agent.state_dict()))
    action = agent.policy().act(canvas, target, progress)
    noisy = agent.rollout_action(canvas, target, progress, (7, 0, 0))
    assert (noisy - action).abs().max() > 0.01
    for episode in ((7, 0, 1), (7, 1, 0), (8, 0, 0)):
        assert (agent.rollout_action(canvas, target, progress, episode) - noisy).abs().max() > 1e-3
    assert torch.equal(noisy, agent.rollout_action(canvas, target, progress, (7, 0, 0)))
    assert_same(agent.state_dict(), state)
    parameters = dict(agent.actor.named_parameters())
    noise = []
    for key, value in agent.perturbed_actor.state_dict().items():
        if key in parameters:
            noise.append((value - clean[key]).flatten())
        else:
            assert torch.equal(value, clean[key]), key
    noise = torch.cat(noise)
    assert noise.std().item() == pytest.approx(0.05, rel=0.01)
    assert abs(noise.mean().item()) < 1e-4
    noiseless = agent_of(noise_factor=0.0)
    assert torch.equal(noiseless.rollout_action(canvas, target, progress, (7, 0, 0)), action)


@pytest.mark.usefixtures("narrow")
def test_model_free_resume_within_an_episode_is_bit_exact(checkout, tmp_path):
    """It resumes with the same noise on the same actor; another process draws other noise."""
    first = training_of(checkout, *MODEL_FREE)
    assert (first.method.noise, first.method.discount) == (0.05, 0.95**5)
    tick(first, 6)
    run = save_run(first, tmp_path)
    saved_at = first.method.updates
    tick(first, 4)
    second, another = (training_of(checkout, *MODEL_FREE) for _ in range(2))
    second.load(run)
    tick(second, 4)
    assert second.method.updates == first.method.updates > saved_at > 0
    assert_same(state_of(second), state_of(first))
    perturbed, other = (each.method.perturbed_actor for each in (first, second))
    assert_same(other.state_dict(), perturbed.state_dict())
    noise = (perturbed.fc.weight - first.method.actor.fc.weight).std()
    assert noise > 0.03
    tick(another, 1)
    noisy = another.method.perturbed_actor.fc.weight.clone()
    another.ranks.rank = 1
    tick(another, 1)
    assert not torch.allclose(noisy, another.method.perturbed_actor.fc.weight)
