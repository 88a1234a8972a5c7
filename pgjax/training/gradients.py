"""Gradients of the loss: of stored rows, of rows that are simulated again, and of single trajectories."""

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
from pgjax.estimators.reductions import BatchSize, sum_over_devices
from pgjax.training.loss import Batch, contributions, loss
from pgjax.training.metrics import Metric, Metrics, values
from pgjax.training.monitors import gradient_noise
from pgjax.training.replay import Replay, replayed
from pgjax.types import Agent, Algorithm, Environment, Estimator, Params


def gradient(
    environment: Environment,
    agent: Agent,
    algorithm: Algorithm,
    config: Config,
    params: Params,
    batch: Batch,
    size: BatchSize,
) -> tuple[Params, Metrics]:
    """Gradient of the loss over a batch or minibatch of this size, and its metrics.

    With `Config.diagnostics` it is a sum over groups of trajectories, and the metrics measure the gradient noise. A
    control variate adds its correction. Devices that share a batch sum their gradients; replayed and grouped batches
    are not shared (`pgjax.training.sharing`).
    """
    if isinstance(batch.transition, Replay):
        grads, metrics = _of_replayed(environment, agent, algorithm, config, params, batch, size)
        return grads, values(metrics)
    noise = {}
    if config.diagnostics:
        grads, metrics, noise = _over_groups(agent, algorithm, config, params, batch, size)
    else:
        grads, metrics = sum_over_devices(loss_gradient(agent, algorithm, config, params, batch, size))
    if algorithm.control_variate is not None:
        correction = _correction(agent, algorithm, params, batch)
        divisor = getattr(size, config.mean)
        grads["policy"] = jax.tree.map(lambda g, c: g + c / divisor, grads["policy"], correction)
    return grads, values(metrics) | noise


def loss_gradient(
    agent: Agent, algorithm: Algorithm, config: Config, params: Params, batch: Batch, size: BatchSize
) -> tuple[Params, dict[str, Metric]]:
    """Gradient of `pgjax.training.loss.loss` in all parameters, and its metrics. For feedforward policies the engine
    may sum it over blocks of steps (surrogate declared `per_step`) or of trajectories (`per_trajectory`). Smaller
    blocks would not speed up a recurrent policy, whose products run over all trajectories at one step.
    """

    def gradient_of(part: Batch) -> tuple[Params, dict[str, Metric]]:
        return jax.grad(loss, argnums=3, has_aux=True)(agent, algorithm, config, params, part, size)

    contribution = algorithm.estimator.contribution
    has_padding = config.rollout == "episodes"
    feedforward = agent.memory is None
    per_step = has_padding and feedforward and promises(contribution, PER_STEP)
    if per_step:
        batch = batch._replace(memory=())
    return engine(config.engine).gradient_sum(
        gradient_of,
        batch,
        batch.transition.mask,
        per_step=per_step,
        per_trajectory=feedforward and promises(contribution, PER_TRAJECTORY),
    )


def _of_replayed(
    environment: Environment,
    agent: Agent,
    algorithm: Algorithm,
    config: Config,
    params: Params,
    batch: Batch,
    size: BatchSize,
) -> tuple[Params, dict[str, Metric]]:
    """The same gradient with the rows of one slice in memory at a time, simulated again."""
    slices, rows = config.accumulate, batch.transition

    def gradient_of(slice_of_batch: tuple) -> tuple[Params, dict[str, Metric]]:
        (keys, rollout_state), rest = slice_of_batch
        part = Replay(keys, rollout_state, rows.params)
        _, transition, memory, _ = replayed(environment, agent, config, part)
        return loss_gradient(
            agent, algorithm, config, params, rest._replace(transition=transition, memory=memory), size
        )

    rest = jax.tree.map(lambda x: cut(slices, x, 1), batch._replace(transition=None, memory=()))
    return summed(gradient_of, (rows.slices(slices), rest))


def _over_groups(
    agent: Agent, algorithm: Algorithm, config: Config, params: Params, batch: Batch, size: BatchSize
) -> tuple[Params, dict[str, Metric], Metrics]:
    """The same gradient as a sum over groups of trajectories, and the noise of the group gradients."""
    groups = jax.tree.map(lambda x: cut(config.diagnostics, x, 1), batch)
    gradient_of = partial(loss_gradient, agent, algorithm, config, params)
    group_grads, metrics = jax.vmap(gradient_of, in_axes=(0, None))(groups, size)
    grads, metrics = jax.tree.map(lambda x: jnp.sum(x, axis=0), (group_grads, metrics))
    policy = group_grads["policy"]
    if algorithm.control_variate is not None:  # so that the noise is that of the corrected gradient
        corrections = jax.vmap(partial(_correction, agent, algorithm, params))(groups)
        divisor = getattr(size, config.mean)
        policy = jax.tree.map(lambda g, c: g + c / divisor, policy, corrections)
    means = jax.tree.map(lambda x: config.diagnostics * x, policy)
    noise = gradient_noise(means, trajectories=config.num_envs)
    return (
        grads,
        metrics,
        {
            "gradient_variance": noise.variance,
            "gradient_snr": noise.snr,
            "critical_batch_size": noise.critical_batch_size,
        },
    )


def _correction(agent: Agent, algorithm: Algorithm, params: Params, batch: Batch) -> Params:
    """The control variate's correction, in units of N times the policy gradient of the loss."""
    ones = batch._replace(credit=jax.tree.map(jnp.ones_like, batch.credit))
    gradients, scores = (trajectory_gradients(agent, algorithm.estimator, params, b) for b in (batch, ones))
    control_variate: Callable = algorithm.control_variate  # type: ignore[assignment]
    return control_variate(gradients, scores)


def trajectory_gradients(agent: Agent, estimator: Estimator, params: Params, batch: Batch) -> Params:
    """Gradient of the surrogate in `params["policy"]` per trajectory, [N, ...]; their mean is the gradient estimate."""

    def surrogate(policy: Params, trajectory: Batch) -> Array:
        batch_of_one = jax.tree.map(lambda x: x[:, None], trajectory)
        return jnp.sum(contributions(agent, estimator, params | {"policy": policy}, batch_of_one).surrogate)

    return jax.vmap(jax.grad(surrogate), in_axes=(None, 1))(params["policy"], batch)
