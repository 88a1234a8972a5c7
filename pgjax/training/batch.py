"""A batch and its gradient: held in memory, or simulated again slice by slice; the same answers either way."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.config import Config
from pgjax.estimators.reductions import BatchSize, own_share, size_of, total
from pgjax.policies.normalisation import RewardScale, scale_rewards
from pgjax.training import monitors as diagnostics
from pgjax.training import rollout
from pgjax.training.gradients import cut, loss_gradient, summed, trajectory_gradients
from pgjax.training.loss import Batch, first_memory, policy_on, ratios_of, values_of
from pgjax.types import Agent, Algorithm, Environment, Params, SettingError, Signals, TrainState, Transition

Metrics = dict[str, Array]


class Collection(NamedTuple):
    """What a batch is asked for.

    Attributes:
      rollout_state: environments in flight after it.
      statistics: of the episodes that ended.
      signals: [T, N], at the parameters that collected it.
      held: the batch without credit; None where it is simulated again.
      reward_scale: with the batch merged in.
      observed: params with the batch merged into their statistics.
      ratios: params -> log ρ, [T, N].
      gradient: (params, batch) -> gradient of the loss, metrics; a batch not held brings signals, credit and target.
    """

    rollout_state: Any
    statistics: rollout.EpisodeStatistics
    signals: Signals
    held: Batch | None
    reward_scale: RewardScale | None
    observed: Params
    ratios: Callable[[Params], Array]
    gradient: Callable[[Params, Batch], tuple[Params, Metrics]]


Rows = tuple[Any, Transition, Any, rollout.EpisodeStatistics]
"""Rollout state after, transition, memory at the first row [1, N, ...], statistics."""


def collect(
    environment: Environment, agent: Agent, config: Config, algorithm: Algorithm, state: TrainState, key: Array
) -> Collection:
    """Act with the current policy; as many slices as `config.accumulate` says."""
    start = own_share(jax.random.split(key, config.num_envs)), state.rollout_state
    roll = partial(_roll, environment, agent, config, state.params)
    if config.accumulate == 1:
        return _hold(agent, algorithm, config, state, roll(start))
    return _simulate_again(agent, algorithm, config, state.params, roll, start)


def _roll(environment: Environment, agent: Agent, config: Config, params: Params, start: tuple[Array, Any]) -> Rows:
    """A batch, or the slice of it that `start` = (keys, rollout state) names: a pure function of both."""
    keys, rollout_state = start
    actor = rollout.actor(agent, params)
    if config.rollout == "stream":
        memory = jax.tree.map(lambda x: x[None], rollout_state.memory)
        after, transition, statistics = rollout.stream(environment, actor, rollout_state, keys, config.num_steps)
        return after, transition, memory, statistics
    transition = rollout.episodes(environment, actor, keys, group_size=config.group_size)
    if config.batch_steps:
        transition = rollout.keep_first(transition, config.batch_steps)
    return None, transition, first_memory(agent, transition), rollout.statistics(transition)


def _hold(agent: Agent, algorithm: Algorithm, config: Config, state: TrainState, rows: Rows) -> Collection:
    """Keep the batch, differentiate it at once."""
    rollout_state, transition, memory, statistics = rows
    scale = state.reward_scale
    if scale is not None:
        streaming = config.rollout == "stream"
        scale, transition = scale_rewards(scale, transition, algorithm.discount, streaming=streaming)
    signals = values_of(agent, algorithm, config, state.params, transition, memory)
    behaviour = policy_on(agent, state.params, transition, memory) if algorithm.kl_coefficient is not None else None

    def gradient(params: Params, batch: Batch) -> tuple[Params, Metrics]:
        size = size_of(batch.transition.mask)
        of_batch = partial(loss_gradient, agent, algorithm, config, params)
        if config.diagnostics:
            return _grouped_gradient(config, of_batch, batch, size)
        gradient, metrics = total(of_batch(batch, size))
        if algorithm.control_variate is not None:
            ones = batch._replace(credit=jnp.ones_like(batch.credit))
            each, scores = (trajectory_gradients(agent, algorithm.estimator, params, b) for b in (batch, ones))
            divisor = getattr(size, config.mean)
            correction = jax.tree.map(lambda x: x / divisor, algorithm.control_variate(each, scores))
            gradient["policy"] = jax.tree.map(jnp.add, gradient["policy"], correction)
        return gradient, metrics

    return Collection(
        rollout_state=rollout_state,
        statistics=statistics,
        signals=signals,
        held=Batch(transition, signals, credit=None, memory=memory, behaviour=behaviour),
        reward_scale=scale,
        observed=_observed(agent, state.params, transition),
        ratios=lambda params: ratios_of(agent, params, transition, memory),
        gradient=gradient,
    )


def _observed(agent: Agent, params: Params, transition: Transition) -> Params:
    return agent.observe(params, transition.observation, transition.mask) if agent.observe else params


def _grouped_gradient(config: Config, gradient_of: Callable, batch: Batch, size: BatchSize) -> tuple[Params, Metrics]:
    """The same gradient as a sum over groups of trajectories, for as much arithmetic; and how noisy it is."""
    groups = jax.tree.map(lambda x: cut(config.diagnostics, x, 1), batch)
    each, metrics = jax.vmap(gradient_of, in_axes=(0, None))(groups, size)
    gradient, metrics = jax.tree.map(lambda x: jnp.sum(x, axis=0), (each, metrics))
    means = jax.tree.map(lambda x: config.diagnostics * x, each["policy"])
    noise = diagnostics.gradient_noise(means, trajectories=config.num_envs)
    return gradient, metrics | {
        "gradient_variance": noise.variance,
        "gradient_snr": noise.snr,
        "critical_batch_size": noise.critical_batch_size,
    }


def _simulate_again(
    agent: Agent, algorithm: Algorithm, config: Config, behaviour: Params, roll: Callable, start: Any
) -> Collection:
    """The same with one slice's trajectories in memory at a time.

    Every slice is simulated from the same keys and parameters whenever it is needed: once for its signals (a few
    numbers per step, all that credit needs of the whole batch), and again for its gradient.
    """
    _refuse_accumulation(agent, algorithm, config)
    slices = jax.tree.map(lambda x: cut(config.accumulate, x, 0), start)

    def first_pass(one: Any) -> Any:
        rollout_state, transition, memory, statistics = roll(one)
        return rollout_state, values_of(agent, algorithm, config, behaviour, transition, memory), statistics

    rollout_state, signals, statistics = jax.lax.map(first_pass, slices)
    signals = jax.tree.map(lambda x: _join(x, 1), signals)
    size = size_of(signals.mask)

    def ratios(params: Params) -> Array:
        def of(one: Any) -> Array:
            _, transition, memory, _ = roll(one)
            return ratios_of(agent, params, transition, memory)

        return _join(jax.lax.map(of, slices), 1)

    def gradient(params: Params, batch: Batch) -> tuple[Params, Metrics]:
        def of(one: Any) -> tuple[Params, Metrics]:
            start, *rest = one
            _, transition, memory, _ = roll(start)
            part = Batch(transition, *rest, memory=memory)
            return loss_gradient(agent, algorithm, config, params, part, size)

        whole = batch.signals, batch.credit, batch.target
        parts = jax.tree.map(lambda x: cut(config.accumulate, x, 1), whole)
        return summed(of, (slices, *parts))

    return Collection(
        rollout_state=jax.tree.map(lambda x: _join(x, 0), rollout_state),
        statistics=jax.tree.map(lambda x: jnp.sum(x, axis=0), statistics),
        signals=signals,
        held=None,
        reward_scale=None,
        observed=behaviour,
        ratios=ratios,
        gradient=gradient,
    )


def _refuse_accumulation(agent: Agent, algorithm: Algorithm, config: Config) -> None:
    reasons = {
        "optimal baselines, which hold all gradients": algorithm.control_variate,
        "a KL penalty, which holds all distributions": algorithm.kl_coefficient,
        "a natural or trust-region step, which holds the batch": algorithm.policy_step,
        "running observation statistics, which hold the batch": agent.observe,
    }
    for reason, present in reasons.items():
        if present is not None:
            raise SettingError("accumulate", config.accumulate, f"cannot serve {reason}")
    if config.group_size > 1 and config.num_envs // config.accumulate % config.group_size:
        raise SettingError("accumulate", config.accumulate, "cuts through groups of trajectories")


def _join(x: Array, axis: int) -> Array:
    """Undo `cut`."""
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
