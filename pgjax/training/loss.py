"""The scalar that is differentiated: what each step adds to the surrogate, the policy's loss and the critic's."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from pgjax.config import Config
from pgjax.estimators.contracts import name_of, reported
from pgjax.estimators.distributions import Distribution
from pgjax.estimators.reductions import BatchSize
from pgjax.estimators.reference_kl import k3, log_to_reference
from pgjax.training.metrics import Metric, per_step
from pgjax.training.signals import log_ratio, seen
from pgjax.types import Agent, Algorithm, Estimator, Params, SettingError, Signals


class Batch(NamedTuple):
    """What the loss needs of a batch, or of a slice of it: leaves [T, N, ...], nothing carries gradient.

    `memory` is [1, N, ...]: what a recurrent policy remembered at the first row.
    """

    transition: Any  # a Transition, or a `pgjax.training.replay.Replay` of one
    signals: Signals
    credit: Any  # computed on the whole batch
    target: Array | None = None  # what the critic regresses on
    memory: Any = ()
    behaviour: Any = None  # the distributions that sampled the batch, where a KL is asked for
    weight: Any = None  # of the surrogate at every step, where sampler and learner are told apart
    divisor: Any = None  # of the penalty on the KL to the reference policy, where there is one in the loss


class Contributions(NamedTuple):
    """What each step adds to the surrogate, [T, N], differentiable; with what it was made of.

    Attributes:
      surrogate: 0 on padding.
      distribution: the policy at every step.
      log_ratio: log ρ of the taken actions.
      reported: metrics of the estimator's own, name -> [T, N].
    """

    surrogate: Array
    distribution: Distribution
    log_ratio: Array
    reported: dict[str, Array]


def contributions(
    agent: Agent, estimator: Estimator, params: Params, batch: Batch, features: Any = None
) -> Contributions:
    """The estimator's contributions at `params`, [T, N]; `features` are what `seen` gives there, if it is known.

    An estimator's contribution gives [T, N] numbers, or those and a dict of [T, N] metrics, which are averaged over
    executed steps.

    Raises:
      SettingError: for a contribution of another shape.
    """
    mask = batch.transition.mask
    features = seen(agent, params, batch.transition, batch.memory) if features is None else features
    distribution = agent.policy(params, features)
    x = log_ratio(distribution, batch.transition)
    out = estimator.contribution(batch.credit, batch.signals, distribution, x)
    out, own = out if isinstance(out, tuple) else (out, {})
    metrics = reported(estimator.contribution, x, batch.signals.continues) | own
    if batch.weight is not None:
        out = batch.weight * out
    for name, given in {"surrogate": out, **metrics}.items():
        if jnp.shape(given) != mask.shape:
            reason = (
                f"gives an array of shape {jnp.shape(given)} as {name}; needed is one number per step, {mask.shape}"
            )
            raise SettingError("estimator", name_of(estimator.contribution), reason)
    return Contributions(jnp.where(mask > 0, out, 0.0), distribution, x, metrics)


def loss(
    agent: Agent, algorithm: Algorithm, config: Config, params: Params, batch: Batch, size: BatchSize
) -> tuple[Array, dict[str, Metric]]:
    """Policy loss + value_coefficient · value loss; and metrics. Its value means nothing; its gradient is the update's.

    Args:
      agent: policy and critic.
      algorithm: estimator and coefficients.
      config: which mean.
      params: what to differentiate in.
      batch: the whole batch or a slice of it.
      size: what to divide by: counts of the *whole* batch where losses of slices are to add up to the whole one.

    >>> from pgjax import Categorical, Transition, a2c, make_signals
    >>> policy, value = lambda p, x: Categorical(p["policy"] * x), lambda p, x: p["value"] * x[..., 0]
    >>> agent = Agent(init=None, policy=policy, value=value)
    >>> x, ones = jnp.ones((1, 2, 1)), jnp.ones((1, 2))
    >>> rows = Transition(x, jnp.array([[0, 1]]), jnp.log(0.5 * ones), ones, ones, 0 * ones, x, ones)
    >>> batch = Batch(rows, make_signals(ones), credit=ones, target=jnp.array([[1.0, 3.0]]))
    >>> params, recipe = {"policy": jnp.zeros(2), "value": 1.0}, a2c(value_coefficient=0.5)
    >>> total, metrics = loss(agent, recipe.algorithm, recipe.config, params, batch, BatchSize(2.0, 2.0))
    >>> float(metrics["value_loss"].value()), round(float(total), 3)  # ½ (0² + 2²) / 2; −Ψ + 0.5 · 1
    (1.0, -0.5)
    """
    features = seen(agent, params, batch.transition, batch.memory)  # once: a memory is run along all rows
    total, metrics = policy_loss(agent, algorithm, config, params, batch, size, features)
    if batch.target is not None:
        lost, metric = value_loss(agent, algorithm, params, batch, size, features)
        metrics["value_loss"] = metric
        total += algorithm.value_coefficient * lost
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
    """−surrogate − entropy_coefficient · entropy + kl_coefficient · KL(π_θ̄ ‖ π_θ), each a sum over (N or steps).

    Where there is a reference policy in the loss, plus reference_coefficient · k(log π_θ/π_ref) / length. Its gradient
    in `params["policy"]` is minus the estimator, minus the entropy bonus's, plus the penalties'.

    >>> import jax
    >>> from pgjax import Categorical, Transition, make_signals, reinforce
    >>> agent = Agent(init=None, policy=lambda params, x: Categorical(params["policy"] * x))  # a bandit's two arms
    >>> x, ones = jnp.ones((1, 2, 1)), jnp.ones((1, 2))
    >>> rows = Transition(x, jnp.array([[0, 1]]), jnp.log(0.5 * ones), ones, ones, 0 * ones, x, ones)
    >>> batch, params = Batch(rows, make_signals(ones), credit=jnp.array([[1.0, 3.0]])), {"policy": jnp.zeros(2)}
    >>> of = lambda params: policy_loss(agent, reinforce().algorithm, Config(), params, batch, BatchSize(2.0, 2.0))
    >>> gradient, metrics = jax.grad(of, has_aux=True)(params)
    >>> gradient["policy"].tolist()  # − ½ (1 · (½, −½) + 3 · (−½, ½))
    [0.5, -0.5]
    >>> round(float(metrics["entropy"].value()), 4)  # log 2
    0.6931
    """
    mask = batch.transition.mask
    out, distribution, x, reported = contributions(agent, algorithm.estimator, params, batch, features)
    entropy = jnp.where(mask > 0, distribution.entropy(), 0.0)
    out += algorithm.entropy_coefficient * entropy  # type: ignore[operator]  (a schedule is a number by now)
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
    """½ Σ (V(s_t) − target_t)² / steps; of an action-value critic, the error of the taken action's Q.

    With `value_clip` c, the larger of this and the same with V held within ±c of what it was before the batch: PPO's
    code has it, its paper does not.

    >>> from pgjax import Transition, a2c, make_signals
    >>> agent = Agent(init=None, policy=None, value=lambda params, x: params["value"] * x)
    >>> rows = Transition(*[jnp.ones((1, 2))] * 8)
    >>> batch = Batch(rows, make_signals(rows.reward), credit=None, target=jnp.array([[1.0, 3.0]]))
    >>> float(value_loss(agent, a2c().algorithm, {"value": 1.0}, batch, BatchSize(2.0, 2.0))[0])  # ½ (0² + 2²) / 2
    1.0
    """
    assert agent.value is not None and batch.target is not None  # the trainer has compared agent and config
    features = seen(agent, params, batch.transition, batch.memory) if features is None else features
    before: Any = batch.signals.value
    if agent.action_value is not None:
        values = agent.action_value(params, features)
        predicted = jnp.take_along_axis(values, batch.transition.action[..., None], axis=-1).squeeze(-1)
        before = batch.signals.taken_value
    else:
        predicted = agent.value(params, features)
    if predicted.shape != batch.target.shape:
        raise SettingError(
            "value", predicted.shape, f"is the critic's output; needed is a number per step, {batch.target.shape}"
        )
    error = (predicted - batch.target) ** 2
    if algorithm.value_clip is not None:
        limit = jnp.asarray(algorithm.value_clip)
        held = before + jnp.clip(predicted - before, -limit, limit)
        error = jnp.maximum(error, (held - batch.target) ** 2)
    mask = batch.transition.mask
    each = jnp.where(mask > 0, 0.5 * error, 0.0)
    return size.mean(each, "steps"), per_step(each, mask)
