"""Schedules of hyperparameters, as traced functions of a counter, whose own numbers can be swept."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

from pgjax.config import Recipe
from pgjax.types import Algorithm, SettingError


def linear_decay(count: ArrayLike, *, learning_rate: ArrayLike, updates: ArrayLike, final: ArrayLike = 0.0) -> Array:
    """Linear decay from `learning_rate` to `final` over `updates` steps of the optimiser, constant afterwards.

    Use `Partial(optax.adam, learning_rate=Partial(linear_decay, learning_rate=1e-2, updates=100.0))`, or `decaying`.
    """
    progress = jnp.clip(count / jnp.maximum(jnp.asarray(updates, jnp.float32), 1.0), 0.0, 1.0)
    start, end = jnp.asarray(learning_rate), jnp.asarray(final)
    return start + progress * (end - start)


def decaying(recipe: Recipe, updates: int) -> Recipe:
    """Method with a learning rate that decays linearly to zero over `updates` batches.

    The optimiser counts its own steps, which are `epochs` × `minibatches` per batch.
    """
    optimizer: Any = recipe.algorithm.optimizer
    steps = float(updates * recipe.config.epochs * recipe.config.minibatches)
    rate = Partial(linear_decay, learning_rate=optimizer.keywords["learning_rate"], updates=steps)
    optimizer_with_schedule = Partial(optimizer.func, **optimizer.keywords | {"learning_rate": rate})
    return Recipe(recipe.algorithm._replace(optimizer=optimizer_with_schedule), recipe.config)


def constant(env_steps: ArrayLike, *, schedule_steps: ArrayLike, warmup_steps: ArrayLike = 0.0) -> Array:
    """Factor 1 after a linear warm-up from 0; `schedule_steps` is ignored."""
    return _warmed(env_steps, warmup_steps)


def linear(env_steps: ArrayLike, *, schedule_steps: ArrayLike, warmup_steps: ArrayLike = 0.0) -> Array:
    """Linear decay from 1 at the end of the warm-up to 0 at `schedule_steps`."""
    return _warmed(env_steps, warmup_steps) * (1.0 - _progress(env_steps, schedule_steps, warmup_steps))


def cosine(env_steps: ArrayLike, *, schedule_steps: ArrayLike, warmup_steps: ArrayLike = 0.0) -> Array:
    """Decay along half a cosine from 1 at the end of the warm-up to 0 at `schedule_steps`.

    Loshchilov & Hutter 2017. https://arxiv.org/abs/1608.03983
    """
    progress = _progress(env_steps, schedule_steps, warmup_steps)
    return _warmed(env_steps, warmup_steps) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


SCHEDULES: dict[str, Callable[..., Array]] = {"constant": constant, "linear": linear, "cosine": cosine}
"""Factors of the learning rate by name, as functions of the environment steps of a run."""


def scheduled(algorithm: Algorithm, schedule: str, *, total_steps: float, warmup_steps: float = 0.0) -> Algorithm:
    """Method with a learning rate that follows a schedule over environment steps, one of SCHEDULES by name.

    The rate of an update is the optimiser's own `learning_rate` times a factor of the environment steps before it. It
    warms up linearly from 0 over `warmup_steps`, and the schedule ends at `total_steps`, both in environment steps of
    one run. The rate, `schedule_steps` and `warmup_steps` can be swept.

    >>> from pgjax import hyperparameters, reinforce
    >>> algorithm = scheduled(reinforce().algorithm, "cosine", total_steps=1e5, warmup_steps=1e4)
    >>> hyperparameters(algorithm)["warmup_steps"]
    10000.0
    """
    if schedule not in SCHEDULES:
        raise SettingError("learning_rate_schedule", schedule, f"is none of {', '.join(SCHEDULES)}")
    if not 0 <= warmup_steps < total_steps:
        raise SettingError(
            "warmup_steps", warmup_steps, f"must be at least 0 and less than the {total_steps:,.0f} total steps"
        )
    numbers = {"schedule_steps": float(total_steps), "warmup_steps": float(warmup_steps)}
    return algorithm._replace(learning_rate_schedule=Partial(SCHEDULES[schedule], **numbers))


def _progress(env_steps: ArrayLike, schedule_steps: ArrayLike, warmup_steps: ArrayLike) -> Array:
    """Fraction of the schedule after the warm-up, from 0 to 1."""
    length = jnp.maximum(jnp.asarray(schedule_steps, jnp.float32) - warmup_steps, 1.0)
    return jnp.clip((env_steps - jnp.asarray(warmup_steps, jnp.float32)) / length, 0.0, 1.0)


def _warmed(env_steps: ArrayLike, warmup_steps: ArrayLike) -> Array:
    warming = jnp.asarray(warmup_steps, jnp.float32)
    return jnp.where(env_steps < warming, env_steps / jnp.maximum(warming, 1.0), 1.0)


def entropy_decay(count: ArrayLike, *, entropy_coefficient: ArrayLike, entropy_updates: ArrayLike) -> Array:
    """Linear decay to zero of `Algorithm.entropy_coefficient`, over updates; `linear_decay` with names of its own."""
    return linear_decay(count, learning_rate=entropy_coefficient, updates=entropy_updates)
