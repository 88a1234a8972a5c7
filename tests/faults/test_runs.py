"""A run that is cut, resumed, repeated, disturbed: the same bits, or a line that says what to do."""

import errno
import os
import re
import signal
import subprocess
import threading

import jax
import numpy as np
import pytest
from runs import TINY, fingerprint

from pgjax import sweeps
from pgjax.runs.record import checkpoints, files
from pgjax.runs.record.attempts import Incomplete, say
from pgjax.runs.record.interrupts import Stopped, stop_request
from pgjax.runs.record.metrics_file import GrowingFile, read_metrics
from pgjax.runs.record.provenance import commit
from pgjax.types import SettingError

STEPS = "--total-steps", 36 * 22  # 22 updates, in chunks of 5


def stop_after(monkeypatch, chunks, number=signal.SIGTERM):
    """Let a signal arrive while chunk `chunks` + 1 is on its way."""
    whole = sweeps.chunks

    def interrupted(*arguments, **keywords):
        for i, chunk in enumerate(whole(*arguments)):
            if i == chunks:
                os.kill(os.getpid(), number)
            yield chunk

    monkeypatch.setattr(sweeps, "chunks", interrupted)
    return lambda: monkeypatch.setattr(sweeps, "chunks", whole)


@pytest.fixture(scope="module")
def whole(here, tmp_path_factory):
    """A run from beginning to end."""
    return here(*TINY, *STEPS, "--out", tmp_path_factory.mktemp("whole") / "run")


def stopped_run(here, monkeypatch, path, chunks, *arguments):
    """A run that a signal has ended after so many chunks."""
    undo = stop_after(monkeypatch, chunks)
    with pytest.raises(Stopped):
        here(*TINY, *STEPS, *arguments, "--out", path)
    undo()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_says_so_and_goes_on_to_the_same_bits(here, whole, tmp_path, monkeypatch, number):
    undo = stop_after(monkeypatch, 1, number)
    with pytest.raises(Stopped, match="update 10 of .* is saved; continue with --resume") as stopped:
        here(*TINY, *STEPS, "--save-every", 1e6, "--out", tmp_path / "run")
    assert stopped.value.code == 128 + number and str(stopped.value).startswith(f"stopped by {number.name}: ")
    undo()
    assert not (tmp_path / "run" / "evaluation.csv").exists()
    here("--resume", tmp_path / "run")
    assert fingerprint(tmp_path / "run") == fingerprint(whole)
    assert (tmp_path / "run" / "evaluation.csv").read_bytes() == (whole / "evaluation.csv").read_bytes()


def test_a_terminal_that_hangs_up_is_a_wish_to_stop_unless_it_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with stop_request() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(Stopped, match="^stopped by SIGHUP: saved") as stopped:
                stop.check("saved")
        assert stopped.value.code == 129 and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with stop_request() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            stop.check("never said")
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "chunk",
    [
        pytest.param(1, marks=pytest.mark.costly),
        pytest.param(2, marks=pytest.mark.slow),
        7,
        pytest.param(20, marks=pytest.mark.slow),
    ],
)
def test_any_chunks_give_one_hash(here, whole, tmp_path, chunk):
    path = here(*TINY, *STEPS, "--updates-per-chunk", chunk, "--out", tmp_path / "run")
    assert fingerprint(path) == fingerprint(whole)


def test_a_runs_own_config_reproduces_it(here, whole, tmp_path):
    path = here("--config", whole / "config.toml", "--out", tmp_path / "run")
    assert fingerprint(path) == fingerprint(whole)
    assert (path / "config.toml").read_bytes() == (whole / "config.toml").read_bytes()


def test_a_finished_run_says_so(here, whole, capfd):
    before = fingerprint(whole)
    here("--resume", whole)
    assert capfd.readouterr().err == f"{whole} is finished; there is nothing to resume\n"
    assert fingerprint(whole) == before


def test_a_torn_table_is_cut_at_the_checkpoint(here, whole, tmp_path, monkeypatch):
    stopped_run(here, monkeypatch, tmp_path / "run", 1)
    table = tmp_path / "run" / "metrics.csv"
    lines = (whole / "metrics.csv").read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:22]) + lines[22][:-5])  # a header, ten updates and half of the eleventh, torn
    torn = read_metrics(table)
    assert torn["active"].tolist() == [[True] * 11, [True] * 10 + [False]]
    here("--resume", tmp_path / "run")
    assert fingerprint(tmp_path / "run") == fingerprint(whole)
    metrics = read_metrics(table)
    assert metrics["update"].tolist() == [list(range(1, 23))] * 2 and metrics["active"].all()


def test_a_table_that_has_lost_its_end_is_told_and_stays_readable(here, tmp_path, monkeypatch, capfd):
    stopped_run(here, monkeypatch, tmp_path / "run", 1)
    table = tmp_path / "run" / "metrics.csv"
    table.write_bytes(table.read_bytes()[:-200])
    capfd.readouterr()
    here("--resume", tmp_path / "run")
    assert f"warning: {table} is truncated: " in capfd.readouterr().err
    active = read_metrics(table)["active"]
    assert active[:, :5].all() and not active[:, 9].all() and active[:, 10:].all() and active.shape == (2, 22)


def test_a_run_killed_before_its_first_checkpoint_begins_again(here, whole, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_bytes((whole / "config.toml").read_bytes())
    (tmp_path / "run" / "metrics.csv").write_text("update,env_steps\n1,2")
    here("--resume", tmp_path / "run")
    assert fingerprint(tmp_path / "run") == fingerprint(whole)


def test_a_damaged_checkpoint_is_passed_over_with_a_line(here, whole, tmp_path, monkeypatch, capfd):
    stopped_run(here, monkeypatch, tmp_path / "run", 2, "--save-every", 0)
    last = checkpoints.paths(tmp_path / "run" / "checkpoints")[-1]
    (last / "record.json").write_text("{}")
    capfd.readouterr()
    here("--resume", tmp_path / "run")
    assert capfd.readouterr().err == (
        f"warning: checkpoint {last} is damaged (its record cannot be read); trying another\n"
    )
    assert fingerprint(tmp_path / "run") == fingerprint(whole)


def test_other_settings_are_refused_and_other_versions_told(here, tmp_path, monkeypatch, capfd):
    stopped_run(here, monkeypatch, tmp_path / "run", 0)
    with pytest.raises(SettingError, match="^seeds: 4 cannot change: the resumed run has 2"):
        here("--resume", tmp_path / "run", "--seeds", 4)
    config = tmp_path / "run" / "config.toml"
    text = config.read_text()
    config.write_text(text.replace("learning_rate = 0.01", "learning_rate = 0.02"))
    with pytest.raises(SettingError, match="^learning_rate: 0.02 .* was written with 0.01; restore that"):
        here("--resume", tmp_path / "run")
    config.write_text(text[: text.index("[versions]")])
    with pytest.raises(SettingError, match="^resume: .* is incomplete"):
        here("--resume", tmp_path / "run")
    config.write_text(text)
    monkeypatch.setenv("NPROC", "17")
    capfd.readouterr()
    here("--resume", tmp_path / "run")
    assert "results may differ in rounding: threads " in capfd.readouterr().err


def test_of_two_processes_in_one_directory_the_second_is_refused(here, tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.toml").write_text("[versions]\n")
    with files.locked(path):
        with pytest.raises(SettingError, match="^resume: .* is being written by another process"):
            here("--resume", path)
        with pytest.raises(SettingError, match="^out: .* already holds a run"):
            here(*TINY, "--out", path)


@pytest.mark.parametrize("fault", ["full", "read_only", "removed"])
def test_a_disk_that_fails_does_not_end_training(here, whole, tmp_path, monkeypatch, capfd, fault, files_up_to):
    """The fault comes after the first checkpoint; root may write anywhere, so read-only is what the system says."""
    path, reached = tmp_path / "run", []
    chunks = sweeps.chunks
    limit = files_up_to(1000)

    def disturbed(*arguments, **keywords):
        for i, chunk in enumerate(chunks(*arguments, **keywords)):
            if i == 1:
                inflict()
            reached.append(int(chunk[0].state.update.max()))
            yield chunk

    def inflict():
        if fault == "full":
            limit.__enter__()
        elif fault == "removed":
            path.rename(tmp_path / "elsewhere")
        else:
            refuse = OSError(errno.EROFS, os.strerror(errno.EROFS))

            def refused(*_, **__):
                raise refuse

            monkeypatch.setattr(GrowingFile, "append", refused)
            monkeypatch.setattr(checkpoints, "save", refused)

    monkeypatch.setattr(sweeps, "chunks", disturbed)
    capfd.readouterr()
    try:
        with pytest.raises(Incomplete, match="the run has ended, but .* lacks .*metrics.csv"):
            here(*TINY, *STEPS, "--save-every", 0, "--out", path)
    finally:
        if fault == "full":
            limit.__exit__(None, None, None)
    assert reached[-1] == 22
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("warning: ") and lines[0].endswith("training continues")
    monkeypatch.undo()
    if fault == "removed":
        path = path.parent / "elsewhere"
    assert checkpoints.newest(path / "checkpoints", say).number == 5
    here("--resume", path)
    assert fingerprint(path) == fingerprint(whole)


def test_a_policy_is_read_from_an_unfinished_run(here, tmp_path, monkeypatch):
    stopped_run(here, monkeypatch, tmp_path / "run", 2, "--save-every", 0)
    _, params = files.load_run(tmp_path / "run")
    _, best = files.load_run(tmp_path / "run", best=True)
    newest = checkpoints.newest(tmp_path / "run" / "checkpoints", say)
    scores = {p.name: checkpoints.read_record(p)["score"] for p in checkpoints.paths(tmp_path / "run" / "checkpoints")}
    bias = next(name for name in newest.leaves if name.startswith("state/params/policy") and name.endswith("bias"))
    last = max(reversed(scores), key=lambda name: scores[name])
    expected = checkpoints.read(tmp_path / "run" / "checkpoints" / last).leaves[bias]
    for found, wanted in ((params, newest.leaves[bias]), (best, expected)):
        leaves = {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in jax.tree.leaves_with_path(found)}
        np.testing.assert_array_equal(leaves[bias.removeprefix("state/params/")], wanted)


def test_a_signal_in_another_thread_is_left_to_others(here, tmp_path):
    """Where Python cannot handle signals, training works all the same."""
    thread = threading.Thread(target=lambda: here(*TINY, *STEPS, "--out", tmp_path / "run"))
    thread.start()
    thread.join()
    assert files.is_finished(tmp_path / "run")


def test_what_could_not_be_written_is_written_later(tmp_path, files_up_to):
    file = GrowingFile(tmp_path / "table")
    file.append("a" * 50)
    with files_up_to(60), pytest.raises(OSError):
        file.append("b" * 50)
    file.append("c")
    assert (tmp_path / "table").read_text() == "a" * 50 + "b" * 50 + "c"


def test_a_seed_that_is_never_finite_is_stopped_and_the_other_is_untouched(here, whole, tmp_path, monkeypatch, capfd):
    start = sweeps.start

    def spoilt(*arguments, **named):
        runs = start(*arguments, **named)
        params = jax.tree.map(lambda x: x.at[0].mul(1e38).at[0].add(1e38), runs.state.params)
        return runs._replace(state=runs.state._replace(params=params))

    monkeypatch.setattr(sweeps, "start", spoilt)
    with pytest.raises(Incomplete, match="^seeds 0 stopped after non-finite updates: see .*post-mortem"):
        here(*TINY, *STEPS, "--max-skipped", 7, "--out", tmp_path / "run")
    (line,) = capfd.readouterr().err.splitlines()
    message = "warning: seed 0 stopped at update 7: 7 updates in a row were not finite (loss or gradient); "
    assert line.startswith(message)
    rows = [(tmp_path / "run" / "metrics.csv"), whole / "metrics.csv"]
    other, reference = ([line for line in file.read_text().splitlines() if line.split(",")[2] == "1"] for file in rows)
    assert other == reference and len(other) == 22
    dead = checkpoints.newest(tmp_path / "run" / "post-mortem", say)
    assert dead.number == 7 and dead.leaves["state/skipped_in_a_row"].tolist() == [7, 0]


def test_what_lies_beyond_the_known_length_is_cut(tmp_path):
    (tmp_path / "table").write_text("12345678 and much more")
    GrowingFile(tmp_path / "table", 5).append("x")
    assert (tmp_path / "table").read_text() == "12345x"


def test_a_run_records_the_commit_of_a_clone_alone(tmp_path):
    """Not that of a repository in whose environment pgjax is installed; and that files have changed is told."""
    package = tmp_path / "repository" / "pgjax"
    package.mkdir(parents=True)
    (package / "module.py").write_text("x = 1")
    assert commit(package) == ""
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(package.parent), *words], check=True)
    assert re.fullmatch("[0-9a-f]{40}", commit(package))
    (package.parent / "notes.txt").write_text("none of its files")
    assert re.fullmatch("[0-9a-f]{40}", commit(package))
    (package / "new.py").write_text("")
    assert re.fullmatch(r"[0-9a-f]{40}\+", commit(package))
    index = package.parent / ".git" / "index"
    before = index.read_bytes()
    os.utime(package / "module.py", (0, 0))  # git would write its index anew, and lock the repository for that
    assert re.fullmatch(r"[0-9a-f]{40}\+", commit(package)) and index.read_bytes() == before
    installed = package.parent / "site-packages" / "pgjax"
    installed.mkdir(parents=True)
    assert commit(installed) == ""
