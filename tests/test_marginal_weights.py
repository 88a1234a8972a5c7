"""Marginal importance sampling: exact means by enumeration, variances by two computations, growth with the horizon."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import MDPS
from test_value_estimates import critics, enumerated, policies

from pgjax import SettingError, make_signals, oracle, value_estimates
from pgjax.estimators import marginal_weights

pytestmark = pytest.mark.usefixtures("x64")


def along(mdp, ratios):
    listed = oracle.enumerate_trajectories(mdp)
    return jnp.asarray(ratios)[np.arange(mdp.horizon)[:, None], listed.state]


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_means_and_variances_over_every_trajectory(mdp, scale):
    target, behaviour = policies(mdp, scale)
    exact = float(oracle.exact_values(mdp, target).objective)
    right, wrong = oracle.state_ratios(mdp, target, behaviour), np.full((mdp.horizon, len(mdp.initial)), 0.7)
    for kind, critic in critics(mdp, target).items():
        signals, chance = enumerated(mdp, target, behaviour, critic)
        double = marginal_weights.double_values(signals, along(mdp, right))
        np.testing.assert_allclose(chance @ double, exact, atol=1e-12, err_msg=kind)
    signals, chance = enumerated(mdp, target, behaviour, critics(mdp, target)["right"])  # doubly robust: wrong ratios
    np.testing.assert_allclose(chance @ marginal_weights.double_values(signals, along(mdp, wrong)), exact, atol=1e-12)
    each = {
        "marginal": np.asarray(marginal_weights.marginal_values(signals, along(mdp, right))),
        "per_decision": np.asarray(value_estimates.per_decision_values(signals)),
    }
    by_programme = {"marginal": oracle.marginal_variance, "per_decision": oracle.per_decision_variance}
    for name, x in each.items():
        np.testing.assert_allclose(chance @ x, exact, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(chance @ (x - exact) ** 2, by_programme[name](mdp, target, behaviour), rtol=1e-9)


def test_variance_is_exponential_in_the_horizon_per_decision_and_polynomial_with_marginal_weights():
    target, behaviour = policies(MDPS["fixed_length"], 1.0)
    horizons = np.array([20, 40, 80])
    long = [oracle.make_mdp(*tables(MDPS["fixed_length"]), int(h)) for h in horizons]
    slow, fast = (
        np.log([float(variance(mdp, target, behaviour)) for mdp in long])
        for variance in (oracle.per_decision_variance, oracle.marginal_variance)
    )
    assert np.diff(slow)[1] > 1.8 * np.diff(slow)[0] > 1  # log variance is linear in T: twice the steps, twice as much
    assert np.all(np.diff(fast) / np.log(2) < 2.2)  # at most T²


def tables(mdp):
    return mdp.initial, mdp.transition, mdp.reward


@pytest.mark.costly
def test_counted_ratios_become_the_exact_ones():
    mdp = MDPS["variable_length"]
    target, behaviour = policies(mdp, 0.5)
    signals, chance = enumerated(mdp, target, behaviour)
    chosen = np.random.default_rng(0).choice(len(chance), size=20_000, p=chance / chance.sum())
    drawn = jax.tree.map(lambda x: np.asarray(x)[:, chosen], signals)
    state = oracle.enumerate_trajectories(mdp).state[:, chosen]
    counted = np.asarray(marginal_weights.counted_state_ratios(drawn, state, len(mdp.initial)))
    exact = np.asarray(along(mdp, oracle.state_ratios(mdp, target, behaviour)))[:, chosen]
    there = np.asarray(drawn.mask) > 0
    np.testing.assert_allclose(counted[there], exact[there], rtol=0.06)
    estimate = marginal_weights.marginal(drawn, jnp.asarray(counted))
    assert abs(float(estimate.mean) - float(oracle.exact_values(mdp, target).objective)) < 0.03


def test_ratios_of_another_shape_and_missing_critics_are_refused():
    signals = make_signals(jnp.ones((3, 4)))
    with pytest.raises(SettingError, match=r"^state_ratio: \(3, 1\) .*expected \(3, 4\)"):
        marginal_weights.marginal(signals, jnp.ones((3, 1)))
    with pytest.raises(SettingError, match="^taken_value: None is missing"):
        marginal_weights.double(signals, jnp.ones((3, 4)))


# --- lower bounds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_the_lower_bound_is_above_the_value_no_more_often_than_it_says(mdp, confidence):
    target, behaviour = policies(mdp, 1.0)
    signals, chance = enumerated(mdp, target, behaviour)
    weight = np.exp(np.sum(np.asarray(signals.log_ratio), axis=0))
    np.testing.assert_allclose(chance @ weight**2, oracle.weight_second_moment(mdp, target, behaviour), rtol=1e-10)
    exact = float(oracle.exact_values(mdp, target).objective)
    estimate = np.asarray(value_estimates.trajectory_values(signals))
    penalty = float(oracle.pois_penalty(mdp, target, behaviour, 1, confidence))
    assert chance @ (estimate - penalty > exact) <= 1 - confidence
    assert chance @ (estimate - exact) ** 2 <= oracle.largest_return(mdp) ** 2 * (chance @ weight**2)


def test_searching_the_bound_improves_the_value_and_goes_farther_with_more_data(mdp):
    start = jnp.asarray(policies(mdp, 1.0)[1])

    def found(trajectories):
        theta = oracle.pois_search(mdp, jax.nn.log_softmax, start, trajectories, steps=200)
        return float(oracle.exact_values(mdp, jax.nn.log_softmax(theta)).objective)

    before, few, many = float(oracle.exact_values(mdp, start).objective), found(100), found(100_000)
    assert before < few < many


def test_surrogates_of_a_batch_against_loops():
    """Shares for a batch; the ratio's mean over the probabilities is J; the clipped one is PPO's, step by step."""
    mdp = MDPS["variable_length"]
    target, behaviour = policies(mdp, 1.0)
    listed = oracle.enumerate_trajectories(mdp)
    chance = np.asarray(oracle.trajectory_probability(mdp, listed, behaviour))
    exact = oracle.exact_values(mdp, target).objective
    np.testing.assert_allclose(oracle.ratio_surrogate(mdp, listed, target, behaviour, chance), exact, atol=1e-12)
    batch = [0, 3, 3, len(chance) - 1, len(chance) // 2]
    share = np.bincount(batch, minlength=len(chance)) / len(batch)
    rows = [[(listed.state[t, n], listed.action[t, n]) for t in range(mdp.horizon) if listed.mask[t, n]] for n in batch]

    def to_go(row, t):
        return sum(mdp.discount**u * mdp.reward[row[u]] for u in range(t, len(row)))

    ratio = clipped = 0.0
    for row in rows:
        rho = [np.exp(target[x] - behaviour[x]) for x in row]
        ratio += np.prod(rho) * to_go(row, 0) / len(batch)
        for t in range(len(row)):
            others = [to_go(other, t) for other in rows if t < len(other)]
            credit = to_go(row, t) - np.mean(others)
            clipped += min(rho[t] * credit, np.clip(rho[t], 0.8, 1.2) * credit) / len(batch)
    np.testing.assert_allclose(oracle.ratio_surrogate(mdp, listed, target, behaviour, share), ratio, atol=1e-12)
    np.testing.assert_allclose(oracle.clipped_surrogate(mdp, listed, target, behaviour, share), clipped, atol=1e-12)


def test_the_bound_of_a_searched_policy_holds_over_every_batch_less_often_than_that_of_a_chosen_one():
    """The theorem is about policies that the batch has not chosen; exactly, over all batches of two pulls."""
    bandit = oracle.make_mdp([1.0], np.zeros((1, 4, 1)), [[1.0, 0.5, -0.5, -1.0]], horizon=1)
    listed, start, confidence = oracle.enumerate_trajectories(bandit), jnp.zeros((1, 4)), 0.3
    behaviour = jax.nn.log_softmax(start)

    def bound(theta, share):
        target = jax.nn.log_softmax(theta)
        estimate = oracle.ratio_surrogate(bandit, listed, target, behaviour, share)
        return estimate - oracle.pois_penalty(bandit, target, behaviour, 2, confidence)

    @jax.jit
    def held(share):
        searched = oracle.ascend(lambda x: bound(x, share), start, 100, 0.2)
        chosen = oracle.pois_search(bandit, jax.nn.log_softmax, start, 2, confidence, 100, 0.2)
        worth = [oracle.exact_values(bandit, jax.nn.log_softmax(x)).objective for x in (chosen, searched)]
        return [j >= bound(x, share) for j, x in zip(worth, (chosen, searched), strict=True)]

    shares = [np.bincount(pair, minlength=4) / 2 for pair in np.ndindex(4, 4)]
    chosen, searched = np.mean([held(share) for share in shares], axis=0)
    assert searched < chosen and chosen >= confidence


def test_a_confidence_that_is_none_is_refused():
    mdp = MDPS["one_state"]
    target, behaviour = policies(mdp, 1.0)
    with pytest.raises(SettingError, match=r"^confidence: 95 must lie in \(0, 1\)"):
        oracle.pois_penalty(mdp, target, behaviour, 10, 95)
