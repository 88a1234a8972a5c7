"""Every parameter update that training can make on a tabular problem, and the expected change.

`pgjax.learn` itself is run on every batch. This tests slices, minibatches, groups, devices and several passes together
with the estimator. More than `MAX_BATCHES` rollouts or batches raise a SettingError.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from pgjax.config import Config
from pgjax.estimators.reductions import ENV_AXIS
from pgjax.oracle.mdp import MDP
from pgjax.spaces import Discrete, Space, combinations, number
from pgjax.training.batch import Collection, collect, hold
from pgjax.training.update import learn, make_trainer
from pgjax.types import Algorithm, Params, SettingError, Trainer, TrainState, Transition

MAX_BATCHES = 1_000_000


class Rollouts(NamedTuple):
    """All rollouts of one environment, [T, M], with their probability without the policy, [M]."""

    time: np.ndarray
    state: np.ndarray
    action: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_state: np.ndarray  # before a reset; 0 after a termination
    mask: np.ndarray
    probability: np.ndarray  # of start and next states, without the policy


class Batches(NamedTuple):
    """Every batch of N rollouts: the indices of its rollouts [B, N], and its probability [B]."""

    members: np.ndarray
    probability: np.ndarray


def list_rollouts(mdp: MDP, config: Config, *, time_limit: bool = False) -> Rollouts:
    """List all whole episodes, or all `config.num_steps` steps of a stream that starts with a reset.

    `config.rollout` selects which; `time_limit` is as in `oracle.environment`. More than 1,000,000 are rejected.
    """
    streaming = config.rollout == "stream"
    length = config.num_steps if streaming else mdp.horizon
    starts = [(float(p), s) for s, p in enumerate(mdp.initial) if p > 0]
    partial = [(p, (0, s), ()) for p, s in starts]
    for _ in range(length):
        longer = []
        for chance, place, rows in partial:
            if place is None:  # a whole episode that has ended
                longer.append((chance, None, rows))
                continue
            for p, row, ahead in _steps_from(mdp, *place, time_limit):
                if ahead is not None or not streaming:
                    longer.append((chance * p, ahead, (*rows, row)))
                elif len(rows) + 1 == length:  # the next start belongs to the next batch
                    longer.append((chance * p, None, (*rows, row)))
                else:
                    longer += [(chance * p * q, (0, s), (*rows, row)) for q, s in starts]
        if len(longer) > MAX_BATCHES:
            raise SettingError("horizon", length, f"means more than {MAX_BATCHES} rollouts")
        partial = longer
    columns = [_padded(rows, length) for _, _, rows in partial]
    time, state, action, terminated, truncated, next_state, mask = np.stack(columns, axis=-1).transpose(1, 0, 2)
    return Rollouts(
        time=time.astype(int),
        state=state.astype(int),
        action=action.astype(int),
        terminated=terminated > 0,
        truncated=truncated > 0,
        next_state=next_state.astype(int),
        mask=mask,
        probability=np.array([p for p, _, _ in partial]),
    )


def _steps_from(mdp: MDP, time: int, state: int, time_limit: bool) -> list[tuple]:
    """(probability, row, next (t, s) or None) of every action and next state."""
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


def as_rows(mdp: MDP, rollouts: Rollouts, log_probs: ArrayLike, actions: Space = None) -> Transition:
    """The listed rollouts as a `pgjax.Transition` [T, M] of a policy log π(a|s), [S, A], with observations (t, s).

    `actions` is the action space, as in `oracle.environment`.
    """
    as_recorded = combinations(Discrete(mdp.reward.shape[1]) if actions is None else actions)
    time, state, action, terminated, truncated, following, mask, _ = (jnp.asarray(x) for x in rollouts)
    return Transition(
        observation=(time.astype(jnp.int32), state.astype(jnp.int32)),
        action=jax.tree.map(lambda x: jnp.asarray(x)[action], as_recorded),
        log_prob=jnp.where(mask > 0, jnp.asarray(log_probs)[state, action], 0.0),
        reward=jnp.asarray(mdp.reward)[state, action] * mask,
        terminated=terminated,
        truncated=truncated,
        next_observation=(time.astype(jnp.int32) + 1, following.astype(jnp.int32)),
        mask=mask,
    )


def list_batches(mdp: MDP, rollouts: Rollouts, log_probs: ArrayLike, num_envs: int, group_size: int = 1) -> Batches:
    """List every batch of `num_envs` independent rollouts with positive probability; groups share their first state.

    More than 1,000,000 batches raise a SettingError.
    """
    taken = np.where(rollouts.mask > 0, np.asarray(log_probs)[rollouts.state, rollouts.action], 0.0)
    chance = rollouts.probability * np.exp(taken.sum(0))
    first = rollouts.state[0]
    # Probability of a group: its start once, then each member given the start.
    same_start = [np.flatnonzero((first == s) & (chance > 0)) for s in range(len(mdp.initial))]
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


def every_update(
    trainer: Trainer,
    algorithm: Algorithm,
    state: TrainState,
    rows: Transition,
    members: ArrayLike,
    mesh: Mesh | None = None,
) -> Params:
    """The parameters after one `pgjax.learn` from `state` on each batch, with leaves [B, ...].

    Args:
      trainer: with any settings except `Config.accumulate` above 1.
      state: contains the parameters of the behaviour policy.
      rows: from `as_rows`, [T, M].
      members: the rollouts of each batch, [B, N].
      mesh: devices that share each batch's environments along `ENV_AXIS`; default none.

    >>> import optax
    >>> from pgjax import make_trainer, reinforce
    >>> from pgjax.oracle import environment, make_mdp, tabular_agent
    >>> mdp = make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)
    >>> algorithm = reinforce(baseline="none").algorithm._replace(optimizer=optax.sgd(1.0))
    >>> trainer = make_trainer(environment(mdp), tabular_agent(mdp), Config(num_envs=2))
    >>> state = trainer.init(algorithm, jax.random.key(0))
    >>> rollouts, policy = list_rollouts(mdp, trainer.config), jnp.log(jnp.array([[0.5, 0.5]]))
    >>> batches = list_batches(mdp, rollouts, policy, num_envs=2)
    >>> after = every_update(trainer, algorithm, state, as_rows(mdp, rollouts, policy), batches.members)
    >>> expected_change(batches, state.params, after)["policy"].tolist()  # ∇J
    [[0.25, -0.25]]
    """

    def one(chosen: Transition, state: TrainState) -> Params:
        return learn(trainer, algorithm, state, hold(trainer, algorithm, state, chosen))[0].params

    chosen = jax.tree.map(lambda x: jnp.moveaxis(x[:, jnp.asarray(members)], 1, 0), rows)  # [B, T, N]
    every = jax.vmap(one, in_axes=(0, None))
    if mesh is None:
        return every(chosen, state)
    shared = jax.tree.map(lambda _: P(), state)._replace(
        rollout_state=jax.tree.map(lambda _: P(ENV_AXIS), state.rollout_state)
    )
    spread = jax.shard_map(every, mesh=mesh, in_specs=(P(None, None, ENV_AXIS), shared), out_specs=P(), check_vma=False)
    return spread(chosen, state)


def every_replayed_update(trainer: Trainer, algorithm: Algorithm, state: TrainState, keys: Array) -> Params:
    """Like `every_update`, for `Config.accumulate` > 1: simulates batches again from `keys_of_batches`, [B]."""

    def one(key: Array) -> Params:
        collected: Collection = collect(trainer, algorithm, state._replace(key=key))
        return learn(trainer, algorithm, state, collected)[0].params

    return jax.vmap(one)(keys)


def keys_of_batches(
    trainer: Trainer,
    algorithm: Algorithm,
    state: TrainState,
    rollouts: Rollouts,
    batches: Batches,
    *,
    draws: int = 1 << 16,
    rounds: int = 64,
) -> Array:
    """For each batch a key with which `pgjax.collect` collects it, [B], found by random search.

    A SettingError shows how many batches were found if `rounds` times `draws` keys are not enough.
    """
    config = replace(trainer.config, accumulate=1)
    holding = make_trainer(trainer.environment, trainer.agent, config)
    wanted = {tuple(chosen): b for b, chosen in enumerate(batches.members.tolist())}
    found: dict[int, Array] = {}

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None), out_axes=1)
    def rows_of(key: Array, state: TrainState) -> Any:  # [T, draws, N]
        rows = collect(holding, algorithm, state._replace(key=key)).batch.transition
        return rows._replace(action=number(trainer.environment.action_space, rows.action))

    for i in range(rounds):
        keys = jax.random.split(jax.random.key(i), draws)
        drawn, first = np.unique(columns_of(rollouts, rows_of(keys, state)), axis=0, return_index=True)
        for chosen, at in zip(drawn.tolist(), first, strict=True):
            found.setdefault(wanted[tuple(chosen)], keys[at])
        if len(found) == len(wanted):
            return jnp.stack([found[b] for b in range(len(wanted))])
    raise SettingError("rounds", rounds, f"are not enough: {len(found)} of {len(wanted)} batches were collected")


def columns_of(rollouts: Rollouts, rows: Transition) -> np.ndarray:
    """The index of the listed rollout that each column of recorded rows [T, ...] equals, [...].

    For at most 4 steps and fewer than 16 states and actions. Raises SettingError for columns that are not listed.
    """
    r = rollouts
    listed = _codes(r.state, r.action, r.terminated, r.truncated, r.next_state, r.mask)
    given = (rows.observation[1], rows.action, rows.terminated, rows.truncated, rows.next_observation[1], rows.mask)
    codes = _codes(*(np.asarray(x) for x in given))
    order = np.argsort(listed)
    found = order[np.searchsorted(listed[order], codes).clip(max=len(order) - 1)]
    if not np.array_equal(listed[found], codes):
        raise SettingError("rows", int(np.sum(listed[found] != codes)), "columns are not among the listed rollouts")
    return found


def _codes(
    state: np.ndarray,
    action: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    ahead: np.ndarray,
    mask: np.ndarray,
) -> np.ndarray:
    """An integer that encodes a column [T, ...]: 15 bits per step, for fewer than 16 states and actions."""
    if state.shape[0] > 4:
        raise SettingError("horizon", state.shape[0], "must be at most 4 steps")
    ahead = np.where(terminated, 0, ahead)
    digits = (((state.astype(np.int64) * 16 + action) * 2 + terminated) * 2 + truncated) * 16 + ahead
    digits = np.where(mask > 0, digits + 1, 0)
    return np.sum([row << (15 * t) for t, row in enumerate(digits)], axis=0)


def expected_change(batches: Batches, before: Params, after: Params) -> Params:
    """E[θ′ − θ] over all batches, from their new parameters [B, ...]."""
    return jax.tree.map(lambda old, new: np.tensordot(batches.probability, np.asarray(new - old), 1), before, after)
