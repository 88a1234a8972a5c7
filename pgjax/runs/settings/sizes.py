"""Rejects sizes that exceed the memory, before anything is compiled or written."""

from itertools import pairwise

import jax

from pgjax.engine.memory import LARGE, check_room
from pgjax.runs.settings.build import Setup
from pgjax.runs.settings.flags import Settings
from pgjax.sweeps.loop import ROW


def updates_per_chunk(setup: Setup, settings: Settings) -> int:
    """Updates per compiled call, at most as many as the run can make: each update steps every environment."""
    return min(settings.updates_per_chunk, -(-settings.total_steps // setup.trainer.config.num_envs))


def check_sizes(setup: Setup, settings: Settings, runs: int) -> None:
    """Reject sizes for `runs` parallel runs that exceed the memory, by a lower bound known without compiling."""
    name = "exploit_every" if settings.population else "updates_per_chunk"
    updates = settings.exploit_every if settings.population else updates_per_chunk(setup, settings)
    check_room(name, getattr(settings, name), runs * updates * ROW, "the metrics of a compiled call")
    widest = max((a * b for a, b in pairwise((1, *settings.hidden))), default=0)
    check_room("hidden", settings.hidden, 3 * 4 * runs * widest, "parameters and the optimiser state")
    config = setup.trainer.config
    counts = {"num_envs": config.num_envs, "num_steps": config.num_steps or 0, "eval_episodes": settings.eval_episodes}
    for name, count in counts.items():
        if runs * count >= LARGE:
            states = jax.eval_shape(setup.environment.reset, jax.random.key(0))
            each = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(states))
            check_room(name, count, runs * count * each, "environment states")
