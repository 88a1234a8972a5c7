"""The crown of the suite: every estimator summed over every trajectory, in float64, against the exact gradient."""

import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.tree_util import Partial
from problems import MDPS

from pgjax import baselined, baselines, gradients, oracle, product, reward_to_go, score, total_return
from pgjax.estimators.reductions import size_of
from pgjax.training.loss import Batch

pytestmark = pytest.mark.usefixtures("x64")

log_policy = jax.nn.log_softmax
AGENT = oracle.mdp_agent(lambda params: log_policy(params["policy"]))

UNBIASED = {  # name: (credit, batch size)
    "total_return": (total_return, 1),
    "reward_to_go": (reward_to_go, 1),
    "total_return, constant": (
        baselined(total_return, Partial(baselines.constant, baseline_constant=3.7)),
        1,
    ),
    "reward_to_go, constant": (
        baselined(reward_to_go, Partial(baselines.constant, baseline_constant=-2.0)),
        1,
    ),
    "reward_to_go, state_value": (baselined(reward_to_go, baselines.state_value), 1),
    "total_return, leave_one_out": (baselined(total_return, baselines.leave_one_out), 2),
    "reward_to_go, leave_one_out": (baselined(reward_to_go, baselines.leave_one_out), 2),
    "total_return, time_step": (baselined(total_return, baselines.time_step), 2),
    "reward_to_go, time_step": (baselined(reward_to_go, baselines.time_step), 2),
}


def exact(mdp, theta):
    return np.ravel(oracle.exact_gradient(mdp, log_policy, jnp.asarray(theta)))


def moments(mdp, credit, theta, batch_size=1):
    values = oracle.exact_values(mdp, log_policy(theta)).value
    return oracle.moments(
        mdp,
        product(credit, score),
        log_policy,
        jnp.asarray(theta),
        oracle.Sampling(value=values, batch_size=batch_size),
    )


def test_exact_gradient_agrees_with_differences_of_the_enumerated_objective(mdp, theta):
    np.testing.assert_allclose(exact(mdp, theta), reference.gradient(mdp, theta), atol=1e-8)


def test_objective_and_probabilities(mdp, theta):
    trajectories = oracle.enumerate_trajectories(mdp)
    chance = oracle.trajectory_probability(mdp, trajectories, log_policy(theta))
    np.testing.assert_allclose(chance.sum(), 1.0, atol=1e-13)
    values = oracle.exact_values(mdp, log_policy(theta))
    np.testing.assert_allclose(values.objective, reference.objective(mdp, theta), atol=1e-13)
    assert len(chance) == oracle.count_trajectories(mdp) == len(reference.paths(mdp, theta))


@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased(mdp, theta, name):
    credit, batch_size = UNBIASED[name]
    np.testing.assert_allclose(moments(mdp, credit, theta, batch_size).mean, exact(mdp, theta), atol=1e-12)


@pytest.mark.parametrize("batch_size", [2, 3])
@pytest.mark.parametrize("credit", [total_return, reward_to_go])
def test_same_batch_mean_shrinks_the_gradient_by_one_over_n(credit, batch_size):
    mdp = MDPS["one_state"]  # variable length, few trajectories: triples fit
    theta = np.array([[0.3, -0.4]])
    mean = moments(mdp, baselined(credit, baselines.same_batch_mean), theta, batch_size).mean
    np.testing.assert_allclose(mean, (1 - 1 / batch_size) * exact(mdp, theta), atol=1e-12)


def test_same_batch_mean_of_two(mdp, theta):
    for credit in (total_return, reward_to_go):
        mean = moments(mdp, baselined(credit, baselines.same_batch_mean), theta, 2).mean
        np.testing.assert_allclose(mean, 0.5 * exact(mdp, theta), atol=1e-12)


@pytest.mark.parametrize("name", ["total_return", "reward_to_go", "reward_to_go, state_value"])
def test_variance_against_plain_loops(mdp, theta, name):
    values = np.asarray(oracle.exact_values(mdp, log_policy(theta)).value)
    weighted = []
    for path in reference.paths(mdp, theta):
        time = np.arange(len(path.rewards))
        own = {
            "total_return": np.full(len(time), path.rewards.sum()),
            "reward_to_go": reference.to_go(path.rewards),
            "reward_to_go, state_value": reference.to_go(path.rewards) - mdp.discount**time * values[time, path.states],
        }
        weighted.append((path.probability, own[name] @ path.scores))
    mean, variance = reference.moments(weighted)
    result = moments(mdp, UNBIASED[name][0], theta)
    np.testing.assert_allclose(result.mean, mean, atol=1e-12)
    np.testing.assert_allclose(result.variance, variance, rtol=1e-9)


@pytest.mark.parametrize(
    "name",
    [f"{c}, {b}" for c in ("total_return", "reward_to_go") for b in ("same_batch_mean", "leave_one_out", "time_step")],
)
def test_variance_of_pairs_against_the_definitions(mdp, theta, name):
    """Every pair {a, b} of paths, in numpy; what follows the end of a path is zero, in credit and in score."""
    found, credit, baseline = reference.paths(mdp, theta), *name.split(", ")
    running = np.arange(mdp.horizon) < np.array([len(p.rewards) for p in found])[:, None]  # [K, T]
    rewards, scores = np.zeros(running.shape), np.zeros((*running.shape, theta.size))
    rewards[running] = np.concatenate([p.rewards for p in found])
    scores[running] = np.concatenate([p.scores for p in found])
    to_go = np.flip(np.cumsum(np.flip(rewards, 1), axis=1), 1)
    own = to_go if credit == "reward_to_go" else np.broadcast_to(to_go[:, :1], to_go.shape)
    a, b = own[:, None], own[None, :]
    psi = a - {"same_batch_mean": (a + b) / 2, "leave_one_out": b, "time_step": b * running}[baseline]  # a's, beside b
    halves = np.einsum("abt,atp->abp", psi, scores)
    gradient = 0.5 * (halves + halves.transpose(1, 0, 2))
    chance = np.outer(*2 * [[p.probability for p in found]])
    mean = np.tensordot(chance, gradient, 2)
    make = {"total_return": total_return, "reward_to_go": reward_to_go}[credit]
    result = moments(mdp, baselined(make, getattr(baselines, baseline)), theta, 2)
    np.testing.assert_allclose(result.mean, mean, atol=1e-12)
    np.testing.assert_allclose(result.variance, np.sum(chance * np.sum((gradient - mean) ** 2, axis=-1)), rtol=1e-9)


@pytest.fixture
def batches():
    """Every batch of three trajectories of a small problem: probability [K], rows [T, K, 3], and their pieces."""
    mdp, theta = MDPS["one_state"], jnp.array([[0.3, -0.4]])
    trajectories = oracle.enumerate_trajectories(mdp)
    transition = oracle.as_transition(mdp, trajectories, log_policy(theta))
    signals = oracle.as_signals(mdp, trajectories, transition, AGENT, {"policy": theta})
    chance = oracle.trajectory_probability(mdp, trajectories, log_policy(theta))
    triples = np.array(list(itertools.product(range(len(chance)), repeat=3)))
    return mdp, theta, transition, signals, np.prod(np.asarray(chance)[triples], axis=1), triples


@pytest.mark.parametrize("credit", [total_return, reward_to_go])
@pytest.mark.parametrize("control_variate", [gradients.optimal_scalar, gradients.optimal_per_parameter])
def test_optimal_baselines_from_the_other_trajectories_are_unbiased(batches, credit, control_variate):
    mdp, theta, transition, signals, chance, triples = batches
    estimator = product(credit, score)

    def gradients_with(psi):
        return gradients.trajectory_gradients(AGENT, estimator, {"policy": theta}, Batch(transition, signals, psi))

    each, scores = gradients_with(estimator.credit(signals)), gradients_with(jnp.ones_like(signals.reward))
    estimate = jax.vmap(lambda rows: (jnp.sum(each[rows], 0) - control_variate(each[rows], scores[rows])) / 3)
    mean = np.tensordot(chance, estimate(triples), 1)
    np.testing.assert_allclose(mean.ravel(), exact(mdp, theta), atol=1e-12)


def test_optimal_baseline_is_its_formula_over_the_others():
    rng = np.random.default_rng(0)
    each, scores = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    scalar = gradients.optimal_baseline(each, scores)
    own = gradients.optimal_baseline(each, scores, per_parameter=True)
    for n in range(5):
        k = np.arange(5) != n
        np.testing.assert_allclose(scalar[n], np.sum(each[k] * scores[k]) / np.sum(scores[k] ** 2), rtol=1e-12)
        np.testing.assert_allclose(own[n], (each[k] * scores[k]).sum(0) / (scores[k] ** 2).sum(0), rtol=1e-12)


@pytest.mark.parametrize("per_parameter", [False, True])
def test_the_optimal_constant_minimises_the_variance(mdp, theta, per_parameter):
    """A thousand copies of every trajectory make leaving one out negligible: the population's optimum."""
    found = reference.paths(mdp, theta)
    chance = np.array([p.probability for p in found])
    scores = np.stack([p.scores.sum(0) for p in found])
    each = scores * np.array([p.rewards.sum() for p in found])[:, None]
    weighted = [np.tile(np.sqrt(chance)[:, None] * x, (1000, 1)) for x in (each, scores)]
    best = np.asarray(gradients.optimal_baseline(*weighted, per_parameter=per_parameter)[0])

    def variance(b):
        return reference.moments(list(zip(chance, each - b * scores, strict=True)))[1]

    optimum = chance @ (each * scores), chance @ scores**2
    optimum = optimum[0] / optimum[1] if per_parameter else np.sum(optimum[0]) / np.sum(optimum[1])
    np.testing.assert_allclose(best, np.broadcast_to(optimum, best.shape), rtol=5e-3)
    assert variance(best) < min(variance(best + 1e-2), variance(best - 1e-2), variance(0.0 * best) + 1e-12)


@pytest.mark.parametrize("critic", ["none", "state"])
def test_dropping_the_discount_prefactor_is_biased(critic):
    """The estimator with γ^t in front has the mean ∇J, the one without E[Σ score_t Σ_{t'≥t} γ^{t'−t} r_t']."""
    mdp, theta = MDPS["variable_length"], np.random.default_rng(7).normal(size=(2, 3))
    kept = reward_to_go if critic == "none" else baselined(reward_to_go, baselines.state_value)
    prefactor = mdp.discount ** jnp.arange(mdp.horizon)[:, None]  # the oracle's signals carry it in rewards and values

    def dropped(signals):
        return kept(signals) / prefactor

    without = np.zeros(theta.size)
    for path in reference.paths(mdp, theta):
        without += path.probability * (
            (reference.to_go(path.rewards) / prefactor[: len(path.rewards), 0]) @ path.scores
        )
    truth = exact(mdp, theta)
    np.testing.assert_allclose(moments(mdp, kept, theta).mean, truth, atol=1e-12)
    np.testing.assert_allclose(moments(mdp, dropped, theta).mean, without, atol=1e-12)
    assert np.linalg.norm(without - truth) > 1e-2
    assert without @ truth / np.linalg.norm(without) / np.linalg.norm(truth) < 1 - 1e-4  # no mere scale


@pytest.mark.parametrize(("name", "varies"), [("variable_length", True), ("one_state", True), ("fixed_length", False)])
def test_mean_over_steps_adds_the_covariance_with_one_over_length(name, varies):
    """A ratio estimator: of single trajectories E[g/L] = ∇J · E[1/L] + Cov(g, 1/L); of fixed length the latter is 0."""
    mdp = MDPS[name]
    theta = np.random.default_rng(7).normal(size=mdp.reward.shape)
    chance, each = oracle.trajectory_estimates(mdp, product(reward_to_go, score), log_policy, jnp.asarray(theta))
    mask = oracle.enumerate_trajectories(mdp).mask
    steps = jax.jit(jax.vmap(lambda mask: size_of(mask[:, None]).steps, in_axes=1))(mask)

    found = reference.paths(mdp, theta)
    weight = np.array([p.probability for p in found])
    gradient = np.stack([reference.to_go(p.rewards) @ p.scores for p in found])
    shorter = np.array([1 / len(p.rewards) for p in found])
    covariance = (weight * (shorter - weight @ shorter)) @ gradient
    scaled = weight @ shorter * exact(mdp, theta)
    np.testing.assert_allclose(chance @ (each / steps[:, None]), scaled + covariance, atol=1e-12)
    if varies:
        assert np.linalg.norm(covariance) > 0.05 * np.linalg.norm(scaled)
    else:
        np.testing.assert_allclose(covariance, 0.0, atol=1e-12)


TABLE = json.loads((Path(__file__).parent / "data" / "exact_table.json").read_text())


def constant(credit, value):
    return baselined(credit, Partial(baselines.constant, baseline_constant=value))


def worked_example():
    """The MDP and logits of the table, and its rows as (credit, batch size)."""
    given = TABLE["input"]
    mdp = oracle.make_mdp(*(given[k] for k in ("initial", "transition", "reward", "horizon", "discount")))
    theta = jnp.array(given["target_logits"])
    found = reference.paths(mdp, theta)
    chance, total = np.array([p.probability for p in found]), np.array([p.rewards.sum() for p in found])
    weight = chance * np.array([np.sum(p.scores.sum(0) ** 2) for p in found])
    return (
        mdp,
        theta,
        {
            "total_return": (total_return, 1),
            "reward_to_go": (reward_to_go, 1),
            "total_return_mean_baseline": (constant(total_return, chance @ total), 1),
            "total_return_optimal_baseline": (constant(total_return, weight @ total / weight.sum()), 1),
            "reward_to_go_state_value": (baselined(reward_to_go, baselines.state_value), 1),
            "batch_mean_2": (baselined(total_return, baselines.same_batch_mean), 2),
            "leave_one_out_2": (baselined(total_return, baselines.leave_one_out), 2),
        },
    )


def test_worked_example():
    """Numbers computed elsewhere, independently of this library."""
    mdp, theta, rows = worked_example()
    np.testing.assert_allclose(exact(mdp, theta), TABLE["output"]["gradient"], atol=1e-8)
    for name, (credit, batch_size) in rows.items():
        expected, result = TABLE["output"]["estimators"][name], moments(mdp, credit, theta, batch_size)
        np.testing.assert_allclose(result.mean, expected["mean"], atol=1e-8, err_msg=name)
        np.testing.assert_allclose(result.variance * batch_size, expected["variance"], atol=1e-8, err_msg=name)
