"""Reads run directories of train.py for tables and figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from matplotlib.axes import Axes

from pgjax.runs.record import files
from pgjax.runs.record.evaluation_file import last_points, points_by_seed, read_evaluation
from pgjax.runs.record.metrics_file import read_metrics
from pgjax.runs.settings.config_file import read_run_config, read_run_table
from pgjax.runs.settings.tuned import tuned_environments
from pgjax.runs.show import figures
from pgjax.runs.show.comparison import bootstrap_interval
from pgjax.sweeps import RETURNS
from pgjax.types import SettingError

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """A run directory."""

    path: Path
    settings: dict[str, Any]
    """config.toml, including its table of versions."""
    metrics: dict[str, np.ndarray]
    """Columns of metrics.csv, [seeds, updates]."""
    evaluation: dict[str, np.ndarray]
    """Columns of the last evaluation of each seed, [seeds]; empty if there is none yet."""
    points: dict[str, np.ndarray]
    """Columns of evaluation.csv, [seeds, points]; empty if there is no row yet."""
    finished: bool
    """Whether the run has ended, so that `evaluation` is that after training."""


def read_run(path: Path) -> Run:
    """Read a run directory, finished or not.

    Raises:
      SettingError: if it is not a run directory.
    """
    settings = read_run_table(path, "runs")
    metrics = _table(path, "metrics.csv", lambda: read_metrics(path / "metrics.csv"))
    if not metrics["active"].size:
        raise SettingError("runs", str(path), "has no rows in metrics.csv yet")
    rows = _table(path, "evaluation.csv", lambda: read_evaluation(path))
    return Run(path, settings, metrics, last_points(rows), points_by_seed(rows), files.is_finished(path))


def _table(path: Path, name: str, read: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    try:
        return read()
    except OSError as error:
        raise SettingError("runs", str(path), f"has no {name} to read: {error.strerror or error}") from error


def by_environment(paths: tuple[Path, ...]) -> dict[str, list[Run]]:
    """Finished runs by environment, those with tuned settings first and in their order.

    Raises:
      SettingError: for a directory without a finished run, or runs of one environment with different settings.
    """
    if not paths:
        raise SettingError("runs", (), "are missing; name one or more run directories")
    groups: dict[str, list[Run]] = {}
    for run in map(read_run, paths):
        if not run.finished:
            raise SettingError("runs", str(run.path), "is not finished; --resume it")
        for name in ("algorithm", "total_steps", "versions"):
            if name not in run.settings:
                raise SettingError("runs", str(run.path), f"has an incomplete config.toml, without {name}")
        group = groups.setdefault(run.settings["environment"], [])
        for name in ("algorithm", "total_steps"):
            if group and group[0].settings[name] != run.settings[name]:
                raise SettingError("runs", str(run.path), f"has a different {name} from {group[0].path}")
        group.append(run)
    return in_order(groups)


def in_order(by_name: Mapping[str, T]) -> dict[str, T]:
    """The same entries, those of environments with tuned settings first and in their order."""
    order = {name: i for i, name in enumerate(tuned_environments())}
    return dict(sorted(by_name.items(), key=lambda item: order.get(item[0], len(order))))


def best_seed(run: Path) -> int:
    """The seed with the best greedy return, the first of several; the first seed if the run was not evaluated.

    Raises:
      SettingError: if the evaluation cannot be read.
    """
    try:
        table = last_points(read_evaluation(run))
        if not table:
            return read_run_config(run).chosen_seeds()[0] if (run / "config.toml").exists() else 0
        return int(table["seed"][np.argmax(np.nan_to_num(table["greedy_return"], nan=-np.inf))])
    except OSError as error:
        raise SettingError("run", str(run), "has an evaluation.csv that cannot be read; give --seed") from error


def draw_band(
    axes: Axes,
    runs: Sequence[Run],
    metric: str = "return_mean",
    *,
    label: str = "",
    colour: str = "C0",
    window: int = 1,
) -> None:
    """Plot the interquartile mean of a metric over all seeds of some runs, with a stratified 95 % bootstrap band.

    Args:
      axes: where to plot.
      runs: runs to combine; the curve ends with the shortest one.
      metric: column of metrics.csv or evaluation.csv.
      label: for the legend; the number of seeds is added.
      colour: of matplotlib.
      window: number of updates per point of the curve.
    """
    draw_curve(axes, band(runs, metric, window), label=label, colour=colour)


class Curve(NamedTuple):
    """A learning curve over seeds."""

    env_steps: np.ndarray  # [G]
    middle: np.ndarray  # interquartile mean, [G]
    low: np.ndarray
    high: np.ndarray
    seeds: int


def draw_curve(axes: Axes, curve: Curve, *, label: str = "", colour: str = "C0") -> None:
    """Plot a curve and its band, with the number of seeds in the label."""
    axes.fill_between(curve.env_steps, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(
        curve.env_steps, curve.middle, color=colour, linewidth=1.8, label=f"{label} ({curve.seeds} seeds)".lstrip()
    )


def band(runs: Sequence[Run], metric: str, window: int) -> Curve:
    """The curve of `draw_band`."""
    tables = [run.points if metric in RETURNS else run.metrics for run in runs]
    end = min(table["env_steps"].max(axis=1).min() for table in tables)
    curves = [figures.curve(table, metric, until=end, window=window) for table in tables]
    for run, (steps, _) in zip(runs, curves, strict=True):
        if not len(steps):
            raise SettingError("runs", str(run.path), f"has no numbers in {metric} yet")
    grid = np.linspace(max(g[0] for g, _ in curves), end, figures.GRID_POINTS)
    strata = [np.stack([np.interp(grid, g, row) for row in rows]) for g, rows in curves]
    return Curve(grid, *bootstrap_interval(strata, resamples=500), seeds=sum(map(len, strata)))
