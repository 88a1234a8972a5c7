"""Collect a batch with the current policy. A batch carries no gradient."""

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
    """A collected batch, before credit is computed. Nothing in it carries gradient."""

    batch: Batch  # rows (a Transition [T, N, ...], or a Replay) and signals [T, N] at the parameters that acted
    keys: Keys  # for `learn`
    rollout_state: Any  # environments after the rollout; None for whole episodes
    statistics: rollout.EpisodeStatistics
    reward_scale: RewardScale | None = None  # with this batch included; None without `normalise_rewards`
    observed: Any = None  # observation statistics with this batch included; None without them


def collect(trainer: Trainer, algorithm: Algorithm, state: TrainState) -> Collection:
    """Collect a batch with the policy of `state`: whole episodes, or `num_steps` steps of every environment.

    With `Config.accumulate` > 1 the rows are not stored; each slice is simulated again whenever it is needed.
    """
    check_algorithm(algorithm)
    check_state(state)
    trainer = with_environment_parameters(trainer, algorithm)
    environment, agent, config = trainer.environment, trainer.agent, trainer.config
    keys = keys_of(state.key)
    rows = Replay(own_share(jax.random.split(keys.rollout, config.num_envs)), state.rollout_state, state.params)
    if config.accumulate > 1:
        return _in_slices(trainer, algorithm, rows, keys, state.reference)
    rollout_state, transition, memory, statistics = replayed(environment, agent, config, rows)
    collected = hold(trainer, algorithm, state, transition, memory, statistics, keys)
    return collected._replace(rollout_state=rollout_state)


def with_environment_parameters(trainer: Trainer, algorithm: Algorithm) -> Trainer:
    """The trainer with its environment set to the algorithm's environment parameters."""
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
    """Make a `Collection` for `learn` from rows [T, N, ...] that you collected yourself.

    Args:
      state: holds the parameters that acted and, when streaming, the environments before the rollout.
      memory: a recurrent policy's carry at the first row, [1, N, ...]; default: its carry at an episode's start.
      statistics: of the episodes that ended; default: computed for whole episodes.
      keys: random keys for `learn`; default: split from the state's key.

    >>> from pgjax import Config, environments, learn, make_agent, make_trainer, reinforce, rollout
    >>> env, algorithm = environments.make("Catch-bsuite"), reinforce().algorithm
    >>> trainer = make_trainer(env, make_agent(env), Config(num_envs=4))
    >>> state = trainer.init(algorithm, jax.random.key(0))
    >>> policy = rollout.actor(trainer.agent, state.params)
    >>> rows = rollout.episodes(env, policy, jax.random.split(jax.random.key(1), 4))
    >>> state, metrics = learn(trainer, algorithm, state, hold(trainer, algorithm, state, rows))
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
        transition, weights = _with_learner_log_prob(trainer, algorithm, state.params, transition, memory)
    signals = values_of(agent, algorithm, config, state.params, transition, memory, elapsed, state.reference)
    return Collection(
        batch=Batch(transition, signals, credit=None, memory=memory, weight=weights),
        keys=keys_of(state.key) if keys is None else keys,
        rollout_state=state.rollout_state,
        statistics=rollout.statistics(transition) if statistics is None else statistics,
        reward_scale=scale,
        observed=None if agent.observe is None else _observed(trainer, state.params, transition),
    )


def _with_learner_log_prob(
    trainer: Trainer, algorithm: Algorithm, params: Params, transition: Transition, memory: Any
) -> tuple[Transition, Array]:
    """Rows with the learner's log-probabilities, and the weights min(π_learner/π_sampler, C), [T, N]."""
    log_prob = log_prob_of(trainer.agent, params, transition, memory, engine(trainer.config.engine))
    log_prob = jax.lax.stop_gradient(log_prob)
    mismatch = jnp.where(transition.mask > 0, log_prob - transition.log_prob, 0.0)
    return transition._replace(log_prob=log_prob), jnp.minimum(weight(mismatch), jnp.asarray(algorithm.max_mismatch))


def _observed(trainer: Trainer, params: Params, transition: Transition) -> Any:
    assert trainer.agent.observe is not None
    return trainer.agent.observe(params, transition.observation, transition.mask)["statistics"]


def _in_slices(
    trainer: Trainer, algorithm: Algorithm, rows: Replay, keys: Keys, reference: Params | None
) -> Collection:
    """Simulate slice by slice and keep only the signals, from which the credit of the whole batch is computed."""
    environment, agent, config = trainer.environment, trainer.agent, trainer.config
    discount = jnp.broadcast_to(own_discount(algorithm, config, config.num_envs), (config.num_envs,))

    def signals_of_slice(slice_and_discount: Any) -> Any:
        (slice_keys, before), discount = slice_and_discount
        part = Replay(slice_keys, before, rows.params)
        after, transition, memory, statistics = replayed(environment, agent, config, part)
        elapsed = None if before is None else before.episode_length
        signals = values_of(
            agent, algorithm._replace(discount=discount), config, rows.params, transition, memory, elapsed, reference
        )
        return after, signals._replace(group=None), statistics

    parts = rows.slices(config.accumulate), cut(config.accumulate, discount, 0)
    rollout_state, signals, statistics = jax.lax.map(signals_of_slice, parts)
    signals = jax.tree.map(partial(join, axis=1), signals)
    group = group_numbers(config, config.num_envs)
    if group is not None:  # groups are numbered over the whole batch, not within a slice
        group = jnp.broadcast_to(group, signals.reward.shape)
    return Collection(
        batch=Batch(rows, signals._replace(group=group), credit=None),
        keys=keys,
        rollout_state=jax.tree.map(partial(join, axis=0), rollout_state),
        statistics=jax.tree.map(lambda x: jnp.sum(x, axis=0), statistics),
    )
