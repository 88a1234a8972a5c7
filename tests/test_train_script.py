"""The main job from the command line, as a user runs it."""

import csv
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
import train
from scripts import EXPERIMENTS, here, in_a_process

import pgjax
from pgjax import evaluate
from pgjax.runs.record import files
from pgjax.runs.settings.build import build
from pgjax.runs.settings.flags import Settings
from pgjax.types import SettingError

SMALL = [
    "--no-tuned",
    "--environment",
    "Catch-bsuite",
    "--seeds",
    "2",
    "--total-steps",
    "900",
    "--num-envs",
    "8",
    "--hidden",
    "8",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which the same small run was made twice, the first time by a process of its own."""
    folder = tmp_path_factory.mktemp("work")
    devices = "--devices", jax.local_device_count()
    first = in_a_process("train", *SMALL, *devices, folder=folder)
    return folder, first, here("train", *SMALL, *devices, "--quiet", folder=folder)


def test_a_run_leaves_what_it_promises(finished):
    folder, first, _ = finished
    assert first.returncode == 0, first.stderr
    path = folder / "runs" / "Catch-bsuite-reinforce-1"
    names = {p.name for p in path.iterdir()}
    tables = {"metrics.csv", "timing.csv", "evaluation.csv"}
    assert names == tables | {"config.toml", "checkpoints", "learning_curve.png"}
    settings = tomllib.loads((path / "config.toml").read_text())
    assert settings["environment"] == "Catch-bsuite" and settings["learning_rate"] == 1e-2
    with (path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == ["update", "env_steps", "seed", "return_mean", "episodes"]
    assert [(r["update"], r["seed"]) for r in rows] == [(str(u), s) for u in range(1, 14) for s in "01"]
    assert [int(r["env_steps"]) for r in rows] == [72 * int(r["update"]) for r in rows]
    assert not any("time" in name or "second" in name for name in rows[0])
    assert "greedy return" in first.stdout and "runs/Catch-bsuite-reinforce-1" in first.stdout


def test_the_same_command_gives_the_same_metrics_in_a_new_directory(finished):
    folder, _, second = finished
    assert second.returncode == 0 and second.stdout == "", second.stderr
    one, two = (folder / "runs" / f"Catch-bsuite-reinforce-{n}" / "metrics.csv" for n in (1, 2))
    assert one.read_bytes() == two.read_bytes()


def test_the_trained_policy_is_read_back(finished):
    folder, _, _ = finished
    path = folder / "runs" / "Catch-bsuite-reinforce-1"
    loaded = pgjax.load_run(path, seed=1)
    assert re.fullmatch(r"TrainedRun\(Setup\(Catch-bsuite, Algorithm\(.*\)\), [0-9,]+ parameters\)", repr(loaded))
    assert len(repr(loaded)) < 250
    setup, second = loaded
    key = jax.random.key((1 << 31) + 1)
    returns = evaluate(setup.environment, setup.agent, second, key, episodes=64, greedy=True)
    with (path / "evaluation.csv").open() as file:
        recorded = [float(row["greedy_return"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(returns.mean(), recorded[1], atol=1e-5)


@pytest.mark.slow
def test_a_normalised_policy_is_read_back_with_its_statistics(tmp_path):
    extra = "--algorithm", "a2c", "--normalise-observations", "--num-steps", 9, "--eval-episodes", 8
    done = here("train", *SMALL, *extra, "--out", tmp_path / "run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    setup, params = files.load_run(tmp_path / "run")
    first = jax.tree.map(lambda x: x[0], params)
    assert first["statistics"].count > 0
    key = jax.random.key((1 << 31) + 1)
    returns = evaluate(setup.environment, setup.agent, first, key, episodes=8, greedy=True)
    with (tmp_path / "run" / "evaluation.csv").open() as file:
        np.testing.assert_allclose(returns.mean(), float(next(csv.DictReader(file))["greedy_return"]), atol=1e-5)


def test_a_directory_that_holds_a_run_is_not_overwritten(finished):
    folder, _, _ = finished
    path = folder / "runs" / "Catch-bsuite-reinforce-1"
    before = (path / "metrics.csv").read_bytes()
    again = here("train", *SMALL, "--out", path, folder=folder)
    assert again.returncode == 2 and again.stderr.startswith("error: out: ") and "already holds a run" in again.stderr
    assert (path / "metrics.csv").read_bytes() == before


BAD = {
    "environment": {"environment": "CartPole"},
    "algorithm": {"algorithm": "reinforced"},
    "learning_rate": {"learning_rate": -1.0},
    "discount": {"discount": 1.01},
    "seeds": {"seeds": 0},
    "total_steps": {"total_steps": 0},
    "accumulate": {"num_envs": 30, "accumulate": 4},
    "policy": {"environment": "Pendulum-v1", "policy": "categorical"},
    "network": {"network": "cnn"},
    "baseline": {"baseline": "optimum"},
    "credit": {"credit": "all"},
    "optimizer": {"optimizer": "adams"},
    "num_envs": {"num_envs": 1, "baseline": "leave_one_out"},
    "hidden": {"hidden": (0,)},
    "entropy_coefficient": {"entropy_coefficient": -0.1},
    "max_grad_norm": {"max_grad_norm": -1.0},
    "eval_episodes": {"eval_episodes": 0},
    "decay_updates": {"decay_updates": -1},
    "devices": {"devices": -1},
    "standardise": {"standardise": True, "baseline": "optimal"},
}


@pytest.mark.parametrize("field", BAD)
def test_bad_settings_are_refused_before_anything_compiles(field):
    with pytest.raises(SettingError, match=f"^{field}: ") as error:
        build(Settings(**BAD[field]))
    assert "\n" not in str(error.value)


def test_bad_input_is_one_line_on_the_command_line(tmp_path):
    result = in_a_process("train", "--learning-rate", "nan", folder=tmp_path)
    assert result.returncode == 2
    assert result.stderr == "error: learning_rate: nan must be a finite number\n"
    assert not list(tmp_path.iterdir())


def test_an_output_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="^out: "):
        files.new_run_directory(Settings(out=str(tmp_path / "file")))
    with pytest.raises(SettingError, match="^out: .*cannot be written"):
        files.new_run_directory(Settings(out=str(tmp_path / "file" / "below")))


def test_of_two_runs_into_one_directory_the_second_is_refused(tmp_path):
    settings = Settings(out=str(tmp_path / "run"))
    files.new_run_directory(settings)
    with pytest.raises(SettingError, match="^out: "):
        files.new_run_directory(settings)


def test_a_directory_without_a_run_is_not_loaded(tmp_path):
    with pytest.raises(SettingError, match="^run: "):
        files.load_run(tmp_path)


OWN = """
import gymnax, sys
from gymnax.environments.bsuite.catch import Catch
gymnax.register("Mine-v0", lambda **settings: Catch(**settings))
import train
from pgjax.runs.settings.flags import Settings
print(train.main(Settings(environment="Mine-v0", seeds=2, total_steps=2e2, num_envs=2, hidden=[4], quiet=True)))
"""


@pytest.mark.slow
def test_a_script_that_imported_gymnax_trains_on_an_environment_of_its_own(tmp_path):
    environment = os.environ | {"PYTHONPATH": f"{EXPERIMENTS.parent}{os.pathsep}{EXPERIMENTS}"}
    command = [sys.executable, "-c", OWN]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout == "runs/Mine-v0-reinforce-1\n", done.stderr
    assert tomllib.loads((tmp_path / done.stdout.strip() / "config.toml").read_text())["total_steps"] == 200
    assert (tmp_path / done.stdout.strip() / "evaluation.csv").exists()


@pytest.mark.parametrize(
    "name", ["FrozenLake-misc:map_name=8x8", "brax/ant", 'a<b>:"c"|d?*\\e', "Acrobot-v1:a=1.5:b=True"]
)
def test_names_of_files_are_legal_everywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = files.file_name(name)
    assert not set(written) & set('<>:"/\\|?*') and written[-1] not in ". "
    assert files._numbered(f"{name}-ppo").parent.name == "runs"


def test_no_file_of_the_repository_has_a_name_that_windows_refuses():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=EXPERIMENTS, capture_output=True, text=True).stdout
    assert not [name for name in listed.split("\0") if set(name) & set('<>:"\\|?*')]


def test_paths_and_names_are_printed_as_they_are(capsys):
    settings = Settings(environment="own/[b]", algorithm="ppo", eval_episodes=3)
    train.show(Path("x[/b]"), settings, [(0, 100, 1.0, 2.0, 1)])
    printed = capsys.readouterr().out
    assert "results are in x[/b]" in printed and "own/[b], ppo" in " ".join(printed.split())
