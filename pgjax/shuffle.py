"""Random orders without sorting."""

import jax
import jax.numpy as jnp
from jax import Array

ROUNDS = 4
LEAST_BITS = 6  # with two, four numbers would keep to the order of a ring: 0 and 2 never side by side


def random_order(key: Array, count: int) -> Array:
    """A random order of 0 … count − 1, int32 [count], for minibatches: each number exactly once.

    A keyed bijection of the next power of two (64 at least), x ← a·x + b, x ← x ⊕ (x ≫ s) with random odd a and
    random b, four times; numbers beyond `count` are passed over. Every number is about equally likely at every place;
    unlike a sort by random keys not all orders are equally likely, which no minibatch notices, and it costs a
    fraction.

    >>> sorted(random_order(jax.random.key(0), 5).tolist())
    [0, 1, 2, 3, 4]
    """
    bits = max((count - 1).bit_length(), LEAST_BITS)
    ones = jnp.uint32((1 << bits) - 1)
    x = jnp.arange(1 << bits, dtype=jnp.uint32)
    for a, b in jax.random.bits(key, (ROUNDS, 2), jnp.uint32):
        x = (x * (a | 1) + b) & ones
        x = x ^ (x >> (bits // 2 + 1))
    if count == 1 << bits:
        return x.astype(jnp.int32)
    kept = x < count
    place = jnp.where(kept, jnp.cumsum(kept) - 1, count)
    return jnp.zeros(count, jnp.int32).at[place].set(x.astype(jnp.int32), mode="drop")
