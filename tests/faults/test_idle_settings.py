"""A setting acts, or it is refused: every field of Settings in a situation in which nothing would depend on it."""

import runpy
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest
from parts.command import options_of

from pgjax import ALGORITHMS
from pgjax.runs.record import checkpoints, files
from pgjax.runs.settings import idle
from pgjax.runs.settings.build import build
from pgjax.runs.settings.command_line import from_command_line
from pgjax.runs.settings.config_file import config_text, read_config, recorded, settings_of_record
from pgjax.runs.settings.flags import Settings
from pgjax.types import SettingError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

IDLE = [  # what would do nothing, and where it acts (None: nowhere)
    ({"num_steps": 64}, {"algorithm": "a2c"}),
    ({"first_seed": 7, "seed_list": (3, 5)}, {"seed_list": ()}),
    ({"num_steps": 64, "algorithm": "doubly_robust"}, {"algorithm": "ppo"}),
    ({"batch_steps": 100, "algorithm": "a2c"}, {"algorithm": "reinforce"}),
    ({"group_size": 2, "algorithm": "a2c"}, {"algorithm": "rloo"}),
    ({"baseline_constant": 5.0}, {"baseline": "constant"}),
    ({"baseline_constant": 5.0, "algorithm": "first_order"}, {"baseline": "constant"}),
    ({"truncation": "terminal"}, {"algorithm": "a2c"}),
    ({"truncation": "terminal", "baseline": "state_value"}, {"algorithm": "vtrace", "baseline": None}),
    ({"value_coefficient": 0.1}, {"baseline": "state_value"}),
    ({"value_coefficient": 0.1, "algorithm": "npg"}, {"algorithm": "a2c"}),
    ({"standardise": True, "algorithm": "doubly_robust"}, {"algorithm": "ppo"}),
    ({"standardise": True, "algorithm": "all_action"}, {"algorithm": "reinforce"}),
    ({"standardise": True, "algorithm": "dice"}, {"algorithm": "first_order"}),
    ({"discounted_objective": True}, {"discount": 0.9}),
    ({"shuffle": "environments"}, {"minibatches": 2, "baseline": "none"}),
    ({"shuffle": "steps", "algorithm": "ppo"}, {"minibatches": 2}),
    ({"decay_entropy": 10}, {"entropy_coefficient": 0.1}),
    ({"initial_log_std": -1.0}, {"environment": "Pendulum-v1"}),
    ({"policy": "categorical"}, None),
    ({"policy": "squashed"}, {"environment": "Pendulum-v1"}),
    ({"network": "mlp"}, {"environment": "Breakout-MinAtar"}),
    ({"seeds": 3, "population": 4}, {"population": 0}),
    ({"seed_list": (3, 5), "population": 4}, {"population": 0}),
    ({"updates_per_chunk": 5, "population": 4}, {"population": 0}),
    ({"evolve": ("learning_rate",)}, {"population": 4}),
    ({"exploit_every": 5}, {"population": 4}),
    ({"join_timeout": 60}, {"distributed": True}),
    ({"coordinator": "node:1"}, {"distributed": True}),
    ({"processes": 2}, {"distributed": True}),
    ({"process_id": 0}, {"distributed": True}),
    ({"config": "x.toml"}, None),
    ({"quick": True}, None),
    ({"tuned": False}, None),
    ({"shared": True}, {"algorithm": "a2c"}),
    ({"credit": "total_return", "algorithm": "rloo"}, {"algorithm": "reinforce"}),
    ({"baseline": "none", "algorithm": "ppo"}, {"algorithm": "storm", "baseline": "constant"}),
    ({"gae_lambda": 0.5}, {"algorithm": "a2c"}),
    ({"clip": 0.5, "algorithm": "a2c"}, {"algorithm": "ppo"}),
    ({"value_clip": 0.5}, {"algorithm": "ppo"}),
    ({"kl_coefficient": 0.5}, {"algorithm": "ppo"}),
    ({"target_kl": 0.5}, {"algorithm": "ppo"}),
    ({"max_kl": 0.5}, {"algorithm": "trpo"}),
    ({"step_size": 0.5}, {"algorithm": "npg"}),
    ({"damping": 0.5}, {"algorithm": "npg"}),
    ({"max_rho": 0.5}, {"algorithm": "vtrace"}),
    ({"max_c": 0.5}, {"algorithm": "vtrace"}),
    ({"momentum": 0.5}, {"algorithm": "storm"}),
    ({"clip_low": 0.5}, {"algorithm": "dapo"}),
    ({"clip_high": 0.5, "algorithm": "grpo"}, {"algorithm": "gspo"}),
    ({"dual_clip": 2.0, "algorithm": "ppo"}, {"algorithm": "dual_clip"}),
    ({"temperature": 0.5}, {"algorithm": "delightful"}),
    ({"temperature_bound": 0.5, "algorithm": "awr"}, {"algorithm": "vmpo"}),
    ({"max_weight": 3.0}, {"algorithm": "truncated_is"}),
    ({"max_weight": 3.0, "algorithm": "ppo"}, {"algorithm": "awr"}),
    ({"max_mismatch": 3.0, "algorithm": "dr_grpo"}, {"algorithm": "sampler_is"}),
    ({"reference_coefficient": 0.1}, {"reference_kl": "k2_loss"}),
    ({"reference_kl": "k2_loss"}, {"reference_coefficient": 0.1}),
    ({"standardise": True, "algorithm": "reinforce_pp"}, {"algorithm": "grpo"}),
]
ACTS_ALWAYS = {
    *("randomise", "imports"),
    *(
        "environment",
        "algorithm",
        "population",
        "total_steps",
        "learning_rate",
        "discount",
        "epochs",
        "num_envs",
        "hidden",
    ),
    *(
        "minibatches",
        "normalise_rewards",
        "normalise_observations",
        "accumulate",
        "mean",
        "diagnostics",
        "optimizer",
        "engine",
    ),
    *(
        "max_grad_norm",
        "entropy_coefficient",
        "decay_updates",
        "learning_rate_schedule",
        "warmup_steps",
        "memory",
        "separate_memory",
        "layer_norm",
        "dropout",
        "eval_episodes",
        "eval_every",
        "devices",
        "mesh",
    ),
    *("distributed", "max_skipped", "out", "resume", "save_every", "keep", "log", "quiet"),
}


def test_every_setting_is_in_one_of_the_tables():
    refused = {next(iter(case)) for case, _ in IDLE}
    assert refused | ACTS_ALWAYS == {field.name for field in fields(Settings)} and not refused & ACTS_ALWAYS
    assert set(idle.RULES) <= refused


@pytest.mark.parametrize(("case", "acting"), IDLE, ids=[str(next(iter(case.items()))) for case, _ in IDLE])
def test_what_would_do_nothing_is_refused_in_one_line_and_what_acts_is_not(case, acting):
    name, value = next(iter(case.items()))
    with pytest.raises(SettingError) as error:
        build(Settings(**case))
    assert str(error.value).startswith(f"{name}: {value!r} ") and "\n" not in str(error.value)
    if acting is not None:
        build(Settings(**case | acting))


@pytest.mark.parametrize(
    "flags",
    [
        *("--join-timeout 120", "--shuffle environments --minibatches 1", "--no-standardise --algorithm dice"),
        *("--decay-entropy 0", "--process-id=-1", "--baseline-constant 0", "--algorithm ppo --shuffle steps"),
    ],
)
def test_flags_at_their_defaults_are_refused_too(flags):
    with pytest.raises(SettingError, match="does nothing: .*; leave it out$"):
        from_command_line(flags.split())


def test_no_tuned_beside_a_file_does_nothing(tmp_path):
    (tmp_path / "mine.toml").write_text("seeds = 3\n")
    with pytest.raises(SettingError, match="^tuned: False does nothing: --config is the base"):
        from_command_line(["--config", str(tmp_path / "mine.toml"), "--no-tuned"])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_writes_what_acts_and_reads_it_back(algorithm, tmp_path):
    settings = Settings(algorithm=algorithm)
    (tmp_path / "config.toml").write_text(config_text(settings))
    table = tomllib.loads((tmp_path / "config.toml").read_text())
    config = ALGORITHMS[algorithm]().config
    assert ("num_steps" in table) == (config.rollout == "stream")
    assert ("shuffle" in table) == (config.minibatches > 1)
    assert ("truncation" in table) == (config.rollout == "stream")
    assert not {"baseline_constant", "decay_entropy", "initial_log_std", "join_timeout"} & set(table)
    build(read_config(tmp_path / "config.toml"))


OLD = {"num_steps": 128, "shuffle": "environments", "truncation": "bootstrap", "baseline_constant": 0.0}
OLD |= {"initial_log_std": 0.0, "decay_entropy": 0, "discounted_objective": False}
"""What earlier versions wrote for REINFORCE on CartPole, whether it acted or not."""


def test_what_an_earlier_version_wrote_is_read(tmp_path):
    text = config_text(Settings(seeds=3))
    lines = "\n".join(f"{name} = {value!r}" for name, value in OLD.items()).replace("False", "false")
    (tmp_path / "config.toml").write_text(f"{lines}\n{text}")
    settings = from_command_line(["--config", str(tmp_path / "config.toml"), "--seeds", "4"])
    assert settings.seeds == 4 and recorded(replace(settings, seeds=3)) == recorded(Settings(seeds=3))
    build(settings)
    assert settings_of_record(OLD) == Settings()
    (tmp_path / "config.toml").write_text(lines)  # by hand: refused
    with pytest.raises(SettingError, match="does nothing"):
        build(read_config(tmp_path / "config.toml"))


def test_a_checkpoint_of_an_earlier_version_is_loaded(tmp_path):
    import jax
    import numpy as np

    settings = Settings(hidden=(4,), seeds=1)
    params = jax.vmap(build(settings).agent.init)(jax.random.split(jax.random.key(0), 1))
    tree = {"seeds": np.arange(1), "state": {"params": params}}
    record = {"settings": recorded(settings) | OLD | {"policy": "auto"}}
    checkpoints.save(tmp_path / "checkpoints", 1, tree, record)
    assert files.load_run(tmp_path)[0].environment.name == "CartPole-v1"


def test_tuned_settings_give_way_where_a_flag_makes_them_idle(monkeypatch):
    from pgjax.runs.settings import command_line

    found = {"environment": "CartPole-v1", "algorithm": "ppo", "minibatches": 4, "shuffle": "steps"}
    monkeypatch.setattr(command_line, "tuned", lambda *_: found)
    settings = from_command_line(["--environment", "CartPole-v1", "--minibatches", "1", "--quiet"])
    assert settings.shuffle is None and build(settings)
    assert from_command_line(["--environment", "CartPole-v1", "--quiet"]).shuffle == "steps"


@pytest.fixture(scope="module")
def tune():
    return runpy.run_path(str(EXPERIMENTS / "tune.py"))


def test_flags_that_do_nothing_in_a_search(tune):
    values = {"log": "tensorboard", "coordinator": "a:1", "mesh": "1 1", "distributed": ""}
    for name, reason in tune["WITHOUT"].items():
        flags = [f"--{name.replace('_', '-')}", *values.get(name, "1").split()]
        if name == "resume":
            continue  # there is no such run
        with pytest.raises(SettingError, match=f"^{name}: .* does nothing: {reason}; leave it out$"):
            from_command_line(flags, without=tune["WITHOUT"])
    settings = Settings(baseline="none")
    assert "baseline_constant" not in tune["space_of"](tune["Search"](), settings).numbers


@pytest.mark.parametrize(
    ("script", "kind", "quick", "flag", "field", "value"),
    [
        ("large_sweep", "Options", "QUICK", "--seeds=6", "seeds", 6),
        ("large_sweep", "Options", "QUICK", "--table=mine.csv", "table", Path("mine.csv")),
        ("benchmark", "Options", "FEW", "--repeats=7", "repeats", 7),
        ("scores", "Scores", "QUICK", "--random-episodes=32", "random_episodes", 32),
        ("render", "Rendering", "QUICK", "--max-frames=99", "max_frames", 99),
    ],
)
def test_flags_that_are_named_go_before_quick(script, kind, quick, flag, field, value):
    there = runpy.run_path(str(EXPERIMENTS / f"{script}.py"))
    place = [] if script in ("large_sweep", "benchmark") else ["run"]
    plain = options_of(there[kind], None, there[quick], [*place, "--quick"])
    assert {name: getattr(plain, name) for name in there[quick]} == there[quick]
    named = options_of(there[kind], None, there[quick], [*place, "--quick", flag])
    assert getattr(named, field) == value and replace(named, **{field: getattr(plain, field)}) == plain


@pytest.mark.parametrize(
    ("script", "changes", "field"),
    [
        ("scaling", {"devices": 2}, "devices"),
        ("scaling", {"part": "rate", "limit": 3}, "limit"),
        ("value_estimate", {"log": Path("log.npz"), "quick": True}, "quick"),
        ("value_estimate", {"log": Path("log.npz"), "out": Path("here")}, "out"),
        ("benchmark", {"scaling": False, "out": Path("here")}, "out"),
    ],
)
def test_options_that_do_nothing_beside_others(script, changes, field):
    there = runpy.run_path(str(EXPERIMENTS / f"{script}.py"))
    with pytest.raises(SettingError, match=f"^{field}: .* does nothing: "):
        there["main"](there["Options"](**changes))
