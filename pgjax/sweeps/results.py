"""The result of a sweep, as curves on one axis, a table or a figure."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pgjax.sweeps.alignment import curve
from pgjax.sweeps.evaluation import RETURNS
from pgjax.sweeps.runs import Runs
from pgjax.types import SettingError

if TYPE_CHECKING:
    from pandas import DataFrame

    from pgjax.sweeps.curves import Figure


class SweepResult(NamedTuple):
    """The result of a sweep."""

    runs: Runs  # in their final state
    metrics: dict[str, np.ndarray]  # by name, each [R, updates]
    evaluation: dict[str, np.ndarray]  # env_steps, sampled_return and greedy_return, each [R, points]; may be empty
    interrupted: bool = False  # whether Ctrl-C ended the sweep early

    def aligned(self, name: str = "return_mean") -> tuple[np.ndarray, np.ndarray]:
        """A metric of all runs on a common axis of environment steps: [G] and [R, G], linearly interpolated.

        The axis ends with the shortest run. Updates without a value are ignored; a run without any is NaN.
        "greedy_return" and "sampled_return" are those of the evaluations.

        >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce, sweep
        >>> env = environments.make("SimpleBandit-bsuite")
        >>> trainer = make_trainer(env, make_agent(env, hidden=()), Config(num_envs=2))
        >>> steps, returns = sweep(trainer, reinforce().algorithm, total_steps=20, seeds=3).aligned()
        >>> float(steps[0]), float(steps[-1]), returns.shape
        (2.0, 20.0, (3, 200))
        """
        table = self._table(name)
        known = np.flatnonzero(np.any(table["active"] & np.isfinite(table[name]), axis=1))
        steps, values = curve(table, name)
        all_runs = np.full((len(self.runs.seeds), len(steps)), np.nan)
        all_runs[known] = values.reshape(len(known), len(steps))
        return steps, all_runs

    def to_pandas(self, *, evaluation: bool = False) -> "DataFrame":
        """A DataFrame with one row per run and update, or per run and evaluation: seed, settings and all metrics.

        Rows after a run was done are omitted. Needs pandas.
        """
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise SettingError("to_pandas", "pandas", "is not installed: pip install pandas") from error
        metrics = self.evaluation if evaluation else self.metrics
        if not metrics:
            raise SettingError("evaluation", evaluation, "needs a sweep with evaluate_every")
        shape = metrics["env_steps"].shape
        active = metrics.get("active", np.ones(shape, bool))
        run_columns = {"seed": self.runs.seeds, **self.runs.settings}
        columns = {name: np.broadcast_to(np.asarray(x)[:, None], shape)[active] for name, x in run_columns.items()}
        return DataFrame(columns | {name: x[active] for name, x in metrics.items() if name != "active"})

    def plot(self, name: str = "return_mean", *, title: str = "", spread: str = "quartiles") -> "Figure":
        """Plot a metric against environment steps: for each setting the mean over seeds, and a band, "range" or
        "quartiles". With a single setting, the returns of greedy evaluations are shown too.
        """
        from pgjax.sweeps.curves import learning_curves, plt

        table, groups = self._table(name), self._by_setting()
        curves = {label: {key: values[places] for key, values in table.items()} for label, places in groups.items()}
        evaluation = self.evaluation if len(groups) == 1 and name == "return_mean" else None
        figure = learning_curves(curves, title=title, spread=spread, name=name, evaluation=evaluation)
        plt.close(figure)  # so that a notebook shows the figure once
        return figure

    def _table(self, name: str) -> Mapping[str, np.ndarray]:
        if name in RETURNS and self.evaluation:
            return self.evaluation | {"active": np.ones(self.evaluation[name].shape, bool)}
        if name not in self.metrics:
            known = ", ".join([*self.metrics, *(RETURNS if self.evaluation else ())])
            raise SettingError("metric", name, f"is not a metric of this sweep; known: {known}")
        return self.metrics

    def _by_setting(self) -> dict[str, np.ndarray]:
        """Label of each setting -> positions of its runs."""
        columns = [[f"{name} {value:.4g}" for value in values.tolist()] for name, values in self.runs.settings.items()]
        labels = [", ".join(words) for words in zip(*columns, strict=True)] or ["training"] * len(self.runs.seeds)
        return {label: np.flatnonzero(np.array(labels) == label) for label in dict.fromkeys(labels)}

    def __repr__(self) -> str:
        """Runs, and numbers of updates and evaluations."""
        updates = next(iter(self.metrics.values())).shape[1]
        points = self.evaluation["env_steps"].shape[1] if self.evaluation else 0
        ended = ", interrupted" if self.interrupted else ""
        return f"SweepResult({self.runs!r}, {updates:,} updates, {points} evaluations{ended})"

    def _repr_html_(self) -> str:
        return self.runs._repr_html_()
