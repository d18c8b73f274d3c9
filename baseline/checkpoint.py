"""The agent's training run on disk: its checkpoint, each process's own file, the best networks."""

import hashlib
import os
from pathlib import Path
from typing import Any

from DRL.actor import load_actor
from DRL.learner import Learner
from running.ranks import Ranks
from running.run import Run, fitting
from utils.command import Options, UserError
from utils.weights import load_file, load_weights, save_atomically

HELP = "see --init in --help"


def digests(renderer: Path, names: list[str]) -> dict[str, str]:
    """Return digests of what a checkpoint depends on but does not hold."""
    return {"renderer": hashlib.sha256(renderer.read_bytes()).hexdigest(),
            "images": hashlib.sha256(os.fsencode("\n".join(names))).hexdigest()}


def own_file(run: Run, ranks: Ranks, name: str) -> Path:
    """Return this process's own file, for its schedule and random numbers."""
    return run.folder / f"{name}-{ranks.rank}of{ranks.world}.pt"


def save(run: Run, ranks: Ranks, state: dict[str, Any], own: dict[str, Any]) -> None:
    """Write the checkpoint, and each process's own file.

    state: the same in every process, with the counts "global_step" and, of "method", "updates".
    """
    name = f"memory-{state['global_step']}-{state['method']['updates']}"
    save_atomically(own, own_file(run, ranks, name))
    ranks.barrier()
    if ranks.main:
        run.save(state | {"memory": name})
    ranks.barrier()
    for old in run.folder.glob("memory-*.pt"):  # of other numbers of processes too
        if not old.match(f"{name}-*of{ranks.world}.pt"):
            old.unlink(missing_ok=True)


def load(
    run: Run, ranks: Ranks, inputs: dict[str, str]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the checkpoint and the content of this process's own file.

    inputs: see ``digests``.  The latter is None where the inputs changed or a process's own file
    is gone.
    """
    state = ranks.broadcast(run.load() if ranks.main else None)
    with fitting(run.checkpoint_file):
        path = own_file(run, ranks, state["memory"])
        changed = [name for name in inputs if inputs[name] != state["inputs"][name]]
    if not ranks.any(bool(changed) or not path.is_file()):
        return state, load_file(path, "replay memory", "delete it")
    why = (f"{' and '.join(changed)} changed" if changed else
           f"{path.name} or another process's is gone")
    print(f"{why}: the replay memory is filled again, so the resumed training is not exactly the "
          "same")
    return state, None


def load_networks(method: Learner, options: Options) -> None:
    """Load the actor of --init, and the other networks where their files are there.

    Raises UserError where the actor is of another kind.
    """
    path = options.init / "actor.pkl"
    actor, family = load_actor(path, "the actor to start from", HELP)
    what, drawn, readout = "the actor to start from", method.render.family, method.actor.readout
    if family != drawn:
        raise UserError(f"{what} {path} paints with {family} strokes, but the renderer "
                        f"{options.renderer} draws {drawn} strokes")
    if actor.readout != readout:
        raise UserError(f"{what} {path} has the read-out {actor.readout}; --method "
                        f"{options.method} needs {readout}")
    if actor.bundle != method.bundle:
        raise UserError(f"{what} {path} paints bundles of {actor.bundle} strokes; --bundle says "
                        f"{method.bundle}")
    for name in method.networks.keys() - {"actor"}:
        if (path := options.init / f"{name}.pkl").is_file():
            load_weights(method.networks[name], path, f"the {name} to start from", HELP)
    method.load_actor(actor)
