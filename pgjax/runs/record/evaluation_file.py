"""evaluation.csv: a row per point and seed while a run trains, and its last rows when it has ended."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pgjax.runs.record.texts import csv_text, numbers, read_bytes, write_bytes
from pgjax.sweeps import RETURNS

NAME = "evaluation.csv"
COLUMNS = ("seed", "env_steps", *RETURNS, "final")
"""`final` is 1 in the rows after training, one for each seed: a run whose table has them all is finished."""

_HEADER = csv_text([COLUMNS]).encode()


def rows_of(seeds: np.ndarray, point: Mapping[str, np.ndarray], *, final: bool) -> list[tuple[Any, ...]]:
    """The rows of one evaluation, by `pgjax.sweeps.evaluation_point`.

    >>> point = {"env_steps": [90], "sampled_return": [0.5], "greedy_return": [1.0]}
    >>> rows_of(np.array([7]), point, final=True)
    [(7, 90, 0.5, 1.0, 1)]
    """
    values = [point[name] for name in COLUMNS[1:-1]]
    return [(*row, int(final)) for row in zip(np.asarray(seeds).tolist(), *values, strict=True)]


def read_evaluation(run: Path, more: Sequence[Sequence[Any]] = ()) -> dict[str, np.ndarray]:
    """The rows of a run's evaluation.csv by column, in their order; empty where there are none yet.

    `more` are rows that are still to be written. A line that a kill has torn, or that is damaged otherwise, is left
    out. In a table without the column `final`, as earlier versions wrote it at the end, every row is.

    Raises:
      OSError: if there is a file that cannot be read, or is no such table.
    """
    path = run / NAME
    content = read_bytes(path) if path.exists() else b""
    if more:
        content = (content[: content.rfind(b"\n") + 1] or _HEADER) + csv_text(more).encode()
    header, rows, _, _ = numbers(content, COLUMNS[:-1])
    if not header and _HEADER.startswith(content):
        return {}
    if tuple(header) not in (COLUMNS, COLUMNS[:-1]):
        raise OSError(f"{path} is no table of evaluations")
    if not len(rows):
        return {}
    column = dict(zip(header, rows.T, strict=True))
    whole = {name: column[name].astype(int) for name in ("seed", "env_steps")}
    return column | whole | {"final": column.get("final", np.ones(len(rows))) == 1}


def last_points(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each seed's last row, by column, [seeds] in the order of the seeds: the score of a run.

    >>> rows = {"seed": np.array([0, 1, 0, 1]), "greedy_return": np.array([1.0, 2.0, 3.0, 4.0])}
    >>> last_points(rows)["greedy_return"].tolist()
    [3.0, 4.0]
    """
    last = {seed: place for place, seed in enumerate(rows.get("seed", ()))}
    return {name: values[[last[seed] for seed in sorted(last)]] for name, values in rows.items()} if last else {}


def points_by_seed(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The evaluations as curves, by column, [seeds, points]; `active` is True, as in metrics that training gives.

    >>> rows = {"seed": np.array([0, 1, 0, 1]), "greedy_return": np.array([1.0, 2.0, 3.0, 4.0])}
    >>> points_by_seed(rows)["greedy_return"].tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    if not len(rows.get("seed", ())):
        return {}
    of_seed = [np.flatnonzero(rows["seed"] == seed) for seed in np.unique(rows["seed"])]
    places = np.stack([place[: min(map(len, of_seed))] for place in of_seed])
    return {name: values[places] for name, values in rows.items()} | {"active": np.ones(places.shape, bool)}


def unfinish(run: Path) -> None:
    """Take the rows after training out of a run's evaluation.csv, at once or not at all.

    Raises:
      OSError: if it cannot be written.
    """
    path = run / NAME
    lines = read_bytes(path).splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if not line.endswith(b",1\n")] if lines[:1] == [_HEADER] else []
    write_bytes(path, b"".join(kept))


def is_complete(rows: Mapping[str, np.ndarray], seeds: int = 1) -> bool:
    """Whether there is a row after training for each seed, of which there are at least so many.

    >>> is_complete({"seed": np.array([0, 1]), "final": np.array([True, True])}, seeds=2), is_complete({})
    (True, False)
    """
    if not rows:
        return False
    ended = np.unique(rows["seed"][rows["final"]])
    return len(ended) >= seeds and len(ended) == len(np.unique(rows["seed"]))
