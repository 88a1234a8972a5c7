"""The search of tune.py: asked for, trained and told in batches, killed and taken up again, stopped on the way."""

import csv
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tune
from parts import study as studies
from parts import trials as module
from parts.study import Space
from parts.trials import Trial, stops_of, trained

from pgjax import SettingError
from pgjax.runs.record.interrupts import Stopped, StopRequest
from pgjax.runs.settings.config_file import read_config
from pgjax.runs.settings.flags import Settings
from pgjax.runs.settings.ranges import FROM_ONE, RANGES, plain

SCRIPT = Path(__file__).parents[1] / "experiments" / "tune.py"
SETTINGS = Settings(
    environment="SimpleBandit-bsuite", num_envs=4, hidden=(), seeds=2, total_steps=160, eval_episodes=4, quiet=True
)


@pytest.mark.slow  # every run of the suite makes a search of a few updates: test_quick_modes_of_the_main_job
def test_a_search_finds_the_step_size_that_learns(tmp_path):
    """Catch; of a tiny step and one that learns, the second wins, and its file is a configuration."""
    flags = "--environment Catch-bsuite --algorithm a2c --learning-rate 1e-7 --total-steps 8000 --seeds 2 --hidden 16"
    flags += " --eval-episodes 16 --trials 6 --batch 3 --cuts 0 --sampler random --finalists 3 --final-seeds 2"
    command = [sys.executable, SCRIPT, *flags.split(), "--over", "learning_rate", "--folder", "found", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and "interquartile mean" in done.stdout
    with (tmp_path / "found" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    first, final, score = [[row for row in rows if row["round"] == r] for r in ("1", "2", "3")]
    assert len(first) == 6 and len(final) == 3 and float(first[0]["learning_rate"]) == pytest.approx(1e-7)
    winner = max(final, key=lambda row: float(row["iqm"]))
    assert [row["trial"] for row in score] == [winner["trial"], "0"]
    best = read_config(tmp_path / "found" / "best.toml")
    assert best.learning_rate == pytest.approx(float(winner["learning_rate"]))
    assert best.learning_rate > 1e-5 and best.seeds == 2
    assert (tmp_path / "found" / "trials.png").stat().st_size > 5_000
    again = subprocess.run([*command, "--trials", "8"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    with (tmp_path / "found" / "trials.csv").open() as file:
        assert [row for row in csv.DictReader(file) if row["round"] == "1"][:6] == first


class Killed(BaseException):
    """Stands for the end of the process."""


def search_of(tmp_path, monkeypatch, kills=(), trials=10, sampler="tpe"):
    """A search whose training is a formula, killed at these moments and begun again each time; and what it trained."""
    search = tune.Search(trials=trials, batch=4, sampler=sampler, cuts=1, folder=tmp_path)
    space = tune.space_of(search, SETTINGS)
    counted, left = [], list(kills)

    def moment(name):
        if left and left[0] == name:
            left.pop(0)
            raise Killed

    def formula(settings, trials, seeds, stops, stop):
        moment("before training")
        value = [-abs(np.log(trial.numbers["learning_rate"] / 3e-3)) for trial in trials]
        half = np.argsort(np.argsort(value)) >= len(value) // 2
        counted.extend(trial.numbers["learning_rate"] for trial in trials)
        moment("after training")
        return [[np.array([x, x])] * (2 if on else 1) for x, on in zip(value, half)]

    def tell(study, trial, stops, scores):
        real_tell(study, trial, stops, scores)
        if trial.number % 4 == 1:
            moment("between two tells")

    def ask(study, *arguments):
        if study.get_trials():
            moment("before asking")
        real_ask(study, *arguments)
        moment("after asking")

    real_tell, real_ask = studies.tell, studies.ask
    with monkeypatch.context() as patched:
        patched.setattr(tune, "trained", formula)
        patched.setattr(studies, "tell", tell)
        patched.setattr(studies, "ask", ask)
        while True:
            study = studies.open_study(tmp_path, tune.asked(search, SETTINGS))
            try:
                tune.run(search, SETTINGS, space, study, stops_of(160, 1), StopRequest())
                break
            except Killed:
                continue
    assert not left
    return [(t.number, t.params, t.state, t.intermediate_values, t.value) for t in study.get_trials()], counted


@pytest.mark.costly
def test_a_search_that_is_killed_ends_as_one_that_is_not(tmp_path, monkeypatch):
    """Wherever: no trial is lost, none told twice, none trained again once its batch is stored."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, trained_once = search_of(tmp_path / "a", monkeypatch)
    kills = ["after asking", "before training", "between two tells", "before asking", "after training"]
    found, counted = search_of(tmp_path / "b", monkeypatch, [*kills, "between two tells"])
    assert found == whole
    assert sorted(set(counted)) == sorted(trained_once) and len(counted) == len(trained_once) + 4
    states = [state.name for _, _, state, _, _ in whole]
    assert len(whole) == 10 and states.count("PRUNED") == 5 and states.count("COMPLETE") == 5


@pytest.mark.costly
def test_a_larger_number_of_trials_goes_on(tmp_path, monkeypatch):
    begun, _ = search_of(tmp_path, monkeypatch, trials=6)
    found, counted = search_of(tmp_path, monkeypatch, trials=9)
    assert len(found) == 9 and found[:6] == begun and len(counted) == 3


def test_a_folder_keeps_to_one_search(tmp_path):
    search = tune.Search(folder=tmp_path)
    studies.open_study(tmp_path, tune.asked(search, SETTINGS))
    studies.open_study(tmp_path, tune.asked(replace(search, trials=99), SETTINGS))
    for other, name in ((replace(search, batch=5), "batch"), (replace(search, draw=1), "draw")):
        with pytest.raises(SettingError, match=f"^folder: .*holds a search with {name} "):
            studies.open_study(tmp_path, tune.asked(other, SETTINGS))
    with pytest.raises(SettingError, match="^folder: .*holds a search with total_steps 160, not 320"):
        studies.open_study(tmp_path, tune.asked(search, replace(SETTINGS, total_steps=320)))


def test_the_model_of_good_trials_is_used():
    """After ten trials TPE draws nearer to the optimum than chance does."""
    space, distance = Space({"learning_rate": 0.1, "entropy_coefficient": 0.0}, {}), {}
    for sampler in studies.SAMPLERS:
        study = studies.open_study(None, {})
        for count in range(4, 33, 4):
            studies.ask(study, space, sampler, 0, count)
            for trial in study.get_trials()[count - 4 :]:
                value = -abs(np.log(trial.params["learning_rate"] / 3e-3))
                studies.tell(study, trial, [1], [[value]])
        rates = np.array([trial.params["learning_rate"] for trial in study.get_trials()])
        distance[sampler] = np.median(np.abs(np.log(rates[16:] / 3e-3)))
    assert distance["tpe"] < 0.6 * distance["random"]


def test_draws_keep_to_their_ranges_and_the_first_trial_is_what_was_given():
    settings = Settings(environment="Catch-bsuite", algorithm="ppo", learning_rate=1e-7)
    space = tune.space_of(tune.Search(choose=("num_envs=8,16",)), settings)
    study = studies.open_study(None, {})
    studies.ask(study, space, "random", 0, 50)
    first, *trials = [space.trial(trial.number, trial.params) for trial in study.get_trials()]
    assert first.numbers["learning_rate"] == 1e-7 and first.numbers["entropy_coefficient"] == 0.0
    assert {"learning_rate", "clip", "gae_lambda"} <= first.numbers.keys() and "max_kl" not in first.numbers
    assert {trial.static["num_envs"] for trial in trials} == {8, 16, first.static["num_envs"]}
    for name in first.numbers:
        low, high = RANGES[name]
        x = np.array([plain(name, trial.numbers[name]) for trial in trials])
        assert np.all((low * 0.999 <= x) & (x <= high * 1.001)) and x.max() / x.min() > np.sqrt(high / low)
        assert name not in FROM_ONE or trials[0].numbers[name] > 0.5


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"trials": 0}, "trials"),
        ({"batch": 0}, "batch"),
        ({"cuts": -1}, "cuts"),
        ({"final_seeds": 0}, "final_seeds"),
        ({"finalists": 40}, "finalists"),
        ({"over": ("clip", "hidden")}, "over"),
        ({"choose": ("learning_rate=0.1,0.2",)}, "choose"),
        ({"choose": ("num_envs=",)}, "choose"),
        ({"choose": ("num_envs=few",)}, "choose"),
        ({"choose": ("shared=perhaps",)}, "choose"),
        ({"choose": ("num_steps=8,16",)}, "num_steps"),  # REINFORCE has none
        ({"choose": ("num_envs=0,4",)}, "num_envs"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_it_begins(change, field):
    with pytest.raises(SettingError, match=f"^{field}: "):
        tune.space_of(tune.Search(**change), SETTINGS)


@pytest.mark.costly
def test_without_optuna_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(
        SettingError, match=r"^sampler: 'optuna' is not installed: pip install \"policy-gradients-jax\[tune\]\""
    ):
        studies.open_study(None, {})
    code = "import tune, sys; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent).returncode == 0


@pytest.mark.slow
def test_the_better_half_goes_on_as_if_alone(monkeypatch):
    """Trials of two shapes; those that reach the end end as without a cut, the other has a score less."""
    rates = (1e-3, 1e-1, 1.0)
    trials = [Trial({"learning_rate": x}, {"num_envs": 8 if i == 2 else 4}) for i, x in enumerate(rates)]
    whole = trained(SETTINGS, trials, range(2), [160], StopRequest())
    assert [len(scores) for scores in whole] == [1] * 3 and whole[0][0].shape == (2,)
    real = module.evaluated

    def ranked(settings, group, seeds):
        if int(group.runs.state.env_steps.max()) >= 160:
            return real(settings, group, seeds)
        return np.array([[rates[i]] * seeds for i in group.members])

    monkeypatch.setattr(module, "evaluated", ranked)
    cut = trained(SETTINGS, trials, range(2), [80, 160], StopRequest())
    assert [len(scores) for scores in cut] == [1, 2, 2]
    for one, other in zip(cut[1:], whole[1:]):
        np.testing.assert_allclose(one[-1], other[0], atol=1e-5)
    stop = StopRequest()
    stop.note(signal.SIGTERM)
    with pytest.raises(Stopped, match="the same command continues"):
        trained(SETTINGS, trials[2:], range(2), [160], stop)


def test_importances_name_the_parameter_that_decides():
    space = Space({"learning_rate": 3e-3, "entropy_coefficient": 0.0, "discount": 0.99}, {})
    study = studies.open_study(None, {})
    studies.ask(study, space, "random", 0, 40)
    assert studies.importances(study, space, 1) == {}
    for trial in study.get_trials():
        value = -abs(np.log(1e2 * trial.params["1 - discount"]))
        studies.tell(study, trial, [1, 2], [[value, value]] * (1 + trial.number % 2))
    found = studies.importances(study, space, 1)
    assert next(iter(found)) == "1 - discount" and sum(found.values()) == pytest.approx(1.0)
