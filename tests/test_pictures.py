"""Pictures of every kind are read right; folders are listed; frames are picked and written."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from golden_networks import GOLDEN
from painting.frames import FrameWriter, every
from utils.command import UserError, frame_step
from utils.decoding import tiff_numbers
from utils.pictures import (
    FULL_SCALE,
    compare,
    list_pictures,
    picture_file,
    read_picture,
    write_picture,
)

BLOCKS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
PHOTO = np.kron(BLOCKS, np.ones((16, 16, 1), np.uint8))  # (64, 96, 3) BGR, no two blocks alike
OPACITY = np.where(np.arange(96) < 40, 51, 255).astype(np.uint8)
OPACITY = np.broadcast_to(OPACITY, PHOTO.shape[:2])
CLEAR = np.dstack((PHOTO, OPACITY))  # (64, 96, 4)
ON_WHITE = 255 + (PHOTO.astype(float) - 255) * OPACITY[..., None] / 255
GREY = cv2.cvtColor(PHOTO, cv2.COLOR_BGR2GRAY)
GREY_ON_WHITE = 255 + (np.dstack(3 * (GREY,)).astype(float) - 255) * OPACITY[..., None] / 255


def pillow(picture: np.ndarray, mode: str, kind: str, **flags: object) -> bytes:
    """Encode (H, W, 3 or 4) BGR with Pillow."""
    rgb = picture[..., [2, 1, 0, 3][: picture.shape[2]]]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).convert(mode).save(file, kind, **flags)
    return file.getvalue()


def opencv(picture: np.ndarray, suffix: str) -> bytes:
    return cv2.imencode(suffix, picture)[1].tobytes()


def tiff(picture: np.ndarray, meaning: int, extra: int | None = None, planes: int = 1) -> bytes:
    """An uncompressed TIFF of (H, W, C) uint8 or uint16, RGB; the rest are values of its tags."""
    height, width, samples = picture.shape
    pixels = (picture if planes == 1 else picture.transpose(2, 0, 1)).tobytes()
    parts = samples if planes == 2 else 1
    tags = {256: [width], 257: [height], 258: [8 * picture.itemsize] * samples, 259: [1],
            262: [meaning], 273: [0] * parts, 277: [samples], 278: [height],
            279: [len(pixels) // parts] * parts, 284: [planes]} | (
            {} if extra is None else {338: [extra]})
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


def few_bits(picture: np.ndarray, bits: int, key: int) -> bytes:
    """A grey PNG of (H, W) levels of so many bits, of which one is transparent."""
    rows = [b"\0" + np.packbits(np.unpackbits(row[:, None], 1)[:, 8 - bits :]).tobytes()
            for row in picture]
    head = struct.pack(">IIBBBBB", *picture.shape[::-1], bits, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in ((b"IHDR", head), (b"tRNS", struct.pack(">H", key)),
                          (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")):
        data += struct.pack(">I", len(content)) + name + content
        data += struct.pack(">I", zlib.crc32(name + content))
    return data


def bmp(picture: np.ndarray, masks: tuple[int, ...] = (0xFF0000, 0xFF00, 0xFF)) -> bytes:
    """A BMP of 32 bits with masks and a header of 40 bytes, whose fourth bytes are 0."""
    height, width, _ = picture.shape
    shifts = np.array([mask.bit_length() - 8 for mask in masks])
    pixels = (picture[::-1, :, ::-1].astype(np.uint32) << shifts).sum(2, dtype=np.uint32).tobytes()
    return struct.pack("<2sIIIIiiHHIIIIII3I", b"BM", 66 + len(pixels), 0, 66, 40, width, height, 1,
                       32, 3, len(pixels), 0, 0, 0, 0, *masks) + pixels


def levels(picture: np.ndarray, most: int) -> bytes:
    """A PPM, or a PGM, of so many levels, of 8 or 16 bits each."""
    kind = b"P6" if picture.ndim == 3 else b"P5"
    pixels = np.rint(picture[..., ::-1] if picture.ndim == 3 else picture) * (most / 255)
    head = b"%s # of a camera\n%d %d\n%d\n" % (kind, *picture.shape[1::-1], most)
    return head + np.rint(pixels).astype(">u2" if most > 255 else "u1").tobytes()


def with_profile(picture: np.ndarray, kind: str, profile: bytes) -> bytes:
    """A BMP or JPEG 2000 file with a colour profile, as Pillow writes none."""
    if kind == "BMP":
        pixels = picture[::-1].tobytes()
        assert picture.shape[1] % 4 == 0
        head = struct.pack("<IiiHHIIIIII", 124, picture.shape[1], picture.shape[0], 1, 24, 0,
                           len(pixels), 0, 0, 0, 0)
        head += bytes(16) + b"DEBM" + bytes(48) + struct.pack(
            "<IIII", 4, 124 + len(pixels), len(profile), 0)
        return struct.pack("<2sIII", b"BM", 14 + 124 + len(pixels) + len(profile), 0,
                           14 + 124) + head + pixels + profile
    data = pillow(picture, "RGB", "JPEG2000", irreversible=False)
    at = data.index(b"colr") - 4
    old = struct.unpack(">I", data[at : at + 4])[0]
    new = struct.pack(">I4sBBB", 11 + len(profile), b"colr", 2, 0, 0) + profile
    head = data.index(b"jp2h") - 4
    size = struct.unpack(">I", data[head : head + 4])[0] + len(new) - old
    return (data[:head] + struct.pack(">I", size) + data[head + 4 : at] + new + data[at + old :])


def paletted(kind: str) -> tuple[bytes, np.ndarray]:
    """Twenty-four colours, the first block's transparent, and what it looks like on white."""
    image = Image.fromarray(np.ascontiguousarray(PHOTO[..., ::-1])).quantize(24)
    file = io.BytesIO()
    image.save(file, kind, transparency=image.getpixel((0, 0)))
    expected = PHOTO.copy()
    expected[:16, :16] = 255
    return file.getvalue(), expected


@pytest.mark.parametrize(("data", "expected", "close"), [
    pytest.param(opencv(PHOTO, ".png"), PHOTO, 0, id="plain"),
    pytest.param(opencv(GREY, ".png"), GREY[..., None], 0, id="grey"),
    pytest.param(opencv(CLEAR, ".png"), ON_WHITE, 0.51, id="alpha"),
    *(pytest.param(pillow(np.dstack(3 * (grey,)), mode, "png", transparency=key),
                   np.where(grey == key * scale, 255, grey)[..., None], 0, id=f"clear grey {mode}")
      for grey, mode, key, scale in ((GREY, "L", int(GREY[0, 0]), 1),
                                     (GREY // 128 * 255, "1", 0, 255))),
    *(pytest.param(few_bits(GREY >> 8 - bits, bits, key), np.where(
        GREY >> 8 - bits == key, 255, (GREY >> 8 - bits) * (255 // (2**bits - 1)))[..., None], 0,
                   id=f"clear grey of {bits} bits") for bits, key in ((2, 1), (4, 7))),
    pytest.param(pillow(CLEAR, "LA", "png"), GREY_ON_WHITE, 1, id="grey and alpha"),
    pytest.param(opencv(GREY * np.uint16(257), ".png"), GREY[..., None], 0, id="16-bit grey"),
    pytest.param(opencv(PHOTO * np.uint16(256), ".png"), PHOTO, 1, id="16-bit"),
    pytest.param(opencv(CLEAR * np.uint16(257), ".png"), ON_WHITE, 0.51, id="16-bit alpha"),
    pytest.param(*paletted("png"), 0, id="palette"),
    pytest.param(*paletted("gif"), 0, id="GIF"),
    pytest.param(pillow(PHOTO, "RGB", "gif", save_all=True,
                        append_images=[Image.new("RGB", (96, 64))]), PHOTO, 0, id="moving GIF"),
    pytest.param(pillow(PHOTO, "CMYK", "jpeg", quality=98), PHOTO, 4, id="CMYK JPEG"),
    pytest.param(pillow(PHOTO, "CMYK", "tiff"), PHOTO, 1, id="CMYK TIFF"),
    pytest.param(pillow(PHOTO, "RGB", "webp", lossless=True), PHOTO, 0, id="WebP"),
    pytest.param(pillow(CLEAR, "RGBA", "webp", lossless=True), ON_WHITE, 0.51, id="WebP alpha"),
    pytest.param(pillow(CLEAR, "RGBA", "tiff"), ON_WHITE, 1.01, id="TIFF alpha"),
    pytest.param(tiff((255 - GREY[..., None]) * np.uint16(257), 0), GREY[..., None], 0,
                 id="TIFF of 16 bits where 0 is white"),
    pytest.param(tiff(255 - GREY[..., None], 0), GREY[..., None], 0, id="TIFF where 0 is white"),
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
    *(pytest.param(levels(picture, most), np.atleast_3d(picture), 255 / most,
                   id=f"{most} levels, {picture.ndim}")
      for most in (15, 100, 255, 1023, 4095, 65535) for picture in (PHOTO, GREY)),
    pytest.param(bmp(PHOTO), PHOTO, 0, id="BMP with an idle byte"),
    pytest.param(opencv(CLEAR, ".bmp"), ON_WHITE, 0.51, id="BMP alpha"),
    pytest.param(opencv(np.float32(PHOTO / 255), ".tiff"), PHOTO, 4, id="TIFF float"),
    pytest.param(opencv(np.float32(CLEAR / 255), ".tiff"), ON_WHITE, 0.51, id="TIFF float alpha"),
])
def test_any_kind_of_image_is_read(tmp_path, data, expected, close):
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


def test_broken_exif_data_turn_nothing(tmp_path, capfd):
    exif = Image.Exif()
    exif[0x112] = 6
    data = pillow(PHOTO, "RGB", "jpeg", quality=98, exif=exif)
    for broken in (data.replace(b"MM\0*", b"MM\0#"), data.replace(b"\1\x12\0\3", b"\1\x12\0\xff")):
        assert broken != data
        (tmp_path / "picture.jpg").write_bytes(broken)
        assert read_picture(tmp_path / "picture.jpg").shape == PHOTO.shape
    assert capfd.readouterr() == ("", "")


def test_numbers_of_a_tiff_beyond_its_end_count_as_none():
    data, tag = tiff(PHOTO, 2, extra=1), struct.pack("<HHII", 338, 4, 1, 1)
    assert tiff_numbers(data, 262, 338, 999) == [2, 1, None]
    broken = data.replace(tag, struct.pack("<HHII", 338, 4, 2, 2**31))
    assert tiff_numbers(broken, 262, 338) == [2, None]


@pytest.mark.parametrize(("data", "says"), [
    (tiff(PHOTO[..., ::-1] * np.uint16(257), 2, planes=2), "TIFF of separate planes"),
    (tiff(np.dstack((GREY, OPACITY)), 1, extra=2), "TIFF of grey with an opacity"),
    (pillow(CLEAR, "LA", "tiff"), "TIFF of grey with an opacity"),
    *((tiff(PHOTO * scale, 8), "TIFF of CIELab colours")
      for scale in (np.uint8(1), np.uint16(257))),
    (b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\nabc", "not an image"),
    (bmp(PHOTO, (0xFF000000, 0xFF0000, 0xFF00)), "a BMP of a rare kind"),
    (struct.pack("<2sIIIIHHHH", b"BM", 26 + 12, 0, 26, 12, 1, 1, 1, 24) + bytes(12),
     "a BMP of an old kind"),
])
def test_what_would_be_read_wrong_is_refused(tmp_path, data, says):
    (tmp_path / "picture.tif").write_bytes(data)
    with pytest.raises(UserError, match=says):
        read_picture(tmp_path / "picture.tif")


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for name, says in (("text.png", "not an image"), ("nowhere.png", "No such"), ("", "cannot")):
        with pytest.raises(UserError, match=says):
            read_picture(tmp_path / name)


def test_files_and_folders_are_listed(tmp_path):
    for name in ("a10.png", "a9.JPG", "A1.tif", ".hidden.png", "notes.txt", "b.webp"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    names = ["A1.tif", "a9.JPG", "a10.png", "b.webp"]
    assert list_pictures([tmp_path]) == [tmp_path / name for name in names]
    single = tmp_path / "notes.txt"
    assert list_pictures([single, tmp_path, single])[::5] == [single, single]
    with pytest.raises(UserError, match="holds no images"):
        list_pictures([tmp_path / "folder.png"])


def test_a_folder_says_what_it_leaves_out(tmp_path, capsys):
    for name in ("a.jfif", "b.JPE", "._a.jfif", "c.HEIC", "d.heic", "e.psd", "f.MOV", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "g.png").symlink_to("gone")
    assert [path.name for path in list_pictures([tmp_path])] == ["a.jfif", "b.JPE"]
    assert ("left out are 2 .heic, 1 .mov, 1 .psd, 1 links that lead nowhere, which cannot be read"
            in capsys.readouterr().err)
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "a.heic").touch()
    with pytest.raises(UserError, match=r"that can be read, but 1 \.heic; save pictures as JPEG$"):
        list_pictures([tmp_path / "phone"])


def test_a_folder_of_folders_names_those_with_images(tmp_path):
    for name in ("cats/a.png", "far/away/dogs/a.png", "notes/a.txt", "__MACOSX/a.png", "x/._a.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        (tmp_path / "set" / name).touch()
    with pytest.raises(UserError, match=r"name one of its folders that do: \S*cats, \S*dogs$"):
        list_pictures([tmp_path / "set"])


def test_colour_profiles_are_brought_to_srgb(tmp_path):
    """Of any kind of file; a broken one, or one of other colours, is ignored."""
    meant, wide = read_picture(GOLDEN / "srgb.png"), GOLDEN / "p3.png"
    with Image.open(wide) as image:
        profile = image.info["icc_profile"]
        pixels = np.asarray(image.convert("RGB"))[..., ::-1]
    assert np.abs(pixels - meant.astype(int)).max() > 20
    for kind, flags in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}),
                        ("JPEG", {"quality": 100, "subsampling": 0})):
        (tmp_path / "p").write_bytes(pillow(pixels, "RGB", kind, icc_profile=profile, **flags))
        assert np.abs(read_picture(tmp_path / "p") - meant.astype(int)).max() <= 3, kind
    for kind in ("BMP", "JPEG2000"):
        (tmp_path / "p").write_bytes(with_profile(pixels, kind, profile))
        assert np.abs(read_picture(tmp_path / "p") - meant.astype(int)).max() <= 3, kind
        (tmp_path / "p").write_bytes(with_profile(pixels, kind, profile[:150]))
        assert np.array_equal(read_picture(tmp_path / "p"), pixels), kind
    half = np.full(pixels.shape[:2], 102, np.uint8)  # lies on white after that
    for kind, flags in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        (tmp_path / "p").write_bytes(pillow(np.dstack((pixels, half)), "RGBA", kind,
                                            icc_profile=profile, **flags))
        expected = 255 + (meant.astype(float) - 255) * 0.4
        assert np.abs(read_picture(tmp_path / "p") - expected).max() <= 3, kind
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    named = profile.replace(b"Wide RGB", b"sRGB, no")  # another one that says sRGB in its name
    assert named != profile
    (tmp_path / "p").write_bytes(pillow(pixels, "RGB", "PNG", icc_profile=named))
    assert np.abs(read_picture(tmp_path / "p") - meant.astype(int)).max() <= 3
    grey, inks = (profile[:16] + space + profile[20:] for space in (b"GRAY", b"CMYK"))
    for broken in (b"x" * 200, profile[:150], bytes(128) + profile[128:], lab, grey, inks):
        (tmp_path / "p").write_bytes(pillow(pixels, "RGB", "PNG", icc_profile=broken))
        assert np.array_equal(read_picture(tmp_path / "p"), pixels)
    for name, flags in (("p", {"icc_profile": profile}), ("q", {})):  # of colours, on inks
        (tmp_path / name).write_bytes(pillow(PHOTO, "CMYK", "JPEG", **flags))
    assert np.array_equal(read_picture(tmp_path / "p"), read_picture(tmp_path / "q"))


def test_the_comparison_shows_errors_on_a_fixed_scale():
    target = np.full((40, 128, 3), 100, np.uint8)
    painting = target.copy()
    painting[:10] += 128  # half the range, and thus the end of the scale
    painting[10:20] += 64
    painting[20:30, :, 0] += 96  # a quarter of the scale, on one channel of three
    joined = compare(target, painting)
    assert joined.shape == (40, 3 * 128 + 2 * 2, 3)
    assert (joined[:, :128] == target).all()
    assert (joined[:, 130:258] == painting).all()
    assert (joined[:, 128:130] == 255).all()
    scale = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0]
    for row, level in ((0, 255), (10, 64 / 255 / FULL_SCALE * 255), (20, 64), (30, 0)):
        assert (joined[row, -1] == scale[round(level)]).all()


def test_pictures_are_written_whole_or_not_at_all(tmp_path):
    write_picture(tmp_path / "new" / "picture.png", PHOTO)
    assert (read_picture(tmp_path / "new" / "picture.png") == PHOTO).all()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["picture.png"]
    for path in (tmp_path / "picture.txt", tmp_path / "picture", tmp_path / "new",
                 tmp_path / "new" / "picture.png" / "picture.png"):
        with pytest.raises(UserError):
            picture_file(path)
    for name, height, width in (("a.webp", 20, 17_000), ("a.webp", 17_000, 20),
                                ("a.jpg", 20, 70_000)):
        with pytest.raises(UserError, match=f"{width}x{height} pixels are too many"):
            picture_file(tmp_path / name, height, width)


def test_which_frames_are_written():
    assert every(frame_step("all"), 5).tolist() == [1, 1, 1, 1, 1]
    assert every(frame_step("every 2"), 5).tolist() == [0, 1, 0, 1, 1]
    assert every(frame_step("2"), 4).tolist() == [0, 1, 0, 1]
    assert every(frame_step("last"), 3).tolist() == [0, 0, 1]
    assert every(frame_step("100"), 1).tolist() == [1]
    for text in ("0", "-1", "1.5", "first", "every", "", "every all", "2 3"):
        with pytest.raises(UserError, match="all, last, or every N"):
            frame_step(text)


def test_frames_have_numbers_without_a_gap(tmp_path):
    (tmp_path / ".generated8.png.part").write_bytes(b"of a painting that was killed")
    with FrameWriter(tmp_path, 7, 12, 8, every(4, 10)) as writer:
        for shade in range(10):
            writer.write(np.full((4, 6, 3), shade, np.uint8))
    shades = [read_picture(tmp_path / f"generated{n}.png")[0, 0, 0] for n in (7, 8, 9)]
    assert shades == [3, 7, 9]
    assert len(list(tmp_path.iterdir())) == 3
    assert writer.next == 10


def test_frames_take_no_others_place(tmp_path):
    """What a link leads to stays as it is."""
    for name, link in (("soft", Path.symlink_to), ("hard", Path.hardlink_to)):
        (tmp_path / name).write_bytes(b"a photo")
        (tmp_path / f"of {name}").mkdir()
        link(tmp_path / f"of {name}" / "generated0.png", tmp_path / name)
        with FrameWriter(tmp_path / f"of {name}", 0, 12, 8, [1]) as writer:
            writer.write(PHOTO[:4, :6])
        assert (tmp_path / name).read_bytes() == b"a photo"
        (frame,) = (tmp_path / f"of {name}").iterdir()
        assert read_picture(frame).shape == (8, 12, 3)
