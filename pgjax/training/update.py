"""Training as a pair of pure functions, and the compiled loops around them. Knows no algorithm by name."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from pgjax.config import Config
from pgjax.engine import counters
from pgjax.engine.startup import in_turn
from pgjax.estimators.reductions import size_of
from pgjax.estimators.sharing import own_share, total
from pgjax.estimators.steps import PolicyProblem
from pgjax.policies.normalisation import no_reward_scale
from pgjax.training import monitors as diagnostics
from pgjax.training import rollout
from pgjax.training.batch import Collection, Metrics, collect
from pgjax.training.checks import check
from pgjax.training.dependence import depends_on
from pgjax.training.guard import guard
from pgjax.training.loss import Batch, credit_of, policy_loss, policy_on, target_of, value_loss
from pgjax.training.minibatches import over_minibatches
from pgjax.types import Agent, Algorithm, Environment, Params, Trainer, TrainState

NEVER = 2**31 - 1
"""More updates than any run makes."""


def make_trainer(environment: Environment, agent: Agent, config: Config) -> Trainer:
    """Bind an environment, an agent and the static settings into a Trainer.

    One update collects a batch with the current policy, computes credit over the whole of it, and moves the
    parameters: `epochs` passes of `minibatches` gradient steps each; or one `policy_step`, and the passes for the
    critic. Credit that carries ratios is computed anew for each pass. An update that is not finite is dropped whole
    (`pgjax.training.guard`): metrics `skipped` and `nonfinite` say so. Hyperparameters arrive with the `algorithm`
    argument, never by closure.

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

    def init(algorithm: Algorithm, key: Array) -> TrainState:
        check(environment, agent, config, algorithm)
        params_key, stream_key, key = jax.random.split(key, 3)
        params = agent.init(params_key)
        trained = _trained(algorithm, params)
        stream_keys = own_share(jax.random.split(stream_key, config.num_envs))
        memory = agent.memory.initial if agent.memory else ()
        return TrainState(
            params=params,
            optimizer_state=_optimizer(algorithm, trained).init(trained),
            rollout_state=rollout.start_stream(environment, stream_keys, memory)
            if config.rollout == "stream"
            else None,
            key=key,
            update=jnp.int32(0),
            env_steps=jnp.int32(0),
            skipped=jnp.int32(0),
            skipped_in_a_row=jnp.int32(0),
            reward_scale=no_reward_scale(len(stream_keys)) if config.normalise_rewards else None,
            previous=None if algorithm.momentum is None else (params, jax.tree.map(jnp.zeros_like, trained)),
        )

    def update(algorithm: Algorithm, state: TrainState) -> tuple[TrainState, Metrics]:
        key, rollout_key = jax.random.split(state.key)
        if callable(algorithm.entropy_coefficient):
            algorithm = algorithm._replace(entropy_coefficient=algorithm.entropy_coefficient(state.update))
        batch = collect(environment, agent, config, algorithm, state, rollout_key)
        moving = Moving(state.params, state.optimizer_state, state.previous, jnp.bool_(False))
        metrics = {}
        if algorithm.policy_step is not None:
            moving, metrics = _policy_step(agent, algorithm, config, moving, batch)
        keys = jax.random.split(jax.random.fold_in(rollout_key, 2), config.epochs)
        one_pass = partial(_epoch, agent, algorithm, config, state, batch)

        def passes(moving: Moving, keys: Array) -> tuple[Moving, Metrics]:
            if config.epochs == 1:
                return one_pass(moving, keys[0])
            moving, every = jax.lax.scan(one_pass, moving, keys)
            return moving, jax.tree.map(lambda x: x[-1], every)

        moving, last = in_turn(passes, moving, keys)
        metrics |= last
        reused = config.rollout == "episodes" and config.epochs > 1
        if batch.held is not None and (reused or config.diagnostics):
            probe_key = jax.random.fold_in(rollout_key, 1)
            metrics |= _watch(agent, algorithm, config, state.params, moving.params, batch.held, probe_key)
        params = moving.params
        if agent.observe is not None:
            params = params | {"statistics": batch.observed["statistics"]}
        new = state._replace(
            params=params,
            optimizer_state=moving.optimizer_state,
            rollout_state=batch.rollout_state,
            key=key,
            update=state.update + 1,
            env_steps=counters.added(state.env_steps, total(jnp.sum(batch.signals.mask)).astype(jnp.int32)),
            reward_scale=batch.reward_scale,
            previous=moving.previous,
        )
        new, guarded = guard(environment, agent, state, new, batch, metrics, jax.random.fold_in(rollout_key, 3))
        return new, total(batch.statistics).means() | metrics | guarded

    length = config.num_steps if config.rollout == "stream" else environment.horizon
    steps = config.num_envs * length
    return Trainer(init, update, _shares(config), steps // config.minibatches >= WORTH_SHARING, steps)


def _shares(config: Config) -> int:
    """Among how many devices a batch's environments can be shared: see `Trainer.shares`."""
    alone = config.accumulate > 1 or config.batch_steps or config.diagnostics
    watched = config.rollout == "episodes" and config.epochs > 1  # `_watch` compares single trajectories
    if alone or watched:
        return 1
    apart = config.minibatches if config.shuffle == "environments" else 1
    return config.num_envs // math.lcm(apart, config.group_size)


WORTH_SHARING = 1 << 12
"""Steps per gradient step from which on devices that share them gain more than their meeting costs."""


class Moving(NamedTuple):
    """What changes while a batch is worked on."""

    params: Params
    optimizer_state: Any
    previous: Any  # with momentum
    stopped: Array  # the KL has passed `target_kl`: nothing moves any more


def _trained(algorithm: Algorithm, params: Params) -> Params:
    """The groups of parameters that the optimiser moves."""
    if algorithm.policy_step is not None:
        return {"value": params["value"]}
    return {name: group for name, group in params.items() if name != "statistics"}


def _optimizer(algorithm: Algorithm, trained: Params) -> optax.GradientTransformation:
    """Clipping, then the algorithm's own; on all parameters as one vector, in one pass where leaves would take many."""
    clip = optax.clip_by_global_norm(algorithm.max_grad_norm)  # type: ignore[arg-type]
    chain = optax.chain(clip, algorithm.optimizer())
    return optax.flatten(chain) if jax.tree.leaves(trained) else chain


def _epoch(
    agent: Agent, algorithm: Algorithm, config: Config, start: TrainState, batch: Collection, moving: Moving, key: Array
) -> tuple[Moving, Metrics]:
    """One pass over the batch."""

    def step(moving: Moving, part: Batch) -> tuple[Moving, Metrics]:
        if algorithm.policy_step is not None:
            gradient, metrics = _value_gradient(agent, algorithm, moving.params, part)
        else:
            gradient, metrics = batch.gradient(moving.params, part)
        trained = _trained(algorithm, moving.params)
        gradient = {name: gradient[name] for name in trained}
        previous = None
        if algorithm.momentum is not None:
            old_params, old_gradient = moving.previous
            again = batch.gradient(old_params, _with_credit(algorithm, config, batch, old_params))[0]
            again = {name: again[name] for name in trained}
            alpha = jnp.where(start.update > start.skipped, algorithm.momentum, 1.0)  # nothing before the first
            gradient = jax.tree.map(
                lambda g, before, same: g + (1 - alpha) * (before - same), gradient, old_gradient, again
            )
            previous = moving.params, gradient
        metrics["gradient_norm"] = jnp.linalg.norm(ravel_pytree(gradient)[0])
        changes, optimizer_state = _optimizer(algorithm, trained).update(gradient, moving.optimizer_state, trained)
        params = moving.params | dict(optax.apply_updates(trained, changes))  # type: ignore[call-overload]
        new = Moving(params, optimizer_state, previous, moving.stopped)
        if algorithm.target_kl is not None and algorithm.policy_step is None:
            stopped = moving.stopped | (metrics["kl"] > algorithm.target_kl)
            new = jax.tree.map(lambda a, b: jnp.where(stopped, b, a), new, moving)._replace(stopped=stopped)
        return new, metrics

    whole = _with_credit(algorithm, config, batch, moving.params)
    return over_minibatches(config, whole, key, step, moving)


def _with_credit(algorithm: Algorithm, config: Config, batch: Collection, params: Params) -> Batch:
    """The batch with its credit and target; those that carry ratios take them from `params`."""
    signals = batch.signals
    credit, target = partial(credit_of, algorithm, config), partial(target_of, algorithm)
    if depends_on(credit, signals, "log_ratio") or depends_on(target, signals, "log_ratio"):
        signals = signals._replace(log_ratio=batch.ratios(params))
    parts = {"signals": signals, "credit": credit(signals), "target": target(signals)}
    return Batch(transition=None, **parts) if batch.held is None else batch.held._replace(**parts)  # type: ignore


def _value_gradient(agent: Agent, algorithm: Algorithm, params: Params, batch: Batch) -> tuple[Params, Metrics]:
    size = size_of(batch.transition.mask)
    value, gradient = total(jax.value_and_grad(lambda p: value_loss(agent, algorithm, p, batch, size))(params))
    return gradient, {"value_loss": value}


def _policy_step(
    agent: Agent, algorithm: Algorithm, config: Config, moving: Moving, batch: Collection
) -> tuple[Moving, Metrics]:
    """Move the policy by the algorithm's own step on the whole batch."""
    params, whole = moving.params, _with_credit(algorithm, config, batch, moving.params)
    size = size_of(whole.transition.mask)

    def raised(policy: Params) -> tuple[Array, Metrics]:
        lowered, metrics = policy_loss(agent, algorithm, config, params | {"policy": policy}, whole, size)
        return -lowered, metrics

    gradient, metrics = jax.grad(raised, has_aux=True)(params["policy"])
    problem = PolicyProblem(
        policy=params["policy"],
        gradient=gradient,
        surrogate=lambda policy: raised(policy)[0],
        distribution=lambda policy: policy_on(agent, params | {"policy": policy}, whole.transition, whole.memory),
        weight=whole.transition.mask / size.steps,
    )
    policy, of_step = algorithm.policy_step(problem)  # type: ignore[misc]
    metrics |= of_step | {"policy_gradient_norm": optax.tree.norm(gradient)}
    return moving._replace(params=params | {"policy": policy}), metrics


def _watch(
    agent: Agent, algorithm: Algorithm, config: Config, before: Params, after: Params, batch: Batch, key: Array
) -> Metrics:
    """What reuse has cost, and, where `diagnostics` asks for it, what the probes say."""
    metrics = diagnostics.weight_statistics(agent, config, after, batch.transition, batch.memory)
    metrics["score_mean"] = diagnostics.score_probe(agent, before, batch.transition, key, batch.memory)
    if config.diagnostics:
        metrics |= diagnostics.monitor(agent, algorithm, config, after, batch, key)
    return metrics


def run_updates(
    trainer: Trainer,
    algorithm: Algorithm,
    state: TrainState,
    total_steps: ArrayLike,
    length: int,
    max_skipped: ArrayLike = NEVER,
) -> tuple[TrainState, Metrics]:
    """Scan `length` updates; those after the first that reaches `total_steps` change nothing.

    Nor do those after `max_skipped` in a row that were not finite.

    Returns:
      The state, and metrics [length] with `update`, `env_steps` and `active` (False where nothing was done).

    Raises:
      SettingError: for numbers that are no counts, or more than a counter of 32 bits holds.

    >>> from pgjax import environments, make_agent, reinforce
    >>> env, algorithm = environments.make("SimpleBandit-bsuite"), reinforce().algorithm
    >>> trainer = make_trainer(env, make_agent(env, hidden=()), Config(num_envs=4))
    >>> state = trainer.init(algorithm, jax.random.key(0))
    >>> state, metrics = run_updates(trainer, algorithm, state, total_steps=8, length=3)  # episodes of one step
    >>> metrics["env_steps"].tolist(), metrics["active"].tolist()
    ([4, 8, 8], [True, True, False])
    """

    length = counters.count("length", length, least=0)
    if not isinstance(total_steps, Tracer):
        total_steps = counters.budget("total_steps", total_steps, trainer.steps)

    def step(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        active = (state.env_steps < total_steps) & (state.skipped_in_a_row < max_skipped)
        new, metrics = trainer.update(algorithm, state)
        new = jax.tree.map(lambda a, b: jnp.where(active, a, b), new, state)
        return new, metrics | {"update": new.update, "env_steps": new.env_steps, "active": active}

    return jax.lax.scan(step, state, None, length)


@partial(jax.jit, static_argnames=("trainer", "num_updates"))
def train(trainer: Trainer, algorithm: Algorithm, key: Array, num_updates: int) -> tuple[TrainState, Metrics]:
    """Train one policy from scratch for a fixed number of updates, in one compiled call.

    Returns:
      The final state and metrics, each [num_updates].

    Raises:
      SettingError: for a number of updates that is no count, or whose steps a counter of 32 bits may not hold.

    >>> from pgjax import environments, make_agent, reinforce
    >>> env = environments.make("SimpleBandit-bsuite")
    >>> trainer = make_trainer(env, make_agent(env, hidden=()), Config(num_envs=4))
    >>> state, metrics = train(trainer, reinforce().algorithm, jax.random.key(0), num_updates=3)
    >>> int(state.env_steps), metrics["return_mean"].shape  # 3 updates, 4 episodes each, of one step
    (12, (3,))
    """

    num_updates = counters.updates("num_updates", num_updates, trainer.steps)

    def step(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        return trainer.update(algorithm, state)

    return jax.lax.scan(step, trainer.init(algorithm, key), None, num_updates)
