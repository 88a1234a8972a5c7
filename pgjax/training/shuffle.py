"""Random minibatches without sorting."""

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.estimators.reductions import own_share, sharers


def random_parts(key: Array, count: int, parts: int) -> Array:
    """Deal the numbers 0 … count − 1 into so many parts, int32 [parts, count / parts]: each number to exactly one.

    Of every `parts` consecutive numbers each part gets one: of the s-th of them part k gets s·parts + (k + b_s) mod
    parts, with b_s uniform and independent. Every number is equally likely to be in any part, so a part's mean is an
    unbiased estimate of the mean over all; and neighbours, which in a batch of steps resemble each other, never meet.
    It costs one random number per stratum, where a random order of all costs a sort.

    >>> jnp.sort(random_parts(jax.random.key(0), 6, 3).ravel()).tolist()
    [0, 1, 2, 3, 4, 5]
    """
    strata = count // parts
    offset = own_share(jax.random.randint(key, (strata * sharers(),), 0, parts, jnp.int32))
    within = (jnp.arange(parts, dtype=jnp.int32)[:, None] + offset) % parts
    return parts * jnp.arange(strata, dtype=jnp.int32) + within
