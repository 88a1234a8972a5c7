"""Interpolate runs onto a common axis of environment steps."""

from collections.abc import Mapping

import numpy as np

GRID_POINTS = 200


def curve(
    metrics: Mapping[str, np.ndarray],
    name: str = "return_mean",
    until: float | None = None,
    window: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Environment steps [G] and a metric [R, G] of all runs on a common grid, linearly interpolated.

    The grid ends with the shortest run, or at `until`; runs that stopped earlier then keep their last value. Updates in
    which no episode ended are ignored. `window` averages over so many updates, for methods with small batches.
    """
    active, steps, returns = metrics["active"], metrics["env_steps"], metrics[name]
    known = active & np.isfinite(returns)
    rows = [r for r in range(len(known)) if known[r].any()]
    if not rows:
        return np.zeros(0), np.zeros((0, 0))
    first = max(steps[r][known[r]][0] for r in rows)
    end = until if until is not None else min(steps[r][known[r]][-1] for r in rows)
    grid = np.linspace(first, end, GRID_POINTS)
    values = {r: _trailing_mean(returns[r][known[r]], window) for r in rows}
    return grid, np.stack([np.interp(grid, steps[r][known[r]], values[r]) for r in rows])


def _trailing_mean(x: np.ndarray, window: int) -> np.ndarray:
    sums = np.concatenate([[0.0], np.cumsum(x, dtype=float)])
    end = np.arange(1, len(x) + 1)
    start = np.maximum(end - window, 0)
    return (sums[end] - sums[start]) / (end - start)
