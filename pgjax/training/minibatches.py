"""A batch cut into minibatches: by environments, with time left whole, or by single steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.config import Config
from pgjax.training.loss import Batch
from pgjax.training.shuffle import random_parts


def over_minibatches(
    config: Config, batch: Batch, key: Array, step: Callable[[Any, Batch], tuple[Any, Any]], carry: Any
) -> tuple[Any, Any]:
    """Scan `step` over the minibatches of one pass, dealt anew for it; returns the last carry and mean metrics."""
    if config.minibatches == 1:
        return step(carry, batch)
    rows = _as_rows(batch) if config.shuffle == "steps" else batch
    parts = random_parts(key, rows.transition.mask.shape[1], config.minibatches)

    def one(carry: Any, chosen: Array) -> tuple[Any, Any]:
        return step(carry, jax.tree.map(lambda x: x[:, chosen], rows))

    carry, metrics = jax.lax.scan(one, carry, parts)
    return carry, jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)


def _as_rows(batch: Batch) -> Batch:
    """[T, N, ...] -> [1, N·T, ...]: steps on their own, for surrogates that look at one step only.

    Environment by environment, so that a device that holds some of the environments holds their rows.
    """
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(1, -1, *x.shape[2:]), batch._replace(memory=()))
