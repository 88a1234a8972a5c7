"""Processes that are ended from outside at moments drawn by chance, and go on afterwards."""

import signal
import time

import numpy as np
import pytest
from runs import TINY, fingerprint

RUN = [*TINY, "--save-every", "0", "--total-steps", str(36 * 40)]
LONG_RUN = [*TINY, "--save-every", "1e6", "--total-steps", str(36 * 1500)]
"""Most of its life is training; it has no checkpoint but those of a stop and the end."""


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """A run that nobody disturbs; it fills the cache of compiled programs for the others."""
    path = tmp_path_factory.mktemp("whole") / "run"
    run = train(*RUN, "--out", path)
    assert run.end() == 0, run.stderr
    return path


def life(train, path, arguments=RUN):
    """Seconds from the making of the directory to the end, when nothing needs to be compiled."""
    run = train(*arguments, "--out", path)
    run.wait_for((path / "config.toml").exists)
    start = time.monotonic()
    assert run.end() == 0, run.stderr
    return time.monotonic() - start


def saving(path):
    """Whether a checkpoint is being written at this moment."""
    return any((path / "checkpoints").glob(".writing-*"))


def wait_for_moment(run, path, rng, seconds, in_a_save):
    """A moment drawn from the life of a run; for half of them, the next save and a moment drawn from that."""
    run.wait_for((path / "config.toml").exists)
    time.sleep(rng.uniform(0, seconds))
    if in_a_save:
        run.wait_for(lambda: saving(path))
        time.sleep(rng.uniform(0, 0.02))


@pytest.mark.parametrize("times", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_if_nothing_had_happened(train, whole, tmp_path, times):
    seconds = life(train, tmp_path / "measured") if times > 1 else 3.0
    rng, killed, in_saves = np.random.default_rng(times), 0, 0
    for i in range(times):
        path = tmp_path / f"run-{i}"
        run = train(*RUN, "--out", path)
        wait_for_moment(run, path, rng, 0.8 * seconds, in_a_save=i % 2 == 0)
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


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_terminated_run_ends_by_itself_and_loses_no_chunk(train, tmp_path, times):
    """From the making of the directory on, compilation included; a quarter while it evaluates and draws."""
    seconds = life(train, tmp_path / "whole", LONG_RUN)
    rng, lines = np.random.default_rng(times), []
    for i in range(times):
        path = tmp_path / f"run-{i}"
        run = train(*LONG_RUN, "--out", path)
        in_evaluation = i % 4 == 3
        run.wait_for((path / ("checkpoints/00001500" if in_evaluation else "config.toml")).exists)
        time.sleep(rng.uniform(0, 0.9 * seconds / (4 if in_evaluation else 1)))
        run.send(signal.SIGTERM)
        code = run.end()
        said = [line for line in run.stderr.splitlines() if line.startswith("stopped by SIGTERM")]
        assert (code == 143 and len(said) == 1) or (code == 0 and (path / "evaluation.csv").exists()), run.stderr
        lines += said
        again = train("--resume", path)
        assert again.end() == 0, again.stderr
        assert fingerprint(path) == fingerprint(tmp_path / "whole")
    print(f"\n{times} of {times} ended by themselves, {len(lines)} of them before they were finished:")
    print(", ".join(line.split(": ")[1].partition(" of ")[0].partition(";")[0] for line in lines))
    assert lines or times == 1
