"""Quantities that theorems bound: gaps, constants of a problem, and records along a path."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from pgjax.oracle.flows.directions import Flow
from pgjax.oracle.flows.loop import Curve, objective
from pgjax.oracle.flows.problems import Discounted
from pgjax.oracle.flows.values import mismatch, optimum
from pgjax.types import Params


class Checked(NamedTuple):
    """A measured quantity and its bound along a curve, [K], or [problems, K]."""

    steps: Array
    measured: Array  # the quantity that is bounded
    bound: Array
    gap: Array  # δ_k of J, or of the regularised objective


def objectives(problem: Discounted, flow: Flow, params: Params) -> tuple[Array, Array]:
    """J, and the objective that the flow ascends."""
    return objective(problem, flow, params), flow.ascends(problem, params)


def least_optimal(problem: Discounted) -> Partial:
    """Record of min_s π(a*(s)|s)."""
    return Partial(_least_optimal, optimum(problem).action)


def _least_optimal(action: Array, problem: Discounted, flow: Flow, params: Params) -> Array:
    return jnp.min(jnp.take_along_axis(flow.policy(params), action[:, None], axis=1))


def least_of_all(problem: Discounted, flow: Flow, params: Params) -> Array:
    """min_{s,a} π(a|s)."""
    return jnp.min(flow.policy(params))


def zero_logits(problem: Discounted) -> Array:
    """θ = 0, [S, A]."""
    return jnp.zeros(problem.reward.shape)


def uniform_policy(problem: Discounted) -> Array:
    """π = 1/A, [S, A]."""
    return jnp.full(problem.reward.shape, 1.0 / problem.reward.shape[1])


def gaps(problem: Discounted, curve: Curve) -> Array:
    """δ_k = J* − J_k of a curve that recorded `objectives`, [K]."""
    return optimum(problem).objective - curve.recorded[0]


def constants(problem: Discounted) -> tuple[int, int, Array, Array]:
    """S, A, 1 − γ, M."""
    states, actions = problem.reward.shape
    return states, actions, jnp.asarray(1.0 - problem.discount), mismatch(problem, optimum(problem).occupancy)
