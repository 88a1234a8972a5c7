"""Learning curves as means over seeds, and below them the score of each seed: no bands that hide one another."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pgjax.runs.show import figures


def columns(count: int, *, one_scale: bool = False) -> tuple[Figure, np.ndarray]:
    """A figure and its panels [2, count]: curves above, seeds below; `one_scale` if all show the same environment."""
    figure, panels = plt.subplots(
        2,
        count,
        figsize=(3.6 * count, 5.6),
        squeeze=False,
        sharey="row" if one_scale else False,
        height_ratios=(3, 2),
        layout="constrained",
    )
    return figure, panels


def draw(panels: Iterable[Axes], i: int, label: str, grid: np.ndarray, returns: np.ndarray, scores: np.ndarray) -> None:
    """The i-th method: its mean curve, the score of each seed, and their mean.

    Args:
      panels: the upper and the lower panel of a column.
      i: its place and colour.
      label: its name.
      grid: environment steps, [G].
      returns: of each seed, [seeds, G].
      scores: of each seed after training, [seeds].
    """
    above, below = panels
    if grid.size:
        above.plot(grid, returns.mean(axis=0), color=f"C{i}", linewidth=1.8, label=label)
    below.plot(np.full(len(scores), i), scores, "o", color=f"C{i}", markersize=5, alpha=0.5, markeredgewidth=0)
    below.plot(i, scores.mean(), "_", color=f"C{i}", markersize=16, markeredgewidth=3)


def finish(
    panels: Iterable[Axes],
    title: str,
    labels: Sequence[str],
    *,
    first: bool,
    score: str = "greedy return after training",
) -> None:
    """Titles, labels and grids of a column; the first has labels of the vertical axes, `score` the lower one's."""
    above, below = panels
    figures.finish(above, title, "episode return" if first else "")
    below.set_xticks(range(len(labels)), labels, rotation=50, ha="right", fontsize=9)
    for i, label in enumerate(below.get_xticklabels()):  # names the curves above, too
        label.set_color(f"C{i}")
    below.set_ylabel(score if first else "")
    below.grid(axis="y", alpha=0.3)
    below.spines[["top", "right"]].set_visible(False)
