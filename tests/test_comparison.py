"""Comparing runs: the statistics, and the script on directories with known numbers."""

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pgjax.runs.show.comparison import bootstrap_interval, interquartile_mean

SCRIPT = Path(__file__).parents[1] / "experiments" / "compare.py"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 33])
def test_interquartile_mean_is_a_trimmed_mean(count):
    x = np.random.default_rng(count).normal(size=(count, 3))
    np.testing.assert_allclose(interquartile_mean(x, 0), stats.trim_mean(x, 0.25, axis=0))


def test_the_interval_of_one_stratum_is_the_percentile_bootstrap():
    x = np.random.default_rng(0).exponential(size=40)
    middle, low, high = bootstrap_interval([x], resamples=4000)
    expected = stats.bootstrap(
        (x,), lambda y, axis: interquartile_mean(y, axis), n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    assert middle == interquartile_mean(x)
    np.testing.assert_allclose([low, high], [expected.low, expected.high], rtol=0.05)


def test_strata_are_not_mixed():
    """Between directories that differ and in themselves do not, nothing is left to chance."""
    middle, low, high = bootstrap_interval([np.zeros(5), np.full(5, 10.0)])
    assert middle == low == high == 5.0
    assert np.ptp(bootstrap_interval([np.repeat([0.0, 10.0], 5)])) > 1


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """Mean of the middle half of a normal is 0; ten seeds, 400 repetitions."""
    samples = np.random.default_rng(3).normal(size=(400, 2, 5))
    hits = [low < 0 < high for _, low, high in (bootstrap_interval(list(x), resamples=300) for x in samples)]
    assert 0.84 < np.mean(hits) < 0.96


def write_run(path, environment, rate, final, finished=True):
    """A run directory with two updates and one seed for each of the `final` returns."""
    path.mkdir(parents=True)
    (path / "config.toml").write_text(f'environment = "{environment}"\nlearning_rate = {rate}\n')
    rows = ["update,env_steps,seed,return_mean,episodes"]
    rows += [f"{u},{100 * u},{s},{x * u / 2},4" for u in (1, 2) for s, x in enumerate(final)]
    (path / "metrics.csv").write_text("\n".join(rows) + "\n3,300,0,1")
    if finished:
        lines = [f"{s},200,0,{x + 1}" for s, x in enumerate(final)]
        (path / "evaluation.csv").write_text("\n".join(["seed,env_steps,sampled_return,greedy_return", *lines]) + "\n")
    return path


@pytest.mark.costly
def test_directories_become_a_figure_and_a_table(tmp_path):
    runs = [
        write_run(tmp_path / "a", "Catch-bsuite", 0.1, [1.0, 2.0, 3.0, 40.0]),
        write_run(tmp_path / "b", "Catch-bsuite", 0.1, [2.0, 3.0], finished=False),
        write_run(tmp_path / "c", "CartPole-v1", 0.2, [7.0]),
    ]
    command = [sys.executable, SCRIPT, *runs, "--out", tmp_path / "new" / "table"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new" / "table.png").stat().st_size > 10_000
    with (tmp_path / "new" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = [(r["environment"], r["name"], r["score"], int(r["seeds"]), float(r["iqm"])) for r in rows]
    assert found == [
        ("Catch-bsuite", "a", "greedy_return", 4, 3.5),
        ("Catch-bsuite", "b", "return_mean", 2, 2.5),
        ("CartPole-v1", "c", "greedy_return", 1, 8.0),
    ]
    assert float(rows[0]["low"]) < 3.5 < float(rows[0]["high"]) and rows[0]["highest_seed"] == "41"


def test_groups_and_what_is_refused(tmp_path):
    spec = importlib.util.spec_from_file_location("compare", SCRIPT)
    compare = sys.modules["compare"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(compare)
    one = write_run(tmp_path / "a", "Catch-bsuite", 0.1, [1.0, 2.0])
    two = write_run(tmp_path / "b", "Catch-bsuite", 0.1, [3.0, 4.0])
    compare.main(compare.Comparison((one, two), by="learning_rate", out=tmp_path / "out"))
    with (tmp_path / "out.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["name"] == "learning_rate 0.1" and row["seeds"] == "4" and float(row["iqm"]) == 3.5
    for field, comparison in {
        "runs": compare.Comparison((tmp_path / "nowhere",)),
        "metric": compare.Comparison((one,), metric="loss"),
        "by": compare.Comparison((one,), by="clip"),
    }.items():
        with pytest.raises(compare.SettingError, match=f"^{field}: "):
            compare.main(comparison)
    with pytest.raises(compare.SettingError, match="^runs: "):
        compare.main(compare.Comparison(()))
