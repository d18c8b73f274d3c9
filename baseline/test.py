#!/usr/bin/env python3
"""Paint an image stroke by stroke and write a frame after every stroke."""

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from DRL.painter import Painter
from Renderer.canvas import BUNDLE, as_float, as_uint8, from_tiles, smooth_seams, to_tiles
from Renderer.stroke_gen import WIDTH
from utils.command import (
    ACTOR,
    RENDERER,
    ROOT,
    Parser,
    UserError,
    add_device_flags,
    positive_int,
    run,
    whole_number,
)
from utils.device import Precision, pick_device
from utils.pictures import FrameWriter, psnr, read_picture
from utils.weights import make_folder


def target_tiles(picture: np.ndarray, divide: int, device: torch.device) -> torch.Tensor:
    """Squash a picture (H, W, 3) uint8 to 128 D x 128 D and cut it.

    Returns (D D, 3, 128, 128) in [0, 1].
    """
    squashed = cv2.resize(picture, 2 * (divide * WIDTH,))
    planes = torch.from_numpy(squashed).to(device).permute(2, 0, 1)[None]
    return to_tiles(as_float(planes))


def joined_frames(canvases: list[torch.Tensor], divide: int) -> np.ndarray:
    """Canvases (D D, 3, 128, 128) in [0, 1] to pictures (n, 128 D, 128 D, 3) uint8."""
    pictures = smooth_seams(from_tiles(torch.cat(canvases), divide), divide)
    return as_uint8(pictures).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def paint_picture(
    painter: Painter, picture: np.ndarray, max_step: int, divide: int, writer: FrameWriter
) -> tuple[int, float]:
    """Paint the whole picture, then, with D > 1, all of its D x D tiles side by side.

    Returns the number of strokes and the squared error at the end.
    """
    halves = [(1, max_step)] if divide == 1 else [(1, max_step // 2), (divide, max_step // 2)]
    canvas = torch.zeros(1, 3, WIDTH, WIDTH, device=painter.device)
    strokes, error = 0, 0.0
    for tiles, steps in halves:
        target = target_tiles(picture, tiles, painter.device)  # (D D, 3, 128, 128)
        whole = F.interpolate(canvas, size=2 * (tiles * WIDTH,), mode="bilinear")
        canvas = to_tiles(whole)  # (D D, 3, 128, 128)
        name = "canvas" if tiles == 1 else f"{tiles}x{tiles} tiles"
        for step, (_, canvases) in enumerate(painter.paint(canvas, target, steps), 1):
            canvas = canvases[-1]
            for frame in joined_frames(canvases, tiles):
                writer.write(frame)
            strokes += BUNDLE * len(canvas)
            error = (canvas - target).square().mean().item()
            print(f"{name} step {step}: squared error {error:.5f}", flush=True)
    return strokes, error


def main(options: argparse.Namespace) -> None:
    """Paint as the options say; see ``parse_args``."""
    start = time.monotonic()
    device = pick_device(options.device)
    picture = read_picture(options.img)
    precision = Precision(options.precision, device)
    painter = Painter(options.actor, options.renderer, precision)
    make_folder(options.output)
    height, width = picture.shape[:2]
    with FrameWriter(options.output, options.imgid, width, height) as writer:
        strokes, error = paint_picture(
            painter, picture, options.max_step, options.divide, writer)
    print(f"{strokes} strokes in {time.monotonic() - start:.1f} s: squared error {error:.5f}, "
          f"PSNR {psnr(error):.2f} dB; {writer.next - writer.first} frames, "
          f"{writer.path(writer.first)} to {writer.path(writer.next - 1).name}", flush=True)
    if later := writer.later_frames():
        print(f"warning: {later[0]} and {len(later) - 1} more frames of an earlier painting follow "
              "them; delete those before making a video", file=sys.stderr)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--img", type=Path, default=ROOT / "image" / "test.png",
                        help="the image to paint; what is transparent in it counts as white")
    parser.add_argument("--max_step", type=positive_int, default=40,
                        help=f"steps of {BUNDLE} strokes; half of them on tiles with --divide")
    parser.add_argument("--divide", type=positive_int, default=4, metavar="D",
                        help="paint the second half on D x D tiles; 1: no second half")
    parser.add_argument("--actor", type=Path, default=ACTOR, help="weights of the actor")
    parser.add_argument("--renderer", type=Path, default=RENDERER, help="weights of the renderer")
    parser.add_argument("--imgid", type=whole_number, default=0, help="number of the first frame")
    parser.add_argument("--output", type=Path, default=Path("output"),
                        help="folder for the frames generated<N>.png")
    add_device_flags(parser)
    options = parser.parse_args()
    if options.divide > 1 and options.max_step < 2:
        raise UserError(f"--max_step {options.max_step} leaves no step for the tiles; "
                        "use --max_step 2 or more, or --divide 1")
    return options


if __name__ == "__main__":
    run(lambda: main(parse_args()))
