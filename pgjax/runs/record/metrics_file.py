"""metrics.csv and timing.csv: tables that are appended to during a run and survive a crash."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pgjax.runs.record.attempts import say
from pgjax.runs.record.texts import COUNTS, csv_text, numbers, read_bytes, write_bytes

FIRST_COLUMNS = ("update", "env_steps", "seed", "return_mean", "episodes")
_LARGEST = 10**6  # seeds × updates, if most of these rows are missing


class GrowingFile:
    """A text file that is appended to. Bytes beyond its known length are cut; text that could not be written is kept.

    It is opened for each append, so that a deleted folder is noticed.
    """

    def __init__(self, path: Path, length: int = 0):
        """Continue `path` at `length` bytes, or after its last complete line if it is shorter; 0 empties the file."""
        there = path.read_bytes() if length and path.exists() else b""
        self.path, self._pending = path, b""
        self.length = length if len(there) >= length else there.rfind(b"\n") + 1
        if self.length == 0:
            path.write_bytes(b"")

    def append(self, text: str) -> None:
        """Append text, after text that an earlier call failed to write. On OSError it is kept for the next call."""
        self._pending += text.encode()
        with self.path.open("r+b") as file:
            file.seek(self.length)
            file.write(self._pending)
            file.truncate()
            file.flush()
        self.length += len(self._pending)
        self._pending = b""

    def sync(self) -> None:
        """Flush the file to disk; raises OSError if it cannot be written."""
        self.append("")
        with self.path.open("rb") as file:
            os.fsync(file.fileno())


class MetricsFile:
    """metrics.csv: a row per update and seed, appended chunk by chunk."""

    def __init__(self, path: Path, length: int = 0):
        """Start `path`, or continue it at `length` bytes."""
        self.file = GrowingFile(path, length)
        self._columns: list[str] = []
        if self.file.length:
            self._columns = numbers(read_bytes(path), FIRST_COLUMNS).header

    def write(self, seeds: np.ndarray, metrics: Mapping[str, np.ndarray]) -> None:
        """Append a chunk: metrics by name, [R, updates]; only active entries are written."""
        rows = []
        if not self._columns:
            rest = sorted(set(metrics) - set(FIRST_COLUMNS) - {"active"})
            self._columns = [*FIRST_COLUMNS, *rest]
            rows.append(self._columns)
        seed_column = np.broadcast_to(seeds[:, None], metrics["update"].shape)
        table = dict(metrics) | {"seed": seed_column}
        for u in range(metrics["update"].shape[1]):
            for r in np.flatnonzero(metrics["active"][:, u]):
                rows.append([table[name][r, u] for name in self._columns])
        self.file.append(csv_text(rows))


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """Metrics by name, [seeds, updates]; `active` is False after the last update of a seed. Bad lines are skipped."""
    header, rows, _, _ = numbers(read_bytes(path), FIRST_COLUMNS)
    if not header:
        raise OSError("it is not a table of updates")
    column = dict(zip(header, rows.T, strict=True))
    seeds, runs = np.unique(column["seed"], return_inverse=True)
    updates = column["update"].astype(int) - 1
    shape = len(seeds), int(updates.max(initial=-1)) + 1
    if updates.min(initial=0) < 0 or shape[0] * shape[1] > max(_LARGEST, 4 * len(rows)):
        raise OSError("it is not a table of updates: most rows are missing")
    active = np.zeros(shape, bool)
    active[runs, updates] = True
    metrics: dict[str, np.ndarray] = {"active": active}
    for name, values in column.items():
        table = np.full(shape, np.nan)
        table[runs, updates] = values
        metrics[name] = _carried(table, active).astype(int) if name in COUNTS else table
    metrics["seed"] = np.broadcast_to(seeds[:, None].astype(int), shape)
    return metrics


def mended(path: Path, length: int, first: Sequence[str]) -> int:
    """Drop damaged lines from the first `length` bytes of a CSV file with first columns `first`; its new length."""
    if length <= 0:
        return 0
    there = read_bytes(path) if path.exists() else b""
    if len(there) < length:
        say(f"warning: {path} is truncated: {len(there)} of {length} bytes are left")
    kept = there[: length if len(there) >= length else there.rfind(b"\n") + 1]
    _, _, good, bad = numbers(kept, first)
    if bad:
        say(f"warning: {path} is damaged: {bad} of its {bad + len(good)} lines cannot be read and are dropped")
        kept = b"".join(good)
        write_bytes(path, kept)
    return len(kept)


def _carried(table: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Repeat the last active value of each run after its last update."""
    last = np.maximum.accumulate(np.where(active, np.arange(table.shape[1]), 0), axis=1)
    return np.nan_to_num(np.take_along_axis(table, last, axis=1))
