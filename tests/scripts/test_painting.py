"""Painting and evaluation by the scripts, from three folders, on good and bad input."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from PIL.ImageColor import getrgb

from DRL.actor import Actor
from grid.policy import load_policy
from helpers import FP32, ROOT, painted, stroke_files
from images import Images
from painting.stroke_file import read_json
from Renderer.canvas import as_float, composite
from Renderer.stroke_batch import draw_batch
from utils.weights import half_state

QUICK = ("--divide", 1, "--refine", 0, "--size", 150)  # the size of image/test.png
MODULES = sorted(
    str(path.relative_to(ROOT / "baseline").with_suffix("")).replace(os.sep, ".")
    for path in (ROOT / "baseline").rglob("*.py")
    if path.name not in ("__init__.py", "test.py")
)


@pytest.mark.parametrize("where", [".", "baseline", "elsewhere"])
def test_defaults_are_below_the_root_and_output_below_the_users_folder(checkout, where):
    folder = checkout.root / where
    folder.mkdir(exist_ok=True)
    before = checkout.files()
    checkout.run("test.py", "--max_step", 1, *QUICK, cwd=folder)
    names = ("painting", *(f"generated{n}" for n in range(5)))
    output = (folder / "output").relative_to(checkout.root)
    assert checkout.files() - before == {f"{output}/{name}.png" for name in names}


@pytest.mark.parametrize(("script", "mistake", "default", "arguments"), [
    ("test", "--divide=0", "(20)", ()), ("evaluate", "--limit=0", "(actor.pkl)", ()),
    ("replay", "--size=0", "(replay.png)", ("s.json",)),
    ("curve", "--strokes=0", "(200)", ("run",)), ("train", "--rmsize=0", "(96)", ()),
    ("train_renderer", "--lr=0", "(0.0005)", ()),
])
def test_help_and_mistakes_come_before_slow_imports(tmp_path, script, mistake, default, arguments):
    """Without a package the script says how to install it."""
    root = tmp_path / "it's a $x"
    shutil.copytree(ROOT / "baseline", root / "baseline")
    for name in ("torch", "cv2", "matplotlib", "numba", "numpy"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('no', name='{name}')")

    def run(*flags: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, f"baseline/{script}.py", *flags], cwd=root,
                              env=os.environ | {"PYTHONPATH": str(tmp_path)}, check=False,
                              capture_output=True, text=True)

    shown = run("--help")
    assert shown.returncode == 0
    assert default in shown.stdout
    assert f"example: python3 baseline/{script}.py" in shown.stdout
    assert run(*arguments, mistake).returncode == 2
    if script != "curve":  # it looks for the run first
        missing = run(*arguments)
        assert missing.returncode == 2
        assert re.match("error: the package (torch|cv2|numba|numpy) is missing: .*\n$",
                        missing.stderr)
        command = shlex.split(missing.stderr.partition(" is missing: ")[2])
        assert command == [sys.executable, "-m", "pip", "install", "-r",
                           str(root / "requirements.txt")]


@pytest.mark.parametrize(("redirection", "status", "errors"), [
    ("| head -1", 0, ""), (">&-", 0, ""), ("<&- 2>&-", 0, ""), ("<&- >&- 2>&-", 0, ""),
    (">&- 2> /dev/full", 0, ""), ("nowhere.png 2> /dev/full", 2, ""),
    ("> /dev/full", 2, "error: cannot write to the standard output: No space left on device\n"),
])
def test_painting_goes_on_without_streams(checkout, redirection, status, errors):
    command = (f"{sys.executable} baseline/test.py --max_step 2 --divide 1 --frames last "
               f"--refine 0 --size 64 -o p.png {redirection}")
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=checkout.root,
                          check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, errors)
    assert (checkout.root / "p.png").exists() == ("nowhere" not in redirection)


@pytest.mark.parametrize(("name", "value", "says"), [
    ("NUMBA_THREADING_LAYER", "nonsense", None), ("TQDM_MININTERVAL", "abc", None),
    ("NUMBA_DISABLE_JIT", "x", None), ("NUMBA_NUM_THREADS", "0", "error: numba does not start: "),
])
def test_invalid_environment_variables_are_ignored_or_named(tmp_path, compiled, name, value, says):
    stroke_files(tmp_path)
    done = subprocess.run([sys.executable, ROOT / "baseline" / "replay.py", "s.json"], check=False,
                          cwd=tmp_path, env=os.environ | {name: value}, capture_output=True,
                          text=True)
    assert done.returncode == (2 if says else 0)
    assert done.stderr.startswith(says or "")
    assert done.stderr.count("\n") == bool(says)


def test_steps_are_divided_between_canvas_and_tiles(checkout):
    out = checkout.run("test.py", "--max_step", 5, *QUICK, "--divide", 2, "--imgid", 7,
                       "--canvas", "exact")
    lines = re.findall(r"(canvas|2x2 tiles) step (\d+): squared error (\d\.\d+)\n", out)
    assert [(name, int(step)) for name, step, _ in lines] == [
        ("canvas", 1), ("canvas", 2), ("canvas", 3), ("2x2 tiles", 1), ("2x2 tiles", 2)]
    # 3 x 5 strokes, then 2 x 5 x 4
    result = re.search(r"\ntest.png: 55 strokes, \d+\.\d s, squared error (\d\.\d{5}), "
                       r"PSNR (\d+\.\d\d) dB at 150x100; ", out)
    output = checkout.root / "output"
    assert {file.name for file in output.iterdir()} == {
        "painting.png", *(f"generated{n}.png" for n in range(7, 32))}
    assert out.endswith("\nthe painting: output/painting.png\n")
    painting, last = (cv2.imread(str(output / f"{name}.png")) for name in (
        "painting", "generated31"))
    assert last.shape == (100, 150, 3)
    assert np.array_equal(painting, last)
    target = cv2.imread(str(checkout.root / "image" / "test.png"))
    error = np.square((last.astype(float) - target) / 255).mean()
    assert error == pytest.approx(float(lines[-1][2]), rel=0.1)  # resizing aside
    assert float(result[1]) == pytest.approx(error, abs=6e-6)
    assert float(result[2]) == pytest.approx(-10 * np.log10(error), abs=0.01)


@pytest.mark.parametrize(("flags", "shape"), [
    (("--refine", 0), (512, 768)), (("--refine", 2, "--size", 75), (50, 75))])
def test_output_that_is_a_picture_is_the_only_file(checkout, compiled, flags, shape):
    flags = ("--max_step", 1, "--divide", 1, *flags)
    out = checkout.run("test.py", "image/test.png", "-o", "new/p.png", *flags)
    assert out.endswith("\nthe painting: new/p.png\n")
    assert [file.name for file in (checkout.root / "new").iterdir()] == ["p.png"]
    picture = cv2.imread(str(checkout.root / "new" / "p.png"))
    assert picture.shape == (*shape, 3) and picture.any()
    assert not (checkout.root / "output").exists()
    shutil.copy(checkout.root / "image" / "test.png", checkout.root / "two.png")
    checkout.run("test.py", "image/test.png", "two.png", "-o", "new/p.png", *flags)
    for name in ("test", "two"):
        assert np.array_equal(cv2.imread(str(checkout.root / "new" / f"p-{name}.png")), picture)
    checkout.refuse((("test.py", ("image/test.png", "two.png", "-o", "p.png", "--frames", "all"),
                      "need a folder for each"),))


def test_signal_ends_refining_with_the_best_so_far(checkout, compiled):
    process = checkout.start("test.py", *QUICK, "--max_step", 2, "--refine", 10**6,
                             "--strokes", "s.json", "-o", "p.png")
    process.wait_for("refining step 1:")
    assert not process.over(1)
    process.signal(signal.SIGINT)
    assert process.wait() == 130
    steps = int(re.search(r"stopped after (\d+) of 1000000 steps", process.output)[1])
    assert steps < 10**6
    assert process.output.endswith("the painting: p.png\n")
    assert read_json(checkout.root / "s.json")[0].shapes.shape == (10, 10)
    assert (checkout.root / "p.png").is_file()


def test_broken_images_among_several_are_named(checkout):
    """Images of one name get names of their own."""
    image = (checkout.root / "image" / "test.png").read_bytes()
    (checkout.root / "more").mkdir()
    for name, data in (("Test.PNG", image), ("test-2.png", image), ("cut.png", image[:30]),
                       ("text.jpg", image[:30])):
        (checkout.root / "more" / name).write_bytes(data)
    errors = checkout.run("test.py", "image/test.png", "more", "--max_step", 1, *QUICK,
                          "--frames", "last", "--compare", "c.png", status=1).splitlines()
    assert errors[-1] == "2 of 5 images were skipped: more/cut.png, more/text.jpg"
    assert "more/cut.png" in errors[0]
    files = {str(file.relative_to(checkout.root)) for file in checkout.root.glob("output/*/*.png")}
    names = "test", "Test-3", "test-2"
    assert files == {f"output/{name}/{file}.png" for name in names
                     for file in ("painting", "generated0")}
    assert all((checkout.root / f"c-{name}.png").is_file() for name in names)
    errors = checkout.run("test.py", "more/cut.png", "more/text.jpg", status=2)
    assert errors.splitlines()[-1] == "error: none of the images can be read"


def test_only_the_last_frame_of_a_large_image_is_written(checkout):
    large = cv2.resize(cv2.imread(str(checkout.root / "image" / "test.png")), (2000, 1001))
    cv2.imwrite(str(checkout.root / "large.png"), large)
    out = checkout.run("test.py", "large.png", "--max_step", 1, *QUICK, "--size", 2000)
    assert "large.png: only the last of 5 frames is written; --frames all would take about" in out
    files = [file.name for file in (checkout.root / "output").iterdir()]
    assert sorted(files) == ["generated0.png", "painting.png"]


def test_later_frames_of_an_earlier_painting_are_named(checkout):
    for steps in (2, 1):
        process = checkout.start("test.py", "--max_step", steps, *QUICK)
        assert process.wait() == 0
    assert "output/generated5.png and 4 more frames of an earlier painting" in process.errors


def test_evaluation_measures_both_canvases(checkout):
    out = checkout.run("evaluate.py", "--split", "test", "--max_step", 3, "--batch_size", 2,
                       "--json", "result.json", "--precision", "fp32")
    result = json.loads(out.splitlines()[-1])
    assert result == json.loads((checkout.root / "result.json").read_text())
    assert result["images"] == 3
    assert result["strokes"] == [5, 15]
    data = Images(checkout.root / "data" / "img_align_celeba", checkout.root / "cache")
    policy = load_policy(checkout.root / "actor.pkl", checkout.root / "renderer.pkl", FP32)
    target = as_float(data.images[data.test])
    exact = torch.zeros_like(target)
    steps = list(policy.paint(exact, target, 3))
    for action, _ in steps:
        exact = composite(draw_batch, exact, action)
    for name, canvas in (("l2_neural", steps[-1][1]), ("l2_raster", exact)):
        expected = (canvas - target).square().mean().item()
        assert result[name][-1] == pytest.approx(expected, rel=1e-3)
    out = checkout.run("evaluate.py", "--max_step", 1, "--limit", 7)
    assert json.loads(out.splitlines()[-1])["images"] == 7


def test_several_images_have_folders_and_names_of_their_own(checkout):
    faces = checkout.root / "data" / "img_align_celeba"
    flags = (*QUICK, "--max_step", 2, "--divide", 2, "--strokes", "s.json", "--frames", "last")
    out = checkout.run("test.py", "--img", faces, "--img", "image/test.png", *flags)
    assert "10 images: mean squared error 0." in out
    assert "000001.jpg: 25 strokes" in out
    assert "output/002001/generated0.png" in checkout.files()
    checkout.run("test.py", "--img", faces / "000005.jpg", *flags, "--output", "alone")
    for together, alone in (("s-000005.json", "s.json"),
                            ("output/000005/generated0.png", "alone/generated0.png")):
        assert (checkout.root / together).read_bytes() == (checkout.root / alone).read_bytes()


@pytest.mark.parametrize("flags", [
    ("--divide", "2x3"), ("--divide", "auto"), ("--divide", 2, "--canvas", "exact"),
    ("--divide", 1, "--refine", 3), ("--divide", 2, "--actor", "none", "--refine", 3),
])
def test_replayed_strokes_give_the_painting(checkout, compiled, flags):
    out = checkout.run("test.py", "--max_step", 2, "--strokes", "s.json", "--video", "v.mp4",
                       "--fps", 10, "--frames", "every", 3, *QUICK, *flags)
    strokes, size, settings = read_json(checkout.root / "s.json")
    assert size == (100, 150)
    assert settings["max_step"] == 2 and settings["image"] == "test.png"
    assert settings["actor"] in ("actor.pkl", "none")
    assert re.fullmatch(r"\dx\d", settings["divide"])
    frames = sorted((checkout.root / "output").glob("generated*.png"))
    assert len(frames) == 4  # 3, 6, 9 and 10
    checkout.run("replay.py", "s.json", "--output", "replayed.png")
    last, replayed = (cv2.imread(str(path)).astype(int)
                      for path in (frames[-1], checkout.root / "replayed.png"))
    assert last.shape == replayed.shape == (100, 150, 3)
    with av.open(str(checkout.root / "v.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height) == (150, 100)
        assert stream.frames == 10 + 20  # 2 s held
    assert np.array_equal(last, replayed)
    if "--refine" in flags:
        before, *_ = map(float, re.findall(r"refining step \d: squared error (\S+)\n", out))
        assert max(strokes.height, strokes.width) == 256
        target = cv2.resize(cv2.imread(str(checkout.root / "image" / "test.png")),
                            (strokes.width, strokes.height)) / 255
        assert np.square(painted(strokes) - target).mean() < before


def test_grid_actor_paints_on_shifted_tiles_without_a_renderer(checkout, compiled):
    (checkout.root / "renderer.pkl").unlink()
    torch.save(half_state(Actor(readout="grid"), readout="grid"), checkout.root / "grid.pkl")
    checkout.run("test.py", "--actor", "grid.pkl", *QUICK, "--divide", 2, "--max_step", 36,
                 "--refine", 1, "--strokes", "s.json", "-o", "p.png")
    strokes, _, _ = read_json(checkout.root / "s.json")
    assert strokes.tiles.min() == -64
    checkout.run("replay.py", "s.json", "-o", "r.png")
    painting, replayed = (cv2.imread(str(checkout.root / f"{name}.png")) for name in "pr")
    assert np.array_equal(painting, replayed)
    checkout.refuse((("test.py", ("--actor", "grid.pkl", "--canvas", "neural"), "renderer.pkl"),))


@pytest.mark.usefixtures("narrow")
def test_default_number_of_steps_may_be_named(checkout, compiled):
    for number, flags in enumerate(((), ("--max_step", 80))):
        checkout.run("test.py", *QUICK, "--divide", 2, *flags, "-o", f"{number}.json")
    assert (checkout.root / "0.json").read_bytes() == (checkout.root / "1.json").read_bytes()


def test_refining_an_actors_painting_never_raises_its_error(checkout, compiled):
    out = checkout.run("test.py", ROOT / "image" / "test.png", "--actor", ROOT / "actor.pkl",
                       "--max_step", 40, "--refine", 19, "-o", "s.json")
    errors = [float(error) for error in re.findall(r"refining step \d+: squared error (\S+)", out)]
    assert len(errors) == 19
    assert max(errors) == errors[0] > errors[-1]


def test_refined_strokes_do_not_depend_on_the_number_of_threads(checkout, compiled):
    for threads in "12":
        subprocess.run(
            [sys.executable, "baseline/test.py", "--stroke", "bezier", "--refine", "20", "-o",
             f"{threads}.json"], cwd=checkout.root, check=True, capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads})
    assert (checkout.root / "1.json").read_bytes() == (checkout.root / "2.json").read_bytes()


@pytest.mark.parametrize(("name", "start"), [
    ("p.mp4", b"\0\0\0 ftyp"), ("p.gif", b"GIF89a"), ("p.svg", b"<svg "), ("p.json", b"{"),
    ("p.jpg", b"\xff\xd8"),
])
def test_suffix_of_output_says_what_is_written(checkout, compiled, name, start):
    """Random strokes of a family need no weights."""
    for weights in ("actor.pkl", "renderer.pkl"):
        (checkout.root / weights).unlink()
    files = checkout.files()
    checkout.run("test.py", "--stroke", "triangle", "--max_step", 1, "--refine", 2, "--size", 150,
                 "-o", name)
    assert checkout.files() - files == {name}
    assert (checkout.root / name).read_bytes().startswith(start)
    assert not name.endswith("json") or read_json(checkout.root / name)[0].family == "triangle"


@pytest.mark.parametrize(("background", "color"), [("none", "white"), ("Orange", "#ffa500")])
def test_transparent_photo_has_a_background_or_none(checkout, background, color):
    photo = np.full((60, 80, 4), 99, np.uint8)
    photo[:, :, 3] = np.arange(80)[::-1]  # its right end is transparent
    cv2.imwrite(str(checkout.root / "cut.png"), photo)
    checkout.run("test.py", "cut.png", "--max_step", 1, *QUICK, "--size", 80, "-o", "p.png",
                 "--strokes", "s.svg", "--compare", "c.png", "--background", background)
    painting = cv2.imread(str(checkout.root / "p.png"), cv2.IMREAD_UNCHANGED)
    target = cv2.imread(str(checkout.root / "c.png"))[:, 79]
    assert (target == getrgb(color)[::-1]).all()
    svg = (checkout.root / "s.svg").read_text()
    if background == "none":
        assert np.array_equal(painting[..., 3], photo[..., 3])
        assert '<rect width="' not in svg
    else:
        assert painting.shape == (60, 80, 3)
        assert f'fill="{color}"' in svg


BAD_INPUT = (
    ("test.py", ("circle.png",), "cannot read the image circle.png: Too many levels"),
    ("test.py", ("image/test.png", "--output", "circle.png"), "circle.png"),
    ("replay.py", ("circle.png",), "circle.png"),
    ("test.py", ("--img", "actor.pkl"), "not an image"),
    ("test.py", ("--actor", "nowhere.pkl"), "nowhere.pkl"),
    ("test.py", ("--actor", "renderer.pkl"), "another network"),
    ("test.py", ("--max_step", "1"), "no step for the tiles"),
    ("test.py", ("--output", "/proc/nowhere"), "/proc/nowhere"),
    ("test.py", ("--actor", "none", "--refine", "0"), "random strokes need --refine"),
    ("test.py", ("--stroke", "round", "--actor", "actor.pkl"), "--stroke takes no --actor"),
    ("test.py", ("--background", "nothing"), "nothing is no color"),
    ("test.py", ("-o", "x.txt"), ".txt is no kind of picture, film or strokes"),
    ("test.py", ("-o", "x.mp4", "--video", "y.gif"), "are both videos"),
    ("test.py", ("--strokes", "s.txt"), ".json or .svg"),
    ("test.py", ("--seconds", "5"), "needs a video"),
    ("test.py", ("image/test.png", "--img", "image/test.png"), "not both"),
    ("test.py", ("--img", "baseline"), "no images"),
    ("test.py", ("--seconds", "4000", "--video", "v.mp4"), "0.1 to 3600"),
    ("test.py", ("--compare", "image/test.png"), "the image"),
    ("test.py", ("--compare", "same.json", "--strokes", "same.json"), "same.json"),
    ("test.py", ("--actor", "a.json", "--strokes", "a.json"), "the place of the weights a.json"),
    ("test.py", ("wide.png", "-o", "new.webp"), "cannot write new.webp: 16384x8 pixels are too"),
    ("test.py", ("wide.png", "--compare", "new.webp", "--divide", "1"), "too many for that"),
    ("evaluate.py", ("--data", "nowhere"), "nowhere"),
    ("evaluate.py", ("--json", "actor.pkl"), "actor.pkl would take the place of the actor"),
    ("evaluate.py", ("--json", "baseline/../renderer.pkl"), "the place of the renderer"),
    ("evaluate.py", ("--json", "data/img_align_celeba/000001.jpg"), "the place of the image"),
    ("replay.py", ("strokes.json", "-o", "./strokes.json"), "the place of the strokes"),
    ("test.py", ("--compare", "output/generated7.png"), "--output"),
)


def test_bad_input_gives_an_error_line_and_writes_nothing(checkout):
    cv2.imwrite(str(checkout.root / "wide.png"), np.zeros((8, 16384, 3), np.uint8))
    (checkout.root / "circle.png").symlink_to("circle.png")
    checkout.refuse(BAD_INPUT)


def test_importing_creates_nothing(tmp_path):
    code = f"import {', '.join(MODULES)}"

    def files() -> set[Path]:
        return {path for path in ROOT.rglob("*")
                if not {".git", "__pycache__"} & set(path.parts)}

    before = files()
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True,
                   env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1",
                                     "PYTHONPATH": str(ROOT / "baseline")})
    assert list(tmp_path.iterdir()) == []
    assert files() == before


@pytest.mark.parametrize(("flags", "failing", "others"), [
    (("--strokes", "a.json"), "a-test.json", ["a-b.json"]),
    (("--video", "a.mp4"), "a-test.mp4", ["a-b.mp4"]),
    (("--video", "a.gif"), "a-test.gif", ["a-b.gif"]),
    (("--frames", "all", "--strokes", "s.svg", "--compare", "c.png"), "output/b/generated2.png",
     [f"{name}-{image}" for name, image in (("s", "test.svg"), ("s", "b.svg"), ("c", "b.png"))]),
])
def test_failed_output_ends_nothing_but_itself(checkout, flags, failing, others):
    shutil.copy(checkout.root / "image" / "test.png", checkout.root / "image" / "b.png")
    (checkout.root / failing).parent.mkdir(parents=True, exist_ok=True)
    (checkout.root / failing).symlink_to("/dev/full")
    errors = checkout.run("test.py", "image", "--max_step", 8, *QUICK, "--frames", "last", *flags,
                          status=2)
    assert "No space left on device" in errors
    assert errors.count("error: ") == 1
    for name in ("output/test/painting.png", "output/b/painting.png", *others):
        assert (checkout.root / name).stat().st_size > 0
