"""What the real libraries keep of metrics, read back: TensorBoard by its own reader, wandb offline, trackio.

pip install -e ".[dev,logtest]"
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pgjax.runs.record.loggers import TensorBoard, WeightsAndBiases

pytestmark = pytest.mark.slow
SEEDS, CHUNK = np.array([3, 7]), 4
NEEDED = 'pip install -e ".[logtest]"'


def chunk(first, seeds=SEEDS):
    """Metrics of `CHUNK` updates from `first` on; seed 7 has had no return before update 3."""
    update = np.tile(np.arange(first, first + CHUNK), (len(seeds), 1))
    returns = update + 100.0 * np.array(seeds)[:, None]
    returns[1] = np.where(update[1] < 3, np.nan, returns[1])
    return {"update": update, "active": np.ones_like(update, bool), "return_mean": returns}


def test_tensorboard_reads_what_was_logged_once_where_a_killed_run_went_on(tmp_path):
    pytest.importorskip("tensorboardX", reason=NEEDED)
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason=NEEDED)
    killed = TensorBoard(tmp_path, {}, 0)
    for first in (1, 5):
        killed.write(SEEDS, chunk(first))
    time.sleep(1.1)  # files are named by the second
    resumed = TensorBoard(tmp_path, {}, 4)  # from the checkpoint before the kill
    for first in (5, 9):
        resumed.write(SEEDS, chunk(first))
    resumed.close()
    for seed, known in ((3, range(1, 13)), (7, range(3, 13))):
        found = reading.EventAccumulator(str(tmp_path / "tensorboard" / f"seed_{seed}"))
        found.Reload()
        assert found.Tags()["scalars"] == ["return_mean"]
        logged = [(event.step, event.value) for event in found.Scalars("return_mean")]
        assert logged == [(update, update + 100.0 * seed) for update in known]


def records(path):
    """The records of wandb's file: blocks of 32 kB with pieces of protocol buffers, as in LevelDB's log."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, piece = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        piece += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last piece
            yield Record.FromString(piece)
            piece = b""


def test_wandb_keeps_offline_what_was_logged(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason=NEEDED)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    run = tmp_path / "run"
    run.mkdir()
    for first in (1, 5):  # a process, and the one that resumes
        logger = WeightsAndBiases(run, {"seeds": 2}, first - 1)
        logger.write(SEEDS, chunk(first))
        logger.close()
    files = sorted(run.glob("wandb/offline-run-*/run-*.wandb"))
    ident = (run / "wandb-id").read_text()
    assert len(files) == 2 and all(file.name == f"run-{ident}.wandb" for file in files)
    logged = {}
    for record in (record for file in files for record in records(file)):
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            logged[items["_step"]] = {name: x for name, x in items.items() if name.startswith("seed_")}
        if record.WhichOneof("record_type") == "run":
            assert record.run.run_id == ident and record.run.project == "pgjax" and record.run.display_name == "run"
    assert sorted(logged) == list(range(1, 9))
    assert logged[2] == {"seed_3/return_mean": 302.0}
    assert logged[8] == {"seed_3/return_mean": 308.0, "seed_7/return_mean": 708.0}


LOG = """
import sys
import time
from pathlib import Path
from test_real_loggers import SEEDS, chunk
from pgjax.runs.record.loggers import Trackio
logger = Trackio(Path(sys.argv[1]), {"seeds": 2, "hidden": (64, 64)}, 0)
logger.write(SEEDS, chunk(int(sys.argv[2])))
logger.close()
"""
READ = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
runs = SQLiteStorage.get_runs("pgjax")
print(json.dumps({run: SQLiteStorage.get_logs("pgjax", run) for run in runs}, default=str))
"""


def test_trackio_keeps_what_was_logged_in_one_run_for_each_directory(tmp_path):
    pytest.importorskip("trackio", reason=NEEDED)
    places = [*map(str, (Path(__file__).parents[2], Path(__file__).parent)), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "kept"), "PYTHONPATH": os.pathsep.join(places)}

    def python(*arguments):
        command = [sys.executable, "-c", *arguments]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=200).stdout

    for folder, first in (("a", 1), ("b", 1), ("a", 5)):
        (tmp_path / folder / "run").mkdir(parents=True, exist_ok=True)
        assert python(LOG, str(tmp_path / folder / "run"), str(first)) == ""
    found = json.loads(python(READ))
    name = f"run-{(tmp_path / 'a' / 'run' / 'trackio-id').read_text()[:8]}"
    assert len(found) == 2 and name in found
    logged = {row["step"]: {n: x for n, x in row.items() if n.startswith("seed_")} for row in found[name]}
    assert sorted(logged) == list(range(1, 9)) and len(found[name]) == 8
    assert logged[2] == {"seed_3/return_mean": 302.0}
    assert logged[8] == {"seed_3/return_mean": 308.0, "seed_7/return_mean": 708.0}
