"""From recorded transitions to the scalar that is differentiated: signals, credit, loss."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from pgjax.distributions import Distribution
from pgjax.returns import discounted_objective, make_signals
from pgjax.statistics import BatchSize
from pgjax.types import Agent, Algorithm, Config, Estimator, Params, Signals, Transition


class Batch(NamedTuple):
    """What the loss needs of a batch, or of a slice of its trajectories; nothing in it carries gradient."""

    transition: Transition  # [T, N, ...]
    signals: Signals  # [T, N]
    credit: Array  # [T, N, ...], computed on the whole batch


def signals_of(
    agent: Agent,
    algorithm: Algorithm,
    config: Config,
    params: Params,
    transition: Transition,
    critic_params: Params | None = None,
) -> Signals:
    """The signals of a batch, [T, N], stopped.

    Ratios are those of `params`; values those of `critic_params` (default the same), which over several updates of one
    batch stay as they were before the critic had seen it.
    """
    critic_params = params["value"] if critic_params is None else critic_params

    def value(observation: Any) -> Array | None:
        return agent.value(critic_params, observation) if agent.value else None

    signals = make_signals(
        transition.reward,
        mask=transition.mask,
        terminated=transition.terminated,
        truncated=transition.truncated,
        discount=algorithm.discount,
        value=value(transition.observation),
        next_value=value(transition.next_observation),
        log_ratio=log_ratio(agent.policy(params["policy"], transition.observation), transition),
        truncation=config.truncation,
    )
    return stop_gradient(signals)


def credit_of(algorithm: Algorithm, config: Config, signals: Signals) -> Array:
    """The estimator's credit over the whole batch, stopped; with γ^t in front where the config asks for it."""
    if config.discounted_objective:
        signals = discounted_objective(signals)
    return stop_gradient(algorithm.estimator.credit(signals))


def log_ratio(distribution: Distribution, transition: Transition) -> Array:
    """log π_θ(a_t|s_t) − log π_θ̄(a_t|s_t), [T, N]; 0 on padding."""
    return jnp.where(transition.mask > 0, distribution.log_prob(transition.action) - transition.log_prob, 0.0)


def contributions(
    agent: Agent, estimator: Estimator, policy_params: Params, batch: Batch
) -> tuple[Array, Distribution]:
    """What each step adds to the surrogate, [T, N], differentiable in `policy_params`; and the distribution."""
    distribution = agent.policy(policy_params, batch.transition.observation)
    x = log_ratio(distribution, batch.transition)
    out = estimator.contribution(batch.credit, batch.signals, distribution, x)
    return jnp.where(batch.transition.mask > 0, out, 0.0), distribution


def loss(
    agent: Agent, algorithm: Algorithm, config: Config, params: Params, batch: Batch, size: BatchSize
) -> tuple[Array, dict[str, Array]]:
    """−surrogate + value_coefficient · value loss − entropy_coefficient · entropy; and metrics.

        surrogate  = Σ contributions / (N or steps)         value loss = ½ Σ (V(s_t) − target_t)² / steps
        entropy    = Σ H(π(·|s_t)) / (N or steps), weighted as the surrogate is

    Its gradient in `params["policy"]` is minus the estimator (and minus the entropy bonus's); its value means nothing.

    Args:
      agent: policy and critic.
      algorithm: estimator and coefficients.
      config: which mean.
      params: what to differentiate in.
      batch: the whole batch or a slice of it.
      size: counts of the *whole* batch: losses of slices then add up to the whole one.
    """
    mask = batch.transition.mask
    surrogate, distribution = contributions(agent, algorithm.estimator, params["policy"], batch)
    entropy = distribution.entropy() * mask
    total = -size.mean(surrogate + algorithm.entropy_coefficient * entropy, config.mean)
    metrics = {"entropy": size.mean(entropy, "steps")}
    if agent.value is not None and algorithm.value_target is not None:
        target = stop_gradient(algorithm.value_target(batch.signals))
        error = agent.value(params["value"], batch.transition.observation) - target
        metrics["value_loss"] = size.mean(0.5 * error**2 * mask, "steps")
        total += algorithm.value_coefficient * metrics["value_loss"]
    return total, metrics
