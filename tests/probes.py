"""Tiny environments whose right answer is known: what a method must learn before anything else is believed.

Each is made once, so that programs compiled for it are found again.
"""

from functools import cache

import jax
import jax.numpy as jnp

from pgjax.types import Box, Discrete, Environment


@cache
def bandit(actions=2):
    """One step; reward 1 for the last action."""
    return _one_step("bandit", Discrete(actions), lambda o, a: jnp.float32(a == actions - 1))


@cache
def contextual():
    """One step; reward 1 if the action names the sign that the observation shows."""
    return _one_step("contextual", Discrete(2), lambda o, a: jnp.float32(a == (o[0] > 0)))


@cache
def target():
    """One step, continuous; reward −(a − 0.5)²."""
    return _one_step("target", Box((-1.0,), (1.0,), (1,)), lambda o, a: -jnp.sum((a - 0.5) ** 2))


@cache
def delayed():
    """Two steps; the first action decides the reward of the second."""

    def step(key, state, action):
        t, first = state
        reward = jnp.where(t == 1, jnp.float32(first == 1), 0.0)
        first = jnp.where(t == 0, action, first)
        return jnp.array([t + 1.0]), (t + 1, first), reward, t == 1, jnp.bool_(False)

    return Environment(
        "delayed",
        lambda key: (jnp.zeros(1), (jnp.int32(0), jnp.int32(0))),
        step,
        jax.ShapeDtypeStruct((1,), jnp.float32),
        None,
        Discrete(2),
        2,
    )


@cache
def delayed_choice():
    """Two steps; the first action must name the sign that the first observation shows, rewarded after the second.

    Reward from the observation, from the action, and late: what a wrong credit, mask or critic would miss.
    """

    def reset(key):
        sign = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        return jnp.array([sign, 0.0]), (jnp.int32(0), sign, jnp.bool_(False))

    def step(key, state, action):
        t, sign, right = state
        right = jnp.where(t == 0, action == (sign > 0), right)
        observation = jnp.array([0.0, 1.0])
        return observation, (t + 1, sign, right), jnp.float32((t == 1) & right), t == 1, jnp.bool_(False)

    return Environment("delayed choice", reset, step, jax.ShapeDtypeStruct((2,), jnp.float32), None, Discrete(2), 2)


@cache
def conjunction():
    """Two steps; reward 1 after the second if both actions were 1: what the first is worth depends on the second."""

    def step(key, state, action):
        t, first = state
        reward = jnp.float32((t == 1) & (first == 1) & (action == 1))
        first = jnp.where(t == 0, action, first)
        return jnp.array([t + 1.0]), (t + 1, first), reward, t == 1, jnp.bool_(False)

    return delayed()._replace(name="conjunction", step=step)


FIVE = jnp.stack([jnp.append(jax.nn.one_hot(kind, 5), sign) for kind in range(5) for sign in (-1.0, 1.0)])
"""The ten first observations of `five`: each kind with a negative and with a positive sign, [10, 6]."""
FIVE_ACTIONS = jnp.array([0, 1, 1, 1, 0, 1])
"""The right actions from the third kind on, where actions matter."""


@cache
def five(continuous=False):
    """Five problems in one, the first observation says which and shows a sign.

    A constant reward; the sign as reward; a reward after the second step for naming the sign at the first; a reward for
    one action; a reward for naming the sign at once. Continuous: minus the squared distance to ½ or to half the sign.
    Jones 2021, https://andyljones.com/posts/rl-debugging.html
    """

    def reset(key):
        kind_key, sign_key = jax.random.split(key)
        kind = jax.random.randint(kind_key, (), 0, 5)
        sign = jnp.where(jax.random.bernoulli(sign_key), 1.0, -1.0)
        return jnp.append(jax.nn.one_hot(kind, 5), sign), (kind, sign, jnp.int32(0), jnp.float32(0.0))

    def step(key, state, action):
        kind, sign, t, earned = state
        if continuous:
            fixed, named = -jnp.sum((action - 0.5) ** 2), -jnp.sum((action - 0.5 * sign) ** 2)
        else:
            fixed, named = jnp.float32(action == 1), jnp.float32(action == (sign > 0))
        earned = jnp.where(t == 0, named, earned)
        reward = jnp.stack([1.0, sign, jnp.where(t == 1, earned, 0.0), fixed, named])[kind]
        return jnp.zeros(6), (kind, sign, t + 1, earned), reward, (kind != 2) | (t == 1), jnp.bool_(False)

    space = Box((-1.0,), (1.0,), (1,)) if continuous else Discrete(2)
    return Environment("five", reset, step, jax.ShapeDtypeStruct((6,), jnp.float32), None, space, 2)


def _one_step(name, space, reward):
    def reset(key):
        observation = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)[None]
        return observation, observation

    def step(key, state, action):
        return state, state, reward(state, action), jnp.bool_(True), jnp.bool_(False)

    return Environment(name, reset, step, jax.ShapeDtypeStruct((1,), jnp.float32), None, space, 1)
