"""Baselines: what is subtracted from credit. (signals, credit) -> b, broadcastable to [T, N, ...].

A baseline leaves the gradient's mean alone if b_t is independent of a_t given the history: it may see s_t, earlier
steps and other trajectories, never the action it judges. Where all credits that a batch baseline is made of are equal
up to rounding, it is the credit itself: nothing can be said of any action then. The variance-optimal ones need
per-trajectory gradients and live in `pgjax.training.gradients`.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

from pgjax.estimators.contracts import name_of, of_its_parts, ratio_free
from pgjax.estimators.groups import own_spread
from pgjax.estimators.reductions import difference, require_batch, step_spread
from pgjax.types import Credit, SettingError, Signals, as_partial

Baseline = Callable[[Signals, Array], Array]


@ratio_free
def constant(signals: Signals, credit: Array, baseline_constant: ArrayLike = 0.0) -> Array:
    """The same number everywhere: b_t = c. Unbiased for any c chosen before the batch was drawn.

    >>> from pgjax import make_signals
    >>> constant(make_signals([[1.0, 3.0]]), jnp.array([[1.0, 3.0]]), baseline_constant=0.5)
    Array([[0.5, 0.5]], dtype=float32)
    """
    return jnp.broadcast_to(jnp.asarray(baseline_constant, credit.dtype), credit.shape)


@ratio_free
def same_batch_mean(signals: Signals, credit: Array) -> Array:
    """The batch's own mean, b_t = (1/N) Σ_n Ψ_{n,t}, with finished trajectories counted as their padding says.

    **Biased**: the mean contains the trajectory it judges and shrinks the expected gradient by exactly (1 − 1/N).
    `leave_one_out` is the unbiased form.

    >>> from pgjax import make_signals
    >>> same_batch_mean(make_signals([[1.0, 3.0]]), jnp.array([[1.0, 3.0]]))
    Array([[2., 2.]], dtype=float32)
    """
    require_batch(credit, "baseline same_batch_mean", at_least=1)
    found = own_spread(signals, credit, signals.mask[:1])
    return jnp.where(found.std() == 0, credit, found.mean)


@ratio_free
def leave_one_out(signals: Signals, credit: Array) -> Array:
    """The mean of all *other* trajectories at the same step: b_{n,t} = (Σ_k Ψ_{k,t} − Ψ_{n,t}) / (N − 1).

    Unbiased. A finished trajectory counts as its padding says: 0 under reward-to-go, R under the total return. With
    groups (`Config.group_size`) the others of the same group: RLOO, Ahmadian et al. 2024.

    Raises:
      ValueError: with fewer than two trajectories.
    Kool et al. 2019. https://openreview.net/forum?id=r1lgTGL5DE

    >>> from pgjax import make_signals
    >>> leave_one_out(make_signals([[1.0, 3.0]]), jnp.array([[1.0, 3.0]]))
    Array([[3., 1.]], dtype=float32)
    """
    require_batch(credit, "baseline leave_one_out", at_least=2)
    return _mean_of_others(signals, credit, signals.mask[:1])


@ratio_free
def time_step(signals: Signals, credit: Array) -> Array:
    """The mean of the other trajectories *still running* at t, an estimate of E[Ψ_t | alive at t]. Unbiased.

    Where no other trajectory is left, b_t = 0.

    Raises:
      ValueError: with fewer than two trajectories.

    >>> from pgjax import make_signals
    >>> signals = make_signals([[1.0, 3.0], [0.0, 2.0]], mask=[[1.0, 1.0], [0.0, 1.0]])
    >>> time_step(signals, jnp.array([[1.0, 5.0], [0.0, 2.0]]))[:, 1].tolist()  # at the end it runs alone
    [1.0, 0.0]
    """
    require_batch(credit, "baseline time_step", at_least=2)
    return _mean_of_others(signals, credit, signals.mask)


def _mean_of_others(signals: Signals, credit: Array, there: Array) -> Array:
    """The mean of those that are there and another trajectory's; 0 where there are none."""
    found = own_spread(signals, credit, there)
    number = found.count - there
    rest = found.count * found.shift - there * (credit - found.reference)
    mean = jnp.where(found.std() == 0, credit, found.reference + rest / jnp.maximum(number, 1.0))
    return jnp.where(number > 0, mean, 0.0)


@ratio_free
def state_value(signals: Signals, credit: Array) -> Array:
    """The critic's V(s_t). Unbiased for any V that was not fitted to this batch.

    >>> from pgjax import make_signals
    >>> state_value(make_signals([1.0, 1.0], value=[2.0, 1.0]), jnp.array([2.0, 1.0]))
    Array([2., 1.], dtype=float32)
    """
    return signals.value


def baselined(credit: Credit, baseline: Baseline) -> Partial:
    """Credit minus a baseline, itself a credit: Ψ_t − b_t on executed steps, and 0 where they are equal up to rounding.

    >>> from pgjax import make_signals, reward_to_go
    >>> baselined(reward_to_go, leave_one_out)(make_signals([[1.0, 3.0]]))
    Array([[-2.,  2.]], dtype=float32)
    """
    return Partial(_baselined, as_partial(credit), as_partial(baseline))


@of_its_parts
def _baselined(credit: Credit, baseline: Baseline, signals: Signals) -> Array:
    psi = _of_each_step(credit, signals)
    return difference(psi, baseline(signals, psi))


def _of_each_step(credit: Credit, signals: Signals) -> Array:
    psi: Any = credit(signals)
    if isinstance(psi, tuple) or jnp.ndim(psi) > signals.reward.ndim:
        raise SettingError("credit", name_of(credit), "is more than a number per step; it takes no baseline or spread")
    return jnp.broadcast_to(psi, signals.reward.shape)


def standardised(credit: Credit, strength: ArrayLike = 1.0) -> Partial:
    """Credit to mean 0 and standard deviation 1 over the batch's executed steps.

        Ψ ← (1 − s)·Ψ + s·(Ψ − mean)/(std + 1e-8),   s = strength in {0, 1};   0 where all Ψ are equal up to rounding

    **Biased** in direction (the batch divides by its own spread); common, never silent. The strength is a number, so
    that on and off can stand in one vmapped sweep.

    >>> from pgjax import make_signals, reward_to_go
    >>> [round(x, 3) for x in standardised(reward_to_go)(make_signals([[1.0, 3.0]]))[0].tolist()]
    [-1.0, 1.0]
    """
    return Partial(_standardised, as_partial(credit), strength=strength)


@of_its_parts
def _standardised(credit: Credit, signals: Signals, strength: ArrayLike) -> Array:
    psi = _of_each_step(credit, signals)
    return jnp.where(jnp.asarray(strength) > 0, step_spread(psi, signals.mask).standardised(psi, floor=1e-8), psi)


@ratio_free
def per_time(signals: Signals, credit: Array, table: Array) -> Array:
    """A given number for each time step, b_t = table[t], [T]; for whole episodes. Unbiased if fixed beforehand.

    >>> from pgjax import make_signals
    >>> per_time(make_signals([[1.0], [2.0]]), jnp.zeros((2, 1)), jnp.array([3.0, 2.0])).T.tolist()
    [[3.0, 2.0]]
    """
    return jnp.broadcast_to(table.reshape(-1, *[1] * (credit.ndim - 1)), credit.shape)
