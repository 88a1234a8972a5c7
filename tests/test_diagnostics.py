"""Diagnostics against the exact covariance of small problems, and against their definitions."""

from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import MDPS

from pgjax import (
    Config,
    SettingError,
    diagnostics,
    environments,
    importance_sampling,
    make_agent,
    make_trainer,
    off_policy_reward_to_go,
    oracle,
    product,
    ratio,
    reward_to_go,
    rollout,
    score,
    stopped_prefix,
    train,
)
from pgjax.training.loss import Batch
from pgjax.training.signals import values_of

SHORT = environments.make("CartPole-v1")._replace(horizon=100)  # untrained policies fall within it


def sampled(mdp, estimator, theta, behaviour, count, seed=0):
    """Gradients of `count` trajectories drawn from the behaviour policy, [count, P]."""
    sampling = oracle.Sampling(behaviour=behaviour)
    chance, each = oracle.trajectory_estimates(mdp, estimator, jax.nn.log_softmax, theta, sampling)
    drawn = np.random.default_rng(seed).choice(len(chance), count, p=np.asarray(chance / chance.sum()))
    return np.asarray(each)[drawn]


def test_gradient_noise_against_the_oracle(x64):
    mdp, theta = MDPS["variable_length"], jnp.asarray(np.random.default_rng(7).normal(size=(2, 3)))
    behaviour, estimator = jax.nn.log_softmax(theta), product(reward_to_go, score)
    exact = oracle.moments(mdp, estimator, jax.nn.log_softmax, theta)
    signal = jnp.sum(exact.mean**2)
    each = sampled(mdp, estimator, theta, behaviour, 200_000)
    noise = diagnostics.gradient_noise(each)
    np.testing.assert_allclose(noise.variance, exact.variance, rtol=0.02)
    np.testing.assert_allclose(noise.signal, signal, rtol=0.05)
    np.testing.assert_allclose(noise.critical_batch_size, exact.variance / signal, rtol=0.05)
    np.testing.assert_allclose(noise.snr, signal / (exact.variance / 200_000), rtol=0.05)
    groups = each.reshape(1000, 200, -1).mean(axis=1)
    of_groups = diagnostics.gradient_noise(groups, trajectories=200_000)
    np.testing.assert_allclose(of_groups.variance, exact.variance, rtol=0.15)
    np.testing.assert_allclose(of_groups.signal, noise.signal, rtol=0.02)


def test_the_signal_estimate_is_unbiased_and_may_be_negative():
    noise = diagnostics.gradient_noise(jnp.array([[1.0], [-1.0]]))
    assert noise.signal == -1.0 and np.isnan(noise.critical_batch_size)


@pytest.mark.costly
def test_the_bias_probe_finds_the_bias_within_its_error(x64):
    mdp = MDPS["variable_length"]
    theta, behaviour = (jnp.asarray(np.random.default_rng(s).normal(size=(2, 3))) for s in (1, 2))
    behaviour = jax.nn.log_softmax(behaviour)
    forms = product(reward_to_go, ratio), product(off_policy_reward_to_go, stopped_prefix)
    approximate, exact = (sampled(mdp, f, theta, behaviour, 50_000) for f in forms)
    bias, error = diagnostics.bias_probe(approximate, exact)
    sampling = oracle.Sampling(behaviour=behaviour)
    means = [oracle.moments(mdp, f, jax.nn.log_softmax, theta, sampling).mean for f in forms]
    assert np.all(np.abs(bias - (means[0] - means[1])) < 4 * error) and np.linalg.norm(bias) > 3 * np.linalg.norm(error)


@pytest.mark.costly
def test_branching_from_visited_states_against_the_oracle():
    """Q without a critic on FrozenLake: inside its error of the exact Q_t, the time limit still counting."""
    horizon = 12
    environment = environments.make("FrozenLake-misc")._replace(horizon=horizon)
    agent = make_agent(environment, hidden=(8,))
    policy = partial(agent.policy, agent.init(jax.random.key(3)))
    tables = oracle.from_gymnax("FrozenLake-misc")  # its own limit of 100 steps: twelve more from any state
    log_probs = policy(tables.observations).log_probs
    exact = oracle.exact_values(replace(tables.mdp, horizon=horizon + 1), log_probs).action_value[0]
    branch = jax.jit(partial(diagnostics.branched_action_values, environment, policy))
    visit = jax.jit(jax.vmap(partial(rollout.visit, environment, policy)))
    places = visit(jax.random.split(jax.random.key(0), 64), jnp.arange(64) % 6)
    number = {int(o): s for s, o in enumerate(np.asarray(tables.observations))}  # holes and the goal are not in it
    of_state = {number[int(o)]: i for i, o in enumerate(places.observation) if int(o) in number}
    assert len(of_state) > 4
    for state, i in list(of_state.items())[:5]:
        start = jax.tree.map(lambda x, i=i: x[i], places)
        mean, error = branch(start, jax.random.split(jax.random.key(i), 4000))
        assert np.all(np.abs(mean - exact[state]) < 4.5 * error + 1e-6) and error.max() < 0.02
    with pytest.raises(SettingError, match="Pendulum.*needs one Discrete action"):
        pendulum = environments.make("Pendulum-v1")
        diagnostics.branched_action_values(pendulum, policy, start, jax.random.split(jax.random.key(0), 2))


@pytest.mark.slow
def test_the_training_switch_gives_the_same_update_and_says_how_noisy_it_was():
    recipe = importance_sampling("first_order", epochs=3, learning_rate=1e-3)
    agent = make_agent(SHORT, hidden=(8,))
    runs = []
    for groups in (0, 8, 64):
        config = replace(recipe.config, num_envs=64, diagnostics=groups)
        runs.append(train(make_trainer(SHORT, agent, config), recipe.algorithm, jax.random.key(0), 20))
    (plain, _), (watched, metrics), (_, one_each) = runs
    chex.assert_trees_all_close(plain.params, watched.params, atol=2e-4)
    assert {"gradient_variance", "gradient_snr", "critical_batch_size", "score_mean", "bias_probe"} <= set(metrics)
    variances = [m["gradient_variance"].mean() for m in (metrics, one_each)]  # of one trajectory, however they are cut
    np.testing.assert_allclose(*variances, rtol=0.4)
    assert np.all(np.isfinite(metrics["gradient_variance"])) and metrics["gradient_snr"].mean() > 1
    assert 0.2 < np.mean(metrics["score_mean"] ** 2) < 3 and np.abs(metrics["bias_probe"]).max() > 0.1


@pytest.mark.costly
def test_the_score_probe_is_loud_when_actions_are_wrong_and_the_bias_probe_quiet_for_an_exact_form():
    agent = make_agent(SHORT, hidden=(8,))
    params = agent.init(jax.random.key(0))
    params["policy"]["net"]["params"]["Dense_1"]["bias"] += jnp.array([0.5, -0.5])  # a policy that has a preference
    rows = rollout.episodes(SHORT, partial(agent.policy, params), jax.random.split(jax.random.key(1), 256))
    keys = jax.random.split(jax.random.key(2), 64)
    wrong = rows._replace(action=1 - rows.action)
    probe = jax.jit(lambda rows: jax.vmap(lambda key: diagnostics.score_probe(agent, params, rows, key))(keys))
    good, bad = probe(rows), probe(wrong)
    assert np.mean(good**2) < 3 < 30 < np.mean(bad**2)
    recipe = importance_sampling("per_decision_is", "none")

    @jax.jit
    def bias(rows):
        signals = values_of(agent, recipe.algorithm, recipe.config, params, rows)
        moved, batch = jax.tree.map(lambda x: x * 1.05, params), Batch(rows, signals, credit=None)
        return diagnostics.monitor(agent, recipe.algorithm, recipe.config, moved, batch, keys[0])["bias_probe"]

    np.testing.assert_allclose(bias(rows), 0.0, atol=1e-6)


def test_cosine():
    tree = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    np.testing.assert_allclose(diagnostics.cosine(tree, tree), 1.0, rtol=1e-6)
    np.testing.assert_allclose(diagnostics.cosine(tree, {"a": jnp.array([-4.0]), "b": jnp.array([3.0])}), 0.0)


def test_explained_variance():
    target, mask = jnp.array([1.0, 2.0, 99.0]), jnp.array([1.0, 1.0, 0.0])
    assert diagnostics.explained_variance(target, target, mask) == 1.0
    assert diagnostics.explained_variance(target, jnp.zeros(3), mask) == 0.0
    assert np.isnan(diagnostics.explained_variance(jnp.ones(3), target, mask))


def test_effective_sample_size_per_step_keeps_the_last_weight():
    x = jnp.log(jnp.array([[1.0, 3.0], [1.0, 1.0]]))
    np.testing.assert_allclose(diagnostics.effective_sample_size_per_step(x), [16 / 10] * 2, rtol=1e-5)


@pytest.mark.costly
def test_monitors_are_quiet_when_all_is_well_and_loud_when_actions_are_wrong():
    agent = make_agent(SHORT)
    params = agent.init(jax.random.key(0))
    head = params["policy"]["net"]["params"]["Dense_2"]
    head["kernel"] = 200.0 * head["kernel"]  # a policy that has a preference
    rows = rollout.episodes(SHORT, partial(agent.policy, params), jax.random.split(jax.random.key(1), 256))
    good = diagnostics.weight_statistics(agent, Config(), params, rows)
    np.testing.assert_allclose(good["mean_weight"], 1.0, atol=1e-3)
    np.testing.assert_allclose(good["effective_sample_size"], 1.0, atol=1e-3)
    np.testing.assert_allclose(good["kl"], 0.0, atol=1e-5)
    wrong = rows._replace(action=1 - rows.action)
    bad = diagnostics.weight_statistics(agent, Config(), params, wrong)
    assert bad["effective_sample_size"] < 0.9 and abs(bad["kl"]) > 1e-3
    bias = [diagnostics.score_mean(agent, params, r)["net"]["params"]["Dense_2"]["bias"] for r in (rows, wrong)]
    steps = float(rows.mask.sum())
    assert np.abs(bias[0]).max() < 4 * 0.5 / np.sqrt(steps)
