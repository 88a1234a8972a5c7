"""Parameters of environments as numbers: set by name, swept without retracing, drawn for each episode, resumed."""

import math
import runpy
import subprocess
import sys
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path

import chex
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

from pgjax import (
    ALGORITHMS,
    Categorical,
    SettingError,
    check_hyperparameters,
    environments,
    evaluate,
    evaluate_runs,
    hyperparameters,
    make_agent,
    make_trainer,
    rollout,
    sweep,
    sweeps,
    train,
    with_hyperparameters,
)
from pgjax.environments.base import check_environment
from pgjax.environments.parameters import check_parameters, with_parameters
from pgjax.environments.randomisation import Drawn, randomised
from pgjax.runs.record import checkpoints, files
from pgjax.runs.record.journal import _tree
from pgjax.runs.settings.command_line import from_command_line
from pgjax.runs.settings.environment import import_module, ranges_of

SCRIPT = Path(__file__).parents[1] / "experiments" / "train.py"
KEY = jax.random.key(3)
LENGTHS = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
SHORT = "CartPole-v1:max_steps_in_episode=12"
SWING = "Pendulum-v1:max_steps_in_episode=8"  # rewards that differ from the first step on


def by_hand(name, chosen, actions):
    """Observations and rewards of gymnax itself with these parameters, along fixed actions."""
    env, params = gymnax.make(name)
    params = params.replace(**chosen)
    observation, state = env.reset_env(KEY, params)
    seen, rewards = [observation], []
    for action in actions:
        observation, state, reward, *_ = env.step_env(KEY, state, action, params)
        seen.append(observation)
        rewards.append(reward)
    return jnp.stack(seen), jnp.stack(rewards)


def walked(environment, actions):
    """The same of an `Environment`."""
    observation, state = environment.reset(KEY)
    seen, rewards = [observation], []
    for action in actions:
        observation, state, reward, *_ = environment.step(KEY, state, action)
        seen.append(observation)
        rewards.append(reward)
    return jnp.stack(seen), jnp.stack(rewards)


@pytest.mark.costly
@pytest.mark.parametrize(
    ("name", "parameter", "values", "actions"),
    [
        ("CartPole-v1", "length", [0.25, 0.5, 1.5], [1, 0, 1, 1, 1]),
        ("Pendulum-v1", "g", [3.7, 10.0], [jnp.array([1.0]), jnp.array([-2.0])]),
    ],
)
def test_an_episode_is_gymnaxs_own_with_these_parameters(name, parameter, values, actions):
    """As a setting, in the name, and bound to traced numbers."""
    environment = environments.make(name)
    bound = jax.vmap(lambda value: walked(with_parameters(environment, {parameter: value}), actions))(
        jnp.array(values, jnp.float32)
    )
    for i, value in enumerate(values):
        expected = by_hand(name, {parameter: value}, actions)
        for made in (environments.make(name, **{parameter: value}), environments.make(f"{name}:{parameter}={value}")):
            assert made.parameters[parameter] == value
            jax.tree.map(np.testing.assert_array_equal, walked(made, actions), expected)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), [x[i] for x in bound], list(expected))
    assert not np.allclose(bound[0][0], bound[0][1])


def test_what_is_bound_twice_keeps_both():
    environment = environments.make("CartPole-v1")
    twice = with_parameters(with_parameters(environment, {"length": 0.9, "gravity": 1.0}), {"gravity": 20.0})
    expected = by_hand("CartPole-v1", {"length": 0.9, "gravity": 20.0}, [1, 1, 1])
    jax.tree.map(np.testing.assert_array_equal, walked(twice, [1, 1, 1]), expected)
    assert twice.parameters["length"] == 0.9 and environment.parameters["length"] == 0.5
    assert with_parameters(environment, {}) is environment and with_parameters(environment, None) is environment


@pytest.mark.parametrize("name", sorted(set(gymnax.registered_envs) - {"MNISTBandit-bsuite"}))
def test_all_that_is_listed_can_vary_and_nothing_static_is(name):
    environment = environments.make(name)
    check_parameters(environment, environment.parameters)
    static = {"max_steps_in_episode", "max_torque", "min_action", "max_action", "max_force", "t_max", "deterministic"}
    assert not static & set(environment.parameters)
    assert all(isinstance(value, float) for value in environment.parameters.values())


BAD_VALUES = [
    ({"length": "long"}, "length: 'long' must be one real number in CartPole-v1"),
    ({"length": float("nan")}, "length: nan must be one real number in CartPole-v1"),
    ({"length": [0.5, 0.6]}, r"length: \[0.5, 0.6\] must be one real number in CartPole-v1"),
    ({"length": None}, "length: None must be one real number in CartPole-v1"),
    ({"length": True}, "length: True must be one real number in CartPole-v1"),
    ({"wind": 1.0}, "environment: 'CartPole-v1' cannot be made: .*'wind'; its parameters: .*length"),
    ({"randomise": {"length": (1.0, 0.5)}}, r"randomise.length: \(1.0, 0.5\) must be a range"),
    ({"randomise": {"length": 0.5}}, "randomise.length: 0.5 must be a range"),
    ({"randomise": {"length": (0.5, float("nan"))}}, r"randomise.length: \(0.5, nan\) must be a range"),
    ({"randomise": {"length": ("a", "b")}}, r"randomise.length: \('a', 'b'\) must be a range"),
    (
        {"randomise": {"wind": (0, 1)}},
        r"environment.wind: \[0.0, 1.0\] cannot vary in CartPole-v1; parameters that can: gravity",
    ),
    ({"randomise": {"max_steps_in_episode": (5, 9)}}, "environment.max_steps_in_episode: .* cannot vary"),
    ({"randomise": {"length": (0.3, 1.2)}, "length": 0.7}, "length: 0.7 has no effect, because randomise draws it"),
    ({"length": math.inf}, "length: inf must be finite in float32, in CartPole-v1"),
    ({"length": 1e39}, "length: 1e\\+39 must be finite in float32, in CartPole-v1"),
    (
        {"randomise": {"length": (0, 1e39)}},
        r"randomise.length: \(0, 1e\+39\) must have bounds and a width that are finite",
    ),
    ({"randomise": {"length": (-3e38, 3e38)}}, "randomise.length: .* must have bounds and a width that are finite in"),
    ({"randomise": {"length": (1.2, 0.3)}}, "randomise.length: .* must be a range .* with low at most high"),
    ({"randomise": ["length"]}, r"randomise: \['length'\] must be a mapping, name -> \(low, high\)"),
    ({"randomise": "length=0.3:1.2"}, "randomise: 'length=0.3:1.2' must be a mapping"),
]


@pytest.mark.parametrize(("settings", "line"), BAD_VALUES)
def test_what_cannot_be_set_or_drawn_is_refused_in_one_line(settings, line):
    with pytest.raises(SettingError, match=f"^{line}") as error:
        environments.make("CartPole-v1", **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "settings", "line"),
    [
        ("CartPole-v1:length=0.7:length=0.9", {}, "length: 0.9 is given a second time"),
        ("CartPole-v1:length=0.7", {"length": 0.9}, "length: 0.9 is given a second time"),
        ("CartPole-v1:name=x", {}, "environment: 'CartPole-v1:name=x' has no setting name"),
        ("CartPole-v1:lenght=0.7", {}, "environment: 'CartPole-v1' has no setting lenght; closest: length"),
        ("Catch-bsuite:row=4", {}, "environment: 'Catch-bsuite' has no setting row; closest: rows"),
        ("CartPole-v1:=3", {}, "environment: '=3' must be a setting name=value"),
        ("CartPole-v1:length=1e400", {}, "length: inf must be finite in float32, in CartPole-v1"),
    ],
)
def test_a_name_carries_each_setting_once_and_by_a_name(name, settings, line):
    for randomise in (None, {"gravity": (9.0, 10.0)}):
        with pytest.raises(SettingError, match=f"^{line}$"):
            environments.make(name, **settings, randomise=randomise)


@pytest.mark.costly
def test_a_whole_number_is_the_real_number_that_it_is():
    environment = environments.make("BernoulliBandit-misc")
    agent = make_agent(environment, hidden=(2,))
    params = agent.init(KEY)
    whole, real = (
        evaluate(environment, agent, params, KEY, episodes=2, environment_parameters={"reward_prob": x})
        for x in (1, 1.0)
    )
    np.testing.assert_array_equal(whole, real)
    check_environment(with_parameters(environment, {"reward_prob": 1}))


def test_arrays_whole_numbers_and_switches_keep_their_kinds():
    assert environments.make("Acrobot-v1", available_torque=[-2.0, 0.0, 2.0]).horizon == 500
    for settings, line in (
        ({"available_torque": [1.0, 2.0]}, r"available_torque: .* must be an array \[3\] of real numbers"),
        ({"available_torque": [[1.0], [2.0, 3.0]]}, "available_torque: .* must be an array"),
    ):
        with pytest.raises(SettingError, match=f"^{line}"):
            environments.make("Acrobot-v1", **settings)
    for settings in ({"init_spawn_speed": 2.5}, {"ramping": 2}):
        with pytest.raises(SettingError, match=r"must be one (whole number|bool) in Asterix-MinAtar$"):
            environments.make("Asterix-MinAtar", **settings)


# --- swept

CHUNK = {"updates_per_chunk": 3}


def parts(method, name=SHORT, how="auto", **static):
    """Agent, recipe's algorithm, and a function that makes a trainer in an environment."""
    algorithm, config = ALGORITHMS[method]()
    agent = make_agent(environments.make(name), hidden=(4,), critic=config.critic)
    return agent, algorithm, partial(make_trainer, agent=agent, config=replace(config, engine=how, **static))


def assert_same(found, expected, atol=1e-6):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.slow
def test_eight_lengths_and_four_seeds_are_one_program_and_each_run_is_its_own():
    name = "CartPole-v1:max_steps_in_episode=60"
    _, algorithm, in_environment = parts("reinforce", name, num_envs=4)
    trainer = in_environment(environments.make(name))
    counted = trainer._replace(update=chex.assert_max_traces(trainer.update, n=1))
    chex.clear_trace_counter()
    runs, other = (
        sweep(
            counted, algorithm, seeds=4, over={"environment.length": of}, total_steps=1e4, max_updates=3, **CHUNK
        ).runs
        for of in (LENGTHS, LENGTHS[::-1])
    )
    seeds = jax.vmap(jax.random.key)(jnp.arange(4))
    for length in LENGTHS[::5]:
        own = in_environment(environments.make(name, length=length))
        alone = jax.vmap(lambda key, own=own: train(own, algorithm, key, 3)[0].params)(seeds)
        for swept in (runs, other):
            first = swept.find(seed=0, **{"environment.length": length})
            assert_same(jax.tree.map(lambda x, i=first: x[i : i + 4], swept.state.params), alone)
    weights = np.concatenate([np.asarray(x).reshape(32, -1) for x in jax.tree.leaves(runs.state.params)], axis=1)
    assert np.abs(np.diff(weights[::4], axis=0)).max(axis=1).min() > 1e-4  # no two lengths train alike


PATHS = {
    "simulated again, for ratios too": ("per_decision_is", {"num_envs": 4, "accumulate": 2, "epochs": 2}),
    "a stream, plain": ("a2c", {"num_envs": 4, "num_steps": 8, "how": "plain"}),
    "on two devices": ("reinforce", {"num_envs": 4}),
}


@pytest.mark.costly
@pytest.mark.few(1)
@pytest.mark.parametrize("path", PATHS)
def test_every_path_of_an_update_is_in_its_own_environment(path):
    method, static = PATHS[path]
    _, algorithm, in_environment = parts(method, SWING, **static)
    mesh = (1, 2) if path == "on two devices" else None
    over = {"environment.g": [30.0, 1.0], "environment.l": [1.5]}
    trainer, steps = in_environment(environments.make(SWING)), 64
    runs = sweep(trainer, algorithm, over=over, total_steps=steps, mesh=mesh, updates_per_chunk=2).runs
    own = in_environment(environments.make(SWING, g=1.0, l=1.5))
    alone = sweep(own, algorithm, total_steps=steps, mesh=mesh, updates_per_chunk=2).runs
    assert_same(jax.tree.map(lambda x: x[1:], runs.state.params), alone.state.params, atol=1e-5)
    weights = np.concatenate([np.asarray(x).reshape(2, -1) for x in jax.tree.leaves(runs.state.params)], axis=1)
    assert np.abs(weights[0] - weights[1]).max() > 1e-3


@pytest.mark.costly
def test_a_parameter_is_a_number_of_the_algorithm():
    _, algorithm, in_environment = parts("reinforce", SWING, num_envs=2)
    environment = environments.make(SWING)
    chosen = with_hyperparameters(algorithm, {"environment.l": 0.7, "discount": 0.9})
    assert hyperparameters(chosen)["environment.l"] == 0.7 and chosen.environment == {"l": 0.7}
    assert "environment.l" not in hyperparameters(algorithm) and algorithm.environment is None
    discounted = with_hyperparameters(algorithm, {"discount": 0.9})
    trained = train(in_environment(environment), chosen, KEY, 2)[0].params
    assert_same(trained, train(in_environment(environments.make(SWING, l=0.7)), discounted, KEY, 2)[0].params)


@pytest.mark.costly
def test_a_stream_starts_in_its_own_environment():
    _, algorithm, in_environment = parts("a2c", "PointRobot-misc", num_envs=2)
    chosen = with_hyperparameters(algorithm, {"environment.circle_radius": 3.0})
    goal = in_environment(environments.make("PointRobot-misc")).init(chosen, KEY).rollout_state.state.goal
    np.testing.assert_allclose(jnp.linalg.norm(goal, axis=-1), 3.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("over", "line"),
    [
        (
            {"environment.wind": [1.0, 2.0]},
            r"environment.wind: \[1.0, 2.0\] cannot vary in .*; parameters that can: gravity",
        ),
        ({"environment.max_steps_in_episode": [5, 9]}, r"environment.max_steps_in_episode: \[5, 9\] cannot vary in "),
        ({"environment.length": [0.5, float("nan")]}, "environment.length: nan must be a finite number"),
        ({"environment.length": ["long"]}, "environment.length: 'long' cannot be swept"),
        ({"environment.length": [[0.5, 0.6]]}, r"environment.length: .* cannot be swept"),
        ({"length": [0.5]}, "length: .* is not a hyperparameter here; .* begin with environment."),
    ],
)
def test_what_cannot_be_swept_is_refused_in_one_line(over, line):
    _, algorithm, in_environment = parts("reinforce", num_envs=2)
    with pytest.raises(SettingError, match=f"^{line}") as error:
        sweeps.start(in_environment(environments.make(SHORT)), algorithm, over=over)
    assert "\n" not in str(error.value)


def test_no_range_of_a_hyperparameter_holds_for_a_parameter_of_the_same_name():
    _, algorithm, _ = parts("reinforce")
    check_hyperparameters(with_hyperparameters(algorithm, {"environment.damping": -1.0, "environment.discount": 5.0}))


def test_a_parameter_that_must_be_a_constant_and_functions_around_an_environment_are_refused():
    class Branching(type(gymnax.make("CartPole-v1")[0])):
        def reset_env(self, key, params):
            return super().reset_env(key, params) if params.length > 0 else None

    branching = environments.from_gymnax(Branching(), gymnax.make("CartPole-v1")[1])
    with pytest.raises(SettingError, match=r"^environment.length: \[0.5\] cannot vary in .* as a constant: ") as error:
        check_parameters(branching, {"length": [0.5]})
    assert "\n" not in str(error.value)
    check_parameters(branching, {"gravity": [1.0]})

    environment = environments.make("CartPole-v1")
    wrapped = environment._replace(step=lambda key, state, action: environment.step(key, state, action))
    with pytest.raises(
        SettingError, match=r"^environment.length: 0.7 cannot vary .* whose step has no argument values="
    ):
        with_parameters(wrapped, {"length": 0.7})
    passing = environment._replace(step=lambda key, state, action, **how: environment.step(key, state, 1, **how))
    found = walked(with_parameters(passing, {"length": 0.7}), [0, 0])
    jax.tree.map(np.testing.assert_array_equal, found, by_hand("CartPole-v1", {"length": 0.7}, [1, 1]))


@pytest.mark.costly
def test_each_run_is_evaluated_in_its_own_environment_unless_told_otherwise():
    agent, algorithm, in_environment = parts("reinforce", name="CartPole-v1", num_envs=2)
    environment, key = environments.make("CartPole-v1"), jax.random.key(1 << 31)
    runs = sweeps.start(in_environment(environment), algorithm, over={"environment.gravity": [1.0, 100.0]})
    own, fixed, plain = (
        evaluate_runs(environment, agent, runs, key, episodes=8, environment_parameters=given)
        for given in (None, {"gravity": 100.0}, {})
    )
    params = runs.pick(seed=0).params
    light, heavy, default = (
        evaluate(environments.make("CartPole-v1", **given), agent, params, key, episodes=8)
        for given in ({"gravity": 1.0}, {"gravity": 100.0}, {})
    )
    for found, expected in ((own, [light, heavy]), (fixed, [heavy, heavy]), (plain, [default, default])):
        np.testing.assert_array_equal(found, np.stack(expected))
    assert not np.array_equal(light, heavy) and not np.array_equal(heavy, default)
    over_both = jax.vmap(
        lambda g: evaluate(environment, agent, params, key, episodes=8, environment_parameters={"gravity": g})
    )(jnp.array([1.0, 100.0]))
    np.testing.assert_array_equal(over_both, own)
    for given in ([1], ["gravity"], "gravity"):
        with pytest.raises(SettingError, match="^environment_parameters: .* must be a mapping, name -> number$"):
            evaluate(environment, agent, params, key, episodes=8, environment_parameters=given)
    for given in (
        {"wind": 1.0},
        {"gravity": "much"},
        {"gravity": [1.0, 2.0]},
        {"gravity": math.nan},
        {"gravity": math.inf},
    ):
        with pytest.raises(SettingError, match="^environment.(wind|gravity): "):
            evaluate_runs(environment, agent, runs, key, episodes=8, environment_parameters=given)
        with pytest.raises(SettingError, match="^environment.(wind|gravity): "):
            evaluate(environment, agent, params, key, episodes=8, environment_parameters=given)


@pytest.mark.costly
def test_a_resumed_sweep_keeps_its_parameters(tmp_path):
    _, algorithm, in_environment = parts("reinforce", SWING, num_envs=2)
    trainer = in_environment(environments.make(SWING))
    begun = sweeps.start(trainer, algorithm, over={"environment.l": [0.3, 1.0]})
    half, _ = sweeps.advance(trainer, begun, 10_000, 2)
    checkpoints.save(tmp_path, 2, _tree(half), {})
    others = sweeps.start(trainer, algorithm, over={"environment.l": [5.0, 6.0]})
    found = checkpoints.newest(tmp_path, print)
    resumed = others._replace(**found.restore(_tree(others)))
    assert resumed.settings["environment.l"].tolist() == [0.3, 1.0]
    one, two = (sweeps.advance(trainer, runs, 10_000, 2)[0] for runs in (half, resumed))
    jax.tree.map(np.testing.assert_array_equal, one.state.params, two.state.params)


# --- drawn for each episode


def test_a_reset_draws_from_its_own_key_and_the_episode_keeps_it():
    plain = environments.make("CartPole-v1")
    drawn = environments.make("CartPole-v1", randomise={"length": (0.3, 1.2), "gravity": (5.0, 15.0)})
    observation, state = drawn.reset(KEY)
    of_reset = jax.random.split(KEY)[1]
    jax.tree.map(np.testing.assert_array_equal, (observation, state.state), plain.reset(of_reset))
    values = {name: float(value) for name, value in state.values.items()}
    fixed = environments.make("CartPole-v1", **values)
    at, expected = state, plain.reset(of_reset)[1]
    for action in (1, 0, 1, 1):
        _, at, *rest = drawn.step(KEY, at, action)
        _, expected, *others = fixed.step(KEY, expected, action)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), (at.state, rest), (expected, others))
        assert at.values == state.values
    assert set(drawn.parameters) == set(plain.parameters) - set(values)


def test_draws_are_uniform_independent_and_of_the_range():
    drawn = environments.make("CartPole-v1", randomise={"length": (0.3, 1.2), "gravity": (5.0, 15.0)})
    observation, state = jax.vmap(drawn.reset)(jax.random.split(KEY, 4000))
    unit = np.stack(
        [(state.values["length"] - 0.3) / 0.9, (state.values["gravity"] - 5) / 10, observation[:, 0] * 10 + 0.5]
    )
    assert unit.min() >= 0 and unit.max() <= 1
    for row in unit:
        np.testing.assert_allclose(np.quantile(row, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.03)
    assert np.abs(np.corrcoef(unit) - np.eye(3)).max() < 0.05


@pytest.mark.costly
def test_every_episode_of_a_stream_has_a_value_of_its_own_and_groups_share_one():
    drawn = environments.make(SHORT, randomise={"length": (0.3, 1.2)})
    told = drawn._replace(  # what was drawn, as the observation
        reset=lambda key: (lambda s: (s.values["length"], s))(drawn.reset(key)[1]),
        step=lambda key, state, action: (state.values["length"], *drawn.step(key, state, action)[1:]),
        observation=jax.ShapeDtypeStruct((), jnp.float32),
    )

    def policy(observation):
        return Categorical(jnp.zeros((*observation.shape, 2)))

    keys = jax.random.split(KEY, 4)
    _, rows, _ = rollout.stream(told, policy, rollout.start_stream(told, keys), keys, 40)
    length, ended = np.asarray(rows.observation), np.asarray(rows.terminated | rows.truncated)
    changed = length[1:] != length[:-1]
    np.testing.assert_array_equal(changed, ended[:-1])
    assert ended.sum() >= 8 and len(np.unique(length)) == 4 + ended[:-1].sum()
    whole = np.asarray(rollout.episodes(told, policy, keys, group_size=2).observation)
    assert np.all(whole == whole[0]) and whole[0, 0] == whole[0, 1] != whole[0, 2] == whole[0, 3]


@pytest.mark.slow
def test_one_parameter_is_drawn_while_another_is_swept():
    _, algorithm, in_environment = parts("reinforce", SWING, num_envs=4)
    ranges = {"l": (0.3, 1.2)}
    trainer = in_environment(environments.make(SWING, randomise=ranges))
    runs = sweep(trainer, algorithm, over={"environment.g": [1.0, 30.0]}, total_steps=64, updates_per_chunk=2).runs
    own = in_environment(environments.make(SWING, g=30.0, randomise=ranges))
    alone = sweep(own, algorithm, total_steps=64, updates_per_chunk=2).runs
    assert_same(jax.tree.map(lambda x: x[1:], runs.state.params), alone.state.params)
    with pytest.raises(SettingError, match="^environment.l: .* cannot vary .* drawn anew for each episode$"):
        sweeps.start(trainer, algorithm, over={"environment.l": [0.5]})
    twice = randomised(environments.make(SWING, randomise=ranges), {"m": (1.0, 2.0)})
    for name in ("l", "m"):
        with pytest.raises(SettingError, match=f"^environment.{name}: 1.0 .* is drawn anew for each episode$"):
            with_parameters(twice, {name: 1.0})
    with pytest.raises(
        SettingError, match="^environment_parameters: 'environment.g' must be .* without the prefix: g$"
    ):
        with_parameters(twice, {"environment.g": 1.0})


def test_the_same_ranges_give_the_same_environment():
    first, same, other = (
        environments.make("CartPole-v1", randomise={"length": of}) for of in ((0.3, 1.2), [0.3, 1.2], (0.3, 1.3))
    )
    assert first is same and first is not other
    assert environments.make("CartPole-v1", randomise={}) is environments.make("CartPole-v1")
    assert isinstance(first.reset(KEY)[1], Drawn)


# --- from the command line

MINE = """
import gymnax
import jax.numpy as jnp
from gymnax.environments.classic_control.cartpole import CartPole

STARTED = jnp.zeros(1) + 1  # jax has started: devices can no longer be chosen


class Mine(CartPole):
    pass


gymnax.register("Mine-v0", Mine)
"""


@pytest.mark.slow
def test_an_environment_of_a_module_of_ones_own_trains_resumes_and_is_read_back(tmp_path, monkeypatch):
    (tmp_path / "my_module.py").write_text(MINE)
    flags = ["--import", "my_module", "--environment", "Mine-v0", "--randomise", "length=0.3:1.2"]
    flags += ["--randomise", "gravity=8:11", "--devices", "2", "--seeds", "2", "--num-envs", "2", "--hidden", "4"]
    flags += ["--total-steps", "200", "--eval-episodes", "4", "--quiet", "--out", "run"]
    done = subprocess.run([sys.executable, SCRIPT, *flags], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    settings = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert settings["imports"] == "my_module" and settings["randomise"] == ["length=0.3:1.2", "gravity=8:11"]
    evaluation = tmp_path / "run" / "evaluation.csv"
    wanted = evaluation.read_text()
    evaluation.unlink()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    runpy.run_path(str(SCRIPT))["main"](from_command_line(["--resume", "run", "--quiet"]))  # imported here, too
    assert evaluation.read_text() == wanted
    setup, params = files.load_run("run")
    assert setup.environment.name == "Mine-v0" and set(setup.environment.reset(KEY)[1].values) == {"length", "gravity"}
    assert jax.tree.leaves(params)[0].shape[0] == 2


def test_a_module_by_its_path_is_found_from_any_folder_and_may_move(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    moved = tmp_path / "moved" / "my_module_by_path.py"
    moved.parent.mkdir()
    asked = from_command_line(["--import", "my_module_by_path.py", "--quiet"])
    assert asked.imports == str(tmp_path.resolve() / "my_module_by_path.py")
    run = files.new_run_directory(replace(asked, environment="CartPole-v1", imports="", out="run"))
    config = run / "config.toml"
    config.write_text(config.read_text().replace('imports = ""', f'imports = "{asked.imports}"'))
    monkeypatch.chdir(tmp_path / "run")
    assert from_command_line(["--resume", "."]).imports == asked.imports
    assert from_command_line(["--resume", ".", "--import", str(moved)]).imports == str(moved.resolve())


@pytest.fixture
def registration(monkeypatch):
    """gymnax's, and what is imported from where, as they are until the test's end."""
    from gymnax import registration

    monkeypatch.setattr(registration, "_registry", dict(registration._registry))
    monkeypatch.setattr(registration, "registered_envs", list(registration.registered_envs))
    monkeypatch.setattr(gymnax, "registered_envs", registration.registered_envs)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return registration


@pytest.mark.slow
def test_a_run_goes_on_where_the_file_of_its_module_has_moved(tmp_path, monkeypatch, registration):
    monkeypatch.delitem(sys.modules, "my_moving_module", raising=False)
    monkeypatch.chdir(tmp_path)
    main, file, moved = runpy.run_path(str(SCRIPT))["main"], "my_moving_module.py", tmp_path / "moved"
    (tmp_path / file).write_text(MINE.replace("Mine-v0", "Moving-v0"))
    flags = ["--import", file, "--environment", "Moving-v0", "--seeds", "2", "--num-envs", "2", "--hidden", "4"]
    main(from_command_line([*flags, "--total-steps", "100", "--eval-episodes", "2", "--quiet", "--out", "run"]))
    (tmp_path / "run" / "evaluation.csv").unlink()
    moved.mkdir()
    (tmp_path / file).rename(moved / file)
    monkeypatch.delitem(sys.modules, "my_moving_module")
    monkeypatch.delitem(registration._registry, "Moving-v0")  # as in a new process
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(tmp_path.resolve())])
    with pytest.raises(SettingError, match=f"^import: .* there is no file {tmp_path.resolve() / file}$"):
        main(from_command_line(["--resume", "run", "--quiet"]))
    main(from_command_line(["--resume", "run", "--quiet", "--import", str(moved / file)]))
    assert (tmp_path / "run" / "evaluation.csv").exists()


def test_the_list_has_what_a_module_of_ones_own_registers_and_no_unknown_flag(
    tmp_path, monkeypatch, capsys, registration
):
    monkeypatch.delitem(sys.modules, "my_listed_module", raising=False)
    file = tmp_path / "my_listed_module.py"
    file.write_text(MINE.replace("Mine-v0", "MineListed-v0"))
    with pytest.raises(SystemExit) as end:
        from_command_line(["--list-environments", "--import", str(file)])
    assert not end.value.code and "MineListed-v0" in capsys.readouterr().out.splitlines()
    with pytest.raises(SystemExit) as end:
        from_command_line(["--list-environments", "--bogus"])
    said = capsys.readouterr()
    assert end.value.code and "--bogus" in said.err and not said.out


def test_modules_that_cannot_be_imported_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken_module.py").write_text("raise ValueError('no\\n good')")
    (tmp_path / "leaving_module.py").write_text("import sys; sys.exit(3)")
    (tmp_path / "json.py").write_text("")
    for name, reason in {
        "broken_module": "ValueError: no good",
        "broken_module.py": "ValueError: no good",
        "leaving_module": "SystemExit: 3",
        "missing_module": "No module named 'missing_module'",
        "missing.py": f"there is no file {tmp_path.resolve() / 'missing.py'}",
        "json.py": r"another module is called json \(.*\); rename the file",
    }.items():
        with pytest.raises(SettingError, match=f"^import: '{name}' cannot be imported: {reason}$"):
            import_module(name)


def test_ranges_of_the_command_line_go_on_top(tmp_path):
    before = replace(from_command_line(["--quiet"]), randomise=("length=0.3:1.2", "gravity=8:11"))
    run = files.new_run_directory(replace(before, out=str(tmp_path / "run")))
    base, again = ["--config", str(run / "config.toml")], ["--resume", str(run)]
    asked = from_command_line([*base, "--randomise", "length=0.3:1.3", "--randomise", "masspole=0.1:0.2"])
    assert asked.randomise == ("length=0.3:1.3", "gravity=8:11", "masspole=0.1:0.2")
    assert from_command_line([*again, "--randomise", "length=0.3:1.2"]).randomise == before.randomise
    with pytest.raises(SettingError, match="^randomise: .* cannot change: the resumed run has"):
        from_command_line([*again, "--randomise", "length=0.3:1.3"])
    twice = from_command_line([*base, "--randomise", "length=0.3:1.3", "--randomise", "length=0.3:1.4"])
    with pytest.raises(SettingError, match="^randomise: .* is a second range for length; leave one out$"):
        ranges_of(twice.randomise)


@pytest.mark.parametrize("text", ["length", "length=0.3", "length=0.3:1:2", "length=a:b", "length=0.3-1.2"])
def test_ranges_that_are_none_are_refused(text):
    with pytest.raises(SettingError, match=f"^randomise: '{text}' must be NAME=LOW:HIGH"):
        ranges_of([text])


# --- pairs of functions of one's own


def test_an_environment_record_of_ones_own_has_a_name_and_settings_and_is_found_anew():
    def two_steps(reward=1.0):
        return probes.delayed()._replace(horizon=2, name=f"two steps for {reward}")

    environments.register("Two-v0", two_steps)
    made = environments.make("own/Two-v0:reward=3.0")
    assert made.name == "own/Two-v0:reward=3.0" and "own/Two-v0" in environments.list()
    assert environments.make("own/Two-v0:reward=3.0") is made
    environments.register("own/Two-v0", lambda: probes.bandit())
    assert environments.make("own/Two-v0").horizon == 1
    for name, message in (
        ("own/Too-v0", "is not known; the closest name is own/Two-v0"),
        ("own/Two-v0:reward=2.0", "cannot be made with reward=2.0: .*unexpected keyword"),
    ):
        with pytest.raises(SettingError, match=f"^environment: '{name.split(':')[0]}' {message}"):
            environments.make(name)
    environments.register("Three-v0", lambda: 3)
    with pytest.raises(SettingError, match="'own/Three-v0' is a int; needs a pgjax.Environment$"):
        environments.make("own/Three-v0")
    for name in ("a:b", "", " a", 3):
        with pytest.raises(SettingError, match="^name: "):
            environments.register(name, two_steps)
    with pytest.raises(SettingError, match="^factory: 3 of own/a must be a function"):
        environments.register("a", 3)
