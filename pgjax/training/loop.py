"""Compiled loops over updates."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from pgjax import counters
from pgjax.engine.compiling import Program
from pgjax.training.checks import steps_per_update
from pgjax.training.keys import as_key
from pgjax.training.metrics import Metrics
from pgjax.types import Algorithm, Trainer, TrainState

NEVER = 2**31 - 1
"""The largest int32, as a limit that is never reached."""


def run_updates(
    trainer: Trainer,
    algorithm: Algorithm,
    state: TrainState,
    total_steps: ArrayLike,
    length: int,
    max_skipped: ArrayLike = NEVER,
) -> tuple[TrainState, Metrics]:
    """Scan `length` updates. Returns the state, and metrics [length] with `update`, `env_steps` and `active`.

    Once `total_steps` environment steps are taken, or after `max_skipped` skipped (non-finite) updates in a row, the
    remaining iterations change nothing, and `active` is False.

    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce
    >>> env, algorithm = environments.make("SimpleBandit-bsuite"), reinforce().algorithm
    >>> trainer = make_trainer(env, make_agent(env, hidden=()), Config(num_envs=4))
    >>> state = trainer.init(algorithm, jax.random.key(0))
    >>> state, metrics = run_updates(trainer, algorithm, state, total_steps=8, length=3)
    >>> metrics["env_steps"].tolist(), metrics["active"].tolist()  # 4 one-step episodes per update
    ([4, 8, 8], [True, True, False])
    """
    length = counters.count("length", length, least=0)
    if not isinstance(total_steps, Tracer):
        each = steps_per_update(trainer.environment, trainer.config)
        total_steps = counters.budget("total_steps", total_steps, each)

    def step(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        active = (state.env_steps < total_steps) & (state.skipped_in_a_row < max_skipped)
        new, metrics = trainer.update(algorithm, state)
        new = jax.tree.map(lambda a, b: jnp.where(active, a, b), new, state)
        return new, metrics | {"update": new.update, "env_steps": new.env_steps, "active": active}

    return jax.lax.scan(step, state, None, length)


def train(trainer: Trainer, algorithm: Algorithm, key: Array, num_updates: int) -> tuple[TrainState, Metrics]:
    """Train one policy from scratch in one compiled call. Returns the final state and metrics, each [num_updates].

    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce
    >>> env = environments.make("SimpleBandit-bsuite")
    >>> trainer = make_trainer(env, make_agent(env, hidden=()), Config(num_envs=4))
    >>> state, metrics = train(trainer, reinforce().algorithm, jax.random.key(0), num_updates=3)
    >>> int(state.env_steps), metrics["return_mean"].shape  # 3 updates of 4 one-step episodes
    (12, (3,))
    """
    each = steps_per_update(trainer.environment, trainer.config)
    num_updates = counters.updates("num_updates", num_updates, each)
    return _train(trainer, algorithm, as_key(key), num_updates)


@partial(Program, static_argnames=("trainer", "num_updates"))
def _train(trainer: Trainer, algorithm: Algorithm, key: Array, num_updates: int) -> tuple[TrainState, Metrics]:
    def step(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        return trainer.update(algorithm, state)

    return jax.lax.scan(step, trainer.init(algorithm, key), None, num_updates)
