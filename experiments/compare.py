"""How do runs of train.py compare, finished or not? Learning curves and a table, with 95 % intervals.

Curves and scores are interquartile means over seeds. Bands and intervals are from a bootstrap over seeds, stratified by
run directory. Each directory is a group, or with --by all directories with the same value of a setting, such as
algorithm or learning_rate. There is one panel per environment. Expect intervals that overlap if there are too few
seeds to distinguish runs. Takes seconds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from parts import places
from parts.command import as_script
from parts.reading import Run, draw_band, read_run
from rich.console import Console
from rich.table import Table

from pgjax import SettingError
from pgjax.runs.record import files
from pgjax.runs.show import figures
from pgjax.runs.show.comparison import RESAMPLES, bootstrap_interval

COLUMNS = ("environment", "name", "score", "seeds", "iqm", "low", "high", "lowest_seed", "highest_seed")
QUICK_RESAMPLES = 100


@dataclass(frozen=True)
class Comparison:
    """Options of the comparison."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories."""
    by: str = ""
    """Setting whose values define the groups; default: one group per directory."""
    metric: str = "return_mean"
    """Column of metrics.csv to plot, or greedy_return or sampled_return of evaluation.csv."""
    out: Path = Path("comparison")
    """Path of the figure (.png) and the table (.csv), without suffix."""
    quick: bool = False
    """Use few bootstrap samples."""


def main(comparison: Comparison) -> None:
    """Read the runs, draw the figure, and write and print the table."""
    runs = [read_run(path) for path in comparison.runs]
    if not runs:
        raise SettingError("runs", (), "are missing; name one or more run directories")
    for run in runs:
        if comparison.metric not in run.metrics | run.points:
            there = ", ".join(sorted(run.metrics | run.points))
            raise SettingError("metric", comparison.metric, f"is not in {run.path}; choose from {there}")
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.settings["environment"], name_of(run, comparison.by)), []).append(run)
    rows = [
        summary(*names, group, QUICK_RESAMPLES if comparison.quick else RESAMPLES) for names, group in groups.items()
    ]
    comparison.out.parent.mkdir(parents=True, exist_ok=True)
    figures.save(draw(groups, comparison.metric), comparison.out.with_suffix(".png"))
    files.write_table(comparison.out.with_suffix(".csv"), COLUMNS, rows)
    show(rows)
    print(f"wrote {comparison.out.with_suffix('.png')} and {comparison.out.with_suffix('.csv')}")


def check(comparison: Comparison) -> None:
    """Reject an output path that cannot be written, before anything is read."""
    for suffix in (".png", ".csv"):
        places.check_file("out", comparison.out.with_suffix(suffix))


def scores(run: Run) -> tuple[str, np.ndarray]:
    """Name and values [seeds] of the score: the last greedy_return, or without evaluations the last training return.

    Raises:
      SettingError: if there is no score yet.
    """
    if run.evaluation:
        return "greedy_return", run.evaluation["greedy_return"]
    known = [row[np.isfinite(row)] for row in run.metrics["return_mean"]]
    if not all(row.size for row in known):
        raise SettingError("runs", str(run.path), "has a seed without a finished episode")
    return "return_mean", np.array([row[-1] for row in known])


def name_of(run: Run, by: str) -> str:
    """Name of the group of a run."""
    if not by:
        return run.path.name
    if by not in run.settings:
        raise SettingError("by", by, f"is not a setting of {run.path}")
    return f"{by} {run.settings[by]}" if by != "algorithm" else run.settings[by]


def summary(environment: str, name: str, group: list[Run], resamples: int) -> tuple:
    """A row of the table."""
    kinds, strata = zip(*map(scores, group), strict=True)
    middle, low, high = bootstrap_interval(strata, resamples=resamples)
    everyone = np.concatenate(strata)
    numbers = len(everyone), float(middle), float(low), float(high), everyone.min(), everyone.max()
    return environment, name, "/".join(sorted(set(kinds))), *numbers


def draw(groups: dict[tuple[str, str], list[Run]], metric: str) -> Figure:
    """One panel per environment, with one curve per group."""
    names = list(dict.fromkeys(environment for environment, _ in groups))
    figure, panels = plt.subplots(1, len(names), figsize=(6.2 * len(names), 4.4), squeeze=False, layout="constrained")
    for axes, environment in zip(panels[0], names, strict=True):
        here = {name: runs for (where, name), runs in groups.items() if where == environment}
        for i, (name, runs) in enumerate(here.items()):
            draw_band(axes, runs, metric, label=name, colour=f"C{i % figures.MAX_COLOURS}")
        words = {"return_mean": "episode return (undiscounted)", "greedy_return": "greedy return in evaluation"}
        ylabel = words.get(metric, metric)
        figures.finish(axes, environment, ylabel)
        axes.legend(title="interquartile mean, 95 % bootstrap band", fontsize=9, title_fontsize=8, frameon=False)
    return figure


def show(rows: list[tuple]) -> None:
    """Print the table."""
    table = Table(title="interquartile mean over seeds, with 95 % bootstrap interval")
    shown = {"greedy_return": "greedy", "return_mean": "training"}
    for column in ("environment", "name", "score", "seeds", "IQM", "95 % interval", "range of seeds"):
        table.add_column(column, justify="left" if column in ("environment", "name", "score") else "right")
    for environment, name, score, seeds, middle, low, high, lowest, highest in rows:
        cells = str(seeds), f"{middle:.2f}", f"{low:.2f} to {high:.2f}", f"{lowest:.2f} to {highest:.2f}"
        table.add_row(environment, name, "/".join(shown[kind] for kind in score.split("/")), *cells)
    Console().print(table)


if __name__ == "__main__":
    as_script(main, Comparison, __doc__, check=check)
