"""Environments that close over arrays without elements, on two devices: jaxlib 0.11 would end the process."""

import jax
import jax.numpy as jnp

from pgjax import Config, evaluate_runs, make_agent, make_trainer, reinforce, sweep
from pgjax.spaces import Discrete
from pgjax.types import Environment

NOTHING = jnp.zeros((0, 3))


def closing_over_nothing() -> Environment:
    """Three steps; the state holds an array without elements that was made before anything was traced."""

    def reset(key):
        return jax.random.uniform(key, (2,)), (jnp.int32(0), NOTHING)

    def step(key, state, action):
        return jax.random.uniform(key, (2,)), (state[0] + 1, NOTHING), jnp.sum(NOTHING) + 1.0, state[0] >= 2, False

    return Environment("nothing", reset, step, jax.ShapeDtypeStruct((2,), jnp.float32), None, Discrete(2), horizon=3)


def test_two_runs_on_two_devices():
    env = closing_over_nothing()
    trainer = make_trainer(env, agent := make_agent(env, hidden=(4,)), Config(num_envs=2))
    assert len(jax.devices()) >= 2
    result = sweep(trainer, reinforce().algorithm, seeds=2, total_steps=12, devices=jax.devices()[:2])
    assert result.metrics["return_mean"].tolist() == [[3.0, 3.0]] * 2
    assert evaluate_runs(env, agent, result.runs, jax.random.key(9), episodes=3).tolist() == [[3.0] * 3] * 2
