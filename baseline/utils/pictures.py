"""Pictures on disk: reading any image as BGR, and writing one."""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageCms

from utils.command import UserError, one_line
from utils.decoding import (
    BMP,
    JP2,
    PNG,
    TIFF,
    bmp_header,
    bmp_profile,
    decoded,
    jp2_profile,
    opened,
    png_chunks,
    silent_stderr,
    tiff_numbers,
    tiff_profile,
)
from utils.files import make_room, write_atomically

SUFFIXES = {".avif", ".bmp", ".gif", ".hdr", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm",
            ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
# Pictures that nothing here reads; in a folder they are passed over, and counted.
FOREIGN = {".3fr", ".ai", ".arw", ".avifs", ".cr2", ".cr3", ".dng", ".eps", ".gpr", ".heic",
           ".heics", ".heif", ".hif", ".ico", ".insp", ".jxl", ".mpo", ".nef", ".orf", ".pdf",
           ".pef", ".psd", ".raf", ".raw", ".rw2", ".rwl", ".srw", ".svg", ".tga", ".x3f", ".xcf",
           ".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mts", ".webm"}  # videos too
NAMED, DEEPEST = 5, 3  # folders within a folder that are named, and how far down
SRGB = {"srgb", "srgb built-in", "srgb iec61966-2.1", "srgb iec61966-2-1"}  # profiles' names
LARGEST_PROFILE = 2**22  # bytes
SPACE = slice(16, 20)  # where a profile says what its colours are
LONGEST_EXIF = 2**16  # bytes, as JPEG has room for; older Pillow takes memory for each tag
TIFF_TAGS = (262, 277, 284, 338)  # what numbers mean, how many a pixel has, planes, opacity
WHITE_IS_ZERO, RGB, LAB = 0, 2, (8, 9, 10)  # values of the first
SEPARATE, MULTIPLIED = 2, 1  # and of the last two
# Red, green and blue in BMPs of masks.
BMP_MASKS = {(0xFF0000, 0xFF00, 0xFF), (0x7C00, 0x3E0, 0x1F), (0xF800, 0x7E0, 0x1F)}
NETPBM = re.compile(rb"P[2356]" + rb"(?:\s|#[^\n]*\n)+(?:\d+)" * 2 + rb"(?:\s|#[^\n]*\n)+(\d+)\s")
ROWS_AT_ONCE = 64  # that floats are made of
FULL_SCALE = 0.5  # of the error map: differences from here on look alike


def read_picture(path: Path) -> np.ndarray:
    """Read an image of any depth and kind; photos are turned upright as their EXIF data say.

    Returns (H, W, 3) uint8 BGR, in sRGB where the file has a colour profile that says from what.
    What is transparent is shown on white; floating point counts 1 as white; of a moving picture
    it is the first one.  Raises UserError where that cannot be, or would take too much memory.
    """
    with silent_stderr():
        return decode_picture(path)


def decode_picture(path: Path) -> np.ndarray:
    """``read_picture`` where libraries may say on stderr what they like."""
    stored, data = decoded(path, cv2.IMREAD_UNCHANGED)
    stored, multiplied = np.atleast_3d(stored), False
    if TIFF.match(data):
        stored, multiplied = _of_tiff(path, stored, data)
    elif data.startswith(PNG):
        stored = _with_opacity(stored, data)
    elif data.startswith(BMP):
        stored = _of_bmp(path, stored, data)
    elif (levels := NETPBM.match(data)) and int(levels[1]) not in (255, 65535):
        stored = stored / np.float32(levels[1])
    orientation, profile = _header(data)
    stored, inks = _turned(stored, orientation), partial(_inks, data, orientation)
    if profile and stored.shape[2] == 4:  # it is for the colours themselves
        colours, opacity = _apart(stored, multiplied)
        return _on_white(np.dstack((_in_srgb(colours, profile, inks), opacity)), False)
    return _in_srgb(_on_white(stored, multiplied), profile, inks)


def _with_opacity(stored: np.ndarray, data: bytes) -> np.ndarray:
    """A PNG's picture (H, W, C) with the transparent level of a grey one, which OpenCV leaves."""
    bits, kind = data[24:26]
    key = next((content for name, content, _ in png_chunks(data) if name == b"tRNS"), b"")
    if stored.shape[2] != 1 or kind != 0 or len(key) != 2:
        return stored
    largest = np.iinfo(stored.dtype).max
    level = int.from_bytes(key, "big") * (largest // (2**bits - 1))
    opacity = np.where(stored == level, 0, largest).astype(stored.dtype)
    return np.concatenate((stored, stored, stored, opacity), 2)


def _of_bmp(path: Path, stored: np.ndarray, data: bytes) -> np.ndarray:
    """A BMP's picture as it is meant: headers of 40 bytes know no opacity.

    Raises UserError for what OpenCV reads in other colours.
    """
    length, masks = bmp_header(data)
    if length == 12 or masks and masks not in BMP_MASKS:
        raise UserError(f"{path} is a BMP of {'an old' if length == 12 else 'a rare'} kind, whose "
                        "colours OpenCV mistakes; save it as PNG")
    return stored[..., :3] if length < 56 else stored


def _apart(stored: np.ndarray, multiplied: bool) -> tuple[np.ndarray, np.ndarray]:
    """The colours (H, W, 3), multiplied no more, and the opacity (H, W) of a picture (H, W, 4).

    Both uint8; see ``_on_white``.
    """
    apart = np.empty(stored.shape, np.uint8)
    for rows, planes in _in_floats(stored):
        if multiplied:
            planes[..., :3] = np.minimum(planes[..., :3] / np.maximum(planes[..., 3:], 1e-6), 1)
        apart[rows] = planes * 255 + 0.5
    return apart[..., :3], apart[..., 3]


def _in_floats(picture: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """A few rows after the other of a picture (H, W, C) of any type, in [0, 1], and which."""
    largest = np.iinfo(picture.dtype).max if picture.dtype.kind in "iu" else 1
    for first in range(0, len(picture), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        few = picture[rows].astype(np.float32) / largest
        yield rows, np.clip(np.nan_to_num(few), 0, 1)


def _of_tiff(path: Path, stored: np.ndarray, data: bytes) -> tuple[np.ndarray, bool]:
    """A TIFF's picture as it is meant, and whether its colours are multiplied by its opacity.

    Those of 8 bits OpenCV reads by libtiff's RGBA, which knows all of this but opacity of grey, and
    multiplies by an opacity that is named as one.  Raises UserError for what OpenCV reads as noise,
    in other colours, or without its opacity.
    """
    meaning, samples, planes, extra = tiff_numbers(data, *TIFF_TAGS)
    if meaning in LAB:
        raise UserError(f"{path} is a TIFF of CIELab colours, which OpenCV mistakes; save it as "
                        "PNG")
    if extra == 0 and samples == 4 and meaning == RGB:  # a fourth that is no opacity
        stored = stored[..., :3]
    if samples == 2:
        raise UserError(f"{path} is a TIFF of grey with an opacity, which OpenCV cannot read; save "
                        "it as PNG")
    if stored.dtype == np.uint8:
        return stored, extra is not None
    if planes == SEPARATE and (samples or 1) > 1:
        raise UserError(f"{path} is a TIFF of separate planes, of which OpenCV reads those of 8 "
                        "bits alone; save it as PNG")
    if meaning == WHITE_IS_ZERO:
        stored = (np.iinfo(stored.dtype).max if stored.dtype.kind in "iu" else 1) - stored
    return stored, extra == MULTIPLIED


def _on_white(picture: np.ndarray, multiplied: bool) -> np.ndarray:
    """A picture (H, W, 1, 3 or 4) of any type, perhaps with opacity, as (H, W, 3) uint8.

    multiplied: whether the colours are multiplied by the opacity.
    """
    if picture.dtype == np.uint8 and picture.shape[2] != 4:
        return np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))
    shown = np.empty((*picture.shape[:2], 3), np.uint8)
    for rows, planes in _in_floats(picture):
        if picture.shape[2] == 4:
            colour, opacity = np.split(planes, [3], 2)
            planes = np.minimum((colour if multiplied else colour * opacity) + 1 - opacity, 1)
        shown[rows] = planes * 255 + 0.5
    return shown


def _header(data: bytes) -> tuple[int, bytes]:
    """Of an encoded image, the EXIF orientation, 1 (upright) to 8, and the colour profile.

    OpenCV tells the one of some kinds of files only, and turns none that has an opacity; TIFF it
    turns itself.  It knows nothing of the other.
    """
    profile = b""
    try:
        if TIFF.match(data):
            return 1, tiff_profile(data)
        if data.startswith(BMP):
            return 1, bmp_profile(data)
        if data.startswith(JP2):
            return 1, jp2_profile(data)
        with opened(data) as image:
            profile = image.info.get("icc_profile") or b""
            if image.mode == "CMYK" and profile[SPACE] != b"CMYK":  # of another picture
                profile = b""
            if b"eXIf" in data and "exif" not in image.info:
                image.load()  # the pixels of a PNG, which may come first
            if any(len(image.info.get(key, "")) > LONGEST_EXIF
                   for key in ("exif", "Raw profile type exif")):
                return 1, profile
            return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1), profile
    except Exception:  # noqa: BLE001, of a kind that Pillow does not know, or of broken data
        return 1, profile


def _inks(data: bytes, orientation: int) -> Image.Image:
    """An encoded picture's upright shares of four inks, which OpenCV turns into colours itself."""
    with opened(data) as image:
        if image.mode != "CMYK":
            raise ValueError("no inks")
        turned = np.ascontiguousarray(_turned(np.asarray(image), orientation))
    return Image.frombytes("CMYK", turned.shape[1::-1], turned.tobytes())


def _in_srgb(
    picture: np.ndarray, profile: bytes, inks: Callable[[], Image.Image]
) -> np.ndarray:
    """A picture (H, W, 3) uint8 BGR of a colour profile in sRGB.

    inks: gives the picture that a profile of inks is for.  A profile that is broken, or of
    another kind of picture, is ignored.
    """
    if not 128 <= len(profile) <= LARGEST_PROFILE:
        return picture
    try:
        space = ImageCms.ImageCmsProfile(BytesIO(profile))
        if (space.profile.profile_description or "").strip("\0 ").lower() in SRGB:
            return picture
        if profile[SPACE] == b"CMYK":
            image = inks()
        elif profile[SPACE] != b"GRAY":
            image = Image.fromarray(np.ascontiguousarray(picture[..., ::-1]))
        elif (picture == picture[..., :1]).all():
            image = Image.fromarray(np.ascontiguousarray(picture[..., 0]))
        else:
            return picture
        meant = ImageCms.profileToProfile(
            image, space, ImageCms.createProfile("sRGB"), outputMode="RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION)
        return np.ascontiguousarray(np.asarray(meant)[..., ::-1])
    except Exception:  # noqa: BLE001, whatever the library makes of it
        return picture


def _turned(picture: np.ndarray, orientation: int) -> np.ndarray:
    """The upright view of a picture (H, W, C) that is stored in an EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        picture = picture.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return picture[::rows, ::columns]


def list_pictures(paths: list[Path]) -> list[Path]:
    """The files that are meant: each path itself or, of a folder, its image files.

    Those are sorted with numbers by their value; hidden ones are left out.
    """
    files = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        files += sorted(image_files(path), key=_natural)
    return files


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder; hidden ones do not count.

    Pictures of kinds that nothing here reads are counted on stderr.  Raises UserError where there
    are no others; it names folders in there that hold some.
    """
    try:
        seen = [path for path in folder.iterdir() if not path.name.startswith(".")]
        named = [path for path in seen if path.suffix.lower() in SUFFIXES]
        found = [path for path in named if path.is_file()]
        others = Counter(path.suffix.lower() for path in seen if path.suffix.lower() in FOREIGN)
        lost = len(found) < len(named) and sum(not path.exists() for path in named)
        kinds = ", ".join([f"{count} {suffix}" for suffix, count in sorted(others.items())]
                          + [f"{lost} links that lead nowhere"] * bool(lost))
        if found and kinds:
            print(f"warning: {one_line(str(folder))}: left out are {kinds}, which cannot be read"
                  + "; save pictures as JPEG" * bool(others), file=sys.stderr)
        if found:
            return found
        within = list(islice(_folders_of_images(folder), NAMED + 1))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
    if within:
        raise UserError(f"{folder} holds no images itself; name one of its folders that do: "
                        + ", ".join(map(str, within[:NAMED])) + " .." * (len(within) > NAMED))
    if kinds:
        raise UserError(f"{folder} holds no images that can be read, but {kinds}"
                        + "; save pictures as JPEG" * bool(others))
    raise UserError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")


def _folders_of_images(folder: Path, depth: int = DEEPEST) -> Iterator[Path]:
    """The folders within a folder that hold images, those nearest first in each branch."""
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


def picture_file(path: Path, height: int = 1, width: int = 1) -> Path:
    """Return a path that a picture can be written to; raises UserError, before any work.

    height, width: the picture's, in pixels.
    """
    if path.is_dir() or not _encoded(path, np.zeros((1, 1, 3), np.uint8)):
        raise UserError(f"cannot write {path}: no kind of colour image that OpenCV writes")
    lines = (height, 1, 3), (1, width, 3)
    if not all(_encoded(path, np.zeros(line, np.uint8)) for line in lines):
        raise UserError(f"cannot write {path}: {width}x{height} pixels are too many for that kind "
                        "of image")
    make_room(path)
    return path


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write (h, w, 3) uint8 BGR as the image that the name says, whole or not at all."""
    encoded = _encoded(picture_file(path, *picture.shape[:2]), picture)
    write_atomically(path, lambda file: file.write(encoded))


def _encoded(path: Path, picture: np.ndarray) -> bytes:
    """A picture as the file's suffix says; empty where OpenCV cannot."""
    try:
        with silent_stderr():
            done, encoded = cv2.imencode(path.suffix, picture)
    except cv2.error:
        return b""
    return encoded.tobytes() if done else b""


def compare(target: np.ndarray, painting: np.ndarray) -> np.ndarray:
    """Target, painting and error map side by side, with white gaps.

    target, painting: (h, w, 3) uint8 BGR.  Returns (h, 3 w + 2 gaps, 3).  The map shows the mean
    difference over channels, black for none to pale yellow for FULL_SCALE of the range or more.
    """
    difference = cv2.absdiff(target, painting).mean(2) / (255 * FULL_SCALE)
    scaled = (np.minimum(difference, 1) * 255 + 0.5).astype(np.uint8)
    gap = np.full((len(target), gap_width(target.shape[1]), 3), 255, np.uint8)
    return np.hstack((target, gap, painting, gap, cv2.applyColorMap(scaled, cv2.COLORMAP_INFERNO)))


def gap_width(width: int) -> int:
    """Of the gaps in a comparison of pictures so wide, in pixels."""
    return max(2, width // 64)


def compared_width(width: int) -> int:
    """Of a whole comparison."""
    return 3 * width + 2 * gap_width(width)


def resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Stretch a picture (h, w, 3) uint8 to (height, width, 3)."""
    shrinks = width < picture.shape[1] and height < picture.shape[0]
    scaling = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(picture, (width, height), interpolation=scaling)


def psnr(squared_error: float | np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1]; no error at all counts 100 dB."""
    return -10 * np.log10(np.maximum(squared_error, 1e-10))
