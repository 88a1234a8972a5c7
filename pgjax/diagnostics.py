"""What to watch: gradient noise, importance weights, critics; cheap enough to leave on."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from pgjax.importance import clamped_fraction, effective_sample_size, log_prefix
from pgjax.losses import log_ratio
from pgjax.types import Agent, Config, Params, Transition


class GradientNoise(NamedTuple):
    """How much of a gradient estimate is signal; scalars, over all parameters together."""

    variance: Array  # s², trace of the covariance of one trajectory's gradient
    signal: Array  # G² = ‖ḡ‖² − s²/N, an unbiased estimate of ‖∇J‖²; may be negative
    snr: Array  # G² / (s²/N)
    critical_batch_size: Array  # s²/G², in trajectories; not a number where G² ≤ 0


def gradient_noise(gradients: Params, trajectories: int | None = None) -> GradientNoise:
    """Noise of the batch gradient, from gradients of single trajectories or of K micro-batches.

        s² = (N/K) Σ_k ‖g_k − ḡ‖² / (K − 1)

    Args:
      gradients: a pytree of [K, ...], mean gradients of K disjoint groups of equal size.
      trajectories: N, of all groups together; default K (one trajectory each).
    McCandlish et al. 2018. https://arxiv.org/abs/1812.06162

    >>> noise = gradient_noise(jnp.array([[1.0, 0.0], [3.0, 0.0]]))
    >>> float(noise.variance), float(noise.signal)
    (2.0, 3.0)
    """
    groups = jax.tree.leaves(gradients)[0].shape[0]
    count = groups if trajectories is None else trajectories
    mean = jax.tree.map(lambda g: jnp.mean(g, axis=0), gradients)
    spread = _squared_norm(jax.tree.map(lambda g, m: g - m, gradients, mean)) / (groups - 1)
    variance = spread * count / groups
    signal = _squared_norm(mean) - variance / count
    snr = signal / (variance / count)
    return GradientNoise(variance, signal, snr, jnp.where(signal > 0, variance / signal, jnp.nan))


def cosine(one: Params, other: Params) -> Array:
    """Cosine between two gradients: of an estimate with a reference, or of two independent batches."""
    inner = optax.tree.vdot(one, other)
    return jnp.asarray(inner / (optax.tree.norm(one) * optax.tree.norm(other)))


def bias_probe(gradients: Array, exact: Array) -> tuple[Array, Array]:
    """Bias of an approximate form on one batch: mean_n (g_n − g_n^exact) and its standard error, [P] each.

    Args:
      gradients: the approximate form's gradient of each trajectory, [N, P].
      exact: those of an exact form (per-decision importance sampling) on the same trajectories.
    """
    difference = gradients - exact
    error = jnp.std(difference, axis=0, ddof=1) / jnp.sqrt(difference.shape[0])
    return jnp.mean(difference, axis=0), error


def explained_variance(target: Array, value: Array, mask: Array) -> Array:
    """1 − Var(Q̂ − V)/Var(Q̂) over executed steps; not a number where Q̂ does not vary.

    >>> float(explained_variance(jnp.array([1.0, 3.0]), jnp.array([1.0, 3.0]), jnp.ones(2)))
    1.0
    """
    steps = jnp.maximum(jnp.sum(mask), 1.0)

    def variance(x: Array) -> Array:
        mean = jnp.sum(mask * x) / steps
        return jnp.sum(mask * (x - mean) ** 2) / steps

    total = variance(target)
    return jnp.where(total > 0, 1.0 - variance(target - value) / jnp.where(total > 0, total, 1.0), jnp.nan)


def effective_sample_size_per_step(log_ratio: Array) -> Array:
    """ESS of ρ_{1:t} over the batch at every step, [T]; a finished trajectory keeps its last weight.

    Whole episodes, [T, N], with log ρ = 0 on padding.
    """
    return effective_sample_size(jnp.cumsum(log_ratio, axis=0), axis=1)


def weight_statistics(agent: Agent, config: Config, params: Params, transition: Transition) -> dict[str, Array]:
    """Whether reuse of a batch has gone too far, at the parameters the updates have led to.

        effective_sample_size   (Σw)²/Σw², as a fraction of the batch; 1 is on-policy
        largest_weight_share    max w / Σw
        mean_weight             about 1, or the recorded actions and log-probabilities do not belong together
        kl                      mean of (ρ − 1) − log ρ, an estimate of KL(θ̄ ‖ θ) per step
        clamped                 share of steps whose weight met the bound of `pgjax.importance`

    In "episodes" w = ρ_{1:T} of each trajectory; in "stream" ρ_t of each step.
    """
    x = log_ratio(agent.policy(params["policy"], transition.observation), transition)
    mask = transition.mask
    continues = mask * ~(transition.terminated | transition.truncated)
    whole = config.rollout == "episodes"
    log_w = jnp.sum(x, axis=0) if whole else x.ravel()
    w = jnp.exp(log_w - jnp.max(log_w))
    prefix = log_prefix(x, continues) if whole else x
    return {
        "effective_sample_size": effective_sample_size(log_w) / log_w.size,
        "largest_weight_share": jnp.max(w) / jnp.sum(w),
        "mean_weight": jnp.mean(jnp.exp(jnp.minimum(log_w, 80.0))),
        "kl": jnp.sum((jnp.expm1(jnp.minimum(x, 80.0)) - x) * mask) / jnp.sum(mask),
        "clamped": clamped_fraction(prefix, mask),
    }


def score_mean(agent: Agent, params: Params, transition: Transition) -> Params:
    """Mean score per step, ∇ (1/steps) Σ log π_θ(a_t|s_t): zero in expectation for the policy that sampled the batch.

    Far from zero (against 1/√steps) it shows actions, observations or masks that do not belong together.
    """

    def mean_log_prob(policy_params: Params) -> Array:
        log_prob = agent.policy(policy_params, transition.observation).log_prob(transition.action)
        return jnp.sum(jnp.where(transition.mask > 0, log_prob, 0.0)) / jnp.sum(transition.mask)

    return jax.grad(mean_log_prob)(params["policy"])


def _squared_norm(tree: Params) -> Array:
    return optax.tree.norm(tree, squared=True)
