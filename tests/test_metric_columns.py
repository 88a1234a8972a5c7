"""Metrics that everyone expects: there by default, right, and every one explained."""

import inspect
import re
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax import ALGORITHMS, environments, make_agent, make_trainer, ppo, reinforce, with_reference
from pgjax.estimators.contracts import reported, reports_of
from pgjax.runs.record.metrics_file import FIRST_COLUMNS

EXPLAINED = Path(__file__).parents[1] / "experiments" / "README.md"


def columns(recipe):
    environment = environments.make("Catch-bsuite")
    trainer = make_trainer(
        environment, make_agent(environment, hidden=(4,), critic=recipe.config.critic), recipe.config
    )
    state = jax.eval_shape(lambda: trainer.init(recipe.algorithm, jax.random.key(0)))
    return set(jax.eval_shape(trainer.update, recipe.algorithm, state)[1])


@pytest.mark.costly
def test_every_column_of_every_method_is_explained():
    section = EXPLAINED.read_text().partition("### Metrics\n")[2].partition("\n## ")[0]
    explained = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", section, re.MULTILINE))))
    found = set().union(*(columns(make()) for make in ALGORITHMS.values()))
    watched = reinforce()._replace(config=replace(reinforce().config, diagnostics=4))
    found |= columns(watched) | columns(with_reference(reinforce(), "k2_loss", 0.1)) | set(FIRST_COLUMNS)
    assert found - explained == set() and explained - found == {"steps_per_second"}


@pytest.mark.costly
def test_what_is_expected_is_there():
    everywhere = {"entropy", "kl", "gradient_norm", "length_mean", "learning_rate"}
    assert everywhere | {"clip_fraction", "explained_variance"} <= columns(ppo())
    assert everywhere <= columns(reinforce()) and "clip_fraction" not in columns(reinforce())


@pytest.mark.parametrize("name", ["ppo", "dual_clip", "dapo", "cispo"])
def test_the_clip_fraction_is_the_share_outside_the_range(name):
    found = reports_of(ALGORITHMS[name]().algorithm.estimator.contribution)["clip_fraction"]
    low, high = {"dapo": (0.8, 1.28), "cispo": (0.0, 1.28)}.get(name, (0.8, 1.2))
    ratios = np.array([0.01, 0.79, 0.81, 1.0, 1.19, 1.21, 1.27, 1.29])
    np.testing.assert_array_equal(found(jnp.log(jnp.array(ratios))), (ratios < low) | (ratios > high))
    wide = reports_of(ppo(clip=10.0).algorithm.estimator.contribution)["clip_fraction"]
    assert not wide(jnp.log(jnp.array([5.0]))).any()


@pytest.mark.parametrize("name", ["gspo", "gspo_token"])
def test_the_clip_fraction_of_whole_episodes_is_the_share_of_steps_in_those_outside(name):
    contribution = ALGORITHMS[name](clip_low=0.2, clip_high=0.5).algorithm.estimator.contribution
    ratios = np.array([[4.0, 4.0, 0.5, 1.0], [0.25, 1.0, 1.0, 1.4], [1.0, 1.0, 1.0, 1.2]])
    continues = np.ones((3, 4)) * [[1.0], [1.0], [0.0]]
    s = np.prod(ratios, axis=0) ** (1 / 3)  # 1, 1.59, 0.79, 1.19
    found = reported(contribution, jnp.log(jnp.array(ratios)), jnp.array(continues))["clip_fraction"]
    np.testing.assert_array_equal(found, np.tile((s < 0.8) | (s > 1.5), (3, 1)))
    assert found[0].tolist() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.costly
def test_every_method_that_clips_a_ratio_says_how_many():
    clips = {
        name for name, make in ALGORITHMS.items() if {"clip", "clip_low"} & set(inspect.signature(make).parameters)
    }
    assert {"ppo", "gspo", "gspo_token", "cispo", "grpo"} < clips
    assert clips == {name for name, make in ALGORITHMS.items() if "clip_fraction" in columns(make())}
