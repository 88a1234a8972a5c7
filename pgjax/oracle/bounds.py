"""Bounds on the error of dropping importance ratios, for a target policy π_θ and a behaviour policy π_θ̄. Notation:

    ε = max_s TV(π_θ, π_θ̄),   A_max = max |A|,   G = max_s E_{π_θ}‖∇log π_θ(a|s)‖,   c = 2 Σ_t t γ^t.

Time t starts at 0; at γ = 1, c = T(T − 1) with horizon T. The bounds hold for every γ in [0, 1], with the factor γ^t in
J. The end of an episode counts as one more state, in which both policies are equal and advantages are 0.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from pgjax.oracle.mdp import MDP, LogPolicy, Values, exact_values, make_mdp, per_step
from pgjax.types import Params


class Bounded(NamedTuple):
    """A quantity and its upper bound."""

    measured: Array
    bound: Array


class PerformanceDifference(NamedTuple):
    """The two sides of an identity."""

    difference: Array  # J(θ) − J(θ̄)
    expected_advantage: Array  # Σ_t γ^t E_{d_t^θ}[Ā_t]


class MeanGradients(NamedTuple):
    """Exact means of the 2×2 of importance-sampled estimators, in the flattened parameters, [P]."""

    exact: Array  # ∇J(θ): past and future ratios kept
    prefix: Array  # future ratios dropped
    suffix: Array  # past ratios dropped
    first_order: Array  # both dropped


class GradientGaps(NamedTuple):
    """‖E[ĝ] − ∇J(θ)‖ of the three estimators that drop ratios, with bounds."""

    prefix: Bounded
    suffix: Bounded
    first_order: Bounded


def policy_distance(log_probs: Array, behaviour: Array) -> Array:
    """Largest total variation between two policies, ε = max_s ½ Σ_a |π_θ(a|s) − π_θ̄(a|s)|, in [0, 1].

    `log_probs` is log π_θ and `behaviour` is log π_θ̄, both [S, A] or [T, S, A].
    """
    return 0.5 * jnp.max(jnp.sum(jnp.abs(jnp.exp(log_probs) - jnp.exp(behaviour)), axis=-1))


@jax.jit
def state_mismatch(mdp: MDP, log_probs: Array, behaviour: Array) -> Bounded:
    """Distance between the state distributions at t = 0 … T − 1 and its bound, both [T].

        ‖d_t^θ − d_t^θ̄‖₁ ≤ 2 (1 − (1 − ε)^t) ≤ 2εt

    Arguments as in `policy_distance`. The norm includes the end of the episode as a state.
    Source: Kakade & Langford 2002; Schulman et al. 2015, lemma 3. https://arxiv.org/abs/1502.05477
    """
    shift = exact_values(mdp, log_probs).state_law - exact_values(mdp, behaviour).state_law
    measured = jnp.sum(jnp.abs(shift), axis=-1) + jnp.abs(jnp.sum(shift, axis=-1))
    return Bounded(measured, 2.0 * (1.0 - (1.0 - policy_distance(log_probs, behaviour)) ** jnp.arange(mdp.horizon)))


@jax.jit
def performance_difference(mdp: MDP, log_probs: Array, behaviour: Array) -> PerformanceDifference:
    """The two sides of the performance difference lemma, scalars. Arguments as in `policy_distance`.

        J(θ) − J(θ̄) = Σ_t γ^t E_{s ~ d_t^θ}[Ā_t(s)],   Ā_t(s) = Σ_a π_θ(a|s) A_t^θ̄(s, a)

    Source: Kakade & Langford 2002, lemma 6.1.
    """
    here, there = exact_values(mdp, log_probs), exact_values(mdp, behaviour)
    return PerformanceDifference(
        here.objective - there.objective, _expected_advantage(mdp, here.state_law, log_probs, there)
    )


@jax.jit
def surrogate_value(mdp: MDP, log_probs: Array, behaviour: Array) -> Array:
    """L(θ) = Σ_t γ^t E_{s ~ d_t^θ̄}[Ā_t(s)]: the performance difference with the states of the behaviour policy.

    The gradient in `log_probs` is the mean of the first-order estimator. Arguments as in `policy_distance`.
    Source: Schulman et al. 2015, eq. 3. https://arxiv.org/abs/1502.05477
    """
    there = exact_values(mdp, behaviour)
    return _expected_advantage(mdp, there.state_law, log_probs, there)


@jax.jit
def value_gap(mdp: MDP, log_probs: Array, behaviour: Array) -> Bounded:
    """Error of the surrogate's value and its bound: |J(θ) − J(θ̄) − L(θ)| ≤ 2 c ε² A_max.

    A_max is that of the behaviour policy. If L(θ) is above the bound, J(θ) > J(θ̄). Arguments as in `policy_distance`.
    Source: Kakade & Langford 2002; Schulman et al. 2015, theorem 1. https://arxiv.org/abs/1502.05477

    >>> mdp = make_mdp([1.0], [[[0.9], [0.5]]], [[0.0, 1.0]], horizon=3)
    >>> gap = value_gap(mdp, jnp.log(jnp.array([[0.3, 0.7]])), jnp.log(jnp.array([[0.5, 0.5]])))
    >>> round(float(gap.measured), 4), round(float(gap.bound), 4)
    (0.0339, 0.24)
    """
    difference = performance_difference(mdp, log_probs, behaviour).difference
    largest = jnp.max(jnp.abs(_advantage(exact_values(mdp, behaviour))))
    bound = 2.0 * _horizon_factor(mdp) * policy_distance(log_probs, behaviour) ** 2 * largest
    return Bounded(jnp.abs(difference - surrogate_value(mdp, log_probs, behaviour)), bound)


@partial(jax.jit, static_argnames="log_policy")
def mean_gradients(mdp: MDP, log_policy: LogPolicy, params: Params, behaviour: Array) -> MeanGradients:
    """Exact means of the 2×2 of importance-sampled estimators, by dynamic programming, for any horizon:

        Σ_t γ^t E_{s ~ d_t, a ~ π_θ}[∇log π_θ(a|s) Q_t(s, a)].

    The state distribution d is d^θ with past ratios and d^θ̄ without. Q is Q^θ with future ratios and Q^θ̄ without.
    `log_policy` maps θ to log π_θ; `behaviour` is log π_θ̄, [S, A] or [T, S, A].
    Source: Degris et al. 2012; Schulman et al. 2015. https://arxiv.org/abs/1502.05477
    """
    here, there = exact_values(mdp, log_policy(params)), exact_values(mdp, behaviour)
    factor = mdp.discount ** jnp.arange(mdp.horizon)

    def mean(state_probs: Array, action_value: Array) -> Array:
        def inner(p: Params) -> Array:
            return jnp.einsum(
                "t,ts,tsa,tsa->", factor, state_probs, jnp.exp(per_step(mdp, log_policy(p))), action_value
            )

        return ravel_pytree(jax.grad(inner)(params))[0]

    return MeanGradients(
        exact=mean(here.state_law, here.action_value),
        prefix=mean(here.state_law, there.action_value),
        suffix=mean(there.state_law, here.action_value),
        first_order=mean(there.state_law, there.action_value),
    )


@partial(jax.jit, static_argnames="log_policy")
def gradient_gap(mdp: MDP, log_policy: LogPolicy, params: Params, behaviour: Array) -> GradientGaps:
    """Bias norms of the estimators that drop ratios, and their bounds: G ε A_max c, and twice that for the first order.

    A_max is over both policies. The leading term of the bias is `cross_term`. Arguments as in `mean_gradients`.
    Source: Kakade & Langford 2002 and Schulman et al. 2015, extended to gradients. https://arxiv.org/abs/1502.05477

    >>> gaps = gradient_gap(worst_case_mdp(10), worst_case_policy, 0.01, worst_case_policy(0.0))
    >>> [0.9 < float(gap.measured / gap.bound) <= 1.0 for gap in gaps]
    [True, True, True]
    """
    log_probs, means = log_policy(params), mean_gradients(mdp, log_policy, params, behaviour)
    largest = jnp.max(jnp.abs(jnp.stack([_advantage(exact_values(mdp, x)) for x in (log_probs, behaviour)])))
    bound = _largest_score(log_policy, params) * policy_distance(log_probs, behaviour) * largest * _horizon_factor(mdp)
    prefix, suffix, first_order = (jnp.linalg.norm(mean - means.exact) for mean in means[1:])
    return GradientGaps(Bounded(prefix, bound), Bounded(suffix, bound), Bounded(first_order, 2.0 * bound))


def worst_case_mdp(horizon: int, discount: float = 1.0) -> MDP:
    """An MDP that attains the bounds of `value_gap` and `gradient_gap`, for `worst_case_policy` at θ̄ = 0 and θ = ε → 0.

    It has two states and rewards ±1. The target policy leaves the first state for good with probability ε per step; the
    behaviour policy never leaves it. The target policy is worse in the first state and better in the second.
    """
    successor = np.array([[0, 0, 1], [1, 1, 1]])  # [state, action]
    reward = np.array([[1.0, -1.0, -1.0]] * 2)
    return make_mdp(np.array([1.0, 0.0]), np.eye(2)[successor], reward, horizon, discount)


def worst_case_policy(theta: ArrayLike) -> Array:
    """log π of a policy with one parameter θ in [0, ½), [2, 3]; its distance from θ̄ is |θ − θ̄|."""
    x = jnp.asarray(theta, float)
    first = jnp.stack([0.5 - x, jnp.full_like(x, 0.5), x])
    second = jnp.stack([0.5 + x, 0.25 - 0.5 * x, 0.25 - 0.5 * x])
    return jnp.log(jnp.stack([first, second]))


def _advantage(values: Values) -> Array:
    """A_t(s, a), [T, S, A]."""
    return values.action_value - values.value[:-1, :, None]


def _expected_advantage(mdp: MDP, state_probs: Array, log_probs: Array, there: Values) -> Array:
    """Σ_t γ^t Σ_s state_probs_t(s) Σ_a π(a|s) A_t(s, a)."""
    factor = mdp.discount ** jnp.arange(mdp.horizon)
    return jnp.einsum("t,ts,tsa,tsa->", factor, state_probs, jnp.exp(per_step(mdp, log_probs)), _advantage(there))


def _horizon_factor(mdp: MDP) -> Array:
    """c = 2 Σ_t t γ^t; T(T − 1) at γ = 1."""
    time = jnp.arange(mdp.horizon)
    return 2.0 * jnp.sum(time * mdp.discount**time)


def _largest_score(log_policy: LogPolicy, params: Params) -> Array:
    """G = max_s E_{π_θ}‖∇log π_θ(a|s)‖ = max_s Σ_a ‖∇π_θ(a|s)‖."""
    flat, unravel = ravel_pytree(params)
    slope = jax.jacrev(lambda p: jnp.exp(log_policy(unravel(p))))(flat)
    return jnp.max(jnp.sum(jnp.linalg.norm(slope, axis=-1), axis=-1))
