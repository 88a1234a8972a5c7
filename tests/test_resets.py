"""Resets that are run only where an episode ended: the same stream as resets at every step, whatever is mapped over."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax import Config, environments, make_agent, make_trainer, reinforce, sweep
from pgjax.engine import CPU, ENGINES, PLAIN, resets
from pgjax.policies.uniform import uniform_policy
from pgjax.spaces import Discrete
from pgjax.training import rollout
from pgjax.types import Environment


def dear(start: float | jax.Array = 0.0) -> Environment:
    """Episodes of three to five steps in worlds of 5000 numbers, each of its own key."""

    def reset(key):
        world = start + jax.random.uniform(key, (5000,))
        return world[:2], (world, key, jnp.int32(0), jnp.zeros((0, 3)))

    def step(key, state, action):
        world, own, t, nothing = state
        observation = jax.lax.dynamic_slice(world, (t,), (2,))
        ended = (t >= 2) & (jax.random.uniform(key) < 0.5)
        return observation, (world, own, t + 1, nothing), world[0], ended, t >= 4

    return Environment("dear", reset, step, jax.ShapeDtypeStruct((2,), jnp.float32), None, Discrete(2), horizon=5)


def streamed(env: Environment, how, keys=4, steps=17):
    start = rollout.start_stream(env, jax.random.split(jax.random.key(0), keys))
    state, rows, statistics = rollout.stream(
        env, uniform_policy(env), start, jax.random.split(jax.random.key(1), keys), steps, how
    )
    return jax.tree.map(_numbers, (state, rows, statistics))


def only_where_ended(reset):
    traced, shapes = jax.make_jaxpr(reset, return_shape=True)(jnp.int32(0))
    return resets.only_where_ended(traced, jax.tree.structure(shapes))


def _numbers(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.costly
def test_a_dear_reset_is_run_only_where_an_episode_ended():
    env = dear()
    runs = []
    counted = env._replace(
        reset=lambda key: (jax.debug.callback(runs.append, jax.random.key_data(key)), env.reset(key))[1]
    )
    rows = streamed(counted, CPU)[1]
    jax.effects_barrier()
    ended = int((rows.terminated | rows.truncated).sum())
    assert 4 * 17 > ended > 8
    assert len(runs) == 4 + ended  # the four that start the stream, and one for each end


@pytest.mark.parametrize(
    "name", ["dear", "CartPole-v1", pytest.param("Freeway-MinAtar:max_steps_in_episode=7", marks=pytest.mark.slow)]
)
def test_the_stream_is_that_of_resets_at_every_step(name):
    env = dear() if name == "dear" else environments.make(name)
    plain, fast = streamed(env, PLAIN), streamed(env, CPU)
    assert (plain[1].terminated | plain[1].truncated).sum() > (4 if name == "dear" else 0)
    assert_same(plain, fast)


def test_one_environment_is_not_mapped_over():
    choose = only_where_ended(lambda key: {"x": 10 * key})
    for ended, expected in ((True, 30.0), (False, 1.0)):
        assert float(choose(jnp.int32(3), jnp.bool_(ended), {"x": jnp.float32(1)})["x"]) == expected


@pytest.mark.parametrize("of_runs", [True, False])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_whatever_it_is_mapped_over(levels, of_runs):
    """What a reset closes over may differ between the runs, at any level, or be the same for all."""
    shape = (2, 3, 4)[:levels]
    offsets = jnp.arange(float(shape[0]))
    ended = jax.random.bernoulli(jax.random.key(0), 0.5, shape)
    keys, places = jnp.arange(ended.size).reshape(shape), -jnp.ones(shape)

    def chosen(offset, key, ended, place):
        def f(key, ended, place):
            return only_where_ended(lambda key: key + offset)(key, ended, place)

        for _ in shape[1:]:
            f = jax.vmap(f)
        return f(key, ended, place)

    if of_runs:
        got = jax.vmap(chosen)(offsets, keys, ended, places)
        fresh = keys + offsets.reshape(-1, *(1,) * (levels - 1))
    else:
        got, fresh = jax.vmap(partial(chosen, jnp.float32(5)))(keys, ended, places), keys + 5.0
    np.testing.assert_array_equal(got, jnp.where(ended, fresh, places))


@pytest.mark.slow
def test_a_sweep_of_seeds_is_one_by_one():
    env = environments.make("Freeway-MinAtar", max_steps_in_episode=9)
    assert resets.numbers_computed(jax.make_jaxpr(env.reset)(jax.random.key(0)).jaxpr) >= resets.EXPENSIVE
    trainer = make_trainer(env, make_agent(env, hidden=(8,)), Config(num_envs=2))
    both = sweep(trainer, reinforce().algorithm, seeds=2, total_steps=36).metrics["return_mean"]
    alone = [sweep(trainer, reinforce().algorithm, seeds=[i], total_steps=36).metrics["return_mean"][0] for i in (0, 1)]
    np.testing.assert_allclose(both, np.stack(alone), rtol=1e-5, atol=1e-6)


def test_every_engine_has_resets():
    assert {name: how.resets for name, how in ENGINES.items()} == {
        "plain": resets.in_the_loop,
        "cpu": resets.by_cost,
        "accelerator": resets.by_cost,
    }
