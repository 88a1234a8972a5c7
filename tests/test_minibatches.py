"""A batch cut up: orders, minibatches, stopping early, PPO's extras; and which settings are refused."""

import functools
from dataclasses import replace
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import probes
import pytest
from jax.tree_util import Partial
from scipy.stats import chisquare

from pgjax import (
    ALGORITHMS,
    Agent,
    Categorical,
    Config,
    SettingError,
    a2c,
    environments,
    from_networks,
    make_agent,
    make_trainer,
    minibatches,
    natural,
    normalise_observations,
    ppo,
    product,
    ratio,
    reinforce,
    reward_to_go,
    train,
    trpo,
)
from pgjax.estimators.reductions import size_of
from pgjax.estimators.returns import make_signals
from pgjax.training.loss import Batch, policy_loss, value_loss
from pgjax.training.minibatches import over_minibatches, random_parts
from pgjax.types import Transition


class Linear(NamedTuple):
    """A layer without bias, quick to compile."""

    outputs: int

    def init(self, key, x):
        return 0.1 * jax.random.normal(key, (x.shape[-1], self.outputs))

    def apply(self, params, x):
        return x @ params


CATCH = environments.make("Catch-bsuite")
CONTEXTUAL = probes.contextual()
AGENT = from_networks(CONTEXTUAL, Linear(2), Linear(1), critic="state")


def deals(count, parts, keys):
    return jax.vmap(lambda key: random_parts(key, count, parts))(jax.random.split(jax.random.key(count), keys))


def test_every_number_is_dealt_once():
    sizes = [(1, 1), (4, 1), (4, 2), (4, 4), (12, 3), (60, 5), (512, 4), (1000, 8)]
    found = jax.jit(lambda: [deals(*size, 3) for size in sizes])()
    for (count, parts), several in zip(sizes, found, strict=True):
        assert several.dtype == np.int32 and several.shape == (3, parts, count // parts)
        together = np.sort(several.reshape(3, -1), axis=1)
        np.testing.assert_array_equal(together, np.broadcast_to(np.arange(count), together.shape))
        if count > 20:  # another key, another deal
            assert len({x.tobytes() for x in np.asarray(several)}) == len(several)


@pytest.mark.parametrize(("count", "parts"), [(6, 2), (12, 3), (64, 4)])
def test_every_number_is_as_likely_in_one_part_as_in_another(count, parts):
    several = np.asarray(jax.jit(lambda: deals(count, parts, 8192))())
    part_of = np.argsort(several.reshape(8192, -1), axis=1) // (count // parts)
    for number in range(count):
        assert chisquare(np.bincount(part_of[:, number], minlength=parts)).pvalue > 1e-5


@pytest.mark.parametrize(("count", "parts"), [(8, 2), (12, 3)])
def test_numbers_of_different_strata_meet_at_random_and_neighbours_never(count, parts):
    several = np.asarray(jax.jit(lambda: deals(count, parts, 8192))())
    part_of = np.argsort(several.reshape(8192, -1), axis=1) // (count // parts)
    together = (part_of[:, :, None] == part_of[:, None, :]).mean(axis=0)
    same_stratum = np.arange(count)[:, None] // parts == np.arange(count) // parts
    np.testing.assert_array_equal(together[same_stratum], np.eye(count)[same_stratum])
    np.testing.assert_allclose(together[~same_stratum], 1 / parts, atol=0.03)


def numbered(steps, envs, memory=()):
    """A batch whose every leaf says which row it belongs to."""
    number = jnp.arange(steps * envs).reshape(steps, envs)
    behaviour = Categorical(jnp.stack([number, number + 0.5], axis=-1))
    rows = Transition(
        observation={"x": jnp.stack([number, -number], axis=-1)},
        action=number,
        log_prob=-0.5 * number,
        reward=2.0 * number,
        terminated=number % 2 == 0,
        truncated=number % 3 == 0,
        next_observation={"x": number[..., None] + 1},
        mask=jnp.ones((steps, envs)),
    )
    signals = make_signals(rows.reward, mask=rows.mask, value=3.0 * number, log_ratio=0.1 * number)
    return Batch(rows, signals, credit=4.0 * number, target=5.0 * number, memory=memory, behaviour=behaviour)


def aligned(part):
    """Whether every leaf of a minibatch belongs to the row that its action names."""
    n, rows, signals = part.transition.action, part.transition, part.signals
    pairs = [
        (rows.observation["x"], jnp.stack([n, -n], axis=-1)),
        (rows.log_prob, -0.5 * n),
        (rows.reward, 2.0 * n),
        (rows.terminated, n % 2 == 0),
        (rows.truncated, n % 3 == 0),
        (rows.next_observation["x"], n[..., None] + 1),
        (signals.reward, 2.0 * n),
        (signals.value, 3.0 * n),
        (signals.log_ratio, 0.1 * n),
        (part.credit, 4.0 * n),
        (part.target, 5.0 * n),
        (part.behaviour.logits, jnp.stack([n, n + 0.5], axis=-1)),
    ]
    return jnp.all(jnp.array([jnp.allclose(a, b) for a, b in pairs]))


@pytest.mark.parametrize(("shuffle", "count"), [("environments", 3), ("steps", 8), ("steps", 1)])
def test_a_pass_visits_every_row_once_and_keeps_its_leaves_together(shuffle, count):
    steps, envs = 4, 6
    config = Config(rollout="stream", mean="steps", num_envs=envs, num_steps=steps, minibatches=count, shuffle=shuffle)
    memory = jnp.arange(envs)[None] if shuffle == "environments" else ()

    def step(visits, part, size):
        n = part.transition.action
        assert size.steps.shape == size.trajectories.shape == ()
        if count > 1:
            assert n.shape == ((steps, envs // count) if shuffle == "environments" else (1, steps * envs // count))
        whole = jnp.all(n - n[:1] == jnp.arange(len(n))[:, None] * envs)  # columns are environments, time in order
        if shuffle == "environments":
            whole &= jnp.all(part.memory[0] == n[0])
        return visits.at[n].add(1), {
            "aligned": aligned(part),
            "whole": whole,
            "sum": jnp.sum(n),
            "steps": size.steps,
            "kl": 1.0 * n[0, 0] * n[0, -1],
        }

    @jax.jit
    @jax.vmap
    def one_pass(key):
        return over_minibatches(config, numbered(steps, envs, memory), key, step, jnp.zeros(steps * envs, int))

    visits, metrics = one_pass(jax.random.split(jax.random.key(0), 5))
    np.testing.assert_array_equal(visits, 1)
    assert (metrics["aligned"] == 1).all() and (shuffle == "steps" or (metrics["whole"] == 1).all())
    np.testing.assert_allclose(metrics["sum"], steps * envs * (steps * envs - 1) / 2 / count)  # metrics are means
    np.testing.assert_array_equal(metrics["steps"], steps * envs / count)
    assert count == 1 or len(np.unique(metrics["kl"])) > 1


@pytest.mark.parametrize("count", [2, 4])
def test_consecutive_steps_of_an_environment_are_in_different_minibatches(count):
    steps, envs = 4, 6
    config = Config(rollout="stream", mean="steps", num_envs=envs, num_steps=steps, minibatches=count, shuffle="steps")

    def step(_, part, size):
        t, environment = jnp.divmod(part.transition.action[0], envs)
        group = jnp.sort((environment * steps + t) // count)  # of `count` consecutive steps
        return 0, {"missing": jnp.sum(group != jnp.arange(steps * envs // count))}

    keys = jax.random.split(jax.random.key(1), 5)
    metrics = jax.vmap(lambda key: over_minibatches(config, numbered(steps, envs), key, step, 0)[1])(keys)
    np.testing.assert_array_equal(metrics["missing"], 0)


@pytest.mark.costly
def test_every_pass_has_an_order_of_its_own(monkeypatch):
    seen = []

    def watched(key, count, parts):
        dealt = random_parts(key, count, parts)
        jax.debug.callback(lambda x: seen.append(tuple(np.asarray(x).ravel())), dealt)
        return dealt

    monkeypatch.setattr(minibatches, "random_parts", watched)
    recipe = ppo()
    config = replace(recipe.config, num_envs=4, num_steps=8, epochs=3, minibatches=2)
    train(make_trainer(CONTEXTUAL, AGENT, config), recipe.algorithm, jax.random.key(0), 2)
    jax.effects_barrier()
    assert len(seen) == len(set(seen)) == 6
    assert all(sorted(order) == list(range(32)) for order in seen)


def trainer_of(recipe, epochs, num_minibatches=1):
    config = replace(recipe.config, num_envs=4, num_steps=12, epochs=epochs, minibatches=num_minibatches)
    return make_trainer(CONTEXTUAL, AGENT, replace(config, shuffle="environments"))


@pytest.mark.costly
def test_work_on_a_batch_stops_at_the_first_excess_of_the_kl():
    algorithm = ppo(learning_rate=0.03).algorithm
    start = trainer_of(ppo(), 1).init(algorithm, jax.random.key(0))
    once, every = (jax.jit(trainer_of(ppo(), epochs).update)(algorithm, start)[0] for epochs in (1, 5))

    @jax.jit
    def update(target_kl, state):
        state, metrics = trainer_of(ppo(), 5).update(algorithm._replace(target_kl=target_kl), state)
        return state, state.optimizer_state[1][0].count, metrics["kl"]

    same = functools.partial(chex.assert_trees_all_close, atol=1e-5)
    limit = 1e-9
    for taken in (1, 2, 3):
        state, count, kl = update(limit, start)  # the KL of the parameters that the batch is left with
        assert count == taken and kl > limit
        if taken == 1:
            same((state.params, state.optimizer_state), (once.params, once.optimizer_state))
            assert update(limit, state)[1] == 2  # the next batch starts anew
        limit = 1.01 * kl  # one step more is within it
    state, count, kl = update(float("inf"), start)
    assert count == 5 and kl > limit
    same((state.params, state.optimizer_state), (every.params, every.optimizer_state))


def table_agent(critic):
    """Values are the parameters themselves."""
    return Agent(
        init=lambda key: {},
        policy=lambda params, x: Categorical(params["policy"]),
        value=lambda params, x: params["value"] if critic == "state" else None,
        action_value=None if critic == "state" else lambda params, x: params["value"],
    )


@pytest.mark.parametrize("critic", ["state", "action"])
def test_clipped_values_stop_pulling_where_they_have_gone_far_enough(critic):
    """V before 0, clip 0.2: (V now, target) and whether the gradient is gone."""
    cases = [
        (0.5, 1.0, True),  # moved beyond the clip towards the target
        (-0.5, -1.0, True),
        (0.5, -1.0, False),  # beyond it, away from the target: must come back
        (-0.5, 1.0, False),
        (0.1, 1.0, False),  # within
        (-0.19, -1.0, False),
        (0.15, 0.1, False),
    ]
    now, target, gone = (np.array(x, float).reshape(1, -1).astype(np.float32) for x in zip(*cases, strict=True))
    before, action = jnp.zeros_like(now), jnp.zeros(now.shape, int)
    q = None if critic == "state" else jnp.stack([before, before + 9.0], axis=-1)
    signals = make_signals(before, value=before, action_value=q, action=None if q is None else action)
    rows = Transition(before, action, before, before, before > 1, before > 1, before, jnp.ones_like(now))
    batch, size = Batch(rows, signals, None, target=target), size_of(rows.mask)
    values = now if critic == "state" else np.stack([now, now + 7.0], axis=-1)

    def gradient(clip):
        algorithm = a2c().algorithm._replace(value_clip=clip)
        out = jax.grad(lambda v: value_loss(table_agent(critic), algorithm, {"value": v}, batch, size)[0])(values)
        if critic == "action":
            assert not out[..., 1].any()
            out = out[..., 0]
        return np.asarray(out)

    plain, clipped = gradient(None), gradient(0.2)
    np.testing.assert_allclose(plain, (now - target) / now.size, rtol=1e-5)
    np.testing.assert_array_equal(clipped == 0, gone == 1)
    np.testing.assert_array_equal(clipped, np.where(gone == 1, 0.0, plain))
    np.testing.assert_array_equal(gradient(float("inf")), plain)


def test_the_kl_penalty_is_kl_from_the_old_to_the_new_policy():
    """At θ̄ its gradient is zero; elsewhere it is β ∇ mean KL(π_θ̄ ‖ π_θ), and a step of padding adds nothing."""
    rng = np.random.default_rng(0)
    old, new = (rng.normal(size=(5, 3, 4)).astype(np.float32) for _ in range(2))
    mask = jnp.ones((5, 3)).at[3:, 1].set(0.0)
    actions = rng.integers(4, size=(5, 3))
    log_prob = Categorical(jnp.array(old)).log_prob(actions)
    zeros = jnp.zeros((5, 3))
    rows = Transition(zeros, actions, log_prob, zeros, zeros > 1, zeros > 1, zeros, mask)
    batch = Batch(rows, make_signals(zeros, mask=mask), zeros, behaviour=Categorical(jnp.array(old)))
    config = Config(mean="steps", rollout="stream")

    @jax.jit
    def gradient(logits, beta):
        algorithm = ppo(kl_coefficient=beta).algorithm
        return jax.grad(
            lambda x: policy_loss(table_agent("state"), algorithm, config, {"policy": x}, batch, size_of(mask))[0]
        )(logits)

    np.testing.assert_allclose(gradient(old, 50.0), 0.0, atol=1e-6)
    p, q = (np.exp(x - np.log(np.exp(x).sum(-1, keepdims=True))) for x in (old, new))
    expected = (q - p) * mask[..., None] / mask.sum()  # ∂/∂logits of Σ p log(p/q)
    np.testing.assert_allclose(gradient(new, 50.0), 50.0 * expected, atol=1e-4)


@pytest.mark.costly
def test_a_large_kl_penalty_keeps_the_policy_where_it_is():
    recipe, slow = ppo(clip=float("inf")), Partial(optax.sgd, learning_rate=0.01)
    trainer = trainer_of(recipe, 200)

    @jax.jit
    @jax.vmap
    def kl(beta):
        changes = {"optimizer": slow, "kl_coefficient": beta, "max_grad_norm": float("inf")}
        algorithm = recipe.algorithm._replace(**changes)
        return trainer.update(algorithm, trainer.init(algorithm, jax.random.key(0)))[1]["kl"]

    free, held = kl(jnp.array([0.0, 100.0]))
    assert 0 < held < 0.05 * free


BAD_CONFIGS = {
    "rollout": [{"rollout": "whole"}],
    "mean": [{"mean": "median"}],
    "truncation": [{"truncation": "ignore"}],
    "critic": [{"critic": "both"}],
    "shuffle": [
        {"shuffle": "rows"},
        {"shuffle": "steps", "minibatches": 2, "mean": "steps"},
        {"shuffle": "steps", "minibatches": 2, "rollout": "stream"},
    ],
    "num_envs": [{"num_envs": 0}, {"num_envs": -3}, {"num_envs": 2.0}],
    "num_steps": [{"num_steps": 0}, {"num_steps": "many"}],
    "epochs": [{"epochs": 0}],
    "minibatches": [
        {"minibatches": 0},
        {"minibatches": 5},
        {"minibatches": 7, "shuffle": "steps", "rollout": "stream", "mean": "steps"},
        {"minibatches": 2, "accumulate": 2},
        {"minibatches": 2, "diagnostics": 2},
    ],
    "group_size": [{"group_size": 0}, {"group_size": 5}, {"group_size": 4, "rollout": "stream"}],
    "accumulate": [{"accumulate": 0}, {"accumulate": 3}],
    "batch_steps": [{"batch_steps": -1}, {"batch_steps": 10, "rollout": "stream"}],
    "diagnostics": [{"diagnostics": -1}, {"diagnostics": 1}, {"diagnostics": 3}, {"diagnostics": 2, "accumulate": 2}],
    "normalise_rewards": [{"normalise_rewards": True, "accumulate": 2}],
}


@pytest.mark.parametrize(
    ("field", "change"), [(field, change) for field, changes in BAD_CONFIGS.items() for change in changes]
)
def test_a_config_that_cannot_work_is_refused(field, change):
    refused(field, lambda: replace(Config(), **change))


def refused(field, function):
    """With one line that starts with the field's name."""
    with pytest.raises(SettingError) as error:
        function()
    line = str(error.value)
    assert line.startswith(f"{field}: ") and "\n" not in line and len(line) > len(field) + 15


def only_looked_at(function):
    """Fails where a batch of environments is simulated; a look at one environment's shapes is free."""

    def traced(key, *arguments):
        if type(key).__name__ == "BatchTracer":
            raise AssertionError("nothing may run before a refusal")
        return function(key, *arguments)

    return traced


BROKEN = CATCH._replace(reset=only_looked_at(CATCH.reset), step=only_looked_at(CATCH.step))
STREAM = Config(rollout="stream", mean="steps", num_envs=4, num_steps=8)


def test_settings_that_do_not_fit_the_agent_are_refused():
    with_critic = replace(STREAM, critic="state")
    agents = {c: make_agent(BROKEN, hidden=(2,), critic=c) for c in ("none", "state", "action")}
    for config, agent in (
        (STREAM, agents["state"]),
        (with_critic, agents["none"]),
        (with_critic, agents["action"]),
    ):
        refused("critic", lambda c=config, a=agent: make_trainer(BROKEN, a, c))
    cut = Config(num_envs=4, batch_steps=10, accumulate=2)
    refused("batch_steps", lambda: make_trainer(BROKEN, agents["none"], cut))
    recurrent = make_agent(BROKEN, hidden=(2,), memory="gru")
    by_rows = replace(STREAM, shuffle="steps", minibatches=2)
    refused("shuffle", lambda: make_trainer(BROKEN, recurrent, by_rows))


PRODUCTS = {
    "trajectory_is",
    "per_decision_is",
    "prefix_is",
    "truncated_is",
    "doubly_robust",
    "dice",
    "storm",
    "gspo",
    "gspo_token",
}
"""Methods whose surrogate multiplies ratios over time."""


@pytest.mark.few(12)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_single_steps_are_for_surrogates_that_look_at_one_step(name):
    recipe = ALGORITHMS[name]()
    agent = make_agent(BROKEN, hidden=(2,), critic=recipe.config.critic)
    config = replace(STREAM, critic=recipe.config.critic, shuffle="steps", minibatches=2)
    trainer = make_trainer(BROKEN, agent, config)
    if name in PRODUCTS:
        refused("shuffle", lambda: trainer.init(recipe.algorithm, jax.random.key(0)))
        trainer = make_trainer(BROKEN, agent, replace(config, shuffle="environments", minibatches=1))
    with pytest.raises(AssertionError, match="nothing may run"):  # accepted: goes on to the first reset
        trainer.init(recipe.algorithm, jax.random.key(0))


def refused_by(trainer, algorithm, field):
    """At once where a state is made, and while tracing where one is given."""
    refused(field, lambda: trainer.init(algorithm, jax.random.key(0)))


def test_algorithms_that_do_not_fit_their_settings_are_refused():
    none = make_agent(BROKEN, hidden=(2,))
    state = make_agent(BROKEN, hidden=(2,), critic="state")
    shared = make_agent(BROKEN, hidden=(2,), critic="state", shared=True)
    with_critic = replace(STREAM, critic="state")
    for recipe in (a2c(), ppo(), trpo(), ALGORITHMS["vtrace"]()):
        refused_by(make_trainer(BROKEN, none, STREAM), recipe.algorithm, "critic")
    refused_by(make_trainer(BROKEN, none, Config(num_envs=4)), reinforce(baseline="state_value").algorithm, "critic")
    for recipe in (natural(), trpo()):
        refused_by(make_trainer(BROKEN, shared, with_critic), recipe.algorithm, "policy_step")
    plain = natural().algorithm._replace(estimator=product(reward_to_go, ratio), value_target=None)
    refused_by(make_trainer(BROKEN, none, replace(STREAM, epochs=2)), plain, "epochs")
    storm = ALGORITHMS["storm"]().algorithm
    for change in ({"epochs": 2}, {"minibatches": 2}):
        refused_by(make_trainer(BROKEN, none, replace(Config(num_envs=4), **change)), storm, "momentum")
    with pytest.raises(AssertionError, match="nothing may run"):
        make_trainer(BROKEN, state, with_critic).init(trpo().algorithm, jax.random.key(0))


def test_what_needs_the_whole_batch_does_not_accumulate():
    sliced = replace(Config(num_envs=4), accumulate=2)
    none = make_agent(CATCH, hidden=(2,))
    scaled = normalise_observations(none, CATCH)
    cases = [
        (none, reinforce(baseline="optimal").algorithm, sliced),
        (none, reinforce().algorithm._replace(kl_coefficient=1.0), sliced),
        (none, natural().algorithm._replace(estimator=product(reward_to_go, ratio), value_target=None), sliced),
        (scaled, reinforce().algorithm, sliced),
        (none, ALGORITHMS["rloo"]().algorithm, replace(sliced, group_size=4)),
    ]
    for agent, algorithm, config in cases:

        def traced(agent=agent, config=config, algorithm=algorithm):
            trainer = make_trainer(CATCH, agent, config)
            state = jax.eval_shape(trainer.init, algorithm, jax.random.key(0))
            jax.eval_shape(trainer.update, algorithm, state)

        refused("accumulate", traced)
