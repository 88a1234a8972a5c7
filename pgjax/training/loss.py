"""The loss: surrogate per step, policy loss and value loss."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from pgjax.config import Config
from pgjax.engine import engine
from pgjax.estimators.contracts import name_of, reported
from pgjax.estimators.distributions import Distribution
from pgjax.estimators.reductions import BatchSize
from pgjax.estimators.reference_kl import k3, log_to_reference
from pgjax.training.metrics import Metric, per_step
from pgjax.training.signals import log_ratio, seen
from pgjax.types import Agent, Algorithm, Estimator, Params, SettingError, Signals


class Batch(NamedTuple):
    """A batch or a slice of it, [T, N, ...], without gradient; `memory` is a recurrent policy's first carry, [1, N,
    ...].
    """

    transition: Any  # a Transition, or a `pgjax.training.replay.Replay` of one
    signals: Signals
    credit: Any  # computed on the whole batch
    target: Array | None = None  # the critic's regression target
    memory: Any = ()
    behaviour: Any = None  # the distributions that sampled the batch, with a KL penalty
    weight: Any = None  # of the surrogate at every step, with `max_mismatch`
    divisor: Any = None  # of the penalty on the KL to the reference policy, where the loss has one


class Contributions(NamedTuple):
    """What each step adds to the surrogate, [T, N], differentiable."""

    surrogate: Array  # 0 on padding
    distribution: Distribution  # the policy at every step
    log_ratio: Array  # log ρ_t of the taken actions
    reported: dict[str, Array]  # the estimator's own metrics, [T, N]


def contributions(
    agent: Agent, estimator: Estimator, params: Params, batch: Batch, features: Any = None
) -> Contributions:
    """Surrogate contributions of every step at `params`, [T, N].

    An estimator's contribution returns an array [T, N], or that and a dict of metrics [T, N], which are averaged over
    executed steps. `features` is the output of `seen` at these parameters, computed here if not given.
    """
    mask = batch.transition.mask
    features = seen(agent, params, batch.transition, batch.memory) if features is None else features
    distribution = agent.policy(params, features)
    x = log_ratio(distribution, batch.transition)
    out = estimator.contribution(batch.credit, batch.signals, distribution, x)
    out, estimator_metrics = out if isinstance(out, tuple) else (out, {})
    metrics = reported(estimator.contribution, x, batch.signals.continues) | estimator_metrics
    if batch.weight is not None:
        out = batch.weight * out
    for name, given in {"surrogate": out, **metrics}.items():
        if jnp.shape(given) != mask.shape:
            reason = f"returns shape {jnp.shape(given)} as {name}; needs one number per step, {mask.shape}"
            raise SettingError("estimator", name_of(estimator.contribution), reason)
    return Contributions(jnp.where(mask > 0, out, 0.0), distribution, x, metrics)


def loss(
    agent: Agent, algorithm: Algorithm, config: Config, params: Params, batch: Batch, size: BatchSize
) -> tuple[Array, dict[str, Metric]]:
    """Policy loss + value_coefficient · value loss, and metrics. Only the gradient has a meaning, not the value.

    `size` holds the counts of the whole batch, so that the losses of slices add up to that of the batch. With a GRU
    and the engine of a CPU, `jax.jvp` can differentiate this function's gradient, but not the function itself.
    """
    # once for policy and critic
    features = seen(agent, params, batch.transition, batch.memory, engine(config.engine))
    total, metrics = policy_loss(agent, algorithm, config, params, batch, size, features)
    if batch.target is not None:
        error, metric = value_loss(agent, algorithm, params, batch, size, features)
        metrics["value_loss"] = metric
        total += algorithm.value_coefficient * error
    return total, metrics


def policy_loss(
    agent: Agent,
    algorithm: Algorithm,
    config: Config,
    params: Params,
    batch: Batch,
    size: BatchSize,
    features: Any = None,
) -> tuple[Array, dict[str, Metric]]:
    """−surrogate − entropy_coefficient · entropy + kl_coefficient · KL(π_θ̄ ‖ π_θ), each a sum over N or the steps.

    With a reference policy in the loss, plus reference_coefficient · k(log π_θ/π_ref) / length. The gradient in
    `params["policy"]` is minus the gradient estimate, minus that of the entropy bonus, plus that of the penalties.
    """
    mask = batch.transition.mask
    out, distribution, x, reported = contributions(agent, algorithm.estimator, params, batch, features)
    entropy = jnp.where(mask > 0, distribution.entropy(), 0.0)
    out += algorithm.entropy_coefficient * entropy  # type: ignore[operator]  (a schedule was evaluated before)
    if algorithm.kl_coefficient is not None:
        out -= algorithm.kl_coefficient * jnp.where(mask > 0, batch.behaviour.kl(distribution), 0.0)
    metrics = {}
    if batch.signals.reference_log_prob is not None:
        to_reference = log_to_reference(batch.signals, x)
        metrics["reference_kl"] = per_step(stop_gradient(k3(to_reference)), mask)
        if algorithm.reference_loss is not None:
            penalty = algorithm.reference_loss.estimate(to_reference) / batch.divisor
            out -= algorithm.reference_loss.reference_coefficient * jnp.where(mask > 0, penalty, 0.0)
    metrics |= {
        "entropy": per_step(entropy, mask),
        "kl": per_step(stop_gradient(jnp.expm1(jnp.minimum(x, 80.0)) - x), mask),
        **{name: per_step(stop_gradient(each), mask) for name, each in reported.items()},
    }
    return -size.mean(out, config.mean), metrics


def value_loss(
    agent: Agent, algorithm: Algorithm, params: Params, batch: Batch, size: BatchSize, features: Any = None
) -> tuple[Array, Metric]:
    """½ Σ (V(s_t) − target_t)² / steps; for an action-value critic with Q(s_t, a_t) in place of V(s_t).

    With `value_clip` c, each step takes the larger of this error and that of V clipped to within ±c of its value before
    the update. PPO's code has this clip, its paper does not.
    """
    assert agent.value is not None and batch.target is not None  # checked by `pgjax.training.checks`
    features = seen(agent, params, batch.transition, batch.memory) if features is None else features
    before: Any = batch.signals.value
    if agent.action_value is not None:
        values = agent.action_value(params, features)
        predicted = jnp.take_along_axis(values, batch.transition.action[..., None], axis=-1).squeeze(-1)
        before = batch.signals.taken_value
    else:
        predicted = agent.value(params, features)
    if predicted.shape != batch.target.shape:
        reason = f"is the shape of the critic's output; needs one number per step, {batch.target.shape}"
        raise SettingError("value", predicted.shape, reason)
    error = (predicted - batch.target) ** 2
    if algorithm.value_clip is not None:
        limit = jnp.asarray(algorithm.value_clip)
        clipped = before + jnp.clip(predicted - before, -limit, limit)
        error = jnp.maximum(error, (clipped - batch.target) ** 2)
    mask = batch.transition.mask
    each = jnp.where(mask > 0, 0.5 * error, 0.0)
    return size.mean(each, "steps"), per_step(each, mask)
