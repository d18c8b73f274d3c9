"""A folder of images to train on: their pixels in a cache file, and the two splits."""

import hashlib
import mmap
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np
import torch
import torchvision.transforms.functional as TF
from tqdm import tqdm

from constants import WIDTH
from running.device import free_memory
from utils.command import ROOT, UserError, one_line
from utils.files import own_folder, reason, replacing, write_atomically
from utils.listing import image_files
from utils.pictures import decode_picture
from utils.streams import silent_stderr

CACHE = ROOT / "data" / "cache"
LAST_TEST_NUMBER = 2001  # CelebA's images 1..2001 are the test split
TEST_EVERY = 20  # elsewhere every 20th image in name order is
SMALLEST_SIDE = 8  # pixels
READER = 4  # of images; what an earlier one made of them is not used again
FLAWS = ("", "images cannot be read and are left out",
         f"images are left out, as a side of theirs has less than {SMALLEST_SIDE} pixels",
         "images are left out, as reading them failed; the next start tries again")
FAILED = len(FLAWS) - 1  # the system's fault, and not the file's
LONGEST_PART = 100  # characters of a cache file's name
DAMAGED = OSError, ValueError, EOFError, KeyError, BadZipFile  # says what reads a cache
NAMED = 20  # files of each kind that are left out


class Images:
    """A folder of images, squashed to 128x128 and kept in a memory-mapped cache file.

    images: (N, 3, 128, 128) uint8 BGR; names: the N file names in order; train, test: the
    indices of the two splits.  Files that cannot be decoded, or are tiny, are left out, and
    counted and named at every start.
    """

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        """cache: the folder for cache files, see ``own_folder`` for the usual one.

        Raises UserError where the folder holds no image that can be read.
        """
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder of images; see data/README.md, or name "
                            "another one with --data")
        files = sorted(image_files(folder))
        stats = ((path.name, (s := path.stat()).st_size, s.st_mtime_ns, os.access(path, os.R_OK))
                 for path in files)
        cache, where = cache or own_folder(CACHE), str(folder.resolve())
        name = re.sub(r"[^\w.-]", "_", folder.name, flags=re.ASCII)[:LONGEST_PART]
        own = f"{name}-{digest(where)}-"
        pixels_file = cache / f"{own}{digest(WIDTH, READER, *stats)}.npy"
        try:
            pixels, verdicts = _cached(pixels_file, len(files))
            if FAILED in verdicts:
                raise ValueError("files that may be read by now")
        except DAMAGED:  # or not there
            _decode(files, pixels_file, where)
            pixels, verdicts = _cached(pixels_file, len(files))
            clean(cache, own, pixels_file)
        if left_out := _left_out(files, verdicts):
            print(left_out, flush=True)
        self._file = pixels.base
        self._file.madvise(mmap.MADV_RANDOM)  # no neighbours of what is read
        good = np.flatnonzero(verdicts == 0)
        self.images = torch.from_numpy(pixels[: len(good)])
        self.names = [files[i].name for i in good]
        self.train, self.test = split(self.names)

    def move(self, device: torch.device) -> None:
        """Copy the images to a GPU where they take less than half of its free memory."""
        if device.type == "cuda" and 2 * self.images.numel() < free_memory(device):
            self.images = self.images.to(device)

    def targets(self, code: torch.Tensor) -> torch.Tensor:
        """The images that codes name, code = 2 index + (1 where it is mirrored).

        code: (B,) int64.  Returns (B, 3, 128, 128) uint8 on the device of ``code``.
        """
        picked = self.images[(code // 2).to(self.images.device)].to(code.device)
        if self.images.device.type == "cpu":
            self._file.madvise(mmap.MADV_DONTNEED)  # it stays in the system's cache alone
        mirrored = (code % 2 == 1).view(-1, 1, 1, 1)
        return torch.where(mirrored, TF.hflip(picked), picked)

    def sample(self, count: int, rng: np.random.Generator) -> torch.Tensor:
        """Codes (count,) of random training images, mirrored or not."""
        index = rng.choice(self.train, count)
        return torch.from_numpy(2 * index + rng.integers(2, size=count))


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


def _cached(pixels_file: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (count, 3, 128, 128) uint8, those of good files first, which stay on disk.

    And a verdict on each file (count,) uint8: 0, or an index in FLAWS.  Raises one of DAMAGED
    where the cache is not like that.
    """
    with np.load(pixels_file.with_suffix(".npz")) as beside:
        verdicts = beside["verdicts"]
    pixels = np.load(pixels_file, mmap_mode="c")
    if pixels.shape != (count, 3, WIDTH, WIDTH) or verdicts.shape != (count,):
        raise ValueError("another number of files")
    return pixels, verdicts


def _left_out(files: list[Path], verdicts: np.ndarray) -> str:
    """How many files are left out and why, and the names of the first of each kind."""
    kinds = []
    for verdict, flaw in enumerate(FLAWS[1:], 1):
        names = [files[i].name for i in np.flatnonzero(verdicts == verdict)]
        if names:
            kinds.append(f"{len(names)} {flaw}: " + one_line(", ".join(names[:NAMED]))
                         + " .." * (len(names) > NAMED))
    return "; ".join(kinds)


def clean(cache: Path, own: str, current: Path) -> None:
    """Remove what was cached of the same folder before; name what is of folders that are gone.

    own: what the names of the folder's cache files begin with.
    """
    gone = []
    for pixels_file in sorted(cache.glob("*.npy")):
        beside = pixels_file.with_suffix(".npz")
        if pixels_file == current:
            continue
        if pixels_file.name.startswith(own):
            print(f"removed {pixels_file.name} of what the folder held before", flush=True)
            for old in (pixels_file, beside):
                old.unlink(missing_ok=True)  # who has it open, keeps it
            continue
        try:
            with np.load(beside) as known:
                if Path(str(known["folder"])).is_dir():
                    continue
        except DAMAGED:
            pass  # or an earlier version's
        with suppress(FileNotFoundError):  # another process has removed it
            gone.append(f"{pixels_file.name} ({pixels_file.stat().st_size / 1e6:.1f} MB)")
    if gone:
        print(f"{cache} holds caches of folders that are gone, or of earlier versions; delete what "
              f"nothing needs: {', '.join(gone[:NAMED])}" + " .." * (len(gone) > NAMED), flush=True)


def digest(*values: object) -> str:
    """Eight digits for values."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:8]


def _decode(files: list[Path], pixels_file: Path, folder: str) -> None:
    """Decode in parallel into a cache file; see ``_cached``.  folder: it is written down too.

    Raises UserError where no file is good, or the cache cannot be written.
    """
    try:
        with replacing(pixels_file) as file:
            shape = (len(files), 3, WIDTH, WIDTH)
            pixels = np.lib.format.open_memmap(Path(file.name), "w+", np.uint8, shape)
            # Writing to a mapped file would kill the process where the disk is full.
            if hasattr(os, "posix_fallocate"):  # which macOS lacks
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
                                f"{_left_out(files, verdicts)}")
            for row, i in enumerate(np.flatnonzero(verdicts == 0)):
                if row < i:
                    pixels[row] = pixels[i]
            pixels.flush()
            write_atomically(
                pixels_file.with_suffix(".npz"),
                lambda beside: np.savez(beside, verdicts=verdicts, folder=np.array(folder)))
    except OSError as error:
        raise UserError(f"cannot write the cache {pixels_file}: {reason(error)}") from error


def _decode_one(file: Path, row: np.ndarray) -> int:
    """Decode an image into its row (3, 128, 128) of the cache.  Returns the verdict on it."""
    try:
        picture = decode_picture(file)
    except UserError as error:
        cause = error.__cause__  # what has no permission is decoded again when it gets it
        system = isinstance(cause, OSError | MemoryError) and not isinstance(cause, PermissionError)
        return FAILED if system else 1
    if min(picture.shape[:2]) < SMALLEST_SIDE:
        return 2
    row[:] = cv2.resize(picture, (WIDTH, WIDTH)).transpose(2, 0, 1)
    return 0
