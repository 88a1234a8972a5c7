"""Doors of the sweeps: seeds are names, counts fit 32 bits, what is handed over stays, arrays of hyperparameters."""

from dataclasses import replace
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from pgjax import (
    environments,
    evaluate_runs,
    make_agent,
    make_trainer,
    product,
    reinforce,
    run_updates,
    sweep,
    sweeps,
    total_return,
    train,
)
from pgjax.types import SettingError

MOST = 2**31 - 1


@pytest.fixture(scope="module")
def problem():
    environment, recipe = environments.make("Catch-bsuite"), reinforce()
    agent = make_agent(environment, hidden=(4,))
    return environment, agent, make_trainer(environment, agent, replace(recipe.config, num_envs=4)), recipe.algorithm


@pytest.mark.parametrize("seeds", [[7, 5], np.array([7, 5]), jnp.array([7, 5]), (np.int32(7), np.uint8(5)), [MOST, 0]])
def test_exact_integers_are_seeds(problem, seeds):
    *_, trainer, algorithm = problem
    runs = sweeps.start(trainer, algorithm, seeds=seeds)
    assert runs.seeds.tolist() == [int(seed) for seed in seeds]
    alone = trainer.init(algorithm, jax.random.key(int(seeds[1])))
    found = runs.pick(seed=int(seeds[1]))
    np.testing.assert_array_equal(jax.random.key_data(found.key), jax.random.key_data(alone.key))


@pytest.mark.parametrize(
    "seeds",
    [
        *([7, 7 + 2**32], [-1, 2**32 - 1], [3.2, 3.9], [3.0], [True], [MOST + 1], ["3"], [None], [[1, 2]]),
        *([4, 5, 4], np.array([1.0]), 0, -1, 2.0, True, "3", None, MOST + 2),
    ],
)
def test_what_is_no_seed_is_refused_in_one_line(problem, seeds):
    *_, trainer, algorithm = problem
    for call in (sweeps.start, lambda *a, **k: sweep(*a, total_steps=36, **k)):
        with pytest.raises(SettingError, match="^seeds: ") as error:
            call(trainer, algorithm, seeds=seeds)
        assert "\n" not in str(error.value)


def test_runs_are_found_by_their_exact_names(problem):
    *_, trainer, algorithm = problem
    over = {"learning_rate": [0.1, 0.1000001, 1e-30]}
    runs = sweeps.start(trainer, algorithm, seeds=[100000, 100001], over=over)
    assert [runs.find(seed=seed) for seed in (100000, 100001, np.int64(100001))] == [0, 1, 1]
    assert [runs.find(seed=100001, learning_rate=rate) for rate in (*over["learning_rate"], np.float32(0.1))] == [
        1,
        3,
        5,
        1,
    ]
    for seed in (100000.5, 100001.0, 99999, True, -1, 100000 + 2**32):
        with pytest.raises(SettingError, match="^seed: "):
            runs.find(seed=seed)
    with pytest.raises(SettingError, match="^learning_rate: 0.1000003 is not among the runs, which have "):
        runs.pick(learning_rate=0.1000003)


ENTRANCES = {
    "sweep": lambda t, a, r, n: sweep(t, a, total_steps=n),
    "chunks": lambda t, a, r, n: sweeps.chunks(t, r, n),
    "advance": lambda t, a, r, n: sweeps.advance(t, r, n, 1),
    "run_updates": lambda t, a, r, n: run_updates(t, a, jax.tree.map(lambda x: x[0], r.state), n, 1),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_budgets_that_are_no_counts_of_32_bits_are_refused(problem, entrance):
    *_, trainer, algorithm = problem
    runs = sweeps.start(trainer, algorithm)
    for steps in (
        0,
        -1,
        MOST,
        MOST + 1,
        2**32 + 5,
        10**12,
        1e12,
        1e300,
        2.5,
        float("nan"),
        float("inf"),
        "9",
        True,
        None,
    ):
        with pytest.raises(SettingError, match="^total_steps: "):
            ENTRANCES[entrance](trainer, algorithm, runs, steps)


def test_other_counts_are_refused(problem):
    *_, trainer, algorithm = problem
    runs = sweeps.start(trainer, algorithm)
    for bad in (0, -3, 2.5, 2**31, float("nan"), "9"):
        calls = {
            "updates": lambda n=bad: sweeps.advance(trainer, runs, 72, n),
            "max_skipped": lambda n=bad: sweeps.chunks(trainer, runs, 72, 1, n),
            "updates_per_chunk": lambda n=bad: sweep(trainer, algorithm, total_steps=72, updates_per_chunk=n),
            "max_updates": lambda n=bad: sweep(trainer, algorithm, total_steps=72, max_updates=n),
        }
        for name, call in calls.items():
            with pytest.raises(SettingError, match=f"^{name}: "):
                call()
    for bad in (-1, 2.5, 2**31, 2**31 // 36 + 1):
        with pytest.raises(SettingError, match="^num_updates: "):
            train(trainer, algorithm, jax.random.key(0), bad)


@pytest.mark.costly
def test_whole_numbers_of_any_type_are_counts(problem):
    *_, trainer, algorithm = problem
    for steps in (72, 72.0, np.int64(72), np.float32(72), jnp.int32(72)):
        metrics = sweep(trainer, algorithm, total_steps=steps, updates_per_chunk=np.int32(2), max_updates=2.0).metrics
        assert metrics["env_steps"].tolist() == [[36, 72]]
    with pytest.raises(SettingError):
        sweep(trainer, algorithm, total_steps=Fraction(1, 3))


@pytest.mark.costly
def test_steps_are_counted_up_to_the_largest_number(problem):
    """A loop of a user's own that goes beyond it: the counter stays there."""
    *_, trainer, algorithm = problem
    state = trainer.init(algorithm, jax.random.key(0))._replace(env_steps=jnp.int32(MOST - 40))
    update = jax.jit(trainer.update)
    for steps in (MOST - 4, MOST, MOST):
        state, _ = update(algorithm, state)
        assert int(state.env_steps) == steps


@pytest.mark.costly
def test_runs_that_are_handed_over_stay(problem):
    *_, trainer, algorithm = problem
    runs = sweeps.start(trainer, algorithm)
    kept = [runs, *(now for now, _ in sweeps.chunks(trainer, runs, 144, 2))]
    assert [now.state.env_steps.tolist() for now in kept] == [[0], [72], [144]]
    again = [now for now, _ in sweeps.chunks(trainer, kept[1], 144, 2)][-1]
    for a, b in zip(jax.tree.leaves(again.state.params), jax.tree.leaves(kept[-1].state.params)):
        np.testing.assert_array_equal(a, b)
    donated = sweeps.advance(trainer, again, 216, 2, donate=True)[0]
    assert donated.state.env_steps.tolist() == [216]
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(again.state.env_steps)


@pytest.mark.slow
def test_a_discount_for_each_environment(problem):
    """Where there are as many runs as environments, and beside a number that is swept."""
    *_, trainer, _ = problem
    algorithm, plain = (reinforce(discount=jnp.array(d)).algorithm for d in ([0.9, 0.5, 0.1, 1.0], [1.0] * 4))
    wanted, other = (train(trainer, a, jax.random.key(5), 2)[0].params for a in (algorithm, plain))
    over = {"learning_rate": [0.5, 1e-2]}
    found = sweep(trainer, algorithm, total_steps=72, seeds=[4, 5], over=over).runs.pick(seed=5, learning_rate=1e-2)
    for a, b, c in zip(*map(jax.tree.leaves, (wanted, found.params, other))):
        np.testing.assert_allclose(a, b, atol=1e-6)
        assert a.ndim < 2 or np.abs(a - c).max() > 1e-3
    swept = sweeps.start(trainer, algorithm, over={"discount": [0.9, 0.8]})
    assert swept.algorithm.discount.shape == (2,)
    for values in (0.9, [[0.9, 0.8]], ["0.9"], [None]):
        with pytest.raises(SettingError, match="^discount: "):
            sweeps.start(trainer, algorithm, over={"discount": values})


def test_evaluation_takes_keys_of_either_kind(problem):
    environment, agent, trainer, algorithm = problem
    runs = sweeps.start(trainer, algorithm)
    typed, old = (
        evaluate_runs(environment, agent, runs, k(3), episodes=4) for k in (jax.random.key, jax.random.PRNGKey)
    )
    np.testing.assert_array_equal(typed, old)
    for key in (3, jax.random.split(jax.random.key(0)), jnp.zeros(2), None):
        with pytest.raises(SettingError, match="^key: "):
            evaluate_runs(environment, agent, runs, key, episodes=4)
    for episodes in (0, 2.5, 2**31):
        with pytest.raises(SettingError, match="^episodes: "):
            evaluate_runs(environment, agent, runs, jax.random.key(0), episodes=episodes)


def weighed(log_ratio, credit, continues, weights):
    return jnp.exp(log_ratio) * credit * weights.sum()


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({3: [1.0]}, "over: 3 must be the name of a hyperparameter"),
        ([("learning_rate", [1.0])], "over: .* must be one or more settings"),
        ({"weights": [1.0, 2.0]}, r"weights: .*shape \(3,\).* is an array, which one number cannot replace"),
    ],
)
def test_what_cannot_be_swept_is_refused_in_one_line(problem, over, said):
    *_, trainer, algorithm = problem
    estimator = product(total_return, Partial(weighed, weights=jnp.arange(3.0)))
    with pytest.raises(SettingError, match=said):
        sweeps.start(trainer, algorithm._replace(estimator=estimator), over=over)


def test_an_array_of_running_runs_is_not_replaced_by_a_number(problem):
    *_, trainer, algorithm = problem
    estimator = product(total_return, Partial(weighed, weights=jnp.arange(3.0)))
    runs = sweeps.start(trainer, algorithm._replace(estimator=estimator), seeds=2)
    with pytest.raises(SettingError, match=r"weights: .*shape \(3,\).* is an array"):
        runs.with_hyperparameters(weights=1.0)
