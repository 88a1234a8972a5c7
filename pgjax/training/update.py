"""One update of the parameters from a collected batch, for any algorithm."""

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
from pgjax.estimators.reductions import BatchSize, own_share, size_of, sum_over_devices
from pgjax.estimators.reference_kl import step_divisor
from pgjax.estimators.steps import PolicyProblem
from pgjax.policies.initialisation import one_at_a_time
from pgjax.policies.normalisation import no_reward_scale
from pgjax.training import monitors, rollout
from pgjax.training.batch import Collection, collect, with_environment_parameters
from pgjax.training.checks import check, has_reference
from pgjax.training.gradients import gradient
from pgjax.training.guard import guard
from pgjax.training.keys import as_key
from pgjax.training.loss import Batch, policy_loss, value_loss
from pgjax.training.metrics import Metrics
from pgjax.training.minibatches import over_minibatches
from pgjax.training.optimizer import learning_rate, optimizer_of, trained, with_scheduled_rate
from pgjax.training.replay import Replay, replayed
from pgjax.training.sharing import reused
from pgjax.training.signals import credit_of, policy_on, ratios_of, seen, target_of
from pgjax.types import Agent, Algorithm, Environment, Params, Trainer, TrainState, check_algorithm


def make_trainer(environment: Environment, agent: Agent, config: Config) -> Trainer:
    """Bind an environment, an agent and the static settings into a Trainer.

    One update collects a batch, computes its credit and updates the parameters. It makes `epochs` passes of
    `minibatches` gradient steps; with a `policy_step`, one such step for the policy and the passes for the critic.
    Credit that contains ratios is recomputed in each pass. An update that is not finite is dropped and counted in the
    metrics `skipped` and `nonfinite` (`pgjax.training.guard`). Hyperparameters are in the `algorithm` argument, so
    changing them does not recompile. Equal arguments return the same Trainer object.

    >>> from pgjax import Config, environments, make_agent, reinforce
    >>> env, algorithm = environments.make("Catch-bsuite"), reinforce().algorithm
    >>> trainer = make_trainer(env, make_agent(env), Config(num_envs=4))
    >>> state, metrics = jax.jit(trainer.update)(algorithm, trainer.init(algorithm, jax.random.key(0)))
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
    trainer = with_environment_parameters(trainer, algorithm)
    environment, agent, config = trainer.environment, trainer.agent, trainer.config
    check(environment, agent, config, algorithm)
    algorithm = with_scheduled_rate(algorithm, jnp.int32(0))
    params_key, stream_key, key = jax.random.split(as_key(key), 3)
    params = one_at_a_time(agent.init)(params_key)
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
    """Update the parameters from a collected batch: the second half of `Trainer.update`.

    Returns the next state, and scalar metrics by name. `state` is the one that the batch was collected with;
    `collected` is from `collect`, or from `hold` for rows of your own.

    >>> from pgjax import Config, collect, environments, make_agent, make_trainer, reinforce
    >>> env, algorithm = environments.make("Catch-bsuite"), reinforce().algorithm
    >>> trainer = make_trainer(env, make_agent(env), Config(num_envs=4))
    >>> state = trainer.init(algorithm, jax.random.key(0))
    >>> state, metrics = learn(trainer, algorithm, state, collect(trainer, algorithm, state))
    """
    trainer = with_environment_parameters(trainer, algorithm)
    agent, config, keys, batch = trainer.agent, trainer.config, collected.keys, collected.batch
    check(trainer.environment, agent, config, algorithm)
    algorithm = with_scheduled_rate(algorithm, state.env_steps)
    if callable(algorithm.entropy_coefficient):
        algorithm = algorithm._replace(entropy_coefficient=algorithm.entropy_coefficient(state.update))
    if algorithm.kl_coefficient is not None:
        behaviour = policy_on(agent, state.params, batch.transition, batch.memory)
        batch = batch._replace(behaviour=jax.lax.stop_gradient(behaviour))
    if _ratio_free(algorithm):  # then credit is the same in all passes
        batch = _credited(algorithm, config, batch)
    moving = Moving(state.params, state.optimizer_state, state.previous, jnp.bool_(False))
    rate = learning_rate(algorithm, state.optimizer_state)
    metrics: Metrics = {}
    if algorithm.policy_step is not None:
        moving, metrics = _policy_step(trainer, algorithm, moving, batch)
    if algorithm.policy_step is None or algorithm.value_target is not None:
        moving, pass_metrics = _passes(trainer, algorithm, state, moving, batch, keys.shuffle)
        metrics |= pass_metrics
    metrics |= _reuse_metrics(trainer, algorithm, state.params, moving.params, batch, keys.probe)
    if algorithm.value_target is not None:
        metrics |= _critic_metrics(algorithm, batch)
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
    """What changes during the passes over a batch."""

    params: Params
    optimizer_state: Any
    previous: Any  # parameters and gradient of the previous step, with momentum
    stopped: Array  # whether the KL has exceeded `target_kl`, after which nothing changes


def _passes(
    trainer: Trainer, algorithm: Algorithm, start: TrainState, moving: Moving, batch: Batch, key: Array
) -> tuple[Moving, Metrics]:
    """`epochs` passes over the batch, and the metrics of the last."""
    epochs = trainer.config.epochs
    one_pass = partial(_pass, trainer, algorithm, start, batch)

    def all_passes(moving: Moving, keys: Array) -> tuple[Moving, Metrics]:
        if epochs == 1:
            return one_pass(moving, keys[0])
        moving, metrics = jax.lax.scan(one_pass, moving, keys)
        return moving, jax.tree.map(lambda x: x[-1], metrics)

    return engine(trainer.config.engine).in_turn(all_passes, moving, jax.random.split(key, epochs))


def _pass(
    trainer: Trainer, algorithm: Algorithm, start: TrainState, batch: Batch, moving: Moving, key: Array
) -> tuple[Moving, Metrics]:
    """One pass over the batch: credit with current ratios, if it needs them, and a gradient step for each minibatch."""
    environment, agent, config = trainer.environment, trainer.agent, trainer.config

    def gradient_at(params: Params, part: Batch, size: BatchSize) -> tuple[Params, Metrics]:
        if algorithm.policy_step is not None:
            return _value_gradient(agent, algorithm, config, params, part, size)
        return gradient(environment, agent, algorithm, config, params, part, size)

    def step(moving: Moving, part: Batch, size: BatchSize) -> tuple[Moving, Metrics]:
        moved = trained(algorithm, moving.params)
        found, metrics = gradient_at(moving.params, part, size)
        found, previous = {name: found[name] for name in moved}, None
        if algorithm.momentum is not None:
            old_params, old = moving.previous
            again = gradient_at(old_params, _with_credit(trainer, algorithm, old_params, batch), size)[0]
            alpha = jnp.where(start.update > start.skipped, algorithm.momentum, 1.0)  # the first has no predecessor
            found = {
                name: jax.tree.map(lambda g, before, same: g + (1 - alpha) * (before - same), x, old[name], again[name])
                for name, x in found.items()
            }
            previous = moving.params, found
        # The norm of one flat vector is faster for small networks than one sum per leaf.
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
    """The batch with credit and target; ratios, where they are needed, are those of `params`."""
    if _ratio_free(algorithm):
        return batch
    signals = batch.signals._replace(log_ratio=_ratios(trainer, params, batch))
    return _credited(algorithm, trainer.config, batch._replace(signals=signals))


def _ratio_free(algorithm: Algorithm) -> bool:
    """Whether neither credit nor target depends on the ratios."""
    parts = algorithm.estimator.credit, algorithm.value_target
    return all(part is None or promises(part, RATIO_FREE) for part in parts)


def _credited(algorithm: Algorithm, config: Config, batch: Batch) -> Batch:
    """The batch with credit and target from its signals, and the divisor of a penalty."""
    credit, target = credit_of(algorithm, config, batch.signals), target_of(algorithm, batch.signals)
    penalty = algorithm.reference_loss
    divisor = None if penalty is None else jax.lax.stop_gradient(step_divisor(penalty, batch.signals))
    return batch._replace(credit=credit, target=target, divisor=divisor)


def _ratios(trainer: Trainer, params: Params, batch: Batch) -> Array:
    """log ρ of the taken actions at `params`, [T, N], without gradient."""
    environment, agent, config, rows = trainer.environment, trainer.agent, trainer.config, batch.transition
    if not isinstance(rows, Replay):
        return ratios_of(agent, params, rows, batch.memory, engine(config.engine))

    def ratios_of_slice(keys_and_state: tuple[Array, Any]) -> Array:
        _, transition, memory, _ = replayed(environment, agent, config, Replay(*keys_and_state, rows.params))
        return ratios_of(agent, params, transition, memory, engine(config.engine))

    return join(jax.lax.map(ratios_of_slice, rows.slices(config.accumulate)), 1)


def _value_gradient(
    agent: Agent, algorithm: Algorithm, config: Config, params: Params, batch: Batch, size: BatchSize
) -> tuple[Params, Metrics]:
    def weighted_loss(params: Params) -> tuple[Array, Any]:
        features = seen(agent, params, batch.transition, batch.memory, engine(config.engine))
        error, metric = value_loss(agent, algorithm, params, batch, size, features)
        return jnp.asarray(algorithm.value_coefficient) * error, metric

    grads, metric = jax.grad(weighted_loss, has_aux=True)(params)  # a batch with a policy step is on one device
    return grads, {"value_loss": metric.value()}


def _policy_step(trainer: Trainer, algorithm: Algorithm, moving: Moving, batch: Batch) -> tuple[Moving, Metrics]:
    """Update the policy with the algorithm's own step on the whole batch."""
    environment, agent, config, params = trainer.environment, trainer.agent, trainer.config, moving.params
    whole = _with_credit(trainer, algorithm, params, batch)
    rows, size = whole.transition, size_of(whole.transition.mask)
    loss_grads, metrics = gradient(environment, agent, algorithm, config, params, whole, size)
    ascent = jax.tree.map(jnp.negative, loss_grads["policy"])

    def surrogate(policy: Params) -> Array:
        return -policy_loss(agent, algorithm, config, params | {"policy": policy}, whole, size)[0]

    problem = PolicyProblem(
        policy=params["policy"],
        gradient=ascent,
        surrogate=surrogate,
        distribution=lambda policy: policy_on(agent, params | {"policy": policy}, rows, whole.memory),
        weight=rows.mask / size.steps,
    )
    policy, step_metrics = algorithm.policy_step(problem)  # type: ignore[misc]
    metrics = metrics | step_metrics | {"policy_gradient_norm": optax.tree.norm(ascent)}
    return moving._replace(params=params | {"policy": policy}), metrics


def _critic_metrics(algorithm: Algorithm, batch: Batch) -> Metrics:
    """Fraction of the target's variance that the critic explains, at the parameters that sampled the batch."""
    signals = batch.signals
    target = target_of(algorithm, signals) if batch.target is None else batch.target
    value = signals.value if signals.taken_value is None else signals.taken_value
    if value is None or target is None:
        return {}
    return {"explained_variance": monitors.explained_variance(target, value, signals.mask)}


def _reuse_metrics(
    trainer: Trainer, algorithm: Algorithm, before: Params, after: Params, batch: Batch, key: Array
) -> Metrics:
    """Metrics of batch reuse and, with `diagnostics`, of the probes; only for stored rows."""
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
