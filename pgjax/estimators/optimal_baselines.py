"""Variance-optimal baselines from the gradient and the score of each trajectory."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from pgjax.estimators.reductions import others, quotient

Params = Any


def optimal_baseline(gradients: Params, scores: Params, *, per_parameter: bool = False) -> Params:
    """Variance-minimising constant baseline, estimated for each trajectory from all others, so that it adds no bias.

        scalar:  b = E[ĝ·G] / E[‖G‖²]        per parameter:  b_k = E[ĝ_k G_k] / E[G_k²]

    For ĝ = G·R (total return) these are E[‖G‖²R]/E[‖G‖²] and E[G_k²R]/E[G_k²]. `gradients` are ĝ_n, a pytree of [N,
    ...]; `scores` are G_n, the same gradients with every credit set to 1. With importance weights w, both contain w.
    Returns b_n, a pytree of [N, ...] (the scalar one broadcast); 0 where the scores of all others are 0. Weaver & Tao
    2001; Greensmith et al. 2004; Peters & Schaal 2008.
    """
    inner, square = jax.tree.map(jnp.multiply, gradients, scores), jax.tree.map(jnp.square, scores)
    if per_parameter:
        return jax.tree.map(lambda a, b: quotient(others(a), others(b)), inner, square)
    b = quotient(others(_per_trajectory_sum(inner)), others(_per_trajectory_sum(square)))
    return jax.tree.map(lambda x: jnp.broadcast_to(b.reshape(-1, *[1] * (x.ndim - 1)), x.shape), scores)


def optimal_scalar(gradients: Params, scores: Params) -> Params:
    """Σ_n b_n G_n with one optimal b for all parameters; the term to subtract from Σ_n ĝ_n."""
    return _weighted_scores(optimal_baseline(gradients, scores), scores)


def optimal_per_parameter(gradients: Params, scores: Params) -> Params:
    """Σ_n b_n ⊙ G_n with an optimal b for each parameter; the term to subtract from Σ_n ĝ_n."""
    return _weighted_scores(optimal_baseline(gradients, scores, per_parameter=True), scores)


def _weighted_scores(baseline: Params, scores: Params) -> Params:
    return jax.tree.map(lambda b, g: jnp.sum(b * g, axis=0), baseline, scores)


def _per_trajectory_sum(tree: Params) -> Array:
    """Sum over all leaves and over all axes but the first, [N]."""
    return jnp.asarray(jax.vmap(optax.tree.sum)(tree))
