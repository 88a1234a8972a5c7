"""metrics.csv and timing.csv: tables that grow while a run goes on, and survive its being killed."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pgjax.runs.record.attempts import say
from pgjax.runs.record.texts import COUNTS, csv_text, numbers, read_bytes, write_bytes

FIRST_COLUMNS = ("update", "env_steps", "seed", "return_mean", "episodes")
_LARGEST = 10**6  # cells of a table whose rows do not fill it


class GrowingFile:
    """A text file that only grows. What lies beyond its known good length is cut; what could not be written is kept.

    It is opened anew for each piece: so a folder that was removed is noticed.
    """

    def __init__(self, path: Path, length: int = 0):
        """Take up `path` at `length` bytes, or after its last whole line if it is shorter; 0 begins it anew.

        Raises:
          OSError: if it cannot be written.
        """
        there = path.read_bytes() if length and path.exists() else b""
        self.path, self._pending = path, b""
        self.length = length if len(there) >= length else there.rfind(b"\n") + 1
        if self.length == 0:
            path.write_bytes(b"")

    def append(self, text: str) -> None:
        """Write text behind the good part, and what an earlier failure left over before it.

        Raises:
          OSError: if that fails; the text is kept for the next time.
        """
        self._pending += text.encode()
        with self.path.open("r+b") as file:
            file.seek(self.length)
            file.write(self._pending)
            file.truncate()
            file.flush()
        self.length += len(self._pending)
        self._pending = b""

    def sync(self) -> None:
        """Force it to the disk.

        Raises:
          OSError: if that fails, or something is still to be written.
        """
        self.append("")
        with self.path.open("rb") as file:
            os.fsync(file.fileno())


class MetricsFile:
    """metrics.csv, a row per update and seed, written as chunks arrive."""

    def __init__(self, path: Path, length: int = 0):
        """Begin `path`, or take it up at `length` bytes."""
        self.file = GrowingFile(path, length)
        self._columns: list[str] = []
        if self.file.length:
            self._columns = numbers(read_bytes(path), FIRST_COLUMNS).header

    def write(self, seeds: np.ndarray, metrics: Mapping[str, np.ndarray]) -> None:
        """Append a chunk: metrics by name [R, updates]; rows of runs already done are left out."""
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
    """Metrics by name, [seeds, updates], as training gave them; `active` is False where a run was already done.

    A line that a kill has torn, or that is damaged otherwise, is left out.

    Raises:
      OSError: if there is no such file, or it is no such table.
    """
    header, rows, _, _ = numbers(read_bytes(path), FIRST_COLUMNS)
    if not header:
        raise OSError("it is no table of updates")
    column = dict(zip(header, rows.T, strict=True))
    seeds, runs = np.unique(column["seed"], return_inverse=True)
    updates = column["update"].astype(int) - 1
    shape = len(seeds), int(updates.max(initial=-1)) + 1
    if updates.min(initial=0) < 0 or shape[0] * shape[1] > max(_LARGEST, 4 * len(rows)):
        raise OSError("it is no table of updates: it lacks most of them")
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
    """The length at which a table goes on that had `length` bytes; what is damaged in it is left out, and told.

    Args:
      path: a CSV file of numbers.
      length: how long it was when the rest was saved.
      first: names of its first columns.

    Raises:
      OSError: if it cannot be read, or not be mended.
    """
    if length <= 0:
        return 0
    there = read_bytes(path) if path.exists() else b""
    if len(there) < length:
        say(f"warning: {path} has lost its end: {len(there)} bytes of {length} are left")
    kept = there[: length if len(there) >= length else there.rfind(b"\n") + 1]
    _, _, good, bad = numbers(kept, first)
    if bad:
        say(f"warning: {path} is damaged: {bad} of its {bad + len(good)} lines cannot be read, and are left out")
        kept = b"".join(good)
        write_bytes(path, kept)
    return len(kept)


def _carried(table: np.ndarray, active: np.ndarray) -> np.ndarray:
    """The last value of each run where it was already done."""
    last = np.maximum.accumulate(np.where(active, np.arange(table.shape[1]), 0), axis=1)
    return np.nan_to_num(np.take_along_axis(table, last, axis=1))
