"""List the image files that paths and folders name."""

import re
import sys
from collections import Counter
from pathlib import Path

from utils.command import UserError, one_line
from utils.files import refusing

SUFFIXES = {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm",
            ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
# Images and videos that are not read; in a folder they are counted.
FOREIGN = {".3fr", ".ai", ".arw", ".avifs", ".cr2", ".cr3", ".dng", ".eps", ".exr", ".gpr", ".hdr",
           ".heic", ".heics", ".heif", ".hif", ".ico", ".insp", ".jxl", ".mpo", ".nef", ".orf",
           ".pdf", ".pef", ".pfm", ".psd", ".raf", ".raw", ".rw2", ".rwl", ".srw", ".svg", ".tga",
           ".x3f", ".xcf", ".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mts", ".webm"}
MAX_DEPTH = 3  # of the folders within a folder that an error names


def list_pictures(paths: list[Path]) -> list[Path]:
    """Return each path itself or, of a folder, its image files; see ``image_files``.

    A folder's files are sorted with numbers by their value.
    """
    files = []
    for path in paths:
        files += sorted(image_files(path), key=lambda file: [
            int(part) if part.isdecimal() else part.lower()
            for part in re.split(r"(\d+)", file.name)]) if path.is_dir() else [path]
    return files


def image_files(folder: Path) -> list[Path]:
    """Return the image files of a folder that are not hidden.

    Warns of images of kinds that are not read.  Raises UserError where there are no others; the
    error names folders in the folder that hold some.
    """
    with refusing(f"cannot read the folder {folder}"):
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
        images = [path for path in paths if path.suffix.lower() in SUFFIXES]
        files = [path for path in images if path.is_file()]
    unread = Counter(path.suffix.lower() for path in paths if path.suffix.lower() in FOREIGN)
    advice = "; save pictures as JPEG" * bool(unread)
    unread["links that lead nowhere"] = sum(not path.exists() for path in images)
    skipped = ", ".join(f"{count} {kind}" for kind, count in sorted(unread.items()) if count)
    if files:
        if skipped:
            print(f"warning: {one_line(str(folder))}: skipped {skipped}, which cannot be read"
                  + advice, file=sys.stderr)
        return files
    if inner := _folders_of_images(folder):
        raise UserError(
            f"{folder} holds no images itself; name one of its folders that do: {', '.join(inner)}")
    if skipped:
        raise UserError(f"{folder} holds no images that can be read, but {skipped}{advice}")
    raise UserError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")


def _folders_of_images(folder: Path) -> list[str]:
    """Return the folders within a folder that hold images."""
    files = (file for depth in range(1, MAX_DEPTH + 1) for file in folder.glob("*/" * depth + "*"))
    return sorted({str(file.parent) for file in files if file.suffix.lower() in SUFFIXES
                   and not re.search(r"/(\.|__MACOSX)", str(file.relative_to(folder.parent)))})
