"""NaN and ±inf from one environment of 64: what was learned stays finite, and no other seed notices, to the bit."""

from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from faulty import ENVS, KINDS, NEVER, VALUES, Fault, all_finite, faulty, learner, walk
from jax.tree_util import Partial

from pgjax import ALGORITHMS, rollout
from pgjax.training.guard import NONFINITE, restart_broken

HORIZON, STEPS, UPDATES = 20, 5, 6

PPO = {"epochs": 2, "minibatches": 4, "normalise_rewards": True}
slow = partial(pytest.param, marks=pytest.mark.slow)


def recipe_of(name, **static):
    recipe = ALGORITHMS[name]()
    steps = {"num_steps": STEPS} if recipe.config.rollout == "stream" else {}
    return recipe._replace(config=replace(recipe.config, num_envs=ENVS, **steps, **static))


@partial(jax.jit, static_argnames=("name", "static", "options"))
@partial(jax.vmap, in_axes=(None, None, None, 0, 0, 0, 0))
def trained(name, static, options, seed, fault, env, when):
    """A run in which environment `env` of a stream breaks at its step `when`; state and metrics [UPDATES]."""
    recipe = recipe_of(name, **dict(static))
    _, trainer = learner(faulty(walk(HORIZON), fault), recipe, **dict(options))
    state = trainer.init(recipe.algorithm, jax.random.key(seed))
    if state.rollout_state is not None:
        inner, countdown = state.rollout_state.state
        stream = state.rollout_state._replace(state=(inner, countdown.at[env].set(when)))
        state = state._replace(rollout_state=stream)

    def step(state, _):
        return trainer.update(recipe.algorithm, state)

    return jax.lax.scan(step, state, None, UPDATES)


def cases(count, chance=0.0):
    """`count` runs: kinds × values in turn, environments and moments at random."""
    rng = np.random.default_rng(0)
    number = np.arange(count)
    fault = Fault(number % 3, np.float32(VALUES)[number // 3 % 3], np.full(count, chance, np.float32))
    return number, fault, rng.integers(0, ENVS, count), rng.integers(0, HORIZON - 2, count)


def learned(state):
    return state.params, state.optimizer_state, state.previous


def check_streams(count, name, static, **options):
    seed, fault, env, when = cases(count)
    run = partial(trained, name, tuple(static.items()), tuple(options.items()))
    clean, clean_metrics = run(seed, fault, env, np.full(count, NEVER))
    hit = seed % 2 == 0
    state, metrics = run(seed, fault, env, np.where(hit, when, NEVER))
    every, every_metrics = run(seed, fault, env, when)

    assert not clean.skipped.any() and not clean_metrics["nonfinite"].any()
    finite = all_finite((learned(every), every.reward_scale, every.rollout_state))
    assert finite.all(), f"{name}: finite {int(finite.sum())}/{count}"
    # Exactly the update that saw the fault is dropped, whichever fault it was; and training goes on.
    np.testing.assert_array_equal(every_metrics["skipped"].argmax(axis=1), when // STEPS)
    np.testing.assert_array_equal(every_metrics["skipped"].sum(axis=1), 1)
    np.testing.assert_array_equal(every.skipped, 1)
    assert not every.skipped_in_a_row[when // STEPS < UPDATES - 1].any()
    untouched = jax.tree.map(lambda x: x[~hit], (clean, clean_metrics))
    chex.assert_trees_all_equal(jax.tree.map(lambda x: x[~hit], (state, metrics)), untouched)
    chex.assert_trees_all_equal(*(jax.tree.map(lambda x: x[hit], learned(s)) for s in (state, every)))
    return every_metrics["nonfinite"].max(axis=1), fault, when, finite


@pytest.mark.slow
def test_one_environment_of_64_breaks_at_random_100_times():
    named, fault, when, finite = check_streams(100, "ppo", PPO, normalised=True)
    print(f"parameters finite {int(finite.sum())}/100")
    for kind in ("reward", "observation"):
        assert (named[fault.kind == KINDS.index(kind)] == NONFINITE.index(kind)).all()
    # A state is looked at where the batch ends; if the episode ended before, what is left of it are observations.
    chosen = fault.kind == KINDS.index("state")
    over = (when // STEPS + 1) * STEPS >= HORIZON
    expected = np.where(over, NONFINITE.index("observation"), NONFINITE.index("environment state"))
    np.testing.assert_array_equal(named[chosen], expected[chosen])


@pytest.mark.costly
@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("trpo", {}),
        ("a2c", {"memory": "gru"}),
        slow("npg", {"normalised": True}),
        slow("vtrace", {}),
        slow("a2c", {"normalised": True, "memory": "gru"}),
    ],
)
def test_every_way_to_move_is_guarded(name, options):
    check_streams(18, name, {}, **options)


@pytest.mark.parametrize("what", ["parameters", "state"])
def test_what_an_optimiser_makes_infinite_is_dropped(what):
    """From finite gradients; its state counts like the parameters."""

    def update(gradients, state, params):
        if what == "parameters":
            return jax.tree.map(lambda x: jnp.full_like(x, jnp.inf), gradients), state
        return gradients, state + jnp.inf

    recipe = recipe_of("reinforce")
    optimizer = Partial(lambda: optax.GradientTransformation(lambda _: jnp.zeros(()), update))
    algorithm = recipe.algorithm._replace(optimizer=optimizer)
    _, trainer = learner(walk(HORIZON), recipe)
    state = trainer.init(algorithm, jax.random.key(0))
    new, metrics = jax.jit(trainer.update)(algorithm, state)
    assert metrics["skipped"] == 1 and NONFINITE[int(metrics["nonfinite"])] == "parameters"
    chex.assert_trees_all_equal(learned(new), learned(state))


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("name", "static"),
    [
        ("reinforce", {}),
        ("storm", {}),
        slow("reinforce", {"normalise_rewards": True}),
        slow("per_decision_is", {"epochs": 2, "accumulate": 2}),
    ],
)
def test_whole_episodes(name, static):
    """About one episode in 64 breaks: batches that hold one are dropped, the others are not."""
    count = 18
    number, fault, env, when = cases(count)
    run = partial(trained, name, tuple(static.items()), ())
    clean, _ = run(number, fault, env, when)
    hit = number % 2 == 0
    state, metrics = run(number, fault._replace(chance=np.float32(np.where(hit, 1 / ENVS, 0))), env, when)
    assert not clean.skipped.any()
    assert all_finite(learned(state)).all()
    np.testing.assert_array_equal(metrics["skipped"].sum(axis=1), state.skipped)
    assert (state.skipped[hit] > 0).all() and state.skipped[hit].sum() < UPDATES * hit.sum()
    chex.assert_trees_all_equal(*(jax.tree.map(lambda x: x[~hit], s) for s in (state, clean)))
    rewards = hit & (fault.kind == KINDS.index("reward"))
    assert set(np.unique(metrics["nonfinite"][rewards])) == {0, NONFINITE.index("reward")}


@pytest.mark.costly
def test_the_first_update_that_counts_is_momentums_first():
    """If the very first was dropped, there is no gradient before to go on from."""
    recipe = recipe_of("storm")
    _, trainer = learner(walk(HORIZON), recipe)

    @jax.jit
    @partial(jax.vmap, in_axes=(0,))
    def updated(dropped):
        state = trainer.init(recipe.algorithm, jax.random.key(0))
        return trainer.update(recipe.algorithm, state._replace(update=dropped, skipped=dropped))[0].params

    for x in jax.tree.leaves(updated(jnp.arange(2))):
        np.testing.assert_array_equal(x[0], x[1])


@pytest.mark.costly
def test_dropped_updates_are_counted_in_a_row():
    """Every episode breaks: nothing is learned; one good update starts the count anew."""
    recipe = recipe_of("reinforce")

    @jax.jit
    def states(chances):
        def step(state, chance):
            environment = faulty(walk(HORIZON), Fault(KINDS.index("reward"), jnp.nan, chance))
            state = learner(environment, recipe)[1].update(recipe.algorithm, state)[0]
            return state, state

        start = learner(walk(HORIZON), recipe)[1].init(recipe.algorithm, jax.random.key(0))
        return start, jax.lax.scan(step, start, chances)[1]

    start, after = states(jnp.array([1.0, 1.0, 1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(after.update, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(after.skipped, [1, 2, 3, 3, 4])
    np.testing.assert_array_equal(after.skipped_in_a_row, [1, 2, 3, 0, 1])
    before, third, fourth, last = (jax.tree.map(lambda x, i=i: x[i], learned(after)) for i in (1, 2, 3, 4))
    chex.assert_trees_all_equal(learned(start), before, third)
    chex.assert_trees_all_equal(fourth, last)
    assert not np.array_equal(*(jax.tree.leaves(x[0]["policy"])[0] for x in (third, fourth)))


def test_only_environments_that_broke_start_again():
    environment = walk(HORIZON)

    def reset(key):
        observation, state = environment.reset(key)
        return observation, (state, jnp.float32(jnp.inf))  # "none yet", as some environments write it

    @jax.jit
    def mended():
        marked = environment._replace(reset=reset)
        memory = jnp.zeros(3)
        stream = rollout.start_stream(marked, jax.random.split(jax.random.key(0), 4), memory)
        stream = stream._replace(
            state=((stream.state[0][0].at[1].set(jnp.nan), stream.state[0][1]), stream.state[1]),
            observation=stream.observation.at[2, 1].set(-jnp.inf),
            memory=stream.memory.at[3, 0].set(jnp.nan),
            episode_length=jnp.full(4, 7.0),
        )
        return stream, *restart_broken(marked, stream, jax.random.key(1), memory)

    before, after, goes_on, states = mended()
    assert goes_on.tolist() == [True, False, False, False] and not states
    chex.assert_trees_all_equal(*(jax.tree.map(lambda x: x[0], s) for s in (before, after)))
    assert after.episode_length.tolist() == [7.0, 0.0, 0.0, 0.0]
    assert all_finite((after.state[0], after.observation, after.memory)).all()
    assert (after.observation[1:, 0] != before.observation[1:, 0]).all()
