"""A tabular MDP as an environment to train on, with tabular policies and critics."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.config import Critic
from pgjax.oracle.mdp import MDP
from pgjax.policies.actions import distribution, outputs
from pgjax.spaces import Discrete, Space, number, parts
from pgjax.types import Agent, Environment, Params, SettingError

Observation = tuple[Array, Array]  # (t, s)


def environment(mdp: MDP, *, time_limit: bool = False, actions: Space = None) -> Environment:
    """Convert an MDP to an Environment whose observation is the pair of integers (t, s).

    Args:
      time_limit: whether the horizon truncates an episode instead of terminating it.
      actions: action space whose combinations, in the order of `pgjax.spaces.combinations`, are the actions of the MDP;
        default one Discrete action.

    >>> from pgjax.oracle import make_mdp
    >>> env = environment(make_mdp([1.0], [[[1.0]]], [[3.0]], horizon=2))
    >>> _, state = env.reset(jax.random.key(0))
    >>> observation, state, reward, terminated, truncated = env.step(jax.random.key(1), state, jnp.int32(0))
    >>> float(reward), bool(terminated), [int(x) for x in observation]
    (3.0, False, [1, 0])
    """
    # Copy the tables: a numpy array that was a constant of a float32 program fails as an argument of a float64 one.
    mdp = jax.tree.map(np.copy, mdp)
    space = Discrete(mdp.reward.shape[1]) if actions is None else actions
    integer = jax.ShapeDtypeStruct((), jnp.int32)

    def reset(key: Array) -> tuple[Observation, Observation]:
        start = jnp.int32(0), _draw(key, jnp.asarray(mdp.initial))
        return start, start

    def step(key: Array, state: Observation, action: Any) -> tuple[Observation, Observation, Array, Array, Array]:
        (time, s), action = state, number(space, action)
        following = jnp.asarray(mdp.transition)[s, action]
        stop = jnp.maximum(1.0 - jnp.sum(following), 0.0)
        successor = _draw(key, jnp.append(following, jnp.where(stop > 1e-12, stop, 0.0)))
        ended = successor == len(mdp.initial)
        last = time + 1 == mdp.horizon
        after = time + 1, jnp.where(ended, 0, successor)
        terminated = ended | (last & (not time_limit))
        return after, after, jnp.asarray(mdp.reward)[s, action], terminated, last & ~terminated

    return Environment("tables", reset, step, (integer, integer), None, space, mdp.horizon)


def tabular_agent(mdp: MDP, critic: Critic = "none", *, actions: Space = None, masks: Any = None) -> Agent:
    """Tabular softmax policy with logits θ[s, ·] and tabular critic, both initialised to 0.

    Args:
      critic: "none", "state" for V[s], or "action" for Q[s, a], which needs a single Discrete action.
      actions: as in `environment`; the policy is a product of softmaxes, one for each component of an action.
      masks: for each component of `actions` None or a table [S, outputs], 0 where a choice is not allowed.
    """
    states, count = mdp.reward.shape
    space = Discrete(count) if actions is None else actions
    if critic == "action" and not isinstance(space, Discrete):
        raise SettingError("critic", critic, "needs one Discrete action")
    tables = [None] * len(parts(space)[0]) if masks is None else [None if m is None else jnp.asarray(m) for m in masks]

    def init(key: Array) -> Params:
        value = {"none": {}, "state": jnp.zeros(states), "action": jnp.zeros((states, count))}[critic]
        return {"policy": jnp.zeros((states, outputs(space))), "value": value}

    def policy(params: Params, observation: Observation) -> Any:
        s = observation[1]
        allowed = [None if table is None else table[s] for table in tables]
        return distribution(space, "auto", params["policy"][s], None, allowed)

    def table(params: Params, observation: Observation) -> Array:
        return params["value"][observation[1]]

    def mean(params: Params, observation: Observation) -> Array:
        return jnp.sum(jnp.exp(policy(params, observation).log_probs) * table(params, observation), axis=-1)

    return Agent(
        init=init,
        policy=policy,
        value={"none": None, "state": table, "action": mean}[critic],
        action_value=table if critic == "action" else None,
    )


def _draw(key: Array, probabilities: Array) -> Array:
    return jax.random.categorical(key, jnp.log(probabilities)).astype(jnp.int32)
