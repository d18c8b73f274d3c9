"""The options of a training or an evaluation: what a script's command line says, frozen."""

import argparse
from dataclasses import FrozenInstanceError
from typing import NoReturn


class Options(argparse.Namespace):
    """The flags of a script by name, as in a run's ``run.json``; ``--help`` describes them.

    What the method does not have is None; beside ``resume`` so is all that was not typed.
    """

    def __init__(self, **flags: object) -> None:
        vars(self).update(flags)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise FrozenInstanceError(f"cannot set the option {name}")
