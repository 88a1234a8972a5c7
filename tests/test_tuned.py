"""Tuned settings and what is made with them: the table of scores."""

import csv
import runpy
import tomllib
from pathlib import Path

import gymnax
import jax
import numpy as np
import pytest
from test_comparison import write_run

from pgjax import SettingError, environments
from pgjax.policies.uniform import Uniform
from pgjax.runs.settings.build import build
from pgjax.runs.settings.command_line import from_command_line
from pgjax.runs.settings.config_file import read_config
from pgjax.runs.settings.tuned import tuned, tuned_environments

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
LEFT_OUT = {"MNISTBandit-bsuite", "Pong-misc"}  # one downloads its data, the other cannot be won


@pytest.mark.few(4, costly=8)
@pytest.mark.parametrize("name", tuned_environments())
def test_tuned_settings_can_be_trained_with(name):
    """They name settings that exist, fit their method and environment, and are enough seeds and episodes."""
    settings = from_command_line(["--environment", name, "--quiet"])
    family = name.partition("/")[0] if "/" in name else ""
    try:
        setup = build(settings)
    except SettingError as error:
        if family not in ("playground", "navix") or "needs" not in str(error):  # the families that `dev` leaves out
            raise
        pytest.skip(str(error))
    assert setup.environment.name == name
    other_family = family not in ("", "brax")
    least = 2 if other_family or settings.total_steps >= 1e7 else 3 if "MinAtar" in name else 10
    assert settings.seeds >= least and settings.eval_episodes >= (32 if other_family else 64)
    assert settings.memory == "gru" or name not in ("MemoryChain-bsuite", "BernoulliBandit-misc")


def test_every_gymnax_environment_is_tuned():
    theirs = {name for name in gymnax.registered_envs if not name.startswith("Tiny-")}  # those are our tests'
    assert {name.split(":")[0] for name in tuned_environments()} >= theirs - LEFT_OUT


def test_when_tuned_settings_are_the_base(capsys, tmp_path):
    known = tuned("Pendulum-v1")
    settings = from_command_line(["--environment", "Pendulum-v1", "--seeds", "3"])
    assert (settings.algorithm, settings.discount, settings.seeds) == (known["algorithm"], known["discount"], 3)
    assert capsys.readouterr().err == "Pendulum-v1: using tuned settings of ppo (--no-tuned for defaults)\n"
    assert from_command_line(["--environment", "Pendulum-v1", "--algorithm", "ppo"]).discount == known["discount"]
    for others in (["--algorithm", "npg"], ["--no-tuned"]):
        assert from_command_line(["--environment", "Pendulum-v1", *others]).discount is None
    assert from_command_line([]).discount is None
    (tmp_path / "mine.toml").write_text('environment = "Pendulum-v1"\n')
    assert from_command_line(["--config", str(tmp_path / "mine.toml")]).discount is None
    (tmp_path / "bad.toml").write_text("tuned = true\n")
    with pytest.raises(SettingError, match="^tuned: "):
        read_config(tmp_path / "bad.toml")
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture(scope="module")
def scores():
    return runpy.run_path(str(EXPERIMENTS / "scores.py"))


def scored_run(path, environment, final, algorithm="ppo"):
    write_run(path, environment, 0.1, final)
    config = path / "config.toml"
    config.write_text(
        config.read_text() + f'algorithm = "{algorithm}"\ntotal_steps = 200\n[versions]\njax = "{path.name}"\n'
    )
    return path


def test_the_table_of_scores(scores, tmp_path, capsys):
    runs = (
        scored_run(tmp_path / "a", "Catch-bsuite", [0.0, 0.5]),
        scored_run(tmp_path / "b", "CartPole-v1", [499.0, 499.0, 499.0]),
        scored_run(tmp_path / "c", "Catch-bsuite", [-1.0, -0.5]),
    )
    scores["main"](scores["Scores"](runs, random_episodes=256, out=tmp_path / "out"))
    with (tmp_path / "out" / "scores.csv").open() as file:
        cart, catch = csv.DictReader(file)  # in the order of the tuned settings, not of the command
    assert (cart["environment"], cart["seeds"], float(cart["greedy"])) == ("CartPole-v1", "3", 500.0)
    assert (catch["environment"], catch["seeds"], float(catch["greedy"])) == ("Catch-bsuite", "4", 0.75)
    assert float(catch["greedy_worst"]) == 0.0 and float(catch["sampled"]) == 0.0
    assert 20 < float(cart["random"]) < 25 and -0.75 < float(catch["random"]) < -0.45
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if "Catch" in line)
    said = " ".join(text.split())  # lines are wrapped
    assert "(1)" in line and "no reason known" in said and "(2)" not in text  # CartPole's target of 500 is reached
    assert "jax a/b/c" in said and "Not run: Acrobot-v1, " in said
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"scores.md", "scores.csv", "curves.png", "Catch-bsuite.png", "CartPole-v1.png"}
    table = [line for line in (tmp_path / "out" / "scores.md").read_text().splitlines() if line.startswith("| ")]
    cells = [cell.strip() for line in table for cell in line.strip("|").split("|")]
    assert len(cells) == 30 and all(cell in said for cell in cells)  # what is written is printed, in columns


@pytest.mark.costly
def test_rows_of_environments_without_runs_stay_in_the_table(scores, tmp_path):
    """The second table has the second run's row, and the first table's rows of environments with a shipped policy."""
    own = scored_run(tmp_path / "a", "Catch-bsuite", [0.0, 0.5]), scored_run(tmp_path / "b", "CartPole-v1", [7.0, 9.0])
    scores["main"](scores["Scores"](own, random_episodes=8, out=tmp_path / "out"))
    first = (tmp_path / "out" / "scores.csv").read_text()
    with (tmp_path / "out" / "scores.csv").open("a") as file:
        file.write(first.splitlines()[-1].replace("Catch-bsuite", "Mine-v0") + "\n")
    again = (scored_run(tmp_path / "c", "Catch-bsuite", [0.25, 0.75, 0.75]),)
    scores["main"](scores["Scores"](again, random_episodes=8, out=tmp_path / "out"))
    with (tmp_path / "out" / "scores.csv").open() as file:
        cart, catch = csv.DictReader(file)
    assert ",".join(cart.values()) in first.replace('"', "") and float(cart["greedy"]) == 9.0
    assert catch["seeds"] == "3" and float(catch["greedy_worst"]) == 1.25
    (tmp_path / "out" / "scores.csv").write_text(first.replace("greedy_worst", "worst"))
    with pytest.raises(SettingError, match="^out: .*has no column greedy_worst"):
        scores["main"](scores["Scores"](again, random_episodes=8, out=tmp_path / "out"))


def test_runs_that_make_no_table(scores, tmp_path):
    finished = scored_run(tmp_path / "a", "Catch-bsuite", [0.0, 0.5])
    other = scored_run(tmp_path / "b", "Catch-bsuite", [0.0, 0.5], algorithm="a2c")
    begun = write_run(tmp_path / "c", "Catch-bsuite", 0.1, [1.0], finished=False)
    for runs, message in [
        ((), "are missing"),
        ((finished, other), "different algorithm"),
        ((begun,), "not finished"),
    ]:
        with pytest.raises(SettingError, match=f"^runs: .*{message}"):
            scores["by_environment"](runs)


@pytest.mark.parametrize(
    ("name", "known"),
    [("MountainCarContinuous-v0", (-36, -30)), ("BernoulliBandit-misc", (49, 51)), ("DeepSea-bsuite", (-0.02, 0.02))],
)
def test_the_random_policy_earns_what_is_known_of_it(scores, name, known):
    low, high = known
    assert low < scores["random_returns"](environments.make(name), 256).mean() < high


def test_a_random_action_is_anywhere_in_the_box(scores):
    box = Uniform(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))
    actions = np.asarray(box.at(box.noise(jax.random.key(0), (5000,))))
    np.testing.assert_allclose(actions.mean(0), [0, 0.5], atol=0.06)
    np.testing.assert_allclose(actions.std(0), [4 / 12**0.5, 1 / 12**0.5], rtol=0.05)
    assert float(box.log_prob(actions[0])) == pytest.approx(-np.log(4))


def test_what_is_published_is_of_known_environments():
    table = tomllib.loads((EXPERIMENTS / "published.toml").read_text())
    assert set(table) <= set(tuned_environments())
    assert all(set(entry) <= {"target", "published", "reason"} for entry in table.values())


def test_the_readme_shows_the_table_that_the_script_made():
    table = (EXPERIMENTS / "results" / "scores" / "scores.md").read_text()
    shown = (EXPERIMENTS / "README.md").read_text().partition("<!-- scores -->")[2].partition("<!-- /scores -->")[0]
    assert shown.strip() == table.strip()


def test_a_table_goes_between_the_marks_of_a_readme_and_nowhere_else(scores, tmp_path):
    readme = tmp_path / "README.md"
    scores["show"](readme, "none\n")
    assert not readme.exists()
    for text, shown in (
        ("a <!-- scores -->\nold\n<!-- /scores --> b\n", "a <!-- scores -->\n| new |\n<!-- /scores --> b\n"),
        ("a <!-- scores -->\nold\n", "a <!-- scores -->\nold\n"),
        ("no marks\n", "no marks\n"),
    ):
        readme.write_text(text)
        scores["show"](readme, "| new |\n")
        assert readme.read_text() == shown
