"""Credits with a critic: identities, agreement with rlax, and truncation as the user chose it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax import (
    Environment,
    a2c,
    clipped_ratio,
    gae,
    lambda_return,
    make_agent,
    make_signals,
    make_trainer,
    ratio,
    reward_to_go,
    td_error,
    train,
    vtrace,
    vtrace_target,
)
from pgjax.types import Discrete


def random_signals(seed=0, steps=12, envs=5, ratios=0.0, discount=0.9, ends=True):
    """A stream in which episodes end both ways, and its value network's output."""
    rng = np.random.default_rng(seed)
    terminated, truncated = (rng.random((steps, envs)) < 0.15 * ends for _ in range(2))
    return make_signals(
        rng.normal(size=(steps, envs)),
        terminated=terminated,
        truncated=truncated,
        discount=discount,
        value=rng.normal(size=(steps, envs)),
        next_value=rng.normal(size=(steps, envs)),
        log_ratio=ratios * rng.normal(size=(steps, envs)),
    )


def linked(signals):
    """The same with V(s_{t+1}) the next row's V wherever the episode goes on, as a rollout has it."""
    following = jnp.concatenate([signals.value[1:], signals.next_value[-1:]])
    inner = (signals.continues > 0) & (jnp.arange(len(following)) < len(following) - 1)[:, None]
    return signals._replace(next_value=jnp.where(inner, following, signals.next_value))


def test_lambda_zero_is_the_one_step_error():
    signals = random_signals()
    np.testing.assert_allclose(gae(signals, 0.0), td_error(signals), rtol=1e-6)


def test_lambda_one_is_the_return_minus_the_value_whatever_the_critic():
    """Telescopes: the bootstrapped return of each episode minus V, for any V."""
    signals = linked(random_signals())
    bootstrapped = signals.reward + signals.discount * jnp.where(signals.continues > 0, 0.0, signals.next_value)
    last = jnp.where(signals.continues[-1] > 0, signals.discount[-1] * signals.next_value[-1], 0.0)
    returns = reward_to_go(signals._replace(reward=bootstrapped.at[-1].add(last)))
    np.testing.assert_allclose(gae(signals, 1.0), returns - signals.value, atol=1e-5)
    np.testing.assert_allclose(lambda_return(signals, 1.0), returns, atol=1e-5)


def test_the_chain_is_cut_at_either_end_but_only_termination_ends_the_value():
    def first(**ends):
        return gae(make_signals([1.0, 5.0], value=[0.0, 0.0], next_value=[10.0, 0.0], **ends), 1.0)[0]

    assert first() == 16.0  # 1 + 10 + (5 + 0 − 0) … with V(s₁) = 0 recorded, the error of step 1 follows
    assert first(truncated=[True, False]) == 11.0
    assert first(terminated=[True, False]) == 1.0
    assert first(terminated=[True, False], truncated=[True, False]) == 1.0
    assert first(truncated=[True, False], truncation="terminal") == 1.0


def test_on_policy_vtrace_is_the_return():
    signals = linked(random_signals())
    for bars in ({}, {"max_rho": 2.0, "max_c": 3.0}):
        np.testing.assert_allclose(vtrace(signals, **bars), gae(signals, 1.0), atol=1e-5)
    np.testing.assert_allclose(vtrace_target(signals, 0.0), signals.value + td_error(signals), atol=1e-6)


def test_infinite_clip_is_the_ratio_and_the_gradient_stops_where_it_should():
    x, psi, on = jnp.linspace(-1, 1, 41), jnp.ones(41), jnp.ones(41)
    np.testing.assert_allclose(clipped_ratio(x, psi, on, clip=jnp.inf), ratio(x, psi, on), rtol=1e-6)
    slope = jax.vmap(jax.grad(lambda x, psi: clipped_ratio(x, psi, 1.0, clip=0.2)))
    rho = jnp.exp(x)
    np.testing.assert_array_equal(slope(x, psi) == 0, rho > 1.2)
    np.testing.assert_array_equal(slope(x, -psi) == 0, rho < 0.8)


@pytest.mark.parametrize("seed", range(3))
def test_agreement_with_rlax(seed):
    rlax = pytest.importorskip("rlax")
    signals = linked(random_signals(seed, ratios=0.5, ends=False))
    values = jnp.concatenate([signals.value, signals.next_value[-1:]])
    each = jax.vmap(rlax.truncated_generalized_advantage_estimation, (1, 1, None, 1), 1)
    np.testing.assert_allclose(gae(signals, 0.8), each(signals.reward, signals.discount, 0.8, values), atol=1e-5)
    rho = jnp.exp(signals.log_ratio)
    columns = (signals.value, signals.next_value, signals.reward, signals.discount, rho)
    theirs = jax.vmap(rlax.vtrace_td_error_and_advantage, 1, 1)(*columns)
    np.testing.assert_allclose(vtrace(signals), theirs.pg_advantage, atol=1e-5)
    np.testing.assert_allclose(vtrace_target(signals) - signals.value, theirs.errors, atol=1e-5)
    advantage = gae(signals, 0.8)
    ours = clipped_ratio(signals.log_ratio, advantage, signals.continues, clip=0.2)
    np.testing.assert_allclose(
        -jnp.mean(ours), rlax.clipped_surrogate_pg_loss(rho.ravel(), advantage.ravel(), 0.2), rtol=1e-5
    )


def endless():
    """Reward 1 for ever, cut after every second step; the observation never changes."""

    def reset(key):
        return jnp.zeros(1), jnp.int32(0)

    def step(key, state, action):
        return jnp.zeros(1), state + 1, jnp.float32(1.0), jnp.bool_(False), state == 1

    return Environment("endless", reset, step, jax.ShapeDtypeStruct((1,), jnp.float32), None, Discrete(2), 2)


@pytest.mark.costly
@pytest.mark.parametrize(("truncation", "value"), [("bootstrap", 1 / (1 - 0.8)), ("terminal", (1 + 1.8) / 2)])
def test_the_value_of_a_constant_reward_is_infinite_or_finite_as_chosen(truncation, value):
    environment = endless()
    recipe = a2c(discount=0.8, gae_lambda=1.0, learning_rate=0.02)
    agent = make_agent(environment, critic="state", hidden=(8,))
    config = replace(recipe.config, num_envs=8, num_steps=8, truncation=truncation)
    state, _ = train(make_trainer(environment, agent, config), recipe.algorithm, jax.random.key(0), 500)
    np.testing.assert_allclose(agent.value(state.params, jnp.zeros(1)), value, rtol=0.02)
