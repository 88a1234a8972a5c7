"""Declarations: every one in the library is kept, a false one is found, and one that is missing costs only speed."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from jax.lax import stop_gradient

from pgjax import (
    ALGORITHMS,
    BASELINES,
    CREDITS,
    FORMS,
    Gaussian,
    SettingError,
    baselined,
    collect,
    environments,
    learn,
    make_agent,
    make_trainer,
    off_policy_reward_to_go,
    per_step,
    per_trajectory,
    product,
    ratio,
    ratio_free,
    reinforce,
    reward_to_go,
    score,
)
from pgjax.estimators import contracts
from pgjax.estimators.groups import group_standardised
from pgjax.testing import assert_declarations

CATCH = environments.make("Catch-bsuite")
SURROGATES = {surrogate for _, surrogate in FORMS.values()}


@pytest.mark.few(12)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_method_keeps_what_it_declares(name):
    algorithm = ALGORITHMS[name]().algorithm
    assert contracts.promises(algorithm.estimator.contribution, contracts.PER_TRAJECTORY)
    assert_declarations(algorithm)


@pytest.mark.parametrize("name", [name for name, baseline in BASELINES.items() if baseline])
@pytest.mark.parametrize("credit", [*CREDITS.values(), group_standardised])
def test_every_credit_and_baseline_keeps_what_it_declares(name, credit):
    estimator = product(baselined(credit, BASELINES[name]), score)
    assert contracts.promises(estimator.credit, contracts.RATIO_FREE)
    # What the score declares is looked at once for each method: here it is in a function that declares nothing.
    assert_declarations(estimator._replace(contribution=lambda *signals: estimator.contribution(*signals)))


def hidden(log_ratio, credit, continues):
    """Looks along time behind a stop_gradient, where no derivative shows it."""
    return stop_gradient(jnp.exp(jnp.cumsum(log_ratio, 0))) * score(log_ratio, credit, continues)


def mixed(log_ratio, credit, continues):
    return jnp.exp(log_ratio - log_ratio.mean(1, keepdims=True)) * credit


def ends(log_ratio, credit, continues):
    return jnp.exp(log_ratio) * credit * continues


@pytest.mark.parametrize(
    ("declare", "surrogate", "changed"),
    [(per_step, hidden, "log_ratio"), (per_trajectory, mixed, "log_ratio"), (per_step, ends, "continues")],
)
def test_false_declarations_of_surrogates_are_found(declare, surrogate, changed):
    def copy(log_ratio, credit, continues):
        return surrogate(log_ratio, credit, continues)

    with pytest.raises(AssertionError, match=f"moving {changed}"):
        assert_declarations(product(reward_to_go, declare(copy)))


def test_false_declarations_of_credits_are_found():
    @ratio_free
    def credit(signals):
        return off_policy_reward_to_go(signals)

    with pytest.raises(AssertionError, match="ratio_free"):
        assert_declarations(product(credit, score))


def test_promises_are_not_copied_to_what_wraps_a_function():
    import functools

    @functools.wraps(ratio)
    def wrapper(log_ratio, credit, continues):
        return ratio(log_ratio, credit, continues) / log_ratio.sum(0)

    assert contracts.promises(jax.jit(ratio), contracts.PER_STEP)
    assert not contracts.promises(wrapper, contracts.PER_STEP)


AGENT = make_agent(CATCH, hidden=())
FIRST_ORDER = ALGORITHMS["first_order"](baseline="none", epochs=2, learning_rate=0.05)


def trainer_of(**settings):
    return make_trainer(CATCH, AGENT, replace(FIRST_ORDER.config, num_envs=8, **settings))


@cache
def collected(engine):
    """Some parameters, and a batch of theirs."""
    trainer = trainer_of(engine=engine)
    state = jax.jit(trainer.init)(FIRST_ORDER.algorithm, jax.random.key(0))
    return state, jax.jit(collect, static_argnums=0)(trainer, FIRST_ORDER.algorithm, state)


def moved(surrogate, credit=reward_to_go, engine="cpu", **settings):
    """The parameters after two passes over one batch."""
    algorithm = FIRST_ORDER.algorithm._replace(estimator=product(credit, surrogate))
    trainer = trainer_of(engine=engine, **settings)
    return jax.jit(learn, static_argnums=0)(trainer, algorithm, *collected(engine))[0].params


@pytest.mark.costly
@pytest.mark.few(1)
@pytest.mark.parametrize("surrogate", [hidden, mixed, ends])
def test_a_surrogate_that_declares_nothing_is_given_the_whole_batch_by_every_engine(surrogate):
    plain, *others = (moved(surrogate, engine=engine) for engine in ("plain", "cpu", "accelerator"))
    for other in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), plain, other)


@pytest.mark.costly
@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("diagnostics", 2, "per_trajectory"),
        ("accumulate", 2, "per_trajectory"),
    ],
)
def test_what_cuts_batches_refuses_a_surrogate_that_declares_nothing(field, value, match):
    with pytest.raises(SettingError, match=rf"{field}: {value} .*mixed.* is not declared @pgjax.{match}"):
        moved(mixed, **{field: value})


@pytest.mark.costly
def test_credits_that_declare_nothing_are_computed_anew_for_each_pass():
    def undeclared(signals):
        return off_policy_reward_to_go(signals)

    one, other = moved(ratio, undeclared), moved(ratio, off_policy_reward_to_go)
    jax.tree.map(np.testing.assert_array_equal, one, other)


SHAPES = {
    "row": (lambda s: reward_to_go(s)[:1], ratio, None),
    "column": (lambda s: reward_to_go(s)[:, :1], ratio, None),
    "trajectory": (lambda s: s.reward.sum(0), ratio, r"credit: '<lambda>' returns shape \(8,\)"),
    "extra": (lambda s: reward_to_go(s)[..., None], lambda x, c, _: x * c[..., 0], None),
    "summed": (reward_to_go, lambda x, c, _: (x * c).sum(0), r"shape \(8,\) as surrogate"),
    "scalar": (reward_to_go, lambda x, c, _: (x * c).sum(), r"shape \(\) as surrogate"),
}


@pytest.mark.few(3, costly=3)
@pytest.mark.parametrize("case", SHAPES)
def test_shapes_of_credits_and_surrogates_are_right_or_refused(case):
    credit, surrogate, refused = SHAPES[case]
    if refused:
        with pytest.raises(SettingError, match=refused):
            moved(surrogate, credit)
        return

    def whole(signals):
        return jnp.broadcast_to(jnp.asarray(credit(signals)), (*signals.reward.shape, *credit(signals).shape[2:]))

    jax.tree.map(np.testing.assert_array_equal, moved(surrogate, credit), moved(surrogate, whole))


@pytest.mark.costly
def test_a_jitted_credit_is_not_taken_for_one_that_uses_values():
    jax.tree.map(np.testing.assert_array_equal, moved(ratio, jax.jit(reward_to_go)), moved(ratio, reward_to_go))


def test_a_credit_that_reads_values_without_a_critic_is_refused_by_name():
    def advantage(signals):
        return reward_to_go(signals) - signals.value

    with pytest.raises(SettingError, match="critic: 'none' leaves signals.value None, so credit advantage"):
        moved(ratio, advantage)


@pytest.mark.costly
def test_estimators_may_read_any_distribution_and_report_metrics():
    environment = probes.five(continuous=True)
    agent = make_agent(environment, hidden=(4,))

    def contribution(credit, signals, distribution, log_ratio):
        assert isinstance(distribution, Gaussian)
        return distribution.mean[..., 0] * credit, {"size": jnp.abs(distribution.mean[..., 0])}

    estimator = product(reward_to_go, score)._replace(contribution=contribution)
    algorithm = reinforce(baseline="none").algorithm._replace(estimator=estimator)
    trainer = make_trainer(environment, agent, replace(reinforce(baseline="none").config, num_envs=8))
    state = jax.jit(trainer.init)(algorithm, jax.random.key(0))
    batch = jax.jit(collect, static_argnums=0)(trainer, algorithm, state)
    rows = batch.batch.transition
    mean = np.asarray(agent.policy(state.params, rows.observation).mean)[..., 0]
    _, metrics = jax.jit(learn, static_argnums=0)(trainer, algorithm, state, batch)
    np.testing.assert_allclose(metrics["size"], np.abs(mean)[rows.mask > 0].mean(), rtol=1e-5)
