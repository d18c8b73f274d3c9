"""Foreign weight files, pictures and names: taken, or refused by an error line."""

import gzip
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from DRL.actor import Actor
from DRL.wgan import Discriminator
from helpers import ROOT, Call, Network, archive, parts, saved, weights
from utils.command import UserError, one_line
from utils.pictures import read_picture
from utils.weights import load_weights

GOOD = saved(weights())
OLD = saved(weights(), _use_new_zipfile_serialization=False)
HALF = np.full(12, 0.5, np.float32).tobytes()


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_weights_of_any_float_precision_are_taken(tmp_path, kind, old):
    state = {key: value.to(kind) if value.is_floating_point() else nn.Parameter(
        value, requires_grad=False) for key, value in weights().items()}
    (tmp_path / "w.pkl").write_bytes(saved(state, _use_new_zipfile_serialization=not old))
    network = Network()
    nn.init.zeros_(network.weight)
    assert load_weights(network, tmp_path / "w.pkl", "the actor", "train one") == "bezier"
    assert network.weight.eq(0.5).all() and network.weight.dtype == torch.float32
    assert network.count == 7


def prefixed(state: dict, prefix: str) -> dict:
    """Return a state dict with a prefix before each key."""
    return {f"{prefix}{key}": value for key, value in state.items()}


STATE = {key: value + 1 for key, value in Discriminator().state_dict().items()}
ACTOR_STATE = Actor().state_dict()


@pytest.mark.parametrize("content", [
    pytest.param(STATE, id="alone"),
    pytest.param(prefixed(STATE, "module."), id="parallel"),
    pytest.param(prefixed(STATE, "_orig_mod.module."), id="compiled and parallel"),
    pytest.param({key.replace(".", "._orig_mod.", 1): v for key, v in STATE.items()}, id="inner"),
    pytest.param({"epoch": 3, "model": prefixed(STATE, "wgan.")}, id="model"),
    pytest.param({"step": 1, "networks": {"actor": ACTOR_STATE, "wgan": STATE}}, id="nested"),
    pytest.param({"epoch": 3, "notes": ["none"]} | STATE, id="flat"),
    pytest.param({key.replace("weight_g", "parametrizations.weight.original0").replace(
        "weight_v", "parametrizations.weight.original1"): v for key, v in STATE.items()},
        id="newer names"),
    pytest.param([{"optimizer": {"lr": 1e-4}}, (STATE,)], id="list"),
    pytest.param({"n_averaged": torch.tensor(3)} | prefixed(STATE, "module."), id="averaged"),
    pytest.param(prefixed(STATE, "_fsdp_wrapped_module."), id="sharded"),
    pytest.param(prefixed(STATE, "wgan.") | prefixed(ACTOR_STATE, "actor."), id="several"),
])
def test_weights_in_a_common_wrapping_are_taken(tmp_path, content):
    (tmp_path / "w.pkl").write_bytes(saved(content))
    network = Discriminator()
    load_weights(network, tmp_path / "w.pkl", "the discriminator", "train one")
    assert all(map(torch.equal, network.state_dict().values(), STATE.values()))


def test_weights_without_counters_of_batches_are_taken(tmp_path):
    (tmp_path / "w.pkl").write_bytes(saved(
        {key: value for key, value in ACTOR_STATE.items() if "num_batches" not in key}))
    load_weights(Actor(), tmp_path / "w.pkl", "the actor", "train one")


@pytest.mark.parametrize(("data", "says"), [
    pytest.param(saved(Call(os.mkdir, "made")), "would run code (posix.mkdir); it was not loaded",
                 id="code"),
    pytest.param(saved(weights(bias=Call(eval, "1"))), "eval); it was not", id="code inside"),
    pytest.param(saved(Call(os.mkdir, "made"), _use_new_zipfile_serialization=False),
                 "would run code (posix.mkdir)", id="code, before 1.6"),
    *(pytest.param(pickle.dumps(Call(os.mkdir, "made"), protocol), "would run code (posix.mkdir)",
                   id=f"plain pickle {protocol}") for protocol in range(6)),
    pytest.param(pickle.dumps(Call(bytearray, 10**12), 2), "would run code", id="memory"),
    pytest.param(b"", "is empty", id="empty"),
    pytest.param(b"\n<!DOCTYPE html><html></html>", "is a web page", id="HTML"),
    pytest.param(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull",
                 id="LFS"),
    pytest.param(archive({"weights/actor.pkl": GOOD}), "is an archive; unpack", id="zip of it"),
    pytest.param(gzip.compress(GOOD), "is an archive; unpack", id="gzip of it"),
    pytest.param(b"weights/".ljust(257, b"\0") + b"ustar\0" + bytes(300), "is an archive",
                 id="tar"),
    pytest.param(b"PK\5\6" + bytes(18), "is an archive", id="zip of nothing"),
    pytest.param((2).to_bytes(8, "little") + b'{"a":{}}', "is a file of safetensors", id="safe"),
    pytest.param(b"\x93NUMPY\1\0" + bytes(100), "is an array of NumPy", id="NumPy"),
    pytest.param(b"c\nhalf\n.", "is damaged or not", id="code without a name"),
    pytest.param(archive({"model/constants.pkl": b"", "model/data.pkl": b""}),
                 "is a TorchScript archive", id="TorchScript"),
    *(pytest.param(data[: len(data) * tenths // 10], "is damaged or not a weight file",
                   id=f"{tenths}/10 of {len(data)}")
      for data in (GOOD, OLD) for tenths in (1, 5, 9)),
    pytest.param(GOOD.replace(HALF, bytes([1]) + HALF[1:]), "is damaged", id="a bit turned"),
    pytest.param(archive(parts(GOOD) | {"archive/data/9": bytes(10**6)}, zipfile.ZIP_DEFLATED),
                 "is compressed", id="bomb"),
    pytest.param(b"\x80\x02" + b"N0" * 600_000 + b"N.", "is not a weight file", id="long"),
    pytest.param(pickle.dumps({"weight": 1}, 2), "is damaged or not", id="plain values"),
    pytest.param(saved([1, 2]), "holds no state dict", id="list"),
    pytest.param(saved(weights(bias=3)), "another network: no bias", id="a number"),
    pytest.param(saved({"weight": torch.ones(3, 4)}), "another network: no bias", id="no key"),
    pytest.param(saved(weights(more=torch.ones(1))), "network: also more", id="a key more"),
    pytest.param(saved(weights(bias=torch.ones(5))), "bias has the shape (5,), not (4,)",
                 id="shape"),
    pytest.param(saved(weights(bias=torch.zeros(1).expand(2**40))), "shape (1099511627776,)",
                 id="huge, without memory"),
    pytest.param(saved(weights(bias=torch.tensor([0, 0, 0, torch.nan]))), "not finite in bias",
                 id="NaN"),
    pytest.param(saved(weights(bias=torch.full((4,), 1e300, dtype=torch.float64))),
                 "not finite in bias", id="too large for float32"),
    pytest.param(saved(weights(bias=torch.ones(4, dtype=torch.int64))), "type torch.int64 in bias",
                 id="integers"),
    pytest.param(saved(weights(count=torch.tensor(7.0))), "type torch.float32 in count",
                 id="floats"),
    *(pytest.param(saved(weights(bias=bias)),
                   f"holds other tensors than plain ones of floats ({of}", id=of)
      for bias, of in ((torch.ones(4) * 1j, "torch.ComplexFloatStorage"),
                       (torch.ones(4).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
                       (torch.ones(2**40, device="meta"), "torch._utils._rebuild_meta_tensor"))),
])
def test_other_files_are_no_weights(tmp_path, monkeypatch, data, says):
    monkeypatch.chdir(tmp_path)
    Path("w.pkl").write_bytes(data)
    with pytest.raises(UserError) as error:
        load_weights(Network(), Path("w.pkl"), "the actor", "train one")
    text = str(error.value)
    assert text.startswith("the actor w.pkl ") and says in text and text.endswith("; train one")
    assert one_line(text) == text
    assert os.listdir() == ["w.pkl"]


def png(width: int, height: int, pixels: bytes = bytes(100)) -> bytes:
    """Return a PNG of one bit a pixel."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)),
              (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks)


def picture_file(kind: str, **flags: object) -> bytes:
    """Return a small picture in a format of Pillow."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, kind, **flags)
    return file.getvalue()


def with_size(kind: str, mark: bytes, offset: int, code: str) -> bytes:
    """Return a small picture whose header gives 30000 x 30000 pixels, at an offset from a mark."""
    data = picture_file(kind)
    start = data.index(mark) + offset
    size = struct.pack(code, 30000, 30000)
    return data[:start] + size + data[start + len(size):]


def tiff(more: bytes) -> bytes:
    """Return the header of a TIFF of 30000 x 30000 pixels, and more bytes."""
    tags = ((256, 30000), (257, 30000), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1),
            (278, 30000), (279, 900_000_000))
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + more


BOMBS = {
    "60000 PNG": png(60000, 60000),
    "valid PNG": png(30000, 30000, pixels=bytes(30000 * 3751)),
    "BMP": with_size("BMP", b"BM", 18, "<II"),
    "GIF": with_size("GIF", b"GIF", 6, "<HH"),
    "JPEG": with_size("JPEG", b"\xff\xc0", 5, ">HH"),
    "JPEG 2000": with_size("JPEG2000", b"\xff\x4f\xff\x51", 8, ">II"),
    "AVIF": cv2.imencode(".avif", np.zeros((64, 64, 3), np.uint8))[1].tobytes().replace(
        struct.pack(">4sIII", b"ispe", 0, 64, 64), struct.pack(">4sIII", b"ispe", 0, 30000, 30000)),
    "TIFF": tiff(bytes(4)),
    "PPM": b"P6 30000 30000 255\n" + bytes(100),
    "PFM": b"Pf\n30000 30000\n-1.0\n" + bytes(100),
    "chunk": png(64, 64)[:33] + struct.pack(">I", 2**31 - 1) + b"IDAT" + bytes(100),
}
REFUSING = """
import json, resource, sys
from pathlib import Path
from utils.command import UserError
from utils.pictures import read_picture
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_picture(Path(sys.argv[1]))
before, says = peak(), []
for path in sys.argv[2:]:
    try:
        read_picture(Path(path))
    except UserError as error:
        says.append(str(error))
print(json.dumps((peak() - before, says)))
"""


def test_image_bombs_are_refused_before_they_take_memory(tmp_path):
    (tmp_path / "fine").write_bytes(png(64, 64, pixels=bytes(9 * 64)))
    for name, data in BOMBS.items():
        (tmp_path / name).write_bytes(data)
    child = subprocess.run(
        [sys.executable, "-c", REFUSING, *(tmp_path / name for name in ("fine", *BOMBS))],
        check=True, capture_output=True, cwd=ROOT / "baseline", timeout=60,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    peak, says = json.loads(child.stdout)
    assert len(says) == len(BOMBS)
    for name, line in zip(BOMBS, says, strict=True):
        damaged = name in ("chunk", "JPEG 2000", "AVIF")  # the last two by their libraries
        flaw = "is not an image" if damaged else "has more than 268435456 pixels"
        assert line.startswith(f"{tmp_path / name} {flaw}"), name
    assert peak < 64 * 1024, "KiB"  # one byte a pixel of the smallest would be 859 MiB


def test_endless_files_are_refused(monkeypatch):
    monkeypatch.setattr("utils.pictures.MAX_FILE_SIZE", 2**20)
    with pytest.raises(UserError, match="/dev/zero takes more than 1 MiB"):
        read_picture(Path("/dev/zero"))


LONG = "n" * 5000
FOREIGN = (
    ("test.py", ("--img", "...png", "image/test.png"), "...png gives no name"),
    ("test.py", ("--img", "bomb.png"), "bomb.png has more than 268435456 pixels"),
    ("test.py", ("--img", ""), "an empty path"),
    ("test.py", ("https://example.org/a.png",), "//example.org/a.png: an address and no path"),
    ("test.py", ("phone.heic",), "phone.heic is a HEIC photo"),
    ("test.py", ("--img", LONG), "too long"),
    ("test.py", ("--img", "two\nlines\x1b"), r"two\nlines\x1b: No such file"),
    ("test.py", ("--img", b"\xff.png"), r"\udcff.png: No such file"),
    ("test.py", ("--video", "v" * 230 + ".mp4"), "the name is too long"),
    ("test.py", ("--img", "image/test.png", "i" * 198 + ".png", "--compare", "map.png"),
     "is too long; paint"),
    ("test.py", ("--divide", "99999x99999"), "make a canvas of 12799872x12799872 pixels"),
    ("test.py", ("--max_step", "1" + "0" * 30), "from 1 to 2147483647"),
    ("test.py", ("--actor", "page.pkl"), "page.pkl is a web page"),
    ("train.py", ("--discount", "1e308**1e308"), "not a number from 0, below 1"),
    ("train.py", ("--tau", "inf"), "inf is not a number"),
    ("train.py", ("--resume", LONG), "too long"),
    ("train.py", ("--data", "only"), "1 images cannot be read and are skipped: a.png; 1 images"),
)


def test_images_of_unprintable_names_are_painted(checkout):
    name = os.fsdecode(b"new\nline \xff.png")
    shutil.copy(checkout.root / "image" / "test.png", checkout.root / name)
    out = checkout.run("test.py", "--img", name, "image/test.png", "--max_step", 1, "--divide", 1,
                       "--refine", 0, "--size", 64, "--strokes", "s.json", "--compare", "c.png",
                       "--video", "v.gif", "--fps", 10)
    assert "\\udcff.png: 5 strokes" in out
    stem = name.removesuffix(".png")
    assert {f"output/{stem}/generated4.png", f"s-{stem}.json", f"c-{stem}.png",
            f"v-{stem}.gif"} <= checkout.files()
    assert "s.json" not in os.listdir(checkout.root)


def test_foreign_names_and_numbers_give_an_error_line_and_write_nothing(checkout):
    image = (checkout.root / "image" / "test.png").read_bytes()
    (checkout.root / "only").mkdir()
    for name, data in (("...png", image), ("i" * 198 + ".png", image),
                       ("bomb.png", BOMBS["60000 PNG"]),
                       ("phone.heic", b"\0\0\0\x18ftypheic" + bytes(99)),
                       ("page.pkl", b"<html>"), ("only/a.png", b"broken"),
                       ("only/b.png", png(7, 99, pixels=bytes(2 * 99)))):
        (checkout.root / name).write_bytes(data)
    checkout.refuse([(script, [flag if isinstance(flag, str) else os.fsdecode(flag)
                               for flag in flags], says) for script, flags, says in FOREIGN])
    assert not list((checkout.root / "data" / "cache").glob("*"))
