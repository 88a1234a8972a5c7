"""Split a batch into minibatches: by environments (whole sequences) or by single steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.config import Config
from pgjax.estimators.reductions import BatchSize, own_share, sharers, size_of
from pgjax.training.loss import Batch
from pgjax.types import SettingError


def over_minibatches(
    config: Config, batch: Batch, key: Array, step: Callable[[Any, Batch, BatchSize], tuple[Any, Any]], carry: Any
) -> tuple[Any, Any]:
    """Scan `step` over the shuffled minibatches of one epoch. Returns the last carry and mean metrics.

    `step` takes the carry, a minibatch and its size over all devices. The sizes are computed before the scan, because
    devices wait for each other at each sum.
    """
    if config.minibatches == 1:
        return step(carry, batch, size_of(batch.signals.mask))
    if config.shuffle == "environments":
        parts = random_parts(key, batch.transition.mask.shape[1], config.minibatches)
    else:
        steps, environments = batch.transition.mask.shape
        batch = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), batch._replace(memory=()))
        # Rows are numbered environment by environment: a device with some environments has their rows.
        number = random_parts(key, steps * environments, config.minibatches)
        parts = number % steps * environments + number // steps

    def one(carry: Any, chosen_and_size: tuple[Array, BatchSize]) -> tuple[Any, Any]:
        chosen, size = chosen_and_size
        return step(carry, jax.tree.map(lambda x: x[:, chosen], batch), size)

    sizes = jax.vmap(lambda chosen: size_of(batch.signals.mask[:, chosen]))(parts)
    carry, metrics = jax.lax.scan(one, carry, (parts, sizes))
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
