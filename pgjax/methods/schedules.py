"""Numbers that change with training: traced functions of the update counter, so that their numbers can be swept."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

from pgjax.config import Recipe
from pgjax.types import Algorithm, SettingError


def linear_decay(count: ArrayLike, *, learning_rate: ArrayLike, updates: ArrayLike, final: ArrayLike = 0.0) -> Array:
    """A straight line from `learning_rate` to `final` over so many steps of the optimiser, constant afterwards.

    Give it to any optax optimiser: `Partial(optax.adam, learning_rate=Partial(linear_decay, learning_rate=1e-2,
    updates=100.0))`; or let `decaying` do so.

    >>> float(linear_decay(50, learning_rate=1.0, updates=100.0))
    0.5
    """
    progress = jnp.clip(count / jnp.maximum(jnp.asarray(updates, jnp.float32), 1.0), 0.0, 1.0)
    start, end = jnp.asarray(learning_rate), jnp.asarray(final)
    return start + progress * (end - start)


def decaying(recipe: Recipe, updates: int) -> Recipe:
    """The method with a learning rate that falls linearly to zero over so many updates, i.e. batches.

    The optimiser counts its own steps, of which an update has `epochs` × `minibatches`.

    >>> from pgjax import hyperparameters, ppo
    >>> recipe = ppo()
    >>> steps = hyperparameters(decaying(recipe, 100).algorithm)["updates"]
    >>> steps == 100 * recipe.config.epochs * recipe.config.minibatches
    True
    """
    optimizer: Any = recipe.algorithm.optimizer
    steps = float(updates * recipe.config.epochs * recipe.config.minibatches)
    rate = Partial(linear_decay, learning_rate=optimizer.keywords["learning_rate"], updates=steps)
    changed = Partial(optimizer.func, **optimizer.keywords | {"learning_rate": rate})
    return Recipe(recipe.algorithm._replace(optimizer=changed), recipe.config)


def constant(env_steps: ArrayLike, *, schedule_steps: ArrayLike, warmup_steps: ArrayLike = 0.0) -> Array:
    """1 after the warm-up, in which it rises from 0 in a straight line; `schedule_steps` does nothing.

    >>> [float(constant(steps, schedule_steps=100.0, warmup_steps=20.0)) for steps in (0, 10, 50)]
    [0.0, 0.5, 1.0]
    """
    return _warmed(env_steps, warmup_steps)


def linear(env_steps: ArrayLike, *, schedule_steps: ArrayLike, warmup_steps: ArrayLike = 0.0) -> Array:
    """From 1 at the end of the warm-up to 0 at `schedule_steps`, in a straight line.

    >>> [float(linear(steps, schedule_steps=100.0)) for steps in (0, 25, 100, 150)]
    [1.0, 0.75, 0.0, 0.0]
    """
    return _warmed(env_steps, warmup_steps) * (1.0 - _progress(env_steps, schedule_steps, warmup_steps))


def cosine(env_steps: ArrayLike, *, schedule_steps: ArrayLike, warmup_steps: ArrayLike = 0.0) -> Array:
    """From 1 at the end of the warm-up to 0 at `schedule_steps`, along half a cosine.

    Loshchilov & Hutter 2017. https://arxiv.org/abs/1608.03983

    >>> [round(float(cosine(steps, schedule_steps=100.0)), 4) for steps in (0, 50, 100)]
    [1.0, 0.5, 0.0]
    """
    progress = _progress(env_steps, schedule_steps, warmup_steps)
    return _warmed(env_steps, warmup_steps) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


SCHEDULES: dict[str, Callable[..., Array]] = {"constant": constant, "linear": linear, "cosine": cosine}
"""Factors of the learning rate by name: functions of the environment steps that a run has taken."""


def scheduled(algorithm: Algorithm, schedule: str, *, total_steps: float, warmup_steps: float = 0.0) -> Algorithm:
    """The method with a learning rate that follows a schedule over environment steps, whatever the method.

    The rate of an update is the optimiser's own times the factor at the steps that were taken before it; both can be
    swept, and so can `schedule_steps` and `warmup_steps`.

    Args:
      algorithm: whose optimiser has a number `learning_rate`.
      schedule: a name in SCHEDULES.
      total_steps: where it ends, in environment steps of one run.
      warmup_steps: over how many of them it rises from 0 first.

    Raises:
      SettingError: for an unknown name, or a warm-up that is no part of the whole.

    >>> from pgjax import hyperparameters, reinforce
    >>> algorithm = scheduled(reinforce().algorithm, "cosine", total_steps=1e5, warmup_steps=1e4)
    >>> hyperparameters(algorithm)["warmup_steps"]
    10000.0
    """
    if schedule not in SCHEDULES:
        raise SettingError("learning_rate_schedule", schedule, f"is none of {', '.join(SCHEDULES)}")
    if not 0 <= warmup_steps < total_steps:
        raise SettingError(
            "warmup_steps", warmup_steps, f"must lie between 0 and the {total_steps:,.0f} steps of the whole"
        )
    numbers = {"schedule_steps": float(total_steps), "warmup_steps": float(warmup_steps)}
    return algorithm._replace(learning_rate_schedule=Partial(SCHEDULES[schedule], **numbers))


def _progress(env_steps: ArrayLike, schedule_steps: ArrayLike, warmup_steps: ArrayLike) -> Array:
    """From 0 at the end of the warm-up to 1."""
    length = jnp.maximum(jnp.asarray(schedule_steps, jnp.float32) - warmup_steps, 1.0)
    return jnp.clip((env_steps - jnp.asarray(warmup_steps, jnp.float32)) / length, 0.0, 1.0)


def _warmed(env_steps: ArrayLike, warmup_steps: ArrayLike) -> Array:
    warming = jnp.asarray(warmup_steps, jnp.float32)
    return jnp.where(env_steps < warming, env_steps / jnp.maximum(warming, 1.0), 1.0)


def entropy_decay(count: ArrayLike, *, entropy_coefficient: ArrayLike, entropy_updates: ArrayLike) -> Array:
    """The same line down to zero for `Algorithm.entropy_coefficient`, per update, under names of its own.

    >>> float(entropy_decay(25, entropy_coefficient=0.02, entropy_updates=100.0))  # doctest: +ELLIPSIS
    0.01499...
    """
    return linear_decay(count, learning_rate=entropy_coefficient, updates=entropy_updates)
