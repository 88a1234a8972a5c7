"""Metrics as sums: parts of a batch add up to the whole one's, however it was cut."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Metrics = dict[str, Array]


class Metric(NamedTuple):
    """A mean in two parts, which add up over blocks, slices, groups and devices."""

    total: Array
    count: Array

    def value(self) -> Array:
        """total / count; where nothing was counted, `nothing()`.

        >>> float(Metric(jnp.float32(3.0), jnp.float32(2.0)).value())
        1.5
        """
        return jnp.where(self.count > 0, self.total / jnp.where(self.count > 0, self.count, 1.0), nothing())


def nothing() -> float:
    """What stands for a number that does not exist: NaN, or 0 under `jax_debug_nans`, which would stop at it.

    >>> nothing()
    nan
    """
    return 0.0 if jax.config.jax_debug_nans else float("nan")  # type: ignore[attr-defined]


def per_step(x: Array, mask: Array) -> Metric:
    """The mean over executed steps of x, [T, N].

    >>> float(per_step(jnp.array([[1.0], [9.0]]), mask=jnp.array([[1.0], [0.0]])).value())
    1.0
    """
    return Metric(jnp.sum(jnp.where(mask > 0, x, 0.0)), jnp.sum(mask))


def per_episode(x: Array, mask: Array) -> Metric:
    """The mean over trajectories of x, [N]; a trajectory counts if its first step was executed.

    >>> float(per_episode(jnp.array([1.0, 3.0]), mask=jnp.ones((5, 2))).value())
    2.0
    """
    return Metric(jnp.sum(jnp.where(mask[0] > 0, x, 0.0)), jnp.sum(mask[0]))


def values(metrics: dict[str, Metric]) -> Metrics:
    """Every metric as a number."""
    return {name: metric.value() for name, metric in metrics.items()}
