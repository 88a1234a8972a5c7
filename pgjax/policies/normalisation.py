"""Running means and variances, merged exactly, and normalisation of observations and rewards with them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from pgjax.estimators.recurrence import linear_recurrence
from pgjax.estimators.reductions import as_float, difference, rounding, step_spread, sum_over_devices
from pgjax.policies.inputs import Trunk
from pgjax.policies.masks import find_masks
from pgjax.policies.observations import categories, leaves
from pgjax.types import Agent, Environment, Keyed, Memory, Params, SettingError, SharedLayers, Transition

EPSILON = 1e-8


class Moments(NamedTuple):
    """Count, mean and sum of squared deviations of all data so far."""

    count: Array
    mean: Array
    deviations: Array

    @property
    def variance(self) -> Array:
        """Population variance; 1 without data."""
        return jnp.where(self.count > 0, self.deviations / jnp.maximum(self.count, 1.0), 1.0)

    @property
    def std(self) -> Array:
        """Standard deviation; exactly 0 if all data are equal up to rounding."""
        equal = self.variance <= rounding(jnp.abs(self.mean)) ** 2
        return jnp.where(equal, 0.0, jnp.sqrt(jnp.where(equal, 1.0, self.variance)))


class RewardScale(NamedTuple):
    """Statistics of the discounted return, and each environment's current discounted return, [N]."""

    moments: Moments
    running: Array


def no_moments(shape: tuple[int, ...] = ()) -> Moments:
    """Moments of no data."""
    return Moments(jnp.zeros(()), jnp.zeros(shape), jnp.zeros(shape))


def merge(moments: Moments, x: Array, mask: Array) -> Moments:
    """Moments with a batch x [T, N, ...] added, as if all data were seen at once (Chan, Golub & LeVeque 1983):

        n = n_a + n_b,   m = m_a + δ n_b/n,   M = M_a + M_b + δ² n_a n_b/n,   δ = m_b − m_a.
    Entries with mask [T, N] 0 are ignored. x is cast to the dtype of the moments.
    """
    batch = step_spread(x.astype(moments.mean.dtype), mask)
    mean, deviations = (each.reshape(x.shape[mask.ndim :]) for each in (batch.mean, batch.squares))
    count = sum_over_devices(jnp.sum(mask, dtype=moments.count.dtype))
    total = jnp.maximum(moments.count + count, 1.0)
    shift = mean - moments.mean
    return Moments(
        moments.count + count,
        moments.mean + shift * (count / total),
        moments.deviations + deviations + shift**2 * moments.count * count / total,
    )


def normalise_observations(agent: Agent, environment: Environment, clip: float = 10.0) -> Agent:
    """An agent whose inputs are (x − mean)/std of each observation, clipped to ±`clip`; 0 where x has never varied.

    The statistics are the parameter group "statistics", and are saved, evaluated and swept with the other parameters.
    Only training updates them, after each batch. Action masks and categories are left unchanged.

    >>> from pgjax import environments, make_agent
    >>> env = environments.make("CartPole-v1")
    >>> agent = normalise_observations(make_agent(env), env)
    >>> observations = jnp.array([[[1.0, 2.0, 3.0, 4.0]], [[3.0, 4.0, 5.0, 6.0]]])  # [T, N, 4]
    >>> agent.observe(agent.init(jax.random.key(0)), observations, jnp.ones((2, 1)))["statistics"].mean.tolist()
    [2.0, 3.0, 4.0, 5.0]
    """
    shapes, structure = leaves(environment)
    kept = {i for i, count in enumerate(categories(environment)) if count is not None} | find_masks(environment).leaves
    if kept.issuperset(range(len(shapes))):
        raise SettingError(
            "normalise_observations", True, f"does not fit {environment.name}, whose observations are all categories"
        )

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
        if isinstance(observation, Trunk):
            return observation
        if isinstance(observation, Keyed):
            return observation._replace(observation=scaled(params, observation.observation))

        def one(x: Array, m: Moments) -> Array:
            m = stop_gradient(m)
            deviation = jnp.where(m.std == 0, difference(x, m.mean), x - m.mean)
            return jnp.clip(deviation * jax.lax.rsqrt(m.std**2 + EPSILON), -clip, clip)

        return structure.unflatten([x if i in kept else one(x, m) for i, x, m in parts(params, observation)])

    def on_scaled(function: Any) -> Any:
        return function and (lambda params, observation: function(params, scaled(params, observation)))

    if agent.memory is not None:
        initial, step, raw = agent.memory.initial, agent.memory.step, agent.memory.parts

        def scaled_step(params: Params, carry: Any, x: Any) -> tuple[Any, Any]:
            return step(params, carry, scaled(params, x))

        def scaled_encode(params: Params, x: Any) -> Any:
            return raw.encode(params, scaled(params, x))

        halves = raw._replace(encode=scaled_encode, whole=scaled_step)
        return agent._replace(init=init, memory=Memory(initial, scaled_step, halves), observe=observe)
    readers = tuple(on_scaled(each) for each in (agent.policy, agent.value, agent.action_value))
    policy, value, action_value = readers
    shared = SharedLayers(on_scaled(agent.seen), readers) if agent.shares else None
    return agent._replace(
        init=init, policy=policy, value=value, action_value=action_value, observe=observe, shared=shared
    )


def no_reward_scale(num_envs: int) -> RewardScale:
    """Reward statistics of no data."""
    return RewardScale(no_moments(), jnp.zeros(num_envs))


def scale_rewards(
    scale: RewardScale, transition: Transition, discount: ArrayLike, *, streaming: bool
) -> tuple[RewardScale, Transition]:
    """Divide a batch's rewards by the standard deviation of the discounted return, this batch included:

        G_t = r_t + γ G_{t−1} within an episode,      r_t ← r_t / std(G)
    The mean is not subtracted, because that would change the problem. Rewards stay unchanged if G does not vary, up to
    rounding. With `streaming`, episodes continue from batch to batch.
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
