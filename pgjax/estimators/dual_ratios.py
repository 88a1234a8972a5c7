"""Density ratios and values estimated together from data: minimax weights, DualDICE and their linear dual.

Weights w = ψ·x and values v = ψ·β are linear in the same features ψ, and solve, with sums over steps and trajectories:

    weights   Σ e_t w_t (ψ_t − γ κ_t ψ̄_{t+1}) = Σ ψ̄_0
    values    Σ e_t ψ_t (κ_t (r_t + γ ψ̄_{t+1}·β) − ψ_t·β) = 0.

The first makes e_t w_t follow the state distribution of the target policy; the second is the Bellman equation projected
on ψ. The matrices are each other's transpose, so both give the same estimate of J, Σ e_t w_t κ_t r_t/N = Σ ψ̄_0·β/N. To
first order its error is that of the mean of double reinforcement learning with both parts fitted, so the interval
includes the error of the ratios:

    V̂(s_0) + Σ_t e_t w_t (κ_t (r_t + γ V̂(s_{t+1})) − ψ_t·β).

Features of states use ψ = ψ̄ = φ(s_t) and κ = ρ_t. Features of states and actions use ψ = ψ(s_t, a_t),
ψ̄ = Σ_a π(a|s_t) ψ(s_t, a) and κ = 1. The latter do not need the behaviour policy, and have much less variance over
long horizons, where ρ_t would multiply all later terms. One-hot features give tables.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import cho_solve

from pgjax.estimators.returns import discount_factor
from pgjax.estimators.value_estimates import ValueEstimate, _check, _mean_of
from pgjax.types import SettingError, Signals


class Dual(NamedTuple):
    """Solution of `fit_dual` along the trajectories, [T, N]."""

    weight: Array  # e_t w_t κ_t: the estimate is the mean of Σ_t weight_t r_t
    state_ratio: Array  # w_t = d_t^π/d_t^μ of states, or of states and actions
    value: Array  # V̂(s_t) = ψ̄_t·β
    residual: Array  # κ_t (r_t + γ V̂(s_{t+1})) − ψ_t·β


def fit_dual(
    signals: Signals,
    features: Array,
    expected: Array | None = None,
    emphasis: Array | None = None,
    stationary: bool = False,
) -> Dual:
    """Solve both equations of this module on the given trajectories.

    Args:
      signals: whole episodes, [T, N].
      features: φ(s_t), [T, N, K]; or ψ(s_t, a_t), with `expected` Σ_a π(a|s_t) ψ(s_t, a), [T, N, K].
      emphasis: e_t, [T, N]; default γ^t. `followon_trace` for emphatic equations.
      stationary: fit one x and β for all times; for episodes that terminate or for which γ^T is small. The default fits
        one for every t, and is right for any horizon.
    Minimax weights: Uehara, Huang & Jiang 2020. https://arxiv.org/abs/1910.12809
    DualDICE, the first equation with state-action features and `stationary`: Nachum et al. 2019.
    https://arxiv.org/abs/1906.04733
    """
    shape = signals.reward.shape
    for name, array in (("features", features), ("expected", expected)):
        if array is not None and array.shape != (*shape, features.shape[-1]):
            raise SettingError(name, array.shape, f"is the wrong shape; it must be {shape} and the number of features")
    if emphasis is not None and emphasis.shape != shape:
        raise SettingError("emphasis", emphasis.shape, f"is the wrong shape; expected {shape}")
    mask = signals.mask[..., None]
    psi = features * mask
    mean = psi if expected is None else expected * mask
    kappa = jnp.exp(signals.log_ratio) if expected is None else jnp.ones_like(signals.reward)
    e = discount_factor(signals) if emphasis is None else emphasis
    next_features = (signals.discount * signals.continues * kappa)[..., None] * jnp.concatenate(
        [mean[1:], 0.0 * mean[:1]]
    )
    solve = _stationary if stationary else _per_step
    ratio, fitted, next_value, value = solve(psi, mean, next_features, kappa * signals.reward, e * signals.mask)
    return Dual(e * ratio * kappa, ratio, value, kappa * signals.reward + next_value - fitted)


def _stationary(
    psi: Array, mean: Array, next_features: Array, weighted_reward: Array, e: Array
) -> tuple[Array, Array, Array, Array]:
    matrix = jnp.einsum("tn,tnk,tnl->kl", e, psi, psi - next_features)
    inverse = jnp.linalg.pinv(matrix)
    beta = inverse @ jnp.einsum("tn,tnk,tn->k", e, psi, weighted_reward)
    x = inverse.T @ jnp.sum(mean[0], axis=0)
    return psi @ x, psi @ beta, next_features @ beta, mean @ beta


def _per_step(
    psi: Array, mean: Array, next_features: Array, weighted_reward: Array, e: Array
) -> tuple[Array, Array, Array, Array]:
    factor = _cholesky(jnp.einsum("tn,tnk,tnl->tkl", e, psi, psi))

    def backward(beta: Array, inputs: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        psi_t, next_features_t, weighted_reward_t, e_t, factor_t = inputs
        next_value = next_features_t @ beta
        new = cho_solve((factor_t, True), psi_t.T @ (e_t * (weighted_reward_t + next_value)))
        return new, (new, next_value)

    def forward(mass: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        psi_t, next_features_t, e_t, factor_t = inputs
        ratio = psi_t @ cho_solve((factor_t, True), mass)
        return next_features_t.T @ (e_t * ratio), ratio

    start = jnp.zeros(psi.shape[-1], psi.dtype)
    _, (beta, next_value) = jax.lax.scan(
        backward, start, (psi, next_features, weighted_reward, e, factor), reverse=True
    )
    _, ratio = jax.lax.scan(forward, jnp.sum(mean[0], axis=0), (psi, next_features, e, factor))
    return ratio, jnp.einsum("tnk,tk->tn", psi, beta), next_value, jnp.einsum("tnk,tk->tn", mean, beta)


def _cholesky(squares: Array) -> Array:
    """Cholesky factor of Σ e ψψᵀ, [..., K, K], with a jitter of rounding size; unseen features get weight 0."""
    diagonal = jnp.diagonal(squares, axis1=-2, axis2=-1)
    jitter = jnp.where(diagonal > 0, squares.shape[-1] * jnp.finfo(squares.dtype).eps * diagonal, 1.0)
    return jnp.linalg.cholesky(squares + jitter[..., None] * jnp.eye(squares.shape[-1], dtype=squares.dtype))


def dual_values(signals: Signals, fitted: Dual, emphasis: Array | None = None) -> Array:
    """V̂(s_0) + Σ_t e_t w_t residual_t of every trajectory, [N]; the mean is the estimate of `dual`."""
    e = discount_factor(signals) if emphasis is None else emphasis
    return fitted.value[0] + jnp.sum(signals.mask * e * fitted.state_ratio * fitted.residual, axis=0)


def dual(
    signals: Signals,
    features: Array,
    expected: Array | None = None,
    emphasis: Array | None = None,
    stationary: bool = False,
    level: float = 0.95,
) -> ValueEstimate:
    """Marginal importance sampling with ratios from `fit_dual`, Ĵ = (1/N) Σ_n Σ_t e_t w_t κ_t r_t, with an interval.

    Arguments as for `fit_dual`. The standard error is that of `dual_values`, to first order in 1/√N. Unlike that of
    `marginal`, it includes the error of the fitted ratios. Consistent where the features contain the true ratios *or*
    the true values. Features that do not occur in the batch contribute 0, an error that the interval does not include.
    A table of steps, states and actions thus needs batches that contain every cell that the target policy visits.

    >>> from pgjax import make_signals
    >>> signals = make_signals(jnp.array([[1.0, 3.0]]), log_ratio=jnp.log(jnp.array([[1.5, 0.5]])))
    >>> float(dual(signals, jnp.ones((1, 2, 1))).mean)  # a single state: (1.5 · 1 + 0.5 · 3)/2
    1.5
    """
    _check(signals, level)
    fitted = fit_dual(signals, features, expected, emphasis, stationary)
    return _mean_of(dual_values(signals, fitted, emphasis), signals, level)
