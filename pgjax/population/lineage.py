"""Who went on from whom in a population: tables from metrics."""

from collections.abc import Mapping

import numpy as np

from pgjax.population.evolution import Evolution

PARENT = "parent"
"""Name of a run's setting and metric: the seed of the member that it went on from at the last exploit step."""


def lineage(metrics: Mapping[str, np.ndarray], how: Evolution) -> tuple[tuple[str, ...], list[tuple]]:
    """Every takeover, as columns and rows: after which update, seed, the seed copied from, and the new hyperparameters.

    What members began with are rows of update 0, copied from themselves.

    Args:
      metrics: of the whole training, as `chunks` gives them and `sweeps.join` joins them, or from a run's metrics.csv.
      how: what evolved.
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
    """In which row of the metrics each update stands that led to a member's last state, [updates].

    >>> parents = np.array([[5, 5, 5], [7, 5, 7]])  # before its second update the second member took over the first
    >>> ancestry({"parent": parents}, 1).tolist()
    [0, 1, 1]
    """
    parents = metrics[PARENT]
    rows, seeds = np.empty(parents.shape[1], int), parents[:, 0].tolist()
    for u in reversed(range(parents.shape[1])):
        rows[u] = position
        position = seeds.index(parents[position, u])
    return rows
