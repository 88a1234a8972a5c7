"""Importance weights: products of ratios π_θ/π_θ̄ over time, formed in log space.

    ρ_t = π_θ(a_t|s_t) / π_θ̄(a_t|s_t),      ρ_{1:t} = Π_{s≤t} ρ_s,      ρ_{1:T} over the whole episode

A weight is bounded far out, at `max_log_weight`, so that losses and gradients stay finite whatever the policies are.
Where the bound acts it is a bias, which `clamped_fraction` counts; below it weights are exact.
"""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from pgjax.estimators.recurrence import linear_recurrence
from pgjax.estimators.reductions import as_float, quotient


def max_log_weight(dtype: jnp.dtype) -> float:
    """The bound on log ρ: 20 in float32 (weights of 4.9e8), 160 in float64: its fourth power does not overflow.

    >>> max_log_weight(jnp.dtype("float32")), max_log_weight(jnp.dtype("float64"))
    (20.0, 160.0)
    """
    return 20.0 if jnp.finfo(dtype).bits <= 32 else 160.0


def weight(log_weight: ArrayLike) -> Array:
    """exp, bounded: a weight from its logarithm.

    >>> float(weight(0.0)), bool(jnp.isfinite(weight(1e4)))
    (1.0, True)
    """
    log_weight = as_float(log_weight)
    return jnp.exp(jnp.minimum(log_weight, max_log_weight(log_weight.dtype)))


def log_prefix(log_ratio: Array, continues: Array) -> Array:
    """log ρ_{1:t}, [T, ...]; restarts with each episode. On padding it keeps no memory of the episode before.

    >>> log_rho, continues = jnp.log(jnp.array([2.0, 3.0, 5.0])), jnp.array([1.0, 0.0, 0.0])
    >>> [round(x, 3) for x in jnp.exp(log_prefix(log_rho, continues)).tolist()]  # 2, 2 · 3; another episode
    [2.0, 6.0, 5.0]
    """
    return linear_recurrence(log_ratio, continues)


def log_whole(log_ratio: Array, continues: Array) -> Array:
    """log ρ_{1:T} of the episode that step t belongs to, at each of its steps, [T, ...].

    >>> log_rho, continues = jnp.log(jnp.array([2.0, 3.0, 5.0])), jnp.array([1.0, 0.0, 0.0])
    >>> [round(x, 3) for x in jnp.exp(log_whole(log_rho, continues)).tolist()]
    [6.0, 6.0, 5.0]
    """
    past, future = (linear_recurrence(log_ratio, continues, reverse=reverse) for reverse in (False, True))
    return past + future - log_ratio


def mixture_log_prob(log_probs: Array, shares: ArrayLike, continues: Array) -> Array:
    """The behaviour log-probability of trajectories pooled from several policies (balance heuristic).

        log μ(a_t | history) = L_t − L_{t−1},   L_t = log Σ_j α_j Π_{s≤t} π_j(a_s|s_s)

    A pool that draws each trajectory from policy j with share α_j is itself a behaviour policy, if one that remembers.
    Used as such, it makes every estimator's weights p_θ / Σ_j α_j p_j, which a θ in the pool bounds by 1/α.

    Args:
      log_probs: log π_j(a_t|s_t) of every trajectory under every policy, [K, T, N].
      shares: α, [K], adding up to one.
      continues: [T, N].

    Returns:
      log μ, [T, N]: use it as `Transition.log_prob`.
    Veach & Guibas 1995; Metelli et al. 2018. https://arxiv.org/abs/1809.06098

    >>> probs = jnp.array([[[0.5], [0.5]], [[0.25], [1.0]]])  # of two policies on one trajectory of two steps
    >>> mixed = mixture_log_prob(jnp.log(probs), [0.5, 0.5], jnp.array([[1.0], [0.0]]))
    >>> round(float(jnp.exp(mixed.sum())), 5)  # ½ · 0.5 · 0.5 + ½ · 0.25 · 1
    0.25
    """
    log_probs = jnp.asarray(log_probs)
    log_shares = jnp.log(jnp.asarray(shares, log_probs.dtype)).reshape(-1, *[1] * (log_probs.ndim - 1))
    to_time_first = jnp.moveaxis(log_probs, 0, -1)
    prefixes = jnp.moveaxis(linear_recurrence(to_time_first, continues[..., None]), -1, 0)
    after = _logsumexp(log_shares + prefixes)
    before = _logsumexp(log_shares + prefixes - log_probs)
    return after - before


def _logsumexp(x: Array) -> Array:
    top = jnp.max(x, axis=0)
    return top + jnp.log(jnp.sum(jnp.exp(x - top), axis=0))


def clamped_fraction(log_weight: Array, mask: Array) -> Array:
    """Share of executed steps whose weight met the bound.

    >>> float(clamped_fraction(jnp.array([0.0, 30.0]), jnp.ones(2)))
    0.5
    """
    log_weight = as_float(log_weight)
    beyond = (log_weight > max_log_weight(log_weight.dtype)) * mask
    return jnp.sum(beyond) / jnp.maximum(jnp.sum(mask), 1.0)


def effective_sample_size(log_weight: Array, axis: int = -1) -> Array:
    """(Σ w)² / Σ w² over trajectories: how many equally weighted ones would be worth as much; 0 where all w are 0.

    Kong 1992.

    >>> effective_sample_size(jnp.log(jnp.array([1.0, 1.0, 1e-9]))).round()
    Array(2., dtype=float32)
    """
    scaled = relative_weight(log_weight, jnp.max(log_weight, axis=axis, keepdims=True))
    return quotient(jnp.sum(scaled, axis=axis) ** 2, jnp.sum(scaled**2, axis=axis))


def relative_weight(log_weight: Array, top: Array) -> Array:
    """w / max w, from the largest log w; 0 where every w is 0.

    >>> relative_weight(jnp.array([-jnp.inf, -jnp.inf]), jnp.array(-jnp.inf)).tolist()
    [0.0, 0.0]
    """
    return jnp.exp(log_weight - jnp.where(top == -jnp.inf, 0.0, top))
