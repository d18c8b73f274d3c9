"""Listing folders; comparing and writing pictures; picking and writing frames."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from painting.frames import Frames, every
from painting.options import frame_step
from utils.command import UserError
from utils.listing import list_pictures
from utils.pictures import FULL_SCALE, compare, picture_file, read_picture, write_picture

BLOCKS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
PHOTO = np.kron(BLOCKS, np.ones((16, 16, 1), np.uint8))  # (64, 96, 3) BGR


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


def test_skipped_files_of_a_folder_are_named(tmp_path, capsys):
    for name in ("a.jfif", "b.JPE", "._a.jfif", "c.HEIC", "d.heic", "e.psd", "f.MOV", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "g.png").symlink_to("gone")
    assert [path.name for path in list_pictures([tmp_path])] == ["a.jfif", "b.JPE"]
    assert ("skipped 2 .heic, 1 .mov, 1 .psd, 1 links that lead nowhere, which cannot be read"
            in capsys.readouterr().err)
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "a.heic").touch()
    with pytest.raises(UserError, match=r"that can be read, but 1 \.heic; save pictures as JPEG$"):
        list_pictures([tmp_path / "phone"])


def test_folders_with_images_are_named_in_a_folder_without(tmp_path):
    for name in ("cats/a.png", "far/away/dogs/a.png", "notes/a.txt", "__MACOSX/a.png", "x/._a.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        (tmp_path / "set" / name).touch()
    with pytest.raises(UserError, match=r"name one of its folders that do: \S*cats, \S*dogs$"):
        list_pictures([tmp_path / "set"])


def test_comparison_shows_errors_on_a_fixed_scale():
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


def test_pictures_are_written_atomically(tmp_path):
    write_picture(tmp_path / "new" / "picture.png", PHOTO)
    assert (read_picture(tmp_path / "new" / "picture.png") == PHOTO).all()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["picture.png"]
    write_picture(tmp_path / "picture.gif", PHOTO)  # of 24 colors
    assert (read_picture(tmp_path / "picture.gif") == PHOTO).all()


@pytest.mark.parametrize(("name", "size", "says"), [
    ("picture.txt", (), "picture.txt"), ("picture", (), "picture"), ("a.png/b.png", (), "a.png"),
    ("a.webp", (20, 17_000), "17000x20 pixels are too many"),
    ("a.webp", (17_000, 20), "20x17000 pixels are too many"),
    ("a.jpg", (20, 70_000), "70000x20 pixels are too many"),
    ("a.heic", (1, 1), "no kind of color image"),
    ("a.jp2", (1, 1), "1x1 pixels are too few"),
])
def test_unwritable_picture_is_refused(tmp_path, name, size, says):
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match=says):
        picture_file(tmp_path / name, *size)


@pytest.mark.parametrize(("text", "total", "written"), [
    ("all", 5, [1, 1, 1, 1, 1]), ("every 2", 5, [0, 1, 0, 1, 1]), ("2", 4, [0, 1, 0, 1]),
    ("last", 3, [0, 0, 1]), ("100", 1, [1])])
def test_frames_flag_picks_frames(text, total, written):
    assert every(frame_step(text), total).tolist() == written


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "first", "every", "", "every all", "2 3"])
def test_bad_frames_flag_is_refused(text):
    with pytest.raises(UserError, match="all, last, or every N"):
        frame_step(text)


def test_frames_have_numbers_without_a_gap(tmp_path):
    (tmp_path / ".generated8.png.part").write_bytes(b"of a painting that was killed")
    with Frames(tmp_path, 7, 12, 8, every(4, 10)) as writer:
        for shade in range(10):
            writer.write(shade, np.full((4, 6, 3), shade, np.uint8))
    shades = [read_picture(tmp_path / f"generated{n}.png")[0, 0, 0] for n in (7, 8, 9)]
    assert shades == [3, 7, 9]
    assert len(list(tmp_path.iterdir())) == 3
    assert writer.next == 10


def test_frames_leave_the_targets_of_links(tmp_path):
    for name, link in (("soft", Path.symlink_to), ("hard", Path.hardlink_to)):
        (tmp_path / name).write_bytes(b"a photo")
        (tmp_path / f"of {name}").mkdir()
        link(tmp_path / f"of {name}" / "generated0.png", tmp_path / name)
        with Frames(tmp_path / f"of {name}", 0, 12, 8, np.ones(1, int)) as writer:
            writer.write(0, PHOTO[:4, :6])
        assert (tmp_path / name).read_bytes() == b"a photo"
        (frame,) = (tmp_path / f"of {name}").iterdir()
        assert read_picture(frame).shape == (8, 12, 3)
