#!/usr/bin/env python3
"""Train the agent to paint a folder of images with a trained renderer."""

import argparse

from constants import BUNDLE, LARGEST_BUNDLE, METHOD_FLAGS, REPLAY_FLAGS, STEPS
from utils import command as cli
from utils.command import RENDERER, ROOT, TRAIN_LOG, UserError


def parse_args(arguments: list[str] | None = None) -> cli.Options:
    """Read the command line, or other arguments; what the method does not know is None."""
    parser = cli.Parser(__doc__, "python3 baseline/train.py --minutes 600")
    add = parser.add_argument_group("the reference's flags").add_argument
    add("--warmup", type=cli.whole_number, metavar="N",
        help="steps of the environment before learning (400)")
    add("--discount", type=cli.number(float, 0, 1, "a number from 0, below 1"),
        help="factor per bundle (0.95 per stroke)")
    add("--batch_size", type=cli.positive_int, metavar="N",
        help="bundles an update (96; with --method grid 640, of whole paintings)")
    add("--rmsize", type=cli.positive_int, metavar="N", help="episodes in the replay memory (800)")
    add("--env_batch", type=cli.positive_int, default=96, metavar="N",
        help="paintings side by side, of the environment and of a validation")
    add("--tau", type=cli.positive_float, help="of the soft update of the target networks (0.001)")
    add("--max_step", type=cli.positive_int, default=STEPS, metavar="N", help="bundles an episode")
    add("--noise_factor", type=cli.weight,
        help="standard deviation of the noise while exploring: on actions (0); with --method "
        "model_free on the actor's parameters, the same in a whole episode (0.05)")
    add("--validate_interval", type=cli.positive_int, metavar="N",
        help="episodes between validations and checkpoints (50; with --method grid, where an "
        "episode is --max_step updates, 5)")
    add("--validate_episodes", type=cli.positive_int, default=5, metavar="N",
        help="how many times env_batch test images a validation paints")
    add("--train_times", type=cli.positive_int, metavar="N",
        help="steps, each a bundle on every painting of the environment; with --method grid "
        "updates (2000000)")
    add("--episode_train_times", type=cli.positive_int, metavar="N",
        help="updates after an episode (10)")
    add("--resume", type=cli.path_type, nargs="?", const=False, metavar="DIR",
        help="resume the run in DIR, or with the newest unfinished one; --train_times N "
        "gives it another length, --minutes N ends it N minutes from now")
    add("--output", type=cli.path_type, default=str(TRAIN_LOG),
        help="the folder for the run's folder")
    add("--debug", action="store_true", help="print every episode and round of updates")
    add("--seed", type=cli.seed_type, default=1234, metavar="N", help="of all random numbers")

    add = parser.add_argument_group("how it learns").add_argument
    add("--method", choices=tuple(METHOD_FLAGS), default="ddpg",
        help="ddpg: the paper's; model_free: its comparison, whose critic takes the actions' "
        "numbers; grid: fast on a processor, by the gradient of whole paintings, in passes over "
        "a grid of cells")
    add("--reward", choices=("wgan", "l2"), help="the gain in the discriminator's score (the "
        "default), or the fraction of the squared error that a bundle removes")
    add("--actor_rate", type=cli.positive_float, help="highest rate of a cosine, in place of the "
        "reference's steps 1e-3, 3e-4, 1e-4; with --method grid the default is 3e-3")
    add("--critic_rate", type=cli.positive_float, help="likewise, in place of 3e-4, 1e-4, 3e-5")
    add("--bundle", default=BUNDLE, help="strokes that the actor chooses at once",
        type=cli.number(int, 1, LARGEST_BUNDLE + 1, f"a whole number from 1 to {LARGEST_BUNDLE}"))

    running = parser.add_argument_group("running")
    add = running.add_argument
    add("--data", type=cli.path_type, default=str(ROOT / "data" / "img_align_celeba"),
        help="a folder of images")
    add("--renderer", type=cli.path_type, default=str(RENDERER),
        help="the trained renderer; the agent paints with its family of strokes")
    add("--init", type=cli.path_type, metavar="DIR", help="start from the actor.pkl in DIR, and "
        "from critic.pkl and wgan.pkl where they are there; of the renderer's family")
    add("--minutes", type=cli.positive_float, help="choose the number of steps that fits, after "
        "the first rounds, in place of --train_times")
    add("--fast", action="store_true",
        help="compile the networks (needs a C++ compiler) and, on a GPU, replay updates as CUDA "
        "graphs")
    cli.add_device_flags(running)
    options = parser.parse_args(arguments)
    for name in ("data", "renderer", "output", "init"):
        if path := getattr(options, name):
            setattr(options, name, path.absolute())
    if options.train_times and options.minutes:
        raise UserError("--train_times does not go with --minutes: which of them ends it?")
    if options.resume is None:
        check(options)
    return cli.freeze(options)


def check(options: argparse.Namespace) -> None:
    """Raise UserError where options do not go together; set defaults that depend on others."""
    grid = options.method == "grid"
    defaults = {"batch_size": 16 * STEPS if grid else 96, "validate_interval": 5 if grid else 50,
                "train_times": None if options.minutes else 2_000_000}
    if not grid:
        defaults |= REPLAY_FLAGS
    unknown = set().union(REPLAY_FLAGS, *METHOD_FLAGS.values()) - METHOD_FLAGS[options.method]
    for name in sorted(unknown - defaults.keys() | ({"fast"} if grid else set())):
        if getattr(options, name) is not (False if name == "fast" else None):
            raise UserError(f"--method {options.method} does not know --{name}")
    for name, only in (("max_step", STEPS), ("bundle", BUNDLE)) if grid else ():
        if (value := getattr(options, name)) != only:  # a painting is divided by them
            raise UserError(f"--method grid needs --{name} {only}, not {value}")
    for name, default in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    if grid and options.batch_size % STEPS:
        raise UserError(f"--batch_size {options.batch_size} is not a multiple of {STEPS}, the "
                        "bundles of a painting")


def main(options: cli.Options) -> None:
    """Train as the options say."""
    from running.loop import start  # these imports take seconds, mistakes none
    from trainer import build

    start(options, options.output, "Paint", parse_args, build,
          "--batch_size, --env_batch or --rmsize")


if __name__ == "__main__":
    cli.run(lambda: main(parse_args()))
