"""A sweep watched and steered: callbacks, stops, interrupts, numbers changed on the way, files, tables, reprs."""

import io
import os
import signal
from functools import partial

import jax
import numpy as np
import optax
import pytest
from rich.console import Console

from pgjax import Config, environments, evaluate, make_agent, make_trainer, reinforce, sweep, sweeps
from pgjax.methods.hyperparameters import hyperparameters
from pgjax.methods.optimizers import with_optimizer
from pgjax.sweeps import progress
from pgjax.types import SettingError, as_partial

HOW = {"total_steps": 36 * 8, "seeds": 3, "updates_per_chunk": 2}


@pytest.fixture(scope="module")
def problem():
    environment = environments.make("Catch-bsuite")
    trainer = make_trainer(environment, make_agent(environment, hidden=(4,)), Config(num_envs=4))
    return trainer, reinforce().algorithm


@pytest.fixture(scope="module")
def plain(problem):
    return sweep(*problem, **HOW)


def same(one, other):
    for a, b in zip(
        jax.tree.leaves(one.state._replace(key=0)), jax.tree.leaves(other.state._replace(key=0)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    keys = [jax.random.key_data(runs.state.key) for runs in (one, other)]
    np.testing.assert_array_equal(*keys)


@pytest.mark.costly
def test_a_callback_and_a_bar_change_no_bit_and_see_every_chunk(problem, plain, monkeypatch):
    seen, text = [], io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=text, force_terminal=True, width=100))

    def callback(runs, metrics):
        seen.append((runs.state.env_steps.tolist(), metrics["return_mean"].shape))

    watched = sweep(*problem, **HOW, progress=True, callback=callback)
    same(plain.runs, watched.runs)
    for name, values in plain.metrics.items():
        np.testing.assert_array_equal(values, watched.metrics[name])
    assert seen == [([72 * k] * 3, (3, 2)) for k in (1, 2, 3, 4)]
    for part in ("288/288", "return", "seed 0", "/s"):
        assert part in text.getvalue()


@pytest.mark.costly
def test_runs_that_a_callback_stops_stay_and_the_others_go_on(problem, plain):
    masks = iter([np.array([False, True, False]), None, np.array([True, False, False])])
    stopped = sweep(*problem, **HOW, callback=lambda runs, metrics: next(masks, False))
    assert stopped.runs.state.env_steps.tolist() == [216, 72, 288]
    assert stopped.metrics["active"].sum(axis=1).tolist() == [6, 2, 8]
    for a, b in zip(jax.tree.leaves(plain.runs.pick(seed=2).params), jax.tree.leaves(stopped.runs.pick(seed=2).params)):
        np.testing.assert_array_equal(a, b)
    early = sweep(*problem, **HOW | {"total_steps": 72}).runs.pick(seed=1)
    for a, b in zip(jax.tree.leaves(early.params), jax.tree.leaves(stopped.runs.pick(seed=1).params)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.costly
def test_true_stops_all_of_them(problem):
    found = sweep(*problem, **HOW, callback=lambda runs, metrics: bool(metrics["update"].max() >= 4))
    assert found.runs.state.update.tolist() == [4, 4, 4] and not found.interrupted


@pytest.mark.parametrize("answer", [1, "stop", np.array([True]), np.zeros(3)])
def test_other_answers_are_refused(problem, answer):
    with pytest.raises(SettingError, match="^callback: .* is not a valid return value"):
        sweep(*problem, **HOW, callback=lambda runs, metrics: answer)


def test_ctrl_c_keeps_what_is_done(problem, plain, capsys):
    def press(runs, metrics):
        if metrics["update"].max() == 4:
            os.kill(os.getpid(), signal.SIGINT)

    found = sweep(*problem, **HOW, callback=press)
    assert found.interrupted and found.runs.state.update.tolist() == [4, 4, 4]
    np.testing.assert_array_equal(found.metrics["return_mean"], plain.metrics["return_mean"][:, :4])
    assert capsys.readouterr().err == "stopped by Ctrl-C after update 4; returning the result so far\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.costly
def test_a_number_changed_on_the_way_is_that_of_two_sweeps(problem):
    trainer, algorithm = problem

    def slower(runs, metrics):
        return runs.with_hyperparameters(learning_rate=1e-4) if metrics["update"].max() == 4 else None

    changed = sweep(*problem, **HOW, callback=slower).runs
    by_hand = sweeps.start(trainer, algorithm, seeds=3)
    by_hand, _ = sweeps.advance(trainer, by_hand, 288, 4)
    by_hand, _ = sweeps.advance(trainer, by_hand.with_hyperparameters(learning_rate=[1e-4] * 3), 288, 4)
    same(changed, by_hand)
    np.testing.assert_allclose(hyperparameters(changed.algorithm)["learning_rate"], 1e-4)
    for values, field in (({"clip": 0.1}, "clip"), ({"discount": 1.5}, "discount"), ({"discount": [1.0]}, "discount")):
        with pytest.raises(SettingError, match=f"^{field}: "):
            by_hand.with_hyperparameters(**values)


@pytest.mark.costly
def test_runs_are_saved_and_go_on_to_the_same_bits(problem, plain, tmp_path):
    trainer, algorithm = problem
    half, _ = sweeps.advance(trainer, sweeps.start(trainer, algorithm, seeds=3), 144, 4)
    half.save(tmp_path / "runs.npz")
    with np.load(tmp_path / "runs.npz", allow_pickle=False) as file:
        assert "seeds" in file.files
    loaded = sweeps.load(tmp_path / "runs.npz", trainer, algorithm)
    same(half, loaded)
    same(plain.runs, sweeps.advance(trainer, loaded, 288, 4)[0])
    other = make_trainer(trainer.environment, make_agent(trainer.environment, hidden=(5,)), trainer.config)
    (tmp_path / "torn.npz").write_bytes((tmp_path / "runs.npz").read_bytes()[:500])
    for arguments in (("runs.npz", other, algorithm), ("torn.npz", trainer, algorithm), ("none", trainer, algorithm)):
        with pytest.raises(SettingError, match="^path: ") as error:
            sweeps.load(tmp_path / arguments[0], *arguments[1:])
        assert "\n" not in str(error.value)
    with pytest.raises(SettingError, match="^path: .* is of another trainer or algorithm"):
        sweeps.load(tmp_path / "runs.npz", trainer, algorithm._replace(momentum=0.5))


def test_a_result_becomes_a_table_curves_and_a_figure(problem, plain):
    pandas = pytest.importorskip("pandas")
    frame = plain.to_pandas()
    assert (
        isinstance(frame, pandas.DataFrame)
        and len(frame) == 24
        and frame["seed"].tolist() == [0] * 8 + [1] * 8 + [2] * 8
    )
    np.testing.assert_array_equal(frame["return_mean"].to_numpy().reshape(3, 8), plain.metrics["return_mean"])
    steps, returns = plain.aligned()
    np.testing.assert_allclose([steps[0], steps[-1]], [36, 288])
    np.testing.assert_allclose(returns[:, [0, -1]], plain.metrics["return_mean"][:, [0, -1]])
    figure = plain.plot("entropy")
    assert len(figure.axes[0].get_lines()) == 1 and figure.axes[0].get_ylabel() == "entropy"
    for call in (lambda: plain.plot("loss"), lambda: plain.aligned("loss"), lambda: plain.to_pandas(evaluation=True)):
        with pytest.raises(SettingError):
            call()


def test_reprs_are_short(problem, plain):
    trainer, algorithm = problem
    for thing in (trainer, trainer.agent, algorithm, plain.runs, plain, jax.tree.map(lambda x: np.ones(3), algorithm)):
        assert len(repr(thing)) < 300 and "0x" not in repr(thing) and "\n" not in repr(thing)
    assert repr(trainer) == "Trainer(Catch-bsuite, Agent(critic='none'), Config(num_envs=4))"
    assert "adam(learning_rate=0.01)" in repr(algorithm)
    assert repr(plain.runs) == "Runs(3 of seed: 0, 1, 2; env_steps: 288)"
    assert plain._repr_html_().count("<tr>") == 4


def test_what_is_passed_in_place_of_another_is_named_in_a_line(problem, plain):
    trainer, algorithm = problem
    recipe, agent, environment = reinforce(), trainer.agent, trainer.environment
    key, state = jax.random.key(0), trainer.init(algorithm, jax.random.key(0))
    calls = {
        "algorithm": [
            lambda: sweep(trainer, recipe, total_steps=36),
            lambda: sweeps.start(trainer, recipe),
            lambda: trainer.init(recipe, key),
            lambda: trainer.update(recipe, state),
        ],
        "config": [lambda: make_trainer(environment, agent, recipe)],
        "params": [
            lambda: evaluate(environment, agent, plain.runs.state.params, key),
            lambda: evaluate(environment, agent, plain.runs, key),
            lambda: evaluate(environment, agent, state, key),
        ],
        "state": [lambda: trainer.update(algorithm, plain.runs.state), lambda: trainer.update(algorithm, plain.runs)],
    }
    for field, each in calls.items():
        for call in each:
            with pytest.raises(SettingError, match=f"^{field}: ") as error:
                call()
            assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_mask_bound_in_an_optimiser_is_no_number_and_the_numbers_beside_it_can_be_swept(problem):
    trainer, algorithm = problem

    def matrices(params):
        return jax.tree.map(lambda x: x.ndim > 1, params)

    masked, again = (with_optimizer(algorithm, partial(optax.adamw, weight_decay=0.0, mask=matrices)) for _ in range(2))
    assert {"learning_rate", "weight_decay"} < set(hyperparameters(masked)) and "mask" not in hyperparameters(masked)
    assert jax.tree.structure(masked) == jax.tree.structure(again)  # programs are found again
    runs = sweep(trainer, masked, over={"weight_decay": [0.0, 0.5]}, total_steps=72).runs
    for decay in (0.0, 0.5):
        made = optax.adamw(0.01, weight_decay=decay, mask=matrices)
        alone = sweep(trainer, with_optimizer(algorithm, made), total_steps=72).runs.pick()
        found = runs.pick(weight_decay=decay)
        for a, b in zip(jax.tree.leaves(alone.params), jax.tree.leaves(found.params), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def _chained(mask, decay, learning_rate):
    return optax.chain(optax.add_decayed_weights(decay, mask), optax.sgd(learning_rate))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, partial], ids=["function", "jitted", "partial"])
def test_a_function_bound_in_any_place_is_no_number(problem, wrap):
    trainer, algorithm = problem
    matrices = wrap(lambda params: jax.tree.map(lambda x: x.ndim > 1, params))
    by_name = partial(_chained, decay=0.5, mask=matrices)
    first, last = partial(_chained, matrices, 0.5), partial(_chained, matrices, decay=0.5)
    params = trainer.init(algorithm, jax.random.key(0)).params
    plain = _chained(lambda params: jax.tree.map(lambda x: x.ndim > 1, params), 0.5, 0.1)
    wanted = plain.update(params, plain.init(params), params)[0]
    for bound in (by_name, first, last):
        made = as_partial(bound)
        assert jax.tree.leaves(made) == [0.5]
        optimizer = made(learning_rate=0.1)
        found = optimizer.update(params, optimizer.init(params), params)[0]
        jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.costly
def test_optax_objects_and_functions_are_optimisers(problem):
    trainer, algorithm = problem
    wanted = sweep(trainer, with_optimizer(algorithm, optax.sgd), total_steps=72).runs
    made = optax.sgd(0.01), lambda: optax.sgd(0.01), lambda learning_rate: optax.sgd(learning_rate)
    for optimizer in made:
        found = sweep(trainer, with_optimizer(algorithm, optimizer), total_steps=72).runs
        for a, b in zip(jax.tree.leaves(wanted.state.params), jax.tree.leaves(found.state.params), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    fixed = with_optimizer(algorithm, optax.sgd(0.01))
    for bad in (0.1, "adam", lambda decay: optax.sgd(decay)):
        with pytest.raises(SettingError, match="^optimizer: "):
            with_optimizer(algorithm, bad)
    with pytest.raises(SettingError, match="^optimizer: .* needs learning_rate"):
        with_optimizer(fixed, optax.adam)
