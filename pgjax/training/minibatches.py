"""A batch cut into minibatches: by environments, with time left whole, or by single steps."""

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


def random_parts(key: Array, count: int, parts: int) -> Array:
    """Deal the numbers 0 … count − 1 into so many parts, int32 [parts, count / parts]: each number to exactly one.

    Of every `parts` consecutive numbers each part gets one: of the s-th of them part k gets s·parts + (k + b_s) mod
    parts, with b_s uniform and independent. Every number is equally likely to be in any part, so a part's mean is an
    unbiased estimate of the mean over all; and neighbours, which in a batch of steps resemble each other, never meet.
    It costs one random number per stratum, where a random order of all costs a sort.

    >>> jnp.sort(random_parts(jax.random.key(0), 6, 3).ravel()).tolist()
    [0, 1, 2, 3, 4, 5]
    """
    if count % parts:
        raise SettingError("minibatches", parts, f"does not divide the {count} rows of a batch, or of a device's share")
    strata = count // parts
    offset = own_share(jax.random.randint(key, (strata * sharers(),), 0, parts, jnp.int32))
    within = (jnp.arange(parts, dtype=jnp.int32)[:, None] + offset) % parts
    return parts * jnp.arange(strata, dtype=jnp.int32) + within
