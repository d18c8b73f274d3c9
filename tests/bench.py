#!/usr/bin/env python3
"""Time every fast path against the plain one: ``python3 tests/bench.py``.

Plain is fp32 with weights in the default memory layout, unfused optimizers that keep denormal
numbers, gradients into every network as in the reference, and strokes drawn one by one between
the steps.  Default is what the scripts do, and fast what they do with ``--fast``.  Each figure is
a median after a burn-in.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import cv2
import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "baseline"))
from DRL import ddpg, learner
from DRL.learner import Setup
from DRL.rpm import Transitions
from env import Environment
from Renderer.model import Renderer, TrainedRender
from Renderer.stroke_batch import draw_batch
from Renderer.stroke_data import BATCHES_AT_ONCE, StrokeBatches, drawn_ahead, drawn_on
from Renderer.stroke_gen import draw
from running.device import Precision, computes_in_bf16, pick_device
from running.graph import Graphed
from running.optim import adam, set_rate
from running.ranks import Ranks
from utils.command import positive_int, run


def seconds_of(work: Callable[[], object], device: torch.device, count: int) -> float:
    """Return the median time of ``count`` runs after a burn-in."""
    gpu = device.type == "cuda"
    seconds = []
    for _ in range(count + max(5 if gpu else 1, count // 3)):
        start = time.perf_counter()
        work()
        if gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[-count:])


def strokes(device: torch.device, kind: str) -> Callable[[], object]:
    """Return work that draws 64 strokes: one by one, as a batch, or on a GPU in one kernel."""
    batch = torch.rand(64, 10)
    if kind == "plain":
        return lambda: [draw(stroke) for stroke in batch.numpy()]
    batch = batch.to(device)
    return lambda: draw_batch(batch, compiled=kind == "fast")


def stroke_batches(device: torch.device, kind: str) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield endless batches of 64 strokes and their pictures."""
    if kind != "plain":
        data = StrokeBatches(0, 64, "bezier", Ranks())
        yield from (drawn_ahead(data, 0, 10**9) if device.type == "cpu" else
                    drawn_on(device, data, 0, 10**9, kind == "fast"))
    while True:
        inputs = torch.rand(64, 10)
        pictures = np.stack([draw(stroke) for stroke in inputs.numpy()])
        yield inputs.to(device), torch.from_numpy(pictures).to(device)


def renderer_step(precision: Precision, kind: str) -> Callable[[], object]:
    """Return a step of the renderer's training, batch 64, drawing included."""
    device = precision.device
    graphed = kind == "fast" and device.type == "cuda"
    renderer = Renderer().to(device)
    if kind == "plain":
        optimizer = torch.optim.Adam(renderer.parameters(), 1e-4, foreach=False)
    else:
        renderer.to(memory_format=torch.channels_last)
        set_rate(optimizer := adam(renderer, graphed), 1e-4)
    forward = torch.compile(renderer) if kind == "fast" else renderer
    batches = stroke_batches(device, kind)

    def step(inputs: torch.Tensor, pictures: torch.Tensor) -> None:
        with precision.autocast():
            predictions = forward(inputs)
        loss = F.mse_loss(predictions.float(), pictures)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    step = Graphed(step, graphed)
    return lambda: [step(*next(batches)) for _ in range(BATCHES_AT_ONCE)]


def agent_of(precision: Precision, kind: str, **options) -> ddpg.DDPG:
    """Return the paper's agent; of kind plain, with PyTorch's default layout and optimizers."""
    render = TrainedRender(Renderer(), "bezier", precision)
    agent = ddpg.DDPG(Setup(render=render, precision=precision, fast=kind == "fast"), **options)
    if kind == "plain":
        render.network.to(memory_format=torch.contiguous_format)
        for name, network in agent.networks.items():
            for each in (network, agent.target_networks[name]):
                each.to(memory_format=torch.contiguous_format)
            agent.optimizers[name] = torch.optim.Adam(network.parameters(), foreach=False)
    return agent


def update(precision: Precision, kind: str, batch_size: int) -> Callable[[], object]:
    """Return an update of discriminator, critic and actor."""
    device = precision.device
    agent = agent_of(precision, kind)
    canvas = torch.randint(256, (batch_size, 3, 128, 128), dtype=torch.uint8, device=device)
    batch = Transitions(
        canvas, torch.rand(batch_size, 65, device=device), canvas.flip(0),
        canvas.flip(1), torch.randint(40, (batch_size,), device=device),
    )
    networks = [agent.render.network, *agent.networks.values(), *agent.target_networks.values()]

    backward = torch.Tensor.backward

    def plain_update() -> None:
        for network in networks:
            network.requires_grad_(True)
        with (mock.patch.object(learner, "unfrozen", lambda network: nullcontext()),
              mock.patch.object(torch.Tensor, "backward", lambda loss, inputs: backward(loss))):
            agent.update(batch, 0.0)

    return plain_update if kind == "plain" else lambda: agent.update(batch, 0.0)


def environment_step(precision: Precision, kind: str, paintings: int) -> Callable[[], object]:
    """Return a step of the environment, the actor's forward pass included."""
    device = precision.device
    agent = agent_of(precision, kind, reward="l2")
    target = torch.randint(256, (paintings, 3, 128, 128), dtype=torch.uint8, device=device)
    images = SimpleNamespace(targets=lambda code: target)
    env = Environment(images, agent.advance, paintings, 10**9, device)
    return lambda: env.step(agent.rollout_action(*env.state(), ()))


def row(
    name: str, precisions: tuple[Precision, Precision], count: int,
    work_of: Callable[[Precision, str], Callable[[], object]], *, fast: bool = True, parts: int = 1,
) -> None:
    """Print a line of the table: the times of the three kinds of a work of equal parts."""
    cells = []
    for kind in ("plain", "default", "fast") if fast else ("plain", "default"):
        torch.manual_seed(0)
        torch.set_flush_denormal(kind != "plain")
        precision = precisions[kind != "plain"]
        cells.append(seconds_of(work_of(precision, kind), precision.device, count) / parts)
        torch._dynamo.reset()
    times = [f"{cell:.4f}" for cell in cells] + ["-"] * (3 - len(cells))
    print(f"| {name} | {' | '.join(times)} | {cells[0] / min(cells):.2f} |", flush=True)


def processor() -> str:
    """Return the name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names or ["CPU"])[0] + " with bf16" * computes_in_bf16(torch.device("cpu"))


def main(options: argparse.Namespace) -> None:
    """Print the table."""
    device = pick_device("auto")
    gpu = device.type == "cuda"
    pair = plain, default = Precision("fp32", device), Precision("auto", device, learning=True)
    name = torch.cuda.get_device_name() if gpu else processor()
    print(f"torch {torch.__version__}, OpenCV {cv2.__version__}, {name}, "
          f"{torch.get_num_threads()} threads; plain in {plain}, the others in {default}\n\n"
          "| work | plain, s | default, s | `--fast`, s | ratio |\n"
          "| --- | --- | --- | --- | --- |")
    count, batch = options.updates, options.batch_size
    row("drawing 64 strokes", pair, 10, lambda p, kind: strokes(p.device, kind), fast=gpu)
    row("renderer step, batch 64, drawing included", pair, count, renderer_step,
        parts=BATCHES_AT_ONCE)
    row(f"update, batch {batch}", pair, count, lambda p, kind: update(p, kind, batch))
    row(f"environment step, {batch} paintings", pair, count,
        lambda p, kind: environment_step(p, kind, batch), fast=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\nPeak memory: {peak:.1f} GiB of the host"
          + (f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of the GPU" if gpu else ""))


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=positive_int, default=3, help="repetitions timed")
    parser.add_argument("--batch_size", type=positive_int, default=96, help="of an update")
    return parser.parse_args()


if __name__ == "__main__":
    run(lambda: main(parse_args()))
