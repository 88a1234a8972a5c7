"""Split a batch into minibatches: by environments (whole sequences) or by single steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.config import Config
from pgjax.estimators.reductions import own_share, sharers
from pgjax.training.loss import Batch
from pgjax.types import SettingError


def over_minibatches(
    config: Config, batch: Batch, key: Array, step: Callable[[Any, Batch], tuple[Any, Any]], carry: Any
) -> tuple[Any, Any]:
    """Scan `step` over the shuffled minibatches of one epoch. Returns the last carry and mean metrics."""
    if config.minibatches == 1:
        return step(carry, batch)
    if config.shuffle == "environments":
        rows, parts = batch, random_parts(key, batch.transition.mask.shape[1], config.minibatches)
    else:
        steps, environments = batch.transition.mask.shape
        rows = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), batch._replace(memory=()))
        # Rows are numbered environment by environment: a device with some environments has their rows.
        number = random_parts(key, steps * environments, config.minibatches)
        parts = number % steps * environments + number // steps

    def one(carry: Any, chosen: Array) -> tuple[Any, Any]:
        return step(carry, jax.tree.map(lambda x: x[:, chosen], rows))

    carry, metrics = jax.lax.scan(one, carry, parts)
    return carry, jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)


def random_parts(key: Array, count: int, parts: int) -> Array:
    """Split the indices 0 … count − 1 at random into equal parts, int32 [parts, count / parts].

    Stratified: part k gets s·parts + (k + b_s) mod parts from the s-th run of `parts` indices, with b_s uniform and
    independent. Each index is equally likely to be in any part, so the mean over a part is unbiased. Consecutive, hence
    correlated, steps are in different parts. Cost: one random number per stratum, and no sort.
    """
    if count % parts:
        raise SettingError("minibatches", parts, f"does not divide the {count} rows of the batch (per device)")
    strata = count // parts
    offset = own_share(jax.random.randint(key, (strata * sharers(),), 0, parts, jnp.int32))
    within = (jnp.arange(parts, dtype=jnp.int32)[:, None] + offset) % parts
    return parts * jnp.arange(strata, dtype=jnp.int32) + within
