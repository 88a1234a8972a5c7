"""Compute signals, credit and value targets from recorded transitions. None of the three carries gradient."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from pgjax.config import Config
from pgjax.engine import PLAIN, Engine, engine
from pgjax.estimators.contracts import name_of
from pgjax.estimators.distributions import Distribution
from pgjax.estimators.reductions import own_share
from pgjax.estimators.reference_kl import penalised_reward
from pgjax.estimators.returns import discounted_objective, make_signals
from pgjax.types import Agent, Algorithm, Params, SettingError, Signals, Transition


def signals_of(agent: Agent, algorithm: Algorithm, config: Config, params: Params, transition: Transition) -> Signals:
    """Signals of a batch of whole episodes, [T, N], with the ratios and values of `params`, without gradient."""
    memory = first_memory(agent, transition)
    signals = values_of(agent, algorithm, config, params, transition, memory)
    return signals._replace(log_ratio=ratios_of(agent, params, transition, memory, engine(config.engine)))


def values_of(
    agent: Agent,
    algorithm: Algorithm,
    config: Config,
    params: Params,
    transition: Transition,
    memory: Any = (),
    elapsed: Array | None = None,
    reference: Params | None = None,
) -> Signals:
    """Signals of a batch that `params` sampled: all ratios are 1.

    Args:
      memory: a recurrent policy's carry at the first row.
      elapsed: steps of its episode that each environment had taken before the first row, [N]; None after a reset.
      reference: parameters of the reference policy; None without one.
    """
    value = next_value = action_value = None
    if agent.value is not None:
        how = engine(config.engine)
        params = stop_gradient(params)
        features, following = remembered(agent, params, transition, memory, how)
        cut = transition.truncated & ~transition.terminated & (config.truncation == "bootstrap")
        value, next_value = how.values(partial(how.rows, partial(agent.value, params)), features, following, cut)
        action_value = how.rows(partial(agent.action_value, params), features) if agent.action_value else None
    signals = make_signals(
        transition.reward,
        mask=transition.mask,
        terminated=transition.terminated,
        truncated=transition.truncated,
        discount=own_discount(algorithm, config, transition.mask.shape[1]),
        value=value,
        next_value=next_value,
        action_value=action_value,
        action=None if action_value is None else transition.action,
        group=group_numbers(config, transition.mask.shape[1]),
        truncation=config.truncation,
        elapsed=elapsed,
        behaviour_log_prob=transition.log_prob,
        reference_log_prob=None
        if reference is None
        else log_prob_of(agent, stop_gradient(reference), transition, memory, engine(config.engine)),
    )
    if agent.value is None:
        signals = signals._replace(value=None, next_value=None)
    if algorithm.reference_reward is not None:
        signals = penalised_reward(algorithm.reference_reward, signals)
    return stop_gradient(signals)


def group_numbers(config: Config, count: int) -> Array | None:
    """The group of each of `count` consecutive trajectories, [N]; None without groups."""
    return jnp.arange(count) // config.group_size if config.group_size > 1 else None


def own_discount(algorithm: Algorithm, config: Config, count: int) -> Array:
    """γ: a scalar, or one value for each of the `count` environments on this device."""
    discount = jnp.asarray(algorithm.discount)
    if discount.ndim == 0 or discount.shape == (count,):
        return discount
    if discount.shape != (config.num_envs,):
        reason = f"must be one number, or one per environment, of shape {(config.num_envs,)}"
        raise SettingError("discount", f"of shape {discount.shape}", reason)
    return own_share(discount)


def first_memory(agent: Agent, transition: Transition) -> Any:
    """A recurrent policy's initial carry for every trajectory, [1, N, ...]."""
    initial = agent.memory.initial if agent.memory else ()
    shape = (1, transition.mask.shape[1])
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*shape, *jnp.shape(x))), initial)


def remembered(
    agent: Agent, params: Params, transition: Transition, memory: Any, how: Engine | None = None
) -> tuple[Any, Callable[[Callable], Any]]:
    """The inputs of policy and critic at each step, [T, N, ...], and a function that computes those after chosen steps.

    The inputs are observations, or features of a memory. The function takes a choice of rows, an array [T, N, ...] ->
    [t, N, ...], so that features are computed only where they are used.

    The memory is reset after termination and truncation. Features after a step are computed from that step's own final
    observation, before any reset. `how` is the engine; by default the plain one, which forward mode can differentiate.
    """
    if agent.memory is None:
        return transition.observation, lambda choose: jax.tree.map(choose, transition.next_observation)
    how = PLAIN if how is None else how
    halves, start = agent.memory.parts, jax.tree.map(lambda x: x[0], memory)
    x, ended = halves.encode(params, transition.observation), transition.terminated | transition.truncated
    after, features = how.recurrence(halves, params, agent.memory.initial, start, x, ended)

    def following(choose: Callable) -> Any:
        carry, observation = jax.tree.map(choose, (after, transition.next_observation))
        return halves.step(params, carry, halves.encode(params, observation))[1]

    return features, following


def seen(agent: Agent, params: Params, transition: Transition, memory: Any = (), how: Engine | None = None) -> Any:
    """The inputs of policy and critic at each step, [T, N]: observations, or features of a memory or a shared trunk.

    `how` is as for `remembered`.
    """
    return agent.seen(params, remembered(agent, params, transition, memory, how)[0])


def policy_on(agent: Agent, params: Params, transition: Transition, memory: Any = ()) -> Distribution:
    """The policy's distributions at the steps of a batch, [T, N]."""
    return agent.policy(params, seen(agent, params, transition, memory))


def log_prob_of(
    agent: Agent, params: Params, transition: Transition, memory: Any = (), how: Engine | None = None
) -> Array:
    """log π of the taken actions at `params`, [T, N]; 0 on padding.

    `memory` is a recurrent policy's first carry. `how` is the engine, by default the device's, limited to what forward
    mode can differentiate. Raises SettingError unless the policy gives one number per step.
    """

    def log_prob_of_steps(steps: tuple[Any, Any, Array]) -> Array:
        features, action, mask = steps
        return _one_per_step(agent.policy(params, features).log_prob(action), mask)

    how = engine().for_forward_mode() if how is None else how
    log_prob = how.rows(
        log_prob_of_steps, (seen(agent, params, transition, memory, how), transition.action, transition.mask)
    )
    return jnp.where(transition.mask > 0, log_prob, 0.0)


def ratios_of(
    agent: Agent, params: Params, transition: Transition, memory: Any = (), how: Engine | None = None
) -> Array:
    """log ρ of the taken actions at `params`, [T, N], without gradient; arguments as for `log_prob_of`."""
    log_prob = log_prob_of(agent, stop_gradient(params), transition, memory, how)
    return stop_gradient(jnp.where(transition.mask > 0, log_prob - transition.log_prob, 0.0))


def log_ratio(distribution: Distribution, transition: Transition) -> Array:
    """log π_θ(a_t|s_t) − log π_θ̄(a_t|s_t), [T, N]; 0 on padding. Raises as `log_prob_of` does."""
    log_prob = _one_per_step(distribution.log_prob(transition.action), transition.mask)
    return jnp.where(transition.mask > 0, log_prob - transition.log_prob, 0.0)


def _one_per_step(log_prob: Array, mask: Array) -> Array:
    if log_prob.shape != mask.shape:
        reason = f"is the shape of the policy's output; needs one number per step, {mask.shape}"
        raise SettingError("log_prob", log_prob.shape, reason)
    return log_prob


def credit_of(algorithm: Algorithm, config: Config, signals: Signals) -> Any:
    """The estimator's credit over the whole batch, without gradient; with the factor γ^t for `discounted_objective`.

    Each of its leaves is [T, N, ...]; leading axes of size 1 are broadcast.
    """
    if config.discounted_objective:
        signals = discounted_objective(signals)
    return stop_gradient(_over_batch(algorithm.estimator.credit, "credit", signals))


def target_of(algorithm: Algorithm, signals: Signals) -> Array | None:
    """The critic's regression target, without gradient; None if the algorithm has none."""
    if algorithm.value_target is None:
        return None
    return stop_gradient(_over_batch(algorithm.value_target, "value_target", signals))


def _over_batch(function: Any, field: str, signals: Signals) -> Any:
    """Apply a user's function to signals and check that each output leaf is [T, N, ...]."""
    try:
        out = function(signals)
    except (TypeError, AttributeError, ValueError) as error:
        if signals.value is not None or isinstance(error, SettingError):
            raise
        cause = " ".join(str(error).split())[:120]
        reason = f"leaves signals.value None, so {field} {name_of(function)} fails: {cause}"
        raise SettingError("critic", "none", reason) from error
    shape = signals.reward.shape

    def whole(x: Any) -> Array:
        x = jnp.asarray(x)
        leading = x.shape[: len(shape)]
        if x.ndim < len(shape) or any(n not in (1, wanted) for n, wanted in zip(leading, shape, strict=True)):
            reason = f"returns shape {x.shape}; needs [T, N] = {shape}"
            raise SettingError(field, name_of(function), reason)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            x = x.astype(signals.reward.dtype)
        return jnp.broadcast_to(x, (*shape, *x.shape[len(shape) :]))

    return jax.tree.map(whole, out)
