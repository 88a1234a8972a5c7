"""Every method as a contract: traced once, mapped over seeds, swept, finite, right where the answer is known."""

from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import probes
import pytest
from jax.tree_util import Partial

from pgjax import (
    ALGORITHMS,
    BASELINES,
    CREDITS,
    Config,
    Recipe,
    SettingError,
    a2c,
    check_hyperparameters,
    collect,
    diagnostics,
    environments,
    evaluate,
    evaluate_runs,
    hyperparameters,
    importance_sampling,
    learn,
    make_agent,
    make_trainer,
    normalise_observations,
    ppo,
    reinforce,
    standardised,
    sweep,
    sweeps,
    train,
    vtrace_actor_critic,
    with_hyperparameters,
)
from pgjax.engine import devices
from pgjax.methods import rloo
from pgjax.methods.schedules import decaying, linear_decay
from pgjax.training import sharing
from pgjax.training.batch import hold

METHODS = [
    *(("total_return", baseline) for baseline in ("none", "leave_one_out", "optimal")),
    *(("reward_to_go", baseline) for baseline in BASELINES),
]


def setup(environment, num_envs=8, hidden=(), **arguments):
    """A policy that is linear, as most of what is tested here has nothing to do with networks."""
    recipe = reinforce(**arguments)
    agent = make_agent(environment, hidden=hidden, critic=recipe.config.critic)
    return (
        agent,
        recipe.algorithm,
        make_trainer(environment, agent, replace(recipe.config, num_envs=num_envs)),
    )


@pytest.mark.few(3)
@pytest.mark.parametrize(("credit", "baseline"), METHODS)
def test_contract(credit, baseline):
    """Traced once, mapped over seeds × settings, finite, ascending, and right on a problem with delayed reward."""
    environment = probes.delayed()
    agent, algorithm, trainer = setup(environment, 32, credit=credit, baseline=baseline)
    trainer = trainer._replace(update=chex.assert_max_traces(trainer.update, n=1))
    chex.clear_trace_counter()
    over = {"learning_rate": [0.04, 0.06], "discount": [0.9, 1.0]}
    runs = sweeps.start(trainer, algorithm, seeds=2, over=over, devices=jax.devices()[:1])
    for part in range(2):
        runs, metrics = sweeps.advance(trainer, runs, 1 << 30, 75)
        if part == 0:  # descent in place of ascent would drive the return down
            earned = metrics["return_mean"]
            assert (earned[:, -10:].mean(axis=1) > earned[:, :10].mean(axis=1) + 0.2).all()
        metrics.pop("explained_variance", None)  # not a number where a trained policy's returns no longer vary
        assert all(np.isfinite(x).all() for x in jax.tree.leaves((runs.state.params, metrics)))
    assert (runs.state.env_steps == 150 * 32 * 2).all()
    assert (evaluate_runs(environment, agent, runs, jax.random.key(1), episodes=16, greedy=True) == 1.0).all()


@pytest.mark.costly
def test_a_wrong_critic_moves_no_mean_of_the_doubly_robust_update():
    """The first update's mean over many batches is that of per-decision importance sampling, whatever Q says."""
    environment = probes.contextual()
    updates = []
    for name in ("doubly_robust", "per_decision_is"):
        recipe = ALGORITHMS[name](epochs=1, **({} if name == "doubly_robust" else {"baseline": "none"}))
        algorithm = recipe.algorithm._replace(optimizer=Partial(optax.sgd, learning_rate=1.0))
        agent = make_agent(environment, hidden=(8,), critic=recipe.config.critic)
        trainer = make_trainer(environment, agent, replace(recipe.config, num_envs=8192))

        @jax.jit
        def moved(algorithm, trainer=trainer, agent=agent):
            state = trainer.init(algorithm, jax.random.key(0))
            policy = agent.init(jax.random.key(5))["policy"]
            state = state._replace(params=state.params | {"policy": policy})
            return jax.tree.map(jnp.subtract, trainer.update(algorithm, state)[0].params["policy"], policy)

        updates.append(moved(algorithm))
    assert diagnostics.cosine(*updates) > 0.99
    np.testing.assert_allclose(*(optax.tree.norm(u) for u in updates), rtol=0.05)


@pytest.mark.costly
def test_one_update_of_every_form_is_reinforce():
    """On-policy all ratios are 1: prefix, first order, trajectory and per-decision are one estimator."""
    environment = probes.delayed_choice()
    agent = make_agent(environment, hidden=())
    exact_at_once = ("trajectory_is", "per_decision_is", "first_order")
    after = []
    for recipe in [reinforce(baseline="time_step")] + [importance_sampling(f, epochs=1) for f in exact_at_once]:
        algorithm = recipe.algorithm._replace(optimizer=Partial(optax.sgd, learning_rate=0.1))
        trainer = make_trainer(environment, agent, replace(recipe.config, num_envs=8))
        after.append(after_each(trainer, algorithm, 1)[1])
    chex.assert_trees_all_close(*after, atol=1e-5)


@pytest.mark.slow
def test_several_updates_with_accumulation_equal_the_full_batch():
    environment = environments.make("CartPole-v1")
    recipe = importance_sampling("per_decision_is", epochs=3, learning_rate=1e-3)
    agent = make_agent(environment, hidden=())
    params = [
        train(
            make_trainer(environment, agent, replace(recipe.config, num_envs=8, accumulate=a)),
            recipe.algorithm,
            jax.random.key(0),
            2,
        )[0].params
        for a in (1, 4)
    ]
    chex.assert_trees_all_close(*params, atol=2e-5)


@pytest.mark.slow
def test_a_swept_run_is_taken_out_used_and_equal_to_a_single_one():
    """And runs on devices of their own do not communicate."""
    environment = environments.make("Catch-bsuite")
    agent, algorithm, trainer = setup(environment)
    over = {"learning_rate": [0.01, 0.1], "discount": [0.9, 1.0]}
    runs = sweep(trainer, algorithm, total_steps=3 * 8 * 9, seeds=2, over=over, updates_per_chunk=3).runs
    alone = with_hyperparameters(algorithm, {"learning_rate": 0.1, "discount": 0.9})
    single, _ = train(trainer, alone, jax.random.key(1), 3)
    wanted = {"seed": 1, "learning_rate": 0.1, "discount": 0.9}
    chosen = runs.pick(**wanted)
    chex.assert_trees_all_close(chosen.params, single.params, atol=1e-5)
    everyone = evaluate_runs(environment, agent, runs, jax.random.key(9), episodes=16)
    alone = evaluate(environment, agent, chosen.params, jax.random.key(9), episodes=16)
    np.testing.assert_allclose(everyone[runs.find(**wanted)], alone)
    with pytest.raises(SettingError, match="seed: 7"):
        runs.pick(seed=7)
    with pytest.raises(SettingError, match=r"momentum.*learning_rate, discount, seed"):
        runs.pick(momentum=1)
    program = sweeps.compiled(trainer, runs, 3).as_text()
    assert runs.mesh.size == 2
    assert not any(word in program for word in ("all-reduce", "all-gather", "collective-permute", "all-to-all"))


@pytest.mark.costly
@pytest.mark.parametrize(
    "probe", [*(pytest.param(p, marks=pytest.mark.slow) for p in (probes.bandit, probes.contextual)), probes.target]
)
def test_probes(probe):
    environment = probe()
    agent, algorithm, trainer = setup(environment, 32, baseline="leave_one_out", learning_rate=0.05)
    state, _ = train(trainer, algorithm, jax.random.key(0), 150)
    returns = evaluate(environment, agent, state.params, jax.random.key(1), greedy=True)
    assert returns.mean() > (-0.05 if probe is probes.target else 0.99)


@pytest.mark.costly
@pytest.mark.few(4)
@pytest.mark.parametrize("credit", CREDITS)
@pytest.mark.parametrize(
    "baseline", ["same_batch_mean", "leave_one_out", "time_step", "optimal", "optimal_per_parameter"]
)
def test_a_constant_added_to_every_return_changes_no_update(credit, baseline):
    _, algorithm, trainer = setup(probes.contextual(), 16, credit=credit, baseline=baseline)
    sgd = Partial(optax.sgd, learning_rate=0.1)
    algorithm = algorithm._replace(optimizer=sgd)

    @jax.jit
    def updated(state, rows):
        return learn(trainer, algorithm, state, hold(trainer, algorithm, state, rows))[0].params

    # Of episodes of one step, whose reward is the return. No estimator enters them: one program for all.
    state, rows = played(trainer, reinforce().algorithm._replace(optimizer=sgd))
    after = updated(state, rows)
    chex.assert_trees_all_close(after, updated(state, rows._replace(reward=rows.reward + 10)), atol=1e-5)
    assert optax.tree.norm(jax.tree.map(np.subtract, after, state.params)) > 1e-3


@partial(jax.jit, static_argnums=0)
def played(trainer, algorithm):
    """Where training begins, and the rows of its first batch."""
    state = trainer.init(algorithm, jax.random.key(0))
    return state, collect(trainer, algorithm, state).batch.transition


@pytest.mark.costly
def test_the_entropy_bonus_raises_entropy():
    _, algorithm, trainer = setup(probes.bandit(), 32, learning_rate=0.05)
    over = {"entropy_coefficient": [0.0, 3.0]}
    runs = sweeps.start(trainer, algorithm, over=over, devices=jax.devices()[:1])
    entropy = sweeps.advance(trainer, runs, 1 << 30, 100)[1]["entropy"][:, -1]
    assert entropy[0] < 0.1 and entropy[1] > 0.6


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("name", "baseline", "mean"),
    [
        pytest.param("CartPole-v1", "time_step", "steps", marks=pytest.mark.costly),
        pytest.param("FrozenLake-misc", "leave_one_out", "steps", marks=pytest.mark.slow),
        ("Pendulum-v1:max_steps_in_episode=20", "state_value", "trajectories"),
    ],
)
def test_accumulation_equals_the_full_batch(name, baseline, mean):
    environment = environments.make(name)
    recipe = reinforce(baseline=baseline, learning_rate=1e-3)
    agent = make_agent(environment, hidden=(), critic=recipe.config.critic)
    states = []
    for accumulate in (1, 4):
        config = replace(recipe.config, num_envs=8, accumulate=accumulate, mean=mean)
        states.append(train(make_trainer(environment, agent, config), recipe.algorithm, jax.random.key(0), 3))
    (whole, whole_metrics), (sliced, sliced_metrics) = states
    chex.assert_trees_all_close(whole.params, sliced.params, atol=2e-5)
    chex.assert_trees_all_close(whole_metrics, sliced_metrics, rtol=2e-3, atol=1e-4)
    assert whole.env_steps == sliced.env_steps


@pytest.mark.costly
def test_accumulation_needs_less_memory():
    """Observations are never held together; what stays of each step is its signals, a few numbers."""
    environment = environments.make("Catch-bsuite")
    recipe = reinforce()
    agent = make_agent(environment)
    bytes_needed = []
    for accumulate in (1, 16):
        config = replace(recipe.config, num_envs=8192, accumulate=accumulate)
        trainer = make_trainer(environment, agent, config)
        state = jax.eval_shape(trainer.init, recipe.algorithm, jax.random.key(0))
        compiled = jax.jit(trainer.update).lower(recipe.algorithm, state).compile()
        bytes_needed.append(compiled.memory_analysis().temp_size_in_bytes)
    assert bytes_needed[1] < bytes_needed[0] / 4


@pytest.mark.costly
def test_streaming_updates_the_same_way():
    environment = environments.make("Catch-bsuite")
    recipe = reinforce()
    algorithm = recipe.algorithm._replace(optimizer=Partial(optax.sgd, learning_rate=0.1))  # Adam magnifies rounding
    config = replace(recipe.config, rollout="stream", num_envs=4, num_steps=18, mean="steps")
    trainer = make_trainer(environment, make_agent(environment, hidden=()), config)
    state, metrics = train(trainer, algorithm, jax.random.key(0), 3)
    assert state.env_steps == 3 * 4 * 18
    np.testing.assert_array_equal(metrics["episodes"], 8)
    whole, _ = train(
        make_trainer(environment, make_agent(environment, hidden=()), replace(config, accumulate=2)),
        algorithm,
        jax.random.key(0),
        3,
    )
    chex.assert_trees_all_close(state.params, whole.params, atol=2e-5)
    chex.assert_trees_all_close(state.rollout_state, whole.rollout_state, atol=1e-4)


def test_the_same_key_gives_the_same_bits_in_any_chunks():
    _, algorithm, trainer = setup(environments.make("CartPole-v1"))
    states = []
    for chunk in (1, 3):
        runs = sweeps.start(trainer, algorithm, seeds=4)
        for _ in range(6 // chunk):
            runs, _ = sweeps.advance(trainer, runs, 1 << 30, chunk)
        states.append(runs.state.params)
    chex.assert_trees_all_equal(*states)


@pytest.mark.costly
def test_runs_stop_at_the_first_update_that_reaches_their_steps_and_spreading_over_devices_changes_nothing():
    assert jax.device_count() == 2
    _, algorithm, trainer = setup(environments.make("CartPole-v1"))
    one, two = (
        sweep(trainer, algorithm, total_steps=600, seeds=4, updates_per_chunk=3, devices=jax.devices()[:n])
        for n in (1, 2)
    )
    assert two.runs.mesh.size == 2
    chex.assert_trees_all_close(one.runs.state.params, two.runs.state.params, atol=1e-6)
    steps, active = two.metrics["env_steps"], two.metrics["active"]
    assert (steps[:, -1] >= 600).all()
    for row, on in zip(steps, active, strict=True):
        reached = int(np.argmax(row >= 600))
        assert on[: reached + 1].all() and not on[reached + 1 :].any() and (row[reached:] == row[reached]).all()


def test_devices_go_to_runs_first_and_share_batches_where_some_are_left():
    shapes = [devices.make_mesh(runs, shares).devices.shape for runs, shares in ((4, 8), (3, 1), (3, 8), (1, 3))]
    assert shapes == [(2, 1), (1, 1), (1, 2), (1, 1)]


@pytest.mark.parametrize(("num_envs", "shared"), [(8, 1), (16, 2), (1024, 2)])
def test_two_devices_share_a_batch_from_512_steps_per_gradient_step(num_envs, shared):
    """Measured on two cores, CartPole with 128 steps and 4 minibatches: 0.86 times as fast with 8 environments, 1.17
    times with 16."""
    environment = environments.make("CartPole-v1")
    config = replace(ppo().config, num_envs=num_envs, num_steps=128, minibatches=4)
    trainer = make_trainer(environment, make_agent(environment, critic="state"), config)
    assert sharing.plan(trainer, ppo().algorithm, 1).shape == {"seed": 1, "env": shared}
    assert sharing.plan(trainer, ppo().algorithm, 2).shape == {"seed": 2, "env": 1}


SHARED = {
    "ppo": lambda: ppo(standardise=True),
    "vtrace": lambda: vtrace_actor_critic(),
    "rloo": lambda: rloo(),
    "time_step": lambda: reinforce(baseline="time_step"),
}
"""Of each kind of rollout and credit one; the table of updates has every method on two and on four devices."""


@pytest.mark.costly
@pytest.mark.parametrize(
    "name", [n if n in ("ppo", "time_step") else pytest.param(n, marks=pytest.mark.slow) for n in SHARED]
)
def test_devices_that_share_a_batch_do_what_one_does(name):
    """Only the order of summation differs."""
    environment = probes.five()
    algorithm, config = SHARED[name]()
    streaming = {"num_steps": 12, "normalise_rewards": True} if config.rollout == "stream" else {}
    config = replace(config, num_envs=8, epochs=min(config.epochs, 2), **streaming)
    if name == "ppo":
        config = replace(config, minibatches=2)
    agent = normalise_observations(make_agent(environment, hidden=(), critic=config.critic), environment)
    trainer = make_trainer(environment, agent, config)
    one, two = (sweeps.advance(trainer, sweeps.start(trainer, algorithm, mesh=(1, n)), 1 << 30, 3) for n in (1, 2))
    assert one[0].mesh.shape["env"] == 1 and two[0].mesh.shape["env"] == 2
    floats = [jax.tree.map(lambda x: x if x.dtype == jnp.float32 else None, r[0].state) for r in (one, two)]
    chex.assert_trees_all_close(*floats, atol=2e-5, rtol=1e-4)
    assert set(one[1]) == set(two[1])
    for metric in one[1]:
        np.testing.assert_allclose(one[1][metric], two[1][metric], rtol=1e-3, atol=1e-5, err_msg=metric)


def test_a_name_shared_by_two_places_sets_both():
    algorithm = with_hyperparameters(a2c(gae_lambda=0.9).algorithm, {"gae_lambda": np.array([0.1, 0.2])})
    shared = {name: x for name, x in hyperparameters(algorithm).items() if name.endswith("gae_lambda")}
    assert len(shared) == 2 and all(np.array_equal(x, [0.1, 0.2]) for x in shared.values())
    one = with_hyperparameters(algorithm, {next(iter(shared)): 0.7})
    assert sorted(np.ndim(x) for name, x in hyperparameters(one).items() if name in shared) == [0, 1]
    with pytest.raises(SettingError) as error:
        with_hyperparameters(algorithm, {"lamda": np.arange(100)})
    assert "\n" not in str(error.value) and "gae_lambda" in str(error.value)


def test_hyperparameters_by_name():
    algorithm = reinforce(baseline="constant", baseline_constant=2.0).algorithm
    algorithm = algorithm._replace(
        optimizer=Partial(optax.adam, learning_rate=Partial(linear_decay, learning_rate=0.5, updates=10.0)),
        estimator=algorithm.estimator._replace(credit=standardised(algorithm.estimator.credit)),
    )
    names = hyperparameters(algorithm)
    assert {"learning_rate", "updates", "baseline_constant", "strength", "discount"} <= set(names)
    assert hyperparameters(with_hyperparameters(algorithm, {"strength": 0.0}))["strength"] == 0.0
    with pytest.raises(SettingError, match=r"lambda.*there are.*discount"):
        with_hyperparameters(algorithm, {"lambda": 1.0})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", -1.0),
        ("learning_rate", float("nan")),
        ("discount", 1.1),
        ("discount", -0.1),
        ("entropy_coefficient", float("inf")),
        ("max_grad_norm", 0.0),
    ],
)
def test_impossible_numbers_are_refused_also_inside_a_sweep(name, value):
    algorithm = reinforce().algorithm
    with pytest.raises(SettingError, match=f"{name}: {value}"):
        check_hyperparameters(with_hyperparameters(algorithm, {name: value}))
    _, algorithm, trainer = setup(environments.make("Catch-bsuite"))
    with pytest.raises(SettingError, match=f"{name}: {value}"):
        sweeps.start(trainer, algorithm, over={name: [0.5, value]})


def test_a_list_of_settings_is_swept_as_it_stands():
    _, algorithm, trainer = setup(environments.make("Catch-bsuite"))
    settings = [{"discount": 0.9, "learning_rate": 1e-3}, {"discount": 0.5, "learning_rate": 1e-2}]
    runs = sweeps.start(trainer, algorithm, seeds=3, over=settings)
    np.testing.assert_array_equal(runs.settings["discount"], np.repeat([0.9, 0.5], 3))
    np.testing.assert_array_equal(runs.settings["learning_rate"], np.repeat([1e-3, 1e-2], 3))
    for wrong in ([], [{"discount": 0.9}, {"learning_rate": 1e-3}]):
        with pytest.raises(SettingError, match="^over: "):
            sweeps.start(trainer, algorithm, over=wrong)


@pytest.mark.costly
def test_any_optimiser_and_schedule():
    environment = probes.bandit()
    for optimizer in (
        Partial(optax.sgd, learning_rate=1.0),
        Partial(optax.rmsprop, learning_rate=0.05),
        Partial(optax.adam, learning_rate=Partial(linear_decay, learning_rate=0.2, updates=100.0)),
    ):
        agent, algorithm, trainer = setup(environment, 32)
        state, _ = train(trainer, algorithm._replace(optimizer=optimizer), jax.random.key(0), 100)
        assert evaluate(environment, agent, state.params, jax.random.key(1), greedy=True).mean() == 1.0


def after_each(trainer, algorithm, updates):
    """The parameters after no update, one, two, …"""
    state, update = jax.jit(trainer.init)(algorithm, jax.random.key(0)), jax.jit(trainer.update)
    found = [state.params]
    for _ in range(updates):
        state, _ = update(algorithm, state)
        found.append(state.params)
    return found


@pytest.mark.costly
def test_decay_reaches_zero_and_stops_learning():
    _, algorithm, trainer = setup(probes.bandit())
    rate = Partial(linear_decay, learning_rate=0.2, updates=5.0)
    algorithm = algorithm._replace(optimizer=Partial(optax.adam, learning_rate=rate))
    params = after_each(trainer, algorithm, 50)
    chex.assert_trees_all_equal(params[5], params[50])
    assert optax.tree.norm(jax.tree.map(jnp.subtract, params[5], params[4])) > 0


@pytest.mark.costly
def test_decay_counts_batches_however_many_steps_are_made_on_each():
    environment, recipe = probes.bandit(), ppo(learning_rate=0.2)
    config = replace(recipe.config, num_envs=8, num_steps=4, epochs=2, minibatches=2)
    algorithm, config = decaying(Recipe(recipe.algorithm, config), updates=5)
    agent = make_agent(environment, hidden=(), critic="state")
    *_, four, five, six = after_each(make_trainer(environment, agent, config), algorithm, 6)
    chex.assert_trees_all_equal(five, six)
    assert optax.tree.norm(jax.tree.map(jnp.subtract, five, four)) > 0


@pytest.mark.costly
def test_the_gradient_is_clipped_by_its_global_norm_and_every_update_draws_new_episodes():
    _, algorithm, trainer = setup(environments.make("CartPole-v1"))
    update = jax.jit(trainer.update)

    def updated(rate, max_grad_norm, updates):
        """The parameters before and after, and the metrics of each update."""
        of_sgd = algorithm._replace(optimizer=Partial(optax.sgd, learning_rate=rate), max_grad_norm=max_grad_norm)
        state = before = jax.jit(trainer.init)(of_sgd, jax.random.key(0))
        metrics = []
        for _ in range(updates):
            state, found = update(of_sgd, state)
            metrics.append(found)
        return before.params, state.params, metrics

    before, after, (metrics,) = updated(1.0, 1e-3, 1)
    assert metrics["gradient_norm"] > 1
    np.testing.assert_allclose(optax.tree.norm(jax.tree.map(jnp.subtract, after, before)), 1e-3, rtol=1e-3)
    *_, metrics = updated(0.0, 1e-3, 4)
    assert len(np.unique([m["return_mean"] for m in metrics])) == 4


@pytest.mark.costly
def test_evaluation_is_repeatable_and_undiscounted():
    environment = environments.make("CartPole-v1")
    agent = make_agent(environment)
    params = agent.init(jax.random.key(0))
    first, again = (evaluate(environment, agent, params, jax.random.key(5), episodes=8) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first == np.round(first)).all() and first.min() > 1  # lengths: one reward per step


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"num_envs": 0}, "num_envs"),
        ({"num_envs": 6, "accumulate": 4}, "accumulate"),
        ({"mean": "median"}, "mean"),
        ({"rollout": "whole"}, "rollout"),
        ({"batch_steps": 10, "rollout": "stream"}, "batch_steps"),
        ({"num_steps": 2.5}, "num_steps"),
    ],
)
def test_bad_config(change, field):
    with pytest.raises(SettingError, match=f"^{field}: "):
        replace(Config(), **change)


def test_settings_that_contradict_each_other():
    environment = environments.make("Catch-bsuite")
    with pytest.raises(SettingError, match="critic"):
        make_trainer(environment, make_agent(environment), Config(critic="state"))
    with pytest.raises(SettingError, match="batch_steps"):
        make_trainer(environment, make_agent(environment), Config(num_envs=4, batch_steps=10, accumulate=2))
    with pytest.raises(SettingError, match="gaussian.*CartPole"):
        make_agent(environments.make("CartPole-v1"), policy="gaussian")
    with pytest.raises(SettingError, match="cnn"):
        make_agent(environments.make("CartPole-v1"), network="cnn")
    with pytest.raises(SettingError, match="baseline: 'best'"):
        reinforce(baseline="best")
    _, algorithm, trainer = setup(environment)
    for seeds in (0, []):
        with pytest.raises(SettingError, match="seeds"):
            sweeps.start(trainer, algorithm, seeds=seeds)
    with pytest.raises(SettingError, match="total_steps"):
        sweep(trainer, algorithm, total_steps=0)


def compiled(recipe, updates=4, **changes):
    """What XLA makes of a few updates on CartPole."""
    environment = environments.make("CartPole-v1")
    config = replace(recipe.config, **changes)
    trainer = make_trainer(environment, make_agent(environment, hidden=(8,), critic=config.critic), config)
    runs = sweeps.start(trainer, recipe.algorithm)
    return sweeps.compiled(trainer, runs, updates)


@pytest.mark.costly
@pytest.mark.few(1)
@pytest.mark.parametrize("method", [ppo, reinforce])
def test_memory_does_not_grow_with_the_number_of_updates_and_minibatches_are_dealt_without_a_sort(method):
    recipe, changes = reinforce(), {}
    if method is ppo:
        recipe, changes = ppo(standardise=True), {"num_steps": 32, "epochs": 2, "minibatches": 4}
    programs = [compiled(recipe, updates, num_envs=4, **changes) for updates in (10, 100)]
    needed = [program.memory_analysis().temp_size_in_bytes for program in programs]
    assert needed[1] < 1.05 * needed[0]
    assert " sort(" not in programs[0].as_text() and "while" in programs[0].as_text()


@pytest.mark.costly
def test_a_large_batch_s_activations_are_never_in_memory_together():
    """Two networks of 8, two layers: 64 activations per step and pass would be 256 bytes beside the batch itself."""
    steps = 256 * 128
    program = compiled(ppo(), num_envs=256, num_steps=128, epochs=1, minibatches=1)
    assert program.memory_analysis().temp_size_in_bytes < 160 * steps
