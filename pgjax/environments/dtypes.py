"""Types that stay: what a loop carries must have one type on every turn."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike


def strong(tree: Any) -> Any:
    """A pytree of numbers as arrays of the same types, none of them weak: a weak one would change inside a scan.

    >>> jnp.asarray(1.0).weak_type, strong(1.0).weak_type
    (True, False)
    """

    def one(x: Any) -> Array:
        x = jnp.asarray(x)
        return x.astype(x.dtype) if x.aval.weak_type else x  # type: ignore[attr-defined]

    return jax.tree.map(one, tree)


def is_too_large(x: ArrayLike | list[float]) -> bool:
    """Whether a number, or one of several, is infinite in float32.

    >>> is_too_large(1e38), is_too_large(1e39)
    (False, True)
    """
    with np.errstate(over="ignore"):
        return bool(np.isinf(np.asarray(x).astype(np.float32)).any())
