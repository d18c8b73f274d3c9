"""Names and numbers that command lines share with the modules behind them.

This imports nothing, so that ``--help`` and mistakes answer at once.
"""

WIDTH = 128  # pixels a side of the canvas that networks see
GRID = 4  # cells a side of the actor's last feature map
CANVAS = 3 * WIDTH**2  # bytes
BUNDLE = 5  # strokes an action, by default: N in shapes
LARGEST_BUNDLE = 1000
READOUTS = ("mean", "grid")  # of an actor's last feature map
STEPS = 40  # actions of a painting, by default
FAMILY_NAMES = ("bezier", "bezierwotrans", "triangle", "round")  # of strokes
VIDEOS = (".mp4", ".gif")  # by the suffix of their file
LONGEST_SIDE = 16384  # pixels of a picture that strokes are painted on again
LOGGED_STROKES = (5, 20, 50, 100, 200, 400, 1000, 2000, 4000, 10000)  # with an error each

# The flags of train.py that are options of a method's class,
DDPG_FLAGS = {"discount", "tau", "reward", "noise_factor", "actor_rate", "critic_rate"}
METHOD_FLAGS = {"ddpg": DDPG_FLAGS, "model_free": DDPG_FLAGS, "grid": {"actor_rate"}}
# and those of the methods with a replay memory, ddpg and model_free, with their defaults.
REPLAY_FLAGS = {"warmup": 400, "rmsize": 800, "episode_train_times": 10}
