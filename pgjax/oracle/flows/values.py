"""Exact values of discounted problems, by linear solves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from pgjax.oracle.flows.problems import Discounted
from pgjax.oracle.mdp import LogPolicy
from pgjax.types import Params


class DiscountedValues(NamedTuple):
    """Exact values under a policy.

    `occupancy` is d_ρ(s) = (1 − γ) Σ_t γ^t P(s_t = s), which sums to 1 if no episode ends.
    """

    objective: Array  # J = Σ_s ρ(s) V(s)
    value: Array  # V, [S]
    action_value: Array  # Q, [S, A]
    advantage: Array  # A = Q − V, [S, A]
    occupancy: Array  # d_ρ, [S]


class Optimum(NamedTuple):
    """An optimal policy and its values."""

    objective: Array  # J*
    value: Array  # V*, [S]
    action_value: Array  # Q*, [S, A]
    action: Array  # a*(s), [S]; the first of several
    occupancy: Array  # d*_ρ, [S]


def discounted_values(problem: Discounted, probs: Array, bonus: Array | float = 0.0) -> DiscountedValues:
    """J, V, Q, A and the state distribution of a policy π(a|s), [S, A]; differentiable in `probs`.

        V = (I − γ P_π)⁻¹ (r_π + b),   Q = r + γ P V,   d_ρ = (1 − γ) (I − γ P_πᵀ)⁻¹ ρ

    `bonus` is b(s), [S], added to the reward in every state, such as an entropy; Q contains it from the next state on.

    >>> from pgjax.oracle.flows import make_discounted
    >>> problem = make_discounted([1.0], [[[1.0], [0.0]]], [[1.0, 0.0]], discount=0.5)
    >>> float(discounted_values(problem, jnp.array([[1.0, 0.0]])).objective)
    2.0
    """
    transition, reward = jnp.asarray(problem.transition), jnp.asarray(problem.reward)
    stays = problem.discount * jnp.einsum("sa,sax->sx", probs, transition)
    system = jnp.eye(stays.shape[0], dtype=probs.dtype) - stays
    value = jnp.linalg.solve(system, jnp.sum(probs * reward, axis=-1) + bonus)
    visits = jnp.linalg.solve(system.T, jnp.asarray(problem.initial, probs.dtype))
    action_value = reward + problem.discount * transition @ value
    advantage = action_value - jnp.sum(probs * action_value, axis=-1, keepdims=True)
    return DiscountedValues(
        jnp.asarray(problem.initial) @ value, value, action_value, advantage, (1.0 - problem.discount) * visits
    )


def discounted_objective(problem: Discounted, log_policy: LogPolicy, params: Params) -> Array:
    """J(θ) of a differentiable policy."""
    return discounted_values(problem, jnp.exp(log_policy(params))).objective


def discounted_gradient(problem: Discounted, log_policy: LogPolicy, params: Params) -> Params:
    """∇J by the policy gradient theorem, (1/(1 − γ)) Σ_s d_ρ(s) Σ_a ∇π(a|s) Q(s, a) (Sutton et al. 2000)."""
    log_probs, pull = jax.vjp(log_policy, params)
    values = discounted_values(problem, jnp.exp(log_probs))
    weight = values.occupancy / (1.0 - problem.discount)
    return pull(weight[:, None] * jnp.exp(log_probs) * values.advantage)[0]


def discounted_fisher(problem: Discounted, log_policy: LogPolicy, params: Params) -> Array:
    """F = Σ_s d_ρ(s) Σ_a π(a|s) ∇log π ∇log πᵀ in the flattened parameters, [P, P] (Kakade 2001).

    With a factor γ^t in `exact_fisher`, this is (1 − γ) times that sum.
    """
    flat, unravel = ravel_pytree(params)
    probs = jnp.exp(log_policy(params))
    score = jax.jacfwd(lambda p: log_policy(unravel(p)))(flat)
    weight = discounted_values(problem, probs).occupancy[:, None] * probs
    return jnp.einsum("sa,sap,saq->pq", weight, score, score)


@jax.jit
def optimum(problem: Discounted) -> Optimum:
    """The optimal policy, by policy iteration."""
    reward = jnp.asarray(problem.reward)
    count = reward.shape[1]

    def values_of(action: Array) -> DiscountedValues:
        return discounted_values(problem, jax.nn.one_hot(action, count, dtype=reward.dtype))

    def better(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        action, _ = carry
        values = values_of(action)
        margin = jnp.max(values.action_value, axis=-1) - values.value
        changed = margin > 64 * jnp.finfo(reward.dtype).eps * (1.0 + jnp.max(jnp.abs(values.value)))
        return jnp.where(changed, jnp.argmax(values.action_value, axis=-1), action), jnp.any(changed)

    start = jnp.argmax(reward, axis=-1), jnp.array(True)
    action, _ = jax.lax.while_loop(lambda carry: carry[1], better, start)
    found = values_of(action)
    return Optimum(found.objective, found.value, found.action_value, action, found.occupancy)


def mismatch(problem: Discounted, occupancy: Array) -> Array:
    """Distribution mismatch coefficient ‖d/ρ‖_∞ = max_s d(s)/ρ(s); infinite where ρ is 0 and d is not."""
    initial = jnp.asarray(problem.initial)
    share = occupancy / jnp.where(initial > 0, initial, 1.0)
    return jnp.max(jnp.where(initial > 0, share, jnp.where(occupancy > 0, jnp.inf, 0.0)))
