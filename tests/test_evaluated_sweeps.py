"""Evaluation inside a sweep: the same training, points on a common axis."""

import jax
import numpy as np
import pytest

from pgjax import Config, environments, evaluate_runs, make_agent, make_trainer, reinforce, sweep, sweeps
from pgjax.types import SettingError


@pytest.fixture(scope="module")
def problem():
    environment = environments.make("Catch-bsuite")
    trainer = make_trainer(environment, make_agent(environment, hidden=(4,)), Config(num_envs=4))
    return trainer, reinforce().algorithm


@pytest.mark.costly
def test_a_sweep_is_the_same_with_and_without(problem):
    how = {"total_steps": 36 * 7, "seeds": 2, "updates_per_chunk": 2}
    plain, watched = sweep(*problem, **how), sweep(*problem, **how, evaluate_every=100, eval_episodes=4)
    assert plain.evaluation == {} and watched.evaluation["env_steps"].tolist() == [[144, 216, 252]] * 2
    for name, values in plain.metrics.items():
        np.testing.assert_array_equal(values, watched.metrics[name])
    for a, b in zip(jax.tree.leaves(plain.runs.state.params), jax.tree.leaves(watched.runs.state.params), strict=True):
        np.testing.assert_array_equal(a, b)
    trainer = problem[0]
    for place, name in enumerate(sweeps.RETURNS):
        key = jax.random.key(sweeps.EVALUATION_KEY + place)
        end = evaluate_runs(trainer.environment, trainer.agent, plain.runs, key, episodes=4, greedy=bool(place))
        np.testing.assert_array_equal(watched.evaluation[name][:, -1], end.mean(axis=1))


@pytest.mark.costly
def test_the_end_is_evaluated_once(problem):
    for updates, steps in ((4, [72, 144]), (3, [72, 108])):
        found = sweep(*problem, total_steps=36 * updates, updates_per_chunk=2, evaluate_every=72, eval_episodes=2)
        assert found.evaluation["env_steps"].tolist() == [steps]


def test_counts_are_checked(problem):
    for name in ("evaluate_every", "eval_episodes"):
        for bad in (0, -1, 2.5, "9"):
            with pytest.raises(SettingError, match=f"^{name}: "):
                sweep(*problem, total_steps=72, **{name: bad})
