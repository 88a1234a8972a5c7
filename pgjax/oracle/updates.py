"""Every update that training can make on a tabular problem: each batch's new parameters, and the expected change.

An estimator that is exact is not yet an update that is: between the two stand slices, minibatches, groups, devices,
several passes. Here `pgjax.learn` itself is run on every batch that the problem can produce.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from pgjax.config import Config
from pgjax.oracle.mdp import MDP
from pgjax.types import Params, SettingError, Transition

MAX_BATCHES = 1_000_000


class Rollouts(NamedTuple):
    """Everything that one environment can go through in a rollout, [T, M]; the environment's own probability, [M]."""

    time: np.ndarray
    state: np.ndarray
    action: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_state: np.ndarray  # before any reset; 0 after a termination
    mask: np.ndarray
    probability: np.ndarray  # of starts and successors alone, whatever the policy


class Batches(NamedTuple):
    """Every batch of N rollouts: their columns [B, N], and its probability [B]."""

    members: np.ndarray
    probability: np.ndarray


def list_rollouts(mdp: MDP, config: Config, *, time_limit: bool = False) -> Rollouts:
    """Whole episodes, or `config.num_steps` steps of a stream that starts with a reset.

    Args:
      mdp: the problem.
      config: which rollout.
      time_limit: as in `oracle.environment`.

    Raises:
      SettingError: for more than `MAX_BATCHES` of them.

    >>> from pgjax.oracle import make_mdp
    >>> mdp = make_mdp([1.0], [[[0.5]]], [[1.0]], horizon=2)  # goes on half the time
    >>> rollouts = list_rollouts(mdp, Config())
    >>> rollouts.mask.sum(axis=0).tolist(), rollouts.probability.tolist()
    ([1.0, 2.0], [0.5, 0.5])
    """
    streaming = config.rollout == "stream"
    length = config.num_steps if streaming else mdp.horizon
    starts = [(float(p), s) for s, p in enumerate(mdp.initial) if p > 0]
    partial = [(p, (0, s), ()) for p, s in starts]
    for _ in range(length):
        longer = []
        for chance, place, rows in partial:
            if place is None:  # a whole episode that is over
                longer.append((chance, None, rows))
                continue
            for p, row, ahead in _steps_from(mdp, *place, time_limit):
                if ahead is not None or not streaming:
                    longer.append((chance * p, ahead, (*rows, row)))
                elif len(rows) + 1 == length:  # where the next batch starts is not part of this one
                    longer.append((chance * p, None, (*rows, row)))
                else:
                    longer += [(chance * p * q, (0, s), (*rows, row)) for q, s in starts]
        if len(longer) > MAX_BATCHES:
            raise SettingError("horizon", length, f"means more than {MAX_BATCHES} rollouts")
        partial = longer
    columns = [_padded(rows, length) for _, _, rows in partial]
    time, state, action, terminated, truncated, next_state, mask = np.stack(columns, axis=-1).transpose(1, 0, 2)
    chance = np.array([p for p, _, _ in partial])
    whole = (time, state, action)
    return Rollouts(
        *(x.astype(int) for x in whole), terminated > 0, truncated > 0, next_state.astype(int), mask, chance
    )


def _steps_from(mdp: MDP, time: int, state: int, time_limit: bool) -> list[tuple]:
    """(probability, row, where it leads or None) of every action and successor."""
    found = []
    last = time + 1 == mdp.horizon
    for action, following in enumerate(mdp.transition[state]):
        stop = 1.0 if last and not time_limit else 1.0 - following.sum()
        if stop > 1e-12:
            found.append((stop, (time, state, action, 1, 0, 0, 1), None))
        for successor, p in enumerate(following if stop < 1.0 else ()):
            if p > 0:
                ahead = None if last else (time + 1, successor)
                found.append((p, (time, state, action, 0, int(last), successor, 1), ahead))
    return found


def _padded(rows: tuple, length: int) -> np.ndarray:
    return np.pad(np.array(rows, float), ((0, length - len(rows)), (0, 0)))


def as_rows(mdp: MDP, rollouts: Rollouts, log_probs: ArrayLike) -> Transition:
    """The listed rollouts as `pgjax.Transition` [T, M] of a policy log π(a|s), [S, A], observations (t, s)."""
    time, state, action, terminated, truncated, following, mask, _ = (jnp.asarray(x) for x in rollouts)
    return Transition(
        observation=(time.astype(jnp.int32), state.astype(jnp.int32)),
        action=action.astype(jnp.int32),
        log_prob=jnp.where(mask > 0, jnp.asarray(log_probs)[state, action], 0.0),
        reward=jnp.asarray(mdp.reward)[state, action] * mask,
        terminated=terminated,
        truncated=truncated,
        next_observation=(time.astype(jnp.int32) + 1, following.astype(jnp.int32)),
        mask=mask,
    )


def list_batches(mdp: MDP, rollouts: Rollouts, log_probs: ArrayLike, num_envs: int, group_size: int = 1) -> Batches:
    """Every batch of `num_envs` independent rollouts; those of a group share their first state.

    Raises:
      SettingError: for more than `MAX_BATCHES` of them.

    >>> from pgjax.oracle import make_mdp
    >>> mdp = make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)  # a bandit
    >>> batches = list_batches(mdp, list_rollouts(mdp, Config()), jnp.log(jnp.array([[0.5, 0.5]])), num_envs=2)
    >>> batches.members.tolist(), batches.probability.tolist()
    ([[0, 0], [0, 1], [1, 0], [1, 1]], [0.25, 0.25, 0.25, 0.25])
    """
    taken = np.where(rollouts.mask > 0, np.asarray(log_probs)[rollouts.state, rollouts.action], 0.0)
    chance = rollouts.probability * np.exp(taken.sum(0))
    first = rollouts.state[0]
    # A group: its start once, then each member given the start.
    same_start = [np.flatnonzero(first == s) for s in range(len(mdp.initial))]
    groups = np.concatenate([_tuples(which, group_size) for which in same_start])
    if len(groups) ** (num_envs // group_size) > MAX_BATCHES:
        many = f"{len(groups) ** (num_envs // group_size):.1e}"
        raise SettingError("num_envs", num_envs, f"means {many} batches; at most {MAX_BATCHES}")
    start = np.asarray(mdp.initial)[first[groups[:, 0]]]
    group_chance = start * np.prod(chance[groups] / start[:, None], axis=1)
    chosen = _tuples(np.arange(len(groups)), num_envs // group_size)
    return Batches(groups[chosen].reshape(len(chosen), -1), np.prod(group_chance[chosen], axis=1))


def _tuples(values: np.ndarray, count: int) -> np.ndarray:
    return np.stack(np.meshgrid(*[values] * count, indexing="ij"), axis=-1).reshape(-1, count)


def expected_change(batches: Batches, before: Params, after: Params) -> Params:
    """E[θ′ − θ] over all batches: `after` has leaves [B, ...]."""
    return jax.tree.map(lambda new, old: np.tensordot(batches.probability, np.asarray(new - old), 1), after, before)
