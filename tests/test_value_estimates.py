"""Values of a target policy from other trajectories: exact expectations by enumeration, and intervals."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import MDPS
from scipy import stats

from pgjax import SettingError, make_signals, oracle, value_estimates
from pgjax.estimators.value_estimates import VALUE_ESTIMATES

WEIGHTED = ("weighted_trajectory", "weighted_per_decision")
VALUES = {
    "trajectory": jax.jit(value_estimates.trajectory_values),
    "per_decision": jax.jit(value_estimates.per_decision_values),
    "doubly_robust": jax.jit(value_estimates.doubly_robust_values),
}


@partial(jax.jit, static_argnames="level")
def estimates(signals, level=0.95):
    """Every estimate by name, compiled together."""
    return {name: estimate(signals, level) for name, estimate in VALUE_ESTIMATES.items()}


def policies(mdp, scale):
    """log π of a target and a behaviour policy."""
    logits = np.random.default_rng(11).normal(size=(2, *mdp.reward.shape)) * scale
    return tuple(x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in logits)


def enumerated(mdp, target, behaviour, critic=None):
    """Every trajectory with γ inside the signals, [T, M], and its probability under the behaviour policy, [M]."""
    critic = np.zeros((mdp.horizon, *mdp.reward.shape)) if critic is None else critic
    signals, chance = _enumerated(mdp, oracle.enumerate_trajectories(mdp), target, behaviour, critic)
    return signals, np.asarray(chance)


@jax.jit
def _enumerated(mdp, listed, target, behaviour, critic):
    rows = oracle.as_transition(mdp, listed, behaviour)
    time, state = rows.observation
    signals = make_signals(
        rows.reward,
        mask=rows.mask,
        terminated=rows.terminated,
        discount=mdp.discount,
        value=jnp.sum(jnp.exp(target[state]) * critic[time, state], axis=-1),
        log_ratio=target[state, rows.action] - rows.log_prob,
        action_value=critic[time, state],
        action=rows.action,
    )
    return signals, oracle.trajectory_probability(mdp, listed, behaviour)


def critics(mdp, target):
    right = oracle.exact_values(mdp, target).action_value
    wrong = np.random.default_rng(3).normal(size=right.shape)
    return {"right": right, "wrong": wrong, "zero": np.zeros(right.shape)}


def columns(signals, members):
    """A batch of trajectories, with repetition."""
    return jax.tree.map(lambda x: np.asarray(x)[:, members], signals)


def draw(signals, chance, shape, seed=0):
    return columns(signals, np.random.default_rng(seed).choice(len(chance), size=shape, p=chance / chance.sum()))


# --- expectations ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_unbiased_at_any_distance(mdp, scale):
    target, behaviour = policies(mdp, scale)
    exact = oracle.exact_values(mdp, target).objective
    for kind, critic in critics(mdp, target).items():
        signals, chance = enumerated(mdp, target, behaviour, critic)
        for name, values in VALUES.items():
            np.testing.assert_allclose(chance @ values(signals), exact, atol=1e-12, err_msg=f"{name}, {kind} critic")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("n", [2, 6])
def test_closed_form_of_the_sparse_chain(n):
    """n stays in a row earn 1, the first stop ends: J = θⁿ, variance θ^{2n} (θ'^{−n} − 1)."""
    transition = np.zeros((n, 2, n))
    transition[np.arange(n - 1), 0, np.arange(1, n)] = 1.0
    reward = np.zeros((n, 2))
    reward[-1, 0] = 1.0
    mdp = oracle.make_mdp(np.eye(n)[0], transition, reward, horizon=n)
    stay, before = 0.6, 0.4
    target, behaviour = (np.log(np.broadcast_to([p, 1 - p], (n, 2))) for p in (stay, before))
    signals, chance = enumerated(mdp, target, behaviour)
    for values in VALUES.values():  # without a critic all three are one
        each = np.asarray(values(signals))
        np.testing.assert_allclose(chance @ each, stay**n, rtol=1e-12)
        np.testing.assert_allclose(chance @ (each - stay**n) ** 2, stay ** (2 * n) * (before**-n - 1), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_doubly_robust_is_the_recursion_of_its_source(mdp):
    """D_t = Ṽ(s_t) + ρ_t (r_t + γ D_{t+1} − Q̃(s_t, a_t)), in plain numpy; and per decision where Q̃ = 0."""
    target, behaviour = policies(mdp, 1.0)
    for critic in ("wrong", "zero"):
        signals, chance = enumerated(mdp, target, behaviour, critics(mdp, target)[critic])
        d = np.zeros(len(chance))
        for t in reversed(range(mdp.horizon)):
            x = {name: np.asarray(getattr(signals, name)[t]) for name in ("value", "reward", "taken_value")}
            ratio = np.exp(signals.log_ratio[t])
            d = signals.mask[t] * (x["value"] + ratio * (x["reward"] + mdp.discount * d - x["taken_value"]))
        np.testing.assert_allclose(VALUES["doubly_robust"](signals), d, atol=1e-12)
    np.testing.assert_allclose(VALUES["per_decision"](signals), d, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_right_critic_lowers_the_variance_to_that_of_the_environment(mdp):
    target, behaviour = policies(mdp, 1.0)
    signals, chance = enumerated(mdp, target, behaviour, critics(mdp, target)["right"])
    exact = oracle.exact_values(mdp, target).objective
    variance = {name: chance @ (np.asarray(f(signals)) - exact) ** 2 for name, f in VALUES.items()}
    assert variance["doubly_robust"] < 0.7 * variance["per_decision"]
    steady = oracle.make_mdp([1.0], [[[1.0], [1.0]]], [[1.0, -0.5]], horizon=3, discount=0.7)  # no chance but actions
    target, behaviour = policies(steady, 1.0)
    signals, chance = enumerated(steady, target, behaviour, critics(steady, target)["right"])
    np.testing.assert_allclose(
        VALUES["doubly_robust"](signals), oracle.exact_values(steady, target).objective, atol=1e-12
    )


# --- self-normalised estimates ---------------------------------------------------------------------------------------


def plain_weighted(signals, discount):
    """Estimate and standard error of both self-normalised forms, by loops over trajectories and steps."""
    reward, log_ratio, mask = (np.asarray(x) for x in (signals.reward, signals.log_ratio, signals.mask))
    T, N = reward.shape
    weights, rewards = np.ones((T, N)), np.zeros((T, N))
    for n in range(N):
        w = 1.0
        for t in range(T):
            w *= np.exp(log_ratio[t, n]) if mask[t, n] else 1.0
            weights[t, n], rewards[t, n] = w, discount**t * reward[t, n] * mask[t, n]
    whole = weights[-1] / weights[-1].sum()
    estimate = whole @ rewards.sum(0)
    influence = whole * (rewards.sum(0) - estimate)
    per_step, influence_per_step = 0.0, np.zeros(N)
    for t in range(T):
        share = weights[t] / weights[t].sum()
        per_step += share @ rewards[t]
        influence_per_step += share * (rewards[t] - share @ rewards[t])
    error = [np.sqrt(N / (N - 1) * (i**2).sum()) for i in (influence, influence_per_step)]
    return {"weighted_trajectory": (estimate, error[0]), "weighted_per_decision": (per_step, error[1])}


@pytest.mark.usefixtures("x64")
def test_weighted_estimates_and_errors_by_plain_loops(mdp):
    target, behaviour = policies(mdp, 1.0)
    signals, chance = enumerated(mdp, target, behaviour)
    batch = draw(signals, chance, 12)
    found = estimates(batch)
    for name, expected in plain_weighted(batch, mdp.discount).items():
        np.testing.assert_allclose(found[name][:2], expected, atol=1e-12, err_msg=name)


@pytest.mark.costly
@pytest.mark.usefixtures("x64")
def test_the_bias_of_weighted_estimates_falls_with_one_over_n():
    """Over all batches of 2 and of 6 trajectories: the distance to the exact value falls to about a third."""
    mdp = oracle.make_mdp([1.0], [[[0.8], [0.3]]], [[1.0, -0.5]], horizon=2, discount=0.7)
    target, behaviour = policies(mdp, 0.5)
    signals, chance = enumerated(mdp, target, behaviour)
    biases = []
    for size in (2, 6):
        members = np.array(list(itertools.combinations_with_replacement(range(len(chance)), size)))
        found = jax.vmap(estimates, in_axes=1)(columns(signals, members))
        counts = (members[..., None] == np.arange(len(chance))).sum(1)
        probability = stats.multinomial.pmf(counts, size, chance / chance.sum())
        np.testing.assert_allclose(probability.sum(), 1.0)
        means = np.stack([found[name].mean for name in WEIGHTED])
        biases.append(means @ probability - oracle.exact_values(mdp, target).objective)
        if size == 2:
            each = [plain_weighted(columns(signals, pair), mdp.discount) for pair in members]
            np.testing.assert_allclose(means, [[x[name][0] for x in each] for name in WEIGHTED], atol=1e-12)
    assert (np.abs(biases[0]) > 1e-3).all()
    np.testing.assert_allclose(biases[0] / biases[1], 3.0, atol=0.4)


# --- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.costly
@pytest.mark.usefixtures("x64")
def test_the_standard_error_is_the_exact_one():
    mdp = MDPS["variable_length"]
    target, behaviour = policies(mdp, 0.5)
    signals, chance = enumerated(mdp, target, behaviour, critics(mdp, target)["wrong"])
    batch = draw(signals, chance, 200_000)
    found = estimates(batch)
    for name, values in VALUES.items():
        each = np.asarray(values(signals))
        exact = np.sqrt(chance @ each**2 - (chance @ each) ** 2) / np.sqrt(200_000)
        np.testing.assert_allclose(found[name].standard_error, exact, rtol=0.02, err_msg=name)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("size", "level"), [(2, 0.95), (5, 0.9), (300, 0.99), (2000, 0.95)])
def test_intervals_are_those_of_student(size, level):
    values = np.random.default_rng(0).normal(size=size)
    found = jax.jit(partial(value_estimates.trajectory, level=level))(make_signals(values[None]))
    np.testing.assert_allclose(found.standard_error, values.std(ddof=1) / np.sqrt(size), rtol=1e-12)
    low, high = stats.t.interval(level, size - 1, loc=values.mean(), scale=found.standard_error)
    np.testing.assert_allclose([found.low, found.high], [low, high], rtol=1e-9 if size <= 301 else 1e-4)


@pytest.mark.costly
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_hold_what_they_promise_for_moderate_weights(level):
    mdp = MDPS["variable_length"]
    with jax.enable_x64(True):
        target, behaviour = policies(mdp, 0.4)
        signals, chance = enumerated(mdp, target, behaviour, critics(mdp, behaviour)["right"])
        exact = float(oracle.exact_values(mdp, target).objective)
    batches = jax.tree.map(lambda x: x.astype(np.float32), draw(signals, chance, (4000, 100)))
    for name, found in jax.vmap(partial(estimates, level=level), in_axes=1)(batches).items():
        assert found.mean.dtype == jnp.float32 and found.effective_sample_size.mean() > 50
        inside = np.mean((found.low <= exact) & (exact <= found.high))
        assert abs(inside - level) < 0.03, (name, inside)


def test_weights_are_described():
    log_w = np.log([[2.0, 1.0, 1.0], [1.0, 0.5, 2.0]])
    found = value_estimates.trajectory(make_signals(np.ones((2, 3)), log_ratio=log_w))
    w = np.array([2.0, 0.5, 2.0])
    expected = [w.sum() ** 2 / (w**2).sum(), w.max() / w.sum(), w.mean(), 0.0]
    np.testing.assert_allclose(found[-4:], expected, rtol=1e-6)


# --- padding, extremes, refusals -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_padding_and_empty_columns_change_nothing(mdp):
    """Junk on padding, more rows, and columns without a step (as `rollout.keep_first` leaves them)."""
    target, behaviour = policies(mdp, 0.7)
    signals, chance = enumerated(mdp, target, behaviour, critics(mdp, target)["wrong"])
    batch = draw(signals, chance, 12)
    mask = np.pad(np.asarray(batch.mask), ((0, 3), (0, 2)))
    junk = np.random.default_rng(1).normal(size=mask.shape) + 40.0

    def padded(x):
        return np.where(mask > 0, np.pad(np.asarray(x), ((0, 3), (0, 2))), junk)

    larger = make_signals(
        padded(batch.reward),
        mask=mask,
        discount=mdp.discount,
        value=padded(batch.value),
        log_ratio=padded(batch.log_ratio),
        action_value=padded(batch.taken_value)[..., None],
        action=jnp.zeros(mask.shape, int),
    )
    small, large = estimates(batch), estimates(larger)
    for name in VALUE_ESTIMATES:
        np.testing.assert_allclose(large[name], small[name], rtol=1e-10, err_msg=name)


@pytest.mark.costly
@pytest.mark.parametrize("x64", [False, True])
def test_finite_at_extreme_ratios_and_with_impossible_actions(x64):
    rng = np.random.default_rng(0)
    with jax.enable_x64(x64):
        T, N = 50, 6
        extreme = rng.choice([-1e4, 1e4], size=(T, N))
        extreme[:, 0] = 1e4
        impossible = np.zeros((T, N))
        impossible[3, 1:] = -np.inf
        for log_ratio in (extreme, -extreme, impossible):
            signals = make_signals(
                rng.normal(size=(T, N)),
                value=np.ones((T, N)),
                mask=np.arange(T)[:, None] <= 40 + np.arange(N),
                terminated=np.arange(T)[:, None] == 40 + np.arange(N),
                log_ratio=log_ratio,
                discount=0.9,
                action_value=rng.normal(size=(T, N, 1)),
                action=jnp.zeros((T, N), int),
            )
            for name, found in estimates(signals).items():
                assert found.mean.dtype == (jnp.float64 if x64 else jnp.float32)
                assert all(np.isfinite(x) for x in found), (name, found)
                if log_ratio is extreme:
                    assert (found.clamped > 0) == (name not in WEIGHTED)
                    np.testing.assert_allclose(found.effective_sample_size, 1.0)


def test_what_cannot_work_is_refused():
    signals = make_signals(np.ones((3, 4)))
    with pytest.raises(SettingError, match="taken_value: None is missing"):
        value_estimates.doubly_robust(signals)
    for estimate in list(VALUE_ESTIMATES.values())[:4]:
        with pytest.raises(SettingError, match=r"reward: \(3, 1\) .*N >= 2"):
            estimate(make_signals(np.ones((3, 1))))
        with pytest.raises(SettingError, match=r"reward: \(3,\) .*\[T, N\]"):
            estimate(make_signals(np.ones(3)))
        with pytest.raises(SettingError, match=r"log_ratio: \(3, 1\) .*expected \(3, 4\)"):
            estimate(signals._replace(log_ratio=jnp.zeros((3, 1))))
        for level in (0.0, 1.0, 95):
            with pytest.raises(SettingError, match=f"level: {level}"):
                estimate(signals, level)
