"""Exponential weights exp(A/η): the policy is regressed on its own better actions (AWR, V-MPO).

With `score` the estimate is Σ_t exp(A_t/η) ∇log π. For large η the weight is about 1 + A/η, so the estimate is the
score (whose mean is 0) plus the policy gradient divided by η.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

from pgjax.estimators.contracts import of_its_parts
from pgjax.estimators.reductions import rounding, whole_batch
from pgjax.types import Credit, Signals, as_partial

BISECTIONS = 60
DECADES = 4.0
"""The temperature is searched between 1e-4 and 1e4 times the range of the advantages."""


def exponential(credit: Credit, temperature: ArrayLike = 1.0, max_weight: ArrayLike = 20.0) -> Partial:
    """AWR's weight min(exp(A_t/β), ω_max) of an advantage A, itself a credit.

    **Biased**: with `score` it increases the weighted log-likelihood of the batch's actions, not J. Peng et al. 2019,
    eq. 11 and section 4.2. https://arxiv.org/abs/1910.00177

    >>> from pgjax import make_signals, reward_to_go
    >>> weights = exponential(reward_to_go, max_weight=5.0)(make_signals([[0.0, -1.0, 9.0]]))
    >>> [round(x, 3) for x in weights[0].tolist()]
    [1.0, 0.368, 5.0]
    """
    return Partial(_exponential, as_partial(credit), temperature=temperature, max_weight=max_weight)


@of_its_parts
def _exponential(credit: Credit, signals: Signals, temperature: ArrayLike, max_weight: ArrayLike) -> Array:
    highest = jnp.minimum(jnp.log(jnp.asarray(max_weight, signals.reward.dtype)), 80.0)
    return jnp.exp(jnp.minimum(credit(signals) / temperature, highest))


def better_half(credit: Credit, temperature_bound: ArrayLike = 0.1) -> Partial:
    """V-MPO's weight of an advantage A: n times a softmax of A/η over the better half of the batch's n steps:

        ψ_t = n · exp(A_t/η) / Σ_D exp(A/η) for t in D, the steps with the ⌈n/2⌉ largest A; 0 elsewhere.

    Ties up to rounding at the ⌈n/2⌉-th place belong to D. The temperature η minimises the dual on this batch:

        g(η) = η ε + η log( (1/|D|) Σ_D exp(A/η) ),   g′ = 0  ⇔  KL(ψ/n ‖ uniform on D) = ε = `temperature_bound`,

    by bisection, where the paper takes gradient steps. If no η > 0 reaches this KL, only the best actions have weight.
    Song et al. 2020, eqs. 3 and 4. https://arxiv.org/abs/1909.12238

    >>> from pgjax import make_signals, reward_to_go
    >>> weights = better_half(reward_to_go)(make_signals([[0.0, 3.0, 1.0, 2.0]]))
    >>> [round(x, 3) for x in weights[0].tolist()]
    [0.0, 2.879, 0.0, 1.121]
    """
    return Partial(_better_half, as_partial(credit), temperature_bound=temperature_bound)


@of_its_parts
def _better_half(credit: Credit, signals: Signals, temperature_bound: ArrayLike) -> Array:
    advantage = jnp.broadcast_to(credit(signals), signals.mask.shape)
    all_advantages, executed = whole_batch(advantage), whole_batch(signals.mask) > 0
    count = jnp.sum(executed)
    ordered = jnp.sort(jnp.where(executed, all_advantages, -jnp.inf), axis=None)[::-1]
    least = ordered[jnp.maximum((count + 1) // 2 - 1, 0)]
    least -= rounding(jnp.max(jnp.where(executed, jnp.abs(all_advantages), 0.0)))
    better, top = executed & (all_advantages >= least), ordered[0]
    below = jnp.where(better, all_advantages - top, 0.0)
    eta = _temperature(below, better, temperature_bound)

    def relative(x: Array) -> Array:
        return jnp.exp((x - top) / eta)

    total = jnp.sum(jnp.where(better, relative(all_advantages), 0.0))
    return jnp.where((signals.mask > 0) & (advantage >= least), count * relative(advantage) / total, 0.0)


def _temperature(below: Array, better: Array, bound: ArrayLike) -> Array:
    """η at which softmax(below/η) on the steps `better` has KL `bound` from uniform; below ≤ 0."""
    size = -jnp.min(below)
    size = jnp.where(size > 0, size, 1.0)

    def divergence(eta: Array) -> Array:
        log_weight = jnp.where(better, below / eta, -jnp.inf)
        log_p = log_weight - jax.nn.logsumexp(log_weight)
        return jnp.log(jnp.sum(better)) + jnp.sum(jnp.where(better, jnp.exp(log_p) * log_p, 0.0))

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        too_low = divergence(size * jnp.exp(middle)) > bound  # too far from uniform
        return jnp.where(too_low, middle, low), jnp.where(too_low, high, middle)

    limit = jnp.full_like(size, DECADES * math.log(10.0))
    low, high = jax.lax.fori_loop(0, BISECTIONS, halve, (-limit, limit))
    return size * jnp.exp(0.5 * (low + high))
