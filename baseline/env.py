"""The images to paint, and the environment that paints many of them side by side."""

import hashlib
import mmap
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision.transforms.functional as TF
from tqdm import tqdm

from Renderer.canvas import Render, as_float, as_uint8, paint
from Renderer.stroke_gen import WIDTH
from utils.command import ROOT, UserError

CACHE = ROOT / "data" / "cache"
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
LAST_TEST_NUMBER = 2001  # CelebA's images 1..2001 are the test split
TEST_EVERY = 20  # elsewhere every 20th image in name order is


class CelebA:
    """A folder of images, squashed to 128x128 and kept in a memory-mapped cache file.

    images: (N, 3, 128, 128) uint8 BGR; names: the N file names in order; train, test: the
    indices of the two splits.  Files that cannot be decoded are named and left out.
    """

    def __init__(self, folder: Path, cache: Path = CACHE) -> None:
        """Raises UserError where the folder holds no image that can be read."""
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder of images; see data/README.md, or name "
                            "another one with --data")
        try:
            files = sorted(path for path in folder.iterdir()
                           if path.suffix.lower() in SUFFIXES and path.is_file())
        except OSError as error:
            raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
        if not files:
            raise UserError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")
        stats = ((path.name, (s := path.stat()).st_size, s.st_mtime_ns) for path in files)
        key = hashlib.sha256(repr((str(folder.resolve()), WIDTH, *stats)).encode()).hexdigest()
        pixels_file = cache / f"{folder.name}-{key[:16]}.npy"
        if not pixels_file.is_file():
            _decode(files, pixels_file)
        pixels = np.load(pixels_file, mmap_mode="c")  # (files, 3, 128, 128); stays on disk
        self._file = pixels.base
        self._file.madvise(mmap.MADV_RANDOM)  # no neighbours of what is read
        readable = np.load(pixels_file.with_suffix(".readable.npy"))  # (N,) rows of pixels
        if not len(readable):
            raise UserError(f"none of the {len(files)} images in {folder} can be read")
        self.images = torch.from_numpy(pixels[: len(readable)])
        self.names = [files[i].name for i in readable]
        self.train, self.test = split(self.names)

    def place(self, device: torch.device) -> None:
        """Copy the images to a GPU where they take less than half of its free memory."""
        if device.type == "cuda" and 2 * self.images.numel() < torch.cuda.mem_get_info(device)[0]:
            self.images = self.images.to(device)

    def targets(self, code: torch.Tensor) -> torch.Tensor:
        """The images that codes name, code = 2 index + (1 where it is mirrored).

        code: (B,) int64.  Returns (B, 3, 128, 128) uint8 on the device of ``code``.
        """
        picked = self.images[(code // 2).to(self.images.device)].to(code.device)
        self._file.madvise(mmap.MADV_DONTNEED)  # what was read stays in the system's cache alone
        mirrored = (code % 2 == 1).view(-1, 1, 1, 1)
        return torch.where(mirrored, TF.hflip(picked), picked)


def split(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Training and test indices.

    CelebA's numbers 1..2001 are its test split where all names are CelebA's six digits and
    both sides have images.  Elsewhere every 20th name is, the first included; fewer than 20
    images serve as both.
    """
    everything = np.arange(len(names))
    if all(re.fullmatch(r"\d{6}\.\w+", name) for name in names):
        test = np.array([int(name[:6]) <= LAST_TEST_NUMBER for name in names])
        if test.any() and not test.all():
            return everything[~test], everything[test]
    if len(names) < TEST_EVERY:
        return everything, everything
    return everything[everything % TEST_EVERY > 0], everything[::TEST_EVERY]


def _decode(files: list[Path], pixels_file: Path) -> None:
    """Decode in parallel into a cache file, readable images first."""
    temporary = pixels_file.with_name(f".{pixels_file.name}.{os.getpid()}")
    try:
        pixels_file.parent.mkdir(parents=True, exist_ok=True)
        shape = (len(files), 3, WIDTH, WIDTH)
        pixels = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)

        pool = ThreadPoolExecutor()
        try:
            decoded = pool.map(_decode_one, files, pixels)
            good = np.fromiter(tqdm(decoded, "decoding", len(files), disable=None), bool)
        finally:
            pool.shutdown(cancel_futures=True)
        readable = np.flatnonzero(good)
        for row, i in enumerate(readable):
            if row < i:
                pixels[row] = pixels[i]
        pixels.flush()
        np.save(pixels_file.with_suffix(".readable.npy"), readable)
        os.replace(temporary, pixels_file)
    except OSError as error:
        raise UserError(f"cannot write the cache {pixels_file}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    if not good.all():
        broken = [files[i].name for i in np.flatnonzero(~good)]
        print(f"{len(broken)} images cannot be read and are left out: {', '.join(broken[:20])}"
              + (" .." if len(broken) > 20 else ""), flush=True)


def _decode_one(file: Path, row: np.ndarray) -> bool:
    """Decode an image into its row (3, 128, 128) of the cache.  Returns whether it could be."""
    try:
        picture = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)
        row[:] = cv2.resize(picture, (WIDTH, WIDTH)).transpose(2, 0, 1)
    except (cv2.error, OSError):
        return False
    return True


class Paint:
    """Many paintings side by side, each on its own canvas before its own target.

    All advance together; ``step_count`` bundles of ``max_step`` are painted.
    """

    def __init__(
        self, data: CelebA, render: Render, env_batch: int, max_step: int, device: torch.device
    ) -> None:
        self.data, self.render, self.max_step, self.device = data, render, max_step, device
        self.reset(torch.zeros(env_batch, dtype=torch.int64))

    def reset(self, image: torch.Tensor) -> None:
        """Blank canvases before the images (B,) int64; see ``CelebA.targets`` for the code."""
        self.image = image.to(self.device)
        self.target = self.data.targets(self.image)  # (B, 3, 128, 128) uint8
        self.canvas = torch.zeros_like(self.target)
        self.step_count = 0
        self.initial = self.error()  # (B,)

    def draw_images(self, batch: int, rng: np.random.Generator) -> torch.Tensor:
        """Codes (batch,) of random training images, mirrored or not."""
        index = rng.choice(self.data.train, batch)
        return torch.from_numpy(2 * index + rng.integers(2, size=batch))

    def error(self) -> torch.Tensor:
        """Mean squared error (B,) of each canvas, pixels in [0, 1]."""
        return (as_float(self.canvas) - as_float(self.target)).square().mean((1, 2, 3))

    @torch.no_grad()
    def step(self, action: torch.Tensor) -> torch.Tensor:
        """Paint a bundle (B, 65) on every canvas.

        Returns the share (B,) of the first error that it removed, for monitoring.
        """
        before = self.error()
        self.canvas = as_uint8(paint(self.render, as_float(self.canvas), action))
        self.step_count += 1
        return (before - self.error()) / self.initial.clamp(min=1e-8)

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self.step_count >= self.max_step

    def state_dict(self) -> dict:
        """Where the episode stands, for a checkpoint."""
        return {"image": self.image, "canvas": self.canvas, "step_count": self.step_count}

    def load_state_dict(self, state: dict) -> None:
        """Take up an episode where ``state_dict`` left it."""
        self.reset(state["image"])
        self.canvas = state["canvas"].to(self.device)
        self.step_count = state["step_count"]
