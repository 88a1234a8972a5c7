"""A tabular problem to train on: the tables as an Environment, and policies and critics that are tables too."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.config import Critic
from pgjax.estimators.distributions import Categorical
from pgjax.oracle.mdp import MDP
from pgjax.types import Agent, Discrete, Environment, Params

Observation = tuple[Array, Array]  # (t, s)


def environment(mdp: MDP, *, time_limit: bool = False) -> Environment:
    """The problem as an environment whose observation is (t, s), two whole numbers.

    Args:
      mdp: the problem.
      time_limit: an episode that is still running after `horizon` steps is cut there (a critic's value follows) in
        place of terminating.

    >>> from pgjax.oracle import make_mdp
    >>> env = environment(make_mdp([1.0], [[[1.0]]], [[3.0]], horizon=2))
    >>> _, state = env.reset(jax.random.key(0))
    >>> observation, state, reward, terminated, truncated = env.step(jax.random.key(1), state, jnp.int32(0))
    >>> float(reward), bool(terminated), [int(x) for x in observation]
    (3.0, False, [1, 0])
    """
    # Copies of its own: a numpy array that was a constant of a float32 program fails as an argument of a float64 one.
    mdp = jax.tree.map(np.copy, mdp)
    number = jax.ShapeDtypeStruct((), jnp.int32)

    def reset(key: Array) -> tuple[Observation, Observation]:
        start = jnp.int32(0), _draw(key, jnp.asarray(mdp.initial))
        return start, start

    def step(key: Array, state: Observation, action: Array) -> tuple[Observation, Observation, Array, Array, Array]:
        time, s = state
        following = jnp.asarray(mdp.transition)[s, action]
        stop = jnp.maximum(1.0 - jnp.sum(following), 0.0)
        successor = _draw(key, jnp.append(following, jnp.where(stop > 1e-12, stop, 0.0)))
        ended = successor == len(mdp.initial)
        last = time + 1 == mdp.horizon
        after = time + 1, jnp.where(ended, 0, successor)
        terminated = ended | (last & (not time_limit))
        return after, after, jnp.asarray(mdp.reward)[s, action], terminated, last & ~terminated

    return Environment("tables", reset, step, (number, number), None, Discrete(mdp.reward.shape[1]), mdp.horizon)


def tabular_agent(mdp: MDP, critic: Critic = "none") -> Agent:
    """A softmax policy over a table θ[s, a], with a critic V[s] ("state") or Q[s, a] ("action"); all 0 at first.

    >>> from pgjax.oracle import make_mdp
    >>> agent = tabular_agent(make_mdp([1.0], [[[1.0], [1.0]]], [[3.0, 0.0]], horizon=2), critic="state")
    >>> jax.tree.map(jnp.shape, agent.init(jax.random.key(0)))
    {'policy': (1, 2), 'value': (1,)}
    """
    states, actions = mdp.reward.shape

    def init(key: Array) -> Params:
        value = {"none": {}, "state": jnp.zeros(states), "action": jnp.zeros((states, actions))}[critic]
        return {"policy": jnp.zeros((states, actions)), "value": value}

    def policy(params: Params, observation: Observation) -> Categorical:
        return Categorical(params["policy"][observation[1]])

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
    """A number k with the given probabilities."""
    return jax.random.categorical(key, jnp.log(probabilities)).astype(jnp.int32)
