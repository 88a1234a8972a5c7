"""Training as a pair of pure functions, and the compiled loops around them. Knows no algorithm by name."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from pgjax import rollout
from pgjax.diagnostics import weight_statistics
from pgjax.gradients import accumulated_gradient, trajectory_gradients
from pgjax.losses import Batch, credit_of, loss, signals_of
from pgjax.statistics import size_of
from pgjax.types import (
    Agent,
    Algorithm,
    Config,
    Environment,
    Params,
    SettingError,
    Trainer,
    TrainState,
    Transition,
)

Metrics = dict[str, Array]


def make_trainer(environment: Environment, agent: Agent, config: Config) -> Trainer:
    """Bind an environment, an agent and the static settings into a Trainer.

    One update collects a batch with the current policy, computes credit over the whole of it, and moves the
    parameters along the gradient, `updates_per_batch` times. Hyperparameters arrive with the `algorithm` argument,
    never by closure.

    Raises:
      SettingError: where config and agent contradict each other.

    >>> from pgjax import Config, environments, make_agent, algorithms
    >>> env = environments.make("Catch-bsuite")
    >>> trainer = make_trainer(env, make_agent(env), Config(num_envs=4))
    >>> state = trainer.init(algorithms.reinforce().algorithm, jax.random.key(0))
    >>> state, metrics = jax.jit(trainer.update)(algorithms.reinforce().algorithm, state)
    >>> int(state.env_steps)
    36
    """
    if config.critic != (agent.value is not None):
        raise SettingError("critic", config.critic, "does not match the agent: make both with the same `critic`")
    if config.batch_steps and config.accumulate > 1:
        raise SettingError("batch_steps", config.batch_steps, "cannot be combined with accumulate > 1")

    def init(algorithm: Algorithm, key: Array) -> TrainState:
        params_key, stream_key, key = jax.random.split(key, 3)
        params = agent.init(params_key)
        streaming = config.rollout == "stream"
        return TrainState(
            params=params,
            optimizer_state=_optimizer(algorithm).init(params),
            rollout_state=rollout.start_stream(environment, jax.random.split(stream_key, config.num_envs))
            if streaming
            else None,
            key=key,
            update=jnp.int32(0),
            env_steps=jnp.int32(0),
        )

    def update(algorithm: Algorithm, state: TrainState) -> tuple[TrainState, Metrics]:
        key, rollout_key = jax.random.split(state.key)
        start = jax.random.split(rollout_key, config.num_envs), state.rollout_state
        collect = partial(_collect, environment, agent, config, state.params)
        if config.accumulate == 1:
            collected = collect(start)
            collect = lambda _: collected  # noqa: E731  (held, not simulated again)
        gradient_of = _whole_gradient if config.accumulate == 1 else _sliced_gradient
        optimizer = _optimizer(algorithm)

        def step(moving: tuple[Params, Any], _: None) -> tuple[tuple[Params, Any], Any]:
            params, optimizer_state = moving
            gradient, metrics, once = gradient_of(agent, algorithm, config, params, state.params, collect, start)
            metrics["gradient_norm"] = optax.tree.norm(gradient)
            changes, optimizer_state = optimizer.update(gradient, optimizer_state, params)
            return (optax.apply_updates(params, changes), optimizer_state), (metrics, once)

        moving = state.params, state.optimizer_state
        if config.updates_per_batch == 1:
            (params, optimizer_state), (metrics, once) = step(moving, None)
        else:
            (params, optimizer_state), every = jax.lax.scan(step, moving, None, config.updates_per_batch)
            metrics, once = jax.tree.map(lambda x: x[-1], every)
        if config.updates_per_batch > 1 and config.accumulate == 1:
            metrics |= weight_statistics(agent, config, params, collect(start)[1])
        return TrainState(
            params=params,
            optimizer_state=optimizer_state,
            rollout_state=once.rollout_state,
            key=key,
            update=state.update + 1,
            env_steps=state.env_steps + once.steps.astype(jnp.int32),
        ), once.statistics.means() | metrics

    return Trainer(init, update)


class Once(NamedTuple):
    """What a batch gives besides its gradient."""

    rollout_state: Any
    statistics: rollout.EpisodeStatistics
    steps: Array


def _optimizer(algorithm: Algorithm) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(algorithm.max_grad_norm), algorithm.optimizer())  # type: ignore


def _collect(
    environment: Environment, agent: Agent, config: Config, params: Params, start: tuple[Array, Any]
) -> tuple[Any, Transition, rollout.EpisodeStatistics]:
    """A batch, or the slice of it that `start` = (keys, rollout state) names: a pure function of both."""
    keys, rollout_state = start
    policy = partial(agent.policy, params["policy"])
    if config.rollout == "stream":
        return rollout.stream(environment, policy, rollout_state, keys, config.num_steps)
    transition = rollout.episodes(environment, policy, keys)
    if config.batch_steps:
        transition = rollout.keep_first(transition, config.batch_steps)
    return None, transition, rollout.statistics(transition)


def _whole_gradient(
    agent: Agent,
    algorithm: Algorithm,
    config: Config,
    params: Params,
    behaviour: Params,
    collect: Any,
    start: Any,
) -> tuple[Params, Metrics, Once]:
    """Collect the batch, hold it, differentiate it at once."""
    rollout_state, transition, statistics = collect(start)
    signals = signals_of(agent, algorithm, config, params, transition, behaviour["value"])
    batch = Batch(transition, signals, credit_of(algorithm, config, signals))
    size = size_of(signals.mask)
    gradient, metrics = jax.grad(partial(loss, agent, algorithm, config), has_aux=True)(params, batch, size)
    if algorithm.control_variate is not None:
        ones = batch._replace(credit=jnp.ones_like(batch.credit))
        each, scores = (trajectory_gradients(agent, algorithm.estimator, params["policy"], b) for b in (batch, ones))
        divisor = getattr(size, config.mean)
        correction = jax.tree.map(lambda x: x / divisor, algorithm.control_variate(each, scores))
        gradient["policy"] = jax.tree.map(jnp.add, gradient["policy"], correction)
    return gradient, metrics, Once(rollout_state, statistics, size.steps)


def _sliced_gradient(
    agent: Agent,
    algorithm: Algorithm,
    config: Config,
    params: Params,
    behaviour: Params,
    collect: Any,
    start: Any,
) -> tuple[Params, Metrics, Once]:
    """The same gradient with one slice's trajectories in memory at a time.

    Every slice is simulated twice, from the same keys and parameters: once for its signals (a few numbers per step,
    all that credit needs of the whole batch), once more for its gradient.
    """
    if algorithm.control_variate is not None:
        raise SettingError("accumulate", config.accumulate, "cannot serve optimal baselines, which hold all gradients")
    cut, join = partial(_cut, config.accumulate), _join
    start = jax.tree.map(lambda x: cut(x, 0), start)

    def first_pass(one: Any) -> Any:
        rollout_state, transition, statistics = collect(one)
        signals = signals_of(agent, algorithm, config, params, transition, behaviour["value"])
        return rollout_state, signals, statistics

    rollout_state, signals, statistics = jax.lax.map(first_pass, start)
    signals = jax.tree.map(lambda x: join(x, 1), signals)
    credit, size = credit_of(algorithm, config, signals), size_of(signals.mask)

    def batch_of(one: Any) -> Batch:
        start, signals, credit = one
        return Batch(collect(start)[1], signals, credit)

    def loss_of(params: Params, batch: Batch) -> tuple[Array, Metrics]:
        return loss(agent, algorithm, config, params, batch, size)

    slices = (start, *jax.tree.map(lambda x: cut(x, 1), (signals, credit)))
    gradient, metrics = accumulated_gradient(loss_of, params, slices, batch_of)
    totals = jax.tree.map(lambda x: jnp.sum(x, axis=0), statistics)
    return gradient, metrics, Once(jax.tree.map(lambda x: join(x, 0), rollout_state), totals, size.steps)


def _cut(slices: int, x: Array, axis: int) -> Array:
    """[..., N, ...] -> [slices, ..., N/slices, ...]."""
    shape = (*x.shape[:axis], slices, x.shape[axis] // slices, *x.shape[axis + 1 :])
    return jnp.moveaxis(x.reshape(shape), axis, 0)


def _join(x: Array, axis: int) -> Array:
    """Undo `_cut`."""
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def run_updates(
    trainer: Trainer, algorithm: Algorithm, state: TrainState, total_steps: Array, length: int
) -> tuple[TrainState, Metrics]:
    """Scan `length` updates; those after the first that reaches `total_steps` change nothing.

    Returns:
      The state, and metrics [length] with `update`, `env_steps` and `active` (False where nothing was done).
    """

    def step(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        active = state.env_steps < total_steps
        new, metrics = trainer.update(algorithm, state)
        new = jax.tree.map(lambda a, b: jnp.where(active, a, b), new, state)
        return new, metrics | {"update": new.update, "env_steps": new.env_steps, "active": active}

    return jax.lax.scan(step, state, None, length)


@partial(jax.jit, static_argnames=("trainer", "num_updates"))
def train(trainer: Trainer, algorithm: Algorithm, key: Array, num_updates: int) -> tuple[TrainState, Metrics]:
    """Train one policy from scratch for a fixed number of updates, in one compiled call.

    Returns:
      The final state and metrics, each [num_updates].
    """

    def step(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        return trainer.update(algorithm, state)

    return jax.lax.scan(step, trainer.init(algorithm, key), None, num_updates)
