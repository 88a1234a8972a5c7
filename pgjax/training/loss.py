"""From recorded transitions to the scalar that is differentiated: signals, credit, loss."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from pgjax.config import Config
from pgjax.estimators.distributions import Categorical, Distribution
from pgjax.estimators.reductions import BatchSize
from pgjax.estimators.returns import discounted_objective, make_signals
from pgjax.training.dependence import depends_on
from pgjax.types import Agent, Algorithm, Estimator, Params, Signals, Transition


class Batch(NamedTuple):
    """What the loss needs of a batch, or of a slice of it: leaves [T, N, ...], nothing carries gradient.

    `memory` is [1, N, ...]: what a recurrent policy remembered at the first row.
    """

    transition: Transition
    signals: Signals
    credit: Any  # computed on the whole batch
    target: Array | None = None  # what the critic regresses on
    memory: Any = ()
    behaviour: Any = None  # the distributions that sampled the batch, where a KL is asked for


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
    return signals._replace(log_ratio=ratios_of(agent, params, transition, memory))


def values_of(
    agent: Agent, algorithm: Algorithm, config: Config, params: Params, transition: Transition, memory: Any = ()
) -> Signals:
    """The signals of a batch drawn by `params` itself: all ratios are 1."""
    group = jnp.arange(transition.mask.shape[1]) // config.group_size if config.group_size > 1 else None
    value = next_value = action_value = None
    if agent.value is not None:
        features, next_features = remembered(agent, params, transition, memory)
        cut = transition.truncated & ~transition.terminated & (config.truncation == "bootstrap")
        value, next_value = _values_along(partial(agent.value, params), features, next_features, cut)
        action_value = agent.action_value(params, features) if agent.action_value else None
    signals = make_signals(
        transition.reward,
        mask=transition.mask,
        terminated=transition.terminated,
        truncated=transition.truncated,
        discount=algorithm.discount,
        value=value,
        next_value=next_value,
        action_value=action_value,
        action=None if action_value is None else transition.action,
        group=group,
        truncation=config.truncation,
    )
    return stop_gradient(signals)


def _values_along(value: Callable[[Any], Array], features: Any, next_features: Any, cut: Array) -> tuple[Array, Array]:
    """V at each step and after it, [T, N], with the critic run once along the rows.

    What follows a row is the next one, except where its episode stopped: there nothing follows a termination, and the
    critic is asked again for the final observations of the rows that were `cut`, one of each environment at a time.
    """
    along = value(jax.tree.map(lambda x, after: jnp.concatenate([x, after[-1:]]), features, next_features))
    environments = jnp.arange(cut.shape[1])

    def unfinished(carry: tuple[Array, Array]) -> Array:
        return jnp.any(carry[0])

    def ask_again(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        left, values = carry
        first = jnp.argmax(left, axis=0), environments
        final = value(jax.tree.map(lambda x: x[first], next_features))
        return left.at[first].set(False), values.at[first].set(jnp.where(left[first], final, values[first]))

    cut = cut.at[-1].set(False)  # the row after the last is its final observation already
    return along[:-1], jax.lax.while_loop(unfinished, ask_again, (cut, along[1:]))[1]


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
    step, initial = partial(agent.memory.step, params), agent.memory.initial

    def row(carry: Any, one: tuple[Any, Array]) -> tuple[Any, tuple[Any, Any]]:
        observation, ended = one
        after, features = step(carry, observation)
        following = jax.tree.map(
            lambda fresh, x: jnp.where(ended.reshape(-1, *[1] * (x.ndim - 1)), fresh, x), initial, after
        )
        return following, (features, after)

    start = jax.tree.map(lambda x: x[0], memory)
    ended = transition.terminated | transition.truncated
    features, after = jax.lax.scan(row, start, (transition.observation, ended))[1]
    return features, step(after, transition.next_observation)[1]


def policy_on(agent: Agent, params: Params, transition: Transition, memory: Any = ()) -> Distribution:
    """The policy's distributions at the steps of a batch, [T, N]."""
    return agent.policy(params, remembered(agent, params, transition, memory)[0])


def ratios_of(agent: Agent, params: Params, transition: Transition, memory: Any = ()) -> Array:
    """log ρ of the taken actions under the policy of `params`, [T, N], stopped."""
    return stop_gradient(log_ratio(policy_on(agent, params, transition, memory), transition))


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


def contributions(
    agent: Agent, estimator: Estimator, params: Params, batch: Batch
) -> tuple[Array, Distribution, Array]:
    """What each step adds to the surrogate, [T, N], differentiable in `params`; the distributions; log ρ."""
    distribution = policy_on(agent, params, batch.transition, batch.memory)
    x = log_ratio(distribution, batch.transition)
    out = estimator.contribution(batch.credit, batch.signals, distribution, x)
    return jnp.where(batch.transition.mask > 0, out, 0.0), distribution, x


def looks_along_time(algorithm: Algorithm, signals: Signals) -> bool:
    """Whether the surrogate looks beyond its own step: whether it asks where episodes go on."""

    def contribution(given: Signals) -> Array:
        actions = 1 if given.action_value is None else given.action_value.shape[-1]
        distribution = Categorical(jnp.zeros((*given.reward.shape, actions)))
        credit = algorithm.estimator.credit(given._replace(continues=jnp.ones_like(given.continues)))
        return algorithm.estimator.contribution(credit, given, distribution, jnp.zeros_like(given.reward))

    # Of twice as many trajectories: some baselines need two, and the slice at hand may hold one.
    def widened(x: Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((x.shape[0], 2 * x.shape[1], *x.shape[2:]), x.dtype)

    signals = jax.tree.map(widened, signals)
    return depends_on(contribution, signals, "continues")


def loss(
    agent: Agent, algorithm: Algorithm, config: Config, params: Params, batch: Batch, size: BatchSize
) -> tuple[Array, dict[str, Array]]:
    """Policy loss + value_coefficient · value loss; and metrics. Its value means nothing; its gradient is the update's.

    Args:
      agent: policy and critic.
      algorithm: estimator and coefficients.
      config: which mean.
      params: what to differentiate in.
      batch: the whole batch or a slice of it.
      size: what to divide by: counts of the *whole* batch where losses of slices are to add up to the whole one.

    >>> from pgjax import a2c
    >>> policy, value = lambda p, x: Categorical(p["policy"] * x), lambda p, x: p["value"] * x[..., 0]
    >>> agent = Agent(init=None, policy=policy, value=value)
    >>> x, ones = jnp.ones((1, 2, 1)), jnp.ones((1, 2))
    >>> rows = Transition(x, jnp.array([[0, 1]]), jnp.log(0.5 * ones), ones, ones, 0 * ones, x, ones)
    >>> batch = Batch(rows, make_signals(ones), credit=ones, target=jnp.array([[1.0, 3.0]]))
    >>> params, recipe = {"policy": jnp.zeros(2), "value": 1.0}, a2c(value_coefficient=0.5)
    >>> total, metrics = loss(agent, recipe.algorithm, recipe.config, params, batch, BatchSize(2.0, 2.0))
    >>> float(metrics["value_loss"]), round(float(total), 3)  # ½ (0² + 2²) / 2; −Ψ + 0.5 · 1
    (1.0, -0.5)
    """
    total, metrics = policy_loss(agent, algorithm, config, params, batch, size)
    if batch.target is not None:
        metrics["value_loss"] = value_loss(agent, algorithm, params, batch, size)
        total += algorithm.value_coefficient * metrics["value_loss"]
    return total, metrics


def policy_loss(
    agent: Agent, algorithm: Algorithm, config: Config, params: Params, batch: Batch, size: BatchSize
) -> tuple[Array, dict[str, Array]]:
    """−surrogate − entropy_coefficient · entropy + kl_coefficient · KL(π_θ̄ ‖ π_θ), each a sum over (N or steps).

    Its gradient in `params["policy"]` is minus the estimator, minus the entropy bonus's, plus the penalty's.

    >>> from pgjax import reinforce
    >>> agent = Agent(init=None, policy=lambda params, x: Categorical(params["policy"] * x))  # a bandit's two arms
    >>> x, ones = jnp.ones((1, 2, 1)), jnp.ones((1, 2))
    >>> rows = Transition(x, jnp.array([[0, 1]]), jnp.log(0.5 * ones), ones, ones, 0 * ones, x, ones)
    >>> batch, params = Batch(rows, make_signals(ones), credit=jnp.array([[1.0, 3.0]])), {"policy": jnp.zeros(2)}
    >>> of = lambda params: policy_loss(agent, reinforce().algorithm, Config(), params, batch, BatchSize(2.0, 2.0))
    >>> gradient, metrics = jax.grad(of, has_aux=True)(params)
    >>> gradient["policy"].tolist(), round(float(metrics["entropy"]), 4)  # − ½ (1 · (½, −½) + 3 · (−½, ½)); log 2
    ([0.5, -0.5], 0.6931)
    """
    mask = batch.transition.mask
    out, distribution, x = contributions(agent, algorithm.estimator, params, batch)
    entropy = distribution.entropy() * mask
    out += algorithm.entropy_coefficient * entropy  # type: ignore[operator]  (a schedule is a number by now)
    if algorithm.kl_coefficient is not None:
        out -= algorithm.kl_coefficient * mask * batch.behaviour.kl(distribution)
    metrics = {
        "entropy": size.mean(entropy, "steps"),
        "kl": size.mean(stop_gradient((jnp.expm1(jnp.minimum(x, 80.0)) - x) * mask), "steps"),
    }
    return -size.mean(out, config.mean), metrics


def value_loss(agent: Agent, algorithm: Algorithm, params: Params, batch: Batch, size: BatchSize) -> Array:
    """½ Σ (V(s_t) − target_t)² / steps; of an action-value critic, the error of the taken action's Q.

    With `value_clip` c, the larger of this and the same with V held within ±c of what it was before the batch: PPO's
    code has it, its paper does not.

    >>> from pgjax import a2c
    >>> agent = Agent(init=None, policy=None, value=lambda params, x: params["value"] * x)
    >>> rows = Transition(*[jnp.ones((1, 2))] * 8)
    >>> batch = Batch(rows, make_signals(rows.reward), credit=None, target=jnp.array([[1.0, 3.0]]))
    >>> float(value_loss(agent, a2c().algorithm, {"value": 1.0}, batch, BatchSize(2.0, 2.0)))  # ½ (0² + 2²) / 2
    1.0
    """
    assert agent.value is not None and batch.target is not None  # the trainer has compared agent and config
    features = remembered(agent, params, batch.transition, batch.memory)[0]
    before: Any = batch.signals.value
    if agent.action_value is not None:
        values = agent.action_value(params, features)
        predicted = jnp.take_along_axis(values, batch.transition.action[..., None], axis=-1).squeeze(-1)
        before = batch.signals.taken_value
    else:
        predicted = agent.value(params, features)
    error = (predicted - batch.target) ** 2
    if algorithm.value_clip is not None:
        limit = jnp.asarray(algorithm.value_clip)
        held = before + jnp.clip(predicted - before, -limit, limit)
        error = jnp.maximum(error, (held - batch.target) ** 2)
    return size.mean(0.5 * error * batch.transition.mask, "steps")
