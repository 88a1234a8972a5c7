"""From recorded transitions to the scalar that is differentiated: signals, credit, loss."""

from typing import NamedTuple

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
    target: Array | None = None  # what the critic regresses on, [T, N]


def signals_of(agent: Agent, algorithm: Algorithm, config: Config, params: Params, transition: Transition) -> Signals:
    """The signals of a batch, [T, N], stopped, with the ratios and the values of `params`.

    >>> import jax
    >>> from functools import partial
    >>> from pgjax import environments, make_agent, reinforce, reward_to_go, rollout
    >>> env, recipe = environments.make("Catch-bsuite"), reinforce()
    >>> agent = make_agent(env)
    >>> params = agent.init(jax.random.key(0))
    >>> rows = rollout.episodes(env, partial(agent.policy, params), jax.random.split(jax.random.key(1), 4))
    >>> reward_to_go(signals_of(agent, recipe.algorithm, recipe.config, params, rows)).shape
    (9, 4)
    """
    signals = values_of(agent, algorithm, config, params, transition)
    return signals._replace(log_ratio=ratios_of(agent, params, transition))


def values_of(agent: Agent, algorithm: Algorithm, config: Config, params: Params, transition: Transition) -> Signals:
    """The signals of a batch drawn by `params` itself: all ratios are 1."""
    signals = make_signals(
        transition.reward,
        mask=transition.mask,
        terminated=transition.terminated,
        truncated=transition.truncated,
        discount=algorithm.discount,
        value=agent.value(params, transition.observation) if agent.value else None,
        next_value=agent.value(params, transition.next_observation) if agent.value else None,
        action_value=agent.action_value(params, transition.observation) if agent.action_value else None,
        action=transition.action,
        truncation=config.truncation,
    )
    return stop_gradient(signals)


def ratios_of(agent: Agent, params: Params, transition: Transition) -> Array:
    """log ρ of the taken actions under the policy of `params`, [T, N], stopped."""
    return stop_gradient(log_ratio(agent.policy(params, transition.observation), transition))


def credit_of(algorithm: Algorithm, config: Config, signals: Signals) -> Array:
    """The estimator's credit over the whole batch, stopped; with γ^t in front where the config asks for it."""
    if config.discounted_objective:
        signals = discounted_objective(signals)
    return stop_gradient(algorithm.estimator.credit(signals))


def target_of(algorithm: Algorithm, signals: Signals) -> Array | None:
    """What the critic regresses on, stopped; None without one."""
    return None if algorithm.value_target is None else stop_gradient(algorithm.value_target(signals))


def log_ratio(distribution: Distribution, transition: Transition) -> Array:
    """log π_θ(a_t|s_t) − log π_θ̄(a_t|s_t), [T, N]; 0 on padding."""
    return jnp.where(transition.mask > 0, distribution.log_prob(transition.action) - transition.log_prob, 0.0)


def contributions(agent: Agent, estimator: Estimator, params: Params, batch: Batch) -> tuple[Array, Distribution]:
    """What each step adds to the surrogate, [T, N], differentiable in `params`; and the distribution."""
    distribution = agent.policy(params, batch.transition.observation)
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
    An action-value critic's error is that of the taken action, Q(s_t, a_t).

    Args:
      agent: policy and critic.
      algorithm: estimator and coefficients.
      config: which mean.
      params: what to differentiate in.
      batch: the whole batch or a slice of it.
      size: counts of the *whole* batch: losses of slices then add up to the whole one.
    """
    mask = batch.transition.mask
    surrogate, distribution = contributions(agent, algorithm.estimator, params, batch)
    entropy = distribution.entropy() * mask
    total = -size.mean(surrogate + algorithm.entropy_coefficient * entropy, config.mean)
    metrics = {"entropy": size.mean(entropy, "steps")}
    if batch.target is not None:
        error = prediction(agent, params, batch.transition) - batch.target
        metrics["value_loss"] = size.mean(0.5 * error**2 * mask, "steps")
        total += algorithm.value_coefficient * metrics["value_loss"]
    return total, metrics


def prediction(agent: Agent, params: Params, transition: Transition) -> Array:
    """The critic's word on each step, [T, N]: V(s_t), or Q(s_t, a_t) of an action-value critic."""
    if agent.action_value is not None:
        values = agent.action_value(params, transition.observation)
        return jnp.take_along_axis(values, transition.action[..., None], axis=-1).squeeze(-1)
    assert agent.value is not None  # the trainer has compared agent and config
    return agent.value(params, transition.observation)
