"""Exact tables of gymnax environments against the environments, and a neural policy's gradient against samples."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from pgjax import (
    SettingError,
    all_action,
    baselined,
    baselines,
    doubly_robust,
    environments,
    gae,
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
from pgjax.estimators.returns import make_signals
from pgjax.training.loss import Batch
from pgjax.training.signals import log_ratio

NAMES = ["FrozenLake-misc", "FourRooms-misc", "Catch-bsuite", "DeepSea-bsuite"]


def agent_on(name, scale=30.0):
    """An agent with a preference, its parameters, and the environment."""
    environment = environments.make(name)
    agent = make_agent(environment, hidden=(8,))
    params = agent.init(jax.random.key(3))
    params["policy"]["net"]["params"]["Dense_1"]["kernel"] *= scale
    return environment, agent, params


@pytest.mark.costly
@pytest.mark.few(1)
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


with_value = baselines.state_value
ESTIMATORS = {  # name: (estimator, whose mean it has, whether another policy draws the trajectories)
    "total return": (product(total_return, score), "exact", False),
    "reward-to-go": (product(reward_to_go, score), "exact", False),
    "reward-to-go, leave-one-out": (product(baselined(reward_to_go, baselines.leave_one_out), score), "exact", False),
    "GAE": (product(gae, score), "exact", False),
    "all actions": (all_action(), "exact", False),
    "trajectory": (product(total_return, trajectory_weight), "exact", True),
    "per decision": (product(off_policy_reward_to_go, stopped_prefix), "exact", True),
    "per decision, value": (product(baselined(off_policy_reward_to_go, with_value), stopped_prefix), "exact", True),
    "doubly robust": (doubly_robust(), "exact", True),
    "prefix": (product(reward_to_go, stopped_prefix), "prefix", True),
    "suffix": (product(off_policy_reward_to_go, ratio), "suffix", True),
    "first order": (product(reward_to_go, ratio), "first_order", True),
}
FROZEN, STEPS, COUNT = "FrozenLake-misc", 20, 20_000


@pytest.fixture(scope="module")
def frozen_lake():
    """A small network and one that acts instead, trajectories of both, exact means and values."""
    environment, agent, params = agent_on(FROZEN, scale=3.0)
    tables = oracle.from_gymnax(FROZEN, horizon=STEPS)
    other = jax.tree.map(lambda x: x, params)
    other["policy"]["net"]["params"]["Dense_1"]["bias"] += 0.3 * jax.random.normal(jax.random.key(8), (4,))
    log_policy = tables.log_policy(agent)
    means = oracle.mean_gradients(tables.mdp, log_policy, params, log_policy(other))
    roll = jax.jit(
        lambda p, key: rollout.episodes(
            environment._replace(horizon=STEPS), partial(agent.policy, p), jax.random.split(key, COUNT)
        )
    )
    rows = {far: roll(p, jax.random.key(5)) for far, p in ((False, params), (True, other))}
    return agent, params, tables, rows, means, {far: log_policy(p) for far, p in ((False, params), (True, other))}


@pytest.mark.costly
@pytest.mark.few(4)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_neural_policys_gradient_on_frozen_lake(frozen_lake, name):
    """The mean over 20 000 trajectories lies within its error of the exact mean, parameter by parameter."""
    agent, params, tables, rows, means, log_probs = frozen_lake
    estimator, whose, far = ESTIMATORS[name]
    values = oracle.exact_values(tables.mdp, log_probs[far])  # of the policy that acts
    place = np.zeros(16, int)  # holes and the goal have no row: nothing follows them
    place[np.asarray(tables.observations)] = np.arange(len(tables.observations))
    place = jnp.asarray(place)

    @jax.jit
    def each(rows):
        time, here, there = jnp.arange(STEPS)[:, None], place[rows.observation], place[rows.next_observation]
        signals = make_signals(
            rows.reward,
            mask=rows.mask,
            terminated=rows.terminated,
            truncated=rows.truncated,
            log_ratio=log_ratio(agent.policy(params, rows.observation), rows),
            value=values.value[time, here],
            next_value=values.value[time + 1, there],
            action_value=values.action_value[time, here],
            action=rows.action,
        )
        return gradients.trajectory_gradients(agent, estimator, params, Batch(rows, signals, estimator.credit(signals)))

    found = jax.vmap(lambda g: ravel_pytree(g)[0])(each(rows[far]))
    error = found.std(0) / np.sqrt(COUNT) + 1e-7
    deviation = np.abs(found.mean(0) - getattr(means, whose)) / error
    assert deviation.max() < 5 and np.mean(deviation < 2) > 0.85


def test_other_environments_are_refused():
    with pytest.raises(SettingError, match="CartPole-v1.*FrozenLake"):
        oracle.from_gymnax("CartPole-v1")
