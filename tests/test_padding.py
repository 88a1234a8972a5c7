"""What follows the end of an episode costs nothing and changes nothing."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax import algorithms, environments, make_agent, normalise_observations, rollout
from pgjax.engine import engine
from pgjax.estimators.reductions import size_of
from pgjax.training.gradients import loss_gradient
from pgjax.training.loss import Batch, loss
from pgjax.training.signals import credit_of, first_memory, signals_of, target_of


def test_rollouts_that_stop_early_give_what_those_to_the_horizon_give():
    environment = environments.make("CartPole-v1")
    agent = make_agent(environment, hidden=(4,))
    params = jax.vmap(agent.init)(jax.random.split(jax.random.key(0), 2))
    keys = jax.vmap(lambda k: jax.random.split(k, 5))(jax.random.split(jax.random.key(1), 2))

    def two_runs(how):
        return jax.vmap(lambda p, k: rollout.episodes(environment, rollout.actor(agent, p), k, how=how))(params, keys)

    early = two_runs(engine("cpu"))
    chex.assert_trees_all_equal(early, two_runs(engine("plain")))
    lengths = np.asarray(early.mask.sum(axis=1))
    assert lengths.max() < 250 and lengths.min(axis=1).max() < lengths.max()


@pytest.mark.parametrize("name", ["reinforce", "first_order", "doubly_robust"])
def test_a_gradient_over_executed_steps_is_that_over_all_rows(name):
    environment = environments.make("CartPole-v1")
    recipe = algorithms.ALGORITHMS[name]()
    config = replace(recipe.config, num_envs=16)
    agent = normalise_observations(make_agent(environment, hidden=(4,), critic=config.critic), environment)
    params, other = (agent.init(jax.random.key(i)) for i in (0, 1))
    keys = jax.random.split(jax.random.key(2), config.num_envs)
    rows = rollout.episodes(environment, rollout.actor(agent, params), keys)
    signals = signals_of(agent, recipe.algorithm, config, other, rows)
    credit, target = credit_of(recipe.algorithm, config, signals), target_of(recipe.algorithm, signals)
    batch, size = Batch(rows, signals, credit, target, first_memory(agent, rows)), size_of(rows.mask)
    assert 256 < size.steps < 0.2 * rows.mask.size and size.steps % 256
    found = loss_gradient(agent, recipe.algorithm, config, other, batch, size)
    wanted = jax.grad(loss, argnums=3, has_aux=True)(agent, recipe.algorithm, config, other, batch, size)
    chex.assert_trees_all_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert max(jnp.abs(x).max() for x in jax.tree.leaves(found[0]["policy"])) > 1e-2


def test_padding_is_not_differentiated():
    """Rows behind the ends may hold anything at all."""
    environment = environments.make("CartPole-v1")
    recipe = algorithms.reinforce()
    config = replace(recipe.config, num_envs=4)
    agent = make_agent(environment, hidden=(4,))
    params = agent.init(jax.random.key(0))
    rows = rollout.episodes(environment, rollout.actor(agent, params), jax.random.split(jax.random.key(2), 4))
    signals = signals_of(agent, recipe.algorithm, config, params, rows)
    batch = Batch(rows, signals, credit_of(recipe.algorithm, config, signals))
    spoilt = rows._replace(observation=jnp.where(rows.mask[..., None] > 0, rows.observation, jnp.nan))
    found = [
        loss_gradient(agent, recipe.algorithm, config, params, batch._replace(transition=t), size_of(rows.mask))
        for t in (rows, spoilt)
    ]
    chex.assert_trees_all_equal(*found)
