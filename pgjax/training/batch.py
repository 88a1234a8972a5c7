"""`collect`: act with the current policy, and make a batch of it that is only data."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.engine import engine
from pgjax.engine.blocks import cut, join
from pgjax.environments.parameters import with_parameters
from pgjax.estimators.importance import weight
from pgjax.estimators.reductions import own_share
from pgjax.policies.normalisation import RewardScale, scale_rewards
from pgjax.training import rollout
from pgjax.training.checks import check_state
from pgjax.training.keys import Keys, keys_of
from pgjax.training.loss import Batch
from pgjax.training.replay import Replay, replayed
from pgjax.training.signals import first_memory, group_numbers, log_prob_of, own_discount, values_of
from pgjax.types import Algorithm, Params, Trainer, TrainState, Transition, check_algorithm


class Collection(NamedTuple):
    """A batch as it was collected, before any credit; only data.

    Attributes:
      batch: rows (a Transition [T, N, ...], or a `Replay` of them) and signals [T, N] at the parameters that acted.
      rollout_state: environments in flight after it; None for whole episodes.
      statistics: of the episodes that ended.
      reward_scale: with the batch merged in; None without `normalise_rewards`.
      observed: running statistics of observations with the batch merged in; None without them.
      keys: what `learn` draws from.
    """

    batch: Batch
    keys: Keys
    rollout_state: Any
    statistics: rollout.EpisodeStatistics
    reward_scale: RewardScale | None = None
    observed: Any = None


def collect(trainer: Trainer, algorithm: Algorithm, state: TrainState) -> Collection:
    """Act with the policy of `state`: whole episodes, or `num_steps` steps of every environment.

    With `Config.accumulate` the rows are not held: they are simulated again, slice by slice, when they are needed.

    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce
    >>> env, algorithm = environments.make("Catch-bsuite"), reinforce().algorithm
    >>> trainer = make_trainer(env, make_agent(env), Config(num_envs=4))
    >>> found = collect(trainer, algorithm, trainer.init(algorithm, jax.random.key(0)))
    >>> found.batch.transition.reward.shape, float(found.statistics.episodes)
    ((9, 4), 4.0)
    """
    check_algorithm(algorithm)
    check_state(state)
    trainer = with_its_environment(trainer, algorithm)
    environment, agent, config = trainer.environment, trainer.agent, trainer.config
    keys = keys_of(state.key)
    rows = Replay(own_share(jax.random.split(keys.rollout, config.num_envs)), state.rollout_state, state.params)
    if config.accumulate > 1:
        return _in_slices(trainer, algorithm, rows, keys, state.reference)
    rollout_state, transition, memory, statistics = replayed(environment, agent, config, rows)
    found = hold(trainer, algorithm, state, transition, memory, statistics, keys)
    return found._replace(rollout_state=rollout_state)


def with_its_environment(trainer: Trainer, algorithm: Algorithm) -> Trainer:
    """The trainer, in its environment with the algorithm's parameters."""
    return trainer._replace(environment=with_parameters(trainer.environment, algorithm.environment))


def hold(
    trainer: Trainer,
    algorithm: Algorithm,
    state: TrainState,
    transition: Transition,
    memory: Any = None,
    statistics: rollout.EpisodeStatistics | None = None,
    keys: Keys | None = None,
) -> Collection:
    """A batch of rows that are at hand: what `collect` makes of a rollout, and what `learn` takes.

    Args:
      trainer: what is trained.
      algorithm: its numbers.
      state: whose parameters acted, and, in a stream, where its environments stood before.
      transition: [T, N, ...].
      memory: of a recurrent policy at the first row, [1, N, ...]; default that of an episode's start.
      statistics: of the episodes that ended; default those of whole episodes.
      keys: what `learn` draws from; default those that the state's key gives.

    >>> from pgjax import Config, environments, learn, make_agent, make_trainer, reinforce, rollout
    >>> env, algorithm = environments.make("Catch-bsuite"), reinforce().algorithm
    >>> agent = make_agent(env)
    >>> trainer = make_trainer(env, agent, Config(num_envs=4))
    >>> state = trainer.init(algorithm, jax.random.key(0))
    >>> rows = rollout.episodes(env, rollout.actor(agent, state.params), jax.random.split(jax.random.key(1), 4))
    >>> state, metrics = learn(trainer, algorithm, state, hold(trainer, algorithm, state, rows))
    >>> int(state.update)
    1
    """
    agent, config, scale = trainer.agent, trainer.config, state.reward_scale
    memory = first_memory(agent, transition) if memory is None else memory
    streaming = state.rollout_state is not None
    if scale is not None:
        discount = own_discount(algorithm, config, transition.mask.shape[1])
        scale, transition = scale_rewards(scale, transition, discount, streaming=streaming)
    elapsed = state.rollout_state.episode_length if streaming else None
    weights = None
    if algorithm.max_mismatch is not None:
        transition, weights = _by_the_learner(trainer, algorithm, state.params, transition, memory)
    signals = values_of(agent, algorithm, config, state.params, transition, memory, elapsed, state.reference)
    return Collection(
        batch=Batch(transition, signals, credit=None, memory=memory, weight=weights),
        keys=keys_of(state.key) if keys is None else keys,
        rollout_state=state.rollout_state,
        statistics=rollout.statistics(transition) if statistics is None else statistics,
        reward_scale=scale,
        observed=None if agent.observe is None else _observed(trainer, state.params, transition),
    )


def _by_the_learner(
    trainer: Trainer, algorithm: Algorithm, params: Params, transition: Transition, memory: Any
) -> tuple[Transition, Array]:
    """The rows with the learner's own log-probabilities, and min(π_learner/π_sampler, C) of every step, [T, N]."""
    log_prob = log_prob_of(trainer.agent, params, transition, memory, engine(trainer.config.engine))
    log_prob = jax.lax.stop_gradient(log_prob)  # a batch is only data
    mismatch = jnp.where(transition.mask > 0, log_prob - transition.log_prob, 0.0)
    return transition._replace(log_prob=log_prob), jnp.minimum(weight(mismatch), jnp.asarray(algorithm.max_mismatch))


def _observed(trainer: Trainer, params: Params, transition: Transition) -> Any:
    assert trainer.agent.observe is not None
    return trainer.agent.observe(params, transition.observation, transition.mask)["statistics"]


def _in_slices(
    trainer: Trainer, algorithm: Algorithm, rows: Replay, keys: Keys, reference: Params | None
) -> Collection:
    """Every slice is simulated for its signals, a few numbers per step: all that credit needs of the whole batch."""
    environment, agent, config = trainer.environment, trainer.agent, trainer.config
    discount = jnp.broadcast_to(own_discount(algorithm, config, config.num_envs), (config.num_envs,))

    def of(one: Any) -> Any:
        (own_keys, before), discount = one
        part = Replay(own_keys, before, rows.params)
        after, transition, memory, statistics = replayed(environment, agent, config, part)
        elapsed = None if before is None else before.episode_length
        signals = values_of(
            agent, algorithm._replace(discount=discount), config, rows.params, transition, memory, elapsed, reference
        )
        return after, signals._replace(group=None), statistics

    parts = rows.slices(config.accumulate), cut(config.accumulate, discount, 0)
    rollout_state, signals, statistics = jax.lax.map(of, parts)
    signals = jax.tree.map(partial(join, axis=1), signals)
    group = group_numbers(config, config.num_envs)
    if group is not None:  # numbered over the whole batch: a group belongs together wherever the slices end
        group = jnp.broadcast_to(group, signals.reward.shape)
    return Collection(
        batch=Batch(rows, signals._replace(group=group), credit=None),
        keys=keys,
        rollout_state=jax.tree.map(partial(join, axis=0), rollout_state),
        statistics=jax.tree.map(lambda x: jnp.sum(x, axis=0), statistics),
    )
