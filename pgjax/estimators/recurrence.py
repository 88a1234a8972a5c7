"""The linear recurrence over time that credits, weights and traces use."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from pgjax.estimators.reductions import as_float


def linear_recurrence(x: ArrayLike, decay: ArrayLike, *, reverse: bool = False, bound: float | None = None) -> Array:
    """Solve a first-order linear recurrence along axis 0, [T, ...] -> [T, ...].

        forwards:  y_t = x_t + a_{t−1} · y_{t−1}        reverse:  y_t = x_t + a_t · y_{t+1}

    In both directions the decay a_t connects step t to step t+1, so a decay of 0 at the end of an episode separates
    episodes. `decay` is converted to the dtype of x and broadcast to its shape; integers and booleans in x become
    floats. `bound` clips every y_t to [−bound, bound], for unbounded decays such as importance ratios.

    >>> linear_recurrence(jnp.ones(3), 0.5, reverse=True)
    Array([1.75, 1.5 , 1.  ], dtype=float32)
    """
    x = as_float(x)
    decay = jnp.broadcast_to(jnp.asarray(decay, x.dtype), x.shape)
    if not reverse:
        decay = jnp.concatenate([jnp.zeros_like(decay[:1]), decay[:-1]])

    def step(y: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        x_t, a_t = inputs
        y = x_t + a_t * y
        y = y if bound is None else jnp.clip(y, -bound, bound)
        return y, y

    return jax.lax.scan(step, jnp.zeros_like(x[0]), (x, decay), reverse=reverse)[1]
