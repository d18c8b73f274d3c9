"""Search for images, stroke files and weights that give a traceback, a hang or damage.

The quick searches check the same inputs every time, the slow ones others; a failure is shown as
its smallest input.
"""

import contextlib
import copy
import io
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import hypothesis.strategies as st
import numpy as np
from PIL import Image

from helpers import Call, Network, archive, parts, saved, search, stroke_files, thorough, weights
from images import FLAWS, _decode_one
from painting.frames import size_of
from painting.stroke_file import read_json
from painting.svg import write_svg
from Renderer.raster import paint_frames
from utils.command import UserError, one_line
from utils.pictures import read_picture
from utils.streams import silent_stderr
from utils.weights import load_weights


def image_files() -> list[bytes]:
    """Return a small picture in files of many formats."""
    rng = np.random.default_rng(0)
    photo = cv2.resize(rng.integers(0, 256, (4, 5, 3), np.uint8), (44, 36))
    clear = np.dstack((photo, photo[..., 0]))
    kinds = [(suffix, photo) for suffix in (
        ".png", ".jpg", ".webp", ".bmp", ".gif", ".tiff", ".jp2", ".ppm", ".avif")]
    kinds += [(".png", clear), (".webp", clear), (".tiff", clear), (".png", clear * np.uint16(257)),
              (".pgm", photo[..., 0]), (".pbm", photo[..., 0]), (".png", photo[..., 0]),
              (".tiff", np.float32(photo[..., 0])), (".tiff", photo * np.uint16(257)),
              (".jp2", photo[..., 0] * np.uint16(257)), (".avif", photo[..., 0])]
    files = [cv2.imencode(suffix, picture)[1].tobytes() for suffix, picture in kinds]
    image, exif = Image.fromarray(photo), Image.Exif()
    exif[0x112] = 6
    others = [image.transpose(Image.Transpose.ROTATE_90), image.rotate(90)]
    for mode, kind, flags in (
            ("RGB", "jpeg", {"progressive": True, "exif": exif}), ("CMYK", "jpeg", {}),
            ("1", "tiff", {}), ("RGB", "tiff", {"compression": "jpeg"}),
            ("P", "gif", {"save_all": True, "append_images": others, "loop": 0}),
            ("RGB", "mpo", {}), ("RGB", "png", {"save_all": True, "append_images": others}),
            ("LA", "tiff", {"compression": "tiff_deflate"}), ("P", "bmp", {}),
            ("RGB", "avif", {"save_all": True, "append_images": [image.rotate(180)]})):
        file = io.BytesIO()
        image.convert(mode).save(file, kind, **flags)
        files.append(file.getvalue())
    return files


@contextlib.contextmanager
def refusal() -> Iterator[None]:
    """Accept a UserError of one line."""
    try:
        yield
    except UserError as error:
        assert str(error).strip()
        assert "\n" not in one_line(str(error))


NUMBERS = [struct.pack(code, number & (2 ** (8 * struct.calcsize(code)) - 1))
           for code in ("B", ">H", "<H", ">I", "<I", "<Q")
           for number in (0, 1, 2, 7, 255, 4000, 65535, 2**31 - 1, 2**32 - 1, -1)]


@st.composite
def damaged(draw: st.DrawFn, examples: list[bytes]) -> bytes:
    """Draw an example with bytes changed, cut, moved in or replaced by another one's."""
    data = draw(st.sampled_from(examples))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, min(len(data), draw(st.sampled_from([64, 400, 10**9])))))
        kind = draw(st.sampled_from(["set", "number", "number", "insert", "cut", "drop", "splice"]))
        some = draw(st.sampled_from(NUMBERS) if kind == "number" else
                    st.binary(min_size=1, max_size=8))
        if kind in ("set", "number"):
            data = data[:start] + some + data[start + len(some):]
        elif kind == "insert":
            data = data[:start] + some * draw(st.sampled_from([1, 1, 9, 5000])) + data[start:]
        elif kind == "cut":
            data = data[:start]
        elif kind == "drop":
            data = data[:start] + data[start + draw(st.integers(1, 200)):]
        else:
            other = draw(st.sampled_from(examples))
            data = data[:start] + other[draw(st.integers(0, len(other))):]
    return data


@thorough
def test_any_bytes_are_a_picture_or_refused(tmp_path, thorough, capfd):
    path, row = tmp_path / "picture", np.empty((3, 128, 128), np.uint8)
    readable = 0

    def check(data: bytes) -> None:
        nonlocal readable
        path.write_bytes(data)
        with refusal():
            picture = read_picture(path)
            assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
            assert picture.size
            readable += 1
        with silent_stderr():
            assert 0 <= _decode_one(path, row) <= len(FLAWS)

    files = image_files()
    for data in files:
        check(data)
    assert readable == len(files)
    search(check, damaged(files) | st.binary(max_size=300), 5_000 if thorough else 150, thorough,
           capfd)
    assert readable > len(files)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.integers() | st.text(max_size=9)
    | st.floats(allow_subnormal=False) | st.sampled_from(  # PyTorch may flush subnormal ones
        [2**13, 2**20, 2**31, 2**63, 10**400, -1e-9, 1e308, 1e-320, 127.99999, "bezier"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.text(max_size=5), inner, max_size=3),
    max_leaves=6)


@st.composite
def changed(draw: st.DrawFn, contents: list[dict]) -> bytes:
    """Draw a stroke file with some of its values, keys and bytes changed."""
    content = copy.deepcopy(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(0, 3))):
        inner: Any = content
        while keys := range(len(inner)) if isinstance(inner, list) else list(inner):
            key = draw(st.sampled_from(keys))
            if isinstance(inner[key], list | dict) and draw(st.integers(0, 5)):
                inner = inner[key]
                continue
            kind = draw(st.sampled_from(["set", "set", "scale", "drop", "twice"]))
            if kind == "scale" and type(inner[key]) in (int, float):
                inner[key] = inner[key] * draw(st.sampled_from([0, -1, 2, 1 + 1e-7])) + draw(
                    st.sampled_from([0, 0, 1, -1, 1e-5, 0.5]))
            elif kind == "drop":
                del inner[key]
            elif kind == "twice" and isinstance(inner, list):
                inner.insert(key, copy.deepcopy(inner[key]))
            else:
                inner[key] = draw(JUNK)
            break
    data = json.dumps(content).encode()
    return draw(damaged([data])) if draw(st.integers(0, 3)) == 0 else data


@thorough
def test_any_bytes_are_strokes_or_refused(tmp_path, thorough, compiled, capfd):
    """What is read can be painted at a small size, and written as SVG."""
    path = tmp_path / "s.json"
    readable = 0

    def check(data: bytes) -> None:
        nonlocal readable
        path.write_bytes(data)
        with refusal():
            strokes, size, settings = read_json(path)
            assert isinstance(settings, dict)
            height, width = size_of(*size, 40)
            (frame,) = paint_frames(strokes, height, width, [len(strokes)])
            assert frame.shape == (height, width, 3) and frame.dtype == np.uint8
            write_svg(tmp_path / "s.svg", strokes, size, 1.0)
            readable += 1

    contents = stroke_files(tmp_path)
    for content in contents:
        check(json.dumps(content).encode())
    assert readable == len(contents)
    search(check, changed(contents) | JUNK.map(json.dumps).map(str.encode) | st.binary(max_size=99),
           5_000 if thorough else 150, thorough, capfd)
    assert readable > len(contents)


@st.composite
def damaged_weights(draw: st.DrawFn) -> bytes:
    """Draw a weight file with changed bytes, or with a changed pickle in a valid archive."""
    files = parts(saved(weights()))
    if draw(st.booleans()):
        name = next(name for name in files if name.endswith("/data.pkl"))
        return archive(files | {name: draw(damaged([files[name]]))})
    return draw(damaged([
        saved(weights()), saved(weights(), _use_new_zipfile_serialization=False),
        saved({"weight": Call(os.mkdir, "made")}), saved(weights(), pickle_protocol=4)]))


@thorough
def test_any_bytes_are_weights_or_refused(tmp_path, monkeypatch, thorough, capfd):
    """What is taken has only finite numbers; nothing is run or written."""
    monkeypatch.chdir(tmp_path)
    path = Path("w.pkl")

    def check(data: bytes) -> None:
        path.write_bytes(data)
        network = Network()
        with refusal():
            assert isinstance(load_weights(network, path, "the actor", "train one"), str)
        assert all(value.isfinite().all() for value in network.state_dict().values())
        assert os.listdir() == ["w.pkl"]

    search(check, damaged_weights() | st.binary(max_size=300), 5_000 if thorough else 200,
           thorough, capfd)
