"""The four networks against golden numbers and the published weight format."""

import re
import warnings

import pytest
import torch

from DRL.actor import Actor, load_actor
from DRL.critic import Critic
from DRL.layers import MatmulConv2d, Planes, WeightNormConv2d
from DRL.wgan import Discriminator
from grid.policy import load_policy
from helpers import ARRAYS, FP32, assert_golden, fill, image, key_list
from Renderer.model import Renderer, load_render
from utils.command import UserError
from utils.weights import half_state, load_weights, save_atomically

NETWORKS = {"renderer": Renderer, "actor": Actor, "critic": Critic, "wgan": Discriminator}


@pytest.mark.parametrize("name", NETWORKS)
def test_state_dict_keys_are_the_published_ones_in_order(name):
    state = NETWORKS[name]().state_dict()
    assert {key: list(v.shape) for key, v in state.items()} == key_list(name)
    assert list(state) == list(key_list(name))


@torch.no_grad()
def test_golden_outputs():
    strokes = torch.from_numpy(ARRAYS["stroke_params"][:6]).float()
    assert_golden(fill(Renderer(), "renderer", 1)(strokes), ARRAYS["renderer_out"])
    actor, critic = fill(Actor(), "actor", 2), fill(Critic(), "critic", 3, 0.8)
    assert_golden(actor.from_planes(image(2, 9, 101)), ARRAYS["actor_out"])
    assert_golden(critic.from_planes(image(2, 12, 102)), ARRAYS["critic_out"])
    discriminator = fill(Discriminator(), "wgan", 4, 2.0)
    assert_golden(discriminator(image(2, 6, 103)), ARRAYS["wgan_out"])


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_by_a_matrix_product_has_the_same_output(stride):
    conv = MatmulConv2d(5, 7, 3, stride, 1).double()  # autocast keeps fp64
    x = torch.rand(2, 5, 8, 6, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        product = conv(x)
    assert product.grad_fn.name() != conv(x).grad_fn.name() == "ConvolutionBackward0"
    torch.testing.assert_close(product, conv(x))


def published_planes(pictures: list[torch.Tensor], numbers: torch.Tensor) -> torch.Tensor:
    """Return the input of published weights: pictures, numbers, row i/127 and column j/127."""
    line = torch.arange(128) / 127
    coordinates = torch.stack((line[:, None].expand(128, 128), line.expand(128, 128)))
    constant = numbers[:, :, None, None].expand(-1, -1, 128, 128)
    return torch.cat((*pictures, constant, coordinates.expand(len(numbers), -1, -1, -1)), 1)


@torch.no_grad()
def test_networks_see_the_published_planes():
    pictures, progress = [image(2, 3, 101 + i) for i in range(3)], torch.tensor([0.0, 0.25])
    expected = published_planes(pictures, progress[:, None])
    planes = Planes()(tuple(pictures), progress)
    assert torch.allclose(planes, expected, rtol=0, atol=1e-7)
    assert planes[0, -2:, 127, 0].tolist() == [1, 0]  # row, then column
    critic = fill(Critic(), "critic", 3, 0.8)
    assert torch.allclose(critic(*pictures, progress), critic.from_planes(expected), rtol=1e-5)
    actor = fill(Actor(), "actor", 2)
    two = published_planes(pictures[:2], progress[:, None])
    assert torch.allclose(actor(*pictures[:2], progress), actor.from_planes(two), atol=1e-6)


def test_actor_that_gives_nan_is_refused(tmp_path):
    actor = Actor()
    actor.bn1.running_var.neg_()
    save_atomically(half_state(actor), tmp_path / "actor.pkl")
    save_atomically(half_state(Renderer()), tmp_path / "renderer.pkl")
    with pytest.raises(UserError, match="produce NaN or infinity"):
        load_policy(tmp_path / "actor.pkl", tmp_path / "renderer.pkl", FP32)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_carry_their_family(name, tmp_path):
    """In the metadata, so that strict networks of the published keys load them too."""
    file, network = tmp_path / "weights.pkl", fill(NETWORKS[name](), name, 1)
    save_atomically(half_state(network, family="triangle"), file)
    assert load_weights(network, file, "the weights", "") == "triangle"
    state = torch.load(file, weights_only=True)
    assert list(state) == list(key_list(name))
    NETWORKS[name]().load_state_dict(state, strict=True)
    torch.save(dict(state), file)  # as a file from elsewhere
    assert load_weights(network, file, "the weights", "") == "bezier"


def test_synchronized_batch_norm_keeps_the_published_keys():
    actor = torch.nn.SyncBatchNorm.convert_sync_batchnorm(Actor())
    assert list(actor.state_dict()) == list(key_list("actor"))


def test_loaded_renderer_has_the_family_of_its_file(tmp_path):
    network = fill(Renderer(), "renderer", 1)
    save_atomically(half_state(network, family="round"), tmp_path / "round.pkl")
    render = load_render(tmp_path / "round.pkl", FP32)
    assert render.family == "round"
    strokes = torch.rand(2, 10, requires_grad=True)
    assert (render(strokes) - network(strokes)).abs().max() <= 1e-2  # half precision
    render(strokes).sum().backward()
    assert strokes.grad.abs().sum() > 0
    for unknown in ("square", 7, ["bezier"]):
        save_atomically(half_state(network, family=unknown), tmp_path / "other.pkl")
        with pytest.raises(UserError, match=re.escape(str(unknown))):
            load_render(tmp_path / "other.pkl", FP32)


def test_legacy_weight_norm_gives_the_same_outputs():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        legacy = torch.nn.utils.weight_norm(torch.nn.Conv2d(3, 8, 3, stride=2, padding=1))
    ours = WeightNormConv2d(3, 8, 3, 2)
    ours.load_state_dict(legacy.state_dict(), strict=True)
    x = torch.rand(2, 3, 16, 16)
    assert torch.allclose(ours(x), legacy(x), atol=1e-6)


@pytest.mark.parametrize("bundle", [1, 2, 5, 8])
def test_loaded_actor_has_the_bundle_of_its_file(bundle, tmp_path):
    torch.manual_seed(0)
    actor = Actor(bundle)
    save_atomically(half_state(actor, family="round"), tmp_path / "actor.pkl")
    loaded, family = load_actor(tmp_path / "actor.pkl", "the actor", "train one")
    assert (loaded.bundle, family) == (bundle, "round")
    assert torch.equal(loaded.fc.weight, actor.fc.weight.half().float())
    with torch.no_grad():
        action = loaded.eval()(image(3, 3, 1), image(3, 3, 2), torch.rand(3))
    assert action.shape == (3, 13 * bundle)


@pytest.mark.parametrize(("outputs", "inputs", "nearest"), [
    (66, 512, "(65, 512)"), (13, 500, "(13, 512)"), (0, 512, "(65, 512)"),
])
def test_last_layer_of_no_bundle_is_refused(outputs, inputs, nearest, tmp_path):
    state = half_state(Actor())
    state["fc.weight"], state["fc.bias"] = torch.zeros(outputs, inputs), torch.zeros(outputs)
    torch.save(state, tmp_path / "actor.pkl")
    shapes = re.escape(f"fc.weight has the shape ({outputs}, {inputs}), not {nearest}")
    with pytest.raises(UserError, match=shapes):
        load_actor(tmp_path / "actor.pkl", "the actor", "train one")
