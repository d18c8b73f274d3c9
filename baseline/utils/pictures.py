"""Read image files, with Pillow, and write pictures, with OpenCV."""

import logging
import os
import re
import warnings
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from struct import unpack_from

import cv2
import numpy as np
from PIL import Image, ImageChops, ImageCms, ImageOps
from PIL import TiffImagePlugin as Tag

from utils.command import UserError
from utils.files import make_room, refusing, write_atomically
from utils.streams import silent_stderr

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 2**28  # 16384 x 16384
MAX_FILE_SIZE = 2**31 - 1  # bytes
SRGB_NAMES = {"srgb", "srgb built-in", "srgb iec61966-2.1", "srgb iec61966-2-1"}  # of profiles
PROFILE_MODES = {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK"}  # by a profile's color space
HEIC_HEADER = re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.DOTALL)
# PQ or HLG in AVIF or PNG.
HDR_COLORS = re.compile(rb"colrnclx..\0[\x10\x12]|cICP.[\x10\x12]", re.DOTALL)
JPEG2000_COMPONENTS = re.compile(rb"\xff\x4f\xff\x51.{36}(..)", re.DOTALL)  # their number
JPEG2000_PROFILE = re.compile(rb"(.{4})colr[\2\3]", re.DOTALL)
FULL_SCALE = 0.5  # difference from which on the error map has its brightest color


def read_picture(path: Path) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8 BGR, transparency on white; see ``read_cutout``."""
    return read_cutout(path)[0]


def read_cutout(path: Path, background: str = "white") -> tuple[np.ndarray, np.ndarray | None]:
    """Read an image file in sRGB, transparency on a background, and its opacity.

    Turns it upright by its EXIF orientation and takes the first of several pictures.
    Returns (H, W, 3) uint8 BGR, and (H, W) uint8 or None: opaque.  Raises UserError where Pillow
    cannot read the file, reads it in wrong values, or would take too much memory.
    """
    with silent_stderr():  # libtiff prints there
        return decode_picture(path, background)


def decode_picture(path: Path, background: str = "white") -> tuple[np.ndarray, np.ndarray | None]:
    """Read an image file like ``read_cutout``, where libraries may print on stderr."""
    data = _content(path)
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow warns from there on, and raises at twice that
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            if not _is_misread(image, data):
                return _decode(image, data, background)
            flaw = f"is a {image.format} of a kind that Pillow reads wrong; save it as 8-bit PNG"
    except Image.DecompressionBombError:
        flaw = f"has more than {MAX_PIXELS} pixels, the most that are read"
    except MemoryError as error:
        raise UserError(f"{path} takes more memory than there is") from error
    except Exception:  # noqa: BLE001, broken files raise errors of any type
        flaw = ("is a HEIC photo, which Pillow cannot read; save it as JPEG"
                if HEIC_HEADER.match(data) else
                "is not an image of a kind that Pillow can read, or a damaged one")
    raise UserError(f"{path} {flaw}")


def _content(path: Path) -> bytes:
    """Return the bytes of a file; raise UserError where it cannot be read or is too long."""
    with refusing(f"cannot read the image {path}"), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size or MAX_FILE_SIZE  # pipes have none
        data = file.read(min(size, MAX_FILE_SIZE) + 1)
    if len(data) > MAX_FILE_SIZE:
        raise UserError(f"{path} takes more than {MAX_FILE_SIZE >> 20} MiB")
    return data


def _is_misread(image: Image.Image, data: bytes) -> bool:
    """Return whether an opened image is of a kind that Pillow reads in wrong values."""
    mode = image.mode
    if image.format == "TIFF":
        tags = image.tag_v2
        compressed = tags.get(Tag.COMPRESSION, 1) != 1
        deep = max(tags.get(Tag.BITSPERSAMPLE, (1,))) > 8
        return (mode in ("I", "LAB") or 2 in tags.get(Tag.SAMPLEFORMAT, ())  # 32 bits, signed
                or mode == "F" and tags.prefix == b"MM" and compressed
                or mode in ("P", "PA") and max(tags[Tag.COLORMAP]) < 256  # no 16 bits
                or tags.get(Tag.PLANAR_CONFIGURATION) == 2 and deep and not compressed
                or tags.get(Tag.PHOTOMETRIC_INTERPRETATION) == 6 and not compressed  # YCbCr
                and tags.get(Tag.YCBCRSUBSAMPLING) != (1, 1))
    if image.format == "JPEG2000":
        components = JPEG2000_COMPONENTS.search(data)
        count, first = int.from_bytes(components[1], "big"), components.end()
        bits = {1 + (size & 127) for size in data[first : first + 3 * count : 3]}
        return bits != {8} and (count > 1 or min(bits) < 10)
    if image.format == "BMP":  # of 4 or 8 bits with a palette of black and white
        return mode == "1" and data[24 if data[14] == 12 else 28] > 1
    if image.format == "PNG" and mode == "RGB" and data[24] == 16 and "transparency" in image.info:
        return True
    return image.format in ("AVIF", "PNG") and HDR_COLORS.search(data, 0, 2**16) is not None


def _decode(
    image: Image.Image, data: bytes, background: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the pixels of an opened image and its opacity; see ``read_cutout``."""
    image.load()
    with suppress(Exception):  # broken EXIF data turn nothing
        ImageOps.exif_transpose(image, in_place=True)
    profile = _profile(image, data)
    if image.mode.startswith(("I", "F")):
        image = _gray(image)
    elif image.format == "PNG" and image.mode == "L" and "transparency" in image.info:
        image.info["transparency"] *= 255 // (2 ** data[24] - 1)  # Pillow scales the pixels alone
    alpha = None
    if image.has_transparency_data:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        alpha = image.getchannel("A")
        picture = Image.new("RGB", image.size, background)
        picture.paste(_in_srgb(image.convert("RGB"), profile), mask=alpha)
    else:
        picture = _in_srgb(image, profile)
    return (cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR),
            None if alpha is None else np.asarray(alpha))


def _gray(image: Image.Image) -> Image.Image:
    """Return a gray image of 10 to 32 bits in 8 bits and alpha, as one level may be clear."""
    levels, tags = np.asarray(image), getattr(image, "tag_v2", {})
    white = 1 if image.mode == "F" else 4095 if tags.get(Tag.BITSPERSAMPLE) == (12,) else 65535
    clipped = np.clip(np.nan_to_num(levels), 0, white)
    gray = Image.fromarray(np.rint(clipped * np.float32(255 / white)).astype(np.uint8))
    if tags.get(Tag.PHOTOMETRIC_INTERPRETATION) == 0:  # 0 is white
        gray = ImageOps.invert(gray)
    gray.putalpha(Image.fromarray(np.uint8(255) * (levels != image.info.get("transparency"))))
    return gray


def _profile(image: Image.Image, data: bytes) -> bytes:
    """Return the ICC profile of an image, which Pillow skips in two formats; b"" for none."""
    if image.format == "BMP" and data[70:74] == b"DEBM":
        start, size = unpack_from("<II", data, 126)
        return data[14 + start : 14 + start + size]
    if image.format == "JPEG2000" and (box := JPEG2000_PROFILE.search(data, 0, 2**12)):
        return data[box.end() + 2 : box.start() + int.from_bytes(box[1], "big")]
    return image.info.get("icc_profile") or b""


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert an image to RGB, in sRGB where it has a sound ICC profile for its channels."""
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    try:
        mode, space = PROFILE_MODES[profile[16:20]], ImageCms.ImageCmsProfile(BytesIO(profile))
        is_srgb = (space.profile.profile_description or "").strip("\0 ").lower() in SRGB_NAMES
        gray = ImageChops.difference(rgb, rgb.convert("L").convert("RGB")).getbbox() is None
        if is_srgb or mode == "L" and not gray or (mode == "CMYK") != (image.mode == "CMYK"):
            return rgb
        return ImageCms.profileToProfile(
            image.convert(mode), space, ImageCms.createProfile("sRGB"), outputMode="RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION)
    except Exception:  # noqa: BLE001, of no profile and of broken ones
        return rgb


def picture_file(path: Path, height: int = 64, width: int = 64) -> None:
    """Raise UserError, before any work, where a picture of a size in pixels cannot be written."""
    # Each side alone: a whole picture takes memory and time.
    for size in ((64, 64), (height, min(64, width)), (min(64, height), width)):
        if not _encoded(path, np.zeros((*size, 3), np.uint8)):
            amount = "many" if max(height, width) > 2**12 else "few"
            flaw = ("no kind of color image that OpenCV writes" if size == (64, 64) else
                    f"{width}x{height} pixels are too {amount} for that kind of image")
            raise UserError(f"cannot write {path}: {flaw}")
    make_room(path)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write (h, w, 3) uint8 BGR, as the kind of image of the path's suffix, whole or not at all."""
    picture_file(path, *picture.shape[:2])
    encoded = _encoded(path, picture)
    write_atomically(path, lambda file: file.write(encoded))


def _encoded(path: Path, picture: np.ndarray) -> bytes:
    """Return a picture encoded by the path's suffix; b"" where that is not possible."""
    try:
        if path.suffix.lower() == ".gif":  # OpenCV's palette is a poor one
            Image.fromarray(picture[..., ::-1]).quantize(256).save(content := BytesIO(), "GIF")
            return content.getvalue()
        with silent_stderr():
            success, encoded = cv2.imencode(path.suffix, picture)
            return encoded.tobytes() if success else b""
    except (cv2.error, OverflowError):
        return b""


def compare(target: np.ndarray, painting: np.ndarray) -> np.ndarray:
    """Return target, painting and error map side by side, with white gaps: (h, 3 w + 2 gaps, 3).

    target, painting: (h, w, 3) uint8 BGR.  The map shows the mean difference over channels, black
    for none to pale yellow for FULL_SCALE of the range or more.
    """
    difference = cv2.absdiff(target, painting).mean(2) / (255 * FULL_SCALE)
    scaled = (np.minimum(difference, 1) * 255 + 0.5).astype(np.uint8)
    gap = np.full((len(target), max(2, target.shape[1] // 64), 3), 255, np.uint8)
    return np.hstack((target, gap, painting, gap, cv2.applyColorMap(scaled, cv2.COLORMAP_INFERNO)))


def resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Stretch a picture (h, w, 3) uint8 to (height, width, 3)."""
    shrinks = width < picture.shape[1] and height < picture.shape[0]
    scaling = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(picture, (width, height), interpolation=scaling)


def psnr(squared_error: float | np.ndarray) -> np.ndarray:
    """Return the peak signal-to-noise ratio in dB of pictures in [0, 1], at most 100 dB."""
    return -10 * np.log10(np.maximum(squared_error, 1e-10))
