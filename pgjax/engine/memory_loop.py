"""A memory along the steps of a batch: the carry after each step, before any reset, and features, [T, N, ...]."""

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
        return following, (after, features)

    return jax.lax.scan(row, first, (x, ended))[1]


def own_loop(halves: Halves, params: Params, initial: Any, first: Any, x: Any, ended: Array) -> tuple[Any, Any]:
    """The memory's own loop, if it has one. Forward mode need not be able to differentiate it."""
    if halves.along is None:
        return step_by_step(halves, params, initial, first, x, ended)
    return halves.along(params, initial, first, x, ended)
