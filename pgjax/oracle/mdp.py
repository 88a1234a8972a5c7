"""Tabular problems and their exact values, by dynamic programming."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from pgjax.types import Params, SettingError

LogPolicy = Callable[[Params], Array]
"""params -> log π(a|s), [S, A] or, time-dependent, [T, S, A]; `jax.nn.log_softmax` is the tabular softmax policy."""


_TABLES = ["initial", "transition", "reward", "discount"]


@partial(jax.tree_util.register_dataclass, meta_fields=["horizon"], data_fields=_TABLES)
@dataclass(frozen=True)
class MDP:
    """A tabular problem with a horizon. Probability missing from a row of `transition` ends the episode.

    An episode starts at t = 0, earns the reward of every step it executes, the ending one included, and ends with the
    missing mass or after `horizon` steps; nothing follows.

    >>> mdp = make_mdp([1.0], [[[0.5]]], [[1.0]], horizon=3)  # goes on half the time and earns 1 each time
    >>> (1.0 - mdp.transition.sum(axis=-1)).tolist(), float(exact_values(mdp, jnp.zeros((1, 1))).objective)
    ([[0.5]], 1.75)
    """

    initial: np.ndarray  # [S]
    transition: np.ndarray  # [S, A, S]
    reward: np.ndarray  # [S, A]
    horizon: int
    discount: float


class Values(NamedTuple):
    """Exact values under a policy; sums of γ^{t'−t} r from t on."""

    objective: Array  # J = E[V_0(s_0)]
    value: Array  # V_t(s), [T + 1, S], the last row 0
    action_value: Array  # Q_t(s, a), [T, S, A]
    state_law: Array  # P(s_t = s, alive), [T, S]


def make_mdp(initial: ArrayLike, transition: ArrayLike, reward: ArrayLike, horizon: int, discount: float = 1.0) -> MDP:
    """Check the tables of an MDP and keep them in float64.

    Raises:
      SettingError: for wrong shapes, negative or non-finite numbers, rows that sum to more than one, a bad horizon or
        discount; names the table and the entry.

    >>> make_mdp([1.0], [[[0.5]]], [[1.0]], horizon=3).horizon
    3
    """
    d0, P, r = _numbers("initial", initial), _numbers("transition", transition), _numbers("reward", reward)
    for name, table, rank in (("initial", d0, 1), ("transition", P, 3), ("reward", r, 2)):
        if table.ndim != rank:
            raise SettingError(name, table.shape, f"is its shape; it must have {rank} axes")
        if not np.all(np.isfinite(table)):
            raise SettingError(name, float(table[~np.isfinite(table)][0]), "is not a finite number")
    shape = (len(d0), r.shape[1])
    if P.shape != (*shape, len(d0)):
        raise SettingError("transition", P.shape, f"is its shape; initial and reward ask for {(*shape, len(d0))}")
    if r.shape != shape:
        raise SettingError("reward", r.shape, f"is its shape; initial asks for {len(d0)} rows")
    for name, table in (("initial", d0), ("transition", P)):
        if np.any(table < 0):
            where = np.argwhere(table < 0)[0].tolist()
            raise SettingError(f"{name}{where}", float(table[*where]), "is a negative probability")
    if np.any(P.sum(-1) > 1 + 1e-9):
        where = np.argwhere(P.sum(-1) > 1 + 1e-9)[0].tolist()
        raise SettingError(f"transition{where}", float(P.sum(-1)[*where]), "is the row's sum; at most 1 is possible")
    if abs(d0.sum() - 1) > 1e-9:
        raise SettingError("initial", float(d0.sum()), "is its sum; it must be 1")
    if not isinstance(horizon, Real) or horizon < 1 or horizon % 1:
        raise SettingError("horizon", horizon, "must be a whole number of at least 1")
    if not isinstance(discount, Real) or not 0 <= discount <= 1:
        raise SettingError("discount", discount, "must lie in [0, 1]")
    return MDP(d0, P, r, int(horizon), float(discount))


def check_logits(mdp: MDP, name: str, logits: ArrayLike) -> np.ndarray:
    """Logits of a tabular policy in float64, of the shape the MDP asks for.

    Raises:
      SettingError: for another shape or numbers that are not finite.
    """
    table = _numbers(name, logits)
    if table.shape != mdp.reward.shape:
        raise SettingError(name, table.shape, f"is its shape; reward asks for {mdp.reward.shape}")
    if not np.all(np.isfinite(table)):
        raise SettingError(name, float(table[~np.isfinite(table)][0]), "is not a finite number")
    return table


def _numbers(name: str, given: ArrayLike) -> np.ndarray:
    try:
        return np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise SettingError(name, type(given).__name__, "is no table of numbers with rows of equal length") from error


@jax.jit
def exact_values(mdp: MDP, log_probs: Array) -> Values:
    """J, V_t, Q_t and state laws of a policy by dynamic programming; differentiable in `log_probs`.

        Q_t(s,a) = r(s,a) + γ Σ_s' P(s'|s,a) V_{t+1}(s'),   V_t(s) = Σ_a π(a|s) Q_t(s,a)

    Args:
      mdp: the problem.
      log_probs: log π, [S, A] or [T, S, A].

    >>> mdp = make_mdp([1.0], [[[1.0], [1.0]]], [[1.0, 0.0]], horizon=2)  # one state; action 0 earns 1
    >>> values = exact_values(mdp, jnp.log(jnp.array([[0.5, 0.5]])))
    >>> float(values.objective), values.value[:, 0].tolist()
    (1.0, [1.0, 0.5, 0.0])
    """
    pi = jnp.exp(per_step(mdp, log_probs))
    reward, transition = jnp.asarray(mdp.reward), jnp.asarray(mdp.transition)

    def backward(next_value: Array, pi_t: Array) -> tuple[Array, tuple[Array, Array]]:
        q = reward + mdp.discount * (transition @ next_value)
        v = jnp.sum(pi_t * q, axis=-1)
        return v, (v, q)

    def forward(law: Array, pi_t: Array) -> tuple[Array, Array]:
        return jnp.einsum("s,sa,sax->x", law, pi_t, transition), law

    end = jnp.zeros(len(mdp.initial), pi.dtype)
    first, (value, action_value) = jax.lax.scan(backward, end, pi, reverse=True)
    laws = jax.lax.scan(forward, jnp.asarray(mdp.initial, pi.dtype), pi)[1]
    return Values(jnp.asarray(mdp.initial) @ first, jnp.concatenate([value, end[None]]), action_value, laws)


@partial(jax.jit, static_argnames="log_policy")
def exact_gradient(mdp: MDP, log_policy: LogPolicy, params: Params) -> Params:
    """∇J of the discounted objective, by differentiating the dynamic programme.

    Args:
      mdp: the problem.
      log_policy: params -> log π, [S, A] or [T, S, A].
      params: θ, a pytree; the gradient has its structure.

    >>> mdp = make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)
    >>> exact_gradient(mdp, jax.nn.log_softmax, jnp.zeros((1, 2))).tolist()
    [[0.25, -0.25]]
    """
    return jax.grad(lambda p: exact_values(mdp, log_policy(p)).objective)(params)


@partial(jax.jit, static_argnames="log_policy")
def exact_hessian(mdp: MDP, log_policy: LogPolicy, params: Params) -> Array:
    """Hessian of J in the flattened parameters, [P, P].

    >>> mdp = make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)  # J = π(0), of slope π(0) π(1)
    >>> hessian = exact_hessian(mdp, jax.nn.log_softmax, jnp.log(jnp.array([[0.75, 0.25]])))
    >>> round(float(hessian[0, 0]), 4)  # 0.75 · 0.25 · (0.25 − 0.75)
    -0.0938
    """
    flat, unravel = ravel_pytree(params)
    return jax.hessian(lambda p: exact_values(mdp, log_policy(unravel(p))).objective)(flat)


@partial(jax.jit, static_argnames="log_policy")
def exact_fisher(mdp: MDP, log_policy: LogPolicy, params: Params) -> Array:
    """Fisher information of a trajectory, F = E[Σ_t score_t score_tᵀ], in the flattened parameters, [P, P].

    Kakade 2001. https://papers.nips.cc/paper/2073

    >>> mdp = make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)
    >>> exact_fisher(mdp, jax.nn.log_softmax, jnp.zeros((1, 2))).tolist()
    [[0.25, -0.25], [-0.25, 0.25]]
    """
    weight, score, _ = _score_terms(mdp, log_policy, params)
    return jnp.einsum("tsa,tsap,tsaq->pq", weight, score, score)


@partial(jax.jit, static_argnames="log_policy")
def cross_term(mdp: MDP, log_policy: LogPolicy, params: Params) -> Array:
    """H₁₂ = Σ_t γ^t E[score_t (∇Q_t)ᵀ], [P, P]: the part of the Hessian that dropping ratios loses.

    To first order in d = θ − θ̄ the bias is −H₁₂ d without future ratios (prefix), −H₁₂ᵀ d without past ones (suffix),
    and −(H₁₂ + H₁₂ᵀ) d without either (first order).

    >>> from pgjax.oracle import mean_gradients
    >>> mdp = make_mdp([1.0], [[[1.0], [0.5]]], [[0.0, 1.0]], horizon=2)
    >>> theta, d = jnp.array([[0.3, -0.2]]), jnp.array([[0.01, -0.01]])
    >>> means = mean_gradients(mdp, jax.nn.log_softmax, theta, jax.nn.log_softmax(theta - d))
    >>> expected = -cross_term(mdp, jax.nn.log_softmax, theta) @ d.ravel()
    >>> bool(jnp.allclose(means.prefix - means.exact, expected, rtol=0.05))
    True
    """
    weight, score, slope = _score_terms(mdp, log_policy, params)
    factor = mdp.discount ** jnp.arange(mdp.horizon)
    return jnp.einsum("t,tsa,tsap,tsaq->pq", factor, weight, score, slope)


def _score_terms(mdp: MDP, log_policy: LogPolicy, params: Params) -> tuple[Array, Array, Array]:
    """P(s_t = s, a_t = a) [T, S, A], ∇log π and ∇Q_t, both [T, S, A, P]."""
    flat, unravel = ravel_pytree(params)

    def log_probs(p: Array) -> Array:
        return per_step(mdp, log_policy(unravel(p)))

    law = exact_values(mdp, log_probs(flat)).state_law
    slope = jax.jacfwd(lambda p: exact_values(mdp, log_probs(p)).action_value)(flat)
    return law[..., None] * jnp.exp(log_probs(flat)), jax.jacfwd(log_probs)(flat), slope


def per_step(mdp: MDP, log_probs: Array) -> Array:
    """A policy's table for every time, [T, S, A]."""
    return jnp.broadcast_to(log_probs, (mdp.horizon, *mdp.reward.shape))
