"""The proof that ratios may be dropped, step by step, in float64: every bound holds, none can be improved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import MDPS

from pgjax import off_policy_reward_to_go, oracle, product, ratio, reward_to_go, stopped_prefix

pytestmark = pytest.mark.usefixtures("x64")

log_policy = jax.nn.log_softmax
ROUNDING = 1e-14
FORMS = {
    "exact": product(off_policy_reward_to_go, stopped_prefix),
    "prefix": product(reward_to_go, stopped_prefix),
    "suffix": product(off_policy_reward_to_go, ratio),
    "first_order": product(reward_to_go, ratio),
}


def pairs(mdp, count=100):
    """Random pairs of logits, near and far, [4 · count, S, A] each."""
    rng = np.random.default_rng(5)
    theta, direction = rng.normal(size=(2, 4 * count, *mdp.reward.shape))
    scale = np.repeat([0.03, 0.3, 1.0, 5.0], count)[:, None, None]
    return jnp.asarray(theta), jnp.asarray(theta + scale * direction)


def over_pairs(function, mdp):
    """A function of (mdp, log π_θ, log π_θ̄) at every random pair."""
    target, behaviour = (log_policy(x) for x in pairs(mdp))
    return jax.vmap(lambda a, b: function(mdp, a, b))(target, behaviour)


def assert_bounded(result):
    assert np.all(result.measured <= result.bound + ROUNDING)
    assert np.max(result.measured) > 1e-2, "nothing was measured"


def test_the_distance_of_policies():
    table = jnp.array([[[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]], [[0.5, 0.5, 0.0], [0.3, 0.2, 0.5]]])  # [T, S, A]
    other = jnp.array([[0.5, 0.5, 0.0], [0.0, 0.2, 0.8]])
    np.testing.assert_allclose(oracle.policy_distance(jnp.log(table), jnp.log(other)), 0.3, atol=1e-15)


def test_state_laws_drift_apart_within_the_bound(mdp):
    result = over_pairs(oracle.state_mismatch, mdp)
    assert_bounded(result)
    np.testing.assert_array_equal(result.measured[:, 0], 0.0)


def test_the_end_of_an_episode_is_a_state():
    """Action 1 ends the episode: what one policy has lost the other still has."""
    mdp = oracle.make_mdp([1.0], [[[1.0], [0.0]]], [[0.0, 0.0]], horizon=6)
    always, often = (jnp.log(jnp.array([[1.0 - p, p]])) for p in (0.0, 0.1))
    measured, bound = oracle.state_mismatch(mdp, often, always)
    np.testing.assert_allclose(measured, 2 * (1 - 0.9 ** np.arange(6)), atol=ROUNDING)
    np.testing.assert_allclose(bound, measured, atol=ROUNDING)


def test_the_performance_difference_is_an_identity(mdp):
    difference, expected_advantage = over_pairs(oracle.performance_difference, mdp)
    np.testing.assert_allclose(difference, expected_advantage, rtol=0, atol=1e-12)
    assert np.max(np.abs(difference)) > 0.1


def test_a_performance_difference_known_by_hand():
    """J = 1 + p + p² of staying three times with probability p."""
    mdp = oracle.make_mdp([1.0], [[[1.0], [0.0]]], [[1.0, 1.0]], horizon=3)
    difference, _ = oracle.performance_difference(mdp, *(jnp.log(jnp.array([[p, 1.0 - p]])) for p in (0.5, 0.2)))
    np.testing.assert_allclose(difference, 0.3 + 0.21, atol=ROUNDING)


def test_the_value_gap_is_within_its_bound(mdp):
    assert_bounded(over_pairs(oracle.value_gap, mdp))


def test_a_step_with_a_surrogate_above_the_bound_improves(mdp):
    surrogate, gap = over_pairs(oracle.surrogate_value, mdp), over_pairs(oracle.value_gap, mdp)
    difference = over_pairs(oracle.performance_difference, mdp).difference
    sure = surrogate > gap.bound
    assert np.sum(sure) >= 5 and np.all(difference[sure] > 0)
    np.testing.assert_allclose(jnp.abs(difference - surrogate), gap.measured, atol=ROUNDING)


def test_gradient_gaps_are_within_their_bounds(mdp):
    theta, behaviour = pairs(mdp)
    gaps = jax.vmap(lambda a, b: oracle.gradient_gap(mdp, log_policy, a, log_policy(b)))(theta, behaviour)
    for gap in gaps:
        assert_bounded(gap)
    np.testing.assert_allclose(gaps.first_order.bound, 2 * gaps.prefix.bound)


def test_what_the_bounds_are_made_of(mdp):
    """G, ε and A_max by hand, for a tabular softmax: ∇log π(a|s) is the unit vector of a minus π(·|s), in row s."""
    theta, behaviour = (x[-1] for x in pairs(mdp, 1))
    policies = np.exp(log_policy(theta)), np.exp(log_policy(behaviour))
    size = np.linalg.norm(np.eye(theta.shape[1]) - policies[0][:, None], axis=-1)  # [S, A]
    values = [oracle.exact_values(mdp, np.log(pi)) for pi in policies]
    largest = [float(np.abs(v.action_value - v.value[:-1, :, None]).max()) for v in values]
    distance = 0.5 * np.abs(policies[0] - policies[1]).sum(-1).max()
    compounding = 2 * sum(t * mdp.discount**t for t in range(mdp.horizon))
    gaps = oracle.gradient_gap(mdp, log_policy, theta, log_policy(behaviour))
    expected = (policies[0] * size).sum(-1).max() * distance * max(largest) * compounding
    np.testing.assert_allclose([gap.bound for gap in gaps], expected * np.array([1, 1, 2]), rtol=1e-12)
    gap = oracle.value_gap(mdp, *(jnp.log(pi) for pi in policies))
    np.testing.assert_allclose(gap.bound, 2 * distance**2 * largest[1] * compounding, rtol=1e-12)


@pytest.mark.costly
def test_mean_gradients_are_those_of_the_estimators():
    """Dynamic programming against the sum over every trajectory, with a discount and episodes that end early."""
    mdp = MDPS["variable_length"]
    theta, behaviour = (x[-1] for x in pairs(mdp, 1))
    means = oracle.mean_gradients(mdp, log_policy, theta, log_policy(behaviour))
    for name, estimator in FORMS.items():
        sampling = oracle.Sampling(log_policy(behaviour))
        chance, each = oracle.trajectory_estimates(mdp, estimator, log_policy, theta, sampling)
        np.testing.assert_allclose(getattr(means, name), chance @ each, rtol=0, atol=1e-12)


def test_two_equal_policies_have_one_mean_gradient(mdp):
    theta, behaviour = (x[-1] for x in pairs(mdp, 1))
    gradient = np.ravel(oracle.exact_gradient(mdp, log_policy, theta))
    apart = oracle.mean_gradients(mdp, log_policy, theta, log_policy(behaviour))
    np.testing.assert_allclose(apart.exact, gradient, rtol=0, atol=1e-12)
    assert all(np.linalg.norm(mean - gradient) > 1e-2 for mean in apart[1:])
    for mean in oracle.mean_gradients(mdp, log_policy, theta, log_policy(theta)):
        np.testing.assert_allclose(mean, gradient, rtol=0, atol=1e-12)


def test_the_surrogates_gradient_is_the_first_order_mean(mdp):
    theta, behaviour = (x[-1] for x in pairs(mdp, 1))
    slope = jax.grad(lambda x: oracle.surrogate_value(mdp, log_policy(x), log_policy(behaviour)))(theta)
    mean = oracle.mean_gradients(mdp, log_policy, theta, log_policy(behaviour)).first_order
    np.testing.assert_allclose(np.ravel(slope), mean, rtol=0, atol=1e-12)


def slope_of(values, distances):
    return np.polyfit(np.log(distances), np.log(values), 1)[0]


def test_the_value_gap_is_quadratic_and_gradient_gaps_are_linear(mdp):
    """In the measured distance ε, and the bounds with them."""
    theta, direction = (x[-1] for x in pairs(mdp, 1))
    thetas = theta + np.geomspace(1e-4, 3e-3, 6)[:, None, None] * direction
    behaviour = log_policy(theta)
    distances = jax.vmap(lambda x: oracle.policy_distance(log_policy(x), behaviour))(thetas)
    values = jax.vmap(lambda x: oracle.value_gap(mdp, log_policy(x), behaviour))(thetas)
    for side in values:
        np.testing.assert_allclose(slope_of(side, distances), 2.0, atol=0.02)
    gaps = jax.vmap(lambda x: oracle.gradient_gap(mdp, log_policy, x, behaviour))(thetas)
    for side in (side for gap in gaps for side in gap):
        np.testing.assert_allclose(slope_of(side, distances), 1.0, atol=0.02)


@pytest.mark.parametrize("discount", [1.0, 0.8])
@pytest.mark.parametrize("horizon", [2, 9])
def test_no_constant_can_be_improved(horizon, discount):
    """On the worst case measured and bound agree as ε → 0, for every horizon and discount."""
    mdp, epsilon = oracle.worst_case_mdp(horizon, discount), jnp.asarray(1e-5)
    target, behaviour = (oracle.worst_case_policy(x) for x in (epsilon, 0.0))
    np.testing.assert_allclose(oracle.policy_distance(target, behaviour), epsilon, rtol=1e-9)
    states = oracle.state_mismatch(mdp, target, behaviour)
    np.testing.assert_allclose(states.measured, states.bound, rtol=0, atol=ROUNDING)
    gaps = oracle.gradient_gap(mdp, oracle.worst_case_policy, epsilon, behaviour)
    for measured, bound in (oracle.value_gap(mdp, target, behaviour), *gaps):
        np.testing.assert_allclose(measured, bound, rtol=1e-3)
        assert measured <= bound * (1 + 1e-6)  # room for rounding alone: the gap is a difference of values near 1
    steps = horizon * (horizon - 1) if discount == 1.0 else 2 * sum(t * discount**t for t in range(horizon))
    np.testing.assert_allclose(gaps.prefix.bound, 2 * epsilon * steps * (1 + 2 * epsilon), rtol=1e-6)
