"""metrics.csv and timing.csv: tables that grow while a run goes on, and survive its being killed."""

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FIRST_COLUMNS = ("update", "env_steps", "seed", "return_mean", "episodes")
_WHOLE = ("update", "env_steps", "seed", "episodes")


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
            with path.open() as file:
                self._columns = next(csv.reader(file))

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

    A line that a kill has torn is left out.

    Raises:
      OSError: if there is no such file.
      ValueError: if it is no such table.
    """
    text = path.read_text()
    header, *rows = csv.reader(text[: text.rfind("\n") + 1].splitlines())
    numbers = np.array([[float(cell) if cell else np.nan for cell in row] for row in rows]).reshape(-1, len(header))
    column = dict(zip(header, numbers.T, strict=True))
    seeds, runs = np.unique(column["seed"], return_inverse=True)
    updates = column["update"].astype(int) - 1
    shape = len(seeds), int(updates.max(initial=-1)) + 1
    active = np.zeros(shape, bool)
    active[runs, updates] = True
    metrics: dict[str, np.ndarray] = {"active": active}
    for name, values in column.items():
        table = np.full(shape, np.nan)
        table[runs, updates] = values
        metrics[name] = _carried(table, active).astype(int) if name in _WHOLE else table
    metrics["seed"] = np.broadcast_to(seeds[:, None].astype(int), shape)
    return metrics


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as CSV, numbers short, empty where there is none.

    >>> csv_text([["update", "loss"], [3, float("nan")], [4, 0.25]])
    'update,loss\\n3,\\n4,0.25\\n'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[_cell(x) for x in row] for row in rows])
    return text.getvalue()


def _carried(table: np.ndarray, active: np.ndarray) -> np.ndarray:
    """The last value of each run where it was already done."""
    last = np.maximum.accumulate(np.where(active, np.arange(table.shape[1]), 0), axis=1)
    return np.nan_to_num(np.take_along_axis(table, last, axis=1))


def _cell(x: Any) -> Any:
    """A number as short text; empty where there is none."""
    if isinstance(x, (np.floating, float)):
        return "" if np.isnan(x) else f"{x:.7g}"
    return x
