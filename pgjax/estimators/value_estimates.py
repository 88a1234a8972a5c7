"""Off-policy evaluation: the value of a target policy from trajectories of another policy, with an interval.

    J(π) = E_π[Σ_t γ^t r_t],   estimated with weights ρ_{1:t} = Π_{s≤t} π(a_s|s_s)/μ(a_s|s_s)

Every estimate takes a confidence level in (0, 1), a Python number, and `Signals` of whole episodes, [T, N] with N ≥ 2.
Their `log_ratio` is log π − log μ, and may be −inf where the target policy never takes the action. Columns without a
step are ignored. Rewards beyond the recorded horizon are not part of J.
Intervals are t-intervals from the spread within the batch, and approximate. They are too short, possibly by far, if the
batch lacks rare trajectories of large weight. Signs of this are an effective sample size below 10 or 20, or one
trajectory with much of the weight. A batch without any reward gives 0 ± 0. Check `effective_sample_size`,
`largest_weight_share` and `mean_weight` before relying on an interval.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.estimators.importance import clamped_fraction, effective_sample_size, weight
from pgjax.estimators.reductions import BATCH_AXIS, batch_spread, rounding, size_of
from pgjax.estimators.returns import discount_factor, discounted_reward, total_return
from pgjax.types import SettingError, Signals


class ValueEstimate(NamedTuple):
    """Estimate of J with a confidence interval, and diagnostics of the weights w_n = ρ_{1:T}; all scalars."""

    mean: Array
    standard_error: Array
    low: Array  # the confidence interval
    high: Array
    effective_sample_size: Array  # (Σ w)² / Σ w², from 1 to N
    largest_weight_share: Array  # max w / Σ w
    mean_weight: Array  # should be about 1; else heavy trajectories are missing or the log-probabilities are wrong
    clamped: Array  # share of executed steps whose ρ_{1:t} is clipped by `pgjax.importance`; biased where not 0


def trajectory(signals: Signals, level: float = 0.95) -> ValueEstimate:
    """Whole-episode importance sampling; unbiased, with a variance that grows geometrically with the horizon T.

        Ĵ = (1/N) Σ_n ρ_{1:T} R,      Ĵ ± t_{N−1} s/√N

    Precup, Sutton & Singh 2000.
    """
    _check(signals, level)
    return _mean_of(trajectory_values(signals), signals, level)


def per_decision(signals: Signals, level: float = 0.95) -> ValueEstimate:
    """Per-decision importance sampling; unbiased, with each reward weighted by the ratios up to it. Precup et al. 2000.

        Ĵ = (1/N) Σ_n Σ_t ρ_{1:t} γ^t r_t,      Ĵ ± t_{N−1} s/√N

    >>> import jax.numpy as jnp
    >>> from pgjax import make_signals
    >>> signals = make_signals([[1.0, 1.0], [2.0, 0.0]], log_ratio=jnp.log(jnp.array([[2.0, 0.5], [0.5, 1.0]])))
    >>> float(per_decision(signals).mean)  # (2·1 + 1·2 + 0.5·1) / 2
    2.25
    """
    _check(signals, level)
    return _mean_of(per_decision_values(signals), signals, level)


def doubly_robust(signals: Signals, level: float = 0.95) -> ValueEstimate:
    """Per-decision importance sampling with a critic as control variate; unbiased for any Q̃ fitted to other data.

        D_t = Ṽ(s_t) + ρ_t (r_t + γ D_{t+1} − Q̃(s_t, a_t)),   Ĵ = (1/N) Σ_n D_0,      Ĵ ± t_{N−1} s/√N

    Signals need `taken_value` Q̃(s_t, a_t). Their `value` must be the mean of the same critic over the target policy's
    actions, Ṽ(s) = Σ_a π(a|s) Q̃(s, a); any other makes the estimate biased. The closer Q̃ is to the target policy's Q,
    the smaller the variance; Q̃ = 0 gives `per_decision`. Jiang & Li 2016, eq. 10. https://arxiv.org/abs/1511.03722

    >>> import jax.numpy as jnp
    >>> from pgjax import make_signals
    >>> action, q = jnp.array([[0, 0, 1]]), jnp.array([1.0, 3.0])  # the target policy is uniform, so Ṽ = 2
    >>> critic = {"value": jnp.full((1, 3), 2.0), "action_value": jnp.broadcast_to(q, (1, 3, 2)), "action": action}
    >>> signals = make_signals(q[action], log_ratio=jnp.log(0.5 / jnp.array([0.8, 0.2]))[action], **critic)
    >>> float(doubly_robust(signals).mean)
    2.0
    """
    _check(signals, level)
    return _mean_of(doubly_robust_values(signals), signals, level)


def weighted_trajectory(signals: Signals, level: float = 0.95) -> ValueEstimate:
    """Self-normalised whole-episode weights; bias O(1/N), consistent, and always within the range of the returns:

        Ĵ = Σ_n w̃_n R_n,   w̃ = w / Σ w,   w_n = ρ_{1:T},      Ĵ ± t_{N−1} √(N/(N−1) Σ_n w̃_n² (R_n − Ĵ)²).

    The result is NaN where every trajectory has weight 0. Precup, Sutton & Singh 2000; Owen, Monte Carlo theory,
    methods and examples, eq. 9.8 and 9.9.
    """
    _check(signals, level)
    total = total_return(signals)[0]
    share = _shares(_log_prefix(signals)[-1], signals)
    mean, surplus = _weighted(share[None], total[None], signals)
    count = _count(signals)
    return _estimate(mean[0, 0], count * surplus[0], signals, level, size=count * share * total)


def weighted_per_decision(signals: Signals, level: float = 0.95) -> ValueEstimate:
    """Per-decision weights, normalised over the batch at every step; bias O(1/N), consistent:

        Ĵ = Σ_t Ĵ_t,   Ĵ_t = Σ_n w̃_{n,t} γ^t r_t,   w̃_{n,t} = ρ_{1:t} / Σ_k ρ^k_{1:t},
        Ĵ ± t_{N−1} √(N/(N−1) Σ_n ψ_n²),   ψ_n = Σ_t w̃_{n,t} (γ^t r_t − Ĵ_t).

    A finished trajectory keeps its last weight, with reward 0. The result is NaN where every trajectory has weight 0.
    Precup, Sutton & Singh 2000; Thomas & Brunskill 2016 (there CWPDIS). https://arxiv.org/abs/1604.00923
    """
    _check(signals, level)
    reward = discounted_reward(signals)
    share = _shares(_log_prefix(signals), signals)
    mean, surplus = _weighted(share, reward, signals)
    influence, size = (_count(signals) * jnp.sum(x, axis=0) for x in (surplus, share * jnp.abs(reward)))
    return _estimate(jnp.sum(mean), influence, signals, level, size=size)


def trajectory_values(signals: Signals) -> Array:
    """ρ_{1:T} R of every trajectory, [N]."""
    return weight(_log_prefix(signals)[-1]) * total_return(signals)[0]


def per_decision_values(signals: Signals) -> Array:
    """Σ_t ρ_{1:t} γ^t r_t of every trajectory, [N]."""
    return jnp.sum(weight(_log_prefix(signals)) * discounted_reward(signals), axis=0)


def doubly_robust_values(signals: Signals) -> Array:
    """D_0 of every trajectory, [N]: Σ_t γ^t [ρ_{1:t−1} Ṽ(s_t) + ρ_{1:t} (r_t − Q̃(s_t, a_t))].

    Weights are clipped as products ρ_{1:t}. Needs action values.
    """
    if signals.taken_value is None:
        raise SettingError("taken_value", None, "is missing; doubly_robust needs Q̃(s_t, a_t), from action_value")
    prefix = _log_prefix(signals)
    before = jnp.concatenate([jnp.zeros_like(prefix[:1]), prefix[:-1]])
    terms = weight(before) * signals.value + weight(prefix) * (signals.reward - signals.taken_value)
    return jnp.sum(discount_factor(signals) * terms, axis=0)


VALUE_ESTIMATES: dict[str, Callable[..., ValueEstimate]] = {
    "trajectory": trajectory,
    "per_decision": per_decision,
    "weighted_trajectory": weighted_trajectory,
    "weighted_per_decision": weighted_per_decision,
    "doubly_robust": doubly_robust,
}


def _check(signals: Signals, level: float) -> None:
    """Reject levels and shapes that do not work."""
    if not 0.0 < level < 1.0:
        raise SettingError("level", level, "must lie between 0 and 1, both excluded")
    shape = signals.reward.shape
    if len(shape) != 2 or shape[0] < 1:
        raise SettingError("reward", shape, "is the wrong shape; expected whole episodes, [T, N], one per column")
    if shape[1] < 2:
        raise SettingError("reward", shape, "is the wrong shape; an interval needs N >= 2 trajectories")
    for name in ("continues", "mask", "discount", "value", "log_ratio", "taken_value"):
        array = getattr(signals, name)
        if array is not None and array.shape != shape:
            raise SettingError(name, array.shape, f"is the wrong shape; expected {shape}")


def _log_prefix(signals: Signals) -> Array:
    """log ρ_{1:t}, [T, N], constant on padding. A recurrence would give NaN from 0 · −inf."""
    return jnp.cumsum(signals.log_ratio, axis=0)


def _count(signals: Signals) -> Array:
    return size_of(signals.mask).trajectories


def _shares(log_weight: Array, signals: Signals) -> Array:
    """w / Σ w over the last axis, the batch; 0 for columns without a step."""
    return jax.nn.softmax(jnp.where(signals.mask[0] > 0, log_weight, -jnp.inf), axis=-1)


def _weighted(share: Array, x: Array, signals: Signals) -> tuple[Array, Array]:
    """Σ_n w̃_n x_n at every step, [T, 1], and w̃ (x − that), [T, N]; exact where all x are equal."""
    reference = batch_spread(x, signals.mask[:1]).reference
    shift = jnp.sum(share * (x - reference), axis=BATCH_AXIS, keepdims=True)
    return reference + shift, share * ((x - reference) - shift)


def _mean_of(values: Array, signals: Signals, level: float) -> ValueEstimate:
    """Estimate from the mean of independent values, [N]."""
    spread = batch_spread(values[None], signals.mask[:1])
    log_weight = _log_prefix(signals)
    clamped = clamped_fraction(log_weight, signals.mask)
    estimate = _estimate(spread.mean[0, 0], spread.deviation(values[None])[0], signals, level, size=values)
    return estimate._replace(clamped=clamped)


def _estimate(mean: Array, influence: Array, signals: Signals, level: float, size: Array) -> ValueEstimate:
    """Estimate whose error is, to first order, the mean of independent influences [N]; 0 below rounding of `size`."""
    exists = signals.mask[0] > 0
    count = _count(signals)
    influence = jnp.where(exists, influence, 0.0)
    variance = jnp.where(count > 1, jnp.sum(influence**2) / jnp.maximum(count - 1.0, 1.0), jnp.nan)
    equal = variance <= rounding(jnp.max(jnp.where(exists, jnp.abs(size), 0.0))) ** 2
    error = jnp.where(equal, 0.0, jnp.sqrt(variance / count))
    margin = _student_quantile(level, count - 1.0) * error
    log_weight = jnp.where(exists, _log_prefix(signals)[-1], -jnp.inf)
    return ValueEstimate(
        mean=mean,
        standard_error=error,
        low=mean - margin,
        high=mean + margin,
        effective_sample_size=effective_sample_size(log_weight),
        largest_weight_share=jnp.max(_shares(log_weight, signals)),
        mean_weight=jnp.sum(weight(log_weight)) / count,
        clamped=jnp.zeros_like(mean),
    )


def _student_quantile(level: float, freedom: Array) -> Array:
    """Two-sided quantile of Student's t, from a table: exact up to 300 degrees of freedom, else to 1e-5."""
    from scipy.special import ndtri, stdtrit  # imported here, because it is slow to import

    known, upper = np.arange(300, 0, -1), 0.5 + 0.5 * level
    table = np.append(ndtri(upper), stdtrit(known, upper))
    return jnp.interp(1.0 / freedom, np.append(0.0, 1.0 / known), table).astype(freedom.dtype)
