"""Surrogates that bound the ratio ρ_t of single steps; PPO's `clipped_ratio` is in `pgjax.estimators.surrogates`."""

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from pgjax.estimators.contracts import per_step, reporting
from pgjax.estimators.importance import weight
from pgjax.estimators.surrogates import clipped_ratio, outside, score


def outside_between(log_ratio: Array, clip_low: ArrayLike = 0.2, clip_high: ArrayLike = 0.28) -> Array:
    """1 where the ratio lies outside [1 − ε_low, 1 + ε_high], else 0."""
    rho = weight(log_ratio)
    return jnp.asarray((rho < 1.0 - clip_low) | (rho > 1.0 + clip_high), log_ratio.dtype)


@reporting(clip_fraction=outside_between)
@per_step
def clipped_between(
    log_ratio: Array, credit: Array, continues: Array, clip_low: ArrayLike = 0.2, clip_high: ArrayLike = 0.28
) -> Array:
    """PPO's surrogate with two clipping ranges, min(ρ_t Ψ_t, clip(ρ_t, 1 − ε_low, 1 + ε_high) Ψ_t).

    The gradient is zero exactly where (Ψ > 0, ρ > 1 + ε_high) or (Ψ < 0, ρ < 1 − ε_low). Equal ranges give
    `clipped_ratio`. "Clip-higher" of DAPO: Yu et al. 2025, eq. 10. https://arxiv.org/abs/2503.14476

    >>> log_rho = jnp.log(jnp.array([1.25, 0.5]))
    >>> [round(x, 2) for x in clipped_between(log_rho, jnp.array([1.0, -1.0]), jnp.ones(2)).tolist()]
    [1.25, -0.8]
    """
    rho = weight(log_ratio)
    return jnp.minimum(rho * credit, jnp.clip(rho, 1.0 - clip_low, 1.0 + clip_high) * credit)


@reporting(clip_fraction=lambda log_ratio, clip=0.2, dual_clip=3.0: outside(log_ratio, clip))
@per_step
def dual_clipped_ratio(
    log_ratio: Array, credit: Array, continues: Array, clip: ArrayLike = 0.2, dual_clip: ArrayLike = 3.0
) -> Array:
    """PPO's surrogate, also bounded for negative credit: max(min(ρΨ, clip(ρ)Ψ), cΨ) where Ψ < 0, with c > 1.

    For Ψ < 0 and ρ > c the gradient is zero, where that of PPO grows with ρ without bound. c = ∞ gives `clipped_ratio`.
    Ye et al. 2020, eq. 5. https://arxiv.org/abs/1912.09729

    >>> [round(x, 3) for x in dual_clipped_ratio(jnp.log(jnp.array([2.0, 9.0])), -jnp.ones(2), jnp.ones(2)).tolist()]
    [-2.0, -3.0]
    """
    clipped = clipped_ratio(log_ratio, credit, continues, clip)
    bound = jnp.where(credit < 0, credit, -1.0) * dual_clip  # −1 where unused, to avoid 0 · ∞
    return jnp.where(credit < 0, jnp.maximum(clipped, bound), clipped)


@reporting(
    clip_fraction=lambda log_ratio, clip_low=1.0, clip_high=0.28: outside_between(log_ratio, clip_low, clip_high)
)
@per_step
def clipped_weight(
    log_ratio: Array, credit: Array, continues: Array, clip_low: ArrayLike = 1.0, clip_high: ArrayLike = 0.28
) -> Array:
    """CISPO: the clipped ratio as a stopped weight, sg(clip(ρ_t, 1 − ε_low, 1 + ε_high)) · score · Ψ_t.

    No step loses its gradient, because the weight is clipped and not the surrogate. The default ε_low = 1 sets no lower
    bound, as in the paper's experiments. With both infinite the gradient is that of `ratio`. The paper does not state
    ε_high; the default 0.28 is DAPO's. MiniMax 2025, eq. 4. https://arxiv.org/abs/2506.13585

    >>> import jax
    >>> surrogate = lambda x: clipped_weight(x, jnp.ones(2), jnp.ones(2)).sum()
    >>> [round(x, 3) for x in jax.grad(surrogate)(jnp.log(jnp.array([2.0, 0.5]))).tolist()]
    [1.28, 0.5]
    """
    w = jnp.clip(weight(log_ratio), 1.0 - clip_low, 1.0 + clip_high)
    return stop_gradient(w) * score(log_ratio, credit, continues)
