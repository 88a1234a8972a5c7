"""What every family of environments keeps to, each compared with a loop in the family's own interface.

A stream of random steps is recorded here, and taken again there, with the same keys and actions: observations before
and after each end, rewards and ends must be the same. A family whose package is not installed is skipped; those that
take long to compile are marked slow.
"""

import copy
import functools
import importlib
import sys
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax import Categorical, environments, make_agent, make_trainer, ppo, rollout, sweep
from pgjax.environments import base
from pgjax.environments.dtypes import strong
from pgjax.environments.packages import NotInstalled
from pgjax.environments.table import FAMILIES
from pgjax.policies.observations import default_features
from pgjax.runs.settings.command_line import from_command_line
from pgjax.types import Discrete, SettingError


class Case(NamedTuple):
    """An environment under a short time limit.

    Attributes:
      name: of it.
      setting: what its time limit is called.
      limit: the time limit; about as long as a random episode, so that both ends are seen.
      ends: whether it ends by itself.
      module: that must be there for its family.
      steps: how long the stream is; default about three episodes. Craftax's is one: the worlds it makes hang on the
        last digits of a noise, which differ between two programs.
    """

    name: str
    setting: str
    limit: int
    ends: bool
    module: str
    steps: int | None = None

    @property
    def family(self):
        return self.name.partition("/")[0] + "/"

    def make(self):
        need(self.family)
        return environments.make(self.name, **{self.setting: self.limit})


FAST = [
    Case("jumanji/Snake-v1", "time_limit", 12, True, "jumanji"),
    Case("jumanji/Tetris-v0", "time_limit", 6, True, "jumanji"),
    Case("xland/MiniGrid-EmptyRandom-5x5", "max_steps", 20, True, "xminigrid"),
    Case("pgx/2048", "max_steps", 6, True, "pgx"),
    Case("pgx/minatar-breakout", "max_steps", 15, True, "pgx"),
    Case("navix/Navix-Empty-Random-5x5-v0", "max_steps", 20, True, "navix"),
]
SLOW = [
    Case("craftax/Craftax-Classic-Symbolic-v1", "max_timesteps", 7, False, "craftax", steps=7),
    Case("playground/CartpoleBalance", "episode_length", 7, False, "mujoco_playground"),
    Case("jumanji/SearchAndRescue-v0", "time_limit", 7, False, "jumanji"),
]
CASES = [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)]
FAMILY_CASES = list({case.family: case for case in (*FAST, *SLOW)}.values())  # one of each
of_each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
of_each_family = pytest.mark.parametrize("case", FAMILY_CASES, ids=lambda case: case.family)
NUM_ENVS = 8


def need(family):
    """Skip the test where a family is not installed, and say what would install it."""
    try:
        environments.available(family)
    except NotInstalled as error:
        pytest.skip(str(error))


class Own(NamedTuple):
    """A family's own interface.

    Attributes:
      reset: key -> (observation, state).
      step: (key, state, action) -> (observation, state, reward, whether the task has ended by itself).
    """

    reset: Any
    step: Any


def own(case):
    """Written against each family's documentation, without anything of pgjax."""
    return OWN[case.family](case.name.partition("/")[2], case.limit)


def own_jumanji(name, limit):
    import jumanji

    env = jumanji.make(name)  # its own, longer limit
    takes = {"Tetris-v0": lambda a: jnp.array([a // 10, a % 10])}.get(name, lambda a: a)
    flat = name == "Tetris-v0"

    def seen(observation):
        observation = observation._replace(step_count=observation.step_count / limit)
        return observation._replace(action_mask=observation.action_mask.ravel()) if flat else observation

    def reset(key):
        state, timestep = env.reset(key)
        return seen(timestep.observation), state

    def step(key, state, action):
        state, timestep = env.step(state, takes(action))
        return seen(timestep.observation), state, jnp.sum(timestep.reward), timestep.last()

    return Own(reset, step)


def own_search_and_rescue(name, limit):
    import jumanji

    env = jumanji.make(name, time_limit=limit)  # which rewards depend on

    def seen(observation):
        return observation._replace(step=observation.step / limit)

    def reset(key):
        state, timestep = env.reset(key)
        return seen(timestep.observation), state

    def step(key, state, action):
        state, timestep = env.step(state, jnp.clip(action.reshape(2, 2), -1, 1))
        return seen(timestep.observation), state, jnp.sum(timestep.reward), state.targets.found.all()

    return Own(reset, step)


def own_xland(name, limit):
    import xminigrid

    env, params = xminigrid.make(name, max_steps=limit)

    def reset(key):
        timestep = env.reset(params, key)
        return timestep.observation, timestep

    def step(key, timestep, action):
        timestep = env.step(params, timestep, action)
        return timestep.observation, timestep, timestep.reward, timestep.last() & (timestep.discount == 0)

    return Own(reset, step)


def own_pgx(name, limit):
    import pgx

    env = pgx.make(name)

    def seen(state):
        masked = {"observation": state.observation, "action_mask": state.legal_action_mask}
        return masked if name == "2048" else state.observation

    def reset(key):
        state = env.init(key)
        return seen(state), state

    def step(key, state, action):
        state = env.step(state, action, key)
        return seen(state), state, state.rewards[0], state.terminated

    return Own(reset, step)


def own_navix(name, limit):
    import navix

    env = navix.make(name, max_steps=limit)

    def reset(key):
        timestep = env.reset(key)
        return timestep.observation, timestep

    def step(key, timestep, action):
        timestep = env.step(timestep, action)
        ended = timestep.step_type == navix.StepType.TERMINATION
        return timestep.observation, timestep, timestep.reward, ended

    return Own(reset, step)


def own_craftax(name, limit):
    from craftax.craftax_env import make_craftax_env_from_name

    env = make_craftax_env_from_name(name, auto_reset=False)

    def step(key, state, action):
        return env.step(key, state, action, env.default_params)[:4]

    return Own(env.reset, step)


def own_playground(name, limit):
    from mujoco_playground import registry

    env = registry.load(name, config_overrides={"impl": "jax"})

    def reset(key):
        state = env.reset(key)
        return state.obs, state

    def step(key, state, action):
        state = env.step(state, jnp.clip(action, -1, 1))
        return state.obs, state, state.reward, state.done.astype(bool)

    return Own(reset, step)


OWN = {
    "jumanji/": lambda name, limit: (own_search_and_rescue if "Rescue" in name else own_jumanji)(name, limit),
    "xland/": own_xland,
    "pgx/": own_pgx,
    "navix/": own_navix,
    "craftax/": own_craftax,
    "playground/": own_playground,
}


def random_policy(environment):
    """Every action alike, illegal ones too; normal ones in a box."""
    if isinstance(environment.action_space, Discrete):
        return lambda observation: Categorical(jnp.zeros(environment.action_space.n))
    agent = make_agent(environment, hidden=(2,))
    return partial(agent.policy, agent.init(jax.random.key(0)))


class Played(NamedTuple):
    environment: Any
    run: Any  # jitted: (stream state, keys) -> what `rollout.stream` gives
    start: Any
    keys: Any
    rows: Any  # [T, N, ...]
    state: Any  # after them


@functools.cache
def played(case):
    """A recorded stream of each case."""
    environment = case.make()
    steps = case.steps or 3 * case.limit + 2
    run = jax.jit(partial(rollout.stream, environment, random_policy(environment), num_steps=steps))
    start_keys, keys = jax.random.split(jax.random.key(1), (2, NUM_ENVS))
    start = jax.jit(partial(rollout.start_stream, environment))(start_keys)
    state, rows, _ = run(start, keys)
    return Played(environment, run, start, keys, jax.device_get(rows), state)


@functools.cache
def taken_again(case):
    """The same stream in the family's own interface, one environment at a time, with the keys of `rollout.stream`.

    Returns:
      observation, next_observation, reward, ended by itself; [T, N, ...].
    """
    there, (_, _, _, keys, rows, _) = own(case), played(case)
    length = len(rows.reward)
    ended = jnp.asarray(rows.terminated | rows.truncated)

    def one(given):
        start_key, key, action, ended = given
        _, of_step, of_reset = jax.random.split(key, 3)

        def step(now, following):
            (observation, state), (step_key, reset_key, action, ended) = now, following
            after, state, reward, terminated = there.step(step_key, state, action)
            fresh = there.reset(reset_key)
            now = jax.tree.map(lambda a, b: jnp.where(ended, a, b), fresh, (after, state))
            return strong(now), (observation, after, reward, terminated)

        start = strong(there.reset(start_key))
        each = jax.random.split(of_step, length), jax.random.split(of_reset, length), action, ended
        return jax.lax.scan(step, start, each)[1]

    start_keys = jax.random.split(jax.random.key(1), (2, NUM_ENVS))[0]
    columns = jnp.moveaxis(jnp.asarray(rows.action), 1, 0), jnp.moveaxis(ended, 1, 0)
    given = jax.jit(partial(jax.lax.map, one))((start_keys, keys, *columns))
    return jax.tree.map(lambda x: np.moveaxis(np.asarray(x), 1, 0), given)


def assert_same(one, other):
    assert len(jax.tree.leaves(one)) == len(jax.tree.leaves(other))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
        assert a.shape == b.shape
        np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=1e-4, atol=1e-4)


@pytest.mark.costly
@pytest.mark.few(1)
@of_each_case
def test_observations_and_rewards_are_those_of_the_family(case):
    """So the final observation is the end itself, and nothing of an episode is left over in the next."""
    rows, (observation, following, reward, _) = played(case).rows, taken_again(case)
    assert_same(rows.next_observation, following)
    assert_same(rows.observation, observation)
    assert_same(rows.reward, reward)


@pytest.mark.few(2, costly=4)
@of_each_case
def test_termination_is_the_tasks_own_end(case):
    rows = played(case).rows
    np.testing.assert_array_equal(rows.terminated, taken_again(case)[3])
    assert rows.terminated.any() == case.ends


@pytest.mark.costly
@of_each_case
def test_truncation_is_the_time_limit_and_nothing_else(case):
    environment, rows = played(case).environment, played(case).rows
    steps = 0
    for ended, truncated in zip(rows.terminated | rows.truncated, rows.truncated):
        steps = steps + 1
        np.testing.assert_array_equal(truncated, steps == case.limit)
        steps = np.where(ended, 0, steps)
    assert rows.truncated.any() and environment.horizon == case.limit


@pytest.mark.few(2, costly=4)
@of_each_case
def test_flags_are_bools_and_a_state_keeps_its_types(case):
    environment = case.make()
    key = jax.eval_shape(lambda: jax.random.key(0))
    observation, state = jax.eval_shape(environment.reset, key)
    space = environment.action_space
    action = jnp.int32(0) if isinstance(space, Discrete) else jnp.zeros(space.shape)
    seen, after, reward, *flags = jax.eval_shape(environment.step, key, state, action)
    assert [(flag.shape, flag.dtype) for flag in flags] == [((), jnp.bool_)] * 2 and reward.shape == ()
    for one, other in ((state, after), (observation, seen)):
        assert jax.tree.structure(one) == jax.tree.structure(other)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((state, after, observation, seen)))
    base.check_environment(environment)
    features = jax.eval_shape(default_features(environment), observation)
    assert features.ndim == 1 and features.dtype == jnp.float32


@pytest.mark.few(2, costly=4)
@of_each_case
def test_the_same_keys_give_the_same_stream_and_nothing_is_compiled_again(case):
    _, run, start, keys, rows, state = played(case)
    again = run(start, keys)[1]
    jax.tree.map(np.testing.assert_array_equal, rows, jax.device_get(again))
    other = run(state, jax.random.split(jax.random.key(2), NUM_ENVS))[1]
    assert run._cache_size() == 1
    assert not np.array_equal(other.action, rows.action)


@pytest.mark.costly
@of_each_case
def test_a_step_beyond_the_time_limit_does_not_begin_anew(case):
    environment = case.make()
    space = environment.action_space
    action = jnp.int32(0) if isinstance(space, Discrete) else jnp.zeros(space.shape)

    @jax.jit
    def last_flag(key):
        def step(_, state_and_flag):
            _, state, *_, truncated = environment.step(key, state_and_flag[0], action)
            return state, truncated

        return jax.lax.fori_loop(0, case.limit + 1, step, (environment.reset(key)[1], jnp.bool_(False)))[1]

    assert last_flag(jax.random.key(0))


@of_each_family
def test_an_unknown_name_is_refused_with_the_closest_one(case):
    need(case.family)
    known = environments.available(case.family)[-1]
    asked = case.family + known.removeprefix(case.family).swapcase()
    with pytest.raises(
        SettingError, match=f"^environment: '{asked}' is not known; the closest name is {known}$"
    ) as error:
        environments.make(asked)
    assert "\n" not in str(error.value)


@of_each_family
def test_an_unknown_setting_and_an_episode_without_steps_are_refused_in_one_line(case):
    need(case.family)
    with pytest.raises(SettingError, match=f"^environment: '{case.name}' cannot be made with .*wings=2") as error:
        environments.make(case.name, wings=2)
    assert "\n" not in str(error.value)
    with pytest.raises(SettingError, match=f"^{case.setting}: 0 must be a whole number of at least 1$"):
        environments.make(case.name, **{case.setting: 0})


@of_each_family
def test_without_the_package_one_line_says_what_to_install(case, monkeypatch):
    for module in [case.module, *(name for name in sys.modules if name.partition(".")[0] == case.module)]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        NotInstalled, match=rf"^environment: '{case.name}' needs {case.module}, and there is no"
    ) as error:
        environments.make(case.name)
    assert str(error.value).endswith(f'pip install "policy-gradients-jax[{case.family[:-1]}]"')
    assert not [name for name in environments.list() if name.startswith(case.family)]


def test_every_family_is_looked_at():
    assert {case.family for case in FAMILY_CASES} | {"", "brax/", "own/"} == set(FAMILIES)
    assert all(prefix[:-1] == module.EXTRA for prefix, module in FAMILIES.items() if prefix != "own/")


def test_the_list_has_the_names_of_all_families():
    names = environments.list()
    assert len(names) == len(set(names)) and "CartPole-v1" in names
    for family in FAMILIES:
        try:
            assert set(environments.available(family)) <= set(names)
        except NotInstalled:
            assert not [name for name in names if family and name.startswith(family)]


def test_the_command_line_lists_environments_by_family(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "brax.envs", None)
    with pytest.raises(SystemExit) as end:
        from_command_line(["--list-environments"])
    lines = capsys.readouterr().out.splitlines()
    assert not end.value.code and "CartPole-v1" in lines
    assert 'brax/: not installed: pip install "policy-gradients-jax[brax]"' in lines
    names = [line for line in lines if line and ":" not in line]
    assert names == environments.list()


@pytest.mark.parametrize(
    "error", [ImportError("no jax.core.Shape"), RuntimeError("too\n old"), SettingError("a", 1, "b")]
)
def test_a_family_that_does_not_import_takes_no_other_from_the_list(error, capsys, monkeypatch):
    real = importlib.import_module

    def broken(module):
        if module.partition(".")[0] == "brax":
            raise error
        return real(module)

    monkeypatch.setattr(importlib, "import_module", broken)
    names = environments.list()
    assert "CartPole-v1" in names and not [name for name in names if name.startswith("brax/")]
    with pytest.raises(SystemExit):
        from_command_line(["--list-environments"])
    lines = capsys.readouterr().out.splitlines()
    reason = " ".join(str(error).split())
    assert [line for line in lines if line.startswith("brax/: cannot be used: needs brax") and line.endswith(reason)]
    assert [line for line in lines if line and ":" not in line] == names


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("pgx/minatar-asterix", "sticky_action_prob=abc"),
        ("xland/MiniGrid-Empty-5x5", "view_size=abc"),
        ("jumanji/Snake-v1", "num_rows=0"),
        ("craftax/Craftax-Classic-Symbolic-v1", "map_size=(9,9)"),
    ],
)
def test_what_a_family_cannot_run_with_is_refused_in_one_line(name, setting):
    need(name.partition("/")[0] + "/")
    with pytest.raises(SettingError, match=f"^environment: '{name}' cannot be made with {setting[:8]}.*: .") as error:
        environments.make(f"{name}:{setting}")
    assert "\n" not in str(error.value)


def test_a_prefix_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(SettingError, match="^family: 'foo/' is not a known prefix; known: '', 'brax/', "):
        environments.available("foo/")


@pytest.mark.parametrize(
    ("name", "of_registry", "setting"),
    [
        ("jumanji/Snake-v1", "jumanji.registration", "time_limit"),
        ("xland/MiniGrid-Empty-5x5", "xminigrid.registration", "max_steps"),
    ],
)
def test_a_name_registered_anew_with_other_arguments_is_another_environment(name, of_registry, setting, monkeypatch):
    family, _, plain = name.partition("/")
    need(f"{family}/")
    registry = importlib.import_module(of_registry)._REGISTRY
    first, horizons = registry[plain], []
    for limit in (7, 9):
        spec = copy.copy(first)
        spec.kwargs = {**first.kwargs, setting: limit}
        monkeypatch.setitem(registry, plain, spec)
        made = environments.make(name)
        assert made is environments.make(name)
        horizons.append(made.horizon)
    registry[plain].kwargs[setting] = 11
    assert [*horizons, environments.make(name).horizon] == [7, 9, 11]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Jumanji/snake-v1", "is not known; the closest name is jumanji/Snake-v1"),
        ("jumanjii/Snake-v1", "is not known; the closest name is jumanji/Snake-v1"),
        ("PGX/2048", "is not known; the closest name is pgx/2048"),
        ("worlds/2048", "has an unknown prefix; prefixes: brax/, playground/, .*"),
        ("", "is not a name; such as CartPole-v1; prefixes: brax/, .*"),
        ("jumanji/", "is not a name; jumanji/... needs a name"),
    ],
)
def test_a_wrong_prefix_is_matched_before_the_name(name, line):
    need("jumanji/")
    need("pgx/")
    with pytest.raises(SettingError, match=f"^environment: '{name}' {line}$"):
        environments.make(name)


def test_a_name_carries_settings():
    need("xland/")
    assert environments.make("xland/MiniGrid-Empty-5x5:max_steps=7").horizon == 7
    environment = environments.make("xland/MiniGrid-Empty-5x5", max_steps=7)
    assert environments.make("xland/MiniGrid-Empty-5x5", max_steps=7) is environment


def test_codes_are_categories_and_amounts_are_not():
    need("jumanji/")
    maze = environments.make("jumanji/Maze-v0")
    categories = maze.num_categories
    assert (categories.agent_position.row, categories.walls, categories.step_count) == (10, None, None)
    assert environments.make("jumanji/Sudoku-v0").num_categories.board == 10  # −1 is an empty cell
    assert environments.make("jumanji/Snake-v1").num_categories is None
    need("xland/")
    assert environments.make("xland/MiniGrid-Empty-5x5").num_categories == 13


def test_combinations_with_a_mask_of_their_own_are_numbered():
    need("jumanji/")
    environment = environments.make("jumanji/Sudoku-v0")
    assert environment.action_space == Discrete(9 * 9 * 9)
    assert environment.observation.action_mask.shape == (9 * 9 * 9,)


def test_what_would_be_downloaded_is_not_listed_and_refused():
    need("jumanji/")
    assert not {"jumanji/Sokoban-v0", "jumanji/MultiCVRP-v0"}.intersection(environments.available("jumanji/"))
    with pytest.raises(SettingError, match="^environment: 'jumanji/Sokoban-v0' downloads its levels"):
        environments.make("jumanji/Sokoban-v0")


def test_a_game_of_several_players_is_refused():
    need("pgx/")
    with pytest.raises(SettingError, match="^environment: 'pgx/chess' is a game of several players"):
        environments.make("pgx/chess")


@pytest.mark.costly
def test_an_episode_without_a_time_limit_ends_by_itself():
    need("jumanji/")
    environment = environments.make("jumanji/TSP-v1")
    agent = make_agent(environment, hidden=(4,))
    policy = partial(agent.policy, agent.init(jax.random.key(0)))
    rows = jax.jit(partial(rollout.episodes, environment, policy))(jax.random.split(jax.random.key(1), 3))
    assert environment.horizon == 20 and not rows.truncated.any()
    np.testing.assert_array_equal(rows.terminated.sum(0), 1)
    assert rows.terminated[-1].all()  # every city once


@pytest.mark.slow
def test_an_observation_of_several_parts_is_learned_from():
    need("jumanji/")
    environment = environments.make("jumanji/Maze-v0", time_limit=20)
    recipe = ppo()
    agent = make_agent(environment, hidden=(8,), critic="state")
    trainer = make_trainer(environment, agent, recipe.config)
    result = sweep(trainer, recipe.algorithm, seeds=1, total_steps=1)
    assert not np.asarray(result.metrics["skipped"]).any()


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "own/"])
def test_every_environment_of_a_family_is_as_it_declares(family):
    need(family)
    refused = []
    for name in environments.available(family):
        try:
            base.check_environment(environments.make(name))
        except SettingError as error:
            refused.append(str(error))
    assert all("action mask" in reason or "removed" in reason or "clip" in reason for reason in refused)
