"""What follows the end of an episode costs nothing and changes nothing."""

from dataclasses import replace
from functools import partial

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


@pytest.mark.costly
def test_rollouts_that_stop_early_give_what_those_to_the_horizon_give():
    environment = environments.make("CartPole-v1")
    agent = make_agent(environment, hidden=(4,))

    @jax.jit
    def two_runs():
        params = jax.vmap(agent.init)(jax.random.split(jax.random.key(0), 2))
        keys = jax.random.split(jax.random.key(1), (2, 5))

        def one(how, params, keys):
            return rollout.episodes(environment, rollout.actor(agent, params), keys, how=how)

        return [jax.vmap(partial(one, engine(how)))(params, keys) for how in ("cpu", "plain")]

    early, to_the_horizon = two_runs()
    chex.assert_trees_all_equal(early, to_the_horizon)
    lengths = np.asarray(early.mask.sum(axis=1))
    assert lengths.max() < 250 and lengths.min(axis=1).max() < lengths.max()


@pytest.mark.costly
@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["reinforce", "first_order", "doubly_robust"])
def test_a_gradient_over_executed_steps_is_that_over_all_rows(name):
    environment = environments.make("CartPole-v1")
    recipe = algorithms.ALGORITHMS[name]()
    config = replace(recipe.config, num_envs=16)
    agent = normalise_observations(make_agent(environment, hidden=(4,), critic=config.critic), environment)

    @jax.jit
    def both():
        params, other = (agent.init(jax.random.key(i)) for i in (0, 1))
        keys = jax.random.split(jax.random.key(2), config.num_envs)
        rows = rollout.episodes(environment, rollout.actor(agent, params), keys)
        signals = signals_of(agent, recipe.algorithm, config, other, rows)
        credit, target = credit_of(recipe.algorithm, config, signals), target_of(recipe.algorithm, signals)
        batch, size = Batch(rows, signals, credit, target, first_memory(agent, rows)), size_of(rows.mask)
        found = loss_gradient(agent, recipe.algorithm, config, other, batch, size)
        wanted = jax.grad(loss, argnums=3, has_aux=True)(agent, recipe.algorithm, config, other, batch, size)
        return rows.mask, size.steps, found, wanted

    mask, steps, found, wanted = both()
    assert 256 < steps < 0.2 * mask.size and steps % 256
    chex.assert_trees_all_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert max(jnp.abs(x).max() for x in jax.tree.leaves(found[0]["policy"])) > 1e-2


@pytest.mark.costly
def test_padding_is_not_differentiated():
    """Rows behind the ends may hold anything at all."""
    environment = environments.make("CartPole-v1")
    recipe = algorithms.reinforce()
    config = replace(recipe.config, num_envs=4)
    agent = make_agent(environment, hidden=(4,))

    @jax.jit
    def gradient(behind):
        params = agent.init(jax.random.key(0))
        rows = rollout.episodes(environment, rollout.actor(agent, params), jax.random.split(jax.random.key(2), 4))
        signals = signals_of(agent, recipe.algorithm, config, params, rows)
        batch = Batch(rows, signals, credit_of(recipe.algorithm, config, signals))
        spoilt = rows._replace(observation=jnp.where(rows.mask[..., None] > 0, rows.observation, behind))
        batch = batch._replace(transition=spoilt)
        return rows.mask, loss_gradient(agent, recipe.algorithm, config, params, batch, size_of(rows.mask))

    (mask, found), (_, spoilt) = gradient(0.0), gradient(jnp.nan)
    assert (mask == 0).any()
    chex.assert_trees_all_equal(found, spoilt)
