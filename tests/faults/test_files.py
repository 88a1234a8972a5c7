"""What may lie in a run directory, by name and by form: nothing is believed, nothing waits, no traceback."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from parts import places
from parts.command import as_script
from parts.reading import best_seed, read_run
from runs import TINY, fingerprint

from pgjax.runs.record import checkpoints, files
from pgjax.runs.record.evaluation_file import read_evaluation
from pgjax.runs.record.metrics_file import FIRST_COLUMNS, mended, read_metrics
from pgjax.runs.record.texts import read_json, read_text, read_toml
from pgjax.runs.settings.config_file import config_text
from pgjax.runs.settings.flags import Settings
from pgjax.types import SettingError

METRICS = "update,env_steps,seed,return_mean,episodes,loss\n" + "".join(
    f"{u},{9 * u},{s},{u / 4},1,\n" for u in (1, 2, 3) for s in (0, 1)
)
EVALUATION = "seed,env_steps,sampled_return,greedy_return,final\n0,27,1,2,1\n1,27,1,3,1\n"
LINE = METRICS.splitlines(keepends=True)[3]
DAMAGES = {  # of one row of metrics.csv
    "bytes that are no UTF-8": b"2,18,\xff,0.5,1,\n",
    "zeros": b"\0" * 20 + b"\n",
    "no number": b"2,18,x,0.5,1,\n",
    "a field too many": b"2,18,0,0.5,1,,1\n",
    "a field too few": b"2,18,0\n",
    "a field without end": b"2,18,0," + b"5" * 200_000 + b",1,\n" + b"\n",
    "a quote": b'2,18,0,"0.5,1,\n',
    "a seed that is none": b"2,18,nan,0.5,1,\n",
    "a negative update": b"-2,18,0,0.5,1,\n",
    "an update beyond all counters": b"4e18,18,0,0.5,1,\n",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_row_costs_itself_alone(tmp_path, damage, capfd):
    path = tmp_path / "metrics.csv"
    path.write_bytes(METRICS.encode().replace(LINE.encode(), DAMAGES[damage]))
    if damage == "a field without end":  # a number all the same, and an empty line
        assert np.isinf(read_metrics(path)["return_mean"][0, 1])
    else:
        assert read_metrics(path)["active"].tolist() == [[True, False, True], [True, True, True]]
    length = mended(path, path.stat().st_size, FIRST_COLUMNS)
    assert path.stat().st_size == length and "1 of its " in capfd.readouterr().err
    assert mended(path, length, FIRST_COLUMNS) == length and not capfd.readouterr().err


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 99, b"\xff\xfe", b"a,b\n1,2\n", b"update\n", b'"\n', METRICS.encode()[:9]]
)
def test_what_is_no_table_is_refused_and_begun_anew(tmp_path, content):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(OSError, match="not a table"):
        read_metrics(path)
    assert mended(path, len(content), FIRST_COLUMNS) == 0


def test_a_table_whose_updates_would_fill_the_memory(tmp_path):
    (tmp_path / "metrics.csv").write_text(METRICS + "2147483647,27,0,1,1,\n")
    with pytest.raises(OSError, match="most rows are missing"):
        read_metrics(tmp_path / "metrics.csv")


@pytest.mark.parametrize("content", [b"", EVALUATION.encode()[:50], b"\0" * 99, b"\xff" * 99, EVALUATION.encode()[:-6]])
def test_an_evaluation_that_is_empty_torn_or_something_else_ends_no_run(tmp_path, content):
    (tmp_path / "config.toml").write_text(config_text(Settings(seeds=2)))
    (tmp_path / "evaluation.csv").write_text(EVALUATION)
    assert files.is_finished(tmp_path)
    (tmp_path / "evaluation.csv").write_bytes(content)
    assert not files.is_finished(tmp_path)


def test_files_that_would_keep_one_waiting_or_never_end(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError):
            read_text(path)
    os.mkfifo(tmp_path / "evaluation.csv")
    with pytest.raises(OSError):
        read_evaluation(tmp_path)
    (tmp_path / "deep").write_text("a = " + "[" * 100_000)
    with pytest.raises(ValueError, match="too deep"):
        read_toml(tmp_path / "deep")
    (tmp_path / "deep").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="too deep"):
        read_json(tmp_path / "deep")


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path):
    """Two checkpoints of a run, 5 and 10."""
    for number in (5, 10):
        record = {"settings": {}, "provenance": {}, "metrics_bytes": 0, "timing_bytes": 0, "seconds": 0.0}
        checkpoints.save(tmp_path, number, {"seeds": np.arange(2), "a": np.full(3, number)}, record | {"score": number})
    return tmp_path


def newest(folder):
    lines = []
    return checkpoints.newest(folder, lines.append, checkpoints.RUN_RECORD).number, lines


def test_only_what_is_called_as_a_checkpoint_is_one(two):
    for name in ("9²", "٣٣٣٣٣٣٣٣", "0100", "00000100.bak", "100", "99999999999", "000000100", "0000001e"):
        shutil.copytree(two / "00000010", two / name)
    (two / "00000200").write_text("a file")
    assert newest(two) == (10, []) and [p.name for p in checkpoints.paths(two)] == ["00000005", "00000010"]
    checkpoints.save(two, 200, {"seeds": np.arange(2)}, {})  # in place of the file
    checkpoints.prune(two, 1)
    assert [p.name for p in checkpoints.paths(two)] == ["00000010", "00000200"]  # the best, and the newest


def test_a_copy_under_another_number_is_not_the_newest(two):
    shutil.copytree(two / "00000005", two / "00000100")
    number, (line,) = newest(two)
    assert number == 10 and "00000100 is damaged (it was saved as number 5)" in line
    assert checkpoints.highest_score(two) == 10


@pytest.mark.parametrize("entry", ["format", "leaves", "leaves_sha256", "record_sha256", *checkpoints.RUN_RECORD])
@pytest.mark.parametrize("change", ["lost", "of another type"])
def test_a_record_without_one_of_its_entries_is_damaged(two, entry, change):
    """Also where its hash is right, as in one that another version has written."""
    path = two / "00000010" / "record.json"
    record = json.loads(path.read_text())
    record[entry] = [[]]
    if change == "lost":
        del record[entry]
    if entry != "record_sha256":
        record["record_sha256"] = checkpoints._hash_of_record(record)
    path.write_text(json.dumps(record))
    number, (line,) = newest(two)
    assert number == 5 and "00000010 is damaged" in line


@pytest.mark.parametrize(
    "leaves", [{"a": 3}, {"a": ["nonsense", [3]]}, {"a": ["int64", [2**50, 2**13]]}, {"a": ["O", []]}]
)
def test_a_record_of_arrays_that_cannot_be(two, leaves):
    path = two / "00000010" / "record.json"
    record = json.loads(path.read_text()) | {"leaves": leaves}
    record["record_sha256"] = checkpoints._hash_of_record(record)
    path.write_text(json.dumps(record))
    assert newest(two)[0] == 5


def test_a_pipe_in_a_checkpoint_keeps_nobody_waiting(two):
    (two / "00000010" / "record.json").unlink()
    os.mkfifo(two / "00000010" / "record.json")
    assert newest(two)[0] == 5
    shutil.rmtree(two / "00000010")
    os.mkfifo(two / "00000005" / "leaves" / "pipe")
    with pytest.raises(SettingError, match="all damaged"):
        newest(two)


def test_where_the_first_process_cannot_write_no_other_waits(two, monkeypatch):
    """Nothing but the one question whether it could is asked of the others."""
    monkeypatch.setattr(checkpoints.hosts, "is_first", lambda: False)
    monkeypatch.setattr(checkpoints.hosts, "highest", lambda value: 1)
    monkeypatch.setattr(checkpoints, "_write_leaves", lambda *_: pytest.fail("waits for the first process"))
    with pytest.raises(OSError, match="process 0 could not write"):
        checkpoints.save(two, 15, {"a": np.zeros(3)}, {})
    assert newest(two) == (10, [])


# --- whole runs, and the tools that read them ------------------------------------------------------------------------


def test_a_run_among_rubbish_goes_on_to_the_same_bits(here, tmp_path, capfd):
    whole = here(*TINY, "--total-steps", 36 * 10, "--save-every", 0, "--out", tmp_path / "whole")
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints" / "00000010")
    shutil.copytree(run / "checkpoints" / "00000005", run / "checkpoints" / "00000100")
    (run / "checkpoints" / "9²").mkdir()
    (run / "evaluation.csv").write_text("")
    capfd.readouterr()
    here("--resume", run)
    assert "it was saved as number 5" in capfd.readouterr().err
    assert fingerprint(run) == fingerprint(whole) and files.is_finished(run)
    assert (run / "evaluation.csv").read_bytes() == (whole / "evaluation.csv").read_bytes()
    shutil.rmtree(run / "checkpoints" / "00000010")
    (run / "evaluation.csv").write_text("")
    table = (whole / "metrics.csv").read_bytes().splitlines(keepends=True)
    (run / "metrics.csv").write_bytes(b"".join([*table[:3], b"\xff" + table[3][1:], *table[4:]]))
    capfd.readouterr()
    here("--resume", run)
    assert "metrics.csv is damaged: 1 of its 11 lines" in capfd.readouterr().err
    assert (run / "metrics.csv").read_bytes() == b"".join([*table[:3], *table[4:]]) and files.is_finished(run)


def config_with(**values):
    lines = config_text(Settings(seeds=2)).splitlines()
    return "\n".join(f"{k} = {values[k]}" if (k := line.partition(" = ")[0]) in values else line for line in lines)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("metrics.csv", x) for x in (b"", b"\0" * 99, b"\xff", METRICS.splitlines(True)[0].encode())),
        *(("evaluation.csv", x) for x in (b"\0" * 99, b"\xff\n", b"1" * 200_000)),
        *(("config.toml", x.encode()) for x in ("", "seeds = [[[", "versions = 3", "a = " + "[" * 9999)),
        *(("config.toml", config_with(**x).encode()) for x in ({"environment": 3}, {"seeds": '"two"'}, {"jax": 1})),
    ],
)
def test_a_damaged_run_is_refused_in_one_line(tmp_path, name, content):
    for file, whole in {"config.toml": config_with(), "metrics.csv": METRICS, "evaluation.csv": EVALUATION}.items():
        (tmp_path / file).write_text(whole)
    assert read_run(tmp_path).finished and best_seed(tmp_path) == 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingError, match="^runs: ") as refusal:
        read_run(tmp_path)
    assert "\n" not in str(refusal.value)


# --- where results go ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["folder", "pipe", "file/below", "file/further/below", "absent/file"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path, place, monkeypatch, capfd):
    from exact_table import Options

    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr("sys.argv", ["exact_table.py", "--json", str(tmp_path / place)])
    with pytest.raises(SystemExit) as end:
        as_script(lambda _: pytest.fail("worked before"), Options, "")
    line = capfd.readouterr().err
    assert end.value.code == 2 and line.startswith("error: json: ") and line.count("\n") == 1


def test_asking_for_a_place_changes_nothing(tmp_path):
    (tmp_path / "file").write_text("kept")
    places.check_file("json", tmp_path / "file")
    places.check_file("json", tmp_path / "new" / "folder" / "file")
    places.check_folder("out", tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "kept"
