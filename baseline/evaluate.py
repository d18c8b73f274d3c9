#!/usr/bin/env python3
"""Measure the squared error of an actor's paintings over a folder of images."""

from constants import STEPS
from utils import command as cli
from utils.command import ACTOR, RENDERER, ROOT


def parse_args() -> cli.Options:
    """Read the command line."""
    parser = cli.Parser(__doc__, "python3 baseline/evaluate.py --data my_images --limit 100")
    add = parser.add_argument
    add("--data", type=cli.path_type, metavar="DIR", default=ROOT / "data" / "img_align_celeba",
        help="the folder of images")
    add("--split", default="all", choices=("all", "test"),
        help="all images of the folder, or those that training keeps away from")
    add("--limit", type=cli.positive_int, metavar="N", help="only the first N images of the split")
    add("--actor", type=cli.path_type, metavar="FILE", default=ACTOR, help="weights of the actor")
    add("--renderer", type=cli.path_type, metavar="FILE", default=RENDERER,
        help="weights of the renderer")
    add("--max_step", type=cli.positive_int, metavar="N", default=STEPS,
        help="actions a painting, each a bundle of strokes")
    add("--batch_size", type=cli.positive_int, metavar="N", default=64,
        help="images to paint side by side")
    add("--json", type=cli.new_file, metavar="FILE", help="write the last line to a file too")
    cli.add_device_flags(parser)
    return cli.freeze(parser.parse_args())


def main(options: cli.Options) -> None:
    """Evaluate as the options say."""
    from evaluation import evaluate  # its imports take seconds, mistakes none

    evaluate(options)


if __name__ == "__main__":
    cli.run(lambda: main(parse_args()))
