#!/usr/bin/env python3
"""Time every fast path beside the plain one, in one run: ``python3 tests/bench.py``.

Plain is fp32 with weights in the default memory layout, unfused optimisers that keep denormal
numbers, gradients into every network as in the reference, strokes drawn one by one between the
steps, and frames encoded one by one between the strokes.  Each figure is a median after a
burn-in.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "baseline"))
from DRL import ddpg
from DRL.painter import Painter
from DRL.rpm import Transitions
from Renderer.canvas import as_uint8
from Renderer.model import Renderer
from Renderer.stroke_gen import draw, draw_batch
from train_renderer import StrokeBatches, start_worker
from utils.command import ACTOR, RENDERER, positive_int, run
from utils.device import Precision, pick_device
from utils.pictures import FrameWriter

RATES = {"actor": 1e-4, "critic": 1e-4, "wgan": 1e-4}


def median_seconds(work: Callable[[], object], device: torch.device, count: int) -> float:
    """The median of ``count`` runs after a burn-in of a third as many."""
    seconds = []
    for _ in range(count + max(1, count // 3)):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[-count:])


def strokes(device: torch.device) -> tuple[float, float]:
    """64 strokes: one by one, and as a batch."""
    batch = torch.rand(64, 10)
    there = batch.to(device)
    return (
        median_seconds(lambda: [draw(stroke) for stroke in batch.numpy()], device, 10),
        median_seconds(lambda: draw_batch(there), device, 10),
    )


def renderer_step(precision: Precision, fast: bool, count: int) -> float:
    """A step of the renderer's training, batch 64, drawing included."""
    device = precision.device
    torch.manual_seed(0)
    renderer = Renderer().to(device)
    if fast:
        renderer.to(memory_format=torch.channels_last)
    options = {"fused": True} if fast else {"foreach": False}
    optimizer = torch.optim.Adam(renderer.parameters(), 1e-4, **options)
    data = StrokeBatches(0, 64, "bezier")
    loader = iter(DataLoader(data, None, num_workers=1, sampler=range(10**9), prefetch_factor=16,
                             worker_init_fn=start_worker)) if fast else None

    def drawn_now() -> tuple[torch.Tensor, torch.Tensor]:
        inputs = torch.rand(64, 10)
        pictures = np.stack([draw(stroke) for stroke in inputs.numpy()])
        return inputs, torch.from_numpy(pictures)

    def step() -> None:
        inputs, wanted = (t.to(device) for t in (next(loader) if fast else drawn_now()))
        with precision.autocast():
            made = renderer(inputs)
        loss = F.mse_loss(made.float(), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return median_seconds(step, device, count)


def update(precision: Precision, fast: bool, batch_size: int, count: int) -> float:
    """An update of discriminator, critic and actor."""
    device = precision.device
    torch.manual_seed(0)
    render = Renderer().to(device)
    if fast:
        render.requires_grad_(False).to(memory_format=torch.channels_last)
    agent = ddpg.DDPG(render, precision)
    if not fast:
        for name, network in agent.networks.items():
            for each in (network, agent.slow[name]):
                each.requires_grad_(True).to(memory_format=torch.contiguous_format)
            agent.optimizers[name] = torch.optim.Adam(network.parameters(), foreach=False)
    canvas = torch.randint(256, (batch_size, 3, 128, 128), dtype=torch.uint8, device=device)
    batch = Transitions(
        canvas, torch.rand(batch_size, 65, device=device), canvas.flip(0),
        torch.zeros(batch_size, dtype=torch.int64, device=device),
        torch.randint(40, (batch_size,), device=device),
    )
    freeze = ddpg.learning
    if not fast:
        ddpg.learning = lambda network: torch.enable_grad()  # every network stays open
    try:
        return median_seconds(lambda: agent.update(batch, canvas.flip(1), RATES), device, count)
    finally:
        ddpg.learning = freeze


def painting(precision: Precision, fast: bool) -> float:
    """Six bundles on 16 tiles, 30 frames of 1024 x 1024, written."""
    painter = Painter(ACTOR, RENDERER, precision)
    target = torch.rand(16, 3, 128, 128, device=precision.device)

    def paint() -> None:
        with tempfile.TemporaryDirectory() as folder, FrameWriter(
            Path(folder), 0, 1024, 1024
        ) as writer:
            for _, canvases in painter.paint(torch.zeros_like(target), target, 6):
                for canvas in canvases:
                    grid = as_uint8(canvas).view(4, 4, 3, 128, 128).permute(0, 3, 1, 4, 2)
                    frame = grid.reshape(512, 512, 3).cpu().numpy()
                    if fast:
                        writer.write(frame)
                    else:
                        picture = cv2.resize(frame, (1024, 1024))
                        cv2.imwrite(f"{folder}/plain{writer.next}.png", picture)

    return median_seconds(paint, precision.device, 3)


def main(options: argparse.Namespace) -> None:
    """Print one table."""
    device = pick_device("auto")
    plain, fast = Precision("fp32", device), Precision("auto", device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"torch {torch.__version__}, OpenCV {cv2.__version__}, {name}, "
          f"{torch.get_num_threads()} threads; plain in {plain}, fast in {fast}\n")
    print("| work | plain, s | fast, s | ratio |\n| --- | --- | --- | --- |")

    def row(work: str, slow: float, quick: float) -> None:
        print(f"| {work} | {slow:.4f} | {quick:.4f} | {slow / quick:.2f} |", flush=True)

    row("drawing 64 strokes", *strokes(device))
    torch.set_flush_denormal(False)
    slow = renderer_step(plain, False, options.steps)
    torch.set_flush_denormal(True)
    row("renderer step, batch 64, drawing included", slow,
        renderer_step(fast, True, options.steps))
    torch.set_flush_denormal(False)
    slow = update(plain, False, options.batch_size, options.updates)
    torch.set_flush_denormal(True)
    row(f"update, batch {options.batch_size}", slow,
        update(fast, True, options.batch_size, options.updates))
    row("painting 30 frames of 1024x1024 on 4x4 tiles", painting(plain, False),
        painting(fast, True))


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=positive_int, default=30, help="renderer steps timed")
    parser.add_argument("--updates", type=positive_int, default=3, help="updates timed")
    parser.add_argument("--batch_size", type=positive_int, default=96, help="of an update")
    return parser.parse_args()


if __name__ == "__main__":
    run(lambda: main(parse_args()))
