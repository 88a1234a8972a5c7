"""Figures: learning curves with the spread over seeds."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

GRID_POINTS = 200
MAX_COLOURS = 10


def curve(
    metrics: Mapping[str, np.ndarray],
    name: str = "return_mean",
    until: float | None = None,
    window: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Environment steps [G] and a metric [R, G] of runs on one common grid, linearly interpolated.

    Runs take different numbers of steps per update; the grid ends where the shortest run does, or at `until`: runs that
    were stopped before it then keep their last value. Updates in which no episode ended are passed over. A `window`
    of w shows at each update the mean of the last w, for methods whose batches are small.
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


def draw_curve(
    axes: Axes, grid: np.ndarray, returns: np.ndarray, label: str, spread: str, colour: str, marker: str = ""
) -> None:
    """The mean over seeds, and a band: from the lowest to the highest seed ("range"), or "quartiles"."""
    if not grid.size:
        return
    low, high = np.quantile(returns, (0.0, 1.0) if spread == "range" else (0.25, 0.75), axis=0)
    axes.fill_between(grid, low, high, color=colour, alpha=0.14, linewidth=0)
    axes.plot(grid, returns.mean(axis=0), color=colour, linewidth=1.8, label=label, marker=marker, markersize=4)


def learning_curves(
    curves: Mapping[str, Mapping[str, np.ndarray]],
    *,
    title: str,
    spread: str = "quartiles",
    evaluation: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """One curve per entry of label -> metrics, in one figure; the greedy returns of evaluations on the way beside it.

    Args:
      curves: label -> metrics by name, [R, updates].
      title: of the figure.
      spread: of the band over seeds: "range" or "quartiles".
      evaluation: env_steps and greedy_return, [R, points].
    """
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for i, (label, metrics) in enumerate(curves.items()):
        draw_curve(axes, *curve(metrics), label=label, spread=spread, colour=f"C{i % MAX_COLOURS}")
    if evaluation:
        # all seeds are evaluated together: a point lies at the mean of their steps
        steps, colour = evaluation["env_steps"].mean(axis=0), f"C{len(curves) % MAX_COLOURS}"
        draw_curve(axes, steps, evaluation["greedy_return"], "evaluation, greedy", spread, colour, marker="o")
    finish(axes, title)
    seeds = len(next(iter(curves.values()))["update"])
    band = "lowest to highest seed" if spread == "range" else "middle half of the seeds"
    if not axes.get_lines():
        axes.text(0.5, 0.5, "no episode has ended", ha="center", transform=axes.transAxes)
        return figure
    axes.legend(title=f"mean of {seeds} seeds; band: {band}", fontsize=9, title_fontsize=8, loc="best", frameon=False)
    return figure


def finish(axes: Axes, title: str, ylabel: str = "episode return (undiscounted)") -> None:
    """Titles, units, and a frame that does not get in the way."""
    axes.set(title=title, xlabel="environment steps per seed", ylabel=ylabel)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG and release the figure."""
    figure.savefig(path, dpi=130)
    plt.close(figure)
