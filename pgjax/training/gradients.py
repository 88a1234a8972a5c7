"""Gradients of the loss: of rows in memory, of rows that are simulated again, of single trajectories."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.config import Config
from pgjax.engine import engine
from pgjax.engine.blocks import cut, summed
from pgjax.estimators.contracts import PER_STEP, PER_TRAJECTORY, promises
from pgjax.estimators.optimal_baselines import optimal_baseline as optimal_baseline
from pgjax.estimators.optimal_baselines import optimal_per_parameter as optimal_per_parameter
from pgjax.estimators.optimal_baselines import optimal_scalar as optimal_scalar
from pgjax.estimators.reductions import BatchSize, size_of, sum_over_devices
from pgjax.training.loss import Batch, contributions, loss
from pgjax.training.metrics import Metric, Metrics, values
from pgjax.training.monitors import gradient_noise
from pgjax.training.replay import Replay, replayed
from pgjax.types import Agent, Algorithm, Environment, Estimator, Params


def gradient(
    environment: Environment, agent: Agent, algorithm: Algorithm, config: Config, params: Params, batch: Batch
) -> tuple[Params, Metrics]:
    """Gradient of the loss over a whole batch or minibatch, whatever its rows are, and its metrics.

    With `Config.diagnostics` as a sum over groups of trajectories, which tells how noisy it is; with a control variate
    corrected by that. Devices that share the batch add up their parts; they share none that is simulated again or cut
    into groups (`pgjax.training.sharing`).
    """
    if isinstance(batch.transition, Replay):
        found, metrics = _of_replayed(environment, agent, algorithm, config, params, batch)
        return found, values(metrics)
    size, noise = size_of(batch.transition.mask), {}
    if config.diagnostics:
        found, metrics, noise = _over_groups(agent, algorithm, config, params, batch, size)
    else:
        found, metrics = sum_over_devices(loss_gradient(agent, algorithm, config, params, batch, size))
    if algorithm.control_variate is not None:
        correction = _correction(agent, algorithm, params, batch)
        divisor = getattr(size, config.mean)
        found["policy"] = jax.tree.map(lambda g, c: g + c / divisor, found["policy"], correction)
    return found, values(metrics) | noise


def loss_gradient(
    agent: Agent, algorithm: Algorithm, config: Config, params: Params, batch: Batch, size: BatchSize
) -> tuple[Params, dict[str, Metric]]:
    """Gradient of `pgjax.training.loss.loss` in all parameters, and its metrics; arguments as there.

    The engine may take it as a sum over blocks where no memory runs along time: of single steps where the surrogate is
    declared `per_step`, of trajectories where it is declared `per_trajectory`. A memory multiplies the steps of one
    moment by its weights; with fewer trajectories these products get no cheaper.

    >>> from pgjax import Categorical, Transition, make_signals, reinforce
    >>> agent = Agent(init=None, policy=lambda params, x: Categorical(params["policy"] * x))  # a bandit's two arms
    >>> x, ones = jnp.ones((1, 2, 1)), jnp.ones((1, 2))
    >>> rows = Transition(x, jnp.array([[0, 1]]), jnp.log(0.5 * ones), ones, ones, 0 * ones, x, ones)
    >>> batch = Batch(rows, make_signals(rows.reward), credit=jnp.array([[1.0, 3.0]]))
    >>> params = {"policy": jnp.zeros(2)}
    >>> gradient, _ = loss_gradient(agent, reinforce().algorithm, Config(), params, batch, BatchSize(2.0, 2.0))
    >>> gradient["policy"].tolist()  # minus the mean of 1 · (½, −½) and 3 · (−½, ½)
    [0.5, -0.5]
    """

    def of(part: Batch) -> tuple[Params, dict[str, Metric]]:
        return jax.grad(loss, argnums=3, has_aux=True)(agent, algorithm, config, params, part, size)

    contribution = algorithm.estimator.contribution
    whole_episodes = config.rollout == "episodes"  # streams have no padding to leave out
    along_time = agent.memory is not None
    apart = whole_episodes and not along_time and promises(contribution, PER_STEP)
    if apart:
        batch = batch._replace(memory=())
    # of(batch), or the sum of `of` over blocks of it.
    return engine(config.engine).gradient_sum(
        of,
        batch,
        batch.transition.mask,
        per_step=apart,
        per_trajectory=not along_time and promises(contribution, PER_TRAJECTORY),
    )


def _of_replayed(
    environment: Environment, agent: Agent, algorithm: Algorithm, config: Config, params: Params, batch: Batch
) -> tuple[Params, dict[str, Metric]]:
    """The same with one slice's rows in memory at a time, each simulated again."""
    size, slices, rows = size_of(batch.signals.mask), config.accumulate, batch.transition

    def of(one: tuple) -> tuple[Params, dict[str, Metric]]:
        (keys, rollout_state), rest = one
        part = Replay(keys, rollout_state, rows.params)
        _, transition, memory, _ = replayed(environment, agent, config, part)
        return loss_gradient(
            agent, algorithm, config, params, rest._replace(transition=transition, memory=memory), size
        )

    rest = jax.tree.map(lambda x: cut(slices, x, 1), batch._replace(transition=None, memory=()))
    return summed(of, (rows.slices(slices), rest))


def _over_groups(
    agent: Agent, algorithm: Algorithm, config: Config, params: Params, batch: Batch, size: BatchSize
) -> tuple[Params, dict[str, Metric], Metrics]:
    """The same gradient as a sum over groups of trajectories, for as much arithmetic; and how noisy it is."""
    groups = jax.tree.map(lambda x: cut(config.diagnostics, x, 1), batch)
    of = partial(loss_gradient, agent, algorithm, config, params)
    each, metrics = jax.vmap(of, in_axes=(0, None))(groups, size)
    found, metrics = jax.tree.map(lambda x: jnp.sum(x, axis=0), (each, metrics))
    policy = each["policy"]
    if algorithm.control_variate is not None:  # each group by its own trajectories: the noise of what is used
        corrections = jax.vmap(partial(_correction, agent, algorithm, params))(groups)
        divisor = getattr(size, config.mean)
        policy = jax.tree.map(lambda g, c: g + c / divisor, policy, corrections)
    means = jax.tree.map(lambda x: config.diagnostics * x, policy)
    noise = gradient_noise(means, trajectories=config.num_envs)
    return (
        found,
        metrics,
        {
            "gradient_variance": noise.variance,
            "gradient_snr": noise.snr,
            "critical_batch_size": noise.critical_batch_size,
        },
    )


def _correction(agent: Agent, algorithm: Algorithm, params: Params, batch: Batch) -> Params:
    """What the control variate adds to N times the loss's gradient in the policy."""
    ones = batch._replace(credit=jax.tree.map(jnp.ones_like, batch.credit))
    each, scores = (trajectory_gradients(agent, algorithm.estimator, params, b) for b in (batch, ones))
    control_variate: Callable = algorithm.control_variate  # type: ignore[assignment]
    return control_variate(each, scores)


def trajectory_gradients(agent: Agent, estimator: Estimator, params: Params, batch: Batch) -> Params:
    """The surrogate's gradient in `params["policy"]` of every trajectory by itself, a pytree of [N, ...].

    Their mean is the estimate.

    >>> from pgjax import Categorical, Transition, make_signals, product, reward_to_go, score
    >>> agent = Agent(init=None, policy=lambda params, x: Categorical(params["policy"] * x))  # a bandit's two arms
    >>> x, ones = jnp.ones((1, 2, 1)), jnp.ones((1, 2))
    >>> rows = Transition(x, jnp.array([[0, 1]]), jnp.log(0.5 * ones), ones, ones, 0 * ones, x, ones)
    >>> batch = Batch(rows, make_signals(rows.reward), credit=jnp.array([[1.0, 3.0]]))
    >>> estimator, params = product(reward_to_go, score), {"policy": jnp.zeros(2)}
    >>> trajectory_gradients(agent, estimator, params, batch).tolist()  # 1 · (½, −½) and 3 · (−½, ½)
    [[0.5, -0.5], [-1.5, 1.5]]
    """

    def surrogate(policy: Params, trajectory: Batch) -> Array:
        alone = jax.tree.map(lambda x: x[:, None], trajectory)
        return jnp.sum(contributions(agent, estimator, params | {"policy": policy}, alone).surrogate)

    return jax.vmap(jax.grad(surrogate), in_axes=(None, 1))(params["policy"], batch)
