"""Surrogates: how the policy enters. (log_ratio, credit, continues) -> [T, ...], differentiable in log_ratio.

`log_ratio` is log π_θ − log π_θ̄ on executed steps and 0 on padding. A surrogate's *gradient* is the policy gradient
estimate; its value means nothing.
"""

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jax.tree_util import Partial
from jax.typing import ArrayLike

from pgjax.statistics import size_of
from pgjax.types import Credit, Estimator, Signals, Surrogate, as_partial


def score(log_ratio: Array, credit: Array, continues: Array) -> Array:
    """The score function: value Ψ_t, gradient Ψ_t ∇log π_θ(a_t|s_t).

        exp(x − stop_gradient(x)) · Ψ

    Williams 1992. https://doi.org/10.1007/BF00992696

    >>> import jax
    >>> jax.grad(lambda x: score(x, jnp.array([2.0]), jnp.ones(1)).sum())(jnp.array([0.7]))
    Array([2.], dtype=float32)
    """
    return jnp.exp(log_ratio - stop_gradient(log_ratio)) * credit


def product(credit: Credit, surrogate: Surrogate) -> Estimator:
    """The estimator credit × surrogate, Σ_t surrogate(log_ratio_t, Ψ_t) with Ψ = credit(signals) stopped."""
    return Estimator(as_partial(credit), Partial(_contribution, as_partial(surrogate)))


def _contribution(
    surrogate: Surrogate, credit: Array, signals: Signals, distribution: object, log_ratio: Array
) -> Array:
    return surrogate(log_ratio, credit, signals.continues)


def surrogate_loss(
    log_prob: ArrayLike, credit: ArrayLike, mask: ArrayLike | None = None, mean: str = "trajectories"
) -> Array:
    """The "fake" loss for automatic differentiation: its gradient is minus the policy gradient estimate.

        loss(θ) = −(1/N) Σ_n Σ_t log π_θ(a_{n,t}|s_{n,t}) · stop_gradient(Ψ_{n,t})

    Only the gradient means anything, and only at the θ that sampled the data: the **value is not a training signal**
    and need not fall while the policy improves. Minimising it ascends J.

    Args:
      log_prob: log π_θ of the taken actions, [T, N], differentiable in θ.
      credit: Ψ, [T, N].
      mask: 1 on executed steps; default everywhere.
      mean: "trajectories" divides by N, "steps" by the number of executed steps.

    Returns:
      A scalar to minimise.

    >>> import jax
    >>> jax.grad(surrogate_loss)(jnp.zeros((2, 1)), jnp.array([[3.0], [2.0]])).T
    Array([[-3., -2.]], dtype=float32)
    """
    log_prob, credit = jnp.asarray(log_prob), stop_gradient(jnp.asarray(credit))
    executed = jnp.ones_like(log_prob) if mask is None else jnp.asarray(mask, log_prob.dtype)
    safe_log_prob = jnp.where(executed > 0, log_prob, 0.0)
    return -size_of(executed).mean(jnp.where(executed > 0, safe_log_prob * credit, 0.0), mean)
