"""One key for each consumer of randomness in an update."""

from typing import NamedTuple

import jax
from jax import Array

from pgjax.types import SettingError


class Keys(NamedTuple):
    """What a state's key is split into; every one of them is used up by one consumer."""

    following: Array  # the next state's key
    rollout: Array
    shuffle: Array
    probe: Array
    restart: Array  # of environments that broke


def keys_of(key: Array) -> Keys:
    """The keys of one update, from the key that a state carries.

    >>> len(keys_of(jax.random.key(0)))
    5
    """
    return Keys(*jax.random.split(key, len(Keys._fields)))


def as_key(key: Array) -> Array:
    """A typed key; one of the old style, two integers from `jax.random.PRNGKey`, becomes one.

    Raises:
      SettingError: for what is no key.

    >>> bool(as_key(jax.random.PRNGKey(0)) == jax.random.key(0))
    True
    """
    if hasattr(key, "dtype") and jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if getattr(key, "dtype", None) == jax.numpy.uint32 and jax.numpy.shape(key)[-1:] == (2,):
        return jax.random.wrap_key_data(key)
    raise SettingError("key", key, "is no key; make one with jax.random.key(seed)")
