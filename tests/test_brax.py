"""brax behind `Environment`: ends kept apart, states that loops can carry, errors in one line.

What needs no physics runs against a task written here, in brax's own interface (a task steps a `brax.envs.State`); the
rest runs brax, which the extra `dev` brings along for it.
"""

import subprocess
import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax import brax_environments, environments, make_agent, make_trainer, normalise_observations, ppo, rollout, sweep
from pgjax.types import Box, SettingError

STRETCHED = "inverted_pendulum", "pusher", "humanoid", "humanoidstandup"
EXACT = "ant", "halfcheetah", "hopper", "inverted_double_pendulum", "reacher", "swimmer", "walker2d"
TRAIN = Path(__file__).parents[1] / "experiments" / "train.py"


class Counter:
    """Counts its steps in `info` and observes the count; ends by itself at `end`. Writes in place, as brax's tasks do.

    Its reset draws from the key, so that an observation after a reset is no observation before it.
    """

    action_size = 2

    def __init__(self, end):
        self.end = end

    def reset(self, rng):
        from brax.envs import State

        start = jax.random.uniform(rng, (1,))
        zero = jnp.zeros(())
        return State(start, start, zero, zero, {"count": zero}, {"count": 0})

    def step(self, state, action):
        state.info["count"] += 1
        state.metrics["count"] = 1.0 * state.info["count"]
        q = state.pipeline_state + 1.0
        done = jnp.where(state.info["count"] >= self.end, 1.0, 0.0)
        return state.replace(pipeline_state=q, obs=q, reward=1.0, done=done)


def counter(end, episode_length):
    return brax_environments.from_brax(Counter(end), name="counter", episode_length=episode_length)


def walk(environment, steps, action=None):
    """Step one environment by hand: observations [1 + steps, ...], terminated and truncated [steps]."""
    action = jnp.zeros(environment.action_space.shape) if action is None else action
    observation, state = environment.reset(jax.random.key(0))
    observations, terminated, truncated = [observation], [], []
    step = jax.jit(environment.step)
    for _ in range(steps):
        observation, state, _, ended, cut = step(jax.random.key(1), state, action)
        observations.append(observation)
        terminated.append(bool(ended))
        truncated.append(bool(cut))
    return np.array(observations), terminated, truncated


def acting(environment):
    agent = make_agent(environment, hidden=(4,))
    return partial(agent.policy, agent.init(jax.random.key(0)))


@pytest.fixture(scope="module")
def pendulum():
    return environments.make("brax/inverted_pendulum", backend="spring")


def test_an_endless_task_is_truncated_after_exactly_so_many_steps():
    _, terminated, truncated = walk(counter(end=99, episode_length=5), 5)
    assert not any(terminated)
    assert truncated == [False] * 4 + [True]


@pytest.mark.parametrize(("end", "flags"), [(3, (True, False)), (5, (True, True)), (9, (False, True))])
def test_the_two_ends_are_never_merged(end, flags):
    _, terminated, truncated = walk(counter(end, episode_length=5), min(end, 5))
    assert (terminated[-1], truncated[-1]) == flags
    assert not any(terminated[:-1] + truncated[:-1])


def test_what_is_observed_at_an_end_is_the_end():
    observations, _, truncated = walk(counter(end=99, episode_length=3), 3)
    assert truncated[-1]
    np.testing.assert_allclose(observations[:, 0] - observations[0, 0], [0, 1, 2, 3])


@pytest.mark.costly
def test_a_stream_goes_on_in_a_new_episode_of_full_length_after_each_end():
    environment = counter(end=99, episode_length=3)
    keys = jax.random.split(jax.random.key(0), 2)
    start = rollout.start_stream(environment, keys)
    _, rows, statistics = jax.jit(partial(rollout.stream, environment, acting(environment), num_steps=8))(start, keys)
    np.testing.assert_array_equal(np.flatnonzero(rows.truncated[:, 0]), [2, 5])
    assert not rows.terminated.any() and statistics.episodes == 4 and statistics.length_sum == 12
    assert (rows.next_observation[2] > 3).all() and (rows.observation[3] < 1).all()


def test_a_step_leaves_the_state_it_was_given_as_it_was():
    environment = counter(end=99, episode_length=9)
    _, state = environment.reset(jax.random.key(0))
    before = jax.tree.map(np.asarray, state)
    environment.step(jax.random.key(1), state, jnp.zeros(2))
    jax.tree.map(np.testing.assert_array_equal, before, state)


@pytest.mark.costly
@pytest.mark.parametrize("make", [lambda: counter(9, 9), lambda: environments.make("brax/reacher", backend="spring")])
def test_a_state_keeps_its_types_and_carries_no_metrics(make):
    environment = make()
    key, action = jax.random.key(0), jnp.zeros(environment.action_space.shape)
    state = jax.eval_shape(environment.reset, key)[1]
    after = jax.eval_shape(environment.step, key, state, action)[1]
    assert jax.tree.structure(state) == jax.tree.structure(after)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(after)):
        assert (one.shape, one.dtype, one.weak_type) == (other.shape, other.dtype, other.weak_type)
    assert not after.brax.metrics


@pytest.mark.costly
def test_a_pole_that_falls_terminates_its_episode(pendulum):
    observations, terminated, truncated = walk(pendulum, 100, jnp.ones(1))
    end = terminated.index(True)
    assert abs(observations[end + 1, 1]) > 0.2 and (abs(observations[: end + 1, 1]) <= 0.2).all()
    assert not any(truncated)


@pytest.mark.slow
def test_environments_side_by_side_equal_each_among_copies_of_itself(pendulum):
    environment = pendulum._replace(horizon=20)
    keys = jax.random.split(jax.random.key(3), 3)
    run = jax.jit(partial(rollout.episodes, environment, acting(environment)))
    together = run(keys)
    for i in range(3):
        alone = run(keys[np.array([i, i, i])])  # of the same shape: one program
        np.testing.assert_allclose(together.next_observation[:, i], alone.next_observation[:, 0], atol=1e-4)
        np.testing.assert_array_equal(together.terminated[:, i], alone.terminated[:, 0])
    assert len(np.unique(together.observation[0, :, 0])) == 3


@pytest.mark.costly
def test_spaces(pendulum):
    assert pendulum.horizon == 1000 and pendulum.num_categories is None
    assert pendulum.action_space == Box((-1.0,), (1.0,), (1,))
    assert pendulum.observation.shape == (4,) and pendulum.observation.dtype == jnp.float32
    assert environments.make("brax/fast", episode_length=7).horizon == 7


@pytest.mark.costly
@pytest.mark.few(3)
@pytest.mark.parametrize("name", [*STRETCHED, *EXACT])
def test_an_action_of_one_is_all_that_the_actuators_give(name):
    """±1 is the whole range: stretched to the actuators' by the task, or already theirs."""
    from brax import envs

    task = envs.get_environment(name)
    given = {}

    def ctrl(action):
        task.pipeline_step = lambda state, ctrl: given.update(ctrl=ctrl) or state
        task.step(task.reset(jax.random.key(0)), action)
        return given["ctrl"]

    low, high = task.sys.actuator.ctrl_range.T
    assert np.isfinite([low, high]).all() and (high[0] == 1) == (name in EXACT)
    for action, limit in ((-1.0, low), (1.0, high)):
        np.testing.assert_allclose(jax.jit(ctrl)(jnp.full(task.action_size, action)), limit, rtol=1e-6)


def test_brax_has_no_task_beside_those_looked_at():
    assert set(brax_environments.available()) == {f"brax/{name}" for name in (*STRETCHED, *EXACT, "fast")}


@pytest.mark.costly
def test_making_a_task_warns_of_nothing():
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        environments.make("brax/inverted_pendulum", episode_length=3)
    assert not [w for w in given if w.category is UserWarning]


def test_the_same_arguments_give_the_same_object(pendulum):
    assert environments.make("brax/inverted_pendulum", backend="spring") is pendulum


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("brax/Inverted-pendlum", {}, "is not known; the closest name is brax/inverted_pendulum$"),
        ("brax/ant", {"backend": "sprung"}, "cannot be made with backend='sprung': "),
        ("brax/ant", {"wings": 2}, "cannot be made with wings=2: "),
    ],
)
def test_what_brax_does_not_have_is_refused_in_one_line(name, settings, message):
    with pytest.raises(SettingError, match=f"^environment: '{name}' {message}") as error:
        environments.make(name, **settings)
    assert "\n" not in str(error.value)


def test_an_episode_without_steps_is_refused():
    with pytest.raises(SettingError, match=r"^episode_length: 0 must be a whole number of at least 1$"):
        environments.make("brax/fast", episode_length=0)


def test_a_task_that_the_installed_jax_cannot_run_is_refused_in_one_line(monkeypatch):
    """As brax's swimmer, which calls `clip` by an argument that jax has removed."""
    from brax import envs

    monkeypatch.setattr(envs.fast.Fast, "step", lambda self, state, action: jnp.clip(action, minimum_of_old=0))
    with pytest.raises(
        SettingError, match=r"^environment: 'brax/fast' does not run with jax .*minimum_of_old"
    ) as error:
        environments.make("brax/fast", episode_length=11)
    assert "\n" not in str(error.value)


@pytest.mark.costly
def test_without_brax_one_line_says_what_to_install(tmp_path):
    code = f"import runpy, sys; sys.modules['brax'] = None; runpy.run_path({str(TRAIN)!r}, run_name='__main__')"
    command = [sys.executable, "-c", code, "--no-tuned", "--environment", "brax/inverted_pendulum"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: environment: 'brax/inverted_pendulum' needs brax")
    assert 'pip install "policy-gradients-jax[brax]"' in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_main_job_takes_a_brax_task(tmp_path):
    flags = "--algorithm ppo --seeds 1 --num-envs 4 --num-steps 8 --total-steps 64 --eval-episodes 2 --hidden 4"
    command = [sys.executable, TRAIN, "--environment", "brax/fast", *flags.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "brax-fast-ppo-1" / "evaluation.csv").exists()
    assert "warp" not in done.stdout + done.stderr


@pytest.mark.slow
def test_ppo_learns_to_hold_the_pole_for_longer(pendulum):
    recipe = ppo(learning_rate=3e-3)
    agent = normalise_observations(make_agent(pendulum, critic="state"), pendulum)
    trainer = make_trainer(pendulum, agent, replace(recipe.config, num_envs=16))
    result = sweep(trainer, recipe.algorithm, seeds=2, total_steps=10_240)
    lengths = result.metrics["length_mean"]  # [seeds, updates]; an untrained policy drops the pole within 20 steps
    assert (np.nanmean(lengths[:, -5:], axis=1) > 2 * np.nanmean(lengths[:, :3], axis=1)).all()
