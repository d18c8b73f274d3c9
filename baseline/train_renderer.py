#!/usr/bin/env python3
"""Train the renderer network to draw what the rasterizer draws."""

from constants import FAMILY_NAMES
from utils import command as cli
from utils.command import RENDERER, ROOT, TRAIN_LOG


def parse_args(arguments: list[str] | None = None) -> cli.Options:
    """Read the command line, or other arguments."""
    parser = cli.Parser(__doc__, "python3 baseline/train_renderer.py --minutes 60")
    group = parser.add_argument_group("how it learns")
    length = group.add_mutually_exclusive_group()
    length.add_argument("--steps", type=cli.positive_int, metavar="N",
                        help="the training's length (500000)")
    length.add_argument("--minutes", type=cli.positive_float, metavar="N",
                        help="choose the number of steps that fits, after a burn-in")
    add = group.add_argument
    add("--batch_size", type=cli.positive_int, default=64, metavar="N", help="strokes a step")
    add("--lr", type=cli.positive_float, default=5e-4, metavar="RATE",
        help="the highest rate of Adam")
    add("--schedule", default="cosine", choices=("cosine", "stepped"),
        help="how the rate falls: by cosine decay, or to a tenth after 40 %% and 80 %%")
    add("--stroke", default="bezier", choices=FAMILY_NAMES, help="the family of strokes to learn")
    add("--scratch", action="store_true",
        help="start from random weights, not from those in --output")
    add("--seed", type=cli.seed_type, default=1234, metavar="N", help="of all random numbers")
    running = parser.add_argument_group("running")
    add = running.add_argument
    add("--output", type=cli.new_file, metavar="FILE", help="the weight file to write "
        "(renderer.pkl; of another family, its name, like triangle.pkl)")
    add("--log", type=cli.path_type, metavar="DIR", default=str(TRAIN_LOG),
        help="the folder for the run's folder")
    add("--resume", type=cli.path_type, nargs="?", const=False, metavar="DIR",
        help="resume the run in DIR, or with the newest unfinished one; --steps N gives it "
        "another length, --minutes N ends it N minutes from now")
    add("--validate_interval", type=cli.positive_int, default=1000, metavar="N",
        help="steps between validations and checkpoints")
    add("--fast", action="store_true", help="compile the network (needs a C++ compiler) and, on a "
        "GPU, replay steps as CUDA graphs (never tried on a GPU yet)")
    cli.add_device_flags(running)
    options = parser.parse_args(arguments)
    if options.resume is None and options.steps is None and options.minutes is None:
        options.steps = 500_000
    if options.resume is None and options.output is None:
        bezier = options.stroke == "bezier"
        options.output = RENDERER if bezier else ROOT / f"{options.stroke}.pkl"
    for name in ("log", "output"):
        if path := getattr(options, name):
            setattr(options, name, path.absolute())
    return cli.freeze(options)


def main(options: cli.Options) -> None:
    """Train as the options say."""
    from renderer_trainer import RendererTraining  # these imports take seconds, mistakes none
    from running.loop import start

    start(options, options.log, "Renderer", parse_args, RendererTraining, "--batch_size")


if __name__ == "__main__":
    cli.run(lambda: main(parse_args()))
