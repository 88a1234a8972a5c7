"""One batch's environments on several devices: what each of them knows of the others.

Inside a program that is mapped over a mesh with the axis ENV_AXIS (`pgjax.sweeps` does it) every device holds its share
of the environments, in order. Everywhere else there is one device and these functions return what they are given.
"""

from typing import Any

import jax
from jax import Array

ENV_AXIS = "env"


def sharers() -> int:
    """How many devices share a batch: 1 unless the axis is mapped. Known while tracing."""
    try:
        return jax.lax.axis_size(ENV_AXIS)
    except NameError:  # jax's way of saying that nobody maps an axis of that name
        return 1


def total(tree: Any) -> Any:
    """Sum over the devices that share a batch.

    >>> total(3.0)
    3.0
    """
    return jax.lax.psum(tree, ENV_AXIS) if sharers() > 1 else tree


def highest(x: Array) -> Array:
    """Maximum over the devices that share a batch."""
    return jax.lax.pmax(x, ENV_AXIS) if sharers() > 1 else x


def own_share(x: Array) -> Array:
    """This device's part of what was drawn for a whole batch, along axis 0.

    So what is drawn does not depend on how many devices there are.
    """
    if sharers() == 1:
        return x
    size = x.shape[0] // sharers()
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(ENV_AXIS) * size, size)
