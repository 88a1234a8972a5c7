"""Normalisation of a trajectory's sum over steps: by its own length, the mean length, or the horizon.

A surrogate is a sum over steps and a mean over trajectories; losses of language models also divide by a length. The
length is positive and fixed within a batch, so it divides the credit, and clipping acts at the same ratios. Whole
episodes only.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from pgjax.estimators.contracts import of_its_parts, ratio_free
from pgjax.estimators.groups import own_spread
from pgjax.types import Credit, Signals, as_partial

Length = Callable[[Signals], Array]
"""signals -> a positive divisor for each step, [T, N]."""


@ratio_free
def own_length(signals: Signals) -> Array:
    """Executed steps of the trajectory, |o_n|, [T, N]; the divisor of GRPO and GSPO.

    **Biased** where lengths vary: returns count less in longer episodes. Liu et al. 2025.
    https://arxiv.org/abs/2503.20783
    """
    length = jnp.maximum(jnp.sum(signals.mask, axis=0, keepdims=True), 1.0)
    return jnp.broadcast_to(length, signals.mask.shape)


@ratio_free
def mean_length(signals: Signals) -> Array:
    """Mean length (1/G) Σ_i |o_i| over the trajectory's group or the batch, [T, N]; gives every step the same weight.

    The divisor of DAPO. **Biased** as a ratio of two sums; the bias is smaller than that of `own_length` and vanishes
    for large groups. Yu et al. 2025. https://arxiv.org/abs/2503.14476
    """
    length = own_length(signals)[:1]
    mean = jnp.maximum(own_spread(signals, length, signals.mask[:1]).mean, 1.0)
    return jnp.broadcast_to(mean, signals.mask.shape)


@ratio_free
def longest_length(signals: Signals) -> Array:
    """The horizon T, [T, N]: a constant (Dr. GRPO), which changes only the scale. Liu et al. 2025."""
    return jnp.full_like(signals.mask, signals.mask.shape[0])


def divided(credit: Credit, length: Length) -> Partial:
    """Credit divided by a length of its trajectory, itself a credit: Ψ_t / length.

    >>> from pgjax import make_signals, own_length, total_return
    >>> divided(total_return, own_length)(make_signals([[4.0], [2.0]])).T.tolist()
    [[3.0, 3.0]]
    """
    return Partial(_divided, as_partial(credit), as_partial(length))


@of_its_parts
def _divided(credit: Credit, length: Length, signals: Signals) -> Array:
    return credit(signals) / length(signals)
