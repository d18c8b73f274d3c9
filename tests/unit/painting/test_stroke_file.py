"""Stroke files: JSON, SVG and replay.py."""

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

import replay
from helpers import painted
from painting import stroke_file
from painting.stroke_file import read_json, write_json
from painting.svg import write_plot, write_svg
from Renderer.stroke_gen import FAMILIES
from Renderer.strokes import Strokes
from utils.command import UserError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser",
                                                "google-chrome"))), None)
SVG = "{http://www.w3.org/2000/svg}"
SIZE = (197, 301)  # of the picture: no whole multiple of any canvas


def random_strokes(family: str, n: int = 64, seed: int = 0) -> Strokes:
    """Return strokes on 2x3 tiles of 128, the last on the whole canvas, ends of ranges included."""
    rng = np.random.default_rng(seed)
    shapes = rng.random((n, 10)).astype(np.float32)
    shapes[: n // 4] = shapes[: n // 4].round()  # corners, ends of every range
    shapes[n // 4 : n // 2] = (4 * shapes[n // 4 : n // 2]).round() / 4
    shapes[: n // 4 : 2, 4:6] = shapes[: n // 4 : 2, :2]  # P2 at P0
    tiles = np.column_stack((128 * rng.integers(0, (2, 3), (n, 2)), np.full(n, 128)))
    clips = np.column_stack((tiles[:, :2], tiles[:, :2] + 128))
    tiles[-n // 4 : -n // 8, :2] -= 64  # beyond the edges, as the second passes of grid actors
    clips[-n // 4 : -n // 8] = (0, 0, 256, 384)
    tiles[-n // 8 :] = (0, 0, 256)
    clips[-n // 8 :] = (0, 0, 256, 384)
    return Strokes(family, 256, 384, shapes, rng.random((n, 3)).astype(np.float32), tiles, clips)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [SIZE, (256, 384), (4001, 3000)])
def test_json_round_trip_paints_the_same(tmp_path, family, size):
    strokes = random_strokes(family)
    write_json(tmp_path / "s.json", strokes, size, {"img": "a.png", "divide": [2, 3]})
    restored, *rest = read_json(tmp_path / "s.json")
    assert rest == [size, {"img": "a.png", "divide": [2, 3]}]
    assert restored.shapes.dtype == restored.colors.dtype == np.float32
    assert restored.tiles.dtype == restored.clips.dtype == np.int64
    for name in ("colors", "tiles", "clips"):
        assert np.array_equal(getattr(restored, name), getattr(strokes, name))
    for scale in (1, 2):
        assert np.array_equal(painted(restored, scale), painted(strokes, scale))
    used = [*range(2 * FAMILIES[family].points), *range(6, 6 + FAMILIES[family].radii),
            *range(8, 8 + FAMILIES[family].opacities)]
    placed_alike = np.all(strokes.shapes[:, :2] != strokes.shapes[:, 4:6], 1)  # P1 is what it was
    assert np.abs(restored.shapes - strokes.shapes)[placed_alike][:, used].max() < 1e-12


def test_files_without_strokes_are_valid(tmp_path):
    strokes = random_strokes("round")[:0]
    write_json(tmp_path / "s.json", strokes, SIZE, {})
    assert len(read_json(tmp_path / "s.json")[0]) == 0
    for seconds in (None, 1.0):
        write_svg(tmp_path / "s.svg", strokes, SIZE, seconds)
        assert ET.parse(tmp_path / "s.svg").getroot().find(f".//{SVG}path") is None


def test_schema_is_that_of_the_docstring(tmp_path):
    shapes = np.array([[0, 0.5, 0.5, 0, 1, 1, 0, 1, 0.25, 1]], np.float32)
    strokes = Strokes("bezier", 256, 256, shapes, np.array([[0, 0.5, 1]], np.float32),
                      np.array([[128, 0, 128]]), np.array([[128, 0, 256, 128]]))
    write_json(tmp_path / "s.json", strokes, (512, 128), {})
    text = (tmp_path / "s.json").read_text()
    content = json.loads(text)
    assert content == {
        "version": 1, "family": "bezier", "height": 512, "width": 128, "canvas_height": 256,
        "canvas_width": 256, "settings": {}, "tiles": [[256, 0, 512, 64]],
        "clips": [[256, 0, 512, 64]],
        "strokes": [{"rows": [256, 384, 512], "columns": [32, 32, 64], "radius_rows": [1, 65],
                     "radius_columns": [0.25, 16.25], "opacity": [0.25, 1], "rgb": [1, 0.5, 0],
                     "tile": 0, "clip": 0}]}
    assert text.count("\n") == 7  # one for the stroke
    for key in (*content, *content["strokes"][0]):
        assert f"``{key}``" in stroke_file.__doc__


def changed_file(change: dict) -> dict:
    """Return a valid file of two strokes with these changes; a number is that of a stroke."""
    stroke = {"rows": [1, 2, 3], "columns": [1, 2, 3], "radius_rows": [2, 2],
              "radius_columns": [2, 2], "opacity": [1, 1], "rgb": [0, 0, 1], "tile": 0, "clip": 0}
    content = {"version": 1, "family": "bezier", "height": 128, "width": 128,
               "canvas_height": 128, "canvas_width": 128, "settings": {},
               "tiles": [[0, 0, 128, 128]], "clips": [[0, 0, 128, 128]],
               "strokes": [dict(stroke), dict(stroke)]}
    for key, value in change.items():
        if isinstance(key, int):
            content["strokes"][key] |= value
        else:
            content[key] = value
    return content


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-be"])
def test_file_edited_by_other_programs_is_read(tmp_path, encoding):
    """Of another encoding, with whole numbers as floats, other keys and other line ends."""
    (tmp_path / "s.json").write_text(json.dumps(changed_file({})))
    edited = changed_file({"canvas_width": 128.0, "height": 128.0, "version": 1.0, "app": "é",
                     0: {"tile": 0.0, "layer": "1"}, 1: {"clip": 0.0}})
    (tmp_path / "e.json").write_text(json.dumps(edited, indent=2, ensure_ascii=False),
                                     encoding=encoding, newline="\r\n")
    one, other = (read_json(tmp_path / name) for name in ("s.json", "e.json"))
    assert one[1:] == other[1:]
    assert all(map(np.array_equal, vars(one[0]).values(), vars(other[0]).values()))


@pytest.mark.parametrize(("change", "says"), [
    ({"version": 2}, "version 2"),
    ({"version": [[["a" * 10**6] * 9] * 9]}, "version"),
    ({"canvas_width": 8193}, "canvas_width is not a whole number from 1 to 8192"),
    ({"settings": []}, "settings"),
    ({"tiles": [[0, 0, 128, 64]]}, "tile 1 is no square"),
    ({"tiles": [[0, 0, 64.5, 64.5]]}, "tile 1 .*does not end at whole pixels"),
    ({"clips": [[0, 0, 128, 129]]}, "clip 1 leaves the canvas"),
    ({"tiles": [[-128, 0, 0, 128]]}, "tile 1 is no square on the canvas"),
    ({"tiles": [[0, 0, 9000, 9000]]}, "tile 1 is no square on the canvas"),
    ({"strokes": [None]}, "stroke 1 is no object"),
    ({"family": "bezierwotrans"}, "opacity of stroke 1 is no list of 0"),
    ({1: {"rows": [1, 2]}}, "rows of stroke 2 is no list of 3"),
    ({1: {"columns": [1, float("nan"), 2]}}, "columns of stroke 2"),
    ({1: {"rgb": [1, 1.5, 1]}}, "rgb of stroke 2 is no list of 3 numbers from 0 to 1"),
    ({1: {"opacity": [1, -1]}}, "opacity of stroke 2 is no list of 2 numbers from 0 to 1"),
    ({1: {"rows": [0, 50, 200]}}, "stroke 2 has a point outside its tile"),
    ({1: {"rows": [10, 50, 20]}}, "stroke 2 has its point P1 outside"),
    ({1: {"radius_rows": [9, 9]}}, "stroke 2 has radii"),
    ({1: {"radius_rows": [99, 9], "radius_columns": [99, 9]}}, "stroke 2 has a radius"),
    ({1: {"tile": 1}}, "tile of stroke 2"),
])
def test_flawed_file_is_refused_with_the_flaws_name(tmp_path, change, says):
    path = tmp_path / "s.json"
    path.write_text(json.dumps(changed_file(change)))
    with pytest.raises(UserError, match=says) as error:
        read_json(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize(("data", "says"), [
    *((data, "is not a stroke file") for data in (
        b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b"1" * 5000)),
    (None, "No such file"), (b"{}".ljust(100), "more than"),
])
def test_unreadable_files_are_refused(tmp_path, monkeypatch, data, says):
    if says == "more than":
        monkeypatch.setattr(stroke_file, "MAX_FILE_SIZE", 99)
    if data is not None:
        (tmp_path / "s.json").write_bytes(data)
    with pytest.raises(UserError, match=says):
        read_json(tmp_path / "s.json")


def test_slightly_inexact_numbers_are_clipped(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(changed_file(
        {0: {"rows": [-0.001, -0.002, 128.001]}, "tiles": [[0, 0, 127.999, 128.001]]})))
    strokes = read_json(tmp_path / "s.json")[0]
    assert strokes.shapes[0, :6:2].tolist() == [0, 0, 1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seconds", [None, 1.0])
def test_svg_is_well_formed(tmp_path, family, seconds):
    strokes = random_strokes(family)
    write_svg(tmp_path / "s.svg", strokes, SIZE, seconds)
    root = ET.parse(tmp_path / "s.svg").getroot()
    assert root.tag == f"{SVG}svg"
    assert root.get("viewBox") == f"0 0 {SIZE[1]} {SIZE[0]}"
    names = {e.get("id") for e in root.iter() if e.get("id")}
    for element in root.iter():
        for key in ("mask", "clip-path"):
            assert element.get(key, "url(#)")[5:-1] in names | {""}
    assert "nan" not in (tmp_path / "s.svg").read_text()
    outer = root.findall(f"{SVG}g")[-1]
    groups = outer.findall(f"{SVG}g")
    assert len(groups) == (0 if seconds is None else 22)  # of three strokes
    shown = [e for group in groups or [outer] for e in group if e.tag != f"{SVG}mask"]
    assert 40 < len(shown) <= len(strokes)  # all but invisible ones
    assert (root.find(f".//{SVG}mask") is not None) == (family == "bezier")
    assert root.find(f".//{SVG}script") is None


def test_two_svg_files_share_no_names(tmp_path):
    names = []
    for seed in (0, 1):
        write_svg(tmp_path / "s.svg", random_strokes("bezier", 24, seed), SIZE, 1)
        text = (tmp_path / "s.svg").read_text()
        names.append(set(re.findall(r'(?:id|class)="(.+?)"|@keyframes (\w+)', text)))
        assert re.search(r"\{\.(\w+)>g\{animation:\1 ", text)  # for its own groups alone
    assert min(map(len, names)) > 10
    assert not names[0] & names[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_plot_has_a_line_for_each_visible_stroke(tmp_path, family):
    """By color in painting order, at the points of the JSON file, without invisible strokes."""
    strokes = random_strokes(family, 12)
    strokes.colors[:] = np.repeat(strokes.colors[:3], 4, 0)
    write_plot(tmp_path / "p.svg", strokes, SIZE, 200)
    write_json(tmp_path / "s.json", strokes, SIZE, {})
    opacities = FAMILIES[family].opacities
    visible = strokes.shapes[:, 8 : 8 + opacities].any(1) | (not opacities)
    assert visible.all() == (family == "bezierwotrans")
    records = json.loads((tmp_path / "s.json").read_text())["strokes"]
    records = [record for record, shown in zip(records, visible, strict=True) if shown]
    root = ET.parse(tmp_path / "p.svg").getroot()
    assert {each.tag for each in root.iter()} == {f"{SVG}{tag}" for tag in ("svg", "g", "path")}
    assert root.get("width") == "200mm" and root.get("fill") == "none"
    assert root.get("viewBox") == f"0 0 {SIZE[1]} {SIZE[0]}"
    groups = root.findall(f"{SVG}g")
    assert len({group.get("stroke") for group in groups}) == len(groups) == 3
    for path, record in zip(root.iter(f"{SVG}path"), records, strict=True):
        x, y = map(float, re.match(r"M(\S+) ([\d.]+)", path.get("d")).groups())
        assert (x, y) == pytest.approx((record["columns"][0], record["rows"][0]), abs=0.006)
        assert float(path.get("stroke-width")) > 0


def screenshot(svg: Path, height: int, width: int, *flags: str) -> np.ndarray:
    """Return what a browser shows, (height, width, 3) uint8; its window is larger."""
    picture = svg.with_suffix(".png")
    subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--no-first-run", f"--user-data-dir={svg.parent / 'profile'}", *flags,
         f"--screenshot={picture}", "--window-size=1000,1000", str(svg)],
        check=True, capture_output=True, timeout=120)
    return cv2.imread(str(picture))[:height, :width]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("family", FAMILIES)
def test_browser_shows_what_the_rasterizer_paints(tmp_path, family):
    strokes = random_strokes(family, 24, 1)
    write_svg(tmp_path / "s.svg", strokes, (512, 768))
    error = screenshot(tmp_path / "s.svg", 512, 768) / 255 - painted(strokes, 2)
    assert np.square(error).mean() < 0.001  # strokes side by side in random colors differ by 0.17


@pytest.fixture
def replay_in(tmp_path, monkeypatch) -> Callable[..., None]:
    """Return a function that replays s.json, 24 bezier strokes, in a folder."""
    write_json(tmp_path / "s.json", random_strokes("bezier", 24), SIZE, {})
    write_json(tmp_path / "none.json", random_strokes("bezier")[:0], SIZE, {})
    monkeypatch.chdir(tmp_path)

    def run(*flags: object, file: str = "s.json") -> None:
        monkeypatch.setattr(sys, "argv", ["replay.py", file, *map(str, flags)])
        replay.main(replay.parse_args())

    return run


@pytest.mark.parametrize(("flags", "scale", "shape"), [
    ((), 1, SIZE), (("--size", 768), 2, (503, 768)), (("--until", 9, "--size", 50), 1, (33, 50))])
def test_replay_paints_pictures_of_any_size(replay_in, capsys, flags, scale, shape):
    replay_in(*flags)
    strokes = random_strokes("bezier", 24)[: 9 if "--until" in flags else 24]
    assert f"{len(strokes)} strokes in" in capsys.readouterr().out
    expected = cv2.resize(painted(strokes, scale), shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(cv2.imread("replay.png") / 255 - expected).max() < 0.51 / 255


def test_replay_writes_videos_and_svg(replay_in):
    replay_in("--output", "a.png", "--size", 100)
    still = cv2.imread("a.png").astype(float)
    for name, seconds in (("a.mp4", 1), ("a.gif", 0.5)):
        replay_in("--output", name, "--size", 100, "--fps", 10, "--seconds", seconds)
        with av.open(name) as video:
            frames = [frame.to_ndarray(format="bgr24") for frame in video.decode(video=0)]
        assert frames[-1].shape == (len(still) // 2 * 2 if name == "a.mp4" else len(still), 100, 3)
        assert np.abs(frames[-1] - still[: len(frames[-1])]).mean() < 10
        assert frames[0].mean() < frames[-1].mean()
    replay_in("--output", "a.svg", "--seconds", 2, "--until", 3)
    write_svg(Path("b.svg"), random_strokes("bezier", 24)[:3], SIZE, 2)
    assert Path("a.svg").read_text() == Path("b.svg").read_text()


@pytest.mark.parametrize(("flags", "says"), [
    (("--size", 16385), "from 1 to 16384"),
    (("--output", "a.xyz"), "a.xyz"),
    (("--output", "s.json/a.png"), "s.json"),
    (("--fps", 3), "--fps is for videos"),
    (("--output", "a.mp4", "--fps", 1000), "frames a second"),
])
def test_replay_refuses_bad_flags(replay_in, tmp_path, flags, says):
    with pytest.raises(UserError, match=says):
        replay_in(*flags)
    with pytest.raises(UserError, match="no strokes"):
        replay_in(file="none.json")
    assert {path.name for path in tmp_path.iterdir()} == {"s.json", "none.json"}
