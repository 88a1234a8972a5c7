"""Rewards of any size and episodes of any shape: what is learned stays finite, and no episode is not a return of 0."""

import csv
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from faulty import all_finite, learner, walk

from pgjax import ALGORITHMS
from pgjax.runs.record.metrics_file import MetricsFile
from pgjax.runs.show import figures
from pgjax.sweeps.progress import last_return

UPDATES = 4
NEVER, EVERY_STEP, LIMIT = range(3)


def shaped(environment, ends):
    """`environment` with its ends replaced: never, a termination at every step, or a truncation at every third."""

    def step(key, state, action):
        observation, state, reward, _, _ = environment.step(key, state, action)
        _, t = state
        return observation, state, reward, ends == EVERY_STEP, (ends == LIMIT) & (t >= 3)

    return environment._replace(step=step)


def paying(environment, scale, constant):
    """`environment` with rewards of another size, and, if `constant`, always the same."""

    def step(key, state, action):
        observation, state, reward, *ends = environment.step(key, state, action)
        return observation, state, scale * jnp.where(constant, 1.0, reward), *ends

    return environment._replace(step=step)


@partial(jax.jit, static_argnames=("name", "static", "environment"))
@partial(jax.vmap, in_axes=(None, None, None, 0))
def trained(name, static, environment, argument):
    recipe = ALGORITHMS[name]()
    recipe = recipe._replace(config=replace(recipe.config, num_envs=8, num_steps=8, **dict(static)))
    _, trainer = learner(environment(*argument), recipe, normalised=name == "ppo")

    def step(state, _):
        return trainer.update(recipe.algorithm, state)

    return jax.lax.scan(step, trainer.init(recipe.algorithm, jax.random.key(0)), None, UPDATES)


def finite(state):
    return all_finite((state.params, state.optimizer_state, state.rollout_state, state.reward_scale))


def of_size(scale, constant):
    return paying(walk(5), scale, constant)


def of_shape(ends):
    return shaped(walk(1 << 20), ends)


METHODS = [
    ("ppo", (("epochs", 2), ("minibatches", 2), ("normalise_rewards", True))),
    ("reinforce", ()),
    pytest.param("trpo", (), marks=pytest.mark.slow),
    pytest.param("ppo", (("epochs", 2), ("minibatches", 2)), marks=pytest.mark.slow),
    pytest.param("storm", (), marks=pytest.mark.slow),
    pytest.param("per_decision_is", (("epochs", 2),), marks=pytest.mark.slow),
    pytest.param("weighted_is", (("epochs", 2),), marks=pytest.mark.slow),
]


@pytest.mark.costly
@pytest.mark.few(1)
@pytest.mark.parametrize(("name", "static"), METHODS)
def test_rewards_of_any_size(name, static):
    scale, constant = np.float32([[1e30, 0], [1e30, 1], [1e-30, 0], [1e-30, 1], [1, 1], [0, 1]]).T
    state, metrics = trained(name, static, of_size, (scale, constant > 0))
    assert finite(state).all()
    small = scale <= 1
    assert not state.skipped[small].any(), metrics["nonfinite"]
    assert all_finite({k: v[small] for k, v in metrics.items() if k in ("gradient_norm", "value_loss", "kl")}).all()
    for row, reward in zip(metrics["return_mean"][constant > 0], scale[constant > 0], strict=True):
        np.testing.assert_allclose(row, 5 * reward, rtol=1e-5)


@pytest.mark.costly
def test_episodes_of_any_shape():
    state, metrics = trained("ppo", METHODS[0][1], of_shape, (np.arange(3),))
    assert finite(state).all() and not state.skipped.any()
    np.testing.assert_array_equal(metrics["episodes"][NEVER], 0)
    assert np.isnan(metrics["return_mean"][NEVER]).all() and np.isnan(metrics["length_mean"][NEVER]).all()
    np.testing.assert_array_equal(metrics["length_mean"][EVERY_STEP], 1.0)
    np.testing.assert_array_equal(metrics["length_mean"][LIMIT], 3.0)
    np.testing.assert_array_equal(metrics["episodes"][EVERY_STEP], 64)


@pytest.mark.costly
def test_no_finished_episode_is_an_empty_cell_no_curve_and_no_return(tmp_path):
    _, metrics = trained("ppo", METHODS[0][1], of_shape, (np.arange(3),))
    metrics = {k: np.asarray(v)[[NEVER, NEVER]] for k, v in metrics.items()}
    shape = metrics["return_mean"].shape
    counters = {"update": np.arange(UPDATES) + 1, "env_steps": 64 * (np.arange(UPDATES) + 1), "active": True}
    metrics |= {k: np.broadcast_to(v, shape) for k, v in counters.items()}
    MetricsFile(tmp_path / "metrics.csv").write(np.arange(2), metrics)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * UPDATES
    assert all(row["return_mean"] == row["length_mean"] == "" and float(row["episodes"]) == 0 for row in rows)
    assert np.isnan(last_return(metrics))
    assert not figures.curve(metrics)[0].size
    figure = figures.learning_curves({"ppo": metrics}, title="nothing ended")
    assert [text.get_text() for text in figure.axes[0].texts] == ["no episode has ended"]
