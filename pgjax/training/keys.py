"""Random keys: one for each use within an update."""

from typing import NamedTuple

import jax
from jax import Array

from pgjax.types import SettingError


class Keys(NamedTuple):
    """The keys that a state's key is split into. Each is used once."""

    following: Array  # the next state's key
    rollout: Array
    shuffle: Array
    probe: Array
    restart: Array  # for resets of environments that are not finite


def keys_of(key: Array) -> Keys:
    """The keys of one update, split from the key in the training state."""
    return Keys(*jax.random.split(key, len(Keys._fields)))


def as_key(key: Array) -> Array:
    """A typed key. A raw uint32 key from `jax.random.PRNGKey` is wrapped; anything else raises a SettingError."""
    if hasattr(key, "dtype") and jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if getattr(key, "dtype", None) == jax.numpy.uint32 and jax.numpy.shape(key)[-1:] == (2,):
        return jax.random.wrap_key_data(key)
    raise SettingError("key", key, "is not a key; make one with jax.random.key(seed)")
