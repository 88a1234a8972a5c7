"""Exact tables of gymnax environments against the environments, and a neural policy's gradient against samples."""

from functools import partial

import jax
import numpy as np
import pytest

from pgjax import (
    SettingError,
    baselined,
    baselines,
    environments,
    gradients,
    make_agent,
    off_policy_reward_to_go,
    oracle,
    product,
    ratio,
    reward_to_go,
    rollout,
    score,
    stopped_prefix,
    total_return,
    trajectory_weight,
)
from pgjax.losses import Batch, log_ratio
from pgjax.returns import make_signals

NAMES = ["FrozenLake-misc", "FourRooms-misc", "Catch-bsuite", "DeepSea-bsuite"]


def agent_on(name, scale=30.0):
    """An agent with a preference, its parameters, and the environment."""
    environment = environments.make(name)
    agent = make_agent(environment, hidden=(8,))
    params = agent.init(jax.random.key(3))
    params["policy"]["net"]["params"]["Dense_1"]["kernel"] *= scale
    return environment, agent, params


@pytest.mark.parametrize("name", NAMES)
def test_the_tables_give_the_environments_own_return(name):
    environment, agent, params = agent_on(name)
    horizon = min(environment.horizon, 40)
    tables = oracle.from_gymnax(name, horizon=horizon)
    exact = oracle.exact_values(tables.mdp, tables.log_policy(agent)(params)).objective
    keys = jax.random.split(jax.random.key(0), 4000)
    policy = partial(agent.policy, params)
    rows = jax.jit(lambda k: rollout.episodes(environment._replace(horizon=horizon), policy, k))(keys)
    returns = rows.reward.sum(axis=0)
    assert abs(returns.mean() - exact) < 4 * returns.std() / np.sqrt(4000) + 1e-6


def test_the_best_frozen_lake_policy_has_the_published_value():
    """0.744 within 100 steps of the slippery 4×4 map, by backward induction on the tables."""
    mdp = oracle.from_gymnax("FrozenLake-misc").mdp
    value = np.zeros(len(mdp.initial))
    for _ in range(mdp.horizon):
        value = (mdp.reward + mdp.transition @ value).max(axis=1)
    np.testing.assert_allclose(mdp.initial @ value, 0.744, atol=5e-3)


@pytest.mark.parametrize(
    ("credit", "surrogate", "far"),
    [
        (total_return, score, 0.0),
        (reward_to_go, score, 0.0),
        (baselined(reward_to_go, baselines.leave_one_out), score, 0.0),
        (total_return, trajectory_weight, 0.05),
        (off_policy_reward_to_go, stopped_prefix, 0.05),
        (reward_to_go, stopped_prefix, 0.0),
        (reward_to_go, ratio, 0.0),
    ],
)
def test_a_neural_policys_gradient_on_frozen_lake(credit, surrogate, far):
    """The mean over 20 000 trajectories lies within its error of the exact gradient, parameter by parameter."""
    environment, agent, params = agent_on("FrozenLake-misc", scale=3.0)
    environment, count = environment._replace(horizon=20), 20_000
    tables = oracle.from_gymnax("FrozenLake-misc", horizon=20)
    exact = oracle.exact_gradient(tables.mdp, tables.log_policy(agent), params)
    noise = jax.random.normal(jax.random.key(8), (4,))
    before = jax.tree.map(lambda x: x, params)
    before["policy"]["net"]["params"]["Dense_1"]["bias"] += far * noise

    @jax.jit
    def sample(keys):
        rows = rollout.episodes(environment, partial(agent.policy, before), keys)
        x = log_ratio(agent.policy(params, rows.observation), rows)
        ends = {"terminated": rows.terminated, "truncated": rows.truncated}
        signals = make_signals(rows.reward, mask=rows.mask, log_ratio=x, **ends)
        estimator = product(credit, surrogate)
        return gradients.trajectory_gradients(agent, estimator, params, Batch(rows, signals, estimator.credit(signals)))

    each = sample(jax.random.split(jax.random.key(5), count))
    deviations = jax.tree.map(lambda g, e: (g.mean(0) - e) / (g.std(0) / np.sqrt(count) + 1e-7), each, exact["policy"])
    flat = np.concatenate([np.ravel(d) for d in jax.tree.leaves(deviations)])
    assert np.abs(flat).max() < 5 and np.mean(np.abs(flat) < 2) > 0.85


def test_other_environments_are_refused():
    with pytest.raises(SettingError, match="CartPole-v1.*FrozenLake"):
        oracle.from_gymnax("CartPole-v1")
