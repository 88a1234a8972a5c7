"""Stable dtypes: the carry of a loop must have the same dtypes in every iteration."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike


def strong(tree: Any) -> Any:
    """A pytree of numbers as arrays that are not weakly typed. A weak type would change inside a scan."""

    def one(x: Any) -> Array:
        x = jnp.asarray(x)
        return x.astype(x.dtype) if x.aval.weak_type else x  # type: ignore[attr-defined]

    return jax.tree.map(one, tree)


def is_too_large(x: ArrayLike | list[float]) -> bool:
    """Whether a number, or any of several, is infinite in float32."""
    with np.errstate(over="ignore"):
        return bool(np.isinf(np.asarray(x).astype(np.float32)).any())
