"""Folders of images, their cache and split, and the environment."""

import inspect
import os
import re
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from env import Environment
from helpers import ROOT
from images import Images, split
from Renderer.canvas import as_float, as_uint8, composite
from utils.files import own_folder
from utils.pictures import read_picture


def write_images(folder, names):
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for name in names:
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (218, 178, 3), np.uint8))


def test_cache_is_rebuilt_only_when_the_folder_changes(tmp_path):
    folder, cache = tmp_path / "faces", tmp_path / "cache"
    write_images(folder, ["a.png"])
    Images(folder, cache)
    (first,) = cache.glob("faces-????????-????????.npy")
    time = first.stat().st_mtime_ns
    Images(folder, cache)
    assert first.stat().st_mtime_ns == time
    write_images(folder, ["b.png"])
    assert Images(folder, cache).names == ["a.png", "b.png"]
    (second,) = cache.glob("faces-????????-????????.npy")
    assert second != first


def test_unreadable_image_is_tried_again(tmp_path, monkeypatch, capsys):
    folder, cache = tmp_path / "faces", tmp_path / "cache"
    write_images(folder, ["a.png", "b.png"])

    def failing(path: Path | str | int, *mode: object):
        if path == folder / "b.png":
            raise OSError(5, "Input/output error")
        return open(path, *mode)

    with monkeypatch.context() as patch:
        patch.setattr("utils.pictures.open", failing, raising=False)
        assert Images(folder, cache).names == ["a.png"]
        assert "are skipped" in capsys.readouterr().out
    assert Images(folder, cache).names == ["a.png", "b.png"]


def test_read_only_checkout_has_its_cache_elsewhere(tmp_path, monkeypatch):
    usual, home = tmp_path / "data" / "cache", tmp_path / "home"
    assert own_folder(usual) == usual
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for name, value, parent in (
            ("XDG_CACHE_HOME", "relative", None), ("HOME", str(home), home / ".cache"),
            ("HOME", "", Path(tempfile.gettempdir())), ("XDG_CACHE_HOME", str(home), home)):
        monkeypatch.setenv(name, value)
        if parent:
            assert own_folder(usual) == parent / "learning-to-paint" / "cache"
    monkeypatch.setenv("LEARNING_TO_PAINT_DIR", str(tmp_path / "own"))
    assert own_folder(usual) == tmp_path / "own" / "cache"


def test_broken_and_tiny_images_are_counted_and_named_at_every_start(tmp_path, capfd):
    folder = tmp_path / "faces"
    write_images(folder, ["a.png", "c.png", "d.png"])
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:50])
    (folder / "e\n.jpg").write_bytes(b"")
    cv2.imwrite(str(folder / "f.png"), np.zeros((7, 300, 3), np.uint8))
    cv2.imwrite(str(folder / "g.png"), np.full((8, 8, 3), 9, np.uint8))
    for _ in range(2):
        data = Images(folder, tmp_path / "cache")
        out, errors = capfd.readouterr()
        assert out == ("2 images cannot be read and are skipped: b.png, e\\n.jpg; 1 images are "
                       "skipped, as a side of theirs has less than 8 pixels: f.png\n")
        assert "\n" not in errors.strip()  # the progress bar alone
        assert data.names == ["a.png", "c.png", "d.png", "g.png"]
        for i in (2, 3):
            last = cv2.resize(cv2.imread(str(folder / data.names[i])), (128, 128))
            assert np.array_equal(data.images[i].permute(1, 2, 0).numpy(), last)


@pytest.mark.parametrize("damage", [
    lambda pixels: pixels.write_bytes(pixels.read_bytes()[:-1]),
    lambda pixels: pixels.write_bytes(pixels.read_bytes()[:100]),
    lambda pixels: pixels.unlink(),
])
def test_damaged_cache_is_rebuilt(tmp_path, damage):
    write_images(tmp_path / "faces", ["a.png", "b.png"])
    expected = Images(tmp_path / "faces", tmp_path / "cache").images.clone()
    (pixels,) = tmp_path.glob("cache/faces-????????-????????.npy")
    damage(pixels)
    write_images(tmp_path / "others", ["c.png"])
    Images(tmp_path / "others", tmp_path / "cache")  # which looks at all
    assert torch.equal(Images(tmp_path / "faces", tmp_path / "cache").images, expected)


def test_training_reads_images_like_painting(tmp_path, monkeypatch):
    """A cache of another version of the reader is rebuilt."""
    folder = tmp_path / "faces"
    folder.mkdir()
    sketch = np.zeros((128, 128, 4), np.uint8)
    sketch[40:60, 20:90, 3] = 255
    cv2.imwrite(str(folder / "transparent.png"), sketch)
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(sketch[..., 3]).convert("RGB").save(folder / "turned.jpg", exif=exif)
    data = Images(folder, tmp_path / "cache")
    for name, image in zip(data.names, data.images.numpy(), strict=True):
        assert np.array_equal(image.transpose(1, 2, 0), read_picture(folder / name)), name
    monkeypatch.setattr("images.READER_VERSION", 0)
    (first,) = (tmp_path / "cache").glob("*.npy")
    Images(folder, tmp_path / "cache")
    (second,) = (tmp_path / "cache").glob("*.npy")
    assert first != second


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


def test_training_images_are_drawn_mirrored_or_not(tmp_path):
    write_images(tmp_path / "faces", [f"{i:02}.png" for i in range(21)])
    data = Images(tmp_path / "faces", tmp_path / "cache")
    codes = data.sample(4000, np.random.default_rng(0))
    assert torch.equal(codes, data.sample(4000, np.random.default_rng(0)))
    drawn, counts = codes.unique(return_counts=True)
    assert torch.equal(drawn, torch.arange(2, 40))  # all but images 0 and 20, the tests
    # Chi squared with 37 degrees of freedom exceeds 69.3 once in a thousand.
    assert ((counts - 4000 / 38) ** 2 / (4000 / 38)).sum() < 69.3
    assert data.sample(0, np.random.default_rng(0)).shape == (0,)
    image, mirrored = data.targets(torch.tensor([2, 3]))
    assert torch.equal(image, data.images[1])
    assert torch.equal(mirrored, image.flip(2))


@pytest.mark.parametrize(("name", "mode", "second"), [
    ("MNIST", "L", "(False, True)"), ("SVHN", "RGB", '("test", "train")'),
])
def test_recipes_of_digits_and_house_numbers(tmp_path, monkeypatch, name, mode, second):
    """On stand-ins for the data sets: white for tests, black for training."""
    text = (ROOT / "data" / "README.md").read_text()
    code = re.search("<<'END'\n(.*?)\nEND\n", text, re.DOTALL)[1]
    changes = re.findall(r"`([^`]+)` in place of `([^`]+)`", " ".join(text.split()))
    assert len(changes) == 2
    if name != "MNIST":
        for new, old in changes:
            code = code.replace(old, new)
    assert second in code
    signature = inspect.signature(getattr(torchvision.datasets, name))

    def stand_in(*args, **flags):
        given = signature.bind(*args, **flags).arguments
        test = list(given.values())[1] in (False, "test")
        count, color = (2003, "white") if test else (4, "black")
        return [(Image.new(mode, (9, 9), color), 7)] * count

    monkeypatch.setattr(torchvision.datasets, name, stand_in)
    monkeypatch.chdir(tmp_path)
    exec(code, {})  # noqa: S102, as the README is ours
    (folder,) = (tmp_path / "data").iterdir()
    names = sorted(os.listdir(folder))
    train, test = split(names)
    assert (len(train), len(test)) == (4, 2001)
    for indices, value in ((test, 255), (train, 0)):
        for i in (indices[0], indices[-1]):
            assert (cv2.imread(str(folder / names[i])) == value).all()


def test_environment_paints_and_rewards(tmp_path):
    write_images(tmp_path / "faces", ["a.png", "b.png"])
    data = Images(tmp_path / "faces", tmp_path / "cache")
    opaque = lambda strokes: torch.zeros(len(strokes), 128, 128)
    advance = lambda canvas, action: as_uint8(composite(opaque, as_float(canvas), action))
    env = Environment(data, advance, 2, 3, torch.device("cpu"))
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
    for _ in range(2):
        env.step(action.flatten(1))
    assert env.done
    env.load_state_dict(state)
    assert env.step_count == 1
    assert torch.equal(env.canvas, state["canvas"])
