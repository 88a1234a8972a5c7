"""Tabular problems with a horizon, and their exact values by dynamic programming."""

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
    """A tabular problem with a horizon. Build it with `make_mdp`.

    Probability missing from a row of `transition` ends the episode, as does the horizon. The step that ends an episode
    earns its reward.
    """

    initial: np.ndarray  # [S]
    transition: np.ndarray  # [S, A, S]
    reward: np.ndarray  # [S, A]
    horizon: int
    discount: float


class Values(NamedTuple):
    """Exact values under a policy; sums of γ^{t'−t} r_t' over t' ≥ t."""

    objective: Array  # J = E[V_0(s_0)]
    value: Array  # V_t(s), [T + 1, S], the last row 0
    action_value: Array  # Q_t(s, a), [T, S, A]
    state_law: Array  # P(s_t = s, alive), [T, S]


def make_mdp(initial: ArrayLike, transition: ArrayLike, reward: ArrayLike, horizon: int, discount: float = 1.0) -> MDP:
    """Check the tables of an MDP and convert them to float64. The SettingError for invalid ones names table and entry.

    Args:
      initial: P(s_0), [S]; sums to 1.
      transition: P(s'|s, a), [S, A, S]; probability missing from a row ends the episode.
      reward: r(s, a), [S, A].
      horizon: T, the number of steps after which every episode has ended.
      discount: γ, from 0 to 1.

    >>> make_mdp([1.0], [[[0.5]]], [[1.0]], horizon=3).discount
    1.0
    """
    d0, P, r = _numbers("initial", initial), _numbers("transition", transition), _numbers("reward", reward)
    for name, table, rank in (("initial", d0, 1), ("transition", P, 3), ("reward", r, 2)):
        if table.ndim != rank:
            raise SettingError(name, table.shape, f"is the shape of a table that must have {rank} axes")
        if not np.all(np.isfinite(table)):
            raise SettingError(name, float(table[~np.isfinite(table)][0]), "is not a finite number")
    shape = (len(d0), r.shape[1])
    if P.shape != (*shape, len(d0)):
        raise SettingError(
            "transition", P.shape, f"is not the shape {(*shape, len(d0))} that initial and reward require"
        )
    if r.shape != shape:
        raise SettingError("reward", r.shape, f"is not a shape with the {len(d0)} rows that initial requires")
    for name, table in (("initial", d0), ("transition", P)):
        if np.any(table < 0):
            where = np.argwhere(table < 0)[0].tolist()
            raise SettingError(f"{name}{where}", float(table[*where]), "is a negative probability")
    if np.any(P.sum(-1) > 1 + 1e-9):
        where = np.argwhere(P.sum(-1) > 1 + 1e-9)[0].tolist()
        raise SettingError(f"transition{where}", float(P.sum(-1)[*where]), "is the sum of the row; must be at most 1")
    if abs(d0.sum() - 1) > 1e-9:
        raise SettingError("initial", float(d0.sum()), "is the sum; must be 1")
    if not isinstance(horizon, Real) or horizon < 1 or horizon % 1:
        raise SettingError("horizon", horizon, "must be an integer of at least 1")
    if not isinstance(discount, Real) or not 0 <= discount <= 1:
        raise SettingError("discount", discount, "must lie in [0, 1]")
    return MDP(d0, P, r, int(horizon), float(discount))


def check_logits(mdp: MDP, name: str, logits: ArrayLike) -> np.ndarray:
    """Check logits of a tabular policy, [S, A], and convert them to float64."""
    table = _numbers(name, logits)
    if table.shape != mdp.reward.shape:
        raise SettingError(name, table.shape, f"is not the shape {mdp.reward.shape} that reward requires")
    if not np.all(np.isfinite(table)):
        raise SettingError(name, float(table[~np.isfinite(table)][0]), "is not a finite number")
    return table


def _numbers(name: str, given: ArrayLike) -> np.ndarray:
    try:
        return np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise SettingError(name, type(given).__name__, "is not a table of numbers with rows of equal length") from error


@jax.jit
def exact_values(mdp: MDP, log_probs: Array) -> Values:
    """J, V_t, Q_t and state distributions of a policy by dynamic programming; differentiable in `log_probs`.

        Q_t(s,a) = r(s,a) + γ Σ_s' P(s'|s,a) V_{t+1}(s'),   V_t(s) = Σ_a π(a|s) Q_t(s,a)

    `log_probs` is log π, [S, A] or [T, S, A].

    >>> mdp = make_mdp([1.0], [[[1.0], [1.0]]], [[1.0, 0.0]], horizon=2)
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

    def forward(state_probs: Array, pi_t: Array) -> tuple[Array, Array]:
        return jnp.einsum("s,sa,sax->x", state_probs, pi_t, transition), state_probs

    end = jnp.zeros(len(mdp.initial), pi.dtype)
    first, (value, action_value) = jax.lax.scan(backward, end, pi, reverse=True)
    all_state_probs = jax.lax.scan(forward, jnp.asarray(mdp.initial, pi.dtype), pi)[1]
    return Values(jnp.asarray(mdp.initial) @ first, jnp.concatenate([value, end[None]]), action_value, all_state_probs)


@partial(jax.jit, static_argnames="log_policy")
def exact_gradient(mdp: MDP, log_policy: LogPolicy, params: Params) -> Params:
    """∇J of J = E[Σ_t γ^t r_t], with the structure of `params`, for a policy params -> log π.

    >>> bandit = make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)
    >>> exact_gradient(bandit, jax.nn.log_softmax, jnp.zeros((1, 2))).tolist()
    [[0.25, -0.25]]
    """
    return jax.grad(lambda p: exact_values(mdp, log_policy(p)).objective)(params)


@partial(jax.jit, static_argnames="log_policy")
def exact_hessian(mdp: MDP, log_policy: LogPolicy, params: Params) -> Array:
    """Hessian of J in the flattened parameters, [P, P]."""
    flat, unravel = ravel_pytree(params)
    return jax.hessian(lambda p: exact_values(mdp, log_policy(unravel(p))).objective)(flat)


@partial(jax.jit, static_argnames="log_policy")
def exact_fisher(mdp: MDP, log_policy: LogPolicy, params: Params) -> Array:
    """Fisher information of a trajectory, F = E[Σ_t ∇log π_t ∇log π_tᵀ], in the flattened parameters, [P, P].

    There is no factor γ^t. `log_policy` maps `params` to log π, [S, A].
    Source: Kakade 2001. https://papers.nips.cc/paper/2073
    """
    weight, score, _ = _score_terms(mdp, log_policy, params)
    return jnp.einsum("tsa,tsap,tsaq->pq", weight, score, score)


@partial(jax.jit, static_argnames="log_policy")
def cross_term(mdp: MDP, log_policy: LogPolicy, params: Params) -> Array:
    """H₁₂ = Σ_t γ^t E[∇log π_t (∇Q_t)ᵀ], [P, P]: the part of the Hessian that is lost when ratios are dropped.

    To first order in d = θ − θ̄ the bias of `mean_gradients` is −H₁₂ d without future ratios (prefix). It is −H₁₂ᵀ d
    without past ratios (suffix), and −(H₁₂ + H₁₂ᵀ) d without either (first order).
    """
    weight, score, slope = _score_terms(mdp, log_policy, params)
    factor = mdp.discount ** jnp.arange(mdp.horizon)
    return jnp.einsum("t,tsa,tsap,tsaq->pq", factor, weight, score, slope)


def _score_terms(mdp: MDP, log_policy: LogPolicy, params: Params) -> tuple[Array, Array, Array]:
    """P(s_t = s, a_t = a) [T, S, A], ∇log π and ∇Q_t, both [T, S, A, P]."""
    flat, unravel = ravel_pytree(params)

    def log_probs(p: Array) -> Array:
        return per_step(mdp, log_policy(unravel(p)))

    state_probs = exact_values(mdp, log_probs(flat)).state_law
    slope = jax.jacfwd(lambda p: exact_values(mdp, log_probs(p)).action_value)(flat)
    return state_probs[..., None] * jnp.exp(log_probs(flat)), jax.jacfwd(log_probs)(flat), slope


def per_step(mdp: MDP, log_probs: Array) -> Array:
    """A policy's table for every time step, [T, S, A]."""
    return jnp.broadcast_to(log_probs, (mdp.horizon, *mdp.reward.shape))
