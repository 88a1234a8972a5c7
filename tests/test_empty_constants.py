"""What jaxlib 0.11 cannot compile for several devices: empty constants, and MuJoCo Playground."""

import jax
import jax.numpy as jnp
import jaxlib
import pytest

from pgjax import Config, SettingError, evaluate_runs, make_agent, make_trainer, reinforce, sweep, sweeps
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


def test_playground_is_trained_on_one_device_where_the_compiler_crashes(monkeypatch):
    env = closing_over_nothing()._replace(name="playground/Task")
    trainer = make_trainer(env, make_agent(env, hidden=(4,)), Config(num_envs=2))
    for version, devices in (((0, 10, 2), 2), ((0, 11, 2), 1)):
        monkeypatch.setattr(jaxlib.version, "__version_info__", version)
        assert sweeps.plan(trainer, reinforce().algorithm, 2).size == devices
    with pytest.raises(SettingError, match="mesh: '2 1' must be one device: jaxlib 0.11 crashes"):
        sweeps.plan(trainer, reinforce().algorithm, 2, mesh=(2, 1))
    other = make_trainer(env._replace(name="other"), make_agent(env, hidden=(4,)), Config(num_envs=2))
    assert sweeps.plan(other, reinforce().algorithm, 2).size == 2
