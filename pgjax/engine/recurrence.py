"""A memory along the steps of a batch: features [T, N, ...], and the carry after each step, before any reset."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.types import Halves, Params


def step_by_step(halves: Halves, params: Params, initial: Any, first: Any, x: Any, ended: Array) -> tuple[Any, Any]:
    """A scan over the second half of a memory's step: the plain counterpart of `own_loop`.

    Args:
      initial: carry at the start of an episode; it follows each row that `ended`, [T, N].
      first: carry at the first row, [N, ...].
      x: output of the first half, [T, N, ...].
    """

    def row(carry: Any, one: tuple[Any, Array]) -> tuple[Any, tuple[Any, Any]]:
        x, ended = one
        after, features = halves.step(params, carry, x)
        following = jax.tree.map(
            lambda fresh, x: jnp.where(ended.reshape(-1, *[1] * (x.ndim - 1)), fresh, x), initial, after
        )
        return following, (features, after)

    return jax.lax.scan(row, first, (x, ended))[1]


def own_loop(halves: Halves, params: Params, initial: Any, first: Any, x: Any, ended: Array) -> tuple[Any, Any]:
    """The memory's own loop, if it has one. It cannot be differentiated in forward mode."""
    loop = halves.along or (lambda *args: step_by_step(halves, *args))
    return loop(params, initial, first, x, ended)
