"""Identities of credit, baselines and the surrogate loss, on random shapes and masks."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from pgjax import (
    baselined,
    baselines,
    discounted_objective,
    linear_recurrence,
    make_signals,
    product,
    reward_to_go,
    score,
    standardised,
    surrogate_loss,
    total_return,
    weighted_per_decision,
    weighted_trajectory,
)

SHAPES = [(1,), (6,), (5, 4), (5, 4, 2)]


def episodes(shape, seed=0, discount=0.9):
    """Whole episodes of random length, one per column, with random rewards and values."""
    rng = np.random.default_rng(seed)
    length = rng.integers(1, shape[0] + 1, shape[1:])
    time = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return make_signals(
        rng.normal(size=shape).astype(np.float32),
        mask=time < length,
        terminated=time == length - 1,
        discount=discount,
        value=rng.normal(size=shape).astype(np.float32),
    ), np.broadcast_to(length, shape[1:])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reverse", [False, True])
def test_recurrence_against_a_loop(shape, reverse):
    rng = np.random.default_rng(1)
    x, a = rng.normal(size=shape).astype(np.float32), rng.uniform(size=shape).astype(np.float32)
    expected = x.copy()
    for t in range(shape[0] - 2, -1, -1) if reverse else range(1, shape[0]):
        expected[t] = x[t] + (a[t] * expected[t + 1] if reverse else a[t - 1] * expected[t - 1])
    np.testing.assert_allclose(linear_recurrence(x, a, reverse=reverse), expected, rtol=2e-5, atol=1e-6)


def test_recurrence_does_not_leak_between_episodes():
    continues = jnp.array([1.0, 0.0, 1.0, 1.0])
    np.testing.assert_array_equal(linear_recurrence(jnp.ones(4), continues), [1, 2, 1, 2])
    np.testing.assert_array_equal(linear_recurrence(jnp.ones(4), continues, reverse=True), [2, 1, 2, 1])


@pytest.mark.parametrize("shape", SHAPES)
def test_returns_against_sums(shape):
    signals, _ = episodes(shape)
    reward = np.asarray(signals.reward)
    for t in range(shape[0]):
        expected = sum(0.9 ** (k - t) * reward[k] for k in range(t, shape[0]))
        np.testing.assert_allclose(reward_to_go(signals)[t], expected, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(total_return(signals), np.broadcast_to(reward_to_go(signals)[0], shape), rtol=2e-5)


def test_reward_to_go_restarts_at_either_end_flag():
    ends = [False, True, False]
    for flags in ({"terminated": ends}, {"truncated": ends}):
        np.testing.assert_array_equal(reward_to_go(make_signals([1.0, 2.0, 4.0], **flags)), [3, 2, 4])


def test_signals_mask_padding_and_ends():
    nan = float("nan")
    signals = make_signals(
        [1.0, 2.0, nan],
        mask=[1, 1, 0],
        terminated=[False, True, False],
        truncated=[False, True, False],  # both: termination wins
        value=[1.0, 1.0, nan],
        next_value=[5.0, 5.0, nan],
        log_ratio=[0.1, 0.1, nan],
    )
    np.testing.assert_array_equal(signals.reward, [1, 2, 0])
    np.testing.assert_array_equal(signals.value, [1, 1, 0])
    np.testing.assert_array_equal(signals.next_value, [5, 0, 0])
    np.testing.assert_array_equal(signals.continues, [1, 0, 0])
    assert np.isfinite(signals.log_ratio).all()


def test_a_time_limit_is_bootstrapped_or_an_end_as_chosen():
    arguments = {"truncated": [False, True], "next_value": [3.0, 3.0]}
    np.testing.assert_array_equal(make_signals([1.0, 1.0], **arguments).next_value, [3, 3])
    np.testing.assert_array_equal(make_signals([1.0, 1.0], **arguments, truncation="terminal").next_value, [3, 0])


@pytest.mark.parametrize("shape", SHAPES)
def test_discounted_objective_puts_the_factor_in_front(shape):
    signals, _ = episodes(shape)
    factor = 0.9 ** np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    rewritten = discounted_objective(signals)
    np.testing.assert_allclose(reward_to_go(rewritten), factor * reward_to_go(signals), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(total_return(rewritten), total_return(signals), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(rewritten.value, factor * signals.value, rtol=1e-4)


def test_leave_one_out_is_the_rescaled_mean():
    signals, _ = episodes((5, 4))
    psi = total_return(signals)
    np.testing.assert_allclose(
        psi - baselines.leave_one_out(signals, psi),
        4 / 3 * (psi - baselines.same_batch_mean(signals, psi)),
        rtol=1e-4,
        atol=1e-5,
    )


def test_batch_baselines_against_loops():
    signals, length = episodes((5, 4))
    psi = np.asarray(reward_to_go(signals))
    leave_one_out, time_step = (f(signals, psi) for f in (baselines.leave_one_out, baselines.time_step))
    for t in range(5):
        for n in range(4):
            others = [k for k in range(4) if k != n]
            np.testing.assert_allclose(leave_one_out[t, n], psi[t, others].mean(), rtol=1e-4, atol=1e-6)
            alive = [k for k in others if t < length[k]]
            if t < length[n]:
                expected = psi[t, alive].mean() if alive else 0.0
                np.testing.assert_allclose(time_step[t, n], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["leave_one_out", "time_step"])
def test_baselines_from_others_refuse_a_lone_trajectory(name):
    signals, _ = episodes((5, 1))
    with pytest.raises(ValueError, match=f"{name}.*N >= 2"):
        getattr(baselines, name)(signals, reward_to_go(signals))


def test_standardised_has_mean_zero_and_spread_one_on_executed_steps():
    signals, _ = episodes((7, 5))
    psi = np.asarray(standardised(reward_to_go)(signals))[np.asarray(signals.mask) > 0]
    np.testing.assert_allclose([psi.mean(), psi.std()], [0, 1], atol=1e-5)
    off = standardised(reward_to_go, strength=0.0)(signals)
    np.testing.assert_array_equal(off, reward_to_go(signals))


def test_credits_are_pytrees_whose_numbers_can_be_mapped():
    signals, _ = episodes((5, 4))
    credit = baselined(reward_to_go, Partial(baselines.constant, baseline_constant=jnp.array([0.0, 1.0])))
    both = jax.vmap(lambda c: c(signals))(credit)
    chex.assert_shape(both, (2, 5, 4))
    np.testing.assert_allclose(both[0] - both[1], 1.0, atol=1e-5)


@pytest.mark.parametrize("mean", ["trajectories", "steps"])
def test_surrogate_loss_has_minus_the_estimators_gradient(mean):
    signals, length = episodes((5, 4))
    log_prob = jnp.asarray(np.random.default_rng(2).normal(size=(5, 4)), jnp.float32)
    psi = reward_to_go(signals)
    estimator = product(reward_to_go, score)

    def objective(log_prob):
        out = estimator.contribution(
            estimator.credit(signals), signals, None, log_prob - jax.lax.stop_gradient(log_prob)
        )
        return jnp.sum(out * signals.mask) / (4 if mean == "trajectories" else length.sum())

    gradient = jax.grad(surrogate_loss)(log_prob, psi, signals.mask, mean)
    np.testing.assert_allclose(gradient, -jax.grad(objective)(log_prob), rtol=1e-5)
    np.testing.assert_allclose(
        gradient, -psi * signals.mask / (4 if mean == "trajectories" else length.sum()), rtol=1e-5
    )


def test_surrogate_loss_survives_infinities_on_padding():
    gradient = jax.grad(surrogate_loss)(jnp.array([[-1.0], [-jnp.inf]]), jnp.ones((2, 1)), jnp.array([[1.0], [0.0]]))
    np.testing.assert_array_equal(gradient, [[-1], [0]])


@pytest.mark.parametrize("credit", [weighted_trajectory, weighted_per_decision])
def test_columns_without_a_step_do_not_count_in_normalised_weights(credit):
    """What `rollout.keep_first` leaves out must not enter as an episode of weight 1 and return 0."""
    reward, log_ratio = jnp.array([[1.0, 2.0, 4.0]]), jnp.log(jnp.array([[2.0, 1.0, 0.5]]))
    whole = credit(make_signals(reward, log_ratio=log_ratio))
    padded = make_signals(
        jnp.pad(reward, ((0, 0), (0, 3))),
        log_ratio=jnp.pad(log_ratio, ((0, 0), (0, 3))),
        mask=jnp.array([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]]),
    )
    np.testing.assert_allclose(credit(padded)[:, :3], whole, rtol=1e-6)


@pytest.mark.parametrize("baseline", ["same_batch_mean", "leave_one_out", "time_step"])
def test_groups_are_batches_of_their_own(baseline):
    rng = np.random.default_rng(0)
    reward, ends = rng.normal(size=(4, 6)), rng.integers(1, 5, 6)
    mask = (np.arange(4)[:, None] < ends).astype(float)
    credit = baselined(reward_to_go, getattr(baselines, baseline))
    together = credit(make_signals(reward, mask=mask, group=np.arange(6) // 3))
    apart = [credit(make_signals(reward[:, c], mask=mask[:, c])) for c in (slice(0, 3), slice(3, 6))]
    np.testing.assert_allclose(together, jnp.concatenate(apart, axis=1), atol=1e-6)
