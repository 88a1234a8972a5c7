"""What a trajectory's steps are divided by: its own length, the mean length, or the longest there can be.

A surrogate is a sum over steps and a mean over trajectories. Losses of language models divide by lengths besides; a
length is positive and fixed with the batch, so it divides the credit: a clipped surrogate is cut at the same ratios.
Whole episodes only.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from pgjax.estimators.contracts import of_its_parts, ratio_free
from pgjax.estimators.groups import own_spread
from pgjax.types import Credit, Signals, as_partial

Length = Callable[[Signals], Array]
"""signals -> a positive number for each step, [T, N]."""


@ratio_free
def own_length(signals: Signals) -> Array:
    """|o_n|, executed steps of the trajectory: GRPO and GSPO divide by it.

    **Biased** where lengths vary: a return counts for less in a longer episode. Liu et al. 2025.
    https://arxiv.org/abs/2503.20783

    >>> from pgjax import make_signals
    >>> own_length(make_signals(jnp.ones((2, 2)), mask=jnp.array([[1.0, 1.0], [1.0, 0.0]]))).tolist()
    [[2.0, 1.0], [2.0, 1.0]]
    """
    length = jnp.maximum(jnp.sum(signals.mask, axis=0, keepdims=True), 1.0)
    return jnp.broadcast_to(length, signals.mask.shape)


@ratio_free
def mean_length(signals: Signals) -> Array:
    """(1/G) Σ_i |o_i| over the trajectory's group, or over the batch: every step of the group weighs alike (DAPO).

    **Biased**, less than `own_length` and vanishing as groups grow: a ratio of two sums. Yu et al. 2025.
    https://arxiv.org/abs/2503.14476

    >>> from pgjax import make_signals
    >>> mean_length(make_signals(jnp.ones((2, 2)), mask=jnp.array([[1.0, 1.0], [1.0, 0.0]]))).tolist()
    [[1.5, 1.5], [1.5, 1.5]]
    """
    length = own_length(signals)[:1]
    mean = jnp.maximum(own_spread(signals, length, signals.mask[:1]).mean, 1.0)
    return jnp.broadcast_to(mean, signals.mask.shape)


@ratio_free
def longest_length(signals: Signals) -> Array:
    """T, the horizon: a constant (Dr. GRPO), which changes the scale alone. Liu et al. 2025.

    >>> from pgjax import make_signals
    >>> longest_length(make_signals(jnp.ones((2, 1)), mask=jnp.array([[1.0], [0.0]]))).tolist()
    [[2.0], [2.0]]
    """
    return jnp.full_like(signals.mask, signals.mask.shape[0])


def divided(credit: Credit, length: Length) -> Partial:
    """Credit divided by a length, itself a credit: Ψ_t / length.

    >>> from pgjax import make_signals, total_return
    >>> divided(total_return, own_length)(make_signals([[4.0], [2.0]])).T.tolist()
    [[3.0, 3.0]]
    """
    return Partial(_divided, as_partial(credit), as_partial(length))


@of_its_parts
def _divided(credit: Credit, length: Length, signals: Signals) -> Array:
    return credit(signals) / length(signals)
