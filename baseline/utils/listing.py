"""List the image files that paths and folders name."""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from utils.command import UserError, one_line

SUFFIXES = {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm",
            ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
# Images and videos that are not read; in a folder they are skipped, and counted.
FOREIGN = {".3fr", ".ai", ".arw", ".avifs", ".cr2", ".cr3", ".dng", ".eps", ".exr", ".gpr", ".hdr",
           ".heic", ".heics", ".heif", ".hif", ".ico", ".insp", ".jxl", ".mpo", ".nef", ".orf",
           ".pdf", ".pef", ".pfm", ".psd", ".raf", ".raw", ".rw2", ".rwl", ".srw", ".svg", ".tga",
           ".x3f", ".xcf", ".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mts", ".webm"}
MAX_NAMED_FOLDERS, MAX_DEPTH = 5, 3  # of the folders within a folder that an error names


def list_pictures(paths: list[Path]) -> list[Path]:
    """Return each path itself or, of a folder, its image files; see ``image_files``.

    A folder's files are sorted with numbers by their value.
    """
    files = []
    for path in paths:
        files += sorted(image_files(path), key=_natural) if path.is_dir() else [path]
    return files


def image_files(folder: Path) -> list[Path]:
    """Return the image files of a folder but the hidden ones.

    Images of kinds that are not read are counted on stderr.  Raises UserError where there are no
    others; the error names folders within the folder that hold some.
    """
    try:
        seen = [path for path in folder.iterdir() if not path.name.startswith(".")]
        named = [path for path in seen if path.suffix.lower() in SUFFIXES]
        files = [path for path in named if path.is_file()]
        others = Counter(path.suffix.lower() for path in seen if path.suffix.lower() in FOREIGN)
        broken_links = sum(not path.exists() for path in named)
        skipped = ", ".join([f"{count} {suffix}" for suffix, count in sorted(others.items())]
                            + [f"{broken_links} links that lead nowhere"] * bool(broken_links))
        if files and skipped:
            print(f"warning: {one_line(str(folder))}: left out are {skipped}, which cannot be read"
                  + "; save pictures as JPEG" * bool(others), file=sys.stderr)
        if files:
            return files
        inner = list(islice(_folders_of_images(folder), MAX_NAMED_FOLDERS + 1))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
    if inner:
        raise UserError(f"{folder} holds no images itself; name one of its folders that do: "
                        + ", ".join(map(str, inner[:MAX_NAMED_FOLDERS]))
                        + " .." * (len(inner) > MAX_NAMED_FOLDERS))
    if skipped:
        raise UserError(f"{folder} holds no images that can be read, but {skipped}"
                        + "; save pictures as JPEG" * bool(others))
    raise UserError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")


def _folders_of_images(folder: Path, depth: int = MAX_DEPTH) -> Iterator[Path]:
    """Yield the folders within a folder that hold images, the nearest in each branch."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__MACOSX")) or not path.is_dir():
            continue
        with suppress(OSError):
            if any(each.suffix.lower() in SUFFIXES and each.is_file()
                   and not each.name.startswith(".") for each in path.iterdir()):
                yield path
            elif depth > 1:
                yield from _folders_of_images(path, depth - 1)


def _natural(path: Path) -> list[str | int]:
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if i % 2 else part.lower() for i, part in enumerate(parts)]
