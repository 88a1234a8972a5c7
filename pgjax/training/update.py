"""One update: `learn` from what `collect` has collected. Knows no algorithm by name."""

import dataclasses
import functools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

from pgjax import counters
from pgjax.config import Config
from pgjax.engine import asked, engine
from pgjax.engine.blocks import join
from pgjax.estimators.contracts import RATIO_FREE, promises
from pgjax.estimators.reductions import own_share, size_of, sum_over_devices
from pgjax.estimators.reference_kl import step_divisor
from pgjax.estimators.steps import PolicyProblem
from pgjax.policies.normalisation import no_reward_scale
from pgjax.training import monitors, rollout
from pgjax.training.batch import Collection, collect, with_its_environment
from pgjax.training.checks import check, has_reference
from pgjax.training.gradients import gradient
from pgjax.training.guard import guard
from pgjax.training.keys import as_key
from pgjax.training.loss import Batch, policy_loss, value_loss
from pgjax.training.metrics import Metrics
from pgjax.training.minibatches import over_minibatches
from pgjax.training.optimizer import at_its_rate, learning_rate, optimizer_of, trained
from pgjax.training.replay import Replay, replayed
from pgjax.training.sharing import reused
from pgjax.training.signals import credit_of, policy_on, ratios_of, target_of
from pgjax.types import Agent, Algorithm, Environment, Params, Trainer, TrainState, check_algorithm


def make_trainer(environment: Environment, agent: Agent, config: Config) -> Trainer:
    """Bind an environment, an agent and the static settings into a Trainer.

    One update collects a batch with the current policy, computes credit over the whole of it, and moves the
    parameters: `epochs` passes of `minibatches` gradient steps each; or one `policy_step`, and the passes for the
    critic. Credit that carries ratios is computed anew for each pass. A non-finite update is dropped and counted
    (`pgjax.training.guard`): metrics `skipped` and `nonfinite` say so. Hyperparameters arrive with the `algorithm`
    argument, never by closure. The same arguments give the same Trainer, so that compiled programs are found again.

    Raises:
      SettingError: where config, agent and, from `init` and `update`, algorithm contradict each other.

    >>> from pgjax import Config, environments, make_agent, algorithms
    >>> env = environments.make("Catch-bsuite")
    >>> trainer = make_trainer(env, make_agent(env), Config(num_envs=4))
    >>> state = trainer.init(algorithms.reinforce().algorithm, jax.random.key(0))
    >>> state, metrics = jax.jit(trainer.update)(algorithms.reinforce().algorithm, state)
    >>> int(state.env_steps)
    36
    """
    check(environment, agent, config)
    return _trainer(environment, agent, dataclasses.replace(config, engine=asked(config.engine)))


@functools.lru_cache(maxsize=256)
def _trainer(environment: Environment, agent: Agent, config: Config) -> Trainer:
    def init(algorithm: Algorithm, key: Array) -> TrainState:
        return _init(trainer, algorithm, key)

    def update(algorithm: Algorithm, state: TrainState) -> tuple[TrainState, Metrics]:
        return learn(trainer, algorithm, state, collect(trainer, algorithm, state))

    trainer = Trainer(environment, agent, config, init, update)
    return trainer


def _init(trainer: Trainer, algorithm: Algorithm, key: Array) -> TrainState:
    check_algorithm(algorithm)
    trainer = with_its_environment(trainer, algorithm)
    environment, agent, config = trainer.environment, trainer.agent, trainer.config
    check(environment, agent, config, algorithm)
    algorithm = at_its_rate(algorithm, jnp.int32(0))
    params_key, stream_key, key = jax.random.split(as_key(key), 3)
    params = agent.init(params_key)
    moved = trained(algorithm, params)
    stream_keys = own_share(jax.random.split(stream_key, config.num_envs))
    memory = agent.memory.initial if agent.memory else ()
    streaming = config.rollout == "stream"
    return TrainState(
        params=params,
        optimizer_state=optimizer_of(algorithm, engine(config.engine), moved).init(moved),
        rollout_state=rollout.start_stream(environment, stream_keys, memory) if streaming else None,
        key=key,
        update=jnp.int32(0),
        env_steps=jnp.int32(0),
        skipped=jnp.int32(0),
        skipped_in_a_row=jnp.int32(0),
        reward_scale=no_reward_scale(len(stream_keys)) if config.normalise_rewards else None,
        previous=None if algorithm.momentum is None else (params, jax.tree.map(jnp.zeros_like, moved)),
        reference=params if has_reference(algorithm) else None,
    )


def learn(
    trainer: Trainer, algorithm: Algorithm, state: TrainState, collected: Collection
) -> tuple[TrainState, Metrics]:
    """Move the parameters by what a batch teaches: the second half of an update.

    Args:
      trainer: what is trained.
      algorithm: its numbers.
      state: the one that the batch was collected with.
      collected: by `collect`, or `hold` for rows of your own.

    Returns:
      The next state, and metrics: scalars by name.

    >>> from pgjax import Config, collect, environments, make_agent, make_trainer, reinforce
    >>> env, algorithm = environments.make("Catch-bsuite"), reinforce().algorithm
    >>> trainer = make_trainer(env, make_agent(env), Config(num_envs=4))
    >>> state = trainer.init(algorithm, jax.random.key(0))
    >>> state, metrics = learn(trainer, algorithm, state, collect(trainer, algorithm, state))
    >>> int(state.update), float(metrics["episodes"])
    (1, 4.0)
    """
    trainer = with_its_environment(trainer, algorithm)
    agent, config, keys, batch = trainer.agent, trainer.config, collected.keys, collected.batch
    check(trainer.environment, agent, config, algorithm)
    algorithm = at_its_rate(algorithm, state.env_steps)
    if callable(algorithm.entropy_coefficient):
        algorithm = algorithm._replace(entropy_coefficient=algorithm.entropy_coefficient(state.update))
    if algorithm.kl_coefficient is not None:
        behaviour = policy_on(agent, state.params, batch.transition, batch.memory)
        batch = batch._replace(behaviour=jax.lax.stop_gradient(behaviour))
    moving = Moving(state.params, state.optimizer_state, state.previous, jnp.bool_(False))
    rate = learning_rate(algorithm, state.optimizer_state)
    metrics: Metrics = {}
    if algorithm.policy_step is not None:
        moving, metrics = _policy_step(trainer, algorithm, moving, batch)
    if algorithm.policy_step is None or algorithm.value_target is not None:
        moving, last = _passes(trainer, algorithm, state, moving, batch, keys.shuffle)
        metrics |= last
    metrics |= _watched(trainer, algorithm, state.params, moving.params, batch, keys.probe)
    if algorithm.value_target is not None:
        metrics |= _critic_watched(algorithm, batch)
    if rate is not None:
        metrics["learning_rate"] = rate
    params = moving.params
    if collected.observed is not None:
        params = params | {"statistics": collected.observed}
    new = state._replace(
        params=params,
        optimizer_state=moving.optimizer_state,
        rollout_state=collected.rollout_state,
        key=keys.following,
        update=state.update + 1,
        env_steps=counters.added(state.env_steps, sum_over_devices(jnp.sum(batch.signals.mask > 0, dtype=jnp.int32))),
        reward_scale=collected.reward_scale,
        previous=moving.previous,
    )
    new, guarded = guard(trainer.environment, agent, state, new, batch, metrics, keys.restart)
    return new, sum_over_devices(collected.statistics).means() | metrics | guarded


class Moving(NamedTuple):
    """What changes while a batch is worked on."""

    params: Params
    optimizer_state: Any
    previous: Any  # with momentum
    stopped: Array  # the KL has passed `target_kl`: nothing moves any more


def _passes(
    trainer: Trainer, algorithm: Algorithm, start: TrainState, moving: Moving, batch: Batch, key: Array
) -> tuple[Moving, Metrics]:
    """`epochs` passes over the batch, and the metrics of the last."""
    epochs = trainer.config.epochs
    one = partial(_pass, trainer, algorithm, start, batch)

    def every(moving: Moving, keys: Array) -> tuple[Moving, Metrics]:
        if epochs == 1:
            return one(moving, keys[0])
        moving, metrics = jax.lax.scan(one, moving, keys)
        return moving, jax.tree.map(lambda x: x[-1], metrics)

    return engine(trainer.config.engine).in_turn(every, moving, jax.random.split(key, epochs))


def _pass(
    trainer: Trainer, algorithm: Algorithm, start: TrainState, batch: Batch, moving: Moving, key: Array
) -> tuple[Moving, Metrics]:
    """One pass over the batch: credit with the ratios of now, then a gradient step for each minibatch."""
    environment, agent, config = trainer.environment, trainer.agent, trainer.config

    def gradient_at(params: Params, part: Batch) -> tuple[Params, Metrics]:
        if algorithm.policy_step is not None:
            return _value_gradient(agent, algorithm, params, part)
        return gradient(environment, agent, algorithm, config, params, part)

    def step(moving: Moving, part: Batch) -> tuple[Moving, Metrics]:
        moved = trained(algorithm, moving.params)
        found, metrics = gradient_at(moving.params, part)
        found, previous = {name: found[name] for name in moved}, None
        if algorithm.momentum is not None:
            old_params, old = moving.previous
            again = gradient_at(old_params, _with_credit(trainer, algorithm, old_params, batch))[0]
            alpha = jnp.where(start.update > start.skipped, algorithm.momentum, 1.0)  # nothing before the first
            found = {
                name: jax.tree.map(lambda g, before, same: g + (1 - alpha) * (before - same), x, old[name], again[name])
                for name, x in found.items()
            }
            previous = moving.params, found
        # Of one vector: where the optimiser runs on one, it is that one; a sum for each leaf costs small networks more.
        metrics["gradient_norm"] = jnp.linalg.norm(ravel_pytree(found)[0])
        optimizer = optimizer_of(algorithm, engine(config.engine), moved)
        changes, optimizer_state = optimizer.update(found, moving.optimizer_state, moved)
        params = moving.params | dict(optax.apply_updates(moved, changes))  # type: ignore[call-overload]
        new = Moving(params, optimizer_state, previous, moving.stopped)
        if algorithm.target_kl is not None and algorithm.policy_step is None:
            stopped = moving.stopped | (metrics["kl"] > algorithm.target_kl)
            new = jax.tree.map(lambda a, b: jnp.where(stopped, b, a), new, moving)._replace(stopped=stopped)
        return new, metrics

    return over_minibatches(config, _with_credit(trainer, algorithm, moving.params, batch), key, step, moving)


def _with_credit(trainer: Trainer, algorithm: Algorithm, params: Params, batch: Batch) -> Batch:
    """The batch with its credit and target; those that may carry ratios take them from `params`."""
    parts = algorithm.estimator.credit, algorithm.value_target
    signals = batch.signals
    if not all(part is None or promises(part, RATIO_FREE) for part in parts):
        signals = signals._replace(log_ratio=_ratios(trainer, params, batch))
    credit, target = credit_of(algorithm, trainer.config, signals), target_of(algorithm, signals)
    penalty = algorithm.reference_loss
    divisor = None if penalty is None else jax.lax.stop_gradient(step_divisor(penalty, signals))
    return batch._replace(signals=signals, credit=credit, target=target, divisor=divisor)


def _ratios(trainer: Trainer, params: Params, batch: Batch) -> Array:
    """log ρ of the taken actions at `params`, [T, N], stopped."""
    environment, agent, config, rows = trainer.environment, trainer.agent, trainer.config, batch.transition
    if not isinstance(rows, Replay):
        return ratios_of(agent, params, rows, batch.memory, engine(config.engine))

    def of(one: tuple[Array, Any]) -> Array:
        _, transition, memory, _ = replayed(environment, agent, config, Replay(*one, rows.params))
        return ratios_of(agent, params, transition, memory, engine(config.engine))

    return join(jax.lax.map(of, rows.slices(config.accumulate)), 1)


def _value_gradient(agent: Agent, algorithm: Algorithm, params: Params, batch: Batch) -> tuple[Params, Metrics]:
    size = size_of(batch.transition.mask)

    def lost(params: Params) -> tuple[Array, Any]:
        lost, metric = value_loss(agent, algorithm, params, batch, size)
        return jnp.asarray(algorithm.value_coefficient) * lost, metric

    found, metric = jax.grad(lost, has_aux=True)(params)  # a policy step shares its batch with no device
    return found, {"value_loss": metric.value()}


def _policy_step(trainer: Trainer, algorithm: Algorithm, moving: Moving, batch: Batch) -> tuple[Moving, Metrics]:
    """Move the policy by the algorithm's own step on the whole batch."""
    environment, agent, config, params = trainer.environment, trainer.agent, trainer.config, moving.params
    whole = _with_credit(trainer, algorithm, params, batch)
    rows, size = whole.transition, size_of(whole.transition.mask)
    descending, metrics = gradient(environment, agent, algorithm, config, params, whole)
    found = jax.tree.map(jnp.negative, descending["policy"])

    def raised(policy: Params) -> Array:
        return -policy_loss(agent, algorithm, config, params | {"policy": policy}, whole, size)[0]

    problem = PolicyProblem(
        policy=params["policy"],
        gradient=found,
        surrogate=raised,
        distribution=lambda policy: policy_on(agent, params | {"policy": policy}, rows, whole.memory),
        weight=rows.mask / size.steps,
    )
    policy, of_step = algorithm.policy_step(problem)  # type: ignore[misc]
    found_norm = {"policy_gradient_norm": optax.tree.norm(found)}
    return moving._replace(params=params | {"policy": policy}), metrics | of_step | found_norm


def _critic_watched(algorithm: Algorithm, batch: Batch) -> Metrics:
    """How much of its own target's variance the critic that the batch was drawn with explains."""
    signals, target = batch.signals, target_of(algorithm, batch.signals)
    value = signals.value if signals.taken_value is None else signals.taken_value
    if value is None or target is None:
        return {}
    return {"explained_variance": monitors.explained_variance(target, value, signals.mask)}


def _watched(
    trainer: Trainer, algorithm: Algorithm, before: Params, after: Params, batch: Batch, key: Array
) -> Metrics:
    """What reuse has cost, and, where `diagnostics` asks for it, what the probes say; of rows that are held."""
    agent, config = trainer.agent, trainer.config
    if isinstance(batch.transition, Replay) or not (reused(config) or config.diagnostics):
        return {}
    score_key, bias_key = jax.random.split(key)
    metrics = monitors.weight_statistics(agent, config, after, batch.transition, batch.memory)
    metrics["score_mean"] = monitors.score_probe(
        agent, before, batch.transition, score_key, batch.memory, engine(config.engine)
    )
    if config.diagnostics:
        metrics |= monitors.monitor(agent, algorithm, config, after, batch, bias_key)
    return metrics
