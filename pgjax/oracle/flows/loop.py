"""Discrete-time integration of flows, and step-size rules."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

from pgjax.oracle.flows.directions import Flow
from pgjax.oracle.flows.problems import Discounted
from pgjax.oracle.flows.values import discounted_values
from pgjax.types import Params, SettingError

StepRule = Callable[[Discounted, Flow, Params, Params, Array], Array]
"""(problem, flow, θ, direction, k) -> step size α_k, k = 0, 1, …"""
Record = Callable[[Discounted, Flow, Params], Any]
"""(problem, flow, θ) -> a pytree to record."""


class Curve(NamedTuple):
    """A flow's path, recorded at K steps."""

    steps: Array  # [K], number of steps taken
    length: Array  # [K], Σ α_j up to that step
    recorded: Any  # results of `record`, [K, ...]
    lowest: Any  # running minimum of `lowest` over all steps, [K, ...]
    params: Params  # θ at the end


def _fixed(size: Array, problem: Discounted, flow: Flow, params: Params, direction: Params, k: Array) -> Array:
    return jnp.asarray(size)


def fixed(size: ArrayLike) -> StepRule:
    """α_k = α. Rules are pytrees, so that they can be stacked and mapped over."""
    return Partial(_fixed, size)


def _decaying(size: Array, power: Array, problem: Any, flow: Any, params: Any, direction: Any, k: Array) -> Array:
    return size / (1.0 + k) ** power


def decaying(size: ArrayLike, power: ArrayLike = 0.5) -> StepRule:
    """α_k = α/(k + 1)^power."""
    return Partial(_decaying, size, power)


def _growing(size: Array, factor: Array, problem: Any, flow: Any, params: Any, direction: Any, k: Array) -> Array:
    return jnp.minimum(size * jnp.asarray(factor, jnp.result_type(float)) ** k, 1e12)


def growing(size: ArrayLike, factor: ArrayLike) -> StepRule:
    """α_k = α factor^k, at most 1e12."""
    return Partial(_growing, size, factor)


def _searched(
    size: Array, shrink: Array, slope: Array, problem: Discounted, flow: Flow, params: Params, direction: Params, k: Any
) -> Array:
    here = flow.ascends(problem, params)
    gradient = jax.grad(lambda x: flow.ascends(problem, x))(params)
    rise = sum(jnp.sum(g * d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))

    def too_long(alpha: Array) -> Array:
        there = flow.ascends(problem, _moved(flow, params, direction, alpha))
        return ~(there >= here + slope * alpha * rise) & (alpha > 1e-14 * size)

    return jax.lax.while_loop(too_long, lambda alpha: shrink * alpha, jnp.asarray(size, here.dtype))


def line_searched(size: ArrayLike, shrink: ArrayLike = 0.5, slope: ArrayLike = 0.5) -> StepRule:
    """The largest of α, α·shrink, … with f(θ + α x) ≥ f(θ) + slope · α ⟨∇f, x⟩, where f is the flow's objective.

    For flows that retract by addition. Source: Armijo 1966.
    """
    return Partial(_searched, size, shrink, slope)


def objective(problem: Discounted, flow: Flow, params: Params) -> Array:
    """The default record: J of the policy, without regulariser."""
    return discounted_values(problem, flow.policy(params)).objective


def integrate(
    problem: Discounted,
    flow: Flow,
    params: Params,
    steps: ArrayLike,
    rule: StepRule,
    record: Record = objective,
    lowest: Record | None = None,
    momentum: bool = False,
) -> Curve:
    """Follow a flow: θ_{k+1} = retract(θ_k, α_k · direction(θ_k)).

    With `momentum`, Nesterov's, restarted where the extrapolated point is worse (Chen et al. 2024, accelerated policy
    gradient, https://arxiv.org/abs/2310.11897):

        θ_{k+1} = retract(ω_k, α_k direction(ω_k)),   φ = θ_{k+1} + (k/(k + 3)) (θ_{k+1} − θ_k),
        ω_{k+1} = φ where it has the higher objective, else θ_{k+1}

    Args:
      flow: such as `softmax_gradient()`.
      params: θ_0.
      steps: numbers of steps at which to record, increasing integers, [K].
      rule: step sizes, such as `fixed(0.1)`.
      record: what to record at `steps`; default J.
      lowest: quantity whose minimum over all steps is recorded; default none.

    >>> from pgjax.oracle.flows import bandit, softmax_gradient
    >>> curve = integrate(bandit([1.0, 0.0]), softmax_gradient(), jnp.zeros((1, 2)), [0, 10, 100], fixed(0.4))
    >>> [round(float(j), 2) for j in curve.recorded]
    [0.5, 0.84, 0.99]
    """
    moments = np.asarray(steps)
    if moments.ndim != 1 or len(moments) == 0 or np.any(np.diff(moments, prepend=-1) < 1):
        raise SettingError("steps", moments.tolist(), "must be increasing integers of at least 0")
    return _integrate(
        problem, flow, params, jnp.asarray(moments), rule, _bound(record), _bound(lowest or _nothing), momentum
    )


@partial(jax.jit, static_argnames="momentum")
def _integrate(
    problem: Discounted,
    flow: Flow,
    params: Params,
    moments: Array,
    rule: StepRule,
    record: Record,
    lowest: Record,
    momentum: bool,
) -> Curve:
    dtype = jnp.result_type(float)
    tables = jax.tree.map(lambda x: jnp.asarray(x, dtype), problem)

    def step(k: Array, carry: tuple) -> tuple:
        before, at, length, least = carry
        direction = flow.direction(tables, at)
        alpha = rule(tables, flow, at, direction, k)
        after = _moved(flow, at, direction, alpha)
        least = jax.tree.map(jnp.minimum, least, lowest(tables, flow, after))
        if not momentum:
            return after, after, length + alpha, least
        ahead = jax.tree.map(lambda new, old: new + (k / (k + 3.0)) * (new - old), after, before)
        better = flow.ascends(tables, ahead) >= flow.ascends(tables, after)
        return after, jax.tree.map(lambda x, y: jnp.where(better, x, y), ahead, after), length + alpha, least

    def advance(carry: tuple[Array, tuple], moment: Array) -> tuple[tuple[Array, tuple], tuple]:
        done, state = carry
        state = jax.lax.fori_loop(done, moment, step, state)
        params, _, length, least = state
        return (moment, state), (length, record(tables, flow, params), least)

    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
    start = params, params, jnp.zeros((), dtype), lowest(tables, flow, params)
    (_, state), (length, recorded, least) = jax.lax.scan(advance, (jnp.zeros((), moments.dtype), start), moments)
    return Curve(moments, length, recorded, least, state[0])


def _bound(record: Record) -> Partial:
    return record if isinstance(record, Partial) else Partial(record)


def _nothing(problem: Discounted, flow: Flow, params: Params) -> tuple:
    return ()


def _moved(flow: Flow, params: Params, direction: Params, alpha: Array) -> Params:
    return flow.retract(params, jax.tree.map(lambda x: alpha * x, direction))


def moments(last: int, count: int = 60) -> np.ndarray:
    """0 and about `count` integers from 1 to `last`, evenly spaced in their logarithms.

    >>> moments(100, 5).tolist()
    [0, 1, 3, 10, 32, 100]
    """
    return np.unique(np.append(0, np.round(np.geomspace(1, last, count)).astype(int)))
