"""A folder of images to train on: their pixels in a cache file, and the two splits."""

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

from constants import CANVAS, WIDTH
from running.device import free_memory
from utils.command import ROOT, UserError, one_line
from utils.files import own_folder, reason, replacing
from utils.listing import image_files
from utils.pictures import decode_picture
from utils.streams import silent_stderr

CACHE = ROOT / "data" / "cache"
MAX_TEST_NUMBER = 2001  # CelebA's images 1..2001 are the test split
TEST_INTERVAL = 20  # in other folders every 20th image in name order
MIN_SIDE = 8  # pixels of an image
READER_VERSION = 5  # caches of other versions are not used
# By verdict on a file, from 1; 0 is good.
FLAWS = ("images cannot be read and are skipped",
         f"images are skipped, as a side of theirs has less than {MIN_SIDE} pixels",
         "images are skipped, as reading them failed; the next start tries again")
UNREADABLE, TINY, SYSTEM_ERROR = 1, 2, 3
MAX_FOLDER_NAME = 100  # characters of the folder's name in a cache file's
CACHE_ERRORS = OSError, ValueError, EOFError  # of reading a damaged cache


class Images:
    """A folder of images, resized to 128x128 and kept in a memory-mapped cache file.

    images: (N, 3, 128, 128) uint8 BGR; names: the N file names in order; train, test: the
    indices of the two splits.  Files that cannot be decoded or are tiny are skipped, and counted
    and named at every start.
    """

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        """Open the cache of a folder, or decode its images.

        cache: the folder for cache files; None: see ``own_folder``.  Raises UserError where the
        folder holds no image that can be read.
        """
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder of images; see data/README.md, or name "
                            "another one with --data")
        files = sorted(image_files(folder))
        stats = ((path.name, (s := path.stat()).st_size, s.st_mtime_ns, os.access(path, os.R_OK))
                 for path in files)
        cache = cache or own_folder(CACHE)
        name = re.sub(r"[^\w.-]", "_", folder.name, flags=re.ASCII)[:MAX_FOLDER_NAME]
        prefix = f"{name}-{digest(str(folder.resolve()))}-"
        file = cache / f"{prefix}{digest(WIDTH, READER_VERSION, *stats)}.npy"
        try:
            content, verdicts = _load_cache(file, len(files))
            if SYSTEM_ERROR in verdicts:
                raise ValueError("files that may be readable now")
        except CACHE_ERRORS:
            _decode(files, file)
            content, verdicts = _load_cache(file, len(files))
            for old in cache.glob(f"{prefix}*"):
                if old != file:
                    print(f"removed {old.name} of what the folder held before", flush=True)
                    old.unlink(missing_ok=True)
        if skipped := _skipped(files, verdicts):
            print(skipped, flush=True)
        self._file = content.base
        self._file.madvise(mmap.MADV_RANDOM)  # read no neighbors
        good = np.flatnonzero(verdicts == 0)
        self.images = torch.from_numpy(content[: len(good) * CANVAS]).view(-1, 3, WIDTH, WIDTH)
        self.names = [files[i].name for i in good]
        self.train, self.test = split(self.names)

    def move(self, device: torch.device) -> None:
        """Copy the images to a GPU where they take less than half of its free memory."""
        if device.type == "cuda" and 2 * self.images.numel() < free_memory(device):
            self.images = self.images.to(device)

    def targets(self, target_code: torch.Tensor) -> torch.Tensor:
        """Return images (B, 3, 128, 128) uint8 on the device of their codes.

        target_code: (B,) int64, 2 index + (1 where the image is mirrored).
        """
        images = self.images[(target_code // 2).to(self.images.device)].to(target_code.device)
        if self.images.device.type == "cpu":
            self._file.madvise(mmap.MADV_DONTNEED)  # stay in the system's page cache alone
        mirrored = (target_code % 2 == 1).view(-1, 1, 1, 1)
        return torch.where(mirrored, TF.hflip(images), images)

    def sample(self, count: int, rng: np.random.Generator) -> torch.Tensor:
        """Return target codes (count,) of random training images, mirrored or not."""
        index = rng.choice(self.train, count)
        return torch.from_numpy(2 * index + rng.integers(2, size=count))


def split(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return training and test indices.

    Where all names are CelebA's six digits, numbers 1..2001 are the test split, unless one of the
    splits would be empty.  Elsewhere every 20th image is, from the first; fewer than 20 images
    serve as both.
    """
    index = np.arange(len(names))
    if all(re.fullmatch(r"\d{6}\.\w+", name) for name in names):
        test = np.array([int(name[:6]) <= MAX_TEST_NUMBER for name in names])
        if test.any() and not test.all():
            return index[~test], index[test]
    if len(names) < TEST_INTERVAL:
        return index, index
    return index[index % TEST_INTERVAL > 0], index[::TEST_INTERVAL]


def _load_cache(file: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the memory-mapped bytes of a cache, and its verdicts (count,) uint8.

    First come the pixels (3, 128, 128) of good files, at the end the verdicts on all files.
    Raises one of CACHE_ERRORS where the cache is missing or damaged.
    """
    content = np.load(file, mmap_mode="c")
    if content.shape != (count * (CANVAS + 1),):
        raise ValueError("another number of files")
    return content, content[count * CANVAS :]


def _skipped(files: list[Path], verdicts: np.ndarray) -> str:
    """Return how many files are skipped, why, and their names."""
    kinds = []
    for verdict, flaw in enumerate(FLAWS, 1):
        if names := [files[i].name for i in np.flatnonzero(verdicts == verdict)]:
            kinds.append(f"{len(names)} {flaw}: {one_line(', '.join(names))}")
    return "; ".join(kinds)


def digest(*values: object) -> str:
    """Return eight hexadecimal digits of the values' SHA-256."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:8]


def _decode(files: list[Path], cache: Path) -> None:
    """Decode files in parallel into a cache, see ``_load_cache``.

    Raises UserError where no file is good, or the cache cannot be written.
    """
    try:
        with replacing(cache) as file:
            shape = (len(files) * (CANVAS + 1),)
            content = np.lib.format.open_memmap(Path(file.name), "w+", np.uint8, shape)
            pixels = content[: len(files) * CANVAS].reshape(-1, 3, WIDTH, WIDTH)
            if hasattr(os, "posix_fallocate"):  # or writing on a full disk kills the process
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
            pool = ThreadPoolExecutor()
            with silent_stderr() as stderr:
                try:
                    done = pool.map(_decode_one, files, pixels)
                    done = tqdm(done, "decoding", len(files), disable=None, file=stderr)
                    verdicts = np.fromiter(done, np.uint8)
                finally:
                    pool.shutdown(cancel_futures=True)
            if verdicts.all():
                raise UserError(f"{files[0].parent} holds no image of use: "
                                f"{_skipped(files, verdicts)}")
            for row, i in enumerate(np.flatnonzero(verdicts == 0)):
                if row < i:
                    pixels[row] = pixels[i]
            content[pixels.size :] = verdicts
            content.flush()
    except OSError as error:
        raise UserError(f"cannot write the cache {cache}: {reason(error)}") from error


def _decode_one(file: Path, row: np.ndarray) -> int:
    """Decode an image into its row (3, 128, 128) of the cache; return the verdict on it."""
    try:
        picture, _ = decode_picture(file)
    except UserError as error:
        cause = error.__cause__  # a file without permission is decoded when it gets it
        system = isinstance(cause, OSError | MemoryError) and not isinstance(cause, PermissionError)
        return SYSTEM_ERROR if system else UNREADABLE
    if min(picture.shape[:2]) < MIN_SIDE:
        return TINY
    row[:] = cv2.resize(picture, (WIDTH, WIDTH)).transpose(2, 0, 1)
    return 0
