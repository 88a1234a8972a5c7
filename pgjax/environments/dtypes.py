"""Types that stay: what a loop carries must have one type on every turn."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def strong(tree: Any) -> Any:
    """A pytree of numbers as arrays of the same types, none of them weak: a weak one would change inside a scan.

    >>> jnp.asarray(1.0).weak_type, strong(1.0).weak_type
    (True, False)
    """

    def one(x: Any) -> Array:
        x = jnp.asarray(x)
        return x.astype(x.dtype) if x.aval.weak_type else x  # type: ignore[attr-defined]

    return jax.tree.map(one, tree)
