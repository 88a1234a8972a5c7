"""A discount may be one number, one for each environment, one for each step, or both: everywhere the same product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax import (
    SettingError,
    discounted_objective,
    discounted_reward,
    doubly_robust,
    gae,
    make_signals,
    product,
    reward_to_go,
    score,
    total_return,
    value_estimates,
    vtrace,
)
from pgjax.estimators.returns import discount_factor
from pgjax.policies.normalisation import no_reward_scale, scale_rewards
from pgjax.types import Transition

pytestmark = pytest.mark.usefixtures("x64")

T, N = 6, 4
RNG = np.random.default_rng(0)
DISCOUNTS = {
    "one": np.array(0.9),
    "for each environment": RNG.uniform(0.5, 1.0, N),
    "for each step": RNG.uniform(0.5, 1.0, (T, 1)),
    "for each step and environment": RNG.uniform(0.5, 1.0, (T, N)),
    "0 at a step": np.where(np.arange(T) == 2, 0.0, 0.9)[:, None],
}
LENGTHS = np.array([6, 3, 1, 4])
STREAM_ENDS = RNG.random((2 * T, N)) < 0.2


def batch(discount, **more):
    """Whole episodes of several lengths, one per column."""
    rng, time = np.random.default_rng(1), np.arange(T)[:, None]
    return make_signals(
        rng.normal(size=(T, N)),
        mask=time < LENGTHS,
        terminated=time == LENGTHS - 1,
        discount=discount,
        value=rng.normal(size=(T, N)),
        next_value=rng.normal(size=(T, N)),
        log_ratio=0.3 * rng.normal(size=(T, N)),
        **more,
    )


def factors(discount, ended, elapsed=(0,) * N):
    """γ_0 ⋯ γ_{t−1} of each step's episode, by a loop; 1 on padding."""
    discount = np.broadcast_to(discount, ended.shape)
    out = np.ones(ended.shape)
    for n in range(ended.shape[1]):
        now = discount[0, n] ** elapsed[n]
        for t in range(len(ended)):
            out[t, n] = now
            now = 1.0 if ended[t, n] else now * discount[t, n]
    return out


@pytest.mark.parametrize("kind", DISCOUNTS)
def test_every_discounted_sum_is_the_reward_to_go_of_the_first_step(kind):
    discount = DISCOUNTS[kind]
    q = np.random.default_rng(2).normal(size=(T, N, 1))
    signals = batch(discount, action_value=q, action=np.zeros((T, N), int))
    mask, reward, value = (np.asarray(x) for x in (signals.mask, signals.reward, signals.value))
    gamma, rho = np.broadcast_to(discount, (T, N)), np.exp(np.asarray(signals.log_ratio))
    factor = np.where(mask > 0, factors(discount, np.arange(T)[:, None] == LENGTHS - 1), 1.0)

    @jax.jit
    def found(signals):
        rewritten = discounted_objective(signals)
        estimator = doubly_robust()
        contribution = estimator.contribution(estimator.credit(signals), signals, Single(), signals.log_ratio)
        return {
            "factor": discount_factor(signals),
            "to go": reward_to_go(signals),
            "total": total_return(signals),
            "discounted": jnp.sum(discounted_reward(signals), axis=0),
            "objective": [credit(rewritten) for credit in CREDITS],
            "credits": [credit(signals) for credit in CREDITS],
            "trajectory": value_estimates.trajectory_values(signals),
            "per decision": value_estimates.per_decision_values(signals),
            "doubly robust": [value_estimates.doubly_robust_values(signals), doubly_robust_sum(contribution, signals)],
        }

    got = found(signals)
    np.testing.assert_allclose(got["factor"], factor, rtol=1e-13)
    to_go, per_decision, robust = np.zeros(N), np.zeros(N), np.zeros(N)
    robust_sum = np.zeros(N)  # with Σ_a π Q̃ = Q̃ of the only action for V
    for t in reversed(range(T)):
        to_go = mask[t] * (reward[t] + gamma[t] * to_go)
        per_decision = mask[t] * rho[t] * (reward[t] + gamma[t] * per_decision)
        robust = mask[t] * (value[t] + rho[t] * (reward[t] + gamma[t] * robust - q[t, :, 0]))
        robust_sum = mask[t] * (q[t, :, 0] + rho[t] * (reward[t] + gamma[t] * robust_sum - q[t, :, 0]))
    for name in ("total", "discounted", "to go"):
        row = got[name] if name == "discounted" else got[name][0]
        np.testing.assert_allclose(row, to_go, atol=1e-13, err_msg=name)
    np.testing.assert_allclose(got["trajectory"], np.prod(np.where(mask > 0, rho, 1.0), axis=0) * to_go, atol=1e-13)
    np.testing.assert_allclose(got["per decision"], per_decision, atol=1e-13)
    np.testing.assert_allclose(got["doubly robust"], [robust, robust_sum], atol=1e-13)
    for rewritten, plain in zip(got["objective"], got["credits"], strict=True):
        np.testing.assert_allclose(mask * rewritten, mask * factor * plain, atol=1e-13)


CREDITS = (reward_to_go, gae, vtrace)


class Single:
    """A policy over one action."""

    log_probs = jnp.zeros((T, N, 1))


def doubly_robust_sum(contribution, signals):
    return jnp.sum(jnp.where(signals.mask > 0, contribution, 0.0), axis=0)


@pytest.mark.parametrize("kind", ["one", "for each environment"])
def test_a_stream_cut_into_batches_keeps_its_discount_factors(kind):
    """What `elapsed` is for: without it γ^t starts afresh at every batch."""
    discount, ended = DISCOUNTS[kind], STREAM_ENDS
    reward, value = np.random.default_rng(3).normal(size=(2, 2 * T, N))

    def signals(rows, elapsed):
        return make_signals(reward[rows], terminated=ended[rows], value=value[rows], discount=discount, elapsed=elapsed)

    running = np.zeros(N, int)
    for t in range(T):
        running = np.where(ended[t], 0, running + 1)
    assert running.max() > 1 and running.min() == 0
    whole = factors(discount, ended)
    first, second = signals(slice(0, T), np.zeros(N)), signals(slice(T, 2 * T), running)
    np.testing.assert_allclose(jnp.concatenate([discount_factor(first), discount_factor(second)]), whole, rtol=1e-13)
    np.testing.assert_allclose(discount_factor(first._replace(elapsed=None)), whole[:T], rtol=1e-13)
    rewritten = discounted_objective(second)
    np.testing.assert_allclose(rewritten.reward, whole[T:] * reward[T:], rtol=1e-13)
    np.testing.assert_allclose(rewritten.value, whole[T:] * value[T:], rtol=1e-13)
    np.testing.assert_allclose(discount_factor(rewritten), 1.0, rtol=0)
    plain = discount_factor(second._replace(elapsed=None))
    assert np.abs(plain - whole[T:]).max() > 0.05


def test_elapsed_steps_go_along_when_environments_are_chosen():
    signals = make_signals(np.ones((T, N)), discount=0.5, elapsed=np.arange(N))
    chosen = jax.tree.map(lambda x: x[:, np.array([3, 1])], signals)
    np.testing.assert_array_equal(discount_factor(chosen)[0], [0.125, 0.5])


@pytest.mark.parametrize("shape", [(T, 1), (T, N)])
def test_elapsed_steps_of_unknown_discounts_are_refused(shape):
    with pytest.raises(
        SettingError, match=r"^elapsed: \(4,\) cannot be combined with a discount per step: .* unknown$"
    ):
        make_signals(np.ones((T, N)), discount=np.full(shape, 0.9), elapsed=np.ones(N, int))


@pytest.mark.parametrize("kind", DISCOUNTS)
@pytest.mark.parametrize("streaming", [False, True])
def test_rewards_are_scaled_by_returns_of_the_same_discounts(kind, streaming):
    discount = np.broadcast_to(DISCOUNTS[kind], (T, N))
    reward, seen, running = np.random.default_rng(4).normal(size=(2 * T, N)), [], np.zeros(N)
    scale = no_reward_scale(N)
    for k in range(2):
        rows = slice(k * T, (k + 1) * T)
        running = running if streaming else np.zeros(N)
        ended = STREAM_ENDS[rows]
        for t in range(T):
            running = reward[rows][t] + running
            seen.append(running)
            running = np.where(ended[t], 0.0, discount[t] * running)
        rows = Transition(None, None, None, reward[rows], ended, np.ones((T, N)) < 0, None, np.ones((T, N)))
        scale, scaled = scale_rewards(scale, rows, DISCOUNTS[kind], streaming=streaming)
    np.testing.assert_allclose(scaled.reward, reward[T:] / np.std(seen), rtol=1e-12)


def test_the_gradient_without_discounts_of_steps_is_another():
    """The script's numbers: γ = (0.5, 0.9), a reward of 1 at the second step is worth 0.5 at the first."""
    signals = make_signals([0.0, 1.0], discount=[0.5, 0.9])
    estimator = product(total_return, score)
    slope = jax.grad(lambda x: jnp.sum(estimator.contribution(estimator.credit(signals), signals, None, x)))
    np.testing.assert_array_equal(slope(signals.log_ratio), [0.5, 0.5])
    np.testing.assert_array_equal(reward_to_go(discounted_objective(signals)), [0.5, 0.5])
