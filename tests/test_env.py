"""Folders of images, their cache and split, and the environment."""

import cv2
import numpy as np
import pytest
import torch

from env import CelebA, Paint, split
from utils.command import UserError


def write_images(folder, names, seed=0):
    rng = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    for name in names:
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (218, 178, 3), np.uint8))


def test_images_are_squashed_bgr(tmp_path):
    write_images(tmp_path / "faces", ["000004.png", "000017.png"])
    data = CelebA(tmp_path / "faces", tmp_path / "cache")
    assert data.names == ["000004.png", "000017.png"]
    expected = cv2.resize(cv2.imread(str(tmp_path / "faces" / "000017.png")), (128, 128))
    assert np.array_equal(data.images[1].permute(1, 2, 0).numpy(), expected)


def test_the_cache_is_built_once_and_anew_when_the_folder_changes(tmp_path):
    folder, cache = tmp_path / "faces", tmp_path / "cache"
    write_images(folder, ["a.png"])
    CelebA(folder, cache)
    (made,) = cache.glob("faces-????????????????.npy")
    first = made.stat().st_mtime_ns
    CelebA(folder, cache)
    assert made.stat().st_mtime_ns == first
    write_images(folder, ["b.png"])
    assert CelebA(folder, cache).names == ["a.png", "b.png"]
    assert len(list(cache.glob("faces-????????????????.npy"))) == 2


def test_unreadable_images_are_named_and_left_out(tmp_path, capsys):
    folder = tmp_path / "faces"
    write_images(folder, ["a.png", "c.png", "d.png"])
    (folder / "b.png").write_bytes(b"no picture")
    (folder / "e.jpg").write_bytes(b"")
    data = CelebA(folder, tmp_path / "cache")
    assert "2 images cannot be read and are left out: b.png, e.jpg" in capsys.readouterr().out
    assert data.names == ["a.png", "c.png", "d.png"]
    last = cv2.resize(cv2.imread(str(folder / "d.png")), (128, 128))
    assert np.array_equal(data.images[2].permute(1, 2, 0).numpy(), last)


@pytest.mark.parametrize("content", [None, [], ["x.png"]])
def test_a_folder_without_images_is_one_clear_error(tmp_path, content):
    folder = tmp_path / "faces"
    if content is not None:
        folder.mkdir()
        for name in content:
            (folder / name).write_bytes(b"broken")
    with pytest.raises(UserError, match="faces"):
        CelebA(folder, tmp_path / "cache")


def test_split_of_celeba_and_of_others():
    celeba = ["000001.jpg", "002001.jpg", "002002.jpg", "202599.jpg"]
    train, test = split(celeba)
    assert (train.tolist(), test.tolist()) == ([2, 3], [0, 1])
    train, test = split([f"{i:03}.png" for i in range(41)])
    assert test.tolist() == [0, 20, 40]
    assert sorted([*train, *test]) == list(range(41))
    train, test = split(["one.png"])
    assert (train.tolist(), test.tolist()) == ([0], [0])
    assert split(["000001.jpg"])[0].tolist() == [0]  # CelebA's numbers, but one side is empty


def test_a_mirrored_target_is_mirrored(tmp_path):
    write_images(tmp_path / "faces", ["a.png", "b.png"])
    data = CelebA(tmp_path / "faces", tmp_path / "cache")
    targets = data.targets(torch.tensor([2, 3]))
    assert torch.equal(targets[0], data.images[1])
    assert torch.equal(targets[1], data.images[1].flip(2))


def test_environment_paints_and_rewards(tmp_path):
    write_images(tmp_path / "faces", ["a.png", "b.png"])
    data = CelebA(tmp_path / "faces", tmp_path / "cache")
    opaque = lambda strokes: torch.zeros(len(strokes), 128, 128)
    env = Paint(data, opaque, 2, 3, torch.device("cpu"))
    env.reset(torch.tensor([0, 3]))
    assert env.canvas.dtype == torch.uint8
    assert env.canvas.sum() == 0
    action = torch.zeros(2, 5, 13)
    action[:, 4, 10:] = 0.5
    before = env.error()
    reward = env.step(action.flatten(1))
    assert (env.canvas == 128).all()
    assert torch.allclose(reward, (before - env.error()) / before)
    state = env.state_dict()
    assert not env.done
    env.step(action.flatten(1))
    env.step(action.flatten(1))
    assert env.done
    env.load_state_dict(state)
    assert env.step_count == 1
    assert torch.equal(env.canvas, state["canvas"])
