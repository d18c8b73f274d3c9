"""Pictures of every format are read correctly or refused."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from helpers import GOLDEN
from utils.command import UserError
from utils.pictures import read_picture

BLOCKS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
PHOTO = np.kron(BLOCKS, np.ones((16, 16, 1), np.uint8))  # (64, 96, 3) BGR, no two blocks alike
OPACITY = np.where(np.arange(96) < 40, 51, 255).astype(np.uint8)
OPACITY = np.broadcast_to(OPACITY, PHOTO.shape[:2])
CLEAR = np.dstack((PHOTO, OPACITY))  # (64, 96, 4)
ON_WHITE = 255 + (PHOTO.astype(float) - 255) * OPACITY[..., None] / 255
GRAY = cv2.cvtColor(PHOTO, cv2.COLOR_BGR2GRAY)
GRAY_ON_WHITE = 255 + (np.dstack(3 * (GRAY,)).astype(float) - 255) * OPACITY[..., None] / 255


def pillow(picture: np.ndarray, mode: str, kind: str, **flags: object) -> bytes:
    """Encode (H, W, 3 or 4) BGR with Pillow."""
    rgb = picture[..., [2, 1, 0, 3][: picture.shape[2]]]
    return encoded(Image.fromarray(np.ascontiguousarray(rgb)).convert(mode), kind, **flags)


def encoded(image: Image.Image, kind: str, **flags: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **flags)
    return file.getvalue()


def opencv(picture: np.ndarray, suffix: str, *flags: int) -> bytes:
    return cv2.imencode(suffix, picture, flags)[1].tobytes()


def tiff(picture: np.ndarray, meaning: int, extra: int | None = None, planes: int = 1,
         more: dict[int, list[int]] | None = None) -> bytes:
    """Return an uncompressed TIFF of (H, W, C), RGB; the rest are values of its tags."""
    height, width, samples = picture.shape
    pixels = (picture if planes == 1 else picture.transpose(2, 0, 1)).tobytes()
    parts = samples if planes == 2 else 1
    tags = {256: [width], 257: [height], 258: [8 * picture.itemsize] * samples, 259: [1],
            262: [meaning], 273: [0] * parts, 277: [samples], 278: [height],
            279: [len(pixels) // parts] * parts, 284: [planes]} | (
            {} if extra is None else {338: [extra]}) | (more or {})
    at = 8 + 2 + 12 * len(tags) + 4
    first = at + sum(4 * len(values) for values in tags.values() if len(values) > 1)
    tags[273] = [first + part * len(pixels) // parts for part in range(parts)]
    entries, beside = b"", b""
    for tag, values in sorted(tags.items()):
        where = values[0] if len(values) == 1 else at + len(beside)
        entries += struct.pack("<HHII", tag, 4, len(values), where)  # all of 32 bits
        beside += struct.pack(f"<{len(values)}I", *values) if len(values) > 1 else b""
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    return head + entries + bytes(4) + beside + pixels


def with_chunk(data: bytes, name: bytes, content: bytes) -> bytes:
    """Return a PNG with another chunk before its pixels."""
    start = data.index(b"IDAT") - 4
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(
        ">I", zlib.crc32(name + content))
    return data[:start] + chunk + data[start:]


def paletted(kind: str) -> tuple[bytes, np.ndarray]:
    """Return a file of 24 colors, the first block transparent, and its picture on white."""
    image = Image.fromarray(np.ascontiguousarray(PHOTO[..., ::-1])).quantize(24)
    data = encoded(image, kind, transparency=image.getpixel((0, 0)))
    expected = PHOTO.copy()
    expected[:16, :16] = 255
    return data, expected


@pytest.mark.parametrize(("data", "expected", "close"), [
    pytest.param(opencv(PHOTO, ".png"), PHOTO, 0, id="plain"),
    pytest.param(opencv(GRAY, ".png"), GRAY[..., None], 0, id="gray"),
    pytest.param(opencv(CLEAR, ".png"), ON_WHITE, 0.51, id="alpha"),
    *(pytest.param(pillow(np.dstack(3 * (gray,)), mode, "png", transparency=key),
                   np.where(gray == key * scale, 255, gray)[..., None], 0, id=f"clear gray {mode}")
      for gray, mode, key, scale in ((GRAY, "L", int(GRAY[0, 0]), 1),
                                     (GRAY // 128 * 255, "1", 0, 255))),
    pytest.param(pillow(CLEAR, "LA", "png"), GRAY_ON_WHITE, 1, id="gray and alpha"),
    pytest.param(opencv(GRAY * np.uint16(257), ".png"), GRAY[..., None], 0, id="16-bit gray"),
    pytest.param(opencv(PHOTO * np.uint16(256), ".png"), PHOTO, 1, id="16-bit"),
    pytest.param(opencv(CLEAR * np.uint16(257), ".png"), ON_WHITE, 0.51, id="16-bit alpha"),
    pytest.param(*paletted("png"), 0, id="palette"),
    pytest.param(*paletted("gif"), 0, id="GIF"),
    pytest.param(pillow(PHOTO, "RGB", "gif", save_all=True,
                        append_images=[Image.new("RGB", (96, 64))]), PHOTO, 0, id="moving GIF"),
    pytest.param(pillow(PHOTO, "CMYK", "jpeg", quality=98), PHOTO, 4, id="CMYK JPEG"),
    pytest.param(pillow(CLEAR, "RGBA", "webp", lossless=True), ON_WHITE, 0.51, id="WebP alpha"),
    pytest.param(pillow(CLEAR, "RGBA", "tiff"), ON_WHITE, 1.01, id="TIFF alpha"),
    pytest.param(tiff((255 - GRAY[..., None]) * np.uint16(257), 0), GRAY[..., None], 0,
                 id="TIFF of 16 bits where 0 is white"),
    pytest.param(tiff(np.dstack((PHOTO[..., ::-1] * (OPACITY[..., None] / 255), OPACITY))
                      .astype(np.uint8) * np.uint16(257), 2, extra=1), ON_WHITE, 1.51,
                 id="TIFF of 16 bits multiplied by alpha"),
    pytest.param(tiff(PHOTO[..., ::-1], 2, planes=2), PHOTO, 0, id="TIFF of planes"),
    *(pytest.param(tiff(np.dstack((PHOTO[..., ::-1], OPACITY)) * scale, 2, extra=0), PHOTO, 0,
                   id=f"TIFF with a plane of something else, {scale.dtype}")
      for scale in (np.uint8(1), np.uint16(257))),
    *(pytest.param(tiff(np.dstack((PHOTO[..., ::-1], OPACITY)) * scale, 2), ON_WHITE, 0.51,
                   id=f"TIFF with a plane of nothing named, {scale.dtype}")
      for scale in (np.uint8(1), np.uint16(257))),
    pytest.param(opencv(PHOTO, ".ppm"), PHOTO, 0, id="PPM"),
    pytest.param(b"P5 96 64 1000\n" + (GRAY * (1000 / 255)).astype(">u2").tobytes(),
                 GRAY[..., None], 1, id="PGM of 1000 levels"),
    pytest.param(opencv(CLEAR, ".bmp"), ON_WHITE, 0.51, id="BMP alpha"),
    pytest.param(opencv(np.float32(GRAY / 255), ".tiff"), GRAY[..., None], 0, id="TIFF float"),
    pytest.param(tiff(np.packbits(GRAY < 128, 1)[..., None], 3, more={
        256: [96], 258: [1], 320: [65535, 51400, 0, 25700, 0, 65535]}),
        np.where(GRAY[..., None] < 128, (255, 100, 200), (0, 0, 255)), 0, id="TIFF of two colors"),
    pytest.param(pillow(CLEAR, "LA", "tiff"), GRAY_ON_WHITE, 1, id="TIFF gray and alpha"),
    pytest.param(with_chunk(opencv(GRAY * np.uint16(257), ".png"), b"tRNS",
                            struct.pack(">H", int(GRAY[0, 0]) * 257)),
                 np.where(GRAY == GRAY[0, 0], 255, GRAY)[..., None], 0, id="clear gray of 16 bits"),
    pytest.param(pillow(PHOTO, "RGB", "png", transparency=tuple(PHOTO[0, 0, ::-1].tolist())),
                 np.where((PHOTO == PHOTO[0, 0]).all(2)[..., None], 255, PHOTO), 0,
                 id="clear color"),
    pytest.param(opencv(PHOTO, ".avif", cv2.IMWRITE_AVIF_QUALITY, 100), PHOTO, 12, id="AVIF"),
    pytest.param(pillow(PHOTO, "RGB", "jpeg", quality=98, subsampling=0), PHOTO, 4, id="JPEG"),
    *(pytest.param(opencv(picture * scale, ".jp2"), np.atleast_3d(picture), 1,
                   id=f"JPEG 2000, {scale.dtype}, {picture.ndim}")
      for picture, scale in ((PHOTO, np.uint8(1)), (GRAY, np.uint8(1)), (GRAY, np.uint16(257)))),
])
def test_every_format_is_read(tmp_path, data, expected, close):
    (tmp_path / "picture").write_bytes(data)
    read = read_picture(tmp_path / "picture")
    assert read.shape == PHOTO.shape
    assert read.dtype == np.uint8
    assert np.abs(read - np.asarray(expected, float)).max() <= close


UPRIGHT = {
    1: lambda stored: stored, 2: np.fliplr, 3: lambda stored: np.rot90(stored, 2), 4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1), 6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1), 8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_photos_are_turned_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / "picture"
    for kind, picture, expected, close in (
        ("jpeg", PHOTO, PHOTO, 4), ("png", PHOTO, PHOTO, 0), ("png", CLEAR, ON_WHITE, 0.51),
        ("webp", CLEAR, ON_WHITE, 0.51), ("tiff", PHOTO, PHOTO, 0),
    ):
        flags = {"webp": {"lossless": True}, "jpeg": {"quality": 98, "subsampling": 0}}
        mode = "RGBA" if picture is CLEAR else "RGB"
        path.write_bytes(pillow(picture, mode, kind, exif=exif, **flags.get(kind, {})))
        turned = UPRIGHT[orientation](expected)
        read = read_picture(path)
        assert read.shape == turned.shape, kind
        assert np.abs(read - turned.astype(float)).max() <= close, kind


def test_broken_exif_is_ignored(tmp_path, capfd):
    exif = Image.Exif()
    exif[0x112] = 6
    data = pillow(PHOTO, "RGB", "jpeg", quality=98, exif=exif)
    for broken in (data.replace(b"MM\0*", b"MM\0#"), data.replace(b"\1\x12\0\3", b"\1\x12\0\xff")):
        assert broken != data
        (tmp_path / "picture.jpg").write_bytes(broken)
        assert read_picture(tmp_path / "picture.jpg").shape == PHOTO.shape
    assert capfd.readouterr() == ("", "")


BLACK_AND_WHITE = Image.fromarray(GRAY // 128)
BLACK_AND_WHITE.putpalette([0, 0, 0, 255, 255, 255])


@pytest.mark.parametrize("data", [
    pytest.param(tiff(PHOTO * np.uint16(257), 2, planes=2), id="TIFF of planes of 16 bits"),
    pytest.param(tiff(PHOTO, 8), id="TIFF of CIELab colors"),
    pytest.param(tiff(PHOTO, 6), id="TIFF of subsampled YCbCr"),
    pytest.param(tiff(np.int16(GRAY)[..., None], 1, more={339: [2]}), id="TIFF with a sign"),
    pytest.param(tiff(np.uint32(GRAY)[..., None], 1), id="TIFF of 32 bits"),
    pytest.param(tiff(GRAY[..., None], 3, more={320: [*range(256)] * 3}), id="palette of 8 bits"),
    pytest.param(opencv(PHOTO * np.uint16(257), ".jp2"), id="JPEG 2000 of 16 bits"),
    pytest.param(with_chunk(opencv(PHOTO * np.uint16(257), ".png"), b"tRNS", bytes(6)),
                 id="clear color of 16 bits"),
    pytest.param(with_chunk(opencv(PHOTO, ".png"), b"cICP", b"\x09\x10\0\1"), id="HDR PNG"),
    pytest.param(pillow(PHOTO, "RGB", "avif").replace(
        b"colrnclx\0\1\0\x0d", b"colrnclx\0\x09\0\x10"), id="HDR AVIF"),
    pytest.param(encoded(BLACK_AND_WHITE, "bmp"), id="BMP of 8 bits in black and white"),
])
def test_format_that_pillow_reads_wrong_is_refused(tmp_path, data):
    (tmp_path / "picture").write_bytes(data)
    with pytest.raises(UserError, match="picture is a .* that Pillow reads wrong; save"):
        read_picture(tmp_path / "picture")


@pytest.mark.parametrize("data", [
    pytest.param(opencv(np.float32(PHOTO / 255), ".tiff"), id="TIFF of floats in color"),
    pytest.param(tiff(np.dstack((GRAY, OPACITY)) * np.uint16(257), 1, extra=2),
                 id="TIFF of gray and alpha of 16 bits"),
    pytest.param(opencv(PHOTO, ".hdr"), id="HDR"),
    pytest.param(b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nENDHDR\nabc", id="PAM"),
    pytest.param(opencv(PHOTO, ".jpg")[:-500], id="half a JPEG"),
    pytest.param(b"no picture", id="text"),
])
def test_format_that_pillow_cannot_read_is_refused(tmp_path, data):
    (tmp_path / "picture").write_bytes(data)
    with pytest.raises(UserError, match="picture is not an image of a kind that Pillow"):
        read_picture(tmp_path / "picture")


def test_avif_of_ten_bits_has_its_own_range():
    assert read_picture(GOLDEN / "ten.avif").mean() == pytest.approx(168.8, abs=0.5)


def test_color_profiles_are_brought_to_srgb(tmp_path):
    """A broken profile, or one of another color space, is ignored."""
    path, srgb = tmp_path / "picture", read_picture(GOLDEN / "srgb.png")
    with Image.open(GOLDEN / "p3.png") as image:
        profile = image.info["icc_profile"]
        pixels = np.asarray(image.convert("RGB"))[..., ::-1]
    assert np.abs(pixels - srgb.astype(int)).max() > 20
    half = np.full(pixels.shape[:2], 102, np.uint8)
    renamed = profile.replace(b"Wide RGB", b"sRGB, no")  # another one that says sRGB in its name
    assert renamed != profile
    for kind, flags in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}),
                        ("JPEG", {"quality": 100, "subsampling": 0})):
        path.write_bytes(pillow(pixels, "RGB", kind, icc_profile=renamed, **flags))
        assert np.abs(read_picture(path) - srgb.astype(int)).max() <= 3, kind
        if kind != "JPEG":
            path.write_bytes(pillow(np.dstack((pixels, half)), "RGBA", kind, icc_profile=profile,
                                    **flags))
            on_white = 255 + (srgb.astype(float) - 255) * 0.4
            assert np.abs(read_picture(path) - on_white).max() <= 3, kind
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    gray, cmyk = (profile[:16] + space + profile[20:] for space in (b"GRAY", b"CMYK"))
    for other in (b"x" * 200, profile[:150], bytes(128) + profile[128:], lab, gray, cmyk):
        path.write_bytes(pillow(pixels, "RGB", "PNG", icc_profile=other))
        assert np.array_equal(read_picture(path), pixels)
    path.write_bytes(pillow(PHOTO, "CMYK", "JPEG"))
    photo = read_picture(path)
    path.write_bytes(pillow(PHOTO, "CMYK", "JPEG", icc_profile=profile))
    assert np.array_equal(read_picture(path), photo)
