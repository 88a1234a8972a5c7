"""Running statistics: merged exactly, moved by training alone and after each batch, the same wherever they are used."""

from dataclasses import replace
from typing import NamedTuple

import chex
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from pgjax import (
    Config,
    SettingError,
    a2c,
    environments,
    evaluate,
    from_networks,
    make_trainer,
    normalise_observations,
    reinforce,
    rollout,
    train,
)
from pgjax.policies.normalisation import EPSILON, merge, no_moments, no_reward_scale, scale_rewards
from pgjax.training.batch import collect
from pgjax.training.signals import ratios_of
from pgjax.types import Discrete, Environment


def short_cartpole():
    """CartPole with a limit of 15 steps: batches in which episodes end both ways."""
    env, params = gymnax.make("CartPole-v1")
    return environments.from_gymnax(env, params.replace(max_steps_in_episode=15))


def far_away():
    """One step; reward 1 for naming the sign of x in an observation 1000 + x, x = ±1."""

    def reset(key):
        sign = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        return 1000.0 + sign[None], sign

    def step(key, state, action):
        right = jnp.float32(action == (state > 0))
        return 1000.0 + state[None], state, right, jnp.bool_(True), jnp.bool_(False)

    return Environment("far_away", reset, step, jax.ShapeDtypeStruct((1,), jnp.float32), None, Discrete(2), 1)


class Linear(NamedTuple):
    """A layer without bias, quick to compile."""

    outputs: int

    def init(self, key, x):
        return jax.random.normal(key, (x.shape[-1], self.outputs))

    def apply(self, params, x):
        return x @ params


def linear(environment, critic="state"):
    actions = getattr(environment.action_space, "n", 1)
    return from_networks(environment, Linear(actions), Linear(1) if critic == "state" else None, critic=critic)


@pytest.mark.parametrize("split", [[12], [1, 11], [3, 4, 5], [6, 0, 6], [1] * 12])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_merged_moments_are_those_of_everything_seen_in_any_split(shape, split):
    rng = np.random.default_rng(0)
    x = rng.normal(50.0, 2.0, size=(12, 5, *shape)).astype(np.float32)
    mask = rng.integers(2, size=(12, 5)).astype(np.float32)
    x[mask == 0] = np.nan  # what is masked is not seen
    moments, part = no_moments(shape), np.repeat(np.arange(len(split)), split)
    np.testing.assert_array_equal(moments.variance, 1.0)
    for k in range(len(split)):
        moments = MERGE(moments, x, mask * (part == k)[:, None])
    seen = x[mask > 0].astype(np.float64)
    assert moments.count == len(seen)
    np.testing.assert_allclose(moments.mean, seen.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.variance, seen.var(0), rtol=1e-4)


MERGE = jax.jit(merge)


@pytest.fixture(scope="module")
def history():
    """Three updates of a critic's agent on normalised observations, moved by a strong weight decay too.

    The states before each update and after the last, the batches, and the metrics.
    """
    environment, recipe = short_cartpole(), a2c()
    bare = linear(environment)
    agent = normalise_observations(bare, environment)
    config = replace(recipe.config, num_envs=4, num_steps=20)
    algorithm = recipe.algorithm._replace(optimizer=Partial(optax.adamw, learning_rate=0.01, weight_decay=10.0))
    trainer = make_trainer(environment, agent, config)

    @jax.jit
    def update(state):
        batch = collect(trainer, algorithm, state).batch
        of_batch = batch.transition, batch.signals, ratios_of(agent, state.params, batch.transition)
        return *trainer.update(algorithm, state), of_batch

    states, batches, metrics = [trainer.init(algorithm, jax.random.key(0))], [], []
    for _ in range(3):
        state, of_update, batch = update(states[-1])
        states.append(state)
        batches.append(batch)
        metrics.append(of_update)
    return bare, agent, states, batches, metrics


@pytest.mark.costly
def test_statistics_are_those_of_all_batches_and_nothing_else_moves_them(history):
    _, _, states, batches, _ = history
    assert states[0].params["statistics"].count == 0
    for k in range(1, 4):
        seen = np.concatenate([rows.observation for rows, _, _ in batches[:k]]).reshape(-1, 4).astype(np.float64)
        statistics = states[k].params["statistics"]
        assert statistics.count == len(seen) == 80 * k
        np.testing.assert_allclose(statistics.mean, seen.mean(0), atol=1e-6)
        np.testing.assert_allclose(statistics.variance, seen.var(0), rtol=1e-4)
    # the optimiser holds no moments for them either
    paths = jax.tree_util.tree_flatten_with_path(states[1].optimizer_state)[0]
    assert paths and not any("statistics" in jax.tree_util.keystr(path) for path, _ in paths)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), states[3].params["policy"], states[0].params["policy"])
    assert min(jax.tree.leaves(moved)) > 0


@pytest.mark.costly
def test_statistics_move_after_the_batch_has_been_worked_on(history):
    _, agent, states, batches, metrics = history
    for state, (rows, _, log_ratio) in zip(states, batches, strict=False):
        np.testing.assert_allclose(log_ratio, 0.0, atol=1e-5)
        np.testing.assert_allclose(
            agent.policy(state.params, rows.observation).log_prob(rows.action), rows.log_prob, atol=1e-5
        )
    after = agent.policy(states[1].params, batches[0][0].observation).log_prob(batches[0][0].action)
    assert np.abs(after - batches[0][0].log_prob).max() > 0.1
    np.testing.assert_allclose([m["kl"] for m in metrics], 0.0, atol=1e-6)


def scaled(statistics, x):
    """By hand."""
    if statistics.count == 0:
        return np.clip(x, -10, 10)
    return np.clip((x - statistics.mean) / np.sqrt(statistics.variance), -10, 10)


@pytest.mark.costly
def test_final_observations_are_scaled_like_all_others(history):
    bare, _, states, batches, _ = history
    boundaries = 0
    for state, (rows, signals, _) in zip(states, batches, strict=False):
        for given, got in ((rows.observation, signals.value), (rows.next_observation, signals.next_value)):
            expected = bare.value(state.params, scaled(state.params["statistics"], given))
            expected = np.where(rows.terminated & (got is signals.next_value), 0.0, expected)
            np.testing.assert_allclose(got, expected, atol=1e-4)
        boundaries += (rows.truncated & ~rows.terminated).sum()
    assert boundaries > 0


def test_evaluation_uses_the_statistics(history):
    bare, agent, states, _, _ = history
    params = states[3].params
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    logits = rollout.actor(agent, params).act((), x)[1].logits
    np.testing.assert_allclose(logits, bare.policy(params, scaled(params["statistics"], x)).logits, atol=1e-5)
    assert np.abs(logits - bare.policy(params, x).logits).max() > 1e-3


@pytest.mark.costly
def test_what_normalised_observations_taught_is_known_at_evaluation():
    environment, recipe = far_away(), reinforce(learning_rate=0.1)
    agent = normalise_observations(linear(environment, "none"), environment)
    trainer = make_trainer(environment, agent, Config(num_envs=32))
    state, _ = train(trainer, recipe.algorithm, jax.random.key(0), 60)
    returns = evaluate(environment, agent, state.params, jax.random.key(1), greedy=True)
    forgotten = state.params | {"statistics": no_moments((1,))}
    assert returns.mean() == 1.0
    assert evaluate(environment, agent, forgotten, jax.random.key(1), greedy=True).mean() < 0.8


def test_scaled_observations_are_clipped():
    environment = environments.make("CartPole-v1")
    agent = normalise_observations(linear(environment), environment, clip=2.0)
    params = agent.init(jax.random.key(0))
    far, farther = (agent.policy(params, x * jnp.ones(4)).logits for x in (2.0, 100.0))
    np.testing.assert_array_equal(far, farther)


def test_an_action_mask_is_not_an_observation_to_scale():
    """Always allowed is always 1: scaled it would be 0, and forbidden."""
    environment = environments.make("CartPole-v1")
    shapes = {"x": environment.observation, "action_mask": jax.ShapeDtypeStruct((2,), jnp.float32)}
    environment = environment._replace(observation=shapes)
    agent = normalise_observations(linear(environment), environment)
    rng = np.random.default_rng(0)
    x = {"x": rng.normal(size=(5, 3, 4)), "action_mask": np.broadcast_to([1.0, 0.0], (5, 3, 2))}
    params = agent.observe(agent.init(jax.random.key(0)), x, jnp.ones((5, 3)))
    np.testing.assert_allclose(np.exp(agent.policy(params, x).log_probs), x["action_mask"], atol=1e-6)


def test_numbers_of_categories_have_no_scale():
    environment = environments.make("FrozenLake-misc")
    with pytest.raises(SettingError, match="^normalise_observations: True .*FrozenLake-misc"):
        normalise_observations(linear(environment), environment)


class Loop:
    """Rewards over the standard deviation of the discounted return, one step at a time."""

    def __init__(self, num_envs, discount, streaming):
        self.running, self.discount, self.streaming, self.seen = np.zeros(num_envs), discount, streaming, []

    def batch(self, reward, ended, mask):
        if not self.streaming:
            self.running[:] = 0.0
        for t in range(len(reward)):
            for n in range(reward.shape[1]):
                if mask[t, n]:
                    self.running[n] = reward[t, n] + self.discount * self.running[n]
                    self.seen.append(self.running[n])
                    if ended[t, n]:
                        self.running[n] = 0.0
        return reward / np.sqrt(np.var(self.seen) + EPSILON)


@pytest.mark.parametrize("streaming", [True, False])
def test_scaled_rewards_against_a_plain_loop(streaming):
    rng = np.random.default_rng(0)
    steps, num_envs, discount = 12, 3, 0.9
    loop, scale = Loop(num_envs, discount, streaming), no_reward_scale(num_envs)
    jitted = jax.jit(lambda scale, rows: scale_rewards(scale, rows, discount, streaming=streaming))
    for k in range(3):
        ends = rng.uniform(size=(steps, num_envs)) < 0.25
        ends[-1, 0], ends[-1, 1] = True, False  # a batch ends with an episode, and within one
        by_limit = ends & (rng.uniform(size=ends.shape) < 0.5)
        mask = np.ones(ends.shape)
        if not streaming:
            mask[1:] = np.cumprod(1 - ends, axis=0)[:-1]
        reward = (rng.normal(2.0, 3.0, size=ends.shape) * mask).astype(np.float32)
        both = ends & (rng.uniform(size=ends.shape) < 0.2)
        ends, by_limit = ends & (mask > 0), by_limit & (mask > 0)
        rows = rollout.Transition(None, None, None, reward, ends & ~by_limit | both, by_limit, None, jnp.array(mask))
        scale, out = jitted(scale, rows._replace(terminated=rows.terminated & (mask > 0)))
        np.testing.assert_allclose(out.reward, loop.batch(reward, ends, mask), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(scale.moments.mean, np.mean(loop.seen), rtol=1e-4)
        assert scale.moments.count == len(loop.seen)
        if streaming:
            np.testing.assert_allclose(scale.running, loop.running, rtol=1e-4, atol=1e-6)
            assert scale.running[0] == 0 != scale.running[1]
        assert k or scale.moments.variance > 1


@pytest.mark.costly
@pytest.mark.parametrize("mode", ["stream", "episodes"])
def test_with_normalised_rewards_their_unit_does_not_matter(mode):
    base = environments.from_gymnax(*_pendulum())

    def in_units(unit):
        def step(key, state, action):
            observation, state, reward, *ends = base.step(key, state, action)
            return observation, state, unit * reward, *ends

        return base._replace(step=step)

    recipe = a2c() if mode == "stream" else reinforce(baseline="state_value", discount=0.9)
    config = replace(recipe.config, rollout=mode, num_envs=4, num_steps=12, normalise_rewards=True)

    @jax.jit
    @jax.vmap
    def after(unit):
        environment = in_units(unit)
        trainer = make_trainer(environment, linear(environment), config)
        state = trainer.init(recipe.algorithm, jax.random.key(0))
        state, metrics = jax.lax.scan(lambda state, _: trainer.update(recipe.algorithm, state), state, None, 2)
        return state.params, metrics["return_mean"] / unit

    results = after(jnp.array([1.0, 1000.0]))
    one, thousand = (jax.tree.map(lambda x, i=i: x[i], results) for i in (0, 1))
    chex.assert_trees_all_close(one, thousand, rtol=1e-4, atol=1e-5)
    assert np.isfinite(one[1]).all()  # reported returns stay in the problem's own unit


def _pendulum():
    env, params = gymnax.make("Pendulum-v1")
    return env, params.replace(max_steps_in_episode=5)
