"""Losses of other libraries, as the certificates' script hands them over: on every batch they are what the maths says.

A mean over steps is first made one over trajectories, by the number that its library divides by: the rest is equal.
"""

import functools
from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from losses import FIXED, GROUPED, LIMITED, VARIED
from parts import field_losses as field

from pgjax import ALGORITHMS, Algorithm, Config, Recipe, certify, clipped_ratio, product, reward_to_go, score
from pgjax.estimators.advantages import gae, vtrace
from pgjax.oracle.certificates import OBJECTIVES, default_problems
from pgjax.oracle.certificates.certificate import make_cases
from pgjax.oracle.certificates.entries import choose_objective, make_row
from pgjax.oracle.certificates.evaluation import estimates
from pgjax.testing import assert_same_estimator, assert_scale

PADDED, STREAM = {"pad_to": "horizon"}, {"layout": "flat"}
GAE = partial(gae, gae_lambda=1.0)


def without_discount_in_front(credit, surrogate):
    return Recipe(Algorithm(product(credit, surrogate), optimizer=None), Config())


def summed_over_time(loss):
    """Times T: a sum over steps, as a mean over trajectories."""

    @functools.wraps(loss)
    def scaled(mask, **rest):
        return len(mask) * loss(mask=mask, **rest)

    return scaled


def summed_over_stream(loss):
    """Times the number of steps over that of episodes, which a stream knows by their ends."""

    @functools.wraps(loss)
    def scaled(log_prob, terminated, truncated, **rest):
        found = loss(log_prob=log_prob, terminated=terminated, truncated=truncated, **rest)
        factor = len(log_prob) / (terminated + truncated).sum()
        return tuple(factor * x for x in found) if isinstance(found, tuple) else factor * found

    return scaled


@pytest.mark.costly
@pytest.mark.parametrize(
    ("make", "credit", "surrogate"),
    [
        (field.rlax_policy_gradient, reward_to_go, score),
        (field.rlax_clipped_surrogate, GAE, clipped_ratio),
        (field.rlax_vtrace, partial(vtrace, gae_lambda=1.0), score),
    ],
)
def test_rlax_is_a_mean_over_time_of_what_its_names_say(make, credit, surrogate):
    expected = without_discount_in_front(credit, surrogate)
    assert_same_estimator(summed_over_time(make()), expected, problems=[FIXED, VARIED, LIMITED], **PADDED)


UNDISCOUNTED = VARIED._replace(mdp=replace(VARIED.mdp, discount=1.0))


@pytest.mark.parametrize("where", [FIXED, UNDISCOUNTED], ids=["fixed length", "variable length"])
def test_the_mean_over_time_is_a_step_size_as_long_as_the_length_is_fixed(where):
    scale = 1 / where.mdp.horizon
    assert_scale(field.rlax_policy_gradient(), scale, problems=where, **PADDED)
    if where is FIXED:  # padding to the longest is then the same
        assert_scale(field.rlax_policy_gradient(), scale, problems=where)
    else:
        with pytest.raises(AssertionError, match="cosine 0.99"):
            assert_scale(field.rlax_policy_gradient(), scale, problems=where)


@pytest.mark.costly
def test_brax_is_clipped_gae_where_lambda_is_one_and_no_limit_cuts():
    loss, expected = summed_over_stream(field.brax_ppo()), without_discount_in_front(GAE, clipped_ratio)
    assert_same_estimator(loss, expected, problems=[FIXED, VARIED], **STREAM)
    with pytest.raises(AssertionError, match="differ by"):
        assert_same_estimator(loss, expected, problems=LIMITED, **STREAM)
    with pytest.raises(AssertionError, match="differ by"):
        other = without_discount_in_front(gae, clipped_ratio)  # λ = 0.95
        assert_same_estimator(summed_over_stream(field.brax_ppo(0.95)), other, problems=FIXED, **STREAM)


@pytest.mark.costly
@pytest.mark.parametrize("gae_lambda", [1.0, 0.95])
def test_brax_leaves_out_the_step_at_a_time_limit_and_lambda_in_front_of_the_next_advantage(gae_lambda):
    def by_hand(log_prob, behaviour_log_prob, reward, value, next_value, discount, terminated, truncated):
        goes_on, kept = discount * (1 - terminated), 1 - truncated
        delta, trace, advantage = (reward + goes_on * next_value - value) * kept, jnp.zeros(()), []
        for t in reversed(range(len(delta))):
            advantage.insert(0, delta[t] + goes_on[t] * kept[t] * trace)
            trace = delta[t] + goes_on[t] * kept[t] * gae_lambda * trace
        ratio, advantage = jnp.exp(log_prob - behaviour_log_prob), jnp.array(advantage)
        return -jnp.mean(jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage))

    assert_same_estimator(field.brax_ppo(gae_lambda), (by_hand, STREAM), problems=[FIXED, LIMITED], **STREAM)


def test_a_loss_is_compared_with_an_objective_that_it_fits_with_one_sign_on_all_problems():
    """At a time limit brax's mean is turned by 114° from one objective, and by 73° from another: that is the nearer."""
    cases = make_cases(field.brax_ppo(), [default_problems()[i] for i in (0, 3)], **STREAM)
    found = [(case, estimates(case, case.problem.logits, case.at(0.0))) for case in cases]
    objective, _ = choose_objective(found)
    cosines = [make_row(*each, 0.0, objective).cosine for each in found]
    assert cosines == pytest.approx([1.0, 0.287], abs=1e-3)
    assert make_row(*found[1], 0.0, OBJECTIVES[0]).cosine < -0.4


@pytest.mark.costly
def test_rewards_of_the_kl_problems_have_the_gradient_of_the_kl():
    """k1 in the reward is unbiased; of the losses k2 is where an episode is one step, k1 has no gradient at all."""
    problems = field.kl_problems(default_problems()[:3])
    assert_scale(field.k1_in_reward, 1.0, problems=problems)
    assert_scale(partial(field.kl_loss, estimate=field.k2), 1.0, problems=problems[0])
    k1, k3 = (certify(partial(field.kl_loss, estimate=f), problems=problems[0]) for f in (field.k1, field.k3))
    assert k1.scale == (0.0, 0.0) and k3.cosine < 0.995
    assert k3.on_policy[0].mean == pytest.approx(reference_first(problems[0]), abs=1e-12)


def reference_first(problem):
    """−∇KL(π_ref‖π_θ) in the logits of a bandit: π_ref − π_θ."""
    reference, policy = (np.exp(x) / np.exp(x).sum() for x in (problem.reference.ravel(), problem.logits.ravel()))
    return reference - policy


@pytest.mark.slow  # needs the extra "field"
def test_libraries_in_pytorch_and_rejax():
    streams, numpy = [FIXED, VARIED, LIMITED], {"framework": "numpy"}
    for gae_lambda in (1.0, 0.95):
        expected = without_discount_in_front(partial(gae, gae_lambda=gae_lambda), clipped_ratio)
        loss = summed_over_stream(field.stable_baselines3_ppo(gae_lambda))
        assert_same_estimator(loss, expected, problems=streams, **STREAM, **numpy)
    assert_same_estimator(
        field.rejax_ppo(), (field.brax_ppo(normalise=True), STREAM), problems=[FIXED, VARIED], **STREAM
    )
    for name in ("rloo", "dr_grpo"):
        ours = (ALGORITHMS[name](), PADDED)
        assert_same_estimator(field.polgrad_loss(name), ours, problems=[*streams, GROUPED], **field.ROWS)
