"""Processes that are ended from outside at moments drawn by chance, and go on afterwards."""

import signal
import time

import numpy as np
import pytest
from runs import TINY, fingerprint

RUN = [*TINY, "--total-steps", str(36 * 300)]
ALWAYS, NEVER = ("--save-every", "0"), ("--save-every", "1e6")  # never but at a stop and the end


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """A run that nobody disturbs; it fills the cache of compiled programs for the others."""
    path = tmp_path_factory.mktemp("whole") / "run"
    run = train(*RUN, *NEVER, "--out", path)
    assert run.end() == 0, run.stderr
    return path


def saving(path):
    """Whether a checkpoint is being written at this moment."""
    return any((path / "checkpoints").glob(".writing-*"))


def size(path):
    """Bytes of a run's metrics: how far it is."""
    table = path / "metrics.csv"
    return table.stat().st_size if table.exists() else 0


def wait_for_moment(run, path, rng, part, whole):
    """A moment drawn from a part of a run's life: its progress is the clock, so that a slow machine draws alike."""
    last = max(p.name for p in (whole / "checkpoints").iterdir())
    goal = rng.uniform() * size(whole)
    conditions = {
        "compilation": (path / "config.toml").exists,
        "training": lambda: size(path) >= goal,
        "a save": lambda: size(path) >= goal and saving(path),
        "evaluation": (path / "checkpoints" / last).exists,
    }
    run.wait_for(conditions[part])
    time.sleep(rng.uniform(0, {"compilation": 2.0, "training": 0.0, "a save": 0.02, "evaluation": 0.7}[part]))


@pytest.mark.costly
@pytest.mark.parametrize("times", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_if_nothing_had_happened(train, whole, tmp_path, times):
    rng, killed, in_saves = np.random.default_rng(times), 0, 0
    for i in range(times):
        path = tmp_path / f"run-{i}"
        run = train(*RUN, *ALWAYS, "--out", path)
        part = "a save" if i % 2 == 0 else ("training", "compilation", "training", "evaluation")[i // 2 % 4]
        wait_for_moment(run, path, rng, part, whole)
        run.send(signal.SIGKILL)
        code = run.end()
        assert code in (-signal.SIGKILL, 0), run.stderr
        killed += code != 0
        in_saves += saving(path)
        again = train("--resume", path)
        assert again.end() == 0, again.stderr
        assert "damaged" not in again.stderr and not saving(path)
        assert fingerprint(path) == fingerprint(whole), f"kill {i}"
    print(f"\n{killed} of {times} killed, {in_saves} of them in the middle of a save; {times} of {times} ended alike")
    assert killed >= times / 2


@pytest.mark.costly
@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_terminated_run_ends_by_itself_and_loses_no_chunk(train, whole, tmp_path, times):
    """Half of the moments in training, a quarter each in compilation, and in evaluation and drawing."""
    rng, lines = np.random.default_rng(times), []
    for i in range(times):
        path = tmp_path / f"run-{i}"
        run = train(*RUN, *NEVER, "--out", path)
        wait_for_moment(run, path, rng, ("training", "compilation", "training", "evaluation")[i % 4], whole)
        run.send(signal.SIGTERM)
        code = run.end()
        said = [line for line in run.stderr.splitlines() if line.startswith("stopped by SIGTERM")]
        assert (code == 143 and len(said) == 1) or (code == 0 and (path / "evaluation.csv").exists()), run.stderr
        lines += said
        again = train("--resume", path)
        assert again.end() == 0, again.stderr
        assert fingerprint(path) == fingerprint(whole)
    print(f"\n{times} of {times} ended by themselves, {len(lines)} of them before they were finished:")
    print(", ".join(line.split(": ")[1].partition(" of ")[0].partition(";")[0] for line in lines))
    assert lines or times == 1


POPULATION = [
    *("--no-tuned", "--environment", "Catch-bsuite", "--population", "4", "--exploit-every", "2", "--num-envs", "4"),
    *("--hidden", "4", "--devices=2", "--eval-episodes", "4", "--eval-every", "360", "--save-every", "0"),
    *("--total-steps", str(36 * 30)),
]
"""Fifteen exploit steps, a checkpoint after each, two evaluations on the way."""
TABLES = "metrics.csv", "evaluation.csv", "lineage.csv"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_population_that_is_ended_goes_on_to_the_same_bits(train, tmp_path, number):
    whole, path = tmp_path / "whole", tmp_path / "run"
    undisturbed = train(*POPULATION, "--out", whole)
    assert undisturbed.end() == 0, undisturbed.stderr
    assert len({row.split(",")[-1] for row in (whole / "lineage.csv").read_text().splitlines()[1:]}) > 1
    run = train(*POPULATION, "--out", path)
    run.wait_for(lambda: size(path) >= 0.4 * size(whole))
    run.send(number)
    assert run.end() == (143 if number == signal.SIGTERM else -number), run.stderr
    assert 0 < size(path) < size(whole) and not (path / "lineage.csv").exists()
    again = train("--resume", path)
    assert again.end() == 0, again.stderr
    assert fingerprint(path) == fingerprint(whole)
    for table in TABLES:
        assert (path / table).read_bytes() == (whole / table).read_bytes(), table
