"""Every division by a spread, a norm or a sum of weights: where that is 0 but for rounding, and far from 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from pgjax import (
    Config,
    action_advantage,
    baselined,
    baselines,
    diagnostics,
    gae,
    gradients,
    importance,
    make_signals,
    normalise_observations,
    oracle,
    reward_to_go,
    standardised,
    total_return,
    value_estimates,
    vtrace,
    weighted_per_decision,
    weighted_trajectory,
)
from pgjax.estimators import reductions
from pgjax.estimators.groups import group_standardised
from pgjax.estimators.reductions import ENV_AXIS, sum_over_devices
from pgjax.oracle.table import relative_bias
from pgjax.policies.normalisation import merge, no_moments, no_reward_scale, scale_rewards
from pgjax.types import Discrete, Environment, Transition

EQUAL = (0.1, 0.7, 123.4, -123.4, 1e-3, 3.3e7)
BATCH_BASELINES = (baselines.same_batch_mean, baselines.leave_one_out, baselines.time_step)
# The same rewards in another order: their sums differ by rounding (in float32 and in float64), and by nothing else.
REORDERED = np.stack([np.random.default_rng(k).permutation(np.geomspace(0.1, 7.7, 12)) for k in range(9)], axis=1)
FAR = 1e5 + 6 * np.arange(7.0)[None]  # far from 0 and close together; the mean of any six is a float32


def sums_differ(rewards, dtype):
    return len(set(np.add.accumulate(rewards.astype(dtype), axis=0)[-1].tolist())) > 1


@pytest.fixture(params=[False, True], ids=["float32", "float64"])
def precision(request):
    with jax.enable_x64(request.param):
        yield np.float64 if request.param else np.float32


# --- credits ---------------------------------------------------------------------------------------------------------


def of_equal_returns():
    """Credits by name that must be 0 where all trajectories earn the same."""
    plain = {f.__name__: baselined(reward_to_go, f) for f in BATCH_BASELINES}
    whole = {f"total, {f.__name__}": baselined(total_return, f) for f in BATCH_BASELINES}
    return {
        "standardised": standardised(total_return),
        "group_standardised": group_standardised,
        "weighted_trajectory": weighted_trajectory,
        "weighted_per_decision": weighted_per_decision,
        **plain,
        **whole,
        **{f"standardised {name}": standardised(credit) for name, credit in (plain | whole).items()},
    }


CREDITS = of_equal_returns()


@jax.jit
def every_credit(signals):
    return {name: credit(signals) for name, credit in CREDITS.items()}


@jax.jit
def credits_of(reward, mask):
    return every_credit(make_signals(reward, mask=mask))


credits_on_devices = jax.jit(jax.vmap(credits_of, axis_name=ENV_AXIS))


@pytest.mark.costly
@pytest.mark.few(2)
@pytest.mark.parametrize(("steps", "group"), [(1, None), (3, [0, 0, 0, 5, 5, 5, 5])])
def test_equal_returns_say_nothing_of_any_action(precision, steps, group):
    """Seven trajectories, whose sum divided by seven is not what each of them earns."""
    rng = np.random.default_rng(0)
    group = None if group is None else np.array(group)
    for reward in EQUAL:
        log_ratio = 0.5 * rng.normal(size=(steps, 7))
        signals = make_signals(np.full((steps, 7), reward, precision), log_ratio=log_ratio, group=group)
        for name, credit in every_credit(signals).items():
            assert credit.dtype == precision
            np.testing.assert_array_equal(credit, 0.0, err_msg=f"{name}, {reward}")


def test_returns_equal_up_to_rounding_say_nothing_of_any_action(precision):
    assert sums_differ(REORDERED, precision)
    found = credits_of(REORDERED.astype(precision), np.ones(REORDERED.shape))
    for name in ("standardised", "group_standardised", "weighted_trajectory"):
        np.testing.assert_array_equal(found[name], 0.0, err_msg=name)
    for name in CREDITS:
        if "total" in name:
            np.testing.assert_array_equal(found[name], 0.0, err_msg=name)


@pytest.mark.costly
def test_a_small_spread_far_from_0_is_brought_to_1(precision):
    exact = (FAR - FAR.mean()) / FAR.std()
    far = every_credit(make_signals(FAR.astype(precision)))
    for name in ("standardised", "group_standardised", "standardised total, leave_one_out"):
        np.testing.assert_allclose(far[name], exact, rtol=1e-5)
    groups = np.concatenate([FAR, np.full((1, 7), 123.4)], axis=1).astype(precision)
    found = jax.jit(group_standardised)(make_signals(groups, group=np.arange(14) // 7))
    np.testing.assert_allclose(found, [[*exact[0], *[0.0] * 7]], rtol=1e-5)
    uneven = every_credit(make_signals(np.array([[*[2e5] * 6, 2e5 + 1]], precision)))  # their mean is no float
    np.testing.assert_allclose(uneven["standardised"], [[*[-(6**-0.5)] * 6, 6**0.5]], rtol=1e-5)


def test_what_is_not_a_number_stays_so():
    for bad in (np.nan, np.inf):
        found = every_credit(make_signals(np.array([[1.0, bad, *[1.0] * 5]])))
        for name in ("standardised", "group_standardised", "leave_one_out"):
            assert np.isnan(found[name]).any(), (name, bad)


@pytest.mark.costly
def test_no_spread_is_not_a_number_on_the_way():
    """Also where a step is executed by no trajectory, one operation at a time."""
    signals = make_signals(np.array([[1.0, 2.0], [0.0, 0.0]]), mask=np.array([[1, 1], [0, 0]]))
    with jax.debug_nans(True):
        for credit in CREDITS.values():
            credit(signals)


def test_padding_and_absent_trajectories_have_no_part_in_a_spread():
    mask = np.ones((12, 9))
    mask[:, 8] = 0
    reward = np.where(mask > 0, 0.1, 9.0)
    for name, credit in credits_of(reward.astype(np.float32), mask).items():
        if "standardised" not in name or "total" in name:
            np.testing.assert_array_equal(credit[:, :8], 0.0, err_msg=name)
    alone = make_signals(np.array([[3.0, 9.0]]), mask=np.array([[1, 0]]))
    assert baselined(total_return, baselines.leave_one_out)(alone)[0, 0] == 3.0  # no other: no baseline


def test_a_right_critic_leaves_no_advantage(precision):
    """For ever 0.1: V = 0.1 / (1 − γ). The error of one step is rounding, and is not brought to size 1."""
    value = np.full((5, 7), 0.1 / (1 - 0.99), precision)
    signals = make_signals(np.full((5, 7), 0.1, precision), discount=0.99, value=value, next_value=value)
    credits = (gae, vtrace, standardised(gae), standardised(vtrace))
    for found in jax.jit(lambda signals: [credit(signals) for credit in credits])(signals):
        np.testing.assert_array_equal(found, 0.0)
    q = np.float64([[[0.1 + 0.2]], [[0.3]]]).astype(precision)
    one = make_signals(np.zeros((2, 1)), value=np.full((2, 1), 0.3), action_value=q, action=np.zeros((2, 1), int))
    np.testing.assert_array_equal(action_advantage(one), 0.0)
    off = make_signals(
        np.full((1, 2), 1.0, precision), value=np.array([[1e4, 1e4 + 1]]), next_value=np.full((1, 2), 1e4)
    )
    np.testing.assert_array_equal(gae(off), [[1.0, 0.0]])


def test_without_any_weight_there_is_no_credit():
    nowhere = make_signals(np.array([[1.0, 2.0]]), log_ratio=np.full((1, 2), -np.inf))
    for credit in (weighted_trajectory, weighted_per_decision):
        np.testing.assert_array_equal(credit(nowhere), 0.0)
    assert importance.effective_sample_size(jnp.full(3, -jnp.inf)) == 0.0
    np.testing.assert_allclose(importance.effective_sample_size(jnp.log(jnp.full(7, 0.1))), 7.0, rtol=1e-6)


def test_derivatives_are_finite_where_nothing_varies():
    credits = (standardised(total_return), group_standardised, weighted_trajectory)

    @jax.jit
    def slopes(reward):
        return [jax.grad(lambda r, c=c: jnp.sum(c(make_signals(r)) * jnp.arange(7.0)))(reward) for c in credits]

    for found in slopes(jnp.full((1, 7), 123.4)):
        np.testing.assert_array_equal(found, 0.0)
    with jax.enable_x64(True):
        x, z = np.random.default_rng(0).normal(size=(2, 1, 5))
        slope = jax.jit(jax.grad(lambda r: jnp.sum(standardised(total_return)(make_signals(r)) * z)))(x)
        d, s = x - x.mean(), x.std()
        exact = (z - z.mean()) / (s + 1e-8) - d * np.sum(z * d) / (5 * s * (s + 1e-8) ** 2)
        np.testing.assert_allclose(slope, exact, rtol=1e-10)


# --- over devices ----------------------------------------------------------------------------------------------------


@pytest.mark.costly
@pytest.mark.few(3)
@pytest.mark.parametrize("kind", ["equal", "reordered", "far", "random"])
def test_devices_that_share_a_batch_find_the_spread_of_the_whole(precision, kind):
    """Three devices of three trajectories each, against all nine at once; one trajectory does not exist."""
    rng = np.random.default_rng(0)
    rewards = {
        "equal": np.full((12, 9), 123.4),
        "reordered": REORDERED,
        "far": 1e4 + np.arange(108.0).reshape(12, 9) % 5,
        "random": rng.normal(size=(12, 9)),
    }[kind].astype(precision)
    mask = np.ones(rewards.shape)
    mask[:, 4:6] = kind == "equal"
    whole = credits_of(rewards, mask)
    shared = credits_on_devices(*(x.reshape(-1, 3, 3).swapaxes(0, 1) for x in (rewards, mask)))
    for name, credit in shared.items():
        joined = mask * np.asarray(credit).swapaxes(0, 1).reshape(rewards.shape)
        tight = 1e-6 if precision == np.float32 else 1e-12
        alone = mask * np.asarray(whole[name])
        largest = np.abs(alone).max()
        np.testing.assert_allclose(joined, alone, atol=10 * tight * max(1.0, largest), err_msg=name)
        if kind == "equal" or (kind == "reordered" and ("total" in name or name == "standardised")):
            np.testing.assert_array_equal(joined, 0.0, err_msg=name)


@pytest.mark.costly
def test_spreads_are_those_of_numpy_in_every_layout(x64):
    rng = np.random.default_rng(0)
    x, there = 50.0 + rng.normal(size=(4, 6, 2)), (rng.random((4, 6)) < 0.7).astype(float)
    steps = reductions.step_spread(jnp.asarray(x), jnp.asarray(there))
    for k in range(2):
        seen = x[there > 0, k]
        np.testing.assert_allclose([steps.mean[0, 0, k], steps.std()[0, 0, k]], [seen.mean(), seen.std()], rtol=1e-12)
    np.testing.assert_allclose(steps.std(ddof=1)[0, 0, 1], x[there > 0, 1].std(ddof=1), rtol=1e-12)
    group = np.array([3, -1, 3, 40, -1, 3])
    found = reductions.group_spread(jnp.asarray(x[..., 0]), jnp.asarray(there), group)
    for t in range(4):
        for n in range(6):
            seen = x[t, (group == group[n]) & (there[t] > 0), 0]
            expected = [seen.mean(), seen.std()] if len(seen) else [0.0, 0.0]
            np.testing.assert_allclose([found.mean[t, n], found.std()[t, n]], expected, rtol=1e-11, atol=1e-11)
    assert np.isnan(reductions.spread(x[:1]).std(ddof=1)).all()  # one number has no spread of its own


# --- running statistics ----------------------------------------------------------------------------------------------


class Raw:
    """A network that passes its input on."""

    def init(self, key, x):
        return jnp.zeros(())

    def apply(self, params, x):
        return x


def test_observations_that_never_vary_are_0_and_new_ones_are_seen():
    from pgjax import from_networks

    shape = jax.ShapeDtypeStruct((2,), jnp.float32)
    environment = Environment("constant", lambda key: None, lambda *_: None, shape, None, Discrete(2), 1)
    agent = normalise_observations(from_networks(environment, Raw(), None, critic="none"), environment)
    params = agent.init(jax.random.key(0))
    seen = np.stack([np.full((3, 7), 123.4), 1e4 + np.arange(21).reshape(3, 7) % 3], axis=-1)  # one is far, and varies
    for _ in range(3):
        params = agent.observe(params, seen, jnp.ones((3, 7)))
    np.testing.assert_array_equal(params["statistics"].variance[0], 0.0)
    x = jnp.array([[123.4, 1e4], [np.nextafter(np.float32(123.4), np.inf), 1e4 + 1], [124.0, 1e4 + 2]])
    unit = (2 / 3) ** -0.5
    np.testing.assert_allclose(
        agent.policy(params, x).logits, [[0.0, -unit], [0.0, 0.0], [10.0, unit]], rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("reward", [0.1, 123.4, 1e-5])
@pytest.mark.parametrize("streaming", [False, True])
def test_rewards_whose_return_never_varies_keep_their_size(reward, streaming):
    """Where the spread is 0 they were multiplied by 10⁴."""
    ones, ended = np.ones((1, 7)), np.ones((1, 7), bool)
    rows = Transition(None, None, None, np.full((1, 7), reward, np.float32), ended, ~ended, None, ones)
    scale = no_reward_scale(7)
    for _ in range(3):
        scale, scaled = scale_rewards(scale, rows, 0.9, streaming=streaming)
        np.testing.assert_array_equal(scaled.reward, np.float32(reward))
    assert scale.moments.deviations == 0.0 and scale.moments.count == 21


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_rewards_are_scaled_in_any_unit_and_keep_their_type(precision, unit):
    reward = (np.array([[1.0, 3.0]]) * unit).astype(precision)
    ended = np.ones((1, 2), bool)
    rows = Transition(None, None, None, reward, ended, ~ended, None, np.ones((1, 2)))
    scale, scaled = scale_rewards(no_reward_scale(2), rows, 0.9, streaming=True)
    np.testing.assert_allclose(scaled.reward, [[1.0, 3.0]], rtol=1e-6)
    assert scaled.reward.dtype == precision
    narrow = rows._replace(reward=reward.astype(np.float32))
    again, scaled = scale_rewards(scale, narrow, np.float64(0.9), streaming=True)
    assert scaled.reward.dtype == np.float32  # also where the statistics are in float64
    assert [x.dtype for x in jax.tree.leaves(again)] == [x.dtype for x in jax.tree.leaves(scale)]


def test_merged_moments_far_from_0_keep_their_spread():
    moments = no_moments()
    for k in range(5):
        moments = merge(moments, jnp.array([[1e4, 1e4 + 1.0, 1e4 + 2.0]]), jnp.ones((1, 3)))
        np.testing.assert_allclose(moments.std, (2 / 3) ** 0.5, rtol=1e-6, err_msg=str(k))
    assert merge(no_moments(), jnp.full((1, 7), 123.4), jnp.ones((1, 7))).std == 0.0
    assert no_moments().std == 1.0


# --- monitors --------------------------------------------------------------------------------------------------------


def test_gradient_noise_of_equal_gradients():
    """No noise: G² / s² is infinite and no batch too small; nothing at all: 0."""
    same = {"w": jnp.full((7, 3), 123.4), "b": jnp.full((7,), 0.1)}
    noise = diagnostics.gradient_noise(same)
    np.testing.assert_allclose(noise, [0.0, 3 * 123.4**2 + 0.01, np.inf, 0.0], rtol=1e-6)
    rounded = REORDERED.astype(np.float32).sum(axis=0)
    assert len(set(rounded.tolist())) > 1
    np.testing.assert_array_equal(diagnostics.gradient_noise(jnp.asarray(rounded)[:, None]).variance, 0.0)
    nothing = diagnostics.gradient_noise(jnp.zeros((7, 3)))
    np.testing.assert_array_equal(nothing, [0.0, 0.0, 0.0, np.nan])
    assert np.isnan(diagnostics.gradient_noise(jnp.ones((1, 3))).variance)  # of one, nothing can be said


def test_cosine_of_nothing_of_little_and_of_itself():
    zero, small, large = jnp.zeros(3), jnp.array([1e-30, 2e-30, -1e-30]), jnp.array([1e30, 2e30, -1e30])
    assert diagnostics.cosine(zero, large) == diagnostics.cosine(zero, zero) == 0.0
    np.testing.assert_allclose(diagnostics.cosine(small, large), 1.0, rtol=1e-6)
    some = jnp.asarray(np.random.default_rng(0).normal(size=(100, 50)), jnp.float32)
    itself = jax.jit(jax.vmap(lambda x: diagnostics.cosine(x, -x)))(some)
    assert itself.min() >= -1.0
    np.testing.assert_allclose(itself, -1.0, rtol=1e-6)


def test_a_bias_that_is_rounding_has_no_error_and_no_size():
    one = REORDERED.astype(np.float32).sum(axis=0)
    other = REORDERED[::-1].astype(np.float32).sum(axis=0)
    mean, error = diagnostics.bias_probe(jnp.asarray(one), jnp.asarray(np.append(other[1:], other[:1])))
    assert (mean, error) == (0.0, 0.0)
    mean, error = diagnostics.bias_probe(jnp.full(7, 123.4), 0.0)
    assert (mean, error) == (jnp.float32(123.4), 0.0)
    mean, error = diagnostics.bias_probe(jnp.array([1e4 + 1, 1e4 + 3]), jnp.array([1e4, 1e4]))
    np.testing.assert_allclose([mean, error], [2.0, 1.0], rtol=1e-6)


@pytest.mark.costly
@pytest.mark.parametrize("sure", [False, True])
def test_a_score_probe_of_equal_trajectories_says_nothing(sure):
    """Seven times the same action: their scores are equal, whatever they are, and their error is 0."""
    mdp = oracle.make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)
    rows = oracle.as_transition(mdp, oracle.enumerate_trajectories(mdp), jnp.log(jnp.full((1, 2), 0.5)))
    same = jax.tree.map(lambda x: x[:, np.zeros(7, int)], rows)
    agent = oracle.mdp_agent(lambda params: jax.nn.log_softmax(params["policy"]))
    params = {"policy": jnp.array([[20.0, -20.0]]) if sure else jnp.array([[0.3, -0.4]])}
    assert diagnostics.score_probe(agent, params, same, jax.random.key(0)) == 0.0


def test_explained_variance_of_a_constant_and_of_a_right_critic():
    mask = jnp.ones((1, 7))
    for target in EQUAL:
        assert np.isnan(diagnostics.explained_variance(jnp.full((1, 7), target), jnp.zeros((1, 7)), mask))
    rounded = jnp.asarray(REORDERED.astype(np.float32).sum(axis=0))[None]
    assert np.isnan(diagnostics.explained_variance(rounded, jnp.zeros((1, 9)), jnp.ones((1, 9))))
    varying = jnp.asarray(1e4 + np.arange(7.0))[None]
    assert diagnostics.explained_variance(varying, varying * (1 + 1e-7), mask) == 1.0
    np.testing.assert_allclose(diagnostics.explained_variance(varying, varying / 2, mask), 0.75, rtol=1e-5)


def test_branches_of_equal_returns_have_no_error():
    mean, error = diagnostics.mean_and_error(jnp.full((7, 3), 0.1))
    np.testing.assert_array_equal(mean, jnp.full(3, 0.1))
    np.testing.assert_array_equal(error, 0.0)
    assert np.isnan(diagnostics.mean_and_error(jnp.ones((1, 3)))[1]).all()


@pytest.mark.costly
def test_weight_statistics_count_executed_episodes_alone():
    """Of two weights 1.5 and 0.5; a third column without a step is nobody's, and weighs nothing."""
    mdp = oracle.make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)
    rows = oracle.as_transition(mdp, oracle.enumerate_trajectories(mdp), jnp.log(jnp.full((1, 2), 0.5)))
    agent, moved = oracle.mdp_agent(jax.nn.log_softmax), jnp.log(jnp.array([[0.75, 0.25]]))
    third = jax.tree.map(lambda x: jnp.concatenate([x, 0 * x[:, :1]], axis=1), rows)
    for given in (rows, third):
        for mode in ("episodes", "stream"):
            found = diagnostics.weight_statistics(agent, Config(rollout=mode), moved, given)
            names = ("effective_sample_size", "largest_weight_share", "mean_weight")
            np.testing.assert_allclose([found[name] for name in names], [0.8, 0.75, 1.0], rtol=1e-5)
    none = rows._replace(mask=0 * rows.mask)
    assert all(np.isfinite(x) for x in diagnostics.weight_statistics(agent, Config(), moved, none).values())
    assert np.isfinite(diagnostics.score_mean(oracle.mdp_agent(lambda p: p["policy"]), {"policy": moved}, none)).all()


# --- optimal baselines, estimates of values, tables ------------------------------------------------------------------


def test_an_optimal_baseline_stands_on_the_others_alone():
    """Σ − own is rounding where the own is large: the others are summed without it."""
    scores = jnp.array([[3e4], [1.0], [2.0]])
    returns = jnp.array([[5.0], [7.0], [-1.0]])
    found = gradients.optimal_baseline(scores * returns, scores)
    np.testing.assert_allclose(found[0], (7.0 - 4.0) / 5.0, rtol=1e-6)
    per_parameter = gradients.optimal_baseline(scores * returns, scores, per_parameter=True)
    np.testing.assert_allclose(per_parameter, found, rtol=1e-6)
    lone = gradients.optimal_baseline(jnp.array([[5.0], [0.0]]), jnp.array([[0.1], [0.0]]))
    np.testing.assert_allclose(lone, [[0.0], [50.0]], rtol=1e-6)


@jax.jit
def every_estimate(signals):
    return {name: estimate(signals) for name, estimate in value_estimates.VALUE_ESTIMATES.items()}


def test_estimates_of_equal_returns_are_exact(precision):
    """Behind equal weights too; the right critic of one step leaves nothing to estimate behind any weights."""
    for reward in EQUAL:
        q = np.full((1, 7, 1), reward, precision)
        given = {"value": q[..., 0], "action_value": q, "action": np.zeros((1, 7), int)}
        for name, found in every_estimate(make_signals(q[..., 0], log_ratio=np.zeros((1, 7)), **given)).items():
            assert found.mean == found.low == found.high == precision(reward) and found.standard_error == 0.0, name
        right = every_estimate(make_signals(q[..., 0], log_ratio=np.full((1, 7), 0.3), **given))["doubly_robust"]
        assert right[:2] == (precision(reward), 0.0)


def test_estimates_far_from_0_keep_their_intervals():
    error = FAR.std(ddof=1) / 7**0.5
    exact = stats.t.interval(0.95, 6, loc=1e5 + 18, scale=error)
    given = {"action_value": np.zeros((1, 7, 1)), "action": np.zeros((1, 7), int)}
    every = every_estimate(make_signals(FAR, log_ratio=np.zeros((1, 7)), **given))
    for name, found in every.items():
        np.testing.assert_allclose(found.standard_error, error, rtol=1e-4, err_msg=name)
        np.testing.assert_allclose([found.low, found.high], exact, rtol=1e-6, err_msg=name)
    reordered = value_estimates.trajectory(make_signals(REORDERED.astype(np.float32)))
    assert reordered.standard_error == 0.0


def test_estimates_of_one_trajectory_have_no_error_and_of_no_weight_no_value():
    alone = value_estimates.trajectory(make_signals(np.ones((1, 2)), mask=np.array([[1, 0]])))
    assert alone.mean == 1.0 and np.isnan(alone.standard_error)
    nowhere = make_signals(np.ones((1, 2)), log_ratio=np.full((1, 2), -np.inf))
    assert np.isnan(value_estimates.weighted_trajectory(nowhere).mean)
    unweighted = value_estimates.trajectory(nowhere)
    assert unweighted.mean == 0.0 and unweighted.effective_sample_size == 0.0


def test_a_bias_relative_to_no_gradient_is_not_given(x64):
    """Every action earns 0.1: ∇J is 0 up to rounding, and no bias is relative to it."""
    mdp = oracle.make_mdp([1.0], [[[0.0], [0.0], [0.0]]], [[0.1, 0.1, 0.1]], horizon=1)
    gradient = jnp.ravel(oracle.exact_gradient(mdp, jax.nn.log_softmax, jnp.array([[0.3, -0.1, 0.9]])))
    assert jnp.abs(gradient).max() > 0.0  # rounding
    assert relative_bias(gradient + 1e-3, gradient, mdp) is None
    np.testing.assert_allclose(relative_bias(jnp.array([0.0, 3e-9]), jnp.array([0.0, 2e-9]), mdp), 0.5)


def test_a_tree_is_summed_over_devices_in_one_sum_per_dtype():
    """Each sum is a wait; leaf by leaf, two devices that shared a gradient waited for 40 of 220 ms."""
    tree = {
        "weights": jnp.arange(12.0).reshape(2, 3, 2),
        "count": jnp.array([3, 4]),
        "bias": (jnp.array([0.5, 0.25]), jnp.array([[1], [2]])),
        "nothing": None,
    }
    summed = jax.vmap(sum_over_devices, axis_name=ENV_AXIS, out_axes=None)(tree)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(y, x.sum(axis=0)), tree, summed)
    assert jax.tree.map(jnp.result_type, summed) == jax.tree.map(jnp.result_type, tree)
    program = jax.make_jaxpr(sum_over_devices, axis_env=[(ENV_AXIS, 2)])(jax.tree.map(lambda x: x[0], tree))
    assert [len(each.invars) for each in program.eqns if each.primitive.name == "psum"] == [1, 1]
