"""The squared error of an actor's paintings over a folder of images."""

import json
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from constants import LOGGED_STROKES
from DRL.rollout import Policy
from grid.policy import load_policy
from images import Images
from Renderer.canvas import as_float, composite
from Renderer.stroke_batch import draw_batch
from running.device import Precision, pick_device
from utils.command import Options, enough_memory
from utils.files import keep_apart, make_room, real, write_atomically
from utils.pictures import psnr


def both_errors(
    policy: Policy, images: torch.Tensor, chosen: np.ndarray, marks: list[int], batch: int
) -> np.ndarray:
    """Paint images; return the MSE (2, marks, N) of the neural and the exact rasterizer's canvas.

    images: (all, 3, 128, 128) uint8; chosen: indices (N,); marks: numbers of strokes, at each of
    which a bundle ends and at the last a painting.  The actor sees one of the canvases; the other
    one gets the same strokes.  Canvases are not rounded.
    """
    max_step = marks[-1] // policy.bundle
    draw = partial(draw_batch, family=policy.family)
    other = draw if policy.canvas == "neural" else policy.render
    errors = np.empty((2, len(marks), len(chosen)))
    batches = range(0, len(chosen), batch)
    with tqdm(total=max_step * len(batches), unit="step", disable=None) as bar:
        for first in batches:
            rows = slice(first, first + batch)
            target = as_float(images[chosen[rows]].to(policy.device))  # (B, 3, 128, 128)
            blank = unseen = torch.zeros_like(target)
            for step, (action, seen) in enumerate(policy.paint(blank, target, max_step), 1):
                unseen = composite(other, unseen, action)
                if (strokes := policy.bundle * step) in marks:
                    for number, canvas in enumerate((seen, unseen)):
                        error = (canvas - target).square().mean((1, 2, 3))
                        errors[number, marks.index(strokes), rows] = error.cpu()
                bar.update()
            if bar.disable:
                print(f"{min(first + batch, len(chosen))} of {len(chosen)} images", flush=True)
    return errors if policy.canvas == "neural" else errors[::-1]


@enough_memory("--batch_size")
def evaluate(options: Options) -> None:
    """Paint the images, measure and report as the options of ``evaluate.py`` say."""
    device = pick_device(options.device)
    precision = Precision(options.precision, device)
    policy = load_policy(options.actor, options.renderer, precision)
    data = Images(options.data)
    if options.json:
        same = {real(options.json).name}.intersection(data.names)
        keep_apart([options.json], {options.actor: "the actor", options.renderer: "the renderer"}
                   | {options.data / name: "the image" for name in same})
        make_room(options.json)
    chosen = np.arange(len(data.names)) if options.split == "all" else data.test
    chosen = chosen[: options.limit]
    total = policy.bundle * options.max_step
    marks = [n for n in LOGGED_STROKES if n < total and n % policy.bundle == 0] + [total]
    print(f"{len(chosen)} images of {options.data} ({options.split}), {total} strokes each, "
          f"on {device} in {precision}", flush=True)
    errors = both_errors(policy, data.images, chosen, marks, options.batch_size)
    l2_neural, l2_raster = errors.mean(2).tolist()
    psnr_neural, psnr_raster = psnr(errors).mean(2).tolist()
    print("strokes  neural squared error   PSNR dB  exact squared error   PSNR dB")
    for row in zip(marks, l2_neural, psnr_neural, l2_raster, psnr_raster, strict=True):
        print("{:7}  {:20.5f}  {:8.2f}  {:19.5f}  {:8.2f}".format(*row))
    result = json.dumps({
        "images": len(chosen), "strokes": marks,
        "l2_neural": l2_neural, "l2_raster": l2_raster,
        "psnr_neural": psnr_neural, "psnr_raster": psnr_raster})
    print(result, flush=True)
    if options.json:
        write_atomically(options.json, lambda file: file.write(f"{result}\n".encode()))
