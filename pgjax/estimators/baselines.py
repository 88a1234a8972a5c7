"""Baselines, which are subtracted from credit: (signals, credit) -> b, broadcastable to [T, N, ...].

A baseline leaves the mean of the gradient unchanged if b_t is independent of a_t given the history. It may depend on
s_t, on earlier steps and on other trajectories. Where all credits that a batch baseline averages are equal up to
rounding, the baseline equals the credit, so that the advantage is exactly 0. Variance-optimal baselines, which need
per-trajectory gradients, are in `pgjax.estimators.optimal_baselines`.
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
    """Constant baseline b_t = c. Unbiased for any c chosen before the batch is drawn."""
    return jnp.broadcast_to(jnp.asarray(baseline_constant, credit.dtype), credit.shape)


@ratio_free
def same_batch_mean(signals: Signals, credit: Array) -> Array:
    """Mean credit of the batch (or group) at each step, b_t = (1/N) Σ_n Ψ_{n,t}, padding included.

    **Biased**, unlike `leave_one_out`: own credit is included, which scales the expected gradient by exactly 1 − 1/N.
    """
    require_batch(credit, "baseline same_batch_mean", at_least=1)
    spread = own_spread(signals, credit, signals.mask[:1])
    return jnp.where(spread.std() == 0, credit, spread.mean)


@ratio_free
def leave_one_out(signals: Signals, credit: Array) -> Array:
    """Mean credit of the N − 1 *other* trajectories at the same step, b_{n,t} = (Σ_k Ψ_{k,t} − Ψ_{n,t}) / (N − 1).

    Unbiased; needs N ≥ 2. A finished trajectory counts with the credit of its padding: 0 under reward-to-go, R under
    the total return. With groups (`Config.group_size`) the mean is over the same group (RLOO, Ahmadian et al. 2024).
    Kool et al. 2019. https://openreview.net/forum?id=r1lgTGL5DE

    >>> from pgjax import make_signals
    >>> leave_one_out(make_signals([[1.0, 3.0]]), jnp.array([[1.0, 3.0]]))
    Array([[3., 1.]], dtype=float32)
    """
    require_batch(credit, "baseline leave_one_out", at_least=2)
    return _mean_of_others(signals, credit, signals.mask[:1])


@ratio_free
def time_step(signals: Signals, credit: Array) -> Array:
    """Mean credit of the other trajectories *still running* at t, an estimate of E[Ψ_t | running at t]; needs N ≥ 2.

    Unbiased; 0 where no other trajectory is running.

    >>> from pgjax import make_signals
    >>> signals = make_signals([[1.0, 3.0], [0.0, 2.0]], mask=[[1.0, 1.0], [0.0, 1.0]])
    >>> time_step(signals, jnp.array([[1.0, 5.0], [0.0, 2.0]]))[:, 1].tolist()
    [1.0, 0.0]
    """
    require_batch(credit, "baseline time_step", at_least=2)
    return _mean_of_others(signals, credit, signals.mask)


def _mean_of_others(signals: Signals, credit: Array, present: Array) -> Array:
    """Mean over the other trajectories whose mask is 1; 0 where there are none."""
    spread = own_spread(signals, credit, present)
    num_others = spread.count - present
    others_sum = spread.count * spread.shift - present * (credit - spread.reference)
    mean = jnp.where(spread.std() == 0, credit, spread.reference + others_sum / jnp.maximum(num_others, 1.0))
    return jnp.where(num_others > 0, mean, 0.0)


@ratio_free
def state_value(signals: Signals, credit: Array) -> Array:
    """The critic's V(s_t). Unbiased for any V that was not fitted to this batch."""
    return signals.value


def baselined(credit: Credit, baseline: Baseline) -> Partial:
    """Credit minus a baseline, itself a credit: Ψ_t − b_t, and 0 where both are equal up to rounding.

    `baseline` maps (signals, credit [T, N]) to b, [T, N] or broadcast to it.
    >>> from pgjax import make_signals, reward_to_go
    >>> from pgjax.baselines import leave_one_out
    >>> baselined(reward_to_go, leave_one_out)(make_signals([[1.0, 3.0]]))
    Array([[-2.,  2.]], dtype=float32)
    """
    return Partial(_baselined, as_partial(credit), as_partial(baseline))


@of_its_parts
def _baselined(credit: Credit, baseline: Baseline, signals: Signals) -> Array:
    psi = _per_step_credit(credit, signals)
    return difference(psi, baseline(signals, psi))


def _per_step_credit(credit: Credit, signals: Signals) -> Array:
    psi: Any = credit(signals)
    if isinstance(psi, tuple) or jnp.ndim(psi) > signals.reward.ndim:
        raise SettingError("credit", name_of(credit), "is more than a number per step; no baseline or scaling applies")
    return jnp.broadcast_to(psi, signals.reward.shape)


def standardised(credit: Credit, strength: ArrayLike = 1.0) -> Partial:
    """Credit scaled to mean 0 and standard deviation 1 over the executed steps of the batch, (Ψ − mean)/(std + 1e-8).

    **Biased** in direction, because each batch is divided by its own standard deviation. The result is 0 where all
    credits are equal up to rounding. A `strength` of 0 leaves the credit unchanged, and any above 0 standardises it
    fully, so that a vmapped sweep can switch it on and off.

    >>> from pgjax import make_signals, reward_to_go
    >>> [round(x, 3) for x in standardised(reward_to_go)(make_signals([[1.0, 3.0]]))[0].tolist()]
    [-1.0, 1.0]
    """
    return Partial(_standardised, as_partial(credit), strength=strength)


@of_its_parts
def _standardised(credit: Credit, signals: Signals, strength: ArrayLike) -> Array:
    psi = _per_step_credit(credit, signals)
    return jnp.where(jnp.asarray(strength) > 0, step_spread(psi, signals.mask).standardised(psi, floor=1e-8), psi)


@ratio_free
def per_time(signals: Signals, credit: Array, table: Array) -> Array:
    """Baseline from a table, b_t = table[t], [T]; for whole episodes. Unbiased if the table is fixed beforehand.

    >>> from pgjax import make_signals
    >>> per_time(make_signals([[1.0], [2.0]]), jnp.zeros((2, 1)), jnp.array([3.0, 2.0])).T.tolist()
    [[3.0, 2.0]]
    """
    return jnp.broadcast_to(table.reshape(-1, *[1] * (credit.ndim - 1)), credit.shape)
