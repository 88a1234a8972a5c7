"""One whole episode with every state of the environment, to be looked at."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.estimators.distributions import Distribution
from pgjax.training import rollout
from pgjax.types import Agent, Environment, Params


class Recording(NamedTuple):
    """An episode of L steps, in numpy."""

    places: rollout.Visited  # every state and what was observed there, the end included: [L + 1, ...]
    returns: np.ndarray  # sum of the rewards up to each place, undiscounted: [L + 1]
    terminated: bool  # ended by itself, not by a time limit


def record(environment: Environment, agent: Agent, params: Params, key: Array, *, greedy: bool) -> Recording:
    """The episode that `rollout.episodes` runs for this key, with its states.

    Args:
      environment: where to act.
      agent: whose policy.
      params: its parameters.
      key: of the episode.
      greedy: the most likely action instead of a sampled one.
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
    """In numpy, which has no typed keys: those stay jax's."""
    return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)


def _joined(*parts: Any) -> Any:
    return (np if isinstance(parts[0], np.ndarray) else jnp).concatenate(parts)


def _showing_states(environment: Environment) -> Environment:
    """The same environment, whose observations carry the state: rollouts record observations, and no states."""

    def reset(key: Array) -> tuple[rollout.Visited, Any]:
        observation, state = environment.reset(key)
        return rollout.Visited(state, observation), state

    def step(key: Array, state: Any, action: Array) -> tuple[rollout.Visited, Any, Array, Array, Array]:
        observation, state, reward, terminated, truncated = environment.step(key, state, action)
        return rollout.Visited(state, observation), state, reward, terminated, truncated

    return environment._replace(reset=reset, step=step, observation=None)


def _looking_past_states(actor: rollout.Actor) -> rollout.Actor:
    """The same actor, for such an environment: it sees no more than before."""

    def act(carry: Any, place: rollout.Visited) -> tuple[Any, Distribution]:
        return actor.act(carry, place.observation)

    return rollout.Actor(act, actor.initial)
