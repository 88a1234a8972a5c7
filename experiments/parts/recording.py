"""One complete episode with every state of the environment."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.estimators.distributions import Distribution
from pgjax.training import rollout
from pgjax.types import Agent, Environment, Params


class Recording(NamedTuple):
    """An episode of L steps, in NumPy."""

    places: rollout.Visited  # states and observations, including the last: [L + 1, ...]
    returns: np.ndarray  # undiscounted sum of rewards up to each state: [L + 1]
    terminated: bool  # terminated, not truncated by a time limit


def record(environment: Environment, agent: Agent, params: Params, key: Array, *, greedy: bool) -> Recording:
    """The episode that `rollout.episodes` runs for a key, with its states.

    Args:
      environment: of the episode.
      agent: whose policy acts.
      params: its parameters.
      key: of the episode.
      greedy: take the most likely actions instead of sampled ones.
    """

    @jax.jit
    def run(params: Params, keys: Array) -> Any:
        policy = _looking_past_states(rollout.actor(agent, params))
        return rollout.episodes(_showing_states(environment), policy, keys, greedy=greedy)

    rows = jax.tree.map(lambda x: _numbers(x)[:, 0], run(params, key[None]))
    length = int(rows.mask.sum())
    places = jax.tree.map(
        lambda before, after: _joined(before[:length], after[length - 1 : length]),
        rows.observation,
        rows.next_observation,
    )
    returns = np.concatenate([[0.0], np.cumsum(rows.reward[:length])])
    return Recording(places, returns, bool(rows.terminated[length - 1]))


def _numbers(x: Array) -> Any:
    """Convert to NumPy; typed PRNG keys, which NumPy does not have, stay JAX arrays."""
    return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)


def _joined(*parts: Any) -> Any:
    return (np if isinstance(parts[0], np.ndarray) else jnp).concatenate(parts)


def _showing_states(environment: Environment) -> Environment:
    """The environment with its state added to the observations, because rollouts record only observations."""

    def reset(key: Array) -> tuple[rollout.Visited, Any]:
        observation, state = environment.reset(key)
        return rollout.Visited(state, observation), state

    def step(key: Array, state: Any, action: Array) -> tuple[rollout.Visited, Any, Array, Array, Array]:
        observation, state, reward, terminated, truncated = environment.step(key, state, action)
        return rollout.Visited(state, observation), state, reward, terminated, truncated

    return environment._replace(reset=reset, step=step, observation=None)


def _looking_past_states(actor: rollout.Actor) -> rollout.Actor:
    """The same actor for such an environment; it gets the plain observations."""

    def act(carry: Any, place: rollout.Visited) -> tuple[Any, Distribution]:
        return actor.act(carry, place.observation)

    return rollout.Actor(act, actor.initial)
