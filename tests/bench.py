#!/usr/bin/env python3
"""Time every fast path beside the plain one, in one run: ``python3 tests/bench.py``.

Plain is fp32 with weights in the default memory layout, unfused optimisers that keep denormal
numbers, gradients into every network as in the reference, strokes drawn one by one between the
steps, batch normalisations of their own, and frames encoded one by one between the strokes.
Default is what the scripts do, and fast what they do with ``--fast``.  Each figure is a median
after a burn-in.  Work is counted on the default path: floating-point operations of matrix
products and convolutions, and bytes that all operations read and write.
"""

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "baseline"))
from constants import WIDTH
from DRL import ddpg, learner
from DRL.actor import Actor
from DRL.learner import Setup
from DRL.rpm import Transitions
from env import Environment
from grid.painter import load_painter
from painting.frames import Frames, every
from painting.refine import random_shapes
from Renderer.canvas import as_uint8
from Renderer.model import Renderer
from Renderer.raster import paint_exact
from Renderer.stroke_batch import draw_batch
from Renderer.stroke_data import BATCHES_AT_ONCE, StrokeBatches, drawn_ahead, drawn_on
from Renderer.stroke_gen import draw
from Renderer.strokes import Strokes
from running.device import Precision, computes_in_bf16, pick_device
from running.graph import Graphed
from running.optim import adam, set_rate
from running.ranks import Ranks
from utils.command import ACTOR, RENDERER, positive_int, run
from utils.weights import load_weights

KINDS = ("plain", "default", "fast")


class Work(TorchDispatchMode):
    """Counts floating-point operations of matrix products and convolutions, and bytes.

    Bytes are what every operation by itself reads and writes; views move nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Run an operation and count it."""
        kwargs = kwargs or {}
        with self:  # some operations are several in one
            parts = function.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        out = function(*args, **kwargs)
        if (count := flop_registry.get(function._overloadpacket)) is not None:
            self.operations += count(*args, **kwargs, out_val=out)
        if not function.is_view:
            tensors = (t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor))
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return out


def seconds_of(work: Callable[[], object], device: torch.device, count: int) -> float:
    """The median of ``count`` runs after a burn-in of a third as many, five at least on a GPU."""
    gpu = device.type == "cuda"
    seconds = []
    for _ in range(count + max(5 if gpu else 1, count // 3)):
        start = time.perf_counter()
        work()
        if gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[-count:])


def machine(precision: Precision) -> tuple[float, float]:
    """Floating-point operations a second of a matrix product, and bytes a second of a copy."""
    device, size = precision.device, 8192 if precision.device.type == "cuda" else 2048
    a, b = torch.rand(2, size, size, device=device,
                      dtype=torch.bfloat16 if precision.bf16 else torch.float32)
    product = seconds_of(lambda: a @ b, device, 10)
    big = torch.rand(2**26, device=device)
    there = torch.empty_like(big)
    copy = seconds_of(lambda: there.copy_(big), device, 10)
    return 2 * size**3 / product, 2 * big.numel() * 4 / copy


def strokes(device: torch.device, kind: str) -> Callable[[], object]:
    """64 strokes drawn one by one; as a batch; on a GPU in one kernel."""
    batch = torch.rand(64, 10)
    if kind == "plain":
        return lambda: [draw(stroke) for stroke in batch.numpy()]
    there = batch.to(device)
    return lambda: draw_batch(there, compiled=kind == "fast")


def stroke_batches(device: torch.device, kind: str) -> Iterator[tuple[torch.Tensor, ...]]:
    """Endless batches of 64 strokes and their pictures."""
    if kind != "plain":
        data = StrokeBatches(0, 64, "bezier", Ranks(), drawn=device.type == "cpu")
        yield from (drawn_ahead(data, 0, 10**9) if device.type == "cpu" else
                    drawn_on(device, data, 0, 10**9, kind == "fast"))
    while True:
        inputs = torch.rand(64, 10)
        pictures = np.stack([draw(stroke) for stroke in inputs.numpy()])
        yield inputs.to(device), torch.from_numpy(pictures).to(device)


def renderer_step(precision: Precision, kind: str) -> Callable[[], object]:
    """As many steps of the renderer's training, batch 64, as a GPU draws at once, drawn too."""
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

    def step(inputs: torch.Tensor, wanted: torch.Tensor) -> None:
        with precision.autocast():
            made = forward(inputs)
        loss = F.mse_loss(made.float(), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    step = Graphed(step, graphed)

    def steps() -> None:
        for _ in range(BATCHES_AT_ONCE):
            step(*next(batches))

    return steps


class Drawer:
    """A renderer that has learnt nothing, as the agent takes it."""

    family = "bezier"

    def __init__(self, precision: Precision, kind: str) -> None:
        self.network = Renderer().to(precision.device)
        self.precision = precision
        if kind != "plain":
            self.network.requires_grad_(False).to(memory_format=torch.channels_last)

    def __call__(self, shapes: torch.Tensor) -> torch.Tensor:
        with self.precision.autocast():
            return self.network(shapes)


def agent_of(precision: Precision, kind: str, **options) -> ddpg.DDPG:
    """The paper's agent; in kind plain with weights and optimisers as they come."""
    agent = ddpg.DDPG(Setup(
        render=Drawer(precision, kind), precision=precision, fast=kind == "fast"), **options)
    if kind == "plain":
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
    everything = [agent.render.network, *agent.networks.values(),
                  *agent.target_networks.values()]

    def work() -> None:
        frozen = learner.learning
        if kind == "plain":  # every network stays open
            for network in everything:
                network.requires_grad_(True)
            learner.learning = lambda network: nullcontext()
        try:
            agent.update(batch, 0.0)
        finally:
            learner.learning = frozen

    return work


class OneImage:
    """As much of the images as the environment needs."""

    def targets(self, code: torch.Tensor) -> torch.Tensor:
        """The same random image for all."""
        torch.manual_seed(0)
        image = torch.randint(256, (1, 3, 128, 128), dtype=torch.uint8, device=code.device)
        return image.expand(len(code), -1, -1, -1).contiguous()


def environment_step(precision: Precision, kind: str, paintings: int) -> Callable[[], object]:
    """Return a step of the environment: an action of the actor for every painting, painted."""
    device = precision.device
    agent = agent_of(precision, kind, reward="l2")
    env = Environment(OneImage(), agent.advance, paintings, 10**9, device)
    return lambda: env.step(agent.explore(*env.state(), ()))


def training_rates(pair: tuple[Precision, Precision], count: int, batch: int) -> None:
    """Print the frames a second of a training of each kind, its steps of the environment too."""
    print(f"\n| a training of batches of {batch} | seconds an update | frames a second |\n"
          "| --- | --- | --- |")
    for precision in pair:
        torch.manual_seed(0)
        torch.set_flush_denormal(True)
        seconds = seconds_of(update(precision, "default", batch), precision.device, count)
        # Ten updates come after 40 steps of as many paintings.
        seconds += 4 * seconds_of(
            environment_step(precision, "default", batch), precision.device, count)
        print(f"| the paper's, {precision} | {seconds:.2f} | {batch / seconds:.1f} |", flush=True)


def painting(precision: Precision, kind: str, size: int) -> Callable[[], object]:
    """Six bundles on 16 tiles, 30 frames of size x size, written."""
    painter = load_painter(ACTOR, RENDERER, precision)
    if kind == "plain":
        painter.actor = Actor().eval().to(precision.device)
        load_weights(painter.actor, ACTOR, "the actor", "")
    target = torch.rand(16, 3, 128, 128, device=precision.device)

    def paint() -> None:
        with tempfile.TemporaryDirectory() as folder, Frames(
            Path(folder), 0, size, size, every(1, 30)
        ) as writer:
            steps = painter.paint(torch.zeros_like(target), target, 6)
            for number, canvas in enumerate(canvas for _, canvases in steps for canvas in canvases):
                grid = as_uint8(canvas).view(4, 4, 3, 128, 128).permute(0, 3, 1, 4, 2)
                frame = grid.reshape(512, 512, 3).cpu().numpy()
                if kind == "plain":
                    picture = cv2.resize(frame, (size, size))
                    cv2.imwrite(f"{folder}/plain{len(list(Path(folder).iterdir()))}.png",
                                picture)
                else:
                    writer.write(number, frame)

    return paint


def encoding(size: int) -> Callable[[], object]:
    """The same 30 frames, resized and written, without painting."""
    frame = cv2.resize(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8), (512, 512))

    def write() -> None:
        with tempfile.TemporaryDirectory() as folder, Frames(
            Path(folder), 0, size, size, every(1, 30)
        ) as writer:
            for number in range(30):
                writer.write(number, frame.copy())

    return write


def exact_raster(precision: Precision, kind: str) -> Callable[[], object]:
    """200 strokes drawn and blended on a canvas of 128 pixels, one by one; compiled."""
    rng = np.random.default_rng(0)
    shapes, _ = random_shapes("bezier", np.linspace(1, 0, 200) ** 2, rng)
    every = [np.tile(area, (200, 1)) for area in ((0, 0, WIDTH), (0, 0, WIDTH, WIDTH))]
    painting = Strokes("bezier", WIDTH, WIDTH, shapes, rng.random((200, 3), np.float32), *every)

    def work() -> None:
        canvas = np.zeros((WIDTH, WIDTH, 3), np.float32)
        if kind != "plain":
            paint_exact(painting, canvas)
            return
        for shape, colour in zip(painting.shapes, painting.colors, strict=True):
            canvas += (1 - draw(shape))[..., None] * (colour - canvas)

    return work


def row(
    name: str, precisions: tuple[Precision, Precision], count: int, rates: tuple[float, float],
    work_of: Callable[[Precision, str], Callable[[], object] | None], parts: int = 1,
) -> None:
    """Measure the three kinds of a work, count it, and print a line of the table.

    The line is for one of the ``parts`` equal parts that a work has.
    """
    plain, own = precisions
    cells, work = [], None
    for kind in KINDS:
        torch.manual_seed(0)
        torch.set_flush_denormal(kind != "plain")
        work = work_of(plain if kind == "plain" else own, kind)
        cells.append(seconds_of(work, own.device, count) / parts if work else None)
        torch._dynamo.reset()
    work = work_of(own, "default")
    work()
    with Work() as counted:
        work()
    times = [f"{cell:.4f}" if cell else "-" for cell in cells]
    operations, moved = counted.operations / parts, counted.bytes / parts
    bound, of = max((operations / rates[0], "arithmetic"), (moved / rates[1], "memory"))
    best = min(cell for cell in cells if cell)
    share = f"{100 * bound / best:.0f} % of {of}" if operations else "-"
    print(f"| {name} | {' | '.join(times)} | {cells[0] / best:.2f} | "
          f"{operations / 1e12:.3f} | {moved / 1e9:.2f} | {share} |", flush=True)


def processor() -> str:
    """The name of the processor."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line for line in lines if line.startswith("model name"))
        bf16 = " with bf16" * computes_in_bf16(torch.device("cpu"))
        return name.partition(":")[2].strip() + bf16
    return "CPU"


def main(options: argparse.Namespace) -> None:
    """Print the tables."""
    device = pick_device("auto")
    gpu = device.type == "cuda"
    pair = plain, own = Precision("fp32", device), Precision("auto", device, learning=True)
    rates = machine(own)
    name = torch.cuda.get_device_name() if gpu else processor()
    print(f"torch {torch.__version__}, OpenCV {cv2.__version__}, {name}, "
          f"{torch.get_num_threads()} threads; plain in {plain}, the others in {own}; a matrix "
          f"product reaches {rates[0] / 1e12:.3f} TFLOP/s, a copy {rates[1] / 1e9:.1f} GB/s\n")
    if options.training:
        training_rates(pair, options.updates, options.batch_size)
        return
    print("| work | plain, s | default, s | `--fast`, s | ratio | TFLOP | GB | share |\n"
          "| --- | --- | --- | --- | --- | --- | --- | --- |")
    batch = options.batch_size

    def without_fast(work_of: Callable) -> Callable:
        return lambda precision, kind: None if kind == "fast" else work_of(precision, kind)

    row("drawing 64 strokes", pair, 10, rates, lambda p, kind: (
        None if kind == "fast" and not gpu else strokes(p.device, kind)))
    row("renderer step, batch 64, drawing included", pair, options.rounds, rates, renderer_step,
        BATCHES_AT_ONCE)
    row(f"update, batch {batch}", pair, options.updates, rates,
        lambda p, kind: update(p, kind, batch))
    row(f"environment step, {batch} paintings", pair, options.updates, rates, without_fast(
        lambda p, kind: environment_step(p, kind, batch)))
    for size in (512, 1024):
        row(f"painting 30 frames of {size}x{size} on 4x4 tiles",
            (plain, Precision("auto", device)), 3, rates, without_fast(
            lambda p, kind, size=size: painting(p, kind, size)))
        seconds = seconds_of(encoding(size), torch.device("cpu"), 3)
        print(f"| of which encoding alone | - | {seconds:.4f} | - | - | - | - | - |")
    row("exact raster of 200 strokes, 128x128", pair, 10, rates, without_fast(exact_raster))
    training_rates(pair, options.updates, batch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\nPeak memory of it all: {peak:.1f} GiB of the host"
          + (f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of the GPU" if gpu else ""))


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=positive_int, default=3, help="of renderer steps timed")
    parser.add_argument("--updates", type=positive_int, default=3, help="updates timed")
    parser.add_argument("--batch_size", type=positive_int, default=96, help="of an update")
    parser.add_argument("--training", action="store_true",
                        help="only the frames a second of trainings")
    return parser.parse_args()


if __name__ == "__main__":
    run(lambda: main(parse_args()))
