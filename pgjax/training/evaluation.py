"""Evaluation: whole episodes, undiscounted returns, keys of its own."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.training import rollout
from pgjax.types import Agent, Environment, Params


@partial(jax.jit, static_argnames=("environment", "agent", "episodes", "greedy"))
def evaluate(
    environment: Environment,
    agent: Agent,
    params: Params,
    key: Array,
    *,
    episodes: int = 64,
    greedy: bool = False,
) -> Array:
    """Undiscounted returns of whole episodes, [episodes].

    Args:
      environment: where to act.
      agent: whose policy.
      params: its parameters.
      key: evaluation's own; never one that training has used.
      episodes: how many.
      greedy: the most likely action instead of a sampled one.

    >>> from pgjax import environments, make_agent
    >>> env = environments.make("Catch-bsuite")
    >>> agent = make_agent(env)
    >>> evaluate(env, agent, agent.init(jax.random.key(0)), jax.random.key(1), episodes=8).shape
    (8,)
    """
    policy = rollout.actor(agent, params)
    # Only the rewards leave the rollout, so the compiler drops the rest of the record.
    transition = rollout.episodes(environment, policy, jax.random.split(key, episodes), greedy=greedy)
    return jnp.sum(transition.reward, axis=0)
