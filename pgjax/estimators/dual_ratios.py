"""Ratios of state laws and values solved together from the data: minimax weights, DICE and its linear dual.

Weights w = ψ·x and values v = ψ·β are linear in the same features ψ. Each is right if the other cannot tell:

    weights   Σ e_t w_t (ψ_t − γ κ_t ψ̄_{t+1}) = Σ ψ̄_0        e_t w_t has the law of the target policy
    values    Σ e_t ψ_t (κ_t (r_t + γ ψ̄_{t+1}·β) − ψ_t·β) = 0   the Bellman equation, seen through ψ

sums over steps and trajectories. The two matrices are each other's transpose, so both give one estimate of J,
Σ e_t w_t κ_t r_t/N = Σ ψ̄_0·β/N, and its error is that of the mean of

    V̂(s_0) + Σ_t e_t w_t (κ_t (r_t + γ V̂(s_{t+1})) − ψ_t·β)

which is double reinforcement learning with both parts fitted. So the interval includes the error of the ratios.

Features of states: ψ = ψ̄ = φ(s_t) and κ = ρ_t. Features of states and actions: ψ = ψ(s_t, a_t),
ψ̄ = Σ_a π(a|s_t) ψ(s_t, a) and κ = 1: then the behaviour policy need not be known, and over long horizons it is much
better, for ρ_t multiplies all that is still to come. One-hot features are tables.
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
    """The solution along the trajectories, [T, N]."""

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
    """Solve both equations on the trajectories given.

    Args:
      signals: whole episodes, [T, N].
      features: φ(s_t), [T, N, K]; or ψ(s_t, a_t), with `expected`.
      expected: Σ_a π(a|s_t) ψ(s_t, a), [T, N, K].
      emphasis: e_t, [T, N]; default γ^t. `followon_trace` for emphatic equations.
      stationary: one x and β for all times, for episodes that end by themselves or that γ^T makes short; default one
        for every t, right for any horizon.

    Raises:
      SettingError: for arrays of other shapes.
    Uehara, Huang & Jiang 2020 (minimax weights; linear classes there give the same identity).
    https://arxiv.org/abs/1910.12809
    Nachum et al. 2019 (DualDICE: with one linear class for both players its saddle point is the first equation, with
    features of states and actions, `stationary`). https://arxiv.org/abs/1906.04733

    >>> from pgjax import make_signals
    >>> log_ratio = jnp.log(jnp.array([[2.0, 1.0], [1.0, 1.0]]))
    >>> signals = make_signals(jnp.ones((2, 2)), log_ratio=log_ratio)
    >>> state = jnp.array([[0, 0], [1, 0]])
    >>> fit_dual(signals, jax.nn.one_hot(state, 2)).state_ratio.round(3).tolist()  # as many went to 0 as to 1
    [[1.0, 1.0], [2.0, 1.0]]
    """
    shape = signals.reward.shape
    for name, array in (("features", features), ("expected", expected)):
        if array is not None and array.shape != (*shape, features.shape[-1]):
            raise SettingError(name, array.shape, f"is its shape; it must be {shape} and the number of features")
    if emphasis is not None and emphasis.shape != shape:
        raise SettingError("emphasis", emphasis.shape, f"is its shape; reward asks for {shape}")
    exists = signals.mask[..., None]
    psi = features * exists
    mean = psi if expected is None else expected * exists
    kappa = jnp.exp(signals.log_ratio) if expected is None else jnp.ones_like(signals.reward)
    e = discount_factor(signals) if emphasis is None else emphasis
    follows = (signals.discount * signals.continues * kappa)[..., None] * jnp.concatenate([mean[1:], 0.0 * mean[:1]])
    solve = _stationary if stationary else _per_step
    ratio, taken, ahead, value = solve(psi, mean, follows, kappa * signals.reward, e * signals.mask)
    return Dual(e * ratio * kappa, ratio, value, kappa * signals.reward + ahead - taken)


def _stationary(psi: Array, mean: Array, follows: Array, earned: Array, e: Array) -> tuple[Array, Array, Array, Array]:
    matrix = jnp.einsum("tn,tnk,tnl->kl", e, psi, psi - follows)
    inverse = jnp.linalg.pinv(matrix)
    beta = inverse @ jnp.einsum("tn,tnk,tn->k", e, psi, earned)
    x = inverse.T @ jnp.sum(mean[0], axis=0)
    return psi @ x, psi @ beta, follows @ beta, mean @ beta


def _per_step(psi: Array, mean: Array, follows: Array, earned: Array, e: Array) -> tuple[Array, Array, Array, Array]:
    factor = _cholesky(jnp.einsum("tn,tnk,tnl->tkl", e, psi, psi))

    def backward(beta: Array, now: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        psi_t, follows_t, earned_t, e_t, factor_t = now
        ahead = follows_t @ beta
        new = cho_solve((factor_t, True), psi_t.T @ (e_t * (earned_t + ahead)))
        return new, (new, ahead)

    def forward(mass: Array, now: tuple[Array, ...]) -> tuple[Array, Array]:
        psi_t, follows_t, e_t, factor_t = now
        ratio = psi_t @ cho_solve((factor_t, True), mass)
        return follows_t.T @ (e_t * ratio), ratio

    start = jnp.zeros(psi.shape[-1], psi.dtype)
    _, (beta, ahead) = jax.lax.scan(backward, start, (psi, follows, earned, e, factor), reverse=True)
    _, ratio = jax.lax.scan(forward, jnp.sum(mean[0], axis=0), (psi, follows, e, factor))
    return ratio, jnp.einsum("tnk,tk->tn", psi, beta), ahead, jnp.einsum("tnk,tk->tn", mean, beta)


def _cholesky(squares: Array) -> Array:
    """Of Σ e ψψᵀ, [..., K, K]; K rounding errors of each square on top, so that features that are never seen get 0."""
    diagonal = jnp.diagonal(squares, axis1=-2, axis2=-1)
    more = jnp.where(diagonal > 0, squares.shape[-1] * jnp.finfo(squares.dtype).eps * diagonal, 1.0)
    return jnp.linalg.cholesky(squares + more[..., None] * jnp.eye(squares.shape[-1], dtype=squares.dtype))


def dual_values(signals: Signals, fitted: Dual, emphasis: Array | None = None) -> Array:
    """V̂(s_0) + Σ_t e_t w_t residual_t of every trajectory, [N]; their mean is the estimate.

    >>> from pgjax import make_signals
    >>> signals = make_signals(jnp.array([[1.0, 3.0]]))
    >>> values = dual_values(signals, fit_dual(signals, jnp.ones((1, 2, 1))))  # V̂ = 2, and how each differs
    >>> [round(float(x), 3) for x in values]
    [1.0, 3.0]
    """
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
    """Marginal importance sampling with ratios from `fit_dual`: Ĵ = (1/N) Σ_n Σ_t e_t w_t κ_t r_t, and an interval.

    The standard error is that of `dual_values`, to first order in 1/√N: it includes the error of the fitted ratios, as
    that of `marginal` does not. Consistent where the features hold the true ratios *or* the true values. Features that
    the batch has not seen count 0, and the interval does not know: a table with a cell for every step, state and action
    needs batches in which each cell that the target visits occurs, or its intervals hold nothing.

    Args:
      signals, features, expected, emphasis, stationary: as for `fit_dual`.
      level: of the confidence interval.

    Raises:
      SettingError: as `marginal` and `fit_dual`.

    >>> from pgjax import make_signals
    >>> signals = make_signals(jnp.array([[1.0, 3.0]]), log_ratio=jnp.log(jnp.array([[1.5, 0.5]])))
    >>> float(dual(signals, jnp.ones((1, 2, 1))).mean)  # a single state: (1.5 + 1.5)/2
    1.5
    """
    _check(signals, level)
    fitted = fit_dual(signals, features, expected, emphasis, stationary)
    return _mean_of(dual_values(signals, fitted, emphasis), signals, level)
