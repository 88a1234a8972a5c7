"""Statistics over the batch axis: the one place where trajectories meet."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from pgjax.estimators.sharing import highest, sharers, total

BATCH_AXIS = 1


def batch_sum(x: Array) -> Array:
    """Sum over the batch, [T, N, ...] -> [T, 1, ...]."""
    return total(jnp.sum(x, axis=BATCH_AXIS, keepdims=True))


def batch_max(x: Array) -> Array:
    """Maximum over the batch, [T, N, ...] -> [T, 1, ...]."""
    return highest(jnp.max(x, axis=BATCH_AXIS, keepdims=True))


def step_sum(x: Array) -> Array:
    """Sum over all steps of the batch, [T, N, ...] -> [...]."""
    return total(jnp.sum(x, axis=(0, BATCH_AXIS)[: x.ndim]))


def require_batch(x: Array, needed_by: str, at_least: int) -> None:
    """Say who needs more trajectories where x [T, N, ...] holds too few."""
    if x.ndim <= BATCH_AXIS or x.shape[BATCH_AXIS] * sharers() < at_least:
        raise ValueError(f"{needed_by} needs [T, N, ...] with N >= {at_least} trajectories, got {x.shape}")


class BatchSize(NamedTuple):
    """What a batch is divided by: its trajectories N, or its executed steps."""

    trajectories: Array
    steps: Array

    def mean(self, x: Array, over: str) -> Array:
        """Σ x divided by the number of trajectories (exact) or of steps (a ratio estimator).

        Where devices share the batch, each one's part of it; they add up.
        """
        return jnp.sum(x) / getattr(self, over)


def size_of(mask: Array) -> BatchSize:
    """Count a batch from its mask, [T, N]; a trajectory counts if its first step does.

    >>> size = size_of(jnp.array([[1.0, 1.0], [1.0, 0.0]]))
    >>> float(size.mean(jnp.ones((2, 2)), "trajectories")), float(size.mean(jnp.ones(3), "steps"))
    (2.0, 1.0)
    """
    trajectories, steps = total((jnp.sum(mask[0]), jnp.sum(mask)))
    return BatchSize(jnp.maximum(trajectories, 1.0), jnp.maximum(steps, 1.0))
