"""The figure of a hyperparameter search."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from parts.study import Space
from parts.trials import Trial
from pgjax.runs.settings.ranges import FROM_ONE, RANGES, plain

COLUMNS = 4


def draw_search(
    title: str,
    space: Space,
    trials: Sequence[Trial],
    values: Sequence[Sequence[float]],
    importances: Mapping[str, float],
) -> Figure:
    """Scores of all trials in their order, then against each parameter, the most important one first.

    Args:
      title: of the figure.
      space: the search space.
      trials: all trials; the first one is the given settings.
      values: scores of each trial at its evaluations; trials with fewer than the others were stopped, and are hollow.
      importances: by label of the parameter; may be empty.
    """
    last = np.array([row[-1] for row in values])
    done = np.array([len(row) for row in values]) == max(len(row) for row in values)
    shown = np.isfinite(last)
    labels = [*(f"1 − {name}" if name in FROM_ONE else name for name in space.numbers), *space.static]
    weight = {label: importances.get(label.replace("−", "-"), 0.0) for label in labels}
    order = sorted(range(len(labels)), key=lambda i: -weight[labels[i]])
    rows = -(-(1 + len(labels)) // COLUMNS)
    figure, panels = plt.subplots(
        rows, COLUMNS, figsize=(10.4, 2.7 * rows + 0.5), sharey=True, squeeze=False, layout="constrained"
    )
    axes = panels.ravel()
    points(axes[0], np.arange(len(trials)), last, done, shown)
    best = np.maximum.accumulate(np.where(done & shown, last, -np.inf))
    axes[0].step(np.arange(len(trials)), best, where="post", color="C2", linewidth=1.5, label="best so far")
    axes[0].set(xlabel="trial")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    names = [*space.numbers, *space.static]
    for panel, i in zip(axes[1:], order, strict=False):
        name, label = names[i], labels[i]
        if name in space.numbers:
            low, high = RANGES[name]
            x = np.clip([plain(name, trial.numbers[name]) for trial in trials], low, high)
            points(panel, x, last, done, shown)
            panel.set(xscale="log", xlim=(low / 1.3, high * 1.3))
            ticks = [low, np.sqrt(low * high), high]
            panel.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
            panel.xaxis.set_minor_formatter(NullFormatter())
        else:
            texts = list(space.static[name])
            place = [list(space.static[name].values()).index(trial.static[name]) for trial in trials]
            points(panel, np.asarray(place, float), last, done, shown)
            panel.set(xlim=(-0.5, len(texts) - 0.5))
            panel.set_xticks(range(len(texts)), texts)
        panel.set_xlabel(label)
        if importances:
            panel.set_title(f"importance {weight[label]:.2f}", fontsize=9)
    for panel in axes[1 + len(labels) :]:
        panel.axis("off")
    for panel in axes[: 1 + len(labels)]:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    for row in panels:
        row[0].set_ylabel("greedy return, IQM of seeds")
    handles, texts = axes[1].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(title)
    return figure


def points(axes: Axes, x: Any, y: np.ndarray, done: np.ndarray, shown: np.ndarray) -> None:
    """A mark per trial: trained to the end, stopped before it, or the given settings."""
    rest = shown & (np.arange(len(y)) > 0)
    axes.plot(x[rest & done], y[rest & done], "o", color="C0", alpha=0.7, markersize=5, label="trained to the end")
    if not done.all():
        stopped = rest & ~done
        axes.plot(x[stopped], y[stopped], "o", color="C0", fillstyle="none", markersize=5, label="stopped early")
    if shown[0]:
        fill = "full" if done[0] else "none"
        axes.plot(x[:1], y[:1], "D", color="C1", fillstyle=fill, markersize=6, label="given settings")
