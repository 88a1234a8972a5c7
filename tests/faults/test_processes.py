"""Two processes that train together: as one would, until one of them is lost; and what they refuse."""

import os
import resource
import signal
import time
from dataclasses import replace

import jax
import pytest
from runs import TINY, fingerprint

from pgjax.runs.record import checkpoints, files
from pgjax.runs.settings import agreement
from pgjax.runs.settings.agreement import difference, facts
from pgjax.runs.settings.flags import Settings
from pgjax.runs.settings.joining import place_of
from pgjax.runs.settings.start import chosen_devices
from pgjax.types import SettingError

RUN = [*TINY[:-6], *TINY[-4:], "--save-every", "0", "--eval-every", "720", "--total-steps", str(36 * 60)]
"""12 chunks, a checkpoint after each, evaluations on the way; without the number of devices."""


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """The same by one process with two devices, undisturbed."""
    path = tmp_path_factory.mktemp("whole") / "run"
    run = train(*RUN, "--devices", "2", "--out", path)
    assert run.end() == 0, run.stderr
    return path


@pytest.mark.slow
def test_two_processes_do_what_one_does(pair, whole, tmp_path):
    processes = pair(*RUN, "--out", tmp_path / "run")
    assert [p.end() for p in processes] == [0, 0], [p.stderr for p in processes]
    assert fingerprint(tmp_path / "run") == fingerprint(whole)
    assert (tmp_path / "run" / "evaluation.csv").read_bytes() == (whole / "evaluation.csv").read_bytes()
    assert (whole / "evaluation.csv").read_text().count(
        "\n"
    ) == 1 + 2 * 3  # of two seeds: twice on the way, and the end
    first, second = (p.stderr for p in processes)
    assert "results are in" in first and "results are in" not in second


@pytest.mark.slow
@pytest.mark.parametrize("lost", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_lost_process_ends_the_other_and_a_restart_goes_on(pair, train, whole, tmp_path, lost):
    path = tmp_path / "run"
    processes = pair(*RUN, "--out", path)
    processes[lost].wait_for((path / "checkpoints" / "00000015").exists)
    processes[lost].send(signal.SIGKILL)
    begun = time.monotonic()
    assert processes[lost].end() == -signal.SIGKILL, processes[lost].stderr
    assert processes[1 - lost].end(60) not in (0, 2)
    print(f"\nthe other ended {time.monotonic() - begun:.1f} s after it")
    assert not files.is_finished(path)
    again = pair("--resume", path)
    assert [p.end() for p in again] == [0, 0], [p.stderr for p in again]
    assert fingerprint(path) == fingerprint(whole)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_killed_inside_a_save_leaves_no_other_waiting(pair, train, tmp_path, killed):
    long = [*RUN, "--hidden", "512", "512"]  # megabytes: writing them takes a while
    path = tmp_path / "run"
    processes = pair(*long, "--out", path)
    third, writing = path / "checkpoints" / "00000015", path / "checkpoints"
    processes[killed].wait_for(lambda: third.exists() and any(writing.glob(".writing-*/leaves")))
    processes[killed].send(signal.SIGKILL)
    assert processes[killed].end() == -signal.SIGKILL, processes[killed].stderr
    assert processes[1 - killed].end(60) not in (0, 2)
    if killed == 0:
        assert any(writing.glob(".writing-*"))  # it was inside
    assert checkpoints.newest(writing, pytest.fail) is not None  # the last good one is whole, and nothing is said
    again = pair("--resume", path)
    assert [p.end() for p in again] == [0, 0], [p.stderr for p in again]
    whole = train(*long, "--devices", "2", "--out", tmp_path / "whole")
    assert whole.end() == 0, whole.stderr
    assert fingerprint(path) == fingerprint(tmp_path / "whole")


@pytest.mark.slow
def test_a_signal_to_one_stops_both_and_one_process_can_go_on_alone(pair, train, whole, tmp_path):
    path = tmp_path / "run"
    processes = pair(*RUN, "--out", path)
    processes[1].wait_for((path / "checkpoints" / "00000015").exists)
    processes[1].send(signal.SIGTERM)
    assert [p.end() for p in processes] == [143, 143], [p.stderr for p in processes]
    alone = train("--resume", path, "--devices", "2")
    assert alone.end() == 0, alone.stderr
    line = "results may differ in rounding: processes 2, now 1\n"
    assert line in alone.stderr
    assert fingerprint(path)[2] == fingerprint(whole)[2]  # here they are the same all the same


@pytest.mark.costly
def test_what_two_processes_refuse_they_refuse_together(pair, whole, tmp_path):
    processes = pair(*RUN, "--seeds", 3, "--out", tmp_path / "run")
    assert [p.end() for p in processes] == [2, 2]
    for p in processes:
        assert "error: seeds: 3 runs would leave 1 of the 2 devices of 2 processes idle" in p.stderr
    assert not (tmp_path / "run").exists()
    processes = pair(*RUN, "--out", whole)
    assert [p.end() for p in processes] == [2, 2]
    assert "already holds a run" in processes[0].stderr and "process 0 failed to start" in processes[1].stderr


@pytest.mark.costly
@pytest.mark.parametrize(
    ("flag", "value", "first"),
    [
        ("--learning-rate", "0.25", "the method's"),
        pytest.param("--total-steps", "720", str(36 * 60), marks=pytest.mark.slow),
        pytest.param("--engine", "plain", "the method's", marks=pytest.mark.slow),
    ],
)
def test_processes_that_disagree_do_not_begin(pair, tmp_path, flag, value, first):
    processes = pair(*RUN, "--out", tmp_path / "run", second=[flag, value])
    assert [p.end() for p in processes] == [2, 2], [p.stderr for p in processes]
    name = flag[2:].replace("-", "_")
    line = f"error: {name}: '{value}' in process 1 differs from {first} in process 0; all must be the same\n"
    assert [p.stderr for p in processes] == [line, line]
    assert not (tmp_path / "run").exists()


def test_a_difference_of_anything_that_decides_the_numbers_is_named(monkeypatch, tmp_path):
    settings = Settings(seeds=2)
    first = facts(settings)
    assert difference(first, facts(replace(settings, process_id=1, coordinator="other:1", quiet=True)), 1) is None
    for name in ("algorithm", "seeds", "total_steps", "learning_rate", "log", "eval_every", "jax", "jaxlib", "python"):
        assert difference(first, first | {name: "other"}, 1)[:2] == (name, "other")
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", "") + " --xla_cpu_enable_fast_math=true")
    assert difference(first, facts(settings), 1)[0] == "XLA_FLAGS"
    monkeypatch.undo()
    monkeypatch.setenv("NPROC", "77")
    assert difference(first, facts(settings), 1)[0] == "NPROC"
    monkeypatch.undo()
    with jax.enable_x64(True):
        assert difference(first, facts(settings), 1)[0] == "jax_enable_x64"
    assert difference(first, facts(replace(settings, resume="runs/x")), 1)[0] == "resume"
    mine = tmp_path / "mine.py"
    hashes = []
    for text in ("x = 1", "x = 2"):
        mine.write_text(text)
        hashes.append(facts(replace(settings, imports=str(mine)))["imports"])
    assert hashes[0] != hashes[1]
    hashes.append(agreement._source(tmp_path))
    mine.write_text("x = 1")
    assert agreement._source(tmp_path) != hashes[2]


@pytest.mark.slow
def test_a_disk_that_fills_under_two_processes(pair, whole, tmp_path):
    """The first process can write no file beyond 3000 bytes from some update on: both end, and go on afterwards."""
    path = tmp_path / "run"
    processes = pair(*RUN, "--out", path)
    processes[0].wait_for((path / "checkpoints" / "00000015").exists)
    resource.prlimit(processes[0].pid, resource.RLIMIT_FSIZE, (3000, 3000))
    assert [p.end(100) for p in processes] == [1, 0], [p.stderr for p in processes]
    assert "cannot be written: File too large; training continues" in processes[0].stderr
    kept = checkpoints.newest(path / "checkpoints", pytest.fail)
    assert 15 <= kept.number < 60 and not list((path / "checkpoints").glob(".writing*"))
    again = pair("--resume", path)
    assert [p.end() for p in again] == [0, 0], [p.stderr for p in again]
    assert fingerprint(path) == fingerprint(whole)


@pytest.mark.slow
def test_a_directory_that_vanishes_under_two_processes(pair, tmp_path):
    path = tmp_path / "run"
    processes = pair(*RUN, "--out", path)
    processes[0].wait_for((path / "checkpoints" / "00000015").exists)
    path.rename(tmp_path / "elsewhere")
    assert [p.end(100) for p in processes] == [1, 0], [p.stderr for p in processes]
    assert "cannot be written: No such file or directory; training continues" in processes[0].stderr
    assert checkpoints.newest(tmp_path / "elsewhere" / "checkpoints", pytest.fail).number >= 15


@pytest.mark.costly
@pytest.mark.parametrize("number", [0, 1])
def test_a_process_that_stays_alone_says_so_in_one_line(train, tmp_path, number):
    place = ["--coordinator", "127.0.0.1:9", "--processes", "2", "--process-id", number, "--join-timeout", "1"]
    if number == 0:
        place[1] = "127.0.0.1:29471"
    run = train(*RUN, "--distributed", *place, "--out", tmp_path / "run")
    assert run.end(30) == 2
    (line,) = run.stderr.splitlines()
    assert (
        line
        == {
            0: "error: processes: 2 were expected at 127.0.0.1:29471, not all joined within 1 s",
            1: "error: coordinator: 127.0.0.1:9 could not be reached within 1 s; is process 0 running there?",
        }[number]
    )


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("coordinator", {}),
        ("coordinator", {"coordinator": "node1", "processes": 2, "process_id": 0}),
        ("processes", {"coordinator": "node1:1234", "process_id": 0}),
        ("process_id", {"coordinator": "node1:1234", "processes": 2}),
        ("process_id", {"coordinator": "node1:1234", "processes": 2, "process_id": 2}),
    ],
)
def test_a_place_that_is_none_is_refused(field, settings, monkeypatch):
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    with pytest.raises(SettingError, match=f"^{field}: "):
        place_of(Settings(distributed=True, **settings))


def test_a_kubernetes_pod_knows_its_number_and_a_slurm_task_everything(monkeypatch):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    assert place_of(Settings(distributed=True, coordinator="job-0.svc:1", processes=4)) == ("job-0.svc:1", 4, 3)
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "n[1-2]")
    assert place_of(Settings(distributed=True)) == (None, None, None)


def test_more_devices_than_there_are_are_refused():
    with pytest.raises(SettingError, match="^devices: 99 is more than the [0-9]+ available"):
        chosen_devices(99)
