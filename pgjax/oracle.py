"""Exact answers on small tabular problems: values, gradients, and the mean and covariance of any estimator.

Everything follows from two things: dynamic programming over the tables, and the list of all trajectories. Run it in
float64 (`with jax.enable_x64(True):`) to see agreement to rounding.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from pgjax.distributions import Categorical
from pgjax.losses import Batch, contributions, log_ratio
from pgjax.returns import discounted_objective, make_signals
from pgjax.types import Agent, Estimator, Params, SettingError, Signals, Transition

LogPolicy = Callable[[Params], Array]
"""params -> log π(a|s), [S, A] or, time-dependent, [T, S, A]; `jax.nn.log_softmax` is the tabular softmax policy."""


class MDP(NamedTuple):
    """A tabular problem with a horizon. Probability missing from a row of `transition` ends the episode.

    An episode starts at t = 0, earns the reward of every step it executes, the ending one included, and ends with the
    missing mass or after `horizon` steps; nothing follows.
    """

    initial: np.ndarray  # [S]
    transition: np.ndarray  # [S, A, S]
    reward: np.ndarray  # [S, A]
    horizon: int
    discount: float


class Trajectories(NamedTuple):
    """Every trajectory an MDP can produce, [T, M], with the probability of the environment's choices alone, [M]."""

    state: np.ndarray
    action: np.ndarray
    mask: np.ndarray
    probability: np.ndarray


class Values(NamedTuple):
    """Exact values under a policy; sums of γ^{t'−t} r from t on."""

    objective: Array  # J = E[V_0(s_0)]
    value: Array  # V_t(s), [T + 1, S], the last row 0
    action_value: Array  # Q_t(s, a), [T, S, A]
    state_law: Array  # P(s_t = s, alive), [T, S]


class Moments(NamedTuple):
    """Exact moments of an estimator of the gradient, in the flattened parameters."""

    mean: Array  # [P]
    covariance: Array  # [P, P]

    @property
    def variance(self) -> Array:
        """Trace of the covariance."""
        return jnp.trace(self.covariance)


def make_mdp(
    initial: ArrayLike, transition: ArrayLike, reward: ArrayLike, horizon: int, discount: float = 1.0
) -> MDP:
    """Check the tables of an MDP and keep them in float64.

    Raises:
      SettingError: for wrong shapes, negative or non-finite numbers, rows that sum to more than one, a bad horizon or
        discount; names the table and the entry.

    >>> make_mdp([1.0], [[[0.5]]], [[1.0]], horizon=3).horizon
    3
    """
    d0, P, r = (np.asarray(x, np.float64) for x in (initial, transition, reward))
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
    if int(horizon) != horizon or horizon < 1:
        raise SettingError("horizon", horizon, "must be a whole number of at least 1")
    if not 0 <= discount <= 1:
        raise SettingError("discount", discount, "must lie in [0, 1]")
    return MDP(d0, P, r, int(horizon), float(discount))


def exact_values(mdp: MDP, log_probs: Array) -> Values:
    """J, V_t, Q_t and state laws of a policy by dynamic programming; differentiable in `log_probs`.

        Q_t(s,a) = r(s,a) + γ Σ_s' P(s'|s,a) V_{t+1}(s'),   V_t(s) = Σ_a π(a|s) Q_t(s,a)

    Args:
      mdp: the problem.
      log_probs: log π, [S, A] or [T, S, A].
    """
    pi = jnp.exp(_per_step(mdp, log_probs))
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
    return Values(mdp.initial @ first, jnp.concatenate([value, end[None]]), action_value, laws)


def exact_gradient(mdp: MDP, log_policy: LogPolicy, params: Params) -> Params:
    """∇J of the discounted objective, by differentiating the dynamic programme."""
    return jax.grad(lambda p: exact_values(mdp, log_policy(p)).objective)(params)


def enumerate_trajectories(mdp: MDP, max_trajectories: int = 2_000_000) -> Trajectories:
    """Every (s_0, a_0, s_1, …) that the tables allow, whatever the policy.

    Raises:
      SettingError: if there are more than `max_trajectories`; says how many.
    """
    count = count_trajectories(mdp)
    if count > max_trajectories:
        raise SettingError("horizon", mdp.horizon, f"means about {count:.1e} trajectories; at most {max_trajectories}")
    starts = np.flatnonzero(mdp.initial)
    states, actions = starts[None], np.zeros((0, len(starts)), int)  # open: s_0..s_t, a_0..a_{t-1}
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
    """How many trajectories `enumerate_trajectories` would list."""
    following = (mdp.transition > 0).astype(float)
    ends = (1.0 - mdp.transition.sum(-1) > 1e-15).astype(float)
    ways, total = (mdp.initial > 0).astype(float), 0.0
    for _ in range(mdp.horizon - 1):
        total += float(np.einsum("s,sa->", ways, ends))
        ways = np.einsum("s,sax->x", ways, following)
    return total + float(ways.sum()) * mdp.reward.shape[1]


def trajectory_probability(mdp: MDP, trajectories: Trajectories, log_probs: Array) -> Array:
    """P(τ) under a policy, [M]; sums to one."""
    return trajectories.probability * jnp.exp(jnp.sum(_taken(mdp, trajectories, log_probs), axis=0))


def moments(
    mdp: MDP,
    estimator: Estimator,
    log_policy: LogPolicy,
    params: Params,
    *,
    behaviour: Array | None = None,
    value: Array | None = None,
    batch_size: int = 1,
) -> Moments:
    """Exact mean and covariance of an estimator of ∇J, over all batches of `batch_size` independent trajectories.

        E[ĝ] = Σ_τ p_μ(τ) ĝ(τ),   the sum running over batch_size-tuples where the estimator couples the batch

    Args:
      mdp: the problem; the factor γ^t is kept (`discounted_objective`), so ∇J is that of E[Σ γ^t r_t].
      estimator: any estimator of the library.
      log_policy: params -> log π_θ.
      params: θ.
      behaviour: log π_θ̄, [S, A] or [T, S, A], that samples; default the policy itself.
      value: V_t(s), [T + 1, S], for estimators that use a critic.
      batch_size: N.

    Returns:
      Moments of one batch's estimate, (1/N) Σ_n of its trajectories.
    """
    chance, estimates = batch_estimates(
        mdp, estimator, log_policy, params, behaviour=behaviour, value=value, batch_size=batch_size
    )
    mean = chance @ estimates
    centred = estimates - mean
    return Moments(mean, (centred * chance[:, None]).T @ centred)


def batch_estimates(
    mdp: MDP,
    estimator: Estimator,
    log_policy: LogPolicy,
    params: Params,
    *,
    behaviour: Array | None = None,
    value: Array | None = None,
    batch_size: int = 1,
) -> tuple[Array, Array]:
    """Every batch's probability [K] and gradient estimate [K, P], K = M^batch_size. Arguments as for `moments`."""
    trajectories, agent = enumerate_trajectories(mdp), mdp_agent(log_policy)
    tuples = np.indices((len(trajectories.probability),) * batch_size).reshape(batch_size, -1).T

    @jax.jit
    def estimates(params: Params, behaviour: Array, value: Array | None) -> tuple[Array, Array]:
        transition = as_transition(mdp, trajectories, behaviour)
        signals = as_signals(mdp, trajectories, transition, agent, params, value)
        flat, unravel = ravel_pytree(params)

        def surrogate(flat: Array, one: Array) -> Array:
            rows, rows_signals = jax.tree.map(lambda x: x[:, one], (transition, signals))
            credit = jax.lax.stop_gradient(estimator.credit(rows_signals))
            batch = Batch(rows, rows_signals, credit)
            return jnp.sum(contributions(agent, estimator, unravel(flat), batch)[0]) / batch_size

        each = jax.lax.map(lambda one: jax.grad(surrogate)(flat, one), tuples, batch_size=min(4096, len(tuples)))
        chance = trajectory_probability(mdp, trajectories, behaviour)
        return jnp.prod(chance[tuples], axis=1), each

    behaviour = log_policy(params) if behaviour is None else behaviour
    return estimates(params, behaviour, value)


def mdp_agent(log_policy: LogPolicy) -> Agent:
    """An Agent acting on observations (t, s) of an MDP."""

    def policy(params: Params, observation: tuple[Array, Array]) -> Categorical:
        time, state = observation
        log_probs = log_policy(params)
        return Categorical(log_probs[time, state] if log_probs.ndim == 3 else log_probs[state])

    return Agent(init=lambda key: {"policy": {}, "value": {}}, policy=policy)


def as_transition(mdp: MDP, trajectories: Trajectories, behaviour: Array) -> Transition:
    """The listed trajectories as a whole-episode rollout under a behaviour policy, [T, M]."""
    time = np.broadcast_to(np.arange(mdp.horizon)[:, None], trajectories.state.shape)
    last = trajectories.mask - np.pad(trajectories.mask[1:], ((0, 1), (0, 0)))
    following = np.pad(trajectories.state[1:], ((0, 1), (0, 0)))
    return Transition(
        observation=(jnp.asarray(time), jnp.asarray(trajectories.state)),
        action=jnp.asarray(trajectories.action),
        log_prob=_taken(mdp, trajectories, behaviour),
        reward=jnp.asarray(mdp.reward[trajectories.state, trajectories.action] * trajectories.mask),
        terminated=jnp.asarray(last > 0),
        truncated=jnp.zeros(last.shape, bool),
        next_observation=(jnp.asarray(time + 1), jnp.asarray(following)),
        mask=jnp.asarray(trajectories.mask),
    )


def as_signals(
    mdp: MDP,
    trajectories: Trajectories,
    transition: Transition,
    agent: Agent,
    params: Params,
    value: Array | None = None,
) -> Signals:
    """Signals of the listed trajectories, with γ^t in front of every reward and value."""
    value = jnp.zeros((mdp.horizon + 1, len(mdp.initial))) if value is None else value
    signals = make_signals(
        transition.reward,
        mask=transition.mask,
        terminated=transition.terminated,
        discount=mdp.discount,
        value=value[transition.observation],
        next_value=value[transition.next_observation],
        log_ratio=log_ratio(agent.policy(params, transition.observation), transition),
    )
    return jax.lax.stop_gradient(discounted_objective(signals))


def _per_step(mdp: MDP, log_probs: Array) -> Array:
    return jnp.broadcast_to(log_probs, (mdp.horizon, *mdp.reward.shape))


def _taken(mdp: MDP, trajectories: Trajectories, log_probs: Array) -> Array:
    """log π(a_t|s_t) along the trajectories, 0 on padding, [T, M]."""
    time = np.arange(mdp.horizon)[:, None]
    chosen = _per_step(mdp, jnp.asarray(log_probs))[time, trajectories.state, trajectories.action]
    return jnp.where(trajectories.mask > 0, chosen, 0.0)
