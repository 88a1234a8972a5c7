"""Plot learning curves with the spread over seeds."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from pgjax.sweeps.alignment import curve

MAX_COLOURS = 10


def draw_curve(
    axes: Axes, grid: np.ndarray, returns: np.ndarray, label: str, spread: str, colour: str, marker: str = ""
) -> None:
    """The mean over seeds, with a band from the lowest to the highest seed ("range") or over the "quartiles"."""
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
    name: str = "return_mean",
    evaluation: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """A figure with one curve per label and, if given, the greedy returns of evaluations.

    `curves` is label -> metrics by name, [R, updates]; `spread` is the band over seeds, "range" or "quartiles"; `name`
    is the metric; `evaluation` has env_steps and greedy_return, [R, points].
    """
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for i, (label, metrics) in enumerate(curves.items()):
        draw_curve(axes, *curve(metrics, name), label=label, spread=spread, colour=f"C{i % MAX_COLOURS}")
    if evaluation:
        # all seeds are evaluated together, so a point is at their mean steps
        steps, colour = evaluation["env_steps"].mean(axis=0), f"C{len(curves) % MAX_COLOURS}"
        draw_curve(axes, steps, evaluation["greedy_return"], "evaluation, greedy", spread, colour, marker="o")
    finish(axes, title, *([] if name == "return_mean" else [name.replace("_", " ")]))
    seeds = len(next(iter(curves.values()))["env_steps"])
    band = "lowest to highest seed" if spread == "range" else "middle half of the seeds"
    if not axes.get_lines():
        axes.text(0.5, 0.5, "no episode has ended", ha="center", transform=axes.transAxes)
        return figure
    axes.legend(title=f"mean of {seeds} seeds; band: {band}", fontsize=9, title_fontsize=8, loc="best", frameon=False)
    return figure


def finish(axes: Axes, title: str, ylabel: str = "episode return (undiscounted)") -> None:
    """Set title, axis labels, units and grid."""
    axes.set(title=title, xlabel="environment steps per seed", ylabel=ylabel)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
