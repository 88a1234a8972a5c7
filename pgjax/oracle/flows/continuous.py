"""Flows in continuous time, dθ/dt = direction(θ), and the times of events."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from pgjax.oracle.flows.directions import Flow
from pgjax.oracle.flows.problems import Discounted
from pgjax.oracle.flows.values import discounted_values, optimum
from pgjax.types import Params

Event = Callable[[Discounted, Flow, Params], Array]
"""(problem, flow, θ) -> a number that crosses zero from below at the event."""


def half_of_the_best(problem: Discounted, flow: Flow, params: Params) -> Array:
    """The event J = J*/2, as J − J*/2."""
    return discounted_values(problem, flow.policy(params)).objective - 0.5 * optimum(problem).objective


def best_likely_everywhere(problem: Discounted, flow: Flow, params: Params) -> Array:
    """The event that optimal actions have probability ½ in every state, as min_s Σ_{a best in s} π(a|s) − ½."""
    values = optimum(problem)
    best = values.action_value >= values.value[:, None] - 1e-9
    return jnp.min(jnp.sum(jnp.where(best, flow.policy(params), 0.0), axis=-1)) - 0.5


def time_until(event: Event, problem: Discounted, flow: Flow, params: Params, limit: float = 1e12) -> float:
    """Time of an `event`, such as `half_of_the_best`, along dθ/dt = direction(θ) from θ(0) = `params`.

    Discrete steps of size α need about time/α steps. Integrates with LSODA and exact Jacobians to a relative error of
    1e-7, in float64. The flow must retract by addition. The time is infinite if the event does not happen by `limit`,
    and 0 if it holds at the start.

    >>> from pgjax.oracle.flows import bandit, softmax_gradient
    >>> with jax.enable_x64(True):
    ...     round(time_until(half_of_the_best, bandit([1.0, 0.0]), softmax_gradient(), np.array([[0.0, 3.0]])), 2)
    13.02
    """
    from scipy.integrate import solve_ivp  # imported here, since it is slow to import

    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, params))
    shape = Partial(unravel)
    tables = jax.tree.map(jnp.asarray, problem)
    bound = event if isinstance(event, Partial) else Partial(event)

    def event_value(time: float, x: np.ndarray) -> float:
        return float(_event_value(bound, tables, flow, shape, x))

    event_value.terminal, event_value.direction = True, 1.0  # type: ignore[attr-defined]
    if event_value(0.0, np.asarray(flat)) >= 0:
        return 0.0
    found: Any = solve_ivp(
        lambda time, x: np.asarray(_direction(tables, flow, shape, x)),
        (0.0, limit),
        np.asarray(flat),
        method="LSODA",
        jac=lambda time, x: np.asarray(_jacobian(tables, flow, shape, x)),
        events=event_value,
        rtol=1e-7,
        atol=1e-9,
    )
    return float(found.t_events[0][0]) if len(found.t_events[0]) else float("inf")


@jax.jit
def _event_value(event: Partial, problem: Discounted, flow: Flow, shape: Partial, x: Array) -> Array:
    return event(problem, flow, shape(x))


@jax.jit
def _direction(problem: Discounted, flow: Flow, shape: Partial, x: Array) -> Array:
    return ravel_pytree(flow.direction(problem, shape(x)))[0]


@jax.jit
def _jacobian(problem: Discounted, flow: Flow, shape: Partial, x: Array) -> Array:
    return jax.jacfwd(partial(_direction, problem, flow, shape))(x)
