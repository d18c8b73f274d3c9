"""What the searches for foreign input that does harm share."""

import contextlib
import io
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from PIL import Image

from painting.stroke_file import write_json
from Renderer.stroke_gen import FAMILIES
from Renderer.strokes import Strokes

# Hypothesis keeps what it knows of Unicode there, and in the checkout otherwise.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY",
                      str(Path(tempfile.gettempdir()) / "hypothesis"))
LONGEST = 10  # seconds that an input may take of the processor,
BUSY = 6  # times as many by the clock, where the machine does much else

thorough = pytest.mark.parametrize(
    "thorough", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["quick", "thorough"])


def search(check: Callable[[Any], None], inputs: st.SearchStrategy, count: int,
           thorough: bool, capfd: pytest.CaptureFixture) -> None:
    """Check that many inputs, each in its time; nothing may be printed.  Say how many."""
    tried = 0

    @settings(max_examples=count, deadline=None, database=None, print_blob=False,
              derandomize=not thorough, suppress_health_check=list(HealthCheck))
    @given(inputs)
    def one(value: object) -> None:
        nonlocal tried
        tried += 1
        signal.setitimer(signal.ITIMER_REAL, BUSY * LONGEST)
        start = time.thread_time()
        check(value)
        assert time.thread_time() - start < LONGEST
        signal.setitimer(signal.ITIMER_REAL, 0)

    number = random.SystemRandom().randrange(2**32)
    if thorough:
        one = seed(number)(one)
    with alarmed():
        one()
    printed = capfd.readouterr()
    assert printed == ("", ""), printed
    with capfd.disabled() if thorough else contextlib.nullcontext():
        print(f"{tried} inputs tried" + f", from the seed {number}" * thorough)


@contextlib.contextmanager
def alarmed() -> Iterator[None]:
    """An input that never ends becomes an error, where it ever comes back to Python."""
    def late(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def images() -> list[bytes]:
    """A small picture in many kinds of files."""
    rng = np.random.default_rng(0)
    photo = cv2.resize(rng.integers(0, 256, (4, 5, 3), np.uint8), (44, 36))
    clear = np.dstack((photo, photo[..., 0]))
    kinds = [(suffix, photo) for suffix in (
        ".png", ".jpg", ".webp", ".bmp", ".gif", ".tiff", ".jp2", ".ppm", ".avif")]
    kinds += [(".png", clear), (".webp", clear), (".tiff", clear), (".png", clear * np.uint16(257)),
              (".pgm", photo[..., 0]), (".pbm", photo[..., 0]), (".png", photo[..., 0]),
              (".tiff", np.float32(photo[..., 0])), (".tiff", photo * np.uint16(257)),
              (".jp2", photo[..., 0] * np.uint16(257)), (".avif", photo[..., 0])]
    made = [cv2.imencode(suffix, picture)[1].tobytes() for suffix, picture in kinds]
    image, exif = Image.fromarray(photo), Image.Exif()
    exif[0x112] = 6
    others = [image.transpose(Image.Transpose.ROTATE_90), image.rotate(90)]
    for mode, kind, flags in (
            ("RGB", "jpeg", {"progressive": True, "exif": exif}), ("CMYK", "jpeg", {}),
            ("P", "png", {"exif": exif}), ("1", "tiff", {}),
            ("RGB", "tiff", {"compression": "jpeg"}),
            ("P", "gif", {"save_all": True, "append_images": others, "loop": 0}),
            ("RGB", "tiff", {"save_all": True, "append_images": others}), ("RGB", "mpo", {}),
            ("RGB", "png", {"save_all": True, "append_images": others}), ("L", "jpeg2000", {}),
            ("P", "tiff", {"compression": "tiff_lzw"}), ("CMYK", "tiff", {}),
            ("LA", "tiff", {"compression": "tiff_deflate"}), ("P", "bmp", {}),
            ("RGB", "avif", {"save_all": True, "append_images": [image.rotate(180)]})):
        file = io.BytesIO()
        image.convert(mode).save(file, kind, **flags)
        made.append(file.getvalue())
    return made


def stroke_files(folder: Path) -> list[dict]:
    """A file of each family."""
    rng = np.random.default_rng(0)
    contents = []
    for family in FAMILIES:
        strokes = Strokes(family, 256, 384, rng.random((3, 10)).astype(np.float32),
                          rng.random((3, 3)).astype(np.float32),
                          np.array([[0, 0, 128], [128, 256, 128], [0, 0, 256]]),
                          np.array([[0, 0, 128, 128], [0, 0, 256, 384], [1, 2, 3, 4]]))
        write_json(folder / "s.json", strokes, (100, 150), {"img": "a.png"})
        contents.append(json.loads((folder / "s.json").read_text()))
    return contents
