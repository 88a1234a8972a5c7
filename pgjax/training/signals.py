"""From recorded transitions to signals, credit and value targets; nothing here carries gradient but `log_ratio`."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from pgjax.config import Config
from pgjax.engine import Engine, engine
from pgjax.estimators.contracts import name_of
from pgjax.estimators.distributions import Distribution
from pgjax.estimators.reductions import own_share
from pgjax.estimators.reference_kl import penalised_reward
from pgjax.estimators.returns import discounted_objective, make_signals
from pgjax.types import Agent, Algorithm, Params, SettingError, Signals, Transition


def signals_of(agent: Agent, algorithm: Algorithm, config: Config, params: Params, transition: Transition) -> Signals:
    """The signals of a batch of whole episodes, [T, N], stopped, with the ratios and the values of `params`.

    >>> import jax
    >>> from pgjax import environments, make_agent, reinforce, reward_to_go, rollout
    >>> env, recipe = environments.make("Catch-bsuite"), reinforce()
    >>> agent = make_agent(env)
    >>> params = agent.init(jax.random.key(0))
    >>> rows = rollout.episodes(env, rollout.actor(agent, params), jax.random.split(jax.random.key(1), 4))
    >>> reward_to_go(signals_of(agent, recipe.algorithm, recipe.config, params, rows)).shape
    (9, 4)
    """
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
    """The signals of a batch drawn by `params` itself: all ratios are 1.

    Args:
      agent: policy and critic.
      algorithm: gives the discount, and the penalty on the KL to the reference policy in the reward.
      config: what follows a time limit, and how large groups are.
      params: of the critic.
      transition: [T, N, ...].
      memory: of a recurrent policy, at the first row.
      elapsed: how many steps of its episode each environment had behind it at the first row, [N]; None at a reset.
      reference: parameters of the reference policy; None without one.
    """
    value = next_value = action_value = None
    if agent.value is not None:
        features, next_features = remembered(agent, params, transition, memory)
        cut = transition.truncated & ~transition.terminated & (config.truncation == "bootstrap")
        how = engine(config.engine)
        value, next_value = how.values(partial(how.rows, partial(agent.value, params)), features, next_features, cut)
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
        else log_prob_of(agent, reference, transition, memory, engine(config.engine)),
    )
    if agent.value is None:
        signals = signals._replace(value=None, next_value=None)
    if algorithm.reference_reward is not None:
        signals = penalised_reward(algorithm.reference_reward, signals)
    return stop_gradient(signals)


def group_numbers(config: Config, count: int) -> Array | None:
    """The group that each of so many consecutive trajectories belongs to, [N]; None without groups."""
    return jnp.arange(count) // config.group_size if config.group_size > 1 else None


def own_discount(algorithm: Algorithm, config: Config, count: int) -> Array:
    """γ: one number, or one for each of the `count` environments at hand, of which there are `num_envs` in all."""
    discount = jnp.asarray(algorithm.discount)
    if discount.ndim == 0 or discount.shape == (count,):
        return discount
    if discount.shape != (config.num_envs,):
        reason = f"must be one number, or one per environment: {(config.num_envs,)}"
        raise SettingError("discount", f"of shape {discount.shape}", reason)
    return own_share(discount)


def first_memory(agent: Agent, transition: Transition) -> Any:
    """What a recurrent policy remembers at the first row of whole episodes, [1, N, ...]."""
    initial = agent.memory.initial if agent.memory else ()
    shape = (1, transition.mask.shape[1])
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*shape, *jnp.shape(x))), initial)


def remembered(agent: Agent, params: Params, transition: Transition, memory: Any) -> tuple[Any, Any]:
    """What policy and critic see at each step and after it, [T, N, ...]: observations, or features of a memory.

    A memory is run along the rows and starts afresh behind either end flag; the features after a step are those of its
    own final observation, before any reset.
    """
    if agent.memory is None:
        return transition.observation, transition.next_observation
    encode, step = agent.memory.halves or (lambda params, observation: observation, agent.memory.step)
    encode, step, initial = partial(encode, params), partial(step, params), agent.memory.initial

    def row(carry: Any, one: tuple[Any, Array]) -> tuple[Any, tuple[Any, Any]]:
        x, ended = one
        after, features = step(carry, x)
        following = jax.tree.map(
            lambda fresh, x: jnp.where(ended.reshape(-1, *[1] * (x.ndim - 1)), fresh, x), initial, after
        )
        return following, (features, after)

    start = jax.tree.map(lambda x: x[0], memory)
    ended = transition.terminated | transition.truncated
    features, after = jax.lax.scan(row, start, (encode(transition.observation), ended))[1]
    return features, step(after, encode(transition.next_observation))[1]


def seen(agent: Agent, params: Params, transition: Transition, memory: Any = ()) -> Any:
    """What policy and critic see at each step, [T, N]: observations, or features of a memory."""
    return remembered(agent, params, transition, memory)[0]


def policy_on(agent: Agent, params: Params, transition: Transition, memory: Any = ()) -> Distribution:
    """The policy's distributions at the steps of a batch, [T, N]."""
    return agent.policy(params, seen(agent, params, transition, memory))


def log_prob_of(
    agent: Agent, params: Params, transition: Transition, memory: Any = (), how: Engine | None = None
) -> Array:
    """log π of the taken actions under the policy of `params`, [T, N]; 0 on padding.

    Args:
      agent: whose policy.
      params: its parameters.
      transition: the steps, [T, N, ...].
      memory: of a recurrent policy, at the first row.
      how: the speed-ups to use; default what suits the device.

    Raises:
      SettingError: for a policy whose log-probabilities are not one number per step.
    """

    def of(steps: tuple[Any, Any, Array]) -> Array:
        features, action, mask = steps
        return _one_per_step(agent.policy(params, features).log_prob(action), mask)

    how = engine() if how is None else how
    log_prob = how.rows(of, (seen(agent, params, transition, memory), transition.action, transition.mask))
    return jnp.where(transition.mask > 0, log_prob, 0.0)


def ratios_of(
    agent: Agent, params: Params, transition: Transition, memory: Any = (), how: Engine | None = None
) -> Array:
    """log ρ of the taken actions under the policy of `params`, [T, N], stopped; arguments as `log_prob_of`'s."""
    log_prob = log_prob_of(agent, params, transition, memory, how)
    return stop_gradient(jnp.where(transition.mask > 0, log_prob - transition.log_prob, 0.0))


def log_ratio(distribution: Distribution, transition: Transition) -> Array:
    """log π_θ(a_t|s_t) − log π_θ̄(a_t|s_t), [T, N]; 0 on padding.

    Raises:
      SettingError: for a policy whose log-probabilities are not one number per step.
    """
    log_prob = _one_per_step(distribution.log_prob(transition.action), transition.mask)
    return jnp.where(transition.mask > 0, log_prob - transition.log_prob, 0.0)


def _one_per_step(log_prob: Array, mask: Array) -> Array:
    if log_prob.shape != mask.shape:
        reason = f"is the policy's output; needed is a number per step, {mask.shape}"
        raise SettingError("log_prob", log_prob.shape, reason)
    return log_prob


def credit_of(algorithm: Algorithm, config: Config, signals: Signals) -> Any:
    """The estimator's credit over the whole batch, stopped; with γ^t in front where the config asks for it.

    Raises:
      SettingError: for a credit of another shape than [T, N], [1, N] or [T, 1], and for one that needs values which
        no critic gives.
    """
    if config.discounted_objective:
        signals = discounted_objective(signals)
    return stop_gradient(_over_batch(algorithm.estimator.credit, "credit", signals))


def target_of(algorithm: Algorithm, signals: Signals) -> Array | None:
    """What the critic regresses on, stopped; None without one."""
    if algorithm.value_target is None:
        return None
    return stop_gradient(_over_batch(algorithm.value_target, "value_target", signals))


def _over_batch(function: Any, field: str, signals: Signals) -> Any:
    """What a user's function makes of signals, each leaf [T, N, ...]; said in one line where it cannot."""
    try:
        out = function(signals)
    except (TypeError, AttributeError, ValueError) as error:
        if signals.value is not None or isinstance(error, SettingError):
            raise
        found = " ".join(str(error).split())[:120]
        reason = f"leaves signals.value None, without which {field} {name_of(function)} fails: {found}"
        raise SettingError("critic", "none", reason) from error
    shape = signals.reward.shape

    def whole(x: Any) -> Array:
        x = jnp.asarray(x)
        along = x.shape[: len(shape)]
        if x.ndim < len(shape) or any(n not in (1, wanted) for n, wanted in zip(along, shape, strict=True)):
            reason = f"gives an array of shape {x.shape}; needed is [T, N] = {shape}"
            raise SettingError(field, name_of(function), reason)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            x = x.astype(signals.reward.dtype)
        return jnp.broadcast_to(x, (*shape, *x.shape[len(shape) :]))

    return jax.tree.map(whole, out)
