"""gymnax at the door: wrappers honoured without its reset, its spaces, names registered anew."""

import re
from functools import partial
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax import wrappers
from gymnax.environments import environment as gym_environment
from gymnax.environments import spaces
from gymnax.wrappers.purerl import GymnaxWrapper

from pgjax import Categorical, SettingError, environments, make_agent, rollout
from pgjax.environments import base, from_gymnax
from pgjax.policies.observations import default_features
from pgjax.spaces import Box, Discrete, MultiBinary, MultiDiscrete

KEY = jax.random.key(0)
CATCH, PARAMS = gymnax.make("Catch-bsuite")


class Corridor(gym_environment.Environment):
    """The observation is the place; action 1 moves on, the end is place 3; a limit of 5 steps unless all move on."""

    def reset_env(self, key, params):
        return self.seen(jnp.int32(0)), Place(time=0, place=jnp.int32(0))

    def step_env(self, key, state, action, params):
        place = state.place + action
        state = Place(time=state.time + 1, place=place)
        return self.seen(place), state, jnp.float32(place), place >= 3, {}

    def seen(self, place):
        return place[None].astype(jnp.float32)

    def action_space(self, params):
        return spaces.Discrete(2)

    def observation_space(self, params):
        return spaces.Box(0.0, 3.0, (1,))


@struct.dataclass
class Place(gym_environment.EnvState):
    place: Any


LIMIT = gym_environment.EnvParams(max_steps_in_episode=5)


def walked(environment, actions):
    """Observations (the final one too), rewards and flags along fixed actions."""
    observation, state = base.reset(environment, KEY)
    seen, rest = [observation], []
    for action in actions:
        observation, state, *given = base.step(environment, KEY, state, action)
        seen.append(observation)
        rest.append([x.item() for x in given])
    return np.array(jax.tree.leaves(seen)).reshape(len(seen), -1), np.array(rest), state


class TenTimes(GymnaxWrapper):
    def step(self, key, state, action, params=None):
        obs, state, reward, *rest = self._env.step(key, state, action, params)
        return obs, state, 10.0 * reward, *rest


class Mirrored(GymnaxWrapper):
    """Takes the other action, and says so in observations of its own."""

    def reset(self, key, params=None):
        obs, state = self._env.reset(key, params)
        return {"place": obs, "mirrored": jnp.ones(1)}, state

    def step(self, key, state, action, params=None):
        obs, state, *rest = self._env.step(key, state, 1 - action, params)
        return {"place": obs, "mirrored": jnp.ones(1)}, state, *rest

    def action_space(self, params):
        return spaces.Discrete(1)


def always(action):
    return lambda observation: Categorical(jnp.full(2, -1e9).at[action].set(0.0))


def refused(build, message):
    with pytest.raises(SettingError) as error:
        build()
    assert re.match(message, str(error.value)) and "\n" not in str(error.value), str(error.value)


def test_a_wrapper_of_rewards_is_honoured_and_the_final_observation_kept():
    seen, rest, _ = walked(from_gymnax(TenTimes(Corridor()), LIMIT), [1, 1, 1])
    np.testing.assert_array_equal(seen[:, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(rest, [[10, 0, 0], [20, 0, 0], [30, 1, 0]])
    _, rest, _ = walked(from_gymnax(TenTimes(Corridor()), LIMIT), [0] * 5)
    np.testing.assert_array_equal(rest[:, 1:], [[0, 0]] * 4 + [[0, 1]])


def test_wrappers_in_a_chain_act_in_their_order():
    environment = from_gymnax(TenTimes(Mirrored(TenTimes(Corridor()))), LIMIT)
    assert environment.action_space == Discrete(1) and set(environment.observation) == {"place", "mirrored"}
    seen, rest, _ = walked(environment, [0, 0, 0])
    np.testing.assert_array_equal(seen[:, 1], [0, 1, 2, 3])  # leaves in the order of their keys
    np.testing.assert_array_equal(rest[:, 0], [100, 200, 300])


def test_gymnaxs_own_wrappers_are_honoured():
    flat = from_gymnax(wrappers.FlattenObservationWrapper(CATCH), PARAMS)
    assert flat.observation.shape == (50,)
    plain = environments.make("Catch-bsuite")
    seen, rest, _ = walked(flat, [0] * 9)
    also_seen, also_rest, _ = walked(plain, [0] * 9)
    np.testing.assert_array_equal(seen, also_seen)
    np.testing.assert_array_equal(rest, also_rest)
    logged = from_gymnax(wrappers.LogWrapper(Corridor()), LIMIT)
    *_, state = walked(logged, [1, 1, 1])
    assert (state.returned_episode_returns, state.returned_episode_lengths) == (6.0, 3)
    sticky = from_gymnax(wrappers.StickyActionWrapper(Corridor(), 1.0), LIMIT)
    seen, *_ = walked(sticky, [1, 1])  # the first action before any is 0, and stays
    np.testing.assert_array_equal(seen[:, 0], [0, 0, 0])
    seen, *_ = walked(from_gymnax(wrappers.StickyActionWrapper(Corridor(), 0.0), LIMIT), [1, 1])
    np.testing.assert_array_equal(seen[:, 0], [0, 1, 2])


@pytest.mark.costly
def test_a_wrapped_environment_streams_with_resets_of_its_own_state():
    environment = from_gymnax(wrappers.LogWrapper(TenTimes(Corridor())), LIMIT)
    keys = jax.random.split(KEY, 2)
    end, rows, statistics = rollout.stream(environment, always(1), rollout.start_stream(environment, keys), keys, 7)
    np.testing.assert_array_equal(rows.observation[:, 0, 0], [0, 1, 2, 0, 1, 2, 0])
    np.testing.assert_array_equal(rows.next_observation[:, 0, 0], [1, 2, 3, 1, 2, 3, 1])
    assert statistics.episodes == 4 and statistics.return_sum == 4 * 60
    np.testing.assert_array_equal(end.state.episode_lengths, 1)


class StepEnvOnly(GymnaxWrapper):
    """Changes what is beneath `step`, which gymnax's own `step` would pass by."""

    def step_env(self, key, state, action, params):
        obs, state, reward, *rest = self._env.step_env(key, state, action, params)
        return obs, state, reward + 1, *rest


class Holding(gym_environment.Environment):
    """An environment that holds another one under a name of its own, and steps it with gymnax's reset."""

    def __init__(self, held):
        self.held = held

    def reset_env(self, key, params):
        return self.held.reset(key, params)

    def step_env(self, key, state, action, params):
        obs, state, reward, terminated, _, info = self.held.step(key, state, action, params)
        return obs, state, -reward, terminated, info

    def action_space(self, params):
        return self.held.action_space(params)

    def observation_space(self, params):
        return self.held.observation_space(params)


class Remembering(GymnaxWrapper):
    """Keeps a bound method of what it wraps."""

    def __init__(self, env):
        super().__init__(env)
        self.inner_step = env.step

    def step(self, key, state, action, params=None):
        obs, state, reward, *rest = self.inner_step(key, state, action, params)
        return obs, state, reward - 1, *rest


class OwnStep(Corridor):
    """Overrides `step` and `reset` themselves."""

    def reset(self, key, params=None):
        obs, state = super().reset(key, params)
        return obs + 100, state

    def step(self, key, state, action, params=None):
        obs, state, reward, *rest = super().step(key, state, action, params)
        return obs + 100, state, 2 * reward, *rest


class OwnStepEnv(OwnStep):
    """A class derived from one with a `step` of its own, all in `step_env`."""

    def step_env(self, key, state, action, params):
        obs, state, reward, *rest = super().step_env(key, state, action, params)
        return obs, state, -reward, *rest


@pytest.mark.parametrize(
    ("env", "places", "rewards"),
    [
        (StepEnvOnly(Corridor()), [0, 1, 2, 3], [2, 3, 4]),
        (TenTimes(StepEnvOnly(Corridor())), [0, 1, 2, 3], [20, 30, 40]),
        (Holding(Corridor()), [0, 1, 2, 3], [-1, -2, -3]),
        (TenTimes(Holding(Corridor())), [0, 1, 2, 3], [-10, -20, -30]),
        (Remembering(Corridor()), [0, 1, 2, 3], [0, 1, 2]),
        (OwnStep(), [100, 101, 102, 103], [2, 4, 6]),
        (TenTimes(OwnStep()), [100, 101, 102, 103], [20, 40, 60]),
        (OwnStepEnv(), [100, 1, 2, 3], [-1, -2, -3]),
    ],
)
def test_whatever_is_overridden_counts_and_nothing_resets(env, places, rewards):
    seen, rest, _ = walked(from_gymnax(env, LIMIT), [1, 1, 1])
    np.testing.assert_array_equal(seen[:, 0], places)
    np.testing.assert_array_equal(rest[:, 0], rewards)
    assert rest[-1, 1] == 1


class Resetting(GymnaxWrapper):
    """Resets by itself."""

    def step(self, key, state, action, params=None):
        obs, state, reward, terminated, truncated, info = self._env.step(key, state, action, params)
        fresh = self._env.reset(key, params)
        obs, state = jax.tree.map(lambda a, b: jnp.where(terminated, a, b), fresh, (obs, state))
        return obs, state, reward, terminated, truncated, info


class PastIt(GymnaxWrapper):
    """Steps something else than what it holds."""

    def __init__(self, env):
        super().__init__(env)
        self.stepping = lambda *arguments: env.step(*arguments)

    def step(self, key, state, action, params=None):
        return self.stepping(key, state, action, params)


class ManyAtOnce(GymnaxWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.reset = jax.vmap(env.reset, in_axes=(0, None))
        self.step = jax.vmap(env.step, in_axes=(0, 0, 0, None))


class WithoutParams(GymnaxWrapper):
    def step(self, key, state, action):
        return self._env.step(key, state, action)


class ResettingItself(Corridor):
    def step(self, key, state, action, params=None):
        obs, state, reward, terminated, info = self.step_env(key, state, action, params)
        return obs, state, reward, terminated, info


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Resetting(Corridor()), "has a wrapper that resets within a step, which loses the final observation"),
        (TenTimes(Resetting(Corridor())), "has a wrapper that resets within a step"),
        (PastIt(Corridor()), "has a wrapper that never calls its step"),
        (ManyAtOnce(Corridor()), "is wrapped in ManyAtOnce, whose reset is not a method"),
        (WithoutParams(Corridor()), r"needs step\(key, state, action, params\) in WithoutParams: too many"),
        (
            wrappers.LegacyStepAPIWrapper(Corridor()),
            "gives 5 values in step of LegacyStepAPIWrapper; needs .*truncated",
        ),
        (wrappers.GymnaxToDmEnvWrapper(Corridor()), r"gives a TimeStep in reset of GymnaxToDmEnvWrapper; needs \("),
        (StepEnvOnly(TenTimes(Corridor())), "is wrapped in StepEnvOnly, which overrides step_env, around TenTimes"),
        (ResettingItself(), "gives 5 values in step of ResettingItself; needs"),
    ],
)
def test_what_cannot_be_honoured_is_refused(env, message):
    refused(lambda: from_gymnax(env, LIMIT, name="corridor"), f"environment: 'corridor' {message}")


# --- limits


@struct.dataclass
class Endless:
    speed: float = 1.0


@pytest.mark.costly
def test_without_any_limit_a_horizon_is_asked_for_and_then_kept_in_both_modes():
    refused(
        lambda: from_gymnax(Corridor(), Endless(), name="c"), "horizon: None is not a limit for 'c', whose parameters"
    )
    environment = from_gymnax(Corridor(), Endless(), horizon=2)
    keys, stay = KEY[None], always(0)
    _, rows, _ = rollout.stream(environment, stay, rollout.start_stream(environment, keys), keys, 5)
    np.testing.assert_array_equal(rows.truncated[:, 0], [0, 1, 0, 1, 0])
    whole = rollout.episodes(environment, stay, keys)
    np.testing.assert_array_equal(whole.truncated[:, 0], [0, 1])


@pytest.mark.parametrize("steps", [0, -3, 2.5, np.inf, "ten"])
def test_a_limit_that_is_no_number_of_steps_is_refused(steps):
    refused(
        lambda: from_gymnax(Corridor(), gym_environment.EnvParams(max_steps_in_episode=steps), name="c"),
        "max_steps_in_episode: .* of 'c' must be a whole number, at least 1$",
    )


# --- spaces


class Spaces(Corridor):
    """One step; the spaces are what is asked about, and `given` is what it observes."""

    def __init__(self, actions=None, observations=None, given=None):
        self.actions, self.observations, self.given = actions or spaces.Discrete(2), observations, given

    def seen(self, place):
        return jnp.zeros(1) if self.given is None else self.given

    def action_space(self, params):
        return self.actions

    def observation_space(self, params):
        return self.observations or spaces.Box(0.0, 1.0, (1,))


class Like:
    """A space by its attributes alone."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __repr__(self):
        return "Like"


def received(space, action):
    """The declared action space, and what the environment is given for an action of it."""
    given = []

    class Noting(Spaces):
        def step_env(self, key, state, action, params):
            given.append(jax.tree.map(lambda x: x, action))
            return super().step_env(key, state, jnp.int32(0), params)

    environment = from_gymnax(Noting(space), LIMIT, name="choices")
    key = jax.random.key(0)
    with jax.disable_jit():
        base.step(environment, key, base.reset(environment, key)[1], action)
    return environment.action_space, given[-1]


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("space", "known", "action", "given"),
    [
        (
            spaces.Tuple([spaces.Discrete(3), spaces.Discrete(4)]),
            (Discrete(3), Discrete(4)),
            (np.int32(1), np.int32(3)),
            (1, 3),
        ),
        (spaces.Dict({"a": spaces.Discrete(3)}), {"a": Discrete(3)}, {"a": np.int32(2)}, {"a": 2}),
        (Like(nvec=np.array([3, 4]), dtype=jnp.int32), MultiDiscrete((3, 4)), np.array([2, 0]), [2, 0]),
        (
            Like(nvec=np.array([[3], [4]]), start=np.array([[1], [5]])),
            MultiDiscrete(((3,), (4,))),
            np.array([0, 3]),
            [[1], [8]],
        ),
        (spaces.Box(2, 4, (1,), jnp.int32), MultiDiscrete((3,)), np.array([1]), [3]),
        (spaces.Box(-3, 0, (), jnp.int16), MultiDiscrete(4), np.array([3]), 0),
        (Like(n=4, shape=(4,)), MultiBinary((4,)), np.array([1, 0, 0, 1]), [1, 0, 0, 1]),
        (Like(n=(2, 1), shape=(2, 1)), MultiBinary((2, 1)), np.array([1, 0]), [[1], [0]]),
        (Like(n=4, start=1), Discrete(4), np.int32(3), 4),
        (spaces.Box(0.0, jnp.inf, (2,)), Box((0.0, 0.0), (np.inf, np.inf), (2,)), np.array([0.5, 2.0]), [0.5, 2.0]),
    ],
)
def test_actions_arrive_in_the_environments_own_numbers_shapes_and_types(space, known, action, given):
    found, arrived = received(space, action)
    assert found == known
    jax.tree.map(
        np.testing.assert_array_equal, arrived, jax.tree.map(np.array, given, is_leaf=lambda x: isinstance(x, list))
    )
    if isinstance(space, spaces.Box):
        assert arrived.dtype == space.dtype
    agent = make_agent(from_gymnax(Spaces(space), LIMIT, name="choices"), hidden=(2,))
    drawn = agent.policy(agent.init(jax.random.key(0)), jnp.zeros(1)).sample(jax.random.key(1))
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(np.shape, action)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Like(), "has an action space Like; needs a Discrete, MultiDiscrete, MultiBinary, Box, Dict or Tuple$"),
        (spaces.Tuple([Like()]), "has an action space Like; needs"),
        (spaces.Box(jnp.zeros(3), jnp.ones(3), (2,)), r"has a Box of shape \(2,\) with bounds of shapes"),
        (spaces.Box(0, 1 << 20, (), jnp.int32), r"has a Box of int32 actions from 0 to 1048576, 1.05e\+06 discrete"),
    ],
)  # fmt: skip
def test_action_spaces_that_no_policy_serves_say_what_to_do_instead(space, message):
    refused(lambda: from_gymnax(Spaces(space), LIMIT, name="choices"), f"environment: 'choices' {message}")


def test_categories_are_found_at_any_depth_of_dicts_and_tuples():
    space = spaces.Dict(
        {
            "room": spaces.Discrete(8),
            "hand": spaces.Tuple([spaces.Discrete(3), spaces.Box(0.0, 1.0, (2,))]),
            "several": Like(nvec=np.array([2, 4])),
            "time": spaces.Box(0, 9, (), jnp.int32),
        }
    )
    given = {
        "room": jnp.int32(5),
        "hand": (jnp.int32(2), jnp.array([0.5, 1.0])),
        "several": jnp.array([1, 3]),
        "time": jnp.int32(7),
    }
    environment = from_gymnax(Spaces(observations=space, given=given), LIMIT)
    assert environment.num_categories == {"room": 8, "hand": (3, None), "several": 4, "time": None}
    expected = [0, 0, 1, 0.5, 1, *np.eye(8)[5], 0, 1, 0, 0, 0, 0, 0, 1, 7]
    np.testing.assert_array_equal(default_features(environment)(given), expected)
    assert from_gymnax(Spaces(observations=spaces.Discrete(4), given=jnp.int32(1)), LIMIT).num_categories == 4


@pytest.mark.parametrize(
    ("space", "given", "message"),
    [
        (spaces.Discrete(4), jnp.zeros(4), r"gives observation of shape \(4,\), but its observation_space is"),
        (spaces.Discrete(4), {"a": jnp.int32(0)}, r"gives observation\['a'\], but its observation_space .* no such"),
        (spaces.Dict({"a": spaces.Discrete(4)}), jnp.int32(0), "gives observation, but its .* no such part"),
        (Like(n=4, start=1), jnp.int32(1), "has an observation_space Like; needs categories numbered from 0"),
    ],
)  # fmt: skip
def test_spaces_of_categories_that_the_observations_contradict_are_refused(space, given, message):
    refused(
        lambda: from_gymnax(Spaces(observations=space, given=given), LIMIT, name="c"), f"environment: 'c' {message}"
    )


# --- names


def test_a_name_registered_anew_gives_what_it_now_stands_for(monkeypatch):
    from gymnax import registration

    registry = dict(registration._registry)
    monkeypatch.setattr(registration, "_registry", registry)
    for env in (Corridor(), TenTimes(Corridor())):
        registry["Corridor-test"] = lambda env=env: env
        made = environments.make("Corridor-test:max_steps_in_episode=5")
        assert made is environments.make("Corridor-test:max_steps_in_episode=5") and made.horizon == 5
        _, rest, _ = walked(made, [1])
        assert rest[0, 0] == (10 if isinstance(env, TenTimes) else 1)


def test_settings_that_cannot_be_looked_up_are_made_each_time():
    lake = partial(environments.make, "FrozenLake-misc", desc=["SF", "FG"])
    assert lake().num_categories == 4


def test_an_environment_is_made_anew_for_another_type_of_numbers():
    small = environments.make("FrozenLake-misc")
    with jax.enable_x64(True):
        large = environments.make("FrozenLake-misc")
        base.check_environment(large)
    assert small.observation.dtype == jnp.int32 and environments.make("FrozenLake-misc") is small is not large
