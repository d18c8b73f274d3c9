"""Names and numbers that command lines know as well as the work behind them.

Nothing heavy is imported for them, so that ``--help`` and mistakes answer at once.
"""

from itertools import pairwise

WIDTH = 128  # pixels a side of the canvas that networks see
GRID = 4  # cells a side of the last feature map of the actor
CANVAS = 3 * WIDTH**2  # bytes of one
BUNDLE = 5  # strokes an action where nothing else is said: N in shapes
LARGEST_BUNDLE = 1000
READOUTS = ("mean", "grid")  # of the last feature map of an actor
STEPS = 40  # actions of a painting where nothing else is said
SIZES = (WIDTH // 4, WIDTH // 2, WIDTH)  # of the pictures that actor and critic may see
FAMILY_NAMES = ("bezier", "bezierwotrans", "triangle", "round")  # of strokes
VIDEOS = (".mp4", ".gif")  # by the suffix of their file
LONGEST_SIDE = 16384  # pixels of a picture that strokes are painted on again

# The flags that each method knows beside those of all.
OF_REWARD = {"discount", "tau", "reward", "noise_factor", "penalty_every", "actor_rate",
             "critic_rate"}
METHOD_FLAGS = {
    "ddpg": OF_REWARD | {"joint"}, "model_free": OF_REWARD, "direct": {"actor_rate", "early"},
    "grid": {"actor_rate"},
}
# What sources of states know beside them, and the defaults.
STATE_FLAGS = {
    "memory": {"warmup": 400, "rmsize": 800, "episode_train_times": 10}, "pool": {"pool": 192},
    "paintings": {}, "pictures": {},
}
OWN_STATES = {"direct": "paintings", "grid": "pictures"}  # methods that have no choice of them


def sizes(text: str) -> tuple[tuple[int, float], ...]:
    """Such as ``64:0.7,128``, as pairs of a size and the share of a training that it ends at.

    Raises ValueError where it is not like that, or shares do not rise to 1.
    """
    parts = [(int(size), float(end or 1)) for size, _, end in
             (part.partition(":") for part in text.split(","))]
    ends = [0.0, *(end for _, end in parts)]
    if {size for size, _ in parts} - set(SIZES) or ends[-1] != 1 or any(
            not low < high <= 1 for low, high in pairwise(ends)):
        raise ValueError(text)
    return tuple(parts)
