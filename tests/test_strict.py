"""jax's strict modes: 64-bit numbers, no NaN, every key used once."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax import ALGORITHMS, environments, make_agent, make_trainer, normalise_observations, oracle, train
from pgjax.methods.schedules import scheduled

CATCH = environments.make("Catch-bsuite")


def prepared(name, **settings):
    """A small trainer of a method, and its numbers."""
    algorithm, config = ALGORITHMS[name]()
    config = replace(config, **({"num_envs": 4, "num_steps": 4} | settings))
    agent = normalise_observations(make_agent(CATCH, hidden=(4,), critic=config.critic), CATCH)
    return make_trainer(CATCH, agent, config), algorithm


@pytest.mark.few(8)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_method_carries_the_same_types_through_its_loop_with_64_bits_and_takes_a_schedule(name, x64):
    trainer, algorithm = prepared(name, normalise_rewards=True)
    algorithm = scheduled(algorithm, "cosine", total_steps=1000)
    state, metrics = jax.eval_shape(lambda: train(trainer, algorithm, jax.random.key(0), 3))
    assert state.reward_scale.moments.mean.dtype == metrics["return_mean"].dtype == np.float64


@pytest.mark.costly
def test_nothing_is_not_a_number_on_purpose():
    trainer, algorithm = prepared("ppo", diagnostics=2, epochs=1)
    with jax.debug_nans(True):
        _, metrics = train(trainer, algorithm, jax.random.key(0), 2)
    assert metrics["episodes"][0] == metrics["return_mean"][0] == 0  # four steps: no episode has ended


@pytest.mark.parametrize("name", ["rloo", "ppo"])
@pytest.mark.parametrize("engine", ["plain", "cpu"])
def test_no_key_is_used_twice(name, engine):
    trainer, algorithm = prepared(name, engine=engine, **({"epochs": 2} if name == "ppo" else {}))
    with jax.debug_key_reuse(True):
        jax.jit(lambda key: train(trainer, algorithm, key, 2)[0].env_steps).lower(jax.random.key(0))


def test_a_problem_trained_on_in_float32_is_exact_in_float64_afterwards():
    """jax passes a numpy array on as it was where a loop of a program in the other mode has it as a constant."""
    mdp = oracle.make_mdp([0.5, 0.5], [[[0.5, 0.0]] * 2] * 2, [[1.0, 0.0]] * 2, horizon=2)
    env = oracle.environment(mdp)

    @jax.jit
    def walk(key):
        start = env.reset(key)[1]
        return jax.lax.scan(lambda state, _: (env.step(key, state, jnp.int32(0))[1], None), start, None, 2)[0]

    walk(jax.random.key(0))
    with jax.enable_x64(True):
        exact = oracle.exact_gradient(mdp, jax.nn.log_softmax, jnp.zeros((2, 2)))
    assert exact.dtype == jnp.float64
