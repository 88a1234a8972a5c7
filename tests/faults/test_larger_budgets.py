"""Runs that go on beyond their end, and seeds by name."""

import shutil

import numpy as np
import pytest
from runs import TINY, fingerprint
from test_runs import stop_after

from pgjax.runs.record import files
from pgjax.runs.record.interrupts import Stopped
from pgjax.runs.record.metrics_file import read_metrics
from pgjax.types import SettingError

LONG = "--total-steps", 36 * 22
EVERY = "--eval-every", 180


@pytest.fixture(scope="module")
def whole(here, tmp_path_factory):
    return here(*TINY, *LONG, *EVERY, "--out", tmp_path_factory.mktemp("whole") / "run")


def table(path):
    return (path / "evaluation.csv").read_text()


@pytest.mark.costly
@pytest.mark.parametrize("updates", [10, 12])
def test_a_run_on_a_larger_budget_is_that_of_the_larger_budget(here, whole, tmp_path, capfd, updates):
    path = here(*TINY, "--total-steps", 36 * updates, *EVERY, "--out", tmp_path / "run")
    assert files.is_finished(path)
    capfd.readouterr()
    here("--resume", path, *LONG)
    line = f"{path} is extended from {36 * updates} to 792 steps; the results are those of a single run of 792 steps\n"
    assert capfd.readouterr().err == line
    assert fingerprint(path) == fingerprint(whole) and files.is_finished(path)
    assert (path / "config.toml").read_text() == (whole / "config.toml").read_text()
    if updates == 10:  # its end is that of a chunk: evaluations lie where they would have
        assert table(path) == table(whole)
    here("--resume", path)
    assert capfd.readouterr().err == f"{path} is finished; there is nothing to resume\n"


@pytest.mark.costly
def test_it_can_be_stopped_on_its_way(here, whole, tmp_path, monkeypatch):
    path = here(*TINY, "--total-steps", 360, *EVERY, "--out", tmp_path / "run")
    undo = stop_after(monkeypatch, 0)
    with pytest.raises(Stopped):
        here("--resume", path, *LONG)
    undo()
    assert not files.is_finished(path)
    here("--resume", path)
    assert fingerprint(path) == fingerprint(whole) and table(path) == table(whole)


@pytest.mark.costly
def test_what_was_scheduled_over_the_budget_is_told_and_follows_the_new_one(here, tmp_path, capfd):
    scheduled = *TINY, "--learning-rate-schedule", "linear"
    path = here(*scheduled, "--total-steps", 360, "--out", tmp_path / "run")
    copy = shutil.copytree(path, tmp_path / "copy")
    capfd.readouterr()
    here("--resume", path, "--total-steps", 720)
    assert capfd.readouterr().err == (
        f"{path} is extended from 360 to 720 steps; from here on, the schedule of the learning rate is over 720 steps\n"
    )
    here("--resume", copy, "--total-steps", 1440)
    rates = [read_metrics(p / "metrics.csv")["learning_rate"][0] for p in (path, copy)]
    np.testing.assert_allclose(
        rates[0], 1e-2 * np.concatenate([1 - np.arange(10) / 10, 1 - np.arange(10, 20) / 20]), rtol=1e-4
    )
    np.testing.assert_allclose(rates[1][10:], 1e-2 * (1 - np.arange(10, 40) / 40), rtol=1e-4)


def test_a_smaller_budget_is_refused(here, whole):
    with pytest.raises(SettingError, match="^total_steps: 36 cannot change: the resumed run has 792"):
        here("--resume", whole, "--total-steps", 36)


@pytest.mark.slow
def test_seeds_by_name_are_those_of_any_run(here, whole, tmp_path):
    alone = here(*TINY, *LONG, "--seeds", 1, "--first-seed", 1, "--out", tmp_path / "alone")
    listed = here(*TINY[:3], *TINY[5:], *LONG, "--seed-list", 9, 1, "--out", tmp_path / "listed")
    for path, seeds in ((alone, [1]), (listed, [1, 9])):
        metrics = read_metrics(path / "metrics.csv")
        assert metrics["seed"][:, 0].tolist() == seeds and files.is_finished(path)
        np.testing.assert_allclose(
            metrics["return_mean"][0], read_metrics(whole / "metrics.csv")["return_mean"][1], atol=1e-6
        )
    assert files.load_run(alone, seed=1) and files.load_run(listed, seed=9)
    with pytest.raises(SettingError, match="^seed: 0 is not in .*, whose seeds are 9, 1"):
        files.load_run(listed, seed=0)
    with pytest.raises(SettingError, match="^seeds: 2 does nothing: seed_list names the seeds"):
        here(*TINY, *LONG, "--seed-list", 9, 1, "--out", tmp_path / "both")
