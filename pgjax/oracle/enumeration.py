"""Enumeration of all trajectories of a tabular problem, and exact moments of estimators over them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from pgjax.estimators.distributions import Categorical
from pgjax.estimators.reductions import quotient
from pgjax.estimators.returns import discounted_objective, make_signals
from pgjax.oracle.mdp import MDP, LogPolicy, per_step
from pgjax.training.loss import Batch, contributions
from pgjax.training.signals import log_ratio
from pgjax.types import Agent, Estimator, Params, SettingError, Signals, Transition

MAX_BATCHES = 20_000_000
CHUNK = 4096  # batches in memory at a time


class Trajectories(NamedTuple):
    """All trajectories of an MDP, [T, M], with the probability of start and next states, [M], without the policy."""

    state: np.ndarray
    action: np.ndarray
    mask: np.ndarray
    probability: np.ndarray


class Moments(NamedTuple):
    """Exact moments of a gradient estimator, in the flattened parameters."""

    mean: Array  # [P]
    covariance: Array  # [P, P]
    variance: Array  # its trace


def enumerate_trajectories(mdp: MDP, max_trajectories: int = 2_000_000) -> Trajectories:
    """List every trajectory that the tables allow under some policy.

    >>> from pgjax.oracle import make_mdp
    >>> mdp = make_mdp([1.0], [[[0.5], [0.0]]], [[1.0, 0.0]], horizon=2)  # action 0 continues with probability 0.5
    >>> enumerate_trajectories(mdp).mask.sum(axis=0).tolist()  # lengths
    [1.0, 1.0, 2.0, 2.0]
    """
    count = count_trajectories(mdp)
    if count > max_trajectories:
        many = f"about {count:.1e}" if np.isfinite(count) else "more than 1e+300"
        raise SettingError("horizon", mdp.horizon, f"means {many} trajectories; at most {max_trajectories}")
    starts = np.flatnonzero(mdp.initial)
    states, actions = starts[None], np.zeros((0, len(starts)), int)  # unfinished trajectories: s_0..s_t, a_0..a_{t-1}
    weight, closed = mdp.initial[starts], []
    num_actions = mdp.reward.shape[1]
    for t in range(mdp.horizon):
        each = np.repeat(np.arange(states.shape[1]), num_actions)
        states, weight = states[:, each], weight[each]
        actions = np.concatenate([actions[:, each], np.tile(np.arange(num_actions), each.size // num_actions)[None]])
        following = mdp.transition[states[-1], actions[-1]]  # [K, S]
        ending = 1.0 - following.sum(-1) if t < mdp.horizon - 1 else np.ones(len(weight))
        ends = ending > 1e-15
        closed.append((states[:, ends], actions[:, ends], weight[ends] * ending[ends]))
        origin, successor = np.nonzero(following)
        states = np.concatenate([states[:, origin], successor[None]])
        actions, weight = actions[:, origin], weight[origin] * following[origin, successor]

    def padded(rows: np.ndarray) -> np.ndarray:
        return np.pad(rows, ((0, mdp.horizon - len(rows)), (0, 0)))

    return Trajectories(
        state=np.concatenate([padded(s) for s, _, _ in closed], axis=1),
        action=np.concatenate([padded(a) for _, a, _ in closed], axis=1),
        mask=np.concatenate([padded(np.ones(s.shape)) for s, _, _ in closed], axis=1),
        probability=np.concatenate([w for _, _, w in closed]),
    )


def count_trajectories(mdp: MDP) -> float:
    """Number of trajectories that `enumerate_trajectories` would list; infinity above 1e300."""
    following = (mdp.transition > 0).astype(float)
    ends = (1.0 - mdp.transition.sum(-1) > 1e-15).astype(float)
    ways, total = (mdp.initial > 0).astype(float), 0.0
    for _ in range(mdp.horizon - 1):
        total += float(np.einsum("s,sa->", ways, ends))
        ways = np.einsum("s,sax->x", ways, following)
        if ways.sum() > 1e300:
            return float("inf")
    return total + float(ways.sum()) * mdp.reward.shape[1]


def trajectory_probability(mdp: MDP, trajectories: Trajectories, log_probs: Array) -> Array:
    """P(τ) of every trajectory under a policy log π(a|s), [M]."""
    taken = taken_log_probs(mdp, trajectories, log_probs)
    return jnp.asarray(trajectories.probability) * jnp.exp(jnp.sum(taken, axis=0))


@partial(
    jax.tree_util.register_dataclass, meta_fields=["batch_size"], data_fields=["behaviour", "value", "action_value"]
)
@dataclass(frozen=True)
class Sampling:
    """Behaviour policy, critics and batch size N of an estimator.

    Attributes:
      behaviour: log π_θ̄, [S, A] or [T, S, A]; None for the policy itself.
      value: V_t(s), [T + 1, S].
      action_value: Q̃_t(s, a), [T, S, A].
    """

    behaviour: Array | None = None
    value: Array | None = None
    action_value: Array | None = None
    batch_size: int = 1


ON_POLICY = Sampling()


def moments(
    mdp: MDP, estimator: Estimator, log_policy: LogPolicy, params: Params, sampling: Sampling = ON_POLICY
) -> Moments:
    """Exact mean and covariance of an estimator of ∇J, over all batches of N independent trajectories.

        E[ĝ] = Σ P(τ_1) … P(τ_N) ĝ(τ_1, …, τ_N)

    The factor γ^t is kept (`discounted_objective`), so that J = E[Σ_t γ^t r_t]. `log_policy` maps params θ to log π_θ.
    More than 20,000,000 batches or 2,000,000 trajectories raise a SettingError.

    >>> from pgjax import product, score, total_return
    >>> from pgjax.oracle import make_mdp
    >>> bandit = make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)
    >>> m = moments(bandit, product(total_return, score), jax.nn.log_softmax, jnp.zeros((1, 2)))
    >>> m.mean.tolist(), float(m.variance)
    ([0.25, -0.25], 0.125)
    """
    trajectories = enumerate_trajectories(mdp)
    count = len(trajectories.probability) ** sampling.batch_size
    if count > MAX_BATCHES:
        raise SettingError("batch_size", sampling.batch_size, f"means {count:.1e} batches; at most {MAX_BATCHES:.0e}")
    return _moments(mdp, trajectories, estimator, log_policy, params, sampling)


@partial(jax.jit, static_argnames="log_policy")
def _moments(
    mdp: MDP,
    trajectories: Trajectories,
    estimator: Estimator,
    log_policy: LogPolicy,
    params: Params,
    sampling: Sampling,
) -> Moments:
    """Merge the moments of chunks of batches in one pass (Chan, Golub & LeVeque 1983)."""
    chance, estimate = _estimates(mdp, trajectories, estimator, log_policy, params, sampling)
    count = len(chance) ** sampling.batch_size
    chunk = min(CHUNK, count)

    def of_chunk(c: Array) -> tuple[Array, Array, Array]:
        k = c * chunk + jnp.arange(chunk)
        members = jnp.stack([k // len(chance) ** j % len(chance) for j in range(sampling.batch_size)], axis=-1)
        weight = jnp.where(k < count, jnp.prod(chance[members], axis=-1), 0.0)
        each, total = jax.vmap(estimate)(members), jnp.sum(weight)
        mean = quotient(weight @ each, total)
        return total, mean, ((each - mean) * weight[:, None]).T @ (each - mean)

    def merge(one: tuple[Array, Array, Array], c: Array) -> tuple[tuple[Array, Array, Array], None]:
        (before, mean, covariance), (weight, chunk_mean, chunk_covariance) = one, of_chunk(c)
        total, difference = before + weight, chunk_mean - mean
        share = quotient(weight, total)
        covariance = covariance + chunk_covariance + before * share * jnp.outer(difference, difference)
        return (total, mean + share * difference, covariance), None

    zero = jnp.zeros_like(ravel_pytree(params)[0])
    start = jnp.zeros((), zero.dtype), zero, jnp.outer(zero, zero)
    _, mean, covariance = jax.lax.scan(merge, start, jnp.arange(-(-count // chunk)))[0]
    return Moments(mean, covariance, jnp.trace(covariance))


def trajectory_estimates(
    mdp: MDP, estimator: Estimator, log_policy: LogPolicy, params: Params, sampling: Sampling = ON_POLICY
) -> tuple[Array, Array]:
    """Probability [M] and gradient estimate [M, P] of every trajectory, for estimators without batch statistics."""
    return _trajectory_estimates(mdp, enumerate_trajectories(mdp), estimator, log_policy, params, sampling)


@partial(jax.jit, static_argnames="log_policy")
def _trajectory_estimates(
    mdp: MDP,
    trajectories: Trajectories,
    estimator: Estimator,
    log_policy: LogPolicy,
    params: Params,
    sampling: Sampling,
) -> tuple[Array, Array]:
    chance, estimate = _estimates(mdp, trajectories, estimator, log_policy, params, sampling)
    return chance, jax.lax.map(estimate, jnp.arange(len(chance))[:, None], batch_size=min(CHUNK, len(chance)))


def _estimates(
    mdp: MDP,
    trajectories: Trajectories,
    estimator: Estimator,
    log_policy: LogPolicy,
    params: Params,
    sampling: Sampling,
) -> tuple[Array, Callable[[Array], Array]]:
    """Trajectory probabilities [M], and the estimate [P] of the batch with given members [N]."""
    agent = mdp_agent(log_policy)
    behaviour = jax.lax.stop_gradient(log_policy(params) if sampling.behaviour is None else sampling.behaviour)
    transition = as_transition(mdp, trajectories, behaviour)
    signals = as_signals(mdp, trajectories, transition, agent, params, sampling.value, sampling.action_value)
    flat, unravel = ravel_pytree(params)

    def surrogate(flat: Array, members: Array) -> Array:
        rows, rows_signals = jax.tree.map(lambda x: x[:, members], (transition, signals))
        credit = jax.lax.stop_gradient(estimator.credit(rows_signals))
        batch = Batch(rows, rows_signals, credit)
        return jnp.sum(contributions(agent, estimator, unravel(flat), batch).surrogate) / members.shape[0]

    chance = trajectory_probability(mdp, trajectories, behaviour)
    return chance, partial(jax.grad(surrogate), flat)


def mdp_agent(log_policy: LogPolicy) -> Agent:
    """An Agent that acts on observations (t, s) of an MDP with a policy params -> log π."""

    def policy(params: Params, observation: tuple[Array, Array]) -> Categorical:
        time, state = observation
        log_probs = log_policy(params)
        return Categorical(log_probs[time, state] if log_probs.ndim == 3 else log_probs[state])

    return Agent(init=lambda key: {"policy": {}, "value": {}}, policy=policy)


def as_transition(mdp: MDP, trajectories: Trajectories, behaviour: Array) -> Transition:
    """The listed trajectories as a whole-episode rollout of a behaviour policy, [T, M]."""
    state, action, mask = (jnp.asarray(x) for x in trajectories[:3])
    time = jnp.broadcast_to(jnp.arange(mdp.horizon)[:, None], state.shape)
    last = mask - jnp.pad(mask[1:], ((0, 1), (0, 0)))
    following = jnp.pad(state[1:], ((0, 1), (0, 0)))
    return Transition(
        observation=(time, state),
        action=action,
        log_prob=taken_log_probs(mdp, trajectories, behaviour),
        reward=jnp.asarray(mdp.reward)[state, action] * mask,
        terminated=last > 0,
        truncated=jnp.zeros(last.shape, bool),
        next_observation=(time + 1, following),
        mask=mask,
    )


def as_signals(
    mdp: MDP,
    trajectories: Trajectories,
    transition: Transition,
    agent: Agent,
    params: Params,
    value: Array | None = None,
    action_value: Array | None = None,
) -> Signals:
    """Signals of the listed trajectories, with the factor γ^t on every reward and value."""
    value = jnp.zeros((mdp.horizon + 1, len(mdp.initial))) if value is None else value
    signals = make_signals(
        transition.reward,
        mask=transition.mask,
        terminated=transition.terminated,
        discount=mdp.discount,
        value=value[transition.observation],
        next_value=value[transition.next_observation],
        log_ratio=log_ratio(agent.policy(params, transition.observation), transition),
        action_value=None if action_value is None else action_value[transition.observation],
        action=None if action_value is None else transition.action,
        behaviour_log_prob=transition.log_prob,
    )
    return jax.lax.stop_gradient(discounted_objective(signals))


def taken_log_probs(mdp: MDP, trajectories: Trajectories, log_probs: Array) -> Array:
    """log π(a_t|s_t) along the trajectories, 0 on padding, [T, M]."""
    time = jnp.arange(mdp.horizon)[:, None]
    chosen = per_step(mdp, jnp.asarray(log_probs))[time, trajectories.state, trajectories.action]
    return jnp.where(trajectories.mask > 0, chosen, 0.0)
