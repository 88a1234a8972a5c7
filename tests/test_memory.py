"""Recurrent policies: what is recorded is what is recomputed, across resets, batches and minibatches."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax import (
    Environment,
    SettingError,
    a2c,
    environments,
    evaluate,
    evaluate_runs,
    from_networks,
    make_agent,
    make_signals,
    make_trainer,
    normalise_observations,
    ppo,
    rollout,
    sweep,
    train,
)
from pgjax.engine import CPU, PLAIN
from pgjax.spaces import Discrete
from pgjax.training.loss import Batch
from pgjax.training.minibatches import over_minibatches
from pgjax.training.monitors import score_probe
from pgjax.training.signals import first_memory, ratios_of, remembered, values_of

STEPS, ENVS, KEY = 37, 6, jax.random.key(0)


def short_cartpole():
    """CartPole with a limit of 20 steps: batches in which episodes end both ways."""
    env, params = gymnax.make("CartPole-v1")
    return environments.from_gymnax(env, params.replace(max_steps_in_episode=20))


def loud(agent):
    """An agent with a larger policy head, so that what it remembers decides what it does."""

    def init(key):
        params = agent.init(key)
        return params | {"policy": jax.tree.map(lambda x: 100.0 * x, params["policy"])}

    return agent._replace(init=init)


@pytest.fixture(scope="module")
def streams():
    """Agent, params and two consecutive batches: (memory at the first row, transition, memory after the last row)."""
    environment = short_cartpole()
    agent = loud(make_agent(environment, hidden=(8,), critic="state", memory="gru"))

    @jax.jit
    def roll():
        params = agent.init(jax.random.key(0))
        actor = rollout.actor(agent, params)
        keys = jax.random.split(jax.random.key(1), (2, ENVS))
        start = rollout.start_stream(environment, keys[0], agent.memory.initial)

        def batch(state, keys):
            after, rows, _ = rollout.stream(environment, actor, state, keys, STEPS)
            return after, (jax.tree.map(lambda x: x[None], state.memory), rows, after.memory)

        return params, jax.lax.scan(batch, start, keys)[1]

    params, both = roll()
    return agent, params, [jax.tree.map(lambda x, k=k: x[k], both) for k in (0, 1)]


def ends(rows):
    return np.asarray(rows.terminated | rows.truncated)


@pytest.mark.costly
def test_the_batches_are_what_the_tests_need(streams):
    _, _, ((first, one, _), (second, two, _)) = streams
    for rows in (one, two):
        inside = slice(0, STEPS - 1)
        assert rows.terminated[inside].any() and (rows.truncated & ~rows.terminated)[inside].any()
    assert not first.any() and (np.abs(second).sum(axis=-1) > 0).sum() > 1  # the second batch starts within episodes


def recomputed(agent):
    return jax.jit(lambda params, rows, memory: ratios_of(agent, params, rows, memory))


@pytest.mark.costly
def test_recorded_log_probs_are_those_recomputed(streams):
    agent, params, batches = streams
    ratios = recomputed(agent)
    for memory, rows, _ in batches:
        np.testing.assert_allclose(ratios(params, rows, memory), 0.0, atol=1e-5)
    # and the test would notice: resets left out, one row late, or after one kind of end only; a batch started afresh
    memory, rows, _ = batches[1]
    never = jnp.zeros_like(rows.terminated)
    late = jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), (rows.terminated, rows.truncated))
    for wrong in (
        (never, never),
        late,
        (never, rows.truncated & ~rows.terminated),
        (rows.terminated, never),
    ):
        altered = rows._replace(terminated=wrong[0], truncated=wrong[1])
        assert np.abs(ratios(params, altered, memory)).max() > 1e-2
    assert np.abs(ratios(params, rows, jnp.zeros_like(memory))).max() > 1e-2


def by_hand(agent, params, memory, rows):
    """One environment, one step at a time: features at each step and after it, and the carry behind the last row."""
    step = jax.jit(agent.memory.step)
    here, there = np.zeros((2, STEPS, ENVS, 8), np.float32)
    carry = np.array(memory[0])
    for t in range(STEPS):
        carry, here[t] = step(params, carry, rows.observation[t])
        there[t] = step(params, carry, rows.next_observation[t])[1]
        carry = np.where(ends(rows)[t][:, None], 0.0, carry)  # a fresh episode remembers nothing
    return here, there, carry


def every(agent, params, rows, memory, how=None):
    """The features at all steps and after all."""
    features, following = remembered(agent, params, rows, memory, how)
    return features, following(lambda x: x)


@pytest.mark.costly
def test_features_are_those_of_a_loop_that_forgets_at_every_end(streams):
    """Before the reset for the final observation, after it for the next row."""
    agent, params, batches = streams
    for memory, rows, last in batches:
        here, there, carry = by_hand(agent, params, memory, rows)
        features, following = jax.jit(partial(every, agent))(params, rows, memory)
        np.testing.assert_allclose(features, here, atol=1e-5)
        np.testing.assert_allclose(following, there, atol=1e-5)
        np.testing.assert_allclose(last, carry, atol=1e-5)
        goes_on = ~ends(rows)[:-1]
        np.testing.assert_allclose(following[:-1][goes_on], features[1:][goes_on], atol=1e-5)
        fresh = agent.memory.step(params, jnp.zeros((STEPS, ENVS, 8)), rows.next_observation)[1]
        assert np.abs(fresh - following)[ends(rows)].max() > 1e-2
        recorded = agent.policy(params, here).log_prob(rows.action)
        np.testing.assert_allclose(recorded, rows.log_prob, atol=1e-4)


@pytest.mark.costly
def test_whole_episodes_are_remembered_from_their_start():
    environment = short_cartpole()
    agent = loud(make_agent(environment, hidden=(8,), memory="gru"))

    @jax.jit
    def ratios():
        params = agent.init(jax.random.key(0))
        rows = rollout.episodes(environment, rollout.actor(agent, params), jax.random.split(jax.random.key(1), ENVS))
        return rows.mask, ratios_of(agent, params, rows, first_memory(agent, rows))

    mask, x = ratios()
    assert 0 < mask.mean() < 1
    np.testing.assert_allclose(x, 0.0, atol=1e-5)


@pytest.mark.costly
def test_minibatches_of_environments_keep_their_memory(streams):
    agent, params, batches = streams
    memory, rows, _ = batches[1]
    config = replace(ppo().config, num_envs=ENVS, num_steps=STEPS, minibatches=3, shuffle="environments")
    signals = make_signals(rows.reward, mask=rows.mask)

    def step(count, part, _):
        assert part.memory.shape == (1, ENVS // 3, 8)
        return count + 1, jnp.max(jnp.abs(ratios_of(agent, params, part.transition, part.memory)))

    @jax.jit
    def one_pass(key, memory):
        return over_minibatches(config, Batch(rows, signals, None, memory=memory), key, step, 0)

    count, worst = one_pass(jax.random.key(0), memory)
    assert count == 3 and worst < 1e-5
    assert one_pass(jax.random.key(0), jnp.roll(memory, 1, axis=1))[1] > 1e-2


def test_values_after_an_episode_come_from_its_own_memory(streams):
    agent, params, batches = streams
    recipe = ppo()
    for memory, rows, _ in batches:
        signals = jax.jit(partial(values_of, agent, recipe.algorithm, recipe.config))(params, rows, memory)
        here, there, _ = by_hand(agent, params, memory, rows)
        np.testing.assert_allclose(signals.value, agent.value(params, here), atol=1e-4)
        value = np.where(rows.terminated, 0.0, agent.value(params, there))
        np.testing.assert_allclose(signals.next_value, value, atol=1e-4)


@pytest.mark.costly
def test_training_and_evaluation_run_with_a_memory():
    environment = short_cartpole()
    agent = loud(make_agent(environment, hidden=(4,), critic="state", memory="gru"))
    recipe = a2c()
    config = replace(recipe.config, num_envs=ENVS, num_steps=7)
    state, metrics = train(make_trainer(environment, agent, config), recipe.algorithm, jax.random.key(0), 3)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
    np.testing.assert_allclose(metrics["kl"], 0.0, atol=1e-6)  # every batch starts at ratio 1
    returns = evaluate(environment, agent, state.params, jax.random.key(1), episodes=4)
    assert returns.shape == (4,) and (returns >= 1).all() and (returns <= 20).all()


def test_a_memory_is_not_cut_into_single_steps():
    environment = environments.make("MemoryChain-bsuite")
    agent = make_agent(environment, hidden=(4,), critic="state", memory="gru")
    with pytest.raises(SettingError, match="^shuffle: 'steps'"):
        make_trainer(environment, agent, replace(ppo().config, shuffle="steps", minibatches=2))
    make_trainer(environment, agent, replace(ppo().config, shuffle="steps", minibatches=1))


@pytest.mark.parametrize("separate", [False, pytest.param(True, marks=pytest.mark.costly)])
def test_the_loop_of_a_gru_has_the_features_and_gradients_of_its_steps(streams, separate, x64):
    """From a carry within episodes, across both kinds of end, with an initial carry that is not zero."""
    memory, rows, _ = streams[2][1]
    agent = make_agent(short_cartpole(), hidden=(8,), critic="state", memory="gru", separate_memory=separate)
    initial = jax.tree.map(lambda x: jnp.full(x.shape, 0.7), agent.memory.initial)
    agent = agent._replace(memory=agent.memory._replace(initial=initial))
    assert agent.memory.parts.along is not None
    assert normalise_observations(agent, short_cartpole()).memory.parts.along is not None
    rows, memory = jax.tree.map(lambda x: jnp.asarray(x, float) if x.dtype == jnp.float32 else x, (rows, memory))
    memory = (memory, -memory) if separate else memory
    params = jax.tree.map(lambda x: 0.5 * jnp.cos(jnp.arange(x.size, dtype=float)).reshape(x.shape), agent.init(KEY))
    direction = jax.random.normal(KEY, (2, STEPS, ENVS, 8))

    def found(how):
        def weighted(params, memory):
            features = jax.tree.leaves(remembered(agent, params, rows, memory, how)[0])
            return sum(jnp.sum(w * x) for w, x in zip(direction, features)), features

        return jax.jit(jax.grad(weighted, argnums=(0, 1), has_aux=True))(params, memory)

    one, other = found(CPU), found(PLAIN)
    assert len(one[1]) == 1 + separate and max(np.abs(x).max() for x in jax.tree.leaves(other[0])) > 1
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), one, other)


@pytest.mark.costly
def test_a_recurrent_policy_has_a_score_probe_in_every_engine(streams):
    """It is a derivative in forward mode, which the own loop of a GRU does not have."""
    agent, params, ((memory, rows, _), _) = streams
    probes = [score_probe(agent, params, rows, KEY, memory, how) for how in (CPU, PLAIN, None)]
    assert 0 < abs(probes[0]) < 5  # a t-statistic of 6 trajectories
    np.testing.assert_allclose(probes, probes[0], rtol=1e-3)


@pytest.mark.costly
def test_the_gradient_of_a_gru_has_the_types_of_its_parameters(streams):
    agent, params, ((memory, rows, _), _) = streams
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    found = jax.grad(lambda p: jnp.sum(remembered(agent, p, rows, memory, CPU)[0]).astype(float))(half)
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.costly
def test_values_and_ratios_pass_on_no_derivative_in_any_mode(streams):
    agent, params, ((memory, rows, _), _) = streams
    recipe = ppo()

    def found(params):
        signals = values_of(agent, recipe.algorithm, replace(recipe.config, engine="cpu"), params, rows, memory)
        return signals.value, ratios_of(agent, params, rows, memory, CPU)

    tangents = jax.jvp(found, (params,), (params,))[1]
    assert all((x == 0).all() for x in tangents)


class Front(NamedTuple):
    """The first half: nothing."""

    def apply(self, params, x):
        return x


class Doubling(NamedTuple):
    """A network, and the second half of one, that has something called `along`."""

    takes_key: bool
    along: str = "a word"

    def init(self, key, carry, x):
        return {}

    def apply(self, params, carry, x, key=None):
        return carry, 2.0 * x


class Linear(NamedTuple):
    """A policy's head."""

    def init(self, key, x):
        return jnp.ones((4, 2))

    def apply(self, params, x):
        return x @ params


class Halved(Doubling):
    """The same in two halves."""

    @property
    def halves(self):
        return Front(), Doubling(self.takes_key)


@pytest.mark.parametrize(
    ("network", "has_loop"), [(Halved(False), True), (Halved(True), False), (Doubling(False), False)]
)
def test_only_a_second_half_without_keys_has_a_loop(network, has_loop):
    environment = short_cartpole()
    agent = from_networks(environment, Linear(), memory=(network, jnp.zeros(1)))
    assert (agent.memory.parts.along is not None) == has_loop


def test_a_step_that_replaces_a_memorys_own_is_the_one_that_is_recomputed(streams):
    agent, params, ((memory, rows, _), _) = streams

    def doubled(params, carry, observation):
        return agent.memory.step(params, carry, 2.0 * observation)

    changed = agent._replace(memory=agent.memory._replace(step=doubled))
    for how in (CPU, PLAIN):
        features, following = every(changed, params, rows, memory, how)
        twice = rows._replace(observation=2.0 * rows.observation, next_observation=2.0 * rows.next_observation)
        wanted = every(agent, params, twice, memory)
        np.testing.assert_allclose(features, wanted[0], atol=1e-5)
        np.testing.assert_allclose(following, wanted[1], atol=1e-5)
        assert np.abs(features - remembered(agent, params, rows, memory)[0]).max() > 1e-2


@pytest.mark.costly
def test_without_a_memory_nothing_is_earned_on_the_memory_chain():
    """±1 with equal chances for every policy of the observation alone: 16 random ones, 4096 episodes in all."""
    environment = environments.make("MemoryChain-bsuite")
    agent = loud(make_agent(environment, hidden=(4,)))

    @jax.jit
    @jax.vmap
    def returns(key):
        return evaluate(environment, agent, agent.init(key), jax.random.fold_in(key, 1), episodes=256)

    earned = returns(jax.random.split(jax.random.key(0), 16))
    assert set(np.unique(earned)) == {-1.0, 1.0}
    assert np.abs(earned.mean(axis=1)).max() < 4 / 16 and abs(earned.mean()) < 4 / 64


def learned(recipe, memory, total_steps):
    """Greedy returns of four seeds on the memory chain."""
    environment = environments.make("MemoryChain-bsuite")
    agent = make_agent(environment, hidden=(16,), critic="state", memory=memory)
    result = sweep(make_trainer(environment, agent, recipe.config), recipe.algorithm, seeds=4, total_steps=total_steps)
    return evaluate_runs(environment, agent, result.runs, jax.random.key(1 << 31), episodes=256, greedy=True)


def ppo_of_environments():
    recipe = ppo(learning_rate=3e-3)
    return recipe._replace(
        config=replace(recipe.config, num_envs=32, num_steps=12, minibatches=4, shuffle="environments")
    )


def a2c_of_environments():
    recipe = a2c(learning_rate=1e-2)
    return recipe._replace(config=replace(recipe.config, num_envs=32, num_steps=12))


RECIPES = {"ppo": ppo_of_environments, "a2c": a2c_of_environments}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_memory_chain_is_learned_with_a_memory(name):
    assert (learned(RECIPES[name](), "gru", 20_000) == 1.0).all()


@pytest.mark.slow
def test_the_memory_chain_is_not_learned_without(name="ppo"):
    assert np.abs(learned(RECIPES[name](), "none", 20_000).mean(axis=1)).max() < 4 / 16


def masked_memory_chain():
    """MemoryChain with four actions, of which a mask allows two at each step; what it forbids would end in a reward."""
    chain = environments.make("MemoryChain-bsuite")

    def seen(observation, key):
        turned = jax.random.bernoulli(key)
        return {"x": observation, "action_mask": jnp.where(turned, jnp.array([0, 0, 1, 1]), jnp.array([1, 1, 0, 0]))}

    def reset(key):
        own, of_mask = jax.random.split(key)
        observation, state = chain.reset(own)
        given = seen(observation, of_mask)
        return given, (state, given["action_mask"])

    def step(key, state, action):
        own, of_mask = jax.random.split(key)
        inner, mask = state
        observation, inner, reward, terminated, truncated = chain.step(own, inner, action % 2)
        given = seen(observation, of_mask)
        reward = jnp.where(mask[action] > 0, reward, 9.0)
        return given, (inner, given["action_mask"]), reward, terminated, truncated

    shapes = {"x": chain.observation, "action_mask": jax.ShapeDtypeStruct((4,), jnp.int32)}
    return Environment("masked chain", reset, step, shapes, None, Discrete(4), chain.horizon)


@pytest.mark.slow
def test_a_masked_memory_chain_is_learned():
    environment, recipe = masked_memory_chain(), ppo_of_environments()
    agent = make_agent(environment, hidden=(16,), critic="state", memory="gru")
    result = sweep(make_trainer(environment, agent, recipe.config), recipe.algorithm, seeds=4, total_steps=40_000)
    returns = evaluate_runs(environment, agent, result.runs, jax.random.key(1 << 31), episodes=256, greedy=True)
    assert (returns == 1.0).all()
