"""Rollouts against gymnax stepped by hand, in both modes, on every environment."""

from functools import cache, partial

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax import Categorical, environments, make_agent, rollout
from pgjax.engine import engine
from pgjax.types import Box, Discrete, Environment, SettingError

NAMES = [name for name in environments.available() if name not in ("MNISTBandit-bsuite", "Pong-misc")]
# Left out: MNISTBandit downloads data; Pong lacks a wall and rewards winning with 0.


@cache
def uniform(environment):
    n = environment.action_space.n
    return lambda observation: Categorical(jnp.zeros(n))


episodes = jax.jit(rollout.episodes, static_argnums=(0, 1), static_argnames="greedy")
stream = jax.jit(rollout.stream, static_argnums=(0, 1, 4))
start_stream = jax.jit(rollout.start_stream, static_argnums=0)


def both_modes(name):
    """A function of three keys: four rows of whole episodes and of a stream, and the values where they start."""
    environment = environments.make(name)
    agent = make_agent(environment, hidden=(), critic="state")

    def both(keys):
        params = agent.init(keys[0])
        policy = partial(agent.policy, params)
        whole = rollout.episodes(environment._replace(horizon=min(environment.horizon, 4)), policy, keys)
        start = rollout.start_stream(environment, keys)
        return (
            whole,
            rollout.stream(environment, policy, start, keys, 4)[1],
            agent.value(params, start.observation),
        )

    return both


KEYS = jax.random.split(jax.random.key(1), 3)


@pytest.mark.few(8)
@pytest.mark.parametrize("name", NAMES)
def test_every_environment_has_its_types_and_shapes_in_both_modes(name):
    whole, stream, value = jax.eval_shape(both_modes(name), KEYS)
    for rows in (whole, stream):
        assert rows.reward.dtype == rows.log_prob.dtype == jnp.float32
        assert rows.terminated.dtype == rows.truncated.dtype == bool
        assert rows.observation.shape == (len(rows.reward), 3, *environments.make(name).observation.shape)
    assert value.shape == (3,)


OF_EACH_SUITE = ("Pendulum-v1", "DeepSea-bsuite", "Breakout-MinAtar", "FourRooms-misc", "Swimmer-misc")


@pytest.mark.costly
@pytest.mark.few(2)
@pytest.mark.parametrize(
    "name", [name if name in OF_EACH_SUITE else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_every_environment_runs_in_both_modes(name):
    whole, stream, _ = jax.jit(both_modes(name))(KEYS)
    for rows in (whole, stream):
        assert all(np.isfinite(x).all() for x in (rows.reward, rows.log_prob))
    assert (whole.terminated | whole.truncated).sum() == 3


@pytest.mark.parametrize("name", ["Catch-bsuite", "DeepSea-bsuite", "MemoryChain-bsuite", "UmbrellaChain-bsuite"])
def test_short_episodes_all_end_at_the_horizon_and_not_before_it(name):
    environment = environments.make(name)
    rows = episodes(environment, uniform(environment), jax.random.split(jax.random.key(0), 64))
    ends = rows.terminated | (rows.truncated & (name == "DeepSea-bsuite"))  # its own limit is its last row
    assert ends.any(axis=0).all(), "the horizon cuts episodes"
    assert rows.mask.sum(axis=0).max() == environment.horizon


MANY = jax.random.split(jax.random.key(0), 64)


@cache
def cartpole_episodes():
    """An episode of each of `MANY`."""
    environment = environments.make("CartPole-v1")
    return episodes(environment, uniform(environment), MANY)


def test_whole_episodes_equal_gymnax_stepped_by_hand():
    name = "CartPole-v1"
    key, rows = MANY[0], jax.tree.map(lambda x: np.asarray(x)[:, :1], cartpole_episodes())
    env, params = gymnax.make(name)
    step_env = jax.jit(env.step_env)
    reset_key, steps_key = jax.random.split(key)
    observation, state = env.reset_env(reset_key, params)
    step_keys = jax.random.split(jax.random.split(steps_key, 3)[1], 500)
    for t in range(500):
        np.testing.assert_allclose(rows.observation[t, 0], observation, rtol=1e-4, atol=1e-6)
        observation, state, reward, terminated, _ = step_env(step_keys[t], state, rows.action[t, 0], params)
        np.testing.assert_allclose(rows.next_observation[t, 0], observation, rtol=1e-4, atol=1e-6)
        assert rows.reward[t, 0] == reward and rows.terminated[t, 0] == terminated and rows.mask[t, 0] == 1
        if terminated:
            break
    assert rows.mask[: t + 1].sum() == rows.mask.sum() == t + 1
    after = rows.observation[t + 1 :, 0]
    np.testing.assert_array_equal(after, np.broadcast_to(rows.next_observation[t, 0], after.shape))  # frozen
    assert not rows.reward[t + 1 :].any() and not (rows.terminated | rows.truncated)[t + 1 :].any()


@pytest.mark.costly
def test_streaming_equals_gymnaxs_own_auto_reset():
    """Pendulum with a limit of 5: truncation, the reset after it, and the final observation before it."""
    env, params = gymnax.make("Pendulum-v1")
    params = params.replace(max_steps_in_episode=5)
    environment = environments.from_gymnax(env, params)
    agent = make_agent(environment, hidden=(4,))
    policy = partial(agent.policy, agent.init(jax.random.key(0)))
    key = jax.random.key(5)
    start = start_stream(environment, key[None])
    end, rows, statistics = stream(environment, policy, start, key[None], 12)
    observation, state = env.reset(key, params)
    reset_keys = jax.random.split(jax.random.split(key, 3)[2], 12)
    for t in range(12):
        np.testing.assert_allclose(rows.observation[t, 0], observation, atol=1e-5)
        action = policy(observation).to_environment(rows.action[t, 0])
        # gymnax splits one key for its step and its reset: redo the reset with ours.
        _, state, reward, terminated, truncated, info = env.step(key, state, action, params)  # nothing in it is random
        np.testing.assert_allclose(rows.next_observation[t, 0], info["final_observation"], atol=1e-4)
        np.testing.assert_allclose(rows.reward[t, 0], reward, rtol=1e-4)
        assert rows.truncated[t, 0] == truncated == (t % 5 == 4) and not terminated
        observation = info["final_observation"]
        if truncated:
            observation, state = env.reset_env(reset_keys[t], params)
    assert statistics.episodes == 2 and statistics.length_sum == 10
    np.testing.assert_allclose(statistics.return_sum, rows.reward[:10].sum(), rtol=1e-5)
    np.testing.assert_allclose(end.episode_return, rows.reward[10:].sum(axis=0), rtol=1e-5)


def test_streaming_goes_on_where_it_stopped():
    environment = environments.make("CartPole-v1")
    keys = jax.random.split(jax.random.key(0), 4)
    policy = uniform(environment)
    middle, first, _ = stream(environment, policy, start_stream(environment, keys), keys, 30)
    _, second, _ = stream(environment, policy, middle, jax.random.split(jax.random.key(1), 4), 30)
    done = (first.terminated | first.truncated)[-1]
    goes_on = np.where(done[:, None], second.observation[0], first.next_observation[-1])
    np.testing.assert_array_equal(second.observation[0], goes_on)


def test_an_episode_depends_on_its_own_key_alone():
    environment = environments.make("CartPole-v1")
    many, few = cartpole_episodes(), episodes(environment, uniform(environment), MANY[2:4])
    np.testing.assert_array_equal(many.action[:, 2:4], few.action)
    np.testing.assert_array_equal(many.mask[:, 2:4], few.mask)


def test_an_episode_still_running_at_the_horizon_is_truncated_there():
    environment = environments.make("CartPole-v1")._replace(horizon=5)
    rows = episodes(environment, uniform(environment), jax.random.split(jax.random.key(0), 4))
    assert rows.truncated[4].all() and not rows.truncated[:4].any() and not rows.terminated.any()


def line(flags):
    """The state counts steps, the reward is that count; `flags` says whether step 5 is truncated by the environment."""

    def step(key, state, action):
        return (state + 1.0)[None], state + 1, state, False, (state == 4) & flags

    return Environment("line", lambda key: (jnp.zeros(1), 0), step, None, None, Discrete(2), 5)


@pytest.mark.costly
@pytest.mark.parametrize("how", ["plain", "cpu", "accelerator"])
def test_a_stream_truncates_at_the_horizon_as_whole_episodes_do(how):
    """Whether or not the environment does, and across the parts in which a stream is rolled out."""
    keys = jax.random.split(jax.random.key(0), 3)
    rows = {}
    for flags in (True, False):
        state, parts = rollout.start_stream(line(flags), keys), []
        for steps in (3, 4, 6):
            state, part, statistics = rollout.stream(line(flags), uniform(line(flags)), state, keys, steps, engine(how))
            parts.append(part)
        rows[flags] = jax.tree.map(lambda *x: jnp.concatenate(x), *parts), state, statistics
    jax.tree.map(np.testing.assert_array_equal, rows[True], rows[False])
    found = rows[False][0]
    np.testing.assert_array_equal(found.truncated[:, 0], [t in (4, 9) for t in range(13)])
    np.testing.assert_array_equal(found.next_observation[:, 0, 0], [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3])
    assert float(rows[False][2].episodes) == 3 and float(rows[False][2].return_sum) == 30
    whole = rollout.episodes(line(False), uniform(line(False)), keys)
    np.testing.assert_array_equal(whole.truncated, found.truncated[:5])


def test_both_flags_may_be_set():
    """CartPole that falls on its last permitted step reports both; the signals let termination win."""
    env, params = gymnax.make("CartPole-v1")
    length = int(cartpole_episodes().mask.sum(axis=0).min())
    environment = environments.from_gymnax(env, params.replace(max_steps_in_episode=length))
    rows = episodes(environment, uniform(environment), MANY)
    assert (rows.terminated & rows.truncated).any()


def test_statistics_of_no_episode_are_not_zero():
    nothing = rollout.EpisodeStatistics(*jnp.zeros(3)).means()
    assert np.isnan(nothing["return_mean"]) and nothing["episodes"] == 0


def test_keep_first_keeps_whole_episodes_up_to_the_number_of_steps():
    rows = cartpole_episodes()
    kept = rollout.keep_first(rows, 100)
    lengths, all_lengths = kept.mask.sum(axis=0), rows.mask.sum(axis=0)
    count = int((lengths > 0).sum())
    np.testing.assert_array_equal(lengths[:count], all_lengths[:count])
    assert lengths.sum() >= 100 > all_lengths[: count - 1].sum() and not lengths[count:].any()
    assert rollout.statistics(kept).episodes == count


def test_greedy_takes_the_mode():
    environment = environments.make("CartPole-v1")
    keys = jax.random.split(jax.random.key(0), 4)
    rows = episodes(environment, lambda o: Categorical(jnp.array([0.0, 0.1])), keys, greedy=True)
    assert (rows.action == rows.mask).all()  # 1 until the end, 0 behind it


def test_the_final_observation_is_kept_raw():
    """Boolean, integer and image observations are stored as the environment gives them."""
    assert environments.make("FrozenLake-misc").num_categories == 16
    assert environments.make("FrozenLake-misc").observation.dtype == jnp.int32
    assert environments.make("Breakout-MinAtar").observation.shape == (10, 10, 4)


def test_spaces():
    assert environments.make("CartPole-v1").action_space == Discrete(2)
    assert environments.make("PointRobot-misc").action_space == Box((-0.1, -0.1), (0.1, 0.1), (2,)) or np.allclose(
        environments.make("PointRobot-misc").action_space.bounds(), [[-0.1] * 2, [0.1] * 2]
    )


def test_the_same_name_gives_the_same_object():
    assert environments.make("CartPole-v1") is environments.make("CartPole-v1")


def test_unknown_environment_names_the_closest():
    with pytest.raises(SettingError, match="'cartpole'.*CartPole-v1"):
        environments.make("cartpole")


def test_a_name_can_carry_settings():
    """Of the constructor and of gymnax's parameters; the horizon follows them."""
    large = environments.make("FrozenLake-misc:map_name=8x8")
    assert large.num_categories == 64 and large.name == "FrozenLake-misc:map_name=8x8"
    assert environments.make("CartPole-v1:max_steps_in_episode=20").horizon == 20
    assert environments.make("DeepSea-bsuite:size=5").horizon == 5
    assert environments.make("Catch-bsuite:rows=7:columns=3").observation.shape == (7, 3)


@pytest.mark.parametrize(
    "name", ["CartPole-v1:gravity", "CartPole-v1:levity=1", "DeepSea-bsuite:size=large", "Cart:x=1"]
)
def test_settings_in_a_name_that_cannot_be(name):
    with pytest.raises(SettingError, match="^environment: ") as error:
        environments.make(name)
    assert "\n" not in str(error.value)


def test_a_registered_environment_is_found():
    gymnax.register("Tiny-CartPole", lambda: gymnax.environments.classic_control.cartpole.CartPole())
    assert environments.make("Tiny-CartPole").horizon == 500
