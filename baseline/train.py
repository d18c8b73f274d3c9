#!/usr/bin/env python3
"""Train the agent to paint a folder of images with a trained renderer."""

import argparse
import math
from pathlib import Path

from constants import (
    BUNDLE,
    LARGEST_BUNDLE,
    METHOD_FLAGS,
    OWN_STATES,
    STATE_FLAGS,
    STEPS,
    sizes,
)
from utils.command import (
    RENDERER,
    ROOT,
    TRAIN_LOG,
    Parser,
    UserError,
    add_device_flags,
    number,
    path_type,
    positive_float,
    positive_int,
    run,
    seed_type,
    weight,
    whole_number,
)

CHEAP = {"sizes": "64:0.7,128", "penalty_every": 4, "actor_rate": 3e-4, "critic_rate": 1e-3}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line, or other arguments."""
    parser = Parser(__doc__, "python3 baseline/train.py --cheap --minutes 600")
    add = parser.add_argument_group("the reference's flags").add_argument
    add("--warmup", type=whole_number, metavar="N",
        help="steps of the environment before learning (400; with --states memory)")
    add("--discount", type=discount, help="of a bundle (0.95 a stroke)")
    add("--batch_size", type=positive_int, metavar="N",
        help="bundles an update (96; with --method grid 640, of whole paintings)")
    add("--rmsize", type=positive_int, metavar="N", help="episodes in the replay memory (800)")
    add("--env_batch", type=positive_int, default=96, metavar="N",
        help="paintings side by side: of the environment, of a round of --method direct, and of a "
        "validation")
    add("--tau", type=positive_float, help="how fast slow copies follow (0.001)")
    add("--max_step", type=positive_int, default=STEPS, metavar="N", help="bundles an episode")
    add("--noise_factor", type=weight,
        help="standard deviation of the noise while exploring: on actions (0); with --method "
        "model_free on the actor's parameters, the same in a whole episode (0.05)")
    add("--validate_interval", type=positive_int, default=50, metavar="N",
        help="episodes between validations and checkpoints; with --states pool an episode is "
        "--max_step updates")
    add("--validate_episodes", type=positive_int, default=5, metavar="N",
        help="how many times env_batch test images a validation paints")
    add("--train_times", type=positive_int, metavar="N",
        help="steps, each a bundle on every painting of the environment, or on a batch of the "
        "pool, which is an update (2000000)")
    add("--episode_train_times", type=positive_int, metavar="N",
        help="updates after an episode (10)")
    add("--resume", nargs="?", const="", metavar="DIR",
        help="go on with the run in DIR, or with the newest unfinished one")
    add("--output", type=path_type, default=str(TRAIN_LOG),
        help="where the folder of the run is made")
    add("--debug", action="store_true", help="print every episode and round of learning")
    add("--seed", type=seed_type, default=1234, metavar="N", help="of all that is drawn by chance")

    add = parser.add_argument_group("how it learns").add_argument
    add("--method", choices=tuple(METHOD_FLAGS), default="ddpg",
        help="ddpg: the paper's; model_free: its comparison, whose critic judges actions that it "
        "sees as numbers; grid: on a processor, by the gradient of whole paintings, in passes over "
        "a grid; direct: a finisher, which carries that error back and needs --init")
    add("--states", choices=("memory", "pool"),
        help="where states come from: the paper's replay memory (the default), or a pool of "
        "paintings, each at a step of its own, that the updates themselves paint on")
    add("--pool", type=positive_int, metavar="N", help="paintings in the pool (192)")
    add("--cheap", action="store_true", help="the paper's method, cheaper: "
        + " ".join(f"--{name} {value}" for name, value in CHEAP.items())
        + ", those of them that are not given; with --pool or --states pool --joint too")
    add("--sizes", type=size_schedule, help="sizes of the pictures that actor and critic see, each "
        "with the share of the training it ends at, such as 64:0.7,128 (128)")
    add("--norm_until", type=share, help="the share of the training after which the actor's batch "
        "normalisation keeps its statistics (1; 0 with --method direct and grid)")
    add("--reward", choices=("wgan", "l2"), help="the gain in the discriminator's score (the "
        "default), or the share of the squared error that a bundle removes")
    add("--penalty_every", type=positive_int, metavar="N",
        help="the gradient penalty in every N-th update alone, N times as heavy (1)")
    add("--joint", action="store_true", default=None, help="one pass of the critic for its loss "
        "and the actor's; needs --states pool")
    add("--actor_rate", type=positive_float, help="highest rate of a cosine, in place of the "
        "reference's steps 1e-3, 3e-4, 1e-4; with --method direct the default is 2e-5, with grid "
        "3e-3")
    add("--critic_rate", type=positive_float, help="likewise, in place of 3e-4, 1e-4, 3e-5")
    add("--early", type=weight, help="with --method direct: weight of the error of each canvas "
        "before the last (0.02)")
    add("--bundle", default=BUNDLE, help="strokes that the actor chooses at once",
        type=number(int, 1, LARGEST_BUNDLE + 1, f"a whole number from 1 to {LARGEST_BUNDLE}"))

    running = parser.add_argument_group("running")
    add = running.add_argument
    add("--data", type=path_type, default=str(ROOT / "data" / "img_align_celeba"),
        help="a folder of images")
    add("--cache", type=path_type, metavar="DIR",
        help="a folder for the decoded images (data/cache, or the user's)")
    add("--renderer", type=path_type, default=str(RENDERER),
        help="the trained renderer; the agent paints with its family of strokes")
    add("--init", type=path_type, metavar="DIR", help="start from the actor.pkl in DIR, and from "
        "critic.pkl and wgan.pkl where they are there; of the renderer's family")
    add("--minutes", type=positive_float, help="choose the number of steps that fits, after the "
        "first rounds, in place of --train_times; it takes longer where --sizes has larger ones "
        "in the end")
    add("--fast", action="store_true",
        help="compile the networks (needs a C++ compiler) and, on a GPU, replay updates as CUDA "
        "graphs")
    add_device_flags(running)
    options = parser.parse_args(arguments)
    for name in ("data", "cache", "renderer", "output", "init"):
        if getattr(options, name) is not None:
            setattr(options, name, str(Path(getattr(options, name)).absolute()))
    if options.resume is None:
        check(options)
    return options


def check(options: argparse.Namespace) -> None:
    """Raise UserError where options do not go together; fill in what hangs on others."""
    own, every = METHOD_FLAGS[options.method], set().union(*METHOD_FLAGS.values())
    direct = options.method == "direct"
    grid, own_states = options.method == "grid", OWN_STATES.get(options.method)
    if own_states and (options.states or options.cheap):
        raise UserError(f"--method {options.method} does not know --"
                        f"{'states' if options.states else 'cheap'}: it learns from whole "
                        "paintings")
    if grid:
        check_grid(options)
    options.batch_size = options.batch_size or (16 * STEPS if grid else 96)
    if options.cheap:
        options.states = options.states or ("pool" if options.pool else "memory")
        joint = {"joint": True} if options.states == "pool" else {}
        for name, value in (CHEAP | joint).items():
            known = name in own or name not in every
            if name == "penalty_every" and options.reward == "l2":
                continue  # there is no discriminator
            if known and getattr(options, name) is None:
                setattr(options, name, value)
    states = own_states or options.states or "memory"
    if alien := [name for name in sorted(every - own) if getattr(options, name) is not None]:
        raise UserError(f"--method {options.method} does not know --{alien[0]}")
    for other, flags in STATE_FLAGS.items():
        for name, default in flags.items():
            if other == states:
                if getattr(options, name) is None:
                    setattr(options, name, default)
            elif getattr(options, name) is not None:
                raise UserError(f"--method {options.method} does not know --{name}" if own_states
                                else f"--{name} needs --states {other}")
    options.states = None if own_states else states
    if options.joint and states != "pool":
        raise UserError("--joint needs --states pool")
    if options.noise_factor and states == "pool" and options.method == "ddpg":
        raise UserError("--noise_factor needs --states memory: a pool's bundles are those that the "
                        "actor learns from")
    if direct and options.env_batch * options.max_step < options.batch_size:
        raise UserError(f"--batch_size {options.batch_size} is more than the bundles of a round: "
                        f"--env_batch {options.env_batch} x --max_step {options.max_step}")
    if options.penalty_every and options.reward == "l2":
        raise UserError("--penalty_every does not go with --reward l2: it has no discriminator")
    if options.train_times and options.minutes:
        raise UserError("--train_times does not go with --minutes: which of them ends it?")
    if options.norm_until is None:
        options.norm_until = 0.0 if own_states else 1.0
    if states == "pool" and options.batch_size > options.pool:
        raise UserError(f"--batch_size {options.batch_size} does not go with --pool "
                        f"{options.pool}: a batch is drawn without replacement")
    options.sizes = options.sizes or "128"
    options.train_times = options.train_times or (None if options.minutes else 2_000_000)


def check_grid(options: argparse.Namespace) -> None:
    """Raise UserError where an option is at odds with how --method grid divides a painting."""
    for name, only in (("max_step", STEPS), ("bundle", BUNDLE), ("sizes", "128"),
                       ("norm_until", 0), ("fast", False)):
        if (value := getattr(options, name)) not in (None, only):
            raise UserError(f"--method grid needs --{name} {only}, not {value}" if only else
                            f"--method grid does not know --{name}")
    if options.batch_size and options.batch_size % STEPS:
        raise UserError(f"--batch_size {options.batch_size} is not a multiple of {STEPS}, the "
                        "bundles of a painting")


def size_schedule(text: str) -> str:
    """An argparse type: what ``sizes`` reads."""
    try:
        sizes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text[:100]} is not like 64:0.7,128: sizes of 32, 64 or 128 pixels, each with the "
            "share it ends at") from error
    return text


share = number(float, 0, 1.0000001, "a share from 0 to 1")


def discount(text: str) -> float:
    """An argparse type: a number in [0, 1), or such as 0.95**5."""
    base, raised, power = text.partition("**")
    power = power if raised else 1
    try:
        value = float(base) ** float(power) if "_" not in text and text.isascii() else -1
    except (ValueError, OverflowError, ZeroDivisionError):
        value = math.nan
    if not (isinstance(value, float) and 0 <= value < 1):  # complex of a negative base
        raise argparse.ArgumentTypeError(f"{text[:100]} is not in [0, 1)")
    return value


def main(options: argparse.Namespace) -> None:
    """Train as the options say."""
    direct = options.method == "direct"
    if options.resume is None and not options.init and (
            direct or options.method != "grid" and not options.norm_until):
        raise UserError(f"{'--method direct' if direct else '--norm_until 0'} needs --init: a new "
                        "actor has learnt nothing that could be kept")
    from trainer import train  # its imports take seconds, mistakes none

    train(options, parse_args)


if __name__ == "__main__":
    run(lambda: main(parse_args()))
