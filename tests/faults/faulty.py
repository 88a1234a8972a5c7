"""An environment that breaks on purpose, and training on it, with the fault as data: one program serves all faults."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pgjax import make_agent, make_trainer, normalise_observations
from pgjax.types import Discrete, Environment

ENVS = 64
KINDS = ("reward", "observation", "state")
VALUES = (jnp.nan, jnp.inf, -jnp.inf)
NEVER = -1


class Fault(NamedTuple):
    """What breaks, to which value, and the chance that a fresh episode is one that breaks."""

    kind: int
    value: float
    chance: float


def walk(horizon):
    """Left or right along a line; reward −x². Episodes end by their time limit alone."""

    def observe(x, t):
        return jnp.stack([x, t / horizon])

    def reset(key):
        x = jax.random.uniform(key, minval=-1.0, maxval=1.0)
        return observe(x, 0), (x, jnp.int32(0))

    def step(key, state, action):
        x, t = state
        x, t = x + jnp.where(action == 1, 0.1, -0.1), t + 1
        return observe(x, t), (x, t), -(x**2), jnp.bool_(False), t >= horizon

    shape = jax.ShapeDtypeStruct((2,), jnp.float32)
    return Environment("walk", reset, step, shape, None, Discrete(2), horizon)


def faulty(environment, fault):
    """`environment` with a countdown in its state; at zero, reward, observation or state becomes `fault.value`."""

    def reset(key):
        observation, state = environment.reset(key)
        doomed = jax.random.bernoulli(jax.random.fold_in(key, 1), fault.chance)
        when = jax.random.randint(jax.random.fold_in(key, 2), (), 0, environment.horizon - 1)
        return observation, (state, jnp.where(doomed, when, NEVER))

    def step(key, state, action):
        inner, countdown = state
        observation, inner, reward, terminated, truncated = environment.step(key, inner, action)

        def broken(kind, x):
            return jnp.where((countdown == 0) & (fault.kind == KINDS.index(kind)), fault.value, x)

        x, t = inner
        observation = observation.at[0].set(broken("observation", observation[0]))
        state = (broken("state", x), t), countdown - 1
        return observation, state, broken("reward", reward), terminated, truncated

    return environment._replace(reset=reset, step=step)


def learner(environment, recipe, *, normalised=False, memory="none"):
    """Agent and trainer for an environment."""
    agent = make_agent(environment, hidden=(4,), critic=recipe.config.critic, memory=memory)
    if normalised:
        agent = normalise_observations(agent, environment)
    return agent, make_trainer(environment, agent, recipe.config)


def all_finite(tree):
    """Per run: whether every number of a tree [R, ...] is finite."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(x).reshape(len(x), -1).all(axis=1) for x in leaves]).all(axis=0)
