"""Learning rates that change: traced functions of the update counter, so that their numbers can be swept."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def linear_decay(count: ArrayLike, *, learning_rate: ArrayLike, updates: ArrayLike, final: ArrayLike = 0.0) -> Array:
    """A straight line from `learning_rate` to `final` over so many updates, constant afterwards.

    Give it to any optax optimiser: `Partial(optax.adam, learning_rate=Partial(linear_decay, learning_rate=1e-2,
    updates=100.0))`.

    >>> float(linear_decay(50, learning_rate=1.0, updates=100.0))
    0.5
    """
    progress = jnp.clip(count / jnp.maximum(jnp.asarray(updates, jnp.float32), 1.0), 0.0, 1.0)
    start, end = jnp.asarray(learning_rate), jnp.asarray(final)
    return start + progress * (end - start)
