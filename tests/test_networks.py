"""Memories of every kind, with masks and images; layer norm; dropout whose mask is that of the step."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

from pgjax import (
    ALGORITHMS,
    Environment,
    SettingError,
    a2c,
    collect,
    environments,
    evaluate,
    from_networks,
    make_agent,
    make_trainer,
    normalise_observations,
    ppo,
    reinforce,
    rollout,
    train,
)
from pgjax.estimators.reductions import size_of
from pgjax.policies.networks import CNN, MLP, Recurrent, _carry
from pgjax.policies.products import product
from pgjax.training.loss import loss
from pgjax.training.signals import log_prob_of, policy_on
from pgjax.types import Discrete, KeyData, Keyed

KEY = jax.random.key(0)


def remember(steps=3):
    """A sign is shown once and must be named at the end; two of four choices are allowed, which two changes each step.

    What is forbidden would earn more.
    """
    shapes = {
        "picture": jax.ShapeDtypeStruct((3, 3, 1), jnp.float32),
        "time": jax.ShapeDtypeStruct((1,), jnp.float32),
        "action_mask": jax.ShapeDtypeStruct((4,), jnp.bool_),
    }

    def observed(state):
        t, sign, turned = state
        shown = jnp.where(t == 0, sign, 0.0)
        mask = jnp.where(turned, jnp.array([0, 0, 1, 1]), jnp.array([1, 1, 0, 0]))
        return {"picture": jnp.full((3, 3, 1), shown), "time": jnp.array([t / steps]), "action_mask": mask > 0}

    def reset(key):
        a, b = jax.random.split(key)
        state = jnp.int32(0), jnp.where(jax.random.bernoulli(a), 1.0, -1.0), jax.random.bernoulli(b)
        return observed(state), state

    def step(key, state, action):
        t, sign, turned = state
        allowed = (action >= 2) == turned
        last = t == steps - 1
        named = jnp.where(action % 2 == 1, 1.0, -1.0)
        reward = jnp.where(allowed, jnp.where(last, named * sign, 0.0), 9.0)
        state = t + 1, sign, jax.random.bernoulli(key)
        return observed(state), state, reward, last, jnp.bool_(False)

    return Environment("remember", reset, step, shapes, None, Discrete(4), steps)


MEMORIES = {
    "gru": {"memory": "gru"},
    "lstm": {"memory": "lstm", "separate_memory": True},
    "own cell": {"memory": nn.SimpleCell(8)},
    "dropout": {"memory": "gru", "dropout": 0.5, "layer_norm": True},
    "vectors": {"memory": "gru", "network": "mlp"},
}


@pytest.mark.costly
@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("name", "rollout"),
    [
        pytest.param("gru", "stream", marks=pytest.mark.slow),  # "dropout" is a GRU that sees pictures, too
        *((name, "stream") for name in MEMORIES if name != "gru"),
        ("lstm", "episodes"),
        pytest.param("dropout", "episodes", marks=pytest.mark.slow),
    ],
)
def test_what_is_recorded_is_what_is_recomputed(name, rollout):
    """log π of the taken actions, under masks, across resets, batch after batch, streams and whole episodes."""
    environment = remember()
    agent = make_agent(environment, hidden=(8,), critic="state", **MEMORIES[name])
    algorithm, config = ppo().algorithm, ppo().config if rollout == "stream" else reinforce().config
    config = replace(config, num_envs=6, num_steps=5, critic="state", minibatches=1)
    trainer = make_trainer(environment, agent, config)

    @jax.jit
    def batch(params, state):
        found = collect(trainer, algorithm, state._replace(params=params))
        following = state._replace(rollout_state=found.rollout_state, key=jax.random.key(7))
        rows, memory = found.batch.transition, found.batch.memory
        return rows, log_prob_of(agent, params, rows, memory), following

    state = jax.jit(trainer.init)(algorithm, KEY)
    params = state.params | {"policy": jax.tree.map(lambda x: 30.0 * x, state.params["policy"])}
    for _ in range(2):
        rows, again, state = batch(params, state)
        np.testing.assert_allclose(again, np.where(rows.mask > 0, rows.log_prob, 0), atol=2e-5)
        assert np.std(rows.log_prob[rows.mask > 0]) > 0.03
        assert set(np.unique(rows.reward)) <= {-1.0, 0.0, 1.0}  # nothing forbidden was done


@pytest.mark.costly
@pytest.mark.few(1)
@pytest.mark.parametrize("memory", [{}, {"memory": "gru"}])
@pytest.mark.parametrize("config", [{}, {"accumulate": 2}])
def test_dropout_keeps_its_mask_for_a_step_and_draws_anew_for_the_next(memory, config):
    environment = probes.delayed_choice()
    agent = make_agent(environment, hidden=(64,), critic="state", dropout=0.5, **memory)
    recipe = a2c()
    trainer = make_trainer(environment, agent, replace(recipe.config, num_envs=8, num_steps=4, **config))
    state = jax.jit(trainer.init)(recipe.algorithm, KEY)
    if config.get("accumulate"):
        new, _ = jax.jit(trainer.update)(recipe.algorithm, state)
        whole = make_trainer(environment, agent, replace(recipe.config, num_envs=8, num_steps=4))
        other, _ = jax.jit(whole.update)(recipe.algorithm, state)
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), new.params, other.params)
        return
    found = jax.jit(collect, static_argnums=0)(trainer, recipe.algorithm, state)
    rows, first = found.batch.transition, found.batch.memory
    assert isinstance(rows.observation, Keyed)
    on = jax.jit(policy_on, static_argnums=0)
    policy = on(agent, state.params, rows, first)
    np.testing.assert_allclose(policy.log_prob(rows.action), rows.log_prob, atol=1e-6)
    other = KeyData.of(jax.random.split(jax.random.key(9), rows.mask.shape))
    moved = rows._replace(observation=rows.observation._replace(key=other))
    apart = np.abs(on(agent, state.params, moved, first).logits - policy.logits)
    assert apart.max(axis=-1).min() > 1e-5
    keys = np.asarray(rows.observation.key.data).reshape(-1, 2)
    assert len(np.unique(keys, axis=0)) == rows.mask.size


@pytest.mark.slow
def test_every_engine_gives_the_critic_the_same_keys():
    """A critic with dropout: V after a step is that of the next row, whose units it leaves out."""
    environment, recipe = remember(), a2c()
    agent = make_agent(environment, hidden=(8,), critic="state", dropout=0.5)
    after = []
    for engine in ("plain", "cpu", "accelerator"):
        config = replace(recipe.config, num_envs=4, num_steps=7, engine=engine)
        trainer = make_trainer(environment, agent, config)
        state = jax.jit(trainer.init)(recipe.algorithm, KEY)
        for _ in range(2):
            state, _ = jax.jit(trainer.update)(recipe.algorithm, state)
        after.append(state.params)
    for other in after[1:]:
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), other, after[0])


class Thinned(nn.Module):
    """A flax module of one's own that draws where it is given a key."""

    @nn.compact
    def __call__(self, x, key=None):
        x = nn.Dense(16)(x)
        x = x if key is None else jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, 0.0)
        return nn.Dense(2)(x)


class Counting:
    """A memory whose carry is a dict with a whole number."""

    def init(self, key, carry, x):
        return jnp.ones((x.shape[-1],)) * carry["n"]

    def apply(self, params, carry, x):
        return {"n": carry["n"] + 1}, jnp.concatenate([x * params, carry["n"][..., None].astype(x.dtype)], axis=-1)


@pytest.mark.costly
def test_networks_of_ones_own_take_keys_and_carries_of_any_kind():
    environment = probes.delayed_choice()
    agent = from_networks(environment, Thinned())
    assert agent.takes_key and not from_networks(environment, MLP((4,), 2, 1.0)).takes_key
    rows = rollout.episodes(environment, rollout.actor(agent, agent.init(KEY), training=True), jax.random.split(KEY, 4))
    assert isinstance(rows.observation, Keyed)
    recurrent = from_networks(environment, MLP((4,), 2, 1.0), memory=(Counting(), {"n": 0}))
    rows = rollout.episodes(environment, rollout.actor(recurrent, recurrent.init(KEY)), jax.random.split(KEY, 4))
    assert np.isfinite(rows.log_prob).all()


@pytest.mark.slow
def test_dropout_is_off_in_evaluation_and_normalised_observations_go_through_it():
    environment = probes.delayed_choice()
    agent = normalise_observations(make_agent(environment, hidden=(16,), critic="state", dropout=0.5), environment)
    recipe = ppo(learning_rate=0.02)
    trainer = make_trainer(environment, agent, replace(recipe.config, num_envs=32, num_steps=4))
    state, metrics = train(trainer, recipe.algorithm, KEY, 60)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(metrics["entropy"]))
    found = [evaluate(environment, agent, state.params, jax.random.key(k), greedy=True) for k in (1, 2)]
    assert (found[0] == 1.0).all() and (found[1] == 1.0).all()


def test_dropout_leaves_out_its_share_and_keeps_the_mean():
    network, x = MLP((4096,), 0, 1.0, dropout=0.25), jnp.ones(3)
    params = network.init(KEY, x)
    whole, thinned = network.apply(params, x), network.apply(params, x, key=KEY)
    kept = thinned != 0
    assert abs(kept.mean() - 0.75) < 0.03
    np.testing.assert_allclose(thinned[kept], whole[kept] / 0.75, rtol=1e-6)


@pytest.mark.costly
@pytest.mark.few(1)
@pytest.mark.parametrize(("inputs", "outputs"), [(6, 2), (6, 5), (2, 6)])
def test_a_layers_product_has_the_values_and_derivatives_of_a_plain_one(inputs, outputs):
    with jax.enable_x64(True):
        x, kernel, u, v = (
            jax.random.normal(jax.random.key(i), shape)
            for i, shape in enumerate([(3, 4, inputs), (inputs, outputs)] * 2)
        )

        def loss(of, x, kernel):
            return jnp.sum(jnp.sin(of(x, kernel)) ** 2)

        for of, plain in ((partial(loss, product), partial(loss, jnp.matmul)), (product, jnp.matmul)):
            np.testing.assert_allclose(of(x, kernel), plain(x, kernel), rtol=1e-13)
            for mine, its in zip(jax.jvp(of, (x, kernel), (u, v)), jax.jvp(plain, (x, kernel), (u, v)), strict=True):
                np.testing.assert_allclose(mine, its, rtol=1e-12, atol=1e-14)
        of, plain = partial(loss, product), partial(loss, jnp.matmul)
        for derivative in (jax.grad, jax.hessian, lambda f, n: jax.vmap(jax.grad(f, n), (0, None))):
            for argument in ((0,), (1,), (0, 1)):
                mine, its = derivative(of, argument)(x, kernel), derivative(plain, argument)(x, kernel)
                jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12), mine, its)


def test_the_gradient_of_a_narrowing_layer_copies_its_outputs_and_not_its_inputs():
    def gradient(x, kernel):
        return jax.grad(lambda kernel: jnp.sum(jnp.sin(product(x, kernel))))(kernel)

    text = jax.jit(gradient).lower(jnp.ones((32, 12)), jnp.ones((12, 3))).compile().as_text()
    assert {line.split("=")[1].split("{")[0].strip() for line in text.splitlines() if " dot(" in line} == {
        "f32[32,3]",
        "f32[3,12]",
    }


def test_layer_norm_comes_before_the_tanh():
    network, x = MLP((16,), 0, 1.0, layer_norm=True), jax.random.normal(KEY, (3,))
    params = network.init(KEY, x)
    inside = x @ params["params"]["Dense_0"]["kernel"]
    expected = np.tanh((inside - inside.mean()) / np.sqrt(inside.var() + 1e-6))
    np.testing.assert_allclose(network.apply(params, x), expected, atol=1e-5)


@pytest.mark.costly
def test_images_go_through_convolutions_and_the_rest_stands_beside_them():
    a, b, flat = jax.random.normal(KEY, (2, 5, 4, 2)), jnp.ones((2, 3, 3, 1)), jnp.ones((2, 7))
    network = CNN((6,), 2, 1.0)
    params = network.init(KEY, (a, b, flat))["params"]
    assert params["MLP_0"]["Dense_0"]["kernel"].shape == (3 * 2 * 16 + 16 + 7, 6)
    assert params["Dense_0"]["kernel"].shape == (18, 16) and params["Dense_1"]["kernel"].shape == (9, 16)
    out = network.apply({"params": params}, (a, b, flat))
    one = network.apply({"params": params}, (a[1], b[1], flat[1]))
    np.testing.assert_allclose(out[1], one, atol=1e-5)
    grid = probes.bandit()._replace(observation=jax.ShapeDtypeStruct((4, 4), jnp.int32), num_categories=3)
    agent = make_agent(grid, hidden=(4,))  # a grid of categories is an image with a channel for each
    assert agent.init(KEY)["policy"]["net"]["params"]["Dense_0"]["kernel"].shape == (27, 16)


@pytest.mark.costly
def test_a_separate_memory_is_the_critics_alone():
    environment = remember()
    agent = make_agent(environment, hidden=(8,), critic="state", memory="gru", separate_memory=True)
    params, observation = jax.jit(agent.init)(KEY), environment.reset(KEY)[0]

    def both(params):
        _, features = agent.memory.step(params, agent.memory.initial, observation)
        return agent.policy(params, features).log_probs[0], agent.value(params, features)

    of_policy, of_value = jax.jit(jax.jacrev(both))(params)
    assert all((x == 0).all() for x in jax.tree.leaves(of_policy["value"]))
    assert all((x == 0).all() for x in jax.tree.leaves(of_value["policy"]))
    assert any((x != 0).any() for x in jax.tree.leaves(of_value["value"]["memory"]))
    assert jax.eval_shape(both, params)[1].shape == ()


class Scaled(NamedTuple):
    """A trunk of one number that records its calls."""

    calls: list

    def init(self, key, x):
        return jnp.ones(())

    def apply(self, params, x):
        self.calls.append(x.shape)
        return params * x


@pytest.mark.costly
@pytest.mark.parametrize("normalised", [False, True])
def test_a_loss_computes_shared_layers_once(normalised):
    environment, recipe, calls = environments.make("CartPole-v1"), ppo(), []
    heads = MLP((), 2, 0.01), MLP((), 1, 1.0)
    agent = from_networks(environment, *heads, critic="state", trunk=Scaled(calls))
    agent = normalise_observations(agent, environment) if normalised else agent
    config = replace(recipe.config, num_envs=2, num_steps=3)
    trainer = make_trainer(environment, agent, config)
    state = trainer.init(recipe.algorithm, KEY)
    batch = collect(trainer, recipe.algorithm, state).batch
    batch = batch._replace(credit=batch.signals.reward, target=batch.signals.reward)
    size = size_of(batch.signals.mask)
    calls.clear()
    once = loss(agent, recipe.algorithm, config, state.params, batch, size)[0]
    assert calls == [(3, 2, 4)]
    twice = loss(agent._replace(shared=None), recipe.algorithm, config, state.params, batch, size)[0]
    assert len(calls) == 3
    np.testing.assert_allclose(once, twice, rtol=1e-5)


@pytest.mark.costly
@pytest.mark.parametrize("normalised", [False, True])
def test_a_policy_that_changes_the_observation_first_does_not_get_the_shared_layers(normalised):
    environment, recipe = environments.make("CartPole-v1"), ppo()
    agent = make_agent(environment, hidden=(8,), critic="state", shared=True)
    halved = agent._replace(policy=lambda params, x: agent.policy(params, jax.tree.map(lambda leaf: leaf / 2, x)))
    halved = normalise_observations(halved, environment) if normalised else halved
    trainer = make_trainer(environment, halved, replace(recipe.config, num_envs=2, num_steps=3))
    state = trainer.init(recipe.algorithm, KEY)
    rows = collect(trainer, recipe.algorithm, state).batch.transition
    params = halved.observe(state.params, rows.observation, rows.mask) if normalised else state.params
    wanted = halved.policy(params, rows.observation).log_prob(rows.action)
    assert not np.allclose(wanted, agent.policy(params, rows.observation).log_prob(rows.action), atol=1e-5)
    np.testing.assert_allclose(log_prob_of(halved, params, rows), wanted, atol=1e-6)


@pytest.mark.costly
@pytest.mark.few(1)
@pytest.mark.parametrize("settings", [{}, {"memory": "gru"}, {"dropout": 0.5}], ids=["none", "gru", "dropout"])
def test_shared_layers_computed_once_or_twice_give_the_same_update(settings):
    environment, recipe = remember(), ppo()
    agent = make_agent(environment, hidden=(8,), critic="state", shared=True, **settings)
    config = replace(recipe.config, num_envs=4, num_steps=7, epochs=2)
    after = []
    for each in (agent, agent._replace(shared=None)):
        trainer = make_trainer(environment, each, config)
        state = jax.jit(trainer.init)(recipe.algorithm, KEY)
        after.append(jax.jit(trainer.update)(recipe.algorithm, state)[0].params)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), *after)


@pytest.mark.costly
@pytest.mark.parametrize(
    "method", ["reinforce", *(pytest.param(m, marks=pytest.mark.slow) for m in ("ppo", "trpo", "vtrace"))]
)
def test_a_recurrent_masked_policy_remembers_what_a_picture_showed(method):
    environment = remember()
    rate = {} if method == "trpo" else {"learning_rate": {"reinforce": 0.02, "ppo": 0.01, "vtrace": 0.01}[method]}
    recipe = ALGORITHMS[method](**rate)
    steps = {} if method == "reinforce" else {"num_steps": 12, "minibatches": 1}
    separate = method == "trpo"  # a natural step needs a policy of its own
    memory = {"memory": "gru", "separate_memory": separate}
    agent = make_agent(environment, hidden=(16,), critic=recipe.config.critic, **memory)
    trainer = make_trainer(environment, agent, replace(recipe.config, num_envs=64, **steps))
    state, _ = jax.jit(partial(train, trainer, num_updates=150))(recipe.algorithm, KEY)
    assert evaluate(environment, agent, state.params, jax.random.key(1), greedy=True).mean() == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"separate_memory": True}, "separate_memory: True needs a memory"),
        ({"memory": "gru", "separate_memory": True, "critic": "none"}, "separate_memory: True needs a critic"),
        ({"memory": "gru", "separate_memory": True, "shared": True}, "separate_memory: True needs layers that are not"),
        ({"dropout": 1.0}, r"dropout: 1.0 must be a number in \[0, 1\)"),
        ({"dropout": float("nan")}, r"dropout: nan must be a number in \[0, 1\)"),
        ({"dropout": "a"}, r"dropout: 'a' must be a number in \[0, 1\)"),
        ({"dropout": 0.5, "hidden": ()}, "dropout: 0.5 has no effect without a dense layer"),
        ({"layer_norm": True, "hidden": ()}, "layer_norm: True has no effect"),
        ({"memory": nn.ConvLSTMCell(3, (3, 3))}, "memory: 'ConvLSTMCell' is a cell that cannot read vectors"),
        ({"memory": nn.GRUCell}, "memory: .*is none of none, gru, lstm, and no flax RNN cell such as"),
        ({"network": "cnn"}, "network: 'cnn' needs images"),
    ],
)
def test_what_cannot_be_built_is_refused(settings, message):
    with pytest.raises(SettingError, match=f"^{message}"):
        make_agent(environments.make("CartPole-v1"), **({"critic": "state"} | settings))


@pytest.mark.costly
def test_rollouts_without_dropout_record_observations_as_they_are():
    environment = probes.bandit()
    agent = make_agent(environment, hidden=(4,), dropout=0.5)
    actor = rollout.actor(agent, agent.init(KEY))
    rows = rollout.episodes(environment, actor, jax.random.split(KEY, 2))
    assert rows.observation.shape == (1, 2, 1)


HALVED = {
    "gru": {"cell": "gru"},
    "lstm": {"cell": "lstm"},
    "one's own cell": {"cell": nn.SimpleCell(8)},
    "layer norm and dropout": {"cell": "gru", "layer_norm": True, "dropout": 0.5},
    "images": {"cell": "gru", "images": True},
}


@pytest.mark.parametrize("kind", HALVED)
def test_a_recurrent_network_is_its_two_halves(kind):
    network = Recurrent(8, **HALVED[kind])
    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 2) if network.images else (3, 5))
    carry = jax.tree.map(lambda c: jnp.full((3, 8), 0.3), _carry(network.cell, 8))
    key = jax.random.key(1) if network.takes_key else None
    params = network.init(jax.random.key(2), carry, x)
    params = jax.tree.map(lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size).reshape(p.shape)), params)  # no bias stays 0
    front, cell = network.halves
    found = cell.apply(params, carry, front.apply(params, x, key=key))
    for one, whole in zip(*map(jax.tree.leaves, (found, network.apply(params, carry, x, key=key))), strict=True):
        np.testing.assert_allclose(one, whole, atol=1e-6)
