"""Compare finished or unfinished runs of train.py: learning curves and a table, each with 95 % intervals.

Curves and scores are interquartile means over seeds, bands and intervals a bootstrap over seeds, stratified by run
directory. Each directory stands for itself, or --by names a setting whose values are compared, such as algorithm or
learning_rate; directories of the same value are taken together. One panel for each environment.
"""

import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from pgjax import SettingError
from pgjax.lab import figures, files
from pgjax.lab.comparison import bootstrap_interval
from pgjax.lab.metrics_file import read_metrics

COLUMNS = ("environment", "name", "score", "seeds", "iqm", "low", "high", "lowest_seed", "highest_seed")


@dataclass(frozen=True)
class Comparison:
    """What to compare, and where to write it."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories."""
    by: str = ""
    """A setting that names the groups; default: each directory by itself."""
    metric: str = "return_mean"
    """Column of metrics.csv to draw."""
    out: Path = Path("comparison")
    """Where the figure (.png) and the table (.csv) go."""


@dataclass(frozen=True)
class Run:
    """A run directory, read."""

    path: Path
    settings: dict
    metrics: dict[str, np.ndarray]
    scores: np.ndarray
    """Of every seed."""
    score: str
    """What the scores are: greedy_return, or, of a run that is not finished, its last training return."""


def main(comparison: Comparison) -> None:
    """Read, draw, write, print."""
    runs = [read(path, comparison.metric) for path in comparison.runs]
    if not runs:
        raise SettingError("runs", (), "are missing; name one or more run directories")
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.settings["environment"], name_of(run, comparison.by)), []).append(run)
    rows = [summary(*names, group) for names, group in groups.items()]
    comparison.out.parent.mkdir(parents=True, exist_ok=True)
    figures.save(draw(groups, comparison.metric), comparison.out.with_suffix(".png"))
    files.write_table(comparison.out.with_suffix(".csv"), COLUMNS, rows)
    show(rows)
    print(f"wrote {comparison.out.with_suffix('.png')} and {comparison.out.with_suffix('.csv')}")


def read(path: Path, metric: str) -> Run:
    """A run directory.

    Raises:
      SettingError: if it is none, or has no such metric.
    """
    try:
        settings = tomllib.loads((path / "config.toml").read_text())
        metrics = read_metrics(path / "metrics.csv")
        if metric not in metrics:
            raise SettingError("metric", metric, f"is not in {path}; there are {', '.join(sorted(metrics))}")
        if files.is_finished(path):
            table = np.genfromtxt(path / "evaluation.csv", delimiter=",", names=True)
            return Run(path, settings, metrics, np.atleast_1d(table["greedy_return"]), "greedy_return")
    except SettingError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise SettingError("runs", str(path), "is not the directory of a run that has begun") from error
    known = [row[np.isfinite(row)] for row in metrics["return_mean"]]
    if not all(row.size for row in known):
        raise SettingError("runs", str(path), "has a seed of which no episode has ended yet")
    return Run(path, settings, metrics, np.array([row[-1] for row in known]), "return_mean")


def name_of(run: Run, by: str) -> str:
    """The group that a run belongs to."""
    if not by:
        return run.path.name
    if by not in run.settings:
        raise SettingError("by", by, f"is not a setting of {run.path}")
    return f"{by} {run.settings[by]}" if by != "algorithm" else run.settings[by]


def summary(environment: str, name: str, group: list[Run]) -> tuple:
    """A row of the table."""
    middle, low, high = bootstrap_interval([run.scores for run in group])
    scores = np.concatenate([run.scores for run in group])
    kinds = "/".join(sorted({run.score for run in group}))
    return environment, name, kinds, len(scores), float(middle), float(low), float(high), scores.min(), scores.max()


def draw(groups: dict[tuple[str, str], list[Run]], metric: str) -> Figure:
    """A panel for each environment, a curve for each group."""
    names = list(dict.fromkeys(environment for environment, _ in groups))
    figure, panels = plt.subplots(1, len(names), figsize=(6.2 * len(names), 4.4), squeeze=False, layout="constrained")
    for axes, environment in zip(panels[0], names, strict=True):
        here = {name: runs for (where, name), runs in groups.items() if where == environment}
        for i, (name, runs) in enumerate(here.items()):
            end = min(r.metrics["env_steps"].max(axis=1).min() for r in runs)
            curves = [figures.curve(run.metrics, metric, until=end) for run in runs]
            grid = np.linspace(max(g[0] for g, _ in curves), end, figures.GRID_POINTS)
            strata = [np.stack([np.interp(grid, g, row) for row in rows]) for g, rows in curves]
            middle, low, high = bootstrap_interval(strata, resamples=500)
            colour = f"C{i % figures.MAX_COLOURS}"
            axes.fill_between(grid, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(grid, middle, color=colour, linewidth=1.8, label=f"{name} ({sum(map(len, strata))} seeds)")
        ylabel = "episode return (undiscounted)" if metric == "return_mean" else metric
        figures.finish(axes, environment, ylabel)
        axes.legend(title="interquartile mean, 95 % bootstrap band", fontsize=9, title_fontsize=8, frameon=False)
    return figure


def show(rows: list[tuple]) -> None:
    """The table, for people."""
    table = Table(title="interquartile mean over seeds, with 95 % bootstrap interval")
    for column in ("environment", "name", "score", "seeds", "IQM", "95 % interval", "lowest to highest seed"):
        table.add_column(column, justify="left" if column in ("environment", "name", "score") else "right")
    for *names, seeds, middle, low, high, lowest, highest in rows:
        cells = str(seeds), f"{middle:.2f}", f"{low:.2f} to {high:.2f}", f"{lowest:.2f} to {highest:.2f}"
        table.add_row(*names, *cells)
    Console().print(table)


if __name__ == "__main__":
    try:
        main(tyro.cli(Comparison, description=__doc__))
    except SettingError as error:
        files.say(f"error: {error}")
        sys.exit(2)
