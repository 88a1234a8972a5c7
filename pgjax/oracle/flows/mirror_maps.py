"""Bregman divergences between policies, and their proximal steps."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class MirrorMap(NamedTuple):
    """A Bregman divergence on probabilities and its proximal step."""

    divergence: Callable[[Array, Array], Array]  # D(p, q), [..., A] and [..., A] -> [...]
    step: Callable[[Array, Array], Array]  # (q, x) -> argmax_p ⟨x, p⟩ − D(p, q), [..., A]


def simplex_projection(x: Array) -> Array:
    """The nearest probabilities in Euclidean distance, over the last axis (Held, Wolfe & Crowder 1974).

    >>> [round(float(p), 3) for p in simplex_projection(jnp.array([0.9, 0.5, -3.0]))]
    [0.7, 0.3, 0.0]
    """
    falling = -jnp.sort(-x, axis=-1)
    count = jnp.arange(1, x.shape[-1] + 1)
    surplus = (jnp.cumsum(falling, axis=-1) - 1.0) / count
    kept = jnp.sum(falling > surplus, axis=-1, keepdims=True)
    return jnp.maximum(x - jnp.take_along_axis(surplus, kept - 1, axis=-1), 0.0)


def _kl(p: Array, q: Array) -> Array:
    return jnp.sum(jnp.where(p > 0, p * (jnp.log(jnp.where(p > 0, p, 1.0)) - jnp.log(q)), 0.0), axis=-1)


def _multiply(q: Array, x: Array) -> Array:
    return jax.nn.softmax(jnp.log(q) + x, axis=-1)


def _half_square(p: Array, q: Array) -> Array:
    return 0.5 * jnp.sum((p - q) ** 2, axis=-1)


def _add_and_project(q: Array, x: Array) -> Array:
    return simplex_projection(q + x)


KL = MirrorMap(_kl, _multiply)
"""D(p, q) = Σ p log(p/q), with multiplicative weights as its step."""
EUCLIDEAN = MirrorMap(_half_square, _add_and_project)
"""D(p, q) = ½ ‖p − q‖², with projected Q-ascent as its step; actions can reach probability 0."""
