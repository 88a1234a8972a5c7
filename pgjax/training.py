"""Training as a pair of pure functions, and the compiled loops around them. Knows no algorithm by name."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from pgjax import diagnostics, rollout
from pgjax.dependence import depends_on
from pgjax.gradients import accumulated_gradient, trajectory_gradients
from pgjax.losses import Batch, credit_of, loss, ratios_of, target_of, values_of
from pgjax.statistics import BatchSize, size_of
from pgjax.types import (
    Agent,
    Algorithm,
    Config,
    Environment,
    Params,
    SettingError,
    Signals,
    Trainer,
    TrainState,
    Transition,
)

Metrics = dict[str, Array]


def make_trainer(environment: Environment, agent: Agent, config: Config) -> Trainer:
    """Bind an environment, an agent and the static settings into a Trainer.

    One update collects a batch with the current policy, computes credit over the whole of it, and moves the
    parameters along the gradient, `epochs` times. Credit that carries ratios is computed anew each time.
    Hyperparameters arrive with the `algorithm` argument, never by closure.

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
    if config.critic != agent.critic:
        raise SettingError("critic", config.critic, f"does not match the agent, whose critic is {agent.critic!r}")
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
        source = (_hold if config.accumulate == 1 else _simulate_again)(
            agent, algorithm, config, state.params, collect, start
        )
        steps = jnp.sum(source.signals.mask)
        carries_ratios = depends_on(partial(credit_of, algorithm, config), source.signals, "log_ratio")
        credit, target = credit_of(algorithm, config, source.signals), target_of(algorithm, source.signals)
        optimizer = _optimizer(algorithm)

        def epoch(moving: tuple[Params, Any], _: None) -> tuple[tuple[Params, Any], Metrics]:
            params, optimizer_state = moving
            psi = credit
            if carries_ratios:
                psi = credit_of(algorithm, config, source.signals._replace(log_ratio=source.ratios(params)))
            gradient, metrics = source.gradient(params, psi, target)
            metrics["gradient_norm"] = optax.tree.norm(gradient)
            changes, optimizer_state = optimizer.update(gradient, optimizer_state, params)
            return (optax.apply_updates(params, changes), optimizer_state), metrics

        moving = state.params, state.optimizer_state
        if config.epochs == 1:
            (params, optimizer_state), metrics = epoch(moving, None)
        else:
            (params, optimizer_state), every = jax.lax.scan(epoch, moving, None, config.epochs)
            metrics = jax.tree.map(lambda x: x[-1], every)
        if source.transition is not None and (config.epochs > 1 or config.diagnostics):
            probe_key = jax.random.fold_in(rollout_key, 1)
            metrics |= diagnostics.weight_statistics(agent, config, params, source.transition)
            metrics["score_mean"] = diagnostics.score_probe(agent, state.params, source.transition, probe_key)
            if config.diagnostics:
                rows = source.transition, source.signals
                metrics |= diagnostics.monitor(agent, algorithm, config, params, *rows, probe_key)
        return TrainState(
            params=params,
            optimizer_state=optimizer_state,
            rollout_state=source.rollout_state,
            key=key,
            update=state.update + 1,
            env_steps=state.env_steps + steps.astype(jnp.int32),
        ), source.statistics.means() | metrics

    return Trainer(init, update)


class Source(NamedTuple):
    """A collected batch, held in memory or simulated again slice by slice: the same answers either way."""

    rollout_state: Any
    statistics: rollout.EpisodeStatistics
    signals: Signals  # [T, N], at the parameters that collected it
    transition: Transition | None  # where held
    ratios: Callable[[Params], Array]  # params -> log ρ, [T, N]
    gradient: Callable[[Params, Array, Array | None], tuple[Params, Metrics]]  # (params, credit, target)


def _optimizer(algorithm: Algorithm) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(algorithm.max_grad_norm), algorithm.optimizer())  # type: ignore


def _collect(
    environment: Environment, agent: Agent, config: Config, params: Params, start: tuple[Array, Any]
) -> tuple[Any, Transition, rollout.EpisodeStatistics]:
    """A batch, or the slice of it that `start` = (keys, rollout state) names: a pure function of both."""
    keys, rollout_state = start
    policy = partial(agent.policy, params)
    if config.rollout == "stream":
        return rollout.stream(environment, policy, rollout_state, keys, config.num_steps)
    transition = rollout.episodes(environment, policy, keys)
    if config.batch_steps:
        transition = rollout.keep_first(transition, config.batch_steps)
    return None, transition, rollout.statistics(transition)


def _hold(agent: Agent, algorithm: Algorithm, config: Config, behaviour: Params, collect: Any, start: Any) -> Source:
    """Collect the batch, hold it, differentiate it at once."""
    rollout_state, transition, statistics = collect(start)
    signals = values_of(agent, algorithm, config, behaviour, transition)
    size = size_of(signals.mask)
    loss_gradient = jax.grad(partial(loss, agent, algorithm, config), has_aux=True)

    def gradient(params: Params, credit: Array, target: Array | None) -> tuple[Params, Metrics]:
        batch = Batch(transition, signals, credit, target)
        if config.diagnostics:
            return _grouped_gradient(config, partial(loss_gradient, params), batch, size)
        total, metrics = loss_gradient(params, batch, size)
        if algorithm.control_variate is not None:
            ones = batch._replace(credit=jnp.ones_like(credit))
            each, scores = (trajectory_gradients(agent, algorithm.estimator, params, b) for b in (batch, ones))
            divisor = getattr(size, config.mean)
            correction = jax.tree.map(lambda x: x / divisor, algorithm.control_variate(each, scores))
            total["policy"] = jax.tree.map(jnp.add, total["policy"], correction)
        return total, metrics

    return Source(
        rollout_state, statistics, signals, transition, lambda params: ratios_of(agent, params, transition), gradient
    )


def _grouped_gradient(config: Config, gradient_of: Callable, batch: Batch, size: BatchSize) -> tuple[Params, Metrics]:
    """The same gradient as a sum over groups of trajectories, for as much arithmetic; and how noisy it is."""
    groups = jax.tree.map(lambda x: _cut(config.diagnostics, x, 1), batch)
    each, metrics = jax.vmap(gradient_of, in_axes=(0, None))(groups, size)
    total, metrics = jax.tree.map(lambda x: jnp.sum(x, axis=0), (each, metrics))
    means = jax.tree.map(lambda x: config.diagnostics * x, each["policy"])
    noise = diagnostics.gradient_noise(means, trajectories=config.num_envs)
    return total, metrics | {
        "gradient_variance": noise.variance,
        "gradient_snr": noise.snr,
        "critical_batch_size": noise.critical_batch_size,
    }


def _simulate_again(
    agent: Agent, algorithm: Algorithm, config: Config, behaviour: Params, collect: Any, start: Any
) -> Source:
    """The same with one slice's trajectories in memory at a time.

    Every slice is simulated from the same keys and parameters whenever it is needed: once for its signals (a few
    numbers per step, all that credit needs of the whole batch), and again for its gradient.
    """
    if algorithm.control_variate is not None:
        raise SettingError("accumulate", config.accumulate, "cannot serve optimal baselines, which hold all gradients")
    slices = jax.tree.map(lambda x: _cut(config.accumulate, x, 0), start)

    def first_pass(one: Any) -> Any:
        rollout_state, transition, statistics = collect(one)
        return rollout_state, values_of(agent, algorithm, config, behaviour, transition), statistics

    rollout_state, signals, statistics = jax.lax.map(first_pass, slices)
    signals = jax.tree.map(lambda x: _join(x, 1), signals)
    size = size_of(signals.mask)

    def ratios(params: Params) -> Array:
        return _join(jax.lax.map(lambda one: ratios_of(agent, params, collect(one)[1]), slices), 1)

    def gradient(params: Params, credit: Array, target: Array | None) -> tuple[Params, Metrics]:
        def batch_of(one: Any) -> Batch:
            start, *rest = one
            return Batch(collect(start)[1], *rest)

        def loss_of(params: Params, batch: Batch) -> tuple[Array, Metrics]:
            return loss(agent, algorithm, config, params, batch, size)

        parts = jax.tree.map(lambda x: _cut(config.accumulate, x, 1), (signals, credit, target))
        return accumulated_gradient(loss_of, params, (slices, *parts), batch_of)

    return Source(
        jax.tree.map(lambda x: _join(x, 0), rollout_state),
        jax.tree.map(lambda x: jnp.sum(x, axis=0), statistics),
        signals,
        None,
        ratios,
        gradient,
    )


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
