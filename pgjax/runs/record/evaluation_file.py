"""evaluation.csv: a row per evaluation and seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pgjax.runs.record.texts import csv_text, numbers, read_bytes, write_bytes
from pgjax.sweeps import RETURNS

NAME = "evaluation.csv"
COLUMNS = ("seed", "env_steps", *RETURNS, "final")
"""`final` is 1 in the rows of the evaluation after training; a run that has such a row for every seed is finished."""

_HEADER = csv_text([COLUMNS]).encode()


def rows_of(seeds: np.ndarray, point: Mapping[str, np.ndarray], *, final: bool) -> list[tuple[Any, ...]]:
    """The rows of one evaluation (`pgjax.sweeps.evaluation_point`), one per seed."""
    values = [point[name] for name in COLUMNS[1:-1]]
    return [(*row, int(final)) for row in zip(np.asarray(seeds).tolist(), *values, strict=True)]


def read_evaluation(run: Path, more: Sequence[Sequence[Any]] = ()) -> dict[str, np.ndarray]:
    """Columns of evaluation.csv and of the rows `more`, in order; incomplete and damaged lines are skipped. Without a
    column `final`, as in files of earlier versions, all rows are final.
    """
    path = run / NAME
    content = read_bytes(path) if path.exists() else b""
    if more:
        content = (content[: content.rfind(b"\n") + 1] or _HEADER) + csv_text(more).encode()
    header, rows, _, _ = numbers(content, COLUMNS[:-1])
    if not header and _HEADER.startswith(content):
        return {}
    if tuple(header) not in (COLUMNS, COLUMNS[:-1]):
        raise OSError(f"{path} is not a table of evaluations")
    if not len(rows):
        return {}
    column = dict(zip(header, rows.T, strict=True))
    whole = {name: column[name].astype(int) for name in ("seed", "env_steps")}
    return column | whole | {"final": column.get("final", np.ones(len(rows))) == 1}


def last_points(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The last row of each seed, by column, [seeds]."""
    last = {seed: place for place, seed in enumerate(rows.get("seed", ()))}
    return {name: values[[last[seed] for seed in sorted(last)]] for name, values in rows.items()} if last else {}


def points_by_seed(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All evaluations by column, [seeds, points], with `active` True everywhere as in training metrics."""
    if not len(rows.get("seed", ())):
        return {}
    of_seed = [np.flatnonzero(rows["seed"] == seed) for seed in np.unique(rows["seed"])]
    places = np.stack([place[: min(map(len, of_seed))] for place in of_seed])
    return {name: values[places] for name, values in rows.items()} | {"active": np.ones(places.shape, bool)}


def unfinish(run: Path) -> None:
    """Remove the final rows from the evaluation.csv of a run, atomically; raises OSError if it cannot be written."""
    path = run / NAME
    lines = read_bytes(path).splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if not line.endswith(b",1\n")] if lines[:1] == [_HEADER] else []
    write_bytes(path, b"".join(kept))


def is_complete(rows: Mapping[str, np.ndarray], seeds: int = 1) -> bool:
    """Whether every seed, at least `seeds` of them, has a final row."""
    if not rows:
        return False
    ended = np.unique(rows["seed"][rows["final"]])
    return len(ended) >= seeds and len(ended) == len(np.unique(rows["seed"]))
