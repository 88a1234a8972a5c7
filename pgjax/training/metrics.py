"""Metrics as a sum and a count, which add up over parts of a batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Metrics = dict[str, Array]


class Metric(NamedTuple):
    """A mean as a sum and a count, which add up over blocks, slices, groups and devices."""

    total: Array
    count: Array

    def value(self) -> Array:
        """total / count; `nothing()` if the count is 0."""
        return jnp.where(self.count > 0, self.total / jnp.where(self.count > 0, self.count, 1.0), nothing())


def nothing() -> float:
    """The value of a metric that is undefined: NaN, or 0 under `jax_debug_nans`, which raises on NaN."""
    return 0.0 if jax.config.jax_debug_nans else float("nan")  # type: ignore[attr-defined]


def per_step(x: Array, mask: Array) -> Metric:
    """Mean of x [T, N] over executed steps."""
    return Metric(jnp.sum(jnp.where(mask > 0, x, 0.0)), jnp.sum(mask))


def per_episode(x: Array, mask: Array) -> Metric:
    """Mean of x [N] over the trajectories whose first step was executed."""
    return Metric(jnp.sum(jnp.where(mask[0] > 0, x, 0.0)), jnp.sum(mask[0]))


def values(metrics: dict[str, Metric]) -> Metrics:
    """The mean of every metric."""
    return {name: metric.value() for name, metric in metrics.items()}
