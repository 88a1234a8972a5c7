"""Numbers that change with training: traced functions of the update counter, so that their numbers can be swept."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

from pgjax.config import Recipe


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


def entropy_decay(count: ArrayLike, *, entropy_coefficient: ArrayLike, entropy_updates: ArrayLike) -> Array:
    """The same line down to zero for `Algorithm.entropy_coefficient`, per update, under names of its own.

    >>> float(entropy_decay(25, entropy_coefficient=0.02, entropy_updates=100.0))  # doctest: +ELLIPSIS
    0.01499...
    """
    return linear_decay(count, learning_rate=entropy_coefficient, updates=entropy_updates)
