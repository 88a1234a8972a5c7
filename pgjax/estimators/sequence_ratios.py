"""GSPO's surrogates, which use the geometric mean of a trajectory's ratios, s = ρ_{1:T}^{1/T} = exp((1/T) Σ_t log ρ_t).

s is not an importance weight. If all trajectories have the same length T > 1, then E_μ[s] ≤ 1 by Jensen's inequality,
with equality only if ρ_{1:T} = 1 on every trajectory. For T = 1, s = ρ with mean 1. If lengths vary, the mean of s may
be above or below 1.
"""

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from pgjax.estimators.clipping import outside_between
from pgjax.estimators.contracts import per_trajectory, reporting
from pgjax.estimators.importance import log_whole, weight


def log_mean_ratio(log_ratio: Array, continues: Array) -> Array:
    """log s of the episode that step t belongs to, [T, ...]."""
    return log_whole(log_ratio, continues) / log_whole(jnp.ones_like(log_ratio), continues)


def sequence_outside(
    log_ratio: Array, continues: Array, clip_low: ArrayLike = 3e-4, clip_high: ArrayLike = 4e-4
) -> Array:
    """1 at every step of an episode whose s lies outside [1 − ε_low, 1 + ε_high], else 0."""
    return outside_between(log_mean_ratio(log_ratio, continues), clip_low, clip_high)


@reporting(clip_fraction=sequence_outside)
@per_trajectory
def clipped_sequence_ratio(
    log_ratio: Array, credit: Array, continues: Array, clip_low: ArrayLike = 3e-4, clip_high: ArrayLike = 4e-4
) -> Array:
    """GSPO: min(s Ψ_t, clip(s, 1 − ε_low, 1 + ε_high) Ψ_t), with one ratio s for all steps; whole episodes only.

    With credit A/|o| at every step, the sum over steps is the paper's min(s A, clip(s) A). Its gradient is s A (1/|o|)
    Σ_t ∇log π where it is not clipped. Zheng et al. 2025, eq. 5. https://arxiv.org/abs/2507.18071

    >>> x, continues = jnp.log(jnp.array([2.0, 8.0])), jnp.array([1.0, 0.0])
    >>> [round(x, 3) for x in clipped_sequence_ratio(x, -jnp.ones(2), continues).tolist()]
    [-4.0, -4.0]
    """
    return _clipped(weight(log_mean_ratio(log_ratio, continues)), credit, clip_low, clip_high)


@reporting(clip_fraction=sequence_outside)
@per_trajectory
def clipped_sequence_ratio_per_step(
    log_ratio: Array, credit: Array, continues: Array, clip_low: ArrayLike = 3e-4, clip_high: ArrayLike = 4e-4
) -> Array:
    """GSPO-token: `clipped_sequence_ratio` with s_t = sg(s) · π_θ/sg(π_θ), so that credit may vary between steps.

    For constant credit, value and gradient are the same. Zheng et al. 2025, eq. 13. https://arxiv.org/abs/2507.18071
    """
    s = stop_gradient(weight(log_mean_ratio(log_ratio, continues))) * jnp.exp(log_ratio - stop_gradient(log_ratio))
    return _clipped(s, credit, clip_low, clip_high)


def _clipped(s: Array, credit: Array, clip_low: ArrayLike, clip_high: ArrayLike) -> Array:
    return jnp.minimum(s * credit, jnp.clip(s, 1.0 - clip_low, 1.0 + clip_high) * credit)
