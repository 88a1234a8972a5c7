"""Flows: the exact update direction of each policy-gradient method."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from pgjax.oracle.flows.mirror_maps import KL, MirrorMap, simplex_projection
from pgjax.oracle.flows.problems import Discounted
from pgjax.oracle.flows.values import (
    discounted_fisher,
    discounted_gradient,
    discounted_objective,
    discounted_values,
)
from pgjax.oracle.mdp import LogPolicy
from pgjax.types import Params, SettingError


def add(params: Params, move: Params) -> Params:
    """θ + x, for pytrees."""
    return jax.tree.map(lambda x, y: x + y, params, move)


class Flow(NamedTuple):
    """A method without sampling: θ ← retract(θ, α · direction(θ))."""

    policy: Callable[[Params], Array]  # θ -> π(a|s), [S, A]
    direction: Callable[[Discounted, Params], Params]
    ascends: Callable[[Discounted, Params], Array]  # the objective that is ascended: J, or J with a regulariser
    retract: Callable[[Params, Params], Params] = Partial(add)


# `Partial` of module-level functions makes a flow a pytree: its numbers can be mapped over with vmap, and the loop is
# compiled once for each method.


def _probs(log_policy: LogPolicy, params: Params) -> Array:
    return jnp.exp(log_policy(params))


def _gradient(log_policy: LogPolicy, problem: Discounted, params: Params) -> Params:
    return discounted_gradient(problem, log_policy, params)


def _objective(log_policy: LogPolicy, problem: Discounted, params: Params) -> Array:
    return discounted_objective(problem, log_policy, params)


def _soft_objective(log_policy: LogPolicy, temperature: Array, problem: Discounted, params: Params) -> Array:
    return soft_values(problem, log_policy(params), temperature)[0]


def _soft_gradient(log_policy: LogPolicy, temperature: Array, problem: Discounted, params: Params) -> Params:
    return jax.grad(partial(_soft_objective, log_policy, temperature, problem))(params)


def _barrier_objective(weight: Array, problem: Discounted, logits: Array) -> Array:
    log_probs = jax.nn.log_softmax(logits)
    barrier = jnp.mean(log_probs) + jnp.log(logits.shape[-1])
    return discounted_values(problem, jnp.exp(log_probs)).objective + weight * barrier


def _barrier_gradient(weight: Array, problem: Discounted, logits: Array) -> Array:
    return jax.grad(partial(_barrier_objective, weight, problem))(logits)


def _advantage(problem: Discounted, logits: Array) -> Array:
    return discounted_values(problem, jax.nn.softmax(logits)).advantage / (1.0 - problem.discount)


def _natural(log_policy: LogPolicy, problem: Discounted, params: Params) -> Params:
    flat, unravel = ravel_pytree(discounted_gradient(problem, log_policy, params))
    fisher = discounted_fisher(problem, log_policy, params)
    return unravel(jnp.linalg.pinv(fisher, rtol=1e-10, hermitian=True) @ flat)


def _soft_natural(temperature: Array, problem: Discounted, logits: Array) -> Array:
    log_probs = jax.nn.log_softmax(logits)
    move = soft_values(problem, log_probs, temperature)[2] - temperature * log_probs
    return (move - jnp.sum(jnp.exp(log_probs) * move, axis=-1, keepdims=True)) / (1.0 - problem.discount)


def _identity(x: Array) -> Array:
    return x


def _direct_objective(problem: Discounted, probs: Array) -> Array:
    return discounted_values(problem, probs).objective


def _direct_gradient(problem: Discounted, probs: Array) -> Array:
    values = discounted_values(problem, probs)
    return values.occupancy[:, None] * values.action_value / (1.0 - problem.discount)


def _action_value(problem: Discounted, probs: Array) -> Array:
    return discounted_values(problem, probs).action_value


def _unit(direction: Callable, problem: Discounted, params: Params) -> Params:
    found = direction(problem, params)
    size = jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(found)))
    return jax.tree.map(lambda x: x / jnp.where(size > 0, size, 1.0), found)


def _policy(log_policy: LogPolicy) -> Partial:
    return log_policy if isinstance(log_policy, Partial) else Partial(log_policy)


def softmax_gradient(log_policy: LogPolicy = jax.nn.log_softmax) -> Flow:
    """The policy gradient ∇J(θ), of a table of logits or of any differentiable policy.

    >>> from pgjax.oracle.flows import bandit
    >>> softmax_gradient().direction(bandit([1.0, 0.0]), jnp.zeros((1, 2))).tolist()
    [[0.25, -0.25]]
    """
    policy = _policy(log_policy)
    return Flow(Partial(_probs, policy), Partial(_gradient, policy), Partial(_objective, policy))


def entropy_gradient(temperature: float, log_policy: LogPolicy = jax.nn.log_softmax) -> Flow:
    """The gradient of J + τ E[Σ_t γ^t H(π(·|s_t))]. Source: Mei et al. 2020. https://arxiv.org/abs/2005.06392"""
    _positive("temperature", temperature)
    of = _policy(log_policy), temperature
    return Flow(Partial(_probs, of[0]), Partial(_soft_gradient, *of), Partial(_soft_objective, *of))


def log_barrier_gradient(weight: float) -> Flow:
    """The gradient of J + (λ/(S A)) Σ_{s,a} log π(a|s) + λ log A, which keeps probabilities away from 0; λ is `weight`.

    Source: Agarwal et al. 2021. https://arxiv.org/abs/1908.00261
    """
    _positive("weight", weight)

    return Flow(Partial(jax.nn.softmax), Partial(_barrier_gradient, weight), Partial(_barrier_objective, weight))


def natural_gradient(log_policy: LogPolicy | None = None) -> Flow:
    """The natural gradient F⁺ ∇J. For a table of logits, the default, it is A(s, a)/(1 − γ), without matrix inversion.

    A step of size η then multiplies π(a|s) by a factor proportional to exp(η A(s, a)/(1 − γ)).
    Source: Kakade 2001; Agarwal et al. 2021. https://arxiv.org/abs/1908.00261
    """
    if log_policy is None:
        return softmax_gradient()._replace(direction=Partial(_advantage))
    return softmax_gradient(log_policy)._replace(direction=Partial(_natural, _policy(log_policy)))


def soft_natural_gradient(temperature: float) -> Flow:
    """Natural gradient of the entropy-regularised objective, on logits.

    A step of size η gives π ∝ π^{1 − ητ/(1 − γ)} exp(η Q_τ/(1 − γ)). At η = (1 − γ)/τ this is soft policy iteration, π
    ∝ exp(Q_τ/τ).
    Source: Cen et al. 2022, eq. 18. https://arxiv.org/abs/2007.06558
    """
    _positive("temperature", temperature)

    ascends = Partial(_soft_objective, Partial(jax.nn.log_softmax), temperature)
    return Flow(Partial(jax.nn.softmax), Partial(_soft_natural, temperature), ascends)


def soft_values(problem: Discounted, log_probs: Array, temperature: Array | float) -> tuple[Array, Array, Array]:
    """J_τ, V_τ [S] and Q_τ [S, A] with reward τ H(π(·|s)) in every state; in Q_τ from the next state on."""
    probs = jnp.exp(log_probs)
    entropy = -jnp.sum(jnp.where(probs > 0, probs * log_probs, 0.0), axis=-1)
    values = discounted_values(problem, probs, temperature * entropy)
    return values.objective, values.value, values.action_value


def projected_gradient() -> Flow:
    """Projected gradient in the probabilities, ∂J/∂π(a|s) = d_ρ(s) Q(s, a)/(1 − γ); θ is the table π(a|s).

    Source: Agarwal et al. 2021. https://arxiv.org/abs/1908.00261
    """

    return Flow(Partial(_identity), Partial(_direct_gradient), Partial(_direct_objective), Partial(_project))


def _project(probs: Array, move: Array) -> Array:
    return simplex_projection(probs + move)


def mirror_descent(mirror_map: MirrorMap = KL) -> Flow:
    """Policy mirror descent: in every state, argmax_p ⟨η Q(s, ·), p⟩ − D(p, π(·|s)). θ is the table π(a|s).

    With the KL divergence it equals `natural_gradient` with η (1 − γ) in place of η.
    Source: Xiao 2022. https://arxiv.org/abs/2201.07443
    """

    return Flow(Partial(_identity), Partial(_action_value), Partial(_direct_objective), Partial(mirror_map.step))


def escort_policy(params: Array, power: float = 2.0) -> Array:
    """log π(a|s) = p log|θ(s, a)| − log Σ_a' |θ(s, a')|^p (Mei et al. 2020b)."""
    size = power * jnp.log(jnp.abs(params))
    return size - jax.nn.logsumexp(size, axis=-1, keepdims=True)


def escort_gradient(power: float = 2.0) -> Flow:
    """Policy gradient of the escort transform, π(a|s) ∝ |θ(s, a)|^p, p ≥ 1; its score p/θ does not vanish with π.

    Source: Mei et al. 2020b, Escaping the gravitational pull of softmax, NeurIPS.
    """
    if power < 1:
        raise SettingError("power", power, "must be at least 1")
    return softmax_gradient(Partial(escort_policy, power=power))


def normalised(flow: Flow) -> Flow:
    """A flow with its direction scaled to length 1.

    Of `softmax_gradient` this is the geometry-aware normalised policy gradient.
    Source: Mei et al. 2021. https://arxiv.org/abs/2105.06072
    """

    return flow._replace(direction=Partial(_unit, flow.direction))


def _positive(name: str, value: Any) -> None:
    if isinstance(value, (int, float)) and not value > 0:
        raise SettingError(name, value, "must be positive")
