"""Seeing it learn: the slow suite (`pytest -m slow`). Each figure is one that a README quotes."""

import jax
import pytest

from pgjax import BASELINES, Config, environments, evaluate_runs, make_agent, make_trainer, reinforce, sweep

pytestmark = pytest.mark.slow


def greedy_return(environment, recipe, config, total_steps, seeds=4):
    agent = make_agent(environment, critic=config.critic)
    result = sweep(make_trainer(environment, agent, config), recipe.algorithm, seeds=seeds, total_steps=total_steps)
    return evaluate_runs(environment, agent, result.runs, jax.random.key(1 << 31), greedy=True).mean()


@pytest.mark.parametrize(
    "baseline",
    list(BASELINES),
)
def test_cartpole_with_each_baseline(baseline):
    recipe = reinforce(baseline=baseline, baseline_constant=100.0, learning_rate=2e-3)
    config = Config(num_envs=32, critic=recipe.config.critic)
    assert greedy_return(environments.make("CartPole-v1"), recipe, config, 800_000, seeds=8) >= 475


def test_catch():
    recipe = reinforce(learning_rate=5e-3)
    assert greedy_return(environments.make("Catch-bsuite"), recipe, Config(num_envs=64), 150_000) >= 0.99


def test_pendulum_is_clearly_above_random():
    recipe = reinforce(learning_rate=4e-3, baseline="time_step", discount=0.95)
    assert greedy_return(environments.make("Pendulum-v1"), recipe, Config(num_envs=64), 4_000_000) > -400
