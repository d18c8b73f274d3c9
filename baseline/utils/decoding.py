"""Decoding image files, broken and hostile ones too, without taking more memory than they need."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from struct import calcsize, error, unpack_from
from typing import TextIO

import cv2
import numpy as np
from PIL import Image

from utils.command import UserError

LARGEST_PICTURE, LARGEST_SIDE = 2**28, 65535  # pixels: 16384 x 16384, or a long panorama
LARGEST_FILE = 2**31 - 1  # bytes
BMP, JP2 = b"BM", b"\0\0\0\x0cjP  \r\n\x87\n"
PNG = b"\x89PNG\r\n\x1a\n"
LONGEST_HEADER = 2**20  # bytes
KINDS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "SUN", "WEBP", "AVIF")
WHOLE = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q"}  # numbers in TIFF
TIFF = re.compile(rb"II[*+]\0|MM\0[*+]")
HEIC = re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.DOTALL)
# Where files say width and height whose kind, or kinds of pixels, Pillow does not know.
SIZES = [(re.compile(pattern, re.DOTALL), whole) for whole, *patterns in (
    (partial(int.from_bytes, byteorder="big"),
     rb"\x89PNG\r\n\x1a\n.{4}IHDR(.{4})(.{4})",
     rb"(?:\0\0\0\x0cjP.*?)?\xff\x4f\xff\x51.{4}(.{4})(.{4})",  # JPEG 2000
     rb".{4}ftypavi.*?ispe\0{4}(.{4})(.{4})"),
    (int, (rb"#\?(?:(?!FORMAT=)[^\n]*\n)*FORMAT=32-bit_rle_rgbe\n(?:[^\n]+\n)*\n"  # HDR
           rb"-Y(?=\s*\d+\s*\+X\s*(\d+))\s*(\d+)"),
     rb"P[Ff]\s+(\d+)\s+(\d+)"),
) for pattern in patterns]


@contextmanager
def silent_stderr() -> Iterator[TextIO]:
    """Hide what C libraries say on stderr: libpng complains there before OpenCV raises.

    Gives a file that still leads there.
    """
    with open(os.dup(2), "w") as kept:
        try:
            with open(os.devnull, "w") as nothing:
                os.dup2(nothing.fileno(), 2)
            yield kept
        finally:
            os.dup2(kept.fileno(), 2)


def decoded(path: Path, flags: int) -> tuple[np.ndarray, bytes]:
    """An image file as ``cv2.imdecode`` reads it, and its bytes.

    Its header is looked at first: a small file can hold a picture that fills the memory.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size or LARGEST_FILE  # of pipes nobody knows it
            data = file.read(min(size, LARGEST_FILE) + 1)
        if len(data) > LARGEST_FILE:
            raise UserError(f"{path} takes more than {LARGEST_FILE >> 20} MiB")
        width, height = _size(data)
        if width * height > LARGEST_PICTURE or max(width, height) > LARGEST_SIDE:
            raise UserError(f"{path} is {width}x{height} pixels; {LARGEST_PICTURE} in all and "
                            f"{LARGEST_SIDE} a side are the most")
        known = width and _chunks_are_there(data)
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if known else None
    except OSError as error:
        raise UserError(f"cannot read the image {path}: {error.strerror or error}") from error
    except cv2.error:
        picture = None
    if picture is None or not picture.size:
        if HEIC.match(data):
            raise UserError(f"{path} is a HEIC photo, which OpenCV cannot read; save it as JPEG")
        raise UserError(f"{path} is not an image that OpenCV can read, or a damaged one")
    return picture, data


def _chunks_are_there(data: bytes) -> bool:
    """Whether the chunks of a PNG end within it; OpenCV takes the memory that their lengths say."""
    return not data.startswith(PNG) or max(end for *_, end in png_chunks(data)) <= len(data)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Name, content and end of each chunk of a PNG, the last one too where it is cut off."""
    at, name = len(PNG), b""
    while at <= len(data) and name != b"IEND":
        start, name = at + 8, data[at + 4 : at + 8]
        at = start + int.from_bytes(data[at : at + 4], "big") + 4
        yield name, data[start : at - 4], at


def _size(data: bytes) -> tuple[int, int]:
    """Width and height of an encoded image; of no pixels where nobody knows them."""
    try:
        for pattern, whole in SIZES:
            if found := pattern.match(data, 0, LONGEST_HEADER):
                return whole(found[1]), whole(found[2])
        if TIFF.match(data):
            return _tiff_size(data)
        with opened(data) as image:
            return image.size
    except Exception:  # noqa: BLE001, whatever broken files make of it
        return 0, 0


def opened(data: bytes) -> Image.Image:
    """An image by Pillow, not decoded yet; none of TIFF, whose tags may take endless memory."""
    Image.MAX_IMAGE_PIXELS = None
    return Image.open(BytesIO(data), formats=KINDS)


def _tiff_size(data: bytes) -> tuple[int, int]:
    """Width and height of the first picture of a TIFF, or BigTIFF, file."""
    sides = {256: 0, 257: 0}
    for order, big, tag, kind, entry in _tiff_tags(data):
        if tag in sides:
            (side,) = unpack_from(order + WHOLE[kind], data, entry + (12 if big else 8))
            sides[tag] = max(side, sides[tag])
    return sides[256], sides[257]


def bmp_header(data: bytes) -> tuple[int, tuple[int, ...]]:
    """Of a BMP, the length of its header and the masks of its channels; () where it has none."""
    length, bits, compression = (
        int.from_bytes(data[at : at + size], "little")
        for at, size in ((14, 4), (28, 2), (30, 4)))
    masked = length >= 40 and bits in (16, 32) and compression in (3, 6) and len(data) >= 66
    return length, unpack_from("<III", data, 54) if masked else ()


def jp2_profile(data: bytes) -> bytes:
    """The colour profile of a JPEG 2000 file; empty where it has none."""
    todo = [(0, min(len(data), LONGEST_HEADER))]
    for at, end in todo:  # grows by the boxes in boxes
        while at + 8 <= end:
            size = int.from_bytes(data[at : at + 4], "big") or end - at
            name, inside = data[at + 4 : at + 8], at + 8
            if size == 1:
                size, inside = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
            if name == b"jp2h":
                todo.append((inside, min(at + size, end)))
            if name == b"colr" and data[inside : inside + 1] in (b"\2", b"\3"):
                return data[inside + 3 : at + size]
            at += max(size, 8)
    return b""


def bmp_profile(data: bytes) -> bytes:
    """The colour profile in a BMP; empty where it has none."""
    if len(data) < 138 or data[70:74] != b"DEBM" or bmp_header(data)[0] < 124:
        return b""
    start, size = unpack_from("<II", data, 126)
    return data[14 + start : 14 + start + size]


def tiff_numbers(data: bytes, *tags: int) -> list[int | None]:
    """The (first) numbers of tags of the first picture of a TIFF file; None where it has none.

    Nor where they should lie beyond its end.
    """
    numbers = {}
    for order, big, tag, kind, entry in _tiff_tags(data):
        if tag not in tags or kind not in WHOLE:
            continue
        at = entry + (12 if big else 8)
        with suppress(error, OverflowError):
            (count,) = unpack_from(order + "IQ"[big], data, entry + 4)
            if count * calcsize(WHOLE[kind]) > (8 if big else 4):  # they lie elsewhere
                (at,) = unpack_from(order + "IQ"[big], data, at)
            (numbers[tag],) = unpack_from(order + WHOLE[kind], data, at)
    return [numbers.get(tag) for tag in tags]


def tiff_profile(data: bytes) -> bytes:
    """The colour profile of the first picture of a TIFF file; empty where it has none."""
    for order, big, tag, _, entry in _tiff_tags(data):
        if tag == 34675:
            size, start = unpack_from(order + ("QQ" if big else "II"), data, entry + 4)
            return data[start : start + size]
    return b""


def _tiff_tags(data: bytes) -> Iterator[tuple[str, bool, int, int, int]]:
    """The byte order, whether it is BigTIFF, and each tag with its type and where it lies."""
    order = "<" if data.startswith(b"I") else ">"
    big = b"+" in data[:4]
    (start,) = unpack_from(order + "IQ"[big], data, 8 if big else 4)
    (count,) = unpack_from(order + "HQ"[big], data, start)
    for number in range(min(count, 4096)):
        entry = start + (8 + 20 * number if big else 2 + 12 * number)
        yield order, big, *unpack_from(order + "HH", data, entry), entry
