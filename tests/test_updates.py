"""The update by enumeration: what `learn` makes of every batch, against loops in NumPy, in float64.

A part of the table of `experiments/exact_table.py --updates`: every method on held batches, every path with a method
that it could harm. Then how often `collect` visits what, against the exact law.
"""

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parts import plain_updates, update_table
from parts.update_table import STREAMS, TOLERANCE, WHOLE_EPISODES
from scipy.special import gammaincc

from pgjax import ALGORITHMS, BASELINES, Config, SettingError, collect, make_trainer, oracle, reinforce, standardised

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
CASES = update_table.cases()
MAIN = {name: update_table.MAIN.get(name, name) for name in ALGORITHMS}


def path_of(case, label):
    return next(path for path in update_table.paths_of(case) if path.label == label)


def row(name, label="held"):
    case = CASES[name]
    with jax.enable_x64(True):
        return update_table.row(case, path_of(case, label))


def test_the_reference_imports_nothing_of_pgjax():
    tree = ast.parse(Path(plain_updates.__file__).read_text())
    found = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    found |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in found} == {"numpy", "collections", "dataclasses", "functools", "typing"}


def test_the_table_has_every_method_every_baseline_and_every_path():
    assert {case.recipe for case in CASES.values()} == set(ALGORITHMS) == set(plain_updates.METHODS)
    assert {case.method.baseline for case in CASES.values() if case.recipe == "reinforce"} == set(BASELINES)
    for name in ALGORITHMS:
        streaming = ALGORITHMS[name]().config.rollout == "stream"
        assert update_table.paths_of(CASES[MAIN[name]]) == (STREAMS if streaming else WHOLE_EPISODES)


@pytest.mark.few(3, costly=3)
@pytest.mark.parametrize("name", MAIN)
def test_every_method_on_batches_that_are_held(name):
    found = row(MAIN[name])
    assert found.refused is None and found.batches in (289, 361)
    assert found.expected < TOLERANCE and found.each < TOLERANCE


ALONG_PATHS = {  # path: a method that it could harm; the whole product is the script's
    "minibatches of environments": "rloo",
    "groups in slices": "rloo",
    "two devices": "weighted_is (none)",
    "groups on two devices": "rloo",
    "plain engine": "per_decision_is (time_step)",
    "engine of CPUs, blocks of two steps": "first_order (time_step)",
    "diagnostics": "reinforce (reward_to_go, optimal)",
    "discounted objective": "reinforce (reward_to_go, leave_one_out)",
    "three passes": "truncated_is (time_step)",
    "standardised": "suffix_is (time_step)",
    "gradient clipped": "storm (time_step)",
    "groups": "dapo",
    "discounted objective, replayed": "grpo",
    "minibatches on two devices": "reinforce_pp",
}
ALONG_STREAMS = {
    "minibatches of steps": "a2c",
    "minibatches of steps on two devices": "a2c",
    "engine of accelerators": "vtrace",
    "discounted objective": "a2c",
    "two devices": "vmpo",
    "standardised": "dual_clip",
}


@pytest.mark.few(3, costly=2)
@pytest.mark.parametrize(("label", "name"), [*ALONG_PATHS.items(), *ALONG_STREAMS.items()])
def test_every_path(name, label):
    found = row(name, label)
    assert found.refused is None and found.batches > 40
    assert found.expected < TOLERANCE and found.each < TOLERANCE
    if label.startswith("minibatches"):
        assert found.deals == 4, "some deals of minibatches never happen"
    if label == "discounted objective" and found.bias is not None:
        assert found.bias < 1e-12, "its mean is the gradient"


MANY_PARTS = {  # method: a path; with an action of several parts, one of them masked; every method is the script's
    "rloo": "held",
    "reinforce (reward_to_go, optimal)": "held",
    "per_decision_is (time_step)": "replayed in two slices",
    "ppo": "minibatches of steps",
    "trpo": "held",
    "vtrace": "held",
}


WITH_ONE_MASK = ("rloo", "ppo")  # by default; with several parts every method meets a mask too


@pytest.mark.few(1, costly=2)
@pytest.mark.parametrize(
    ("kind", "name", "label"),
    [
        pytest.param(kind, name, label, marks=() if kind == "joint" or name in WITH_ONE_MASK else pytest.mark.slow)
        for kind in update_table.ACTIONS
        for name, label in MANY_PARTS.items()
    ],
)
def test_every_kind_of_choice(kind, name, label):
    with update_table.acting(update_table.ACTIONS[kind]), jax.enable_x64(True):
        case = update_table.cases()[name]
        found = update_table.row(case, path_of(case, label))
        assert found.refused is None and found.batches > 9
        assert found.expected < TOLERANCE and found.each < TOLERANCE
        if label == "held" and "rloo" in name:
            assert found.bias < 1e-12


def test_a_surrogate_that_looks_along_time_is_cut_between_trajectories_alone():
    found = row("per_decision_is (time_step)", "engine of CPUs, blocks of two steps")
    assert found.refused is None and found.each < TOLERANCE


REFUSED = [
    ("reinforce (reward_to_go, optimal)", "replayed in two slices", "accumulate"),
    ("reinforce (reward_to_go, optimal)", "two devices", "mesh"),
    ("per_decision_is (time_step)", "two devices, two passes", "mesh"),
    ("per_decision_is (time_step)", "minibatches of steps", "shuffle"),
    ("rloo", "slices within groups", "accumulate"),
    ("storm (time_step)", "three passes", "momentum"),
    ("a2c", "groups", "group_size"),
    ("trpo", "replayed in two slices", "accumulate"),
    ("npg", "four devices", "mesh"),
    ("ppo", "uneven minibatches of steps on two devices", "mesh"),
    ("doubly_robust", "standardised", "standardise"),
    ("sampler_is", "groups in slices", "accumulate"),
    ("vmpo", "replayed in two slices", "accumulate"),
    ("gspo", "minibatches of steps", "shuffle"),
]


@pytest.mark.parametrize("recipe", [reinforce(), ALGORITHMS["doubly_robust"](), ALGORITHMS["all_action"]()])
def test_what_is_no_number_per_step_takes_no_spread(recipe):
    estimator, config = recipe.algorithm.estimator, replace(recipe.config, num_envs=2)
    algorithm = recipe.algorithm._replace(estimator=estimator._replace(credit=standardised(estimator.credit)))
    mdp, _ = update_table.PROBLEMS["two steps"]
    trainer = make_trainer(oracle.environment(mdp), oracle.tabular_agent(mdp, config.critic), config)
    if config.critic == "none":
        trainer.init(algorithm, jax.random.key(0))
        return
    with pytest.raises(SettingError, match="^credit: .* is more than a number per step"):
        trainer.init(algorithm, jax.random.key(0))


def test_what_fails_later_than_at_the_door_is_red():
    failing = mock.patch.object(oracle, "every_update", side_effect=SettingError("rows", 1, "are not right"))
    with failing:
        found = row("dice")
    assert found.red and found.refused is None and found.failed == "rows: 1 are not right"
    assert update_table.Row("dice", "held").red, "nothing compared is not green"


@pytest.mark.parametrize(("name", "label", "field"), REFUSED)
def test_a_path_that_a_method_does_not_admit_is_refused_by_name(name, label, field):
    refused = row(name, label).refused
    assert refused is not None and refused.startswith(f"{field}: ") and "\n" not in refused


@pytest.mark.costly
def test_the_script_prints_the_table_on_four_devices(tmp_path):
    asked = ["--updates", "--only", "dice", "--paths", "four devices", "--json", tmp_path / "rows.json"]
    command = [sys.executable, EXPERIMENTS / "exact_table.py", *asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    (found,) = json.loads((tmp_path / "rows.json").read_text())
    assert found["batches"] == 625 and max(found["expected"], found["each"]) < TOLERANCE
    assert "1 updates of 625 batches: 0 differ" in done.stdout


ACTING = {  # what a number does must show in some batch, or the table would not see it
    "ppo": {"clip": np.inf},
    "ppo (value clipped)": {"value_clip": None},
    "ppo (KL penalty)": {"kl_coefficient": 0.0},
    "ppo (stopped early)": {"target_kl": np.inf},
    "truncated_is (time_step)": {"max_weight": np.inf},
    "vtrace": {"max_rho": np.inf},
    "trpo": {"policy_step": "natural"},  # the line search
    "npg": {"max_kl": np.inf},
    "grpo": {"reference_coefficient": 0.0},
    "grpo (k2_loss)": {"reference_length": "none"},
    "grpo (k2_reward)": {"length": "none"},
    "dr_grpo": {"clip": np.inf},
    "dapo": {"clip_high": 0.05},
    "gspo": {"clip_low": np.inf},
    "cispo": {"clip_high": np.inf},
    "sampler_is": {"max_mismatch": np.inf},
    "reinforce_pp": {"reference_coefficient": 0.0},
    "delightful": {"temperature": np.inf},
    "dual_clip": {"dual_clip": np.inf},
    "awr": {"max_weight": np.inf},
    "vmpo": {"temperature_bound": 0.1},
}


@pytest.mark.parametrize("name", ACTING)
def test_every_number_acts_on_some_batches_of_the_table(name):
    case = CASES[name]
    path = path_of(case, "held")
    method = replace(case.method, epochs=2)
    if name == "dual_clip":  # as it stands no action is bad and becomes likelier: its path is "standardised"
        method = replace(method, standardise=True)
    some = tuple(range(0, 289, 4))
    with_it, without = (
        update_table.numpy_updates(m, path.problem, path.num_steps, path.num_envs, None, some).after
        for m in (method, replace(method, **ACTING[name]))
    )
    differs = np.any(np.abs(with_it - without) > 1e-6, axis=1)
    assert differs.sum() > 2


# How often a rollout goes where


FALSE_ALARM = 1e-6
"""Of each of the tests below: the chance that a right rollout fails, if the keys were drawn anew."""


def tail(columns, probability):
    """The chance of counts as far from the law as these or farther, by Pearson's χ²."""
    expected = probability * columns.size
    assert expected.min() > 10
    statistic = np.sum((np.bincount(columns.ravel(), minlength=len(expected)) - expected) ** 2 / expected)
    return gammaincc((len(expected) - 1) / 2, statistic / 2)


def visited(problem, config, batches=1):
    """The rollouts listed, and which of them every environment of some consecutive batches went through."""
    mdp, time_limit = update_table.PROBLEMS[problem]
    algorithm = reinforce(baseline="none").algorithm
    trainer = make_trainer(oracle.environment(mdp, time_limit=time_limit), oracle.tabular_agent(mdp), config)
    state = trainer.init(algorithm, jax.random.key(5))
    state = state._replace(params=state.params | {"policy": jnp.asarray(update_table.THETA, jnp.float32)})
    rows = []
    for i in range(batches):
        collected = jax.jit(collect, static_argnums=0)(trainer, algorithm, state._replace(key=jax.random.key(i)))
        state = state._replace(rollout_state=collected.rollout_state)
        rows.append(collected.batch.transition)
    rows = jax.tree.map(lambda *x: jnp.concatenate(x), *rows)
    rollouts = oracle.list_rollouts(mdp, replace(config, num_steps=config.num_steps * batches), time_limit=time_limit)
    return mdp, rollouts, oracle.columns_of(rollouts, rows)


@pytest.mark.parametrize(
    ("problem", "config", "batches"),
    [
        ("three steps", Config(num_envs=1 << 15), 1),
        ("three steps", Config(num_envs=1 << 15, engine="plain"), 1),
        ("stream", Config(rollout="stream", num_envs=1 << 15, num_steps=2), 2),
        ("stream", Config(rollout="stream", num_envs=1 << 15, num_steps=2, engine="plain"), 2),
    ],
    ids=["episodes", "episodes, plain engine", "two batches of a stream", "two batches of a stream, plain engine"],
)
def test_rollouts_follow_the_exact_law(problem, config, batches):
    mdp, rollouts, columns = visited(problem, config, batches)
    theta = update_table.THETA
    right, wrong = (
        oracle.list_batches(mdp, rollouts, np.log(plain_updates.softmax(t)), num_envs=1).probability
        for t in (theta, theta + np.array([[0.1, 0.0], [0.0, 0.0]]))
    )
    assert tail(columns, right) > FALSE_ALARM
    assert tail(columns, wrong) < FALSE_ALARM, "a policy off by 0.1 in one logit is not told apart"


def test_members_of_a_group_share_their_start_and_nothing_else():
    """All groups of two, by their probability: the start once, each member's choices by itself."""
    mdp, rollouts, columns = visited("two steps", Config(num_envs=1 << 16, group_size=2))
    log_probs = np.log(plain_updates.softmax(update_table.THETA))
    groups = oracle.list_batches(mdp, rollouts, log_probs, num_envs=2, group_size=2)
    number = {tuple(members): i for i, members in enumerate(groups.members.tolist())}
    found = np.array([number[tuple(pair)] for pair in columns.reshape(-1, 2).tolist()])
    assert tail(found, groups.probability) > FALSE_ALARM


@pytest.mark.usefixtures("x64")
def test_rows_that_are_not_listed_are_refused():
    mdp, _ = update_table.PROBLEMS["two steps"]
    rollouts = oracle.list_rollouts(mdp, Config())
    rows = oracle.as_rows(mdp, rollouts, np.log(plain_updates.softmax(update_table.THETA)))
    with pytest.raises(SettingError, match="rows: 6 columns are not among"):
        oracle.columns_of(rollouts, rows._replace(action=rows.action + 7))
