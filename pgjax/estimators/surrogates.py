"""Surrogates, which contain the policy: (log_ratio, credit, continues) -> [T, ...], differentiable in log_ratio.

`log_ratio` is log π_θ − log π_θ̄ on executed steps and 0 on padding. The *gradient* of a surrogate is a policy gradient
estimate; its value has no meaning of its own.
"""

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from pgjax.estimators.contracts import per_step, per_trajectory, reporting
from pgjax.estimators.importance import log_prefix, log_whole, weight
from pgjax.estimators.reductions import as_float, size_of
from pgjax.types import SettingError


@per_step
def score(log_ratio: Array, credit: Array, continues: Array) -> Array:
    """Score function exp(x − stop_gradient(x)) · Ψ of the log-ratio x: value Ψ_t, gradient Ψ_t ∇log π_θ(a_t|s_t).

    Williams 1992. https://doi.org/10.1007/BF00992696

    >>> import jax
    >>> jax.grad(lambda x: score(x, jnp.array([2.0]), jnp.ones(1)).sum())(jnp.array([0.7]))
    Array([2.], dtype=float32)
    """
    return jnp.exp(log_ratio - stop_gradient(log_ratio)) * credit


@per_step
def ratio(log_ratio: Array, credit: Array, continues: Array) -> Array:
    """First-order importance sampling ρ_t Ψ_t, without past and future ratios.

    Exact at θ = θ̄, with bias O(‖θ − θ̄‖) elsewhere. With off-policy reward-to-go it is the suffix form. Schulman et
    al. 2015, eq. 3; Degris et al. 2012.
    """
    return weight(log_ratio) * credit


@per_trajectory
def prefix_product(log_ratio: Array, credit: Array, continues: Array) -> Array:
    """Per-decision importance sampling ρ_{1:t} Ψ_t, differentiated through every ratio.

    With the discounted reward as credit, its mean over the behaviour policy is J(θ), and its mean gradient ∇J(θ), at
    every θ. Do not use it with reward-to-go, which would count each reward once for every step before it. Precup,
    Sutton & Singh 2000.

    >>> prefix_product(jnp.log(jnp.array([2.0, 0.5])), jnp.array([1.0, 3.0]), jnp.array([1.0, 0.0]))
    Array([2., 3.], dtype=float32)
    """
    return weight(log_prefix(log_ratio, continues)) * credit


@per_trajectory
def stopped_prefix(log_ratio: Array, credit: Array, continues: Array, max_weight: ArrayLike = float("inf")) -> Array:
    """Past ratios as a weight that is not differentiated, stop_gradient(min(ρ_{1:t}, c)) · score · Ψ_t.

    With off-policy reward-to-go minus any baseline it is exact per-decision importance sampling. With reward-to-go it
    is the prefix form, without future ratios, exact only at θ = θ̄. A finite c = `max_weight` truncates the weights,
    which bounds the variance and biases the estimate.
    """
    w = jnp.minimum(weight(log_prefix(log_ratio, continues)), max_weight)
    return stop_gradient(w) * score(log_ratio, credit, continues)


@per_trajectory
def trajectory_weight(log_ratio: Array, credit: Array, continues: Array, max_weight: ArrayLike = float("inf")) -> Array:
    """Trajectory importance sampling stop_gradient(min(ρ_{1:T}, c)) · score · Ψ_t; exact with any on-policy credit.

    Whole episodes only. `max_weight` is c, as in `stopped_prefix`.
    """
    w = jnp.minimum(weight(log_whole(log_ratio, continues)), max_weight)
    return stop_gradient(w) * score(log_ratio, credit, continues)


def outside(log_ratio: Array, clip: ArrayLike = 0.2) -> Array:
    """1 where the ratio lies outside [1 − ε, 1 + ε], else 0; the mean over steps is the clip fraction."""
    return jnp.asarray(jnp.abs(weight(log_ratio) - 1.0) > clip, log_ratio.dtype)


@reporting(clip_fraction=outside)
@per_step
def clipped_ratio(log_ratio: Array, credit: Array, continues: Array, clip: ArrayLike = 0.2) -> Array:
    """PPO's clipped surrogate, min(ρ_t Ψ_t, clip(ρ_t, 1 − ε, 1 + ε) Ψ_t).

    The gradient is zero exactly where (Ψ > 0, ρ > 1 + ε) or (Ψ < 0, ρ < 1 − ε). ε = ∞ gives `ratio`. Schulman et al.
    2017, eq. 7. https://arxiv.org/abs/1707.06347

    >>> clipped_ratio(jnp.log(jnp.array([2.0, 2.0])), jnp.array([1.0, -1.0]), jnp.ones(2))
    Array([ 1.2, -2. ], dtype=float32)
    """
    rho = weight(log_ratio)
    return jnp.minimum(rho * credit, jnp.clip(rho, 1.0 - clip, 1.0 + clip) * credit)


def surrogate_loss(
    log_prob: ArrayLike, credit: ArrayLike, mask: ArrayLike | None = None, mean: str = "trajectories"
) -> Array:
    """Loss whose gradient is minus the policy gradient estimate, a scalar for automatic differentiation.

        loss(θ) = −(1/N) Σ_n Σ_t log π_θ(a_{n,t}|s_{n,t}) · stop_gradient(Ψ_{n,t})

    Its gradient is valid only at the θ that sampled the data. Its **value does not measure performance**: it need not
    decrease while the policy improves.
    Args:
      log_prob: log π_θ of the taken actions, [T, N], differentiable in θ.
      credit: Ψ, [T, N], or one number.
      mask: 1 on executed steps; default everywhere.
      mean: "trajectories" divides by N, "steps" by the number of executed steps.

    >>> import jax
    >>> jax.grad(surrogate_loss)(jnp.zeros((2, 1)), jnp.array([[3.0], [2.0]])).T
    Array([[-3., -2.]], dtype=float32)
    """
    log_prob = as_float(log_prob)
    for name, x in (("credit", credit), ("mask", 1.0 if mask is None else mask)):
        if jnp.shape(x) not in ((), log_prob.shape):
            raise SettingError(name, jnp.shape(x), f"is the wrong shape; expected {log_prob.shape}")
    if mean not in ("trajectories", "steps"):
        raise SettingError("mean", mean, 'is neither "trajectories" nor "steps"')
    credit = stop_gradient(jnp.asarray(credit, log_prob.dtype))
    executed = jnp.broadcast_to(jnp.asarray(1.0 if mask is None else mask, log_prob.dtype), log_prob.shape)
    safe_log_prob = jnp.where(executed > 0, log_prob, 0.0)
    return -size_of(executed).mean(jnp.where(executed > 0, safe_log_prob * credit, 0.0), mean)
