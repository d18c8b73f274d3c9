#!/usr/bin/env python3
"""Make the pictures of this folder anew, here or in the folder that is named: some minutes.

Those of other families than bezier need their renderers, such as triangle.pkl, beside renderer.pkl.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "baseline"))

from constants import FAMILY_NAMES
from painting.video import Video


def run(script: str, *flags: object) -> None:
    """Run a script, and show how."""
    print(f"python3 baseline/{script} {' '.join(map(str, flags))}", flush=True)
    subprocess.run([sys.executable, ROOT / "baseline" / script, *map(str, flags)], check=True)


def paint(jpg: Path, *flags: object) -> Path:
    """Paint the portrait, as a picture and as strokes.  Returns the file of these."""
    strokes = jpg.with_suffix(".json")
    run("test.py", *flags, "--strokes", strokes, "-o", strokes.with_suffix(".png"))
    run("replay.py", strokes, "--output", jpg)
    return strokes


def film(frames: list[np.ndarray], gif: Path) -> None:
    """The first 50 strokes, then every tenth frame, in a GIF 160 pixels wide."""
    height = round(160 * frames[0].shape[0] / frames[0].shape[1])
    shown = frames[:50] + frames[50::10] + frames[-1:] * 50
    with Video(gif, height=height, width=160, fps=25, times=[1] * len(shown)) as video:
        for frame in shown:
            video.write(cv2.resize(frame, (160, height), interpolation=cv2.INTER_AREA))


def make(folder: Path, work: Path) -> None:
    """Write all pictures to ``folder``; ``work`` is for what they are made of."""
    for name, suffix in (("test", ".png"), ("chelsea", ".jpg"), ("coffee", ".jpg"),
                         ("rocket", ".jpg")):
        photo = ROOT / "image" / f"{name}{suffix}"
        run("test.py", photo, "--max_step", 100, "--divide", 4, "--output", work / name)
        frames = [cv2.imread(str(work / name / f"generated{n}.png")) for n in range(500)]
        film(frames, folder / f"{name}.gif")
        if name == "test":
            row = [frames[n - 1] for n in (20, 100, 250, 500)] + [cv2.imread(str(photo))]
            small = [cv2.resize(each, (200, 200), interpolation=cv2.INTER_AREA) for each in row]
            cv2.imwrite(str(folder / "portrait.png"), np.hstack(small))

    alone = ("--divide", 1)
    paint(work / "agent.jpg", *alone)
    paint(work / "default.jpg")
    refined = paint(work / "refined.jpg", *alone, "--refine", 1000)
    run("replay.py", refined, "--seconds", 8, "--output", folder / "refined.svg")
    paint(work / "refined-4x4.jpg", "--max_step", 100, "--refine", 100)
    tiles = ("--max_step", 40, "--divide", 4, "--refine", 40)
    paint(work / "tiles.jpg", *tiles)
    paint(work / "overlap.jpg", *tiles, "--overlap", 32)
    for family in FAMILY_NAMES:
        renderer = ROOT / ("renderer.pkl" if family == "bezier" else f"{family}.pkl")
        if renderer.is_file():
            paint(work / f"{family}.jpg", *alone, "--actor", "none", "--renderer",
                    renderer, "--refine", 1000)
    for side in (128, 4096):
        run("replay.py", refined, "--size", side, "--output", work / "side.png")
        top, left, size = (round(part * side) for part in (0.305, 0.366, 0.25))
        detail = cv2.imread(str(work / "side.png"))[top : top + size, left : left + size]
        how = cv2.INTER_NEAREST if side == 128 else cv2.INTER_AREA
        cv2.imwrite(str(work / f"detail-{side}.jpg"),
                    cv2.resize(detail, (400, 400), interpolation=how),
                    (cv2.IMWRITE_JPEG_QUALITY, 80))
    for picture in work.glob("*.jpg"):
        picture.replace(folder / picture.name)


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target) as work:
        make(target, Path(work))
