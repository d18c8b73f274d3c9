#!/usr/bin/env python3
"""Make the pictures of this folder, here or in the folder that is named: a quarter of an hour."""

import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "baseline"))

from constants import FAMILY_NAMES

PORTRAIT = ROOT / "image" / "test.png"
FAST = ("--divide", 1, "--refine", 0)
BEST = ("--refine", 200)
BOX = 320  # pixels a side of a picture on a sheet
QUALITY = (cv2.IMWRITE_JPEG_QUALITY, 85)


def run(script: str, *flags: object) -> None:
    """Run a script, and show how."""
    print(f"python3 baseline/{script} {' '.join(map(str, flags))}", flush=True)
    subprocess.run([sys.executable, ROOT / "baseline" / script, *map(str, flags)], check=True)


def boxed(picture: np.ndarray) -> np.ndarray:
    """Return a picture in the middle of a white square of BOX pixels a side."""
    scale = BOX / max(picture.shape[:2])
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    above, left = ((BOX - side) // 2 for side in small.shape[:2])
    return cv2.copyMakeBorder(small, above, BOX - above - len(small), left,
                              BOX - left - small.shape[1], cv2.BORDER_CONSTANT,
                              value=(255, 255, 255))


def photos(work: Path) -> list[Path]:
    """Return six photos: four squares, a tall and a wide one, which are written to ``work``."""
    coffee, cat, rocket = (ROOT / "image" / f"{name}.jpg" for name in (
        "coffee", "chelsea", "rocket"))
    tall, wide = work / "tall.png", work / "wide.png"
    cv2.imwrite(str(tall), cv2.imread(str(rocket))[40:, 150:290])
    cv2.imwrite(str(wide), cv2.imread(str(cat))[60:180])
    return [PORTRAIT, coffee, cat, rocket, tall, wide]


def sheets(folder: Path, work: Path) -> None:
    """Write the six photos, each beside its fast, its default and its best painting."""
    rows = []
    for photo in photos(work):
        row = [photo]
        for name, flags in (("fast", FAST), ("default", ()), ("best", BEST)):
            row.append(work / f"{photo.stem}-{name}.png")
            run("test.py", photo, *flags, "-o", row[-1])
        rows.append(np.hstack([boxed(cv2.imread(str(file))) for file in row]))
    for number in (0, 1):
        cv2.imwrite(str(folder / f"photos-{number + 1}.jpg"),
                    np.vstack(rows[3 * number : 3 * number + 3]), QUALITY)


def portrait(folder: Path, work: Path) -> None:
    """Write the portrait in different ways."""
    run("test.py", PORTRAIT, "-o", folder / "default.jpg", "--strokes", work / "default.json")
    run("test.py", PORTRAIT, *FAST, "-o", folder / "agent.jpg")
    refined = work / "refined.json"
    run("test.py", PORTRAIT, "--divide", 1, "--refine", 300, "-o", folder / "refined.jpg",
        "--strokes", refined, folder / "refined.svg", "--seconds", 8)
    for family in FAMILY_NAMES:
        run("test.py", PORTRAIT, "--stroke", family, "--refine", 300, "-o",
            folder / f"{family}.jpg")
    row = []
    for strokes in (20, 100, 200, 1000, 4480):
        run("replay.py", work / "default.json", "--until", strokes, "--output", work / "part.png")
        row.append(boxed(cv2.imread(str(work / "part.png"))))
    cv2.imwrite(str(folder / "progress.jpg"), np.hstack(row), QUALITY)
    for side in (128, 4096):
        run("replay.py", refined, "--size", side, "--output", work / "side.png")
        top, left, size = (round(part * side) for part in (0.305, 0.366, 0.25))
        detail = cv2.imread(str(work / "side.png"))[top : top + size, left : left + size]
        how = cv2.INTER_NEAREST if side == 128 else cv2.INTER_AREA
        cv2.imwrite(str(folder / f"detail-{side}.jpg"),
                    cv2.resize(detail, (400, 400), interpolation=how), QUALITY)


def make(folder: Path, work: Path) -> None:
    """Write all pictures to ``folder``; ``work`` is for what they are made of."""
    sheets(folder, work)
    portrait(folder, work)
    for photo in photos(work)[:4]:
        run("test.py", photo, "-o", folder / f"{photo.stem}.gif", "--size", 200, "--fps", 20,
            "--seconds", 6)


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        make(target, Path(work))
