"""A batch cut into minibatches: by environments, with time left whole, or by single steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.config import Config
from pgjax.losses import Batch
from pgjax.shuffle import random_order


def over_minibatches(
    config: Config, batch: Batch, key: Array, step: Callable[[Any, Batch], tuple[Any, Any]], carry: Any
) -> tuple[Any, Any]:
    """Scan `step` over the minibatches of one pass, in an order of its own; returns the last carry and mean metrics."""
    if config.minibatches == 1:
        return step(carry, batch)
    rows = _as_rows(batch) if config.shuffle == "steps" else batch
    count = rows.transition.mask.shape[1]
    order = random_order(key, count).reshape(config.minibatches, -1)

    def one(carry: Any, chosen: Array) -> tuple[Any, Any]:
        return step(carry, jax.tree.map(lambda x: x[:, chosen], rows))

    carry, metrics = jax.lax.scan(one, carry, order)
    return carry, jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)


def _as_rows(batch: Batch) -> Batch:
    """[T, N, ...] -> [1, T·N, ...]: steps on their own, for surrogates that look at one step only."""
    return jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), batch._replace(memory=()))
