"""Networks of one's own, observations of any shape, action masks."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from flax import nnx

from pgjax import (
    Environment,
    SettingError,
    environments,
    evaluate,
    from_networks,
    importance_sampling,
    make_agent,
    make_trainer,
    ppo,
    reinforce,
    rollout,
    train,
)
from pgjax.policies.networks import CNN, MLP
from pgjax.types import Discrete


class NNXNetwork(NamedTuple):
    """A flax NNX module as a pair of pure functions."""

    outputs: int

    def build(self, key, x):
        rngs = nnx.Rngs(key)
        layers = nnx.Linear(x.shape[-1], 8, rngs=rngs), nnx.tanh, nnx.Linear(8, self.outputs, rngs=rngs)
        return nnx.split(nnx.Sequential(*layers))

    def init(self, key, x):
        return nnx.to_pure_dict(self.build(key, x)[1])

    def apply(self, params, x):
        graph, state = self.build(jax.random.key(0), x)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)(x)


class EquinoxNetwork(NamedTuple):
    """An equinox module the same way: its arrays are the parameters, the rest is rebuilt."""

    outputs: int

    def build(self, key, x):
        import equinox as eqx

        return eqx.partition(eqx.nn.MLP(x.shape[-1], self.outputs, 8, 1, jnp.tanh, key=key), eqx.is_array)

    def init(self, key, x):
        return self.build(key, x)[0]

    def apply(self, params, x):
        import equinox as eqx

        module = eqx.combine(params, self.build(jax.random.key(0), x)[1])
        rows = jax.vmap(module)(x.reshape(-1, x.shape[-1]))
        return rows.reshape(*x.shape[:-1], -1)


@pytest.mark.costly
@pytest.mark.parametrize("network", [NNXNetwork, EquinoxNetwork])
def test_any_pair_of_pure_functions_is_a_network(network):
    if network is EquinoxNetwork:
        pytest.importorskip("equinox")
    environment = probes.delayed_choice()
    recipe = ppo(learning_rate=0.03)
    agent = from_networks(environment, network(2), network(1), critic="state")
    trainer = make_trainer(environment, agent, replace(recipe.config, num_envs=32, num_steps=4))
    state, _ = train(trainer, recipe.algorithm, jax.random.key(0), 60)
    assert evaluate(environment, agent, state.params, jax.random.key(1), greedy=True).mean() == 1.0


@pytest.mark.costly
def test_shared_layers_are_trained_by_both():
    environment = probes.delayed_choice()
    recipe = ppo(learning_rate=0.02)
    agent = make_agent(environment, hidden=(8,), critic="state", shared=True)
    trainer = make_trainer(environment, agent, replace(recipe.config, num_envs=32, num_steps=4))
    state, _ = train(trainer, recipe.algorithm, jax.random.key(0), 80)
    assert set(state.params) == {"policy", "value", "shared"}
    assert evaluate(environment, agent, state.params, jax.random.key(1), greedy=True).mean() == 1.0


def masked_bandit():
    """Three arms, the best one masked; the observation is a dict with a nested part."""
    shape = {
        "action_mask": jax.ShapeDtypeStruct((3,), jnp.float32),
        "seen": (jax.ShapeDtypeStruct((2, 2), jnp.int32), jax.ShapeDtypeStruct((), jnp.float32)),
    }

    def reset(key):
        observation = {
            "action_mask": jnp.array([1.0, 1.0, 0.0]),
            "seen": (jax.random.randint(key, (2, 2), 0, 2), jnp.float32(0.5)),
        }
        return observation, observation

    def step(key, state, action):
        return state, state, jnp.float32(action), jnp.bool_(True), jnp.bool_(False)

    return Environment("masked bandit", reset, step, shape, None, Discrete(3), 1)


@pytest.mark.costly
@pytest.mark.parametrize("recipe", [reinforce(learning_rate=0.05), importance_sampling("first_order")])
def test_masked_actions_are_never_taken_and_everything_stays_finite(recipe):
    environment = masked_bandit()
    agent = make_agent(environment, hidden=(8,))
    trainer = make_trainer(environment, agent, replace(recipe.config, num_envs=32))
    state, metrics = train(trainer, recipe.algorithm, jax.random.key(0), 60)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.params, metrics)))

    @jax.jit
    def played(params):
        keys = jax.random.split(jax.random.key(1), 256)
        rows = rollout.episodes(environment, rollout.actor(agent, params), keys)
        distribution = agent.policy(params, rows.observation)
        return rows.action, distribution.entropy(), distribution.kl(distribution)

    action, entropy, kl = played(state.params)
    assert set(np.unique(action)) <= {0, 1}
    assert evaluate(environment, agent, state.params, jax.random.key(1), greedy=True).mean() == 1.0
    assert np.isfinite(entropy).all() and np.allclose(kl, 0)


def test_networks_that_do_not_fit_are_refused():
    environment = probes.bandit()
    with pytest.raises(SettingError, match="^critic: "):
        from_networks(environment, NNXNetwork(2), critic="state")
    with pytest.raises(SettingError, match="^critic: .*continuous"):
        make_agent(probes.target(), critic="action")
    with pytest.raises(SettingError, match="^shared: "):
        make_agent(environment, shared=True)
    with pytest.raises(SettingError, match="^memory: 'rnn' is none of none, gru, lstm"):
        make_agent(environment, memory="rnn")
    with pytest.raises(SettingError, match="^hidden: "):
        make_agent(environment, memory="gru", hidden=())


@pytest.mark.costly
def test_an_agent_made_under_vmap_is_initialised_under_vmap():
    environment = probes.target()

    def init(log_std, key):
        return from_networks(environment, MLP((3,), 1, 1.0), initial_log_std=log_std).init(key)

    log_stds, keys = jnp.array([-1.0, 0.5]), jax.random.split(jax.random.key(0), 2)
    together = jax.vmap(init)(log_stds, keys)
    for i in range(2):
        alone = init(log_stds[i], keys[i])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[i], b, rtol=1e-6), together, alone)  # noqa: B023
    assert together["policy"]["log_std"].ravel().tolist() == [-1.0, 0.5]


@pytest.mark.costly
def test_the_cnn_is_a_convolution():
    assert CNN((6,), 2, 1.0).init_with_output(jax.random.key(0), jnp.zeros((0, 5, 4, 1)))[0].shape == (0, 2)
    x = jax.random.normal(jax.random.key(0), (5, 10, 8, 3))
    network = CNN((6,), 2, 1.0)
    params = network.init(jax.random.key(1), x)["params"]
    kernel, layers = params["Dense_0"]["kernel"].reshape(3, 3, 3, 16), params["MLP_0"]
    maps = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    hidden = jnp.tanh(jax.nn.relu(maps).reshape(5, -1) @ layers["Dense_0"]["kernel"])
    np.testing.assert_allclose(network.apply({"params": params}, x), hidden @ layers["Dense_1"]["kernel"], atol=1e-5)


def test_the_same_arguments_give_the_same_agent_also_where_it_is_first_made_inside_a_trace():
    environment = probes.bandit()
    shapes = jax.eval_shape(lambda key: make_agent(environment, hidden=(3,)).init(key), jax.random.key(0))
    agent = make_agent(environment, hidden=[3])
    assert agent is make_agent(environment, hidden=(3,)) is not make_agent(environment, hidden=(3,), dropout=0.5)
    params = agent.init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    with jax.enable_x64(True):
        assert make_agent(environment, hidden=(3,)) is not agent


@pytest.mark.parametrize("hidden", [4, (4.0,), "64", (0,), ((4,),), (4, (4,))])
def test_widths_that_are_none_are_refused(hidden):
    with pytest.raises(SettingError, match="hidden.*must be positive whole numbers"):
        make_agent(environments.make("CartPole-v1"), hidden=hidden)


def test_an_example_may_stand_for_an_observation():
    def reset(key):
        return jnp.zeros(3), 0

    def step(key, state, action):
        return jnp.zeros(3), state + 1, 1.0, state >= 3, False

    first, again, other = (
        Environment("small", reset, step, np.zeros(n, np.float32), None, Discrete(2), horizon=5) for n in (3, 3, 4)
    )
    assert first == again and first != other
    assert len({first, again, other}) == 2
    assert make_agent(first) is make_agent(again)


def test_categories_of_two_may_be_booleans():
    def reset(key):
        return jnp.zeros(3, bool), 0

    def step(key, state, action):
        return jnp.ones(3, bool), state + 1, 1.0, state >= 3, False

    seen = jax.ShapeDtypeStruct((3,), bool)
    agent = make_agent(Environment("bits", reset, step, seen, 2, Discrete(2), horizon=5))
    params = agent.init(jax.random.key(0))
    logits = agent.policy(params, jnp.array([[False] * 3, [True] * 3])).logits
    assert logits.shape == (2, 2) and not np.allclose(logits[0], logits[1])


def test_an_observation_without_numbers_is_refused():
    empty = jax.ShapeDtypeStruct((0, 2), jnp.float32)
    environment = Environment("empty", lambda key: None, lambda *_: None, empty, None, Discrete(2), horizon=5)
    with pytest.raises(SettingError, match="empty.*without numbers"):
        make_agent(environment)
