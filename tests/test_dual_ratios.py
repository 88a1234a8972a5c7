"""Dual ratios and emphatic weights: exact on a batch in which every trajectory is as frequent as it is likely."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import MDPS
from test_value_estimates import critics, draw, enumerated, policies

from pgjax import SettingError, make_signals, oracle, value_estimates
from pgjax.estimators import dual_ratios, emphatic_weights, marginal_weights

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(4)
TIMED = oracle.make_mdp(  # cut by its horizon, some episodes end before; probabilities are quarters
    [0.5, 0.5], [[[0.25, 0.5], [0.5, 0.5]], [[0.75, 0.0], [0.25, 0.25]]], RNG.normal(size=(2, 2)), 3, 0.9
)
ENDING = oracle.make_mdp(  # layers 01, 23, 4, the second may be skipped: episodes end by themselves in three steps
    [0.25, 0.75, 0, 0, 0],
    np.array(
        [[[0, 0, 0.25, 0.5, 0], [0, 0, 0.75, 0.25, 0]], [[0, 0, 0.5, 0.5, 0], [0, 0, 0, 0.25, 0.5]]]
        + [[[0, 0, 0, 0, 0.5], [0, 0, 0, 0, 1.0]]] * 2
        + [[[0.0] * 5] * 2]
    ),
    RNG.normal(size=(5, 2)),
    3,
    0.8,
)


def population(mdp):
    """A batch whose frequencies are the probabilities, of a behaviour policy with halves; its states and policies."""
    behaviour = np.full(mdp.reward.shape, np.log(0.5))
    target = policies(mdp, 1.0)[0]
    signals, chance = enumerated(mdp, target, behaviour)
    frequency = chance * 2**12
    np.testing.assert_allclose(frequency, np.round(frequency), atol=1e-9)
    members = np.repeat(np.arange(len(chance)), np.round(frequency).astype(int))
    listed = oracle.enumerate_trajectories(mdp)
    batch = jax.tree.map(lambda x: jnp.asarray(x)[:, members], signals)
    return batch, listed.state[:, members], listed.action[:, members], target, behaviour


def tables(mdp, state, action, target):
    """One-hot features of states, and of states and actions with their mean over the target's actions."""
    states, actions = mdp.reward.shape
    of_state = jax.nn.one_hot(state, states, dtype=float)
    taken = jax.nn.one_hot(state * actions + action, states * actions, dtype=float)
    mean = (of_state[..., None] * jnp.exp(target)[state][..., None, :]).reshape(taken.shape)
    return {"states": (of_state, None), "actions": (taken, mean)}


@pytest.mark.costly
@pytest.mark.parametrize(
    ("kind", "stationary", "emphatic"),
    [
        ("states", False, False),
        ("actions", True, False),
        pytest.param("states", True, False, marks=pytest.mark.slow),
        pytest.param("actions", False, False, marks=pytest.mark.slow),
        pytest.param("states", True, True, marks=pytest.mark.slow),
    ],
)
def test_tables_give_exact_ratios_values_and_variances(kind, stationary, emphatic):
    mdp = ENDING if stationary else TIMED
    signals, state, action, target, behaviour = population(mdp)
    features, expected = tables(mdp, state, action, target)[kind]
    unknown = signals._replace(log_ratio=jnp.zeros_like(signals.log_ratio))
    blind = unknown if kind == "actions" else signals  # tables of actions do not ask for the behaviour policy
    weights = emphatic_weights.followon_trace(signals) if emphatic else None
    exact = oracle.exact_values(mdp, target)
    fitted = dual_ratios.fit_dual(blind, features, expected, weights, stationary)
    np.testing.assert_allclose(jnp.mean(jnp.sum(fitted.weight * signals.reward, axis=0)), exact.objective, atol=1e-12)
    estimate = dual_ratios.dual(blind, features, expected, weights, stationary)
    np.testing.assert_allclose(estimate.mean, exact.objective, atol=1e-12)
    there, time = np.asarray(signals.mask) > 0, np.arange(mdp.horizon)[:, None]
    np.testing.assert_allclose(fitted.value[there], np.asarray(exact.value)[time, state][there], atol=1e-12)
    if not emphatic:
        ratio = oracle.state_ratios(mdp, target, behaviour)
        if stationary:  # of the discounted sums over time: a state of the last layer may be reached early
            here, far = (mdp.discount**time.T @ oracle.exact_values(mdp, x).state_law for x in (target, behaviour))
            ratio = jnp.broadcast_to(here / far, ratio.shape)
        along = ratio[time, state]
        along = along * np.exp(signals.log_ratio) if kind == "actions" else along
        np.testing.assert_allclose(fitted.state_ratio[there], along[there], atol=1e-12)
    if not emphatic and not stationary:
        each = dual_ratios.dual_values(blind, fitted)
        expected_variance = oracle.dual_variance(mdp, target, behaviour, of_actions=kind == "actions")
        np.testing.assert_allclose(jnp.var(each), expected_variance, rtol=1e-12)


@pytest.mark.costly
@pytest.mark.parametrize(("stationary", "emphatic"), [(False, True), (True, False)])
def test_weights_and_values_give_one_estimate_whatever_the_features(stationary, emphatic):
    mdp = MDPS["fixed_length"]
    target, behaviour = policies(mdp, 1.0)
    signals = jax.tree.map(jnp.asarray, draw(*enumerated(mdp, target, behaviour), 40))
    features = np.random.default_rng(8).normal(size=(*signals.reward.shape, 3))
    weights = emphatic_weights.followon_trace(signals) if emphatic else None
    fitted = dual_ratios.fit_dual(signals, features, emphasis=weights, stationary=stationary)
    by_weights = jnp.mean(jnp.sum(fitted.weight * signals.reward, axis=0))
    np.testing.assert_allclose(by_weights, jnp.mean(fitted.value[0]), rtol=1e-9)
    np.testing.assert_allclose(
        jnp.mean(dual_ratios.dual_values(signals, fitted, weights)), jnp.mean(fitted.value[0]), rtol=1e-9
    )


@pytest.mark.costly
@pytest.mark.parametrize("stationary", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_interval_knows_what_each_trajectory_moves(stationary):
    """One more copy of a trajectory moves the estimate by (its value − the estimate)/N, to first order."""
    signals, state, *_ = population(TIMED)
    features = jax.nn.one_hot(state, 2, dtype=float)

    def mean(s, f):
        return float(dual_ratios.dual(s, f, stationary=stationary).mean)

    fitted = dual_ratios.fit_dual(signals, features, stationary=stationary)
    each, count = np.asarray(dual_ratios.dual_values(signals, fitted)), signals.reward.shape[1]
    for n in (0, 1500, 4000):
        more, other = (
            jax.tree.map(lambda x, n=n: jnp.concatenate([x, x[:, n : n + 1]], axis=1), x) for x in (signals, features)
        )
        moved = (mean(more, other) - mean(signals, features)) * (count + 1)
        assert moved == pytest.approx(each[n] - each.mean(), abs=0.02)
        assert abs(each[n] - each.mean()) > 0.05


@pytest.mark.costly
def test_interest_at_the_start_alone_is_per_decision():
    mdp = MDPS["variable_length"]
    target, behaviour = policies(mdp, 1.0)
    signals = jax.tree.map(jnp.asarray, draw(*enumerated(mdp, target, behaviour), 30))
    start = jnp.zeros_like(signals.reward).at[0].set(1.0)
    expected = value_estimates.per_decision(signals).mean
    np.testing.assert_allclose(
        emphatic_weights.emphatic_values(signals, start), value_estimates.per_decision_values(signals), atol=1e-12
    )
    features = jnp.concatenate([jnp.ones((*start.shape, 1)), RNG.normal(size=(*start.shape, 1))], axis=-1)
    for stationary in (False, True):
        found = emphatic_weights.emphatic(signals, features, interest=start, stationary=stationary).mean
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_trace_weighs_states_as_the_target_visits_them(mdp):
    target, behaviour = policies(mdp, 1.0)
    signals, chance = enumerated(mdp, target, behaviour)
    state = oracle.enumerate_trajectories(mdp).state
    rng = np.random.default_rng(2)
    interest = rng.uniform(size=(mdp.horizon, len(mdp.initial)))
    at_start = np.eye(mdp.horizon)[0][:, None] * np.ones_like(interest)
    time = np.arange(mdp.horizon)[:, None]
    for given in (interest, at_start):
        along = jnp.asarray(given[time, state])
        trace = np.asarray(emphatic_weights.followon_trace(signals, along))
        law = np.einsum("tm,m,tms->ts", trace, chance, np.eye(len(mdp.initial))[state])
        np.testing.assert_allclose(law, oracle.emphatic_law(mdp, target, behaviour, given), atol=1e-12)
        mean, variance = oracle.emphatic_moments(mdp, target, behaviour, given)
        each = np.asarray(emphatic_weights.emphatic_values(signals, along))
        np.testing.assert_allclose(chance @ each, mean, atol=1e-12)
        np.testing.assert_allclose(chance @ (each - mean) ** 2, variance, rtol=1e-11)
        values = oracle.exact_values(mdp, target).value[:-1]  # the excursion objective
        visits = given * oracle.exact_values(mdp, behaviour).state_law
        np.testing.assert_allclose(mean, np.sum(visits * values), atol=1e-12)
    factor = mdp.discount ** np.arange(mdp.horizon)[:, None]  # now at the start: the target's law itself
    np.testing.assert_allclose(law, factor * oracle.exact_values(mdp, target).state_law, atol=1e-12)
    np.testing.assert_allclose(variance, oracle.per_decision_variance(mdp, target, behaviour), rtol=1e-11)


def test_emphasis_lies_between_interest_and_trace():
    signals = make_signals(jnp.ones((3, 4)), log_ratio=RNG.normal(size=(3, 4)), discount=0.9)
    interest = RNG.uniform(size=(3, 4))
    trace = np.zeros((3, 4))
    trace[0] = interest[0]
    for t in (1, 2):
        trace[t] = interest[t] + 0.9 * np.exp(signals.log_ratio[t - 1]) * trace[t - 1]
    np.testing.assert_allclose(emphatic_weights.followon_trace(signals, interest), trace, rtol=1e-12)
    for decay in (0.0, 0.3, 1.0):
        expected = decay * interest + (1 - decay) * trace
        np.testing.assert_allclose(emphatic_weights.emphasis(signals, interest, decay), expected, rtol=1e-12)


def test_wrong_shapes_and_numbers_are_refused():
    signals = make_signals(jnp.ones((3, 4)))
    with pytest.raises(SettingError, match=r"^features: \(3, 1, 2\) .*must be \(3, 4\) and the number of features"):
        dual_ratios.dual(signals, jnp.ones((3, 1, 2)))
    with pytest.raises(SettingError, match=r"^expected: \(3, 4, 1\)"):
        dual_ratios.dual(signals, jnp.ones((3, 4, 2)), jnp.ones((3, 4, 1)))
    with pytest.raises(SettingError, match=r"^emphasis: \(3,\)"):
        dual_ratios.dual(signals, jnp.ones((3, 4, 2)), emphasis=jnp.ones(3))
    with pytest.raises(SettingError, match=r"^trace_decay: 1.5 must lie in \[0, 1\]"):
        emphatic_weights.emphasis(signals, trace_decay=1.5)


@pytest.mark.costly
def test_double_robustness_with_dual_ratios_and_any_critic():
    """On the whole population: right ratios with a wrong critic are exact."""
    signals, state, action, target, _ = population(TIMED)
    wrong = critics(TIMED, target)["wrong"][np.arange(3)[:, None], state]
    fitted = dual_ratios.fit_dual(signals, jax.nn.one_hot(state, 2, dtype=float))
    value = jnp.sum(jnp.exp(target)[state] * wrong, axis=-1) * signals.mask
    taken = jnp.take_along_axis(wrong, action[..., None], axis=-1)[..., 0] * signals.mask
    judged = signals._replace(value=value, taken_value=taken, action_value=jnp.asarray(wrong))
    exact = oracle.exact_values(TIMED, target).objective
    np.testing.assert_allclose(marginal_weights.double(judged, fitted.state_ratio).mean, exact, atol=1e-12)
