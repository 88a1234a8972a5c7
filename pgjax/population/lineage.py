"""Lineage of a population, from its metrics."""

from collections.abc import Mapping

import numpy as np

from pgjax.population.evolution import Evolution

PARENT = "parent"
"""Setting and metric of a run: the seed of the member that it continued from at the last exploit step."""


def lineage(metrics: Mapping[str, np.ndarray], how: Evolution) -> tuple[tuple[str, ...], list[tuple]]:
    """Every takeover as columns and rows: update, seed, seed copied from, and the new hyperparameters.

    The initial members are rows of update 0, copied from themselves. `metrics` are those of the whole training: joined
    by `sweeps.join` from `chunks`, or read from a run's metrics.csv.
    """
    names = [name for name, *_ in how.ranges]
    parents, rows = metrics[PARENT], []
    seeds = parents[:, 0]
    for r, u in zip(*np.nonzero(metrics["active"]), strict=True):
        if u == 0 or parents[r, u] != seeds[r]:
            numbers = (float(metrics[name][r, u]) for name in names)
            rows.append((int(metrics["update"][r, u]) - 1, int(seeds[r]), int(parents[r, u]), *numbers))
    return ("update", "seed", "copied_from", *names), sorted(rows)


def ancestry(metrics: Mapping[str, np.ndarray], position: int) -> np.ndarray:
    """The row of the metrics that holds each update in a member's ancestry, [updates]."""
    parents = metrics[PARENT]
    rows, seeds = np.empty(parents.shape[1], int), parents[:, 0].tolist()
    for u in reversed(range(parents.shape[1])):
        rows[u] = position
        position = seeds.index(parents[position, u])
    return rows
