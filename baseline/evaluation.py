"""The squared error of an actor's paintings over a folder of images."""

import json
import math
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from DRL.rollout import Policy
from grid.policy import load_policy
from images import Images
from options import EvaluateOptions
from Renderer.canvas import as_float, composite
from Renderer.stroke_batch import draw_batch
from running.device import Precision, pick_device
from utils.command import enough_memory
from utils.files import keep_apart, make_room, real, write_atomically
from utils.pictures import psnr

MARKS = (5, 20, 50, 100, 200, 400, 1000, 2000, 4000, 10000)  # strokes to measure after


def squared_errors(canvas: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    """Return the mean squared error (B,) of each canvas (B, 3, 128, 128) in [0, 1]."""
    return (canvas - target).square().mean((1, 2, 3)).cpu().numpy()


def both_errors(
    painter: Policy, images: torch.Tensor, chosen: np.ndarray, marks: list[int], batch: int
) -> np.ndarray:
    """Paint images and compare two canvases with each: neural, and drawn exactly.

    images: (all, 3, 128, 128) uint8; chosen: indices (N,); marks: numbers of strokes, at each of
    which a bundle ends and at the last a painting.  The actor sees one of the canvases; the other
    one gets the same strokes.  Canvases stay floats.  Returns the squared errors (2, marks, N),
    neural first.
    """
    max_step = marks[-1] // painter.bundle
    draw = partial(draw_batch, family=painter.family)
    other = draw if painter.canvas == "neural" else painter.render
    errors = np.empty((2, len(marks), len(chosen)))
    steps = max_step * math.ceil(len(chosen) / batch)
    with tqdm(total=steps, unit="step", disable=None) as bar:
        for first in range(0, len(chosen), batch):
            here = slice(first, first + batch)
            target = as_float(images[chosen[here]].to(painter.device))  # (B, 3, 128, 128)
            blank = unseen = torch.zeros_like(target)
            for step, (action, canvases) in enumerate(painter.paint(blank, target, max_step), 1):
                unseen = composite(other, unseen, action)
                both = [canvases[-1], unseen]
                if painter.bundle * step in marks:
                    mark = marks.index(painter.bundle * step)
                    for canvas, error in zip(both, errors[:, mark], strict=True):
                        error[here] = squared_errors(canvas, target)
                bar.update()
    return errors if painter.canvas == "neural" else errors[::-1]


@enough_memory("--batch_size")
def evaluate(options: EvaluateOptions) -> None:
    """Paint the images, measure and report as the options of ``evaluate.py`` say."""
    device = pick_device(options.device)
    precision = Precision(options.precision, device)
    painter = load_policy(options.actor, options.renderer, precision)
    data = Images(options.data, options.cache)
    if options.json:
        same = {real(options.json).name}.intersection(data.names)
        keep_apart([options.json], {options.data / name: "the image" for name in same})
        make_room(options.json)
    chosen = np.arange(len(data.names)) if options.split == "all" else data.test
    chosen = chosen[: options.limit]
    total = painter.bundle * options.max_step
    marks = [*(mark for mark in MARKS if mark < total and mark % painter.bundle == 0), total]
    print(f"{len(chosen)} images of {options.data} ({options.split}), {total} strokes each, "
          f"on {device} in {precision}", flush=True)
    errors = both_errors(painter, data.images, chosen, marks, options.batch_size)
    l2_neural, l2_raster = errors.mean(2).tolist()
    psnr_neural, psnr_raster = psnr(errors).mean(2).tolist()
    print("strokes  neural squared error   PSNR dB  exact squared error   PSNR dB")
    for row in zip(marks, l2_neural, psnr_neural, l2_raster, psnr_raster, strict=True):
        print("{:7}  {:20.5f}  {:8.2f}  {:19.5f}  {:8.2f}".format(*row))
    result = json.dumps({
        "images": len(chosen), "strokes": marks,
        "l2_neural": l2_neural, "l2_raster": l2_raster,
        "psnr_neural": psnr_neural, "psnr_raster": psnr_raster,
    })
    print(result, flush=True)
    if options.json:
        write_atomically(options.json, lambda file: file.write(f"{result}\n".encode()))
