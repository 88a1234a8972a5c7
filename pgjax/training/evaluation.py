"""Evaluate a policy on whole episodes."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from pgjax.engine import asked, engine
from pgjax.engine.compiling import Program
from pgjax.environments.parameters import with_parameters
from pgjax.training import rollout
from pgjax.training.checks import check_params
from pgjax.training.keys import as_key
from pgjax.types import Agent, Environment, Params


def evaluate(
    environment: Environment,
    agent: Agent,
    params: Params,
    key: Array,
    *,
    episodes: int = 64,
    greedy: bool = False,
    environment_parameters: Mapping[str, ArrayLike] | None = None,
) -> Array:
    """Undiscounted returns of whole episodes, [episodes].

    Args:
      key: a key that training does not use.
      greedy: take the most likely action instead of a sample.
      environment_parameters: values by name that replace the environment's own (`Environment.parameters`). They may be
        traced, so other values need no recompilation and `jax.vmap` works.

    >>> from pgjax import environments, make_agent
    >>> env = environments.make("Catch-bsuite")
    >>> agent = make_agent(env)
    >>> evaluate(env, agent, agent.init(jax.random.key(0)), jax.random.key(1), episodes=8).shape
    (8,)
    """
    check_params(agent, params)
    bound = with_parameters(environment, environment_parameters)  # checks the values before they are traced
    values = {name: bound.parameters[name] for name in environment_parameters or ()}  # cast to the right dtypes
    return _evaluate(environment, agent, params, as_key(key), episodes, greedy, asked(), values)


@partial(Program, static_argnames=("environment", "agent", "episodes", "greedy", "how"))
def _evaluate(
    environment: Environment,
    agent: Agent,
    params: Params,
    key: Array,
    episodes: int,
    greedy: bool,
    how: str,
    values: Mapping[str, ArrayLike] | None,
) -> Array:
    environment = with_parameters(environment, values)
    policy = rollout.actor(agent, params)
    # Only the rewards are used, so the compiler removes the rest of the record.
    keys = jax.random.split(key, episodes)
    return jnp.sum(rollout.episodes(environment, policy, keys, greedy=greedy, how=engine(how)).reward, axis=0)
