"""Importance weights: products of the ratios ρ_t = π_θ(a_t|s_t)/π_θ̄(a_t|s_t) over time, computed in log space.

The products are ρ_{1:t} = Π_{s≤t} ρ_s, and ρ_{1:T} over the whole episode. They are clipped at exp(`max_log_weight`),
so that losses and gradients stay finite for any policies. Clipping is a bias, whose frequency `clamped_fraction`
reports; smaller weights are exact.
"""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from pgjax.estimators.recurrence import linear_recurrence
from pgjax.estimators.reductions import as_float, quotient


def max_log_weight(dtype: jnp.dtype) -> float:
    """Largest log-weight: 20 in float32 (a weight of 4.9e8), 160 in float64; exp to its fourth power is finite."""
    return 20.0 if jnp.finfo(dtype).bits <= 32 else 160.0


def weight(log_weight: ArrayLike) -> Array:
    """exp(log_weight), clipped at exp(`max_log_weight`)."""
    log_weight = as_float(log_weight)
    return jnp.exp(jnp.minimum(log_weight, max_log_weight(log_weight.dtype)))


def log_prefix(log_ratio: Array, continues: Array) -> Array:
    """log ρ_{1:t} within each episode, [T, ...]."""
    return linear_recurrence(log_ratio, continues)


def log_whole(log_ratio: Array, continues: Array) -> Array:
    """log ρ_{1:T} of the episode that step t belongs to, [T, ...]."""
    past, future = (linear_recurrence(log_ratio, continues, reverse=reverse) for reverse in (False, True))
    return past + future - log_ratio


def mixture_log_prob(log_probs: Array, shares: ArrayLike, continues: Array) -> Array:
    """Behaviour log-probability of trajectories pooled from several policies (balance heuristic), [T, N]:

        log μ(a_t | history) = L_t − L_{t−1},   L_t = log Σ_j α_j Π_{s≤t} π_j(a_s|s_s).

    `log_probs` is log π_j(a_t|s_t) of every trajectory under every policy, [K, T, N]; `shares` is α, [K], which must
    sum to 1 (not checked); `continues` is that of Signals, [T, N]. A pool that draws each trajectory from policy j with
    probability α_j acts as one history-dependent behaviour policy. Use the result as `Transition.log_prob`: the
    trajectory weights are then p_θ / Σ_j α_j p_j, which is at most 1/α_j for the parameters of policy j. Veach & Guibas
    1995; Metelli et al. 2018. https://arxiv.org/abs/1809.06098

    >>> probs = jnp.array([[[0.5], [0.5]], [[0.25], [1.0]]])  # two policies, one trajectory of two steps
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
    """Share of executed steps whose weight is clipped."""
    log_weight = as_float(log_weight)
    beyond = (log_weight > max_log_weight(log_weight.dtype)) * mask
    return jnp.sum(beyond) / jnp.maximum(jnp.sum(mask), 1.0)


def effective_sample_size(log_weight: Array, axis: int = -1) -> Array:
    """Effective sample size (Σ w)² / Σ w² over trajectories; 0 where all w are 0. Kong 1992."""
    scaled = relative_weight(log_weight, jnp.max(log_weight, axis=axis, keepdims=True))
    return quotient(jnp.sum(scaled, axis=axis) ** 2, jnp.sum(scaled**2, axis=axis))


def relative_weight(log_weight: Array, top: Array) -> Array:
    """w / max w from log w and the largest log w; 0 where every w is 0."""
    return jnp.exp(log_weight - jnp.where(top == -jnp.inf, 0.0, top))
