"""Arrays without elements on several devices: jaxlib 0.11 ends the process where it is given some."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from pgjax import a2c, evaluate_runs, make_agent, make_trainer, sweep
from pgjax.spaces import Discrete
from pgjax.types import Environment

NOTHING = jnp.zeros((0, 3))


def holding_nothing() -> Environment:
    """Three steps; the state holds an array without elements that was made before anything was traced."""

    def reset(key):
        return jax.random.uniform(key, (2,)), (jnp.int32(0), NOTHING)

    def step(key, state, action):
        count, nothing = state
        reward = jnp.sum(NOTHING) + jnp.sum(nothing) + 1.0
        return jax.random.uniform(key, (2,)), (count + 1, nothing + 1), reward, count >= 2, False

    return Environment("nothing", reset, step, jax.ShapeDtypeStruct((2,), jnp.float32), None, Discrete(2), horizon=3)


@pytest.mark.costly
@pytest.mark.few(1)
@pytest.mark.parametrize("mesh", [(2, 1), (1, 2)])
def test_runs_and_environments_on_several_devices(mesh):
    """In flight between updates, so that the state is given to the devices, split along its environments too."""
    env = holding_nothing()
    recipe, agent = a2c(), make_agent(env, hidden=(4,), critic="state")
    trainer = make_trainer(env, agent, replace(recipe.config, num_envs=4, num_steps=3))
    result = sweep(trainer, recipe.algorithm, seeds=2, total_steps=24, mesh=mesh)
    assert result.metrics["return_mean"].tolist() == [[3.0, 3.0]] * 2
    assert result.runs.state.rollout_state.state[1].shape == (2, 4, 0, 3)
    assert evaluate_runs(env, agent, result.runs, jax.random.key(9), episodes=3).tolist() == [[3.0] * 3] * 2
