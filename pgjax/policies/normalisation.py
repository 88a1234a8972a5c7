"""Running means and variances, merged exactly; observations and rewards brought to scale with them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from pgjax.estimators.recurrence import linear_recurrence
from pgjax.estimators.reductions import as_float, difference, rounding, step_spread, sum_over_devices
from pgjax.policies.masks import find_masks
from pgjax.policies.observations import categories, leaves
from pgjax.types import Agent, Environment, Keyed, Memory, Params, SettingError, Transition

EPSILON = 1e-8


class Moments(NamedTuple):
    """Count, mean and sum of squared deviations of everything seen so far."""

    count: Array
    mean: Array
    deviations: Array

    @property
    def variance(self) -> Array:
        """Population variance; 1 before anything was seen."""
        return jnp.where(self.count > 0, self.deviations / jnp.maximum(self.count, 1.0), 1.0)

    @property
    def std(self) -> Array:
        """Its root; exactly 0 where all that was seen is equal up to rounding."""
        equal = self.variance <= rounding(jnp.abs(self.mean)) ** 2
        return jnp.where(equal, 0.0, jnp.sqrt(jnp.where(equal, 1.0, self.variance)))


class RewardScale(NamedTuple):
    """Statistics of the discounted return, and the return so far of each environment, [N]."""

    moments: Moments
    running: Array


def no_moments(shape: tuple[int, ...] = ()) -> Moments:
    """Nothing seen yet."""
    return Moments(jnp.zeros(()), jnp.zeros(shape), jnp.zeros(shape))


def merge(moments: Moments, x: Array, mask: Array) -> Moments:
    """Moments after a batch more, exactly as if all had been seen at once.

        n = n_a + n_b,   m = m_a + δ n_b/n,   M = M_a + M_b + δ² n_a n_b/n,   δ = m_b − m_a

    Args:
      moments: of what came before.
      x: [T, N, ...]; takes the type of the moments.
      mask: [T, N]; what is masked is not seen.
    Chan, Golub & LeVeque 1983.

    >>> m = merge(merge(no_moments(), jnp.array([[1.0, 2.0]]), jnp.ones((1, 2))), jnp.array([[6.0]]), jnp.ones((1, 1)))
    >>> float(m.mean), float(m.variance)  # doctest: +ELLIPSIS
    (3.0, 4.66...)
    """
    batch = step_spread(x.astype(moments.mean.dtype), mask)
    mean, deviations = (each.reshape(x.shape[mask.ndim :]) for each in (batch.mean, batch.squares))
    count = sum_over_devices(jnp.sum(mask, dtype=moments.count.dtype))
    together = jnp.maximum(moments.count + count, 1.0)
    shift = mean - moments.mean
    return Moments(
        moments.count + count,
        moments.mean + shift * (count / together),
        moments.deviations + deviations + shift**2 * moments.count * count / together,
    )


def normalise_observations(agent: Agent, environment: Environment, clip: float = 10.0) -> Agent:
    """An agent that sees (x − mean)/std of every observation, clipped to ±`clip`; 0 of what has never varied.

    The statistics are part of its parameters ("statistics"): saved, evaluated and swept with them, moved by
    training after each batch and by nothing else, the same for an episode's final observation as for any other. An
    action mask and categories are left as they are.

    Raises:
      SettingError: for observations that are nothing but categories, which have no scale.

    >>> from pgjax import environments, make_agent
    >>> env = environments.make("CartPole-v1")
    >>> plain = make_agent(env)
    >>> agent = normalise_observations(plain, env)
    >>> seen = jnp.array([[[1.0, 2.0, 3.0, 4.0]], [[3.0, 4.0, 5.0, 6.0]]])  # [T, N, 4]
    >>> params = agent.observe(agent.init(jax.random.key(0)), seen, jnp.ones((2, 1)))
    >>> params["statistics"].mean.tolist(), params["statistics"].variance.tolist()
    ([2.0, 3.0, 4.0, 5.0], [1.0, 1.0, 1.0, 1.0])
    >>> raw, scaled = jnp.array([2.0, 3.0, 4.0, 6.0]), jnp.array([0.0, 0.0, 0.0, 1.0])
    >>> bool(jnp.allclose(agent.policy(params, raw).logits, plain.policy(params, scaled).logits, atol=1e-6))
    True
    """
    shapes, structure = leaves(environment)
    kept = {i for i, count in enumerate(categories(environment)) if count is not None} | find_masks(environment).leaves
    if kept.issuperset(range(len(shapes))):
        raise SettingError("normalise_observations", True, f"does not fit {environment.name}: its states are numbered")

    def parts(params: Params, observation: Any) -> Iterable[tuple[int, Any, Any]]:
        both = (structure.flatten_up_to(tree) for tree in (observation, params["statistics"]))
        return zip(range(len(shapes)), *both, strict=True)

    def init(key: Array) -> Params:
        seen = [() if i in kept else no_moments(x.shape) for i, x in enumerate(shapes)]
        return agent.init(key) | {"statistics": structure.unflatten(seen)}

    def observe(params: Params, observation: Any, mask: Array) -> Params:
        observation = observation.observation if isinstance(observation, Keyed) else observation
        seen = [
            m if i in kept else merge(m, jnp.asarray(x, jnp.float32), mask) for i, x, m in parts(params, observation)
        ]
        return params | {"statistics": structure.unflatten(seen)}

    def scaled(params: Params, observation: Any) -> Any:
        if isinstance(observation, Keyed):
            return observation._replace(observation=scaled(params, observation.observation))

        def one(x: Array, m: Moments) -> Array:
            m = stop_gradient(m)
            away = jnp.where(m.std == 0, difference(x, m.mean), x - m.mean)
            return jnp.clip(away * jax.lax.rsqrt(m.std**2 + EPSILON), -clip, clip)

        return structure.unflatten([x if i in kept else one(x, m) for i, x, m in parts(params, observation)])

    def on_scaled(function: Any) -> Any:
        return function and (lambda params, observation: function(params, scaled(params, observation)))

    if agent.memory is not None:
        step, halves = agent.memory.step, agent.memory.halves
        if halves is not None:
            halves = (lambda params, x, encode=halves[0]: encode(params, scaled(params, x))), halves[1]
        memory = Memory(agent.memory.initial, lambda params, carry, x: step(params, carry, scaled(params, x)), halves)
        return agent._replace(init=init, memory=memory, observe=observe)
    return agent._replace(
        init=init,
        policy=on_scaled(agent.policy),
        value=on_scaled(agent.value),
        action_value=on_scaled(agent.action_value),
        observe=observe,
    )


def no_reward_scale(num_envs: int) -> RewardScale:
    """Nothing earned yet."""
    return RewardScale(no_moments(), jnp.zeros(num_envs))


def scale_rewards(
    scale: RewardScale, transition: Transition, discount: ArrayLike, *, streaming: bool
) -> tuple[RewardScale, Transition]:
    """Divide a batch's rewards by the standard deviation of the discounted return, this batch included.

        G_t = r_t + γ G_{t−1} within an episode,      r_t ← r_t / std(G)

    The mean is not taken off (that would change the problem), and no episode's G leaks into the next. Where G does not
    vary, up to rounding, rewards stay as they are.

    Args:
      scale: of the batches before.
      transition: the batch.
      discount: γ, as `make_signals` takes it.
      streaming: whether episodes go on from batch to batch.

    >>> ones, ended = jnp.ones((1, 2)), jnp.ones((1, 2), bool)
    >>> rows = Transition(ones, ones, ones, jnp.array([[4.0, -4.0]]), ended, ~ended, ones, ones)
    >>> scale, scaled = scale_rewards(no_reward_scale(2), rows, discount=0.99, streaming=False)
    >>> [round(x, 3) for x in scaled.reward[0].tolist()], float(scale.moments.variance)
    ([1.0, -1.0], 16.0)
    """
    continues = transition.mask * ~(transition.terminated | transition.truncated)
    earned = as_float(transition.reward)
    discount = jnp.broadcast_to(jnp.asarray(discount, earned.dtype), earned.shape)
    reward = earned.at[0].add((discount[-1] * scale.running).astype(earned.dtype)) if streaming else earned
    returns = linear_recurrence(reward, discount * continues)
    moments = merge(scale.moments, returns, transition.mask)
    running = (returns[-1] * continues[-1]).astype(scale.running.dtype) if streaming else scale.running
    unit = jnp.where(moments.std == 0, 1.0, moments.std).astype(earned.dtype)
    return RewardScale(moments, running), transition._replace(reward=earned / unit)
