"""Learning rates scheduled over environment steps: the rate that reaches the optimiser.

That every method takes a schedule is seen in test_strict.py, where each is traced.
"""

import jax
import numpy as np
import optax
import pytest

from pgjax import environments, make_agent, make_trainer, reinforce, sweep, sweeps
from pgjax.methods.optimizers import with_optimizer
from pgjax.methods.schedules import SCHEDULES, decaying, scheduled
from pgjax.runs.settings.build import build
from pgjax.runs.settings.flags import Settings
from pgjax.types import SettingError


@pytest.fixture(scope="module")
def bandit():
    environment = environments.make("Catch-bsuite")
    agent = make_agent(environment, hidden=(4,))
    return environment, agent


@pytest.mark.costly
@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("name", "factors"), [("linear", [0.0, 0.5, 1.0, 2 / 3, 1 / 3]), ("constant", [0.0, 0.5, 1, 1, 1])]
)
def test_every_update_moves_by_the_rate_of_its_steps(bandit, name, factors):
    """SGD without momentum: the same as a run whose rate is set by hand at each update."""
    environment, agent = bandit
    recipe = reinforce(baseline="none")
    trainer = make_trainer(environment, agent, recipe.config)
    steps = 9 * recipe.config.num_envs
    plain = with_optimizer(recipe.algorithm, optax.sgd)
    algorithm = scheduled(plain, name, total_steps=5 * steps, warmup_steps=2 * steps)
    update, init = jax.jit(trainer.update), jax.jit(trainer.init)
    by_hand, state = init(plain, jax.random.key(0)), init(algorithm, jax.random.key(0))
    for factor in factors:
        state, _ = update(algorithm, state)
        by_hand, _ = update(
            with_optimizer(plain, jax.tree_util.Partial(optax.sgd, learning_rate=1e-2 * factor)), by_hand
        )
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(by_hand.params), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_cosine_rises_falls_and_stays_at_nothing():
    factors = [
        float(SCHEDULES["cosine"](s, schedule_steps=100.0, warmup_steps=20.0)) for s in (0, 10, 20, 60, 100, 200)
    ]
    np.testing.assert_allclose(factors, [0, 0.5, 1, 0.5, 0, 0], atol=1e-6)


@pytest.mark.costly
def test_the_length_of_a_schedule_is_swept(bandit):
    recipe = reinforce()
    trainer = make_trainer(*bandit, recipe.config)
    algorithm = scheduled(recipe.algorithm, "linear", total_steps=1e4)
    over = {"schedule_steps": [288.0, 1e4]}
    runs, first = (sweep(trainer, algorithm, total_steps=steps, over=over).runs for steps in (864, 288))
    ended, at_the_end = (jax.tree.leaves(r.pick(schedule_steps=288.0).params) for r in (runs, first))
    for a, b in zip(ended, at_the_end):
        np.testing.assert_array_equal(a, b)  # nothing moves at rate 0
    goes_on = (jax.tree.leaves(r.pick(schedule_steps=1e4).params) for r in (runs, first))
    assert not all(np.array_equal(a, b) for a, b in zip(*goes_on))


def test_what_is_no_schedule_is_refused(bandit):
    algorithm = reinforce().algorithm
    for field, given in {"learning_rate_schedule": ("step", 1e3, 0), "warmup_steps": ("linear", 1e3, 1e3)}.items():
        with pytest.raises(SettingError, match=f"^{field}: "):
            scheduled(algorithm, given[0], total_steps=given[1], warmup_steps=given[2])
    trainer = make_trainer(*bandit, reinforce().config)
    for fixed in (with_optimizer(algorithm, optax.sgd(0.1)), decaying(reinforce(), 9).algorithm):
        with pytest.raises(
            SettingError, match="^learning_rate_schedule: 'linear' needs an optimiser with a number learning_rate"
        ):
            sweeps.start(trainer, scheduled(fixed, "linear", total_steps=1e3))
    for field, settings in {
        "decay_updates": {"decay_updates": 5, "learning_rate_schedule": "cosine"},
        "warmup_steps": {"warmup_steps": 10**9},
        "learning_rate_schedule": {"learning_rate_schedule": "step"},
        "first_seed": {"first_seed": -1},
        "seed_list": {"seed_list": (1, 1)},
    }.items():
        with pytest.raises(SettingError, match=f"^{field}: "):
            build(Settings(**settings))
