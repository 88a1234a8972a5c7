"""An elementwise optimiser on the tree of parameters or on one flat vector of all numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

SMALL = 1 << 15
"""Number of parameters up to which one flat vector is faster on a CPU than an array for each layer."""


def on_the_tree(optimizer: optax.GradientTransformation, params: Any) -> optax.GradientTransformation:
    """The optimiser itself: the plain counterpart of `on_one_vector`."""
    return optimizer


def on_one_vector(optimizer: optax.GradientTransformation, params: Any) -> optax.GradientTransformation:
    """The optimiser on one flat vector of all parameters."""
    return optax.flatten(optimizer) if jax.tree.leaves(params) else optimizer


def on_one_small_vector(optimizer: optax.GradientTransformation, params: Any) -> optax.GradientTransformation:
    """The optimiser on one flat vector of few parameters, or on the tree of many."""
    return on_one_vector(optimizer, params) if small(params) else optimizer


def small(params: Any) -> bool:
    """Whether one vector of these numbers is faster on a CPU."""
    return sum(x.size for x in jax.tree.leaves(params)) <= SMALL


def norm(grads: Any) -> Array:
    """√Σ g² over all numbers of a gradient: of one vector if there are few, otherwise one sum for each array."""
    return jnp.linalg.norm(ravel_pytree(grads)[0]) if small(grads) else jnp.asarray(optax.tree.norm(grads))
