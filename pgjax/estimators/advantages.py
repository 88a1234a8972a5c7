"""Advantage estimates that use a critic: TD error, GAE, V-trace, and Q̃ − V."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from pgjax.estimators.contracts import ratio_free
from pgjax.estimators.importance import weight
from pgjax.estimators.recurrence import linear_recurrence
from pgjax.estimators.reductions import difference
from pgjax.types import SettingError, Signals


@ratio_free
def td_error(signals: Signals) -> Array:
    """TD error δ_t = r_t + γ V(s_{t+1}) − V(s_t), [T, ...]; V(s_{t+1}) counts as 0 after a termination.

    Errors within rounding of 0 are returned as exactly 0. Sutton 1988.

    >>> from pgjax import make_signals
    >>> td_error(make_signals([1.0], value=[0.5], next_value=[2.0]))
    Array([2.5], dtype=float32)
    """
    return _error(signals, signals.next_value)


def _error(signals: Signals, next_value: Array) -> Array:
    """r_t + γ V_{t+1} − V_t for any V_{t+1}; 0 within rounding."""
    following = signals.discount * next_value
    size = jnp.maximum(jnp.abs(signals.reward), jnp.abs(following))
    return difference(signals.reward + following, signals.value, size)


@ratio_free
def gae(signals: Signals, gae_lambda: ArrayLike = 0.95) -> Array:
    """Generalised advantage estimation, Â_t = δ_t + γ λ Â_{t+1}; it restarts at every termination and truncation.

    λ = 0 gives the TD error (least variance), λ = 1 the return minus V (no bias from the critic). Signals need `value`
    and `next_value`, which are 0 if left out. Schulman et al. 2016, eq. 16. https://arxiv.org/abs/1506.02438

    >>> from pgjax import make_signals
    >>> gae(make_signals([1.0, 1.0], value=[0.5, 0.5], next_value=[0.5, 0.0]), gae_lambda=1.0)
    Array([1.5, 0.5], dtype=float32)
    """
    return linear_recurrence(td_error(signals), gae_lambda * signals.discount * signals.continues, reverse=True)


@ratio_free
def lambda_return(signals: Signals, gae_lambda: ArrayLike = 0.95) -> Array:
    """TD(λ) return Â_t + V(s_t), [T, ...]: the regression target of a critic trained beside GAE.

    With λ = 1 it is the reward-to-go for any V. Sutton & Barto 2018, ch. 12.
    """
    return gae(signals, gae_lambda) + signals.value


def vtrace_target(
    signals: Signals, gae_lambda: ArrayLike = 1.0, max_rho: ArrayLike = 1.0, max_c: ArrayLike = 1.0
) -> Array:
    """Value target v_t of `vtrace`, [T, ...]; on-policy, with both thresholds at least 1, it equals `lambda_return`."""
    rho = weight(signals.log_ratio)
    decay = signals.discount * signals.continues * gae_lambda * jnp.minimum(max_c, rho)
    return signals.value + linear_recurrence(jnp.minimum(max_rho, rho) * td_error(signals), decay, reverse=True)


def vtrace(signals: Signals, gae_lambda: ArrayLike = 1.0, max_rho: ArrayLike = 1.0, max_c: ArrayLike = 1.0) -> Array:
    """V-trace advantage with truncated ratios; a credit for `score`:

        v_t = V(s_t) + Σ_{k≥t} γ^{k−t} (Π_{i<k} c_i) min(ρ̄, ρ_k) δ_k,   c_i = λ min(c̄, ρ_i),
        Ψ_t = min(ρ̄, ρ_t) (r_t + γ v_{t+1} − V(s_t)).

    At the last step of an episode or batch, V(s_{t+1}) replaces v_{t+1}. On-policy, with both thresholds at least 1 and
    λ = 1, Ψ is the return minus V. It depends on the ratios, so training recomputes them for every pass over a batch.
    Espeholt et al. 2018. https://arxiv.org/abs/1802.01561

    >>> from pgjax import make_signals
    >>> log_ratio = jnp.log(jnp.array([4.0, 0.5]))  # the ratio 4 is truncated to 1
    >>> signals = make_signals([1.0, 1.0], value=[0.5, 0.5], next_value=[0.5, 0.0], log_ratio=log_ratio)
    >>> [round(x, 3) for x in vtrace(signals).tolist()]
    [1.25, 0.25]
    """
    target = vtrace_target(signals, gae_lambda, max_rho, max_c)
    following = jnp.concatenate([target[1:], jnp.zeros_like(target[:1])])
    # A stream continues after its last row, where only V is known of the next v.
    continues = signals.continues.at[-1].set(0.0)
    next_target = jnp.where(continues > 0, following, signals.next_value)
    return jnp.minimum(max_rho, weight(signals.log_ratio)) * _error(signals, next_target)


@ratio_free
def action_advantage(signals: Signals) -> Array:
    """Advantage Q̃(s_t, a_t) − V(s_t) from `Signals.action_value` and `Signals.value`; 0 within rounding."""
    if signals.taken_value is None:
        raise SettingError("action_value", None, "is missing; action_advantage needs Q̃(s_t, a_t)")
    return difference(signals.taken_value, signals.value)
