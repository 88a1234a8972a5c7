"""The door of the estimators: what fits becomes floats of one type, what does not is refused in one line."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax import (
    FORMS,
    VALUE_ESTIMATES,
    SettingError,
    action_advantage,
    all_action,
    baselined,
    baselines,
    clipped_ratio,
    discounted_objective,
    doubly_robust,
    gae,
    lambda_return,
    linear_recurrence,
    make_signals,
    off_policy_reward_to_go,
    prefix_product,
    reward_to_go,
    standardised,
    surrogate_loss,
    td_error,
    total_return,
    vtrace,
    vtrace_target,
    weighted_per_decision,
    weighted_trajectory,
)
from pgjax.estimators import importance
from pgjax.estimators.clipping import clipped_between, clipped_weight, dual_clipped_ratio
from pgjax.estimators.delight import delightful
from pgjax.estimators.exponential_weights import better_half, exponential
from pgjax.estimators.groups import dynamically_sampled, group_standardised
from pgjax.estimators.lengths import divided, longest_length, mean_length, own_length
from pgjax.estimators.returns import discounted_reward
from pgjax.estimators.sequence_ratios import clipped_sequence_ratio, clipped_sequence_ratio_per_step

T, N, A = 3, 4, 2
REWARD = np.arange(12.0).reshape(T, N)
Q, ACTION = np.ones((T, N, A)), np.ones((T, N), int)

MISFITS = {
    "reward, a number": ({"reward": 1.0}, r"reward: \(\) .*at least one step"),
    "reward of no step": ({"reward": np.ones((0, N))}, r"reward: \(0, 4\) .*at least one step"),
    "reward, complex": ({"reward": REWARD * 1j}, "reward: 'complex64' is the wrong type; expected real numbers"),
    "mask [N]": ({"mask": np.ones(N)}, r"mask: \(4,\) is the wrong shape; expected \(3, 4\)"),
    "mask [T, 1]": ({"mask": np.ones((T, 1))}, r"mask: \(3, 1\) is the wrong shape; expected \(3, 4\)"),
    "terminated [T]": ({"terminated": np.zeros(T, bool)}, r"terminated: \(3,\) is the wrong shape; .*\(3, 4\)"),
    "truncated [1, N]": ({"truncated": np.zeros((1, N))}, r"truncated: \(1, 4\) is the wrong shape; .*\(3, 4\)"),
    "value [T, N, 1]": ({"value": np.ones((T, N, 1))}, r"value: \(3, 4, 1\) is the wrong shape; .*\(3, 4\)"),
    "next_value [T + 1, N]": ({"next_value": np.ones((T + 1, N))}, r"next_value: \(4, 4\) is the wrong shape"),
    "log_ratio [N, T]": ({"log_ratio": np.ones((N, T))}, r"log_ratio: \(4, 3\) is the wrong shape"),
    "discount [T]": ({"discount": np.ones(T)}, r"discount: \(3,\) .* expected \(3, 4\) or \(4,\) or \(3, 1\)"),
    "discount [1, N]": ({"discount": np.ones((1, N))}, r"discount: \(1, 4\) is the wrong shape"),
    "group too short": ({"group": [0, 0, 1]}, r"group: \(3,\) is the wrong shape; expected \(4,\) or \(3, 4\)"),
    "group, floats": ({"group": np.ones(N)}, "group: 'float.*' is the wrong type; expected integers"),
    "group of steps": (
        {"reward": np.ones(T), "group": np.zeros(T, int)},
        r"reward: \(3,\) .*groups need trajectories",
    ),
    "elapsed [T, 1]": ({"elapsed": np.ones((T, 1))}, r"elapsed: \(3, 1\) is the wrong shape; .*\(4,\)"),
    "action alone": ({"action": ACTION}, r"action: \(3, 4\) .*action_value, which alone uses it"),
    "action_value alone": ({"action_value": Q}, r"action_value: \(3, 4, 2\) .*needs action"),
    "action_value [T, N]": ({"action_value": Q[..., 0], "action": ACTION}, r"action_value: .*expected \(3, 4, A\)"),
    "action_value [N, A]": ({"action_value": Q[0], "action": ACTION}, r"action_value: \(4, 2\) .*\(3, 4, A\)"),
    "action [T, N, 1]": ({"action_value": Q, "action": ACTION[..., None]}, r"action: \(3, 4, 1\) is the wrong shape"),
    "action, floats": ({"action_value": Q, "action": 1.0 * ACTION}, "action: 'float.*' .*expected integers"),
    "truncation": ({"truncation": "end"}, "truncation: 'end' is neither"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_refused_in_one_line(name):
    given, line = MISFITS[name]
    with pytest.raises(SettingError, match=f"^{line}") as refused:
        make_signals(**{"reward": REWARD} | given)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["mask [N]", "group too short", "action alone"])
def test_a_misfit_is_refused_while_tracing_too(name):
    given, line = MISFITS[name]
    with pytest.raises(SettingError, match=f"^{line}"):
        jax.eval_shape(lambda given: make_signals(REWARD, **given), {k: jnp.asarray(v) for k, v in given.items()})


def test_numbers_stand_for_whole_arrays():
    signals = make_signals(
        REWARD, mask=1, terminated=False, discount=0.5, value=2, next_value=3.0, log_ratio=0, elapsed=2
    )
    assert {x.shape for x in jax.tree.leaves(signals)} == {(T, N)}
    np.testing.assert_array_equal(signals.value, 2.0)
    np.testing.assert_array_equal(signals.continues, 1.0)


@pytest.mark.parametrize("dtype", [int, bool, np.uint8, np.int32])
def test_whole_numbers_and_flags_become_floats(dtype):
    """Of a reward in whole numbers, and of a float one beside flags and values in whole numbers."""
    rng = np.random.default_rng(0)
    reward, mask, ends, value = (rng.integers(0, 2, (T, N)) for _ in range(4))
    given = {"mask": mask, "terminated": ends, "value": value, "next_value": value, "log_ratio": value}
    whole = make_signals(reward.astype(dtype), **{k: v.astype(dtype) for k, v in given.items()}, discount=0.9)
    floats = make_signals(
        reward.astype(np.float32), **{k: v.astype(np.float32) for k, v in given.items()}, discount=0.9
    )
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(floats), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_array_equal(a, b)


def test_a_recurrence_of_whole_numbers_is_not_rounded_down():
    np.testing.assert_array_equal(linear_recurrence(np.ones(3, int), 0.5, reverse=True), [1.75, 1.5, 1.0])
    np.testing.assert_array_equal(linear_recurrence(np.array([True, True]), np.array([1, 1])), [1.0, 2.0])
    np.testing.assert_allclose(importance.weight(1), np.e, rtol=1e-6)


BATCH_BASELINES = (baselines.same_batch_mean, baselines.leave_one_out, baselines.time_step)
CREDITS = {
    **{f.__name__: f for f in (total_return, reward_to_go, discounted_reward, off_policy_reward_to_go)},
    **{f.__name__: f for f in (td_error, gae, lambda_return, vtrace, vtrace_target, action_advantage)},
    **{f.__name__: f for f in (weighted_trajectory, weighted_per_decision, group_standardised)},
    **{f.__name__: baselined(reward_to_go, f) for f in (*BATCH_BASELINES, baselines.state_value, baselines.constant)},
    "standardised": standardised(gae),
    "divided by own": divided(group_standardised, own_length),
    "divided by mean": dynamically_sampled(divided(group_standardised, mean_length)),
    "divided by longest": divided(total_return, longest_length),
    "exponential": exponential(gae),
    "better_half": better_half(gae),
    "delightful": delightful(gae),
    "discounted": lambda signals: gae(discounted_objective(signals)),
}


def full(dtype, grouped):
    one = np.ones((T, N), dtype)
    group = np.arange(N) // 2 if grouped else None
    return make_signals(
        one,
        discount=0.9,
        value=one,
        next_value=one,
        log_ratio=one,
        action_value=Q,
        action=ACTION,
        group=group,
        elapsed=2,
        behaviour_log_prob=-one,
        reference_log_prob=-one,
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("grouped", [False, True])
def test_credits_surrogates_and_estimates_keep_the_type_of_the_reward(x64, dtype, grouped):
    """Traced alone: also float32 where float64 is enabled, and whatever type other arrays have."""
    shapes = jax.eval_shape(partial(full, dtype, grouped))
    assert {x.dtype for name, x in shapes._asdict().items() if name != "group"} == {np.dtype(dtype)}
    for name, credit in CREDITS.items():
        found = jax.eval_shape(credit, shapes)
        assert (found.shape, found.dtype) == ((T, N), dtype), name
    surrogates = [surrogate for _, surrogate in FORMS.values()]
    surrogates += [clipped_between, dual_clipped_ratio, clipped_weight]
    surrogates += [clipped_sequence_ratio, clipped_sequence_ratio_per_step]
    for surrogate in (*surrogates, clipped_ratio, prefix_product):
        found = jax.eval_shape(surrogate, shapes.log_ratio, shapes.reward, shapes.continues)
        assert (found.shape, found.dtype) == ((T, N), dtype), surrogate
    assert jax.eval_shape(surrogate_loss, shapes.log_ratio, shapes.reward, shapes.mask).dtype == dtype
    for estimator in (doubly_robust(), all_action()):
        assert {x.dtype for x in jax.tree.leaves(jax.eval_shape(estimator.credit, shapes))} == {np.dtype(dtype)}
    if not grouped:
        for name, estimate in VALUE_ESTIMATES.items():
            assert {x.dtype for x in jax.tree.leaves(jax.eval_shape(estimate, shapes))} == {np.dtype(dtype)}, name


def test_a_loss_of_other_shapes_is_refused():
    log_prob = np.zeros((T, N))
    with pytest.raises(SettingError, match=r"^credit: \(4,\) is the wrong shape; expected \(3, 4\)"):
        surrogate_loss(log_prob, np.ones(N))
    with pytest.raises(SettingError, match=r"^mask: \(3, 1\) is the wrong shape; expected \(3, 4\)"):
        surrogate_loss(log_prob, np.ones((T, N)), np.ones((T, 1)))
    with pytest.raises(SettingError, match="^mean: 'step' is neither"):
        surrogate_loss(log_prob, np.ones((T, N)), mean="step")
    slope = jax.grad(surrogate_loss)(jnp.zeros((2, 1)), np.array([[3], [2]]), np.array([[True], [False]]))
    np.testing.assert_array_equal(slope, [[-3.0], [0.0]])
