"""Loggers besides metrics.csv: TensorBoard, Weights & Biases and trackio, from the extra `log`."""

import contextlib
import io
import uuid
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pgjax.release import pip_install
from pgjax.types import SettingError


class Logger(Protocol):
    """Receives the metrics of every chunk of updates."""

    def write(self, seeds: np.ndarray, metrics: Mapping[str, np.ndarray]) -> None:
        """Log metrics by name, [R, updates], of the runs with these seeds, [R], where `active`."""
        ...

    def close(self) -> None:
        """Write buffered data and close."""
        ...


class TensorBoard:
    """Logs each seed as a TensorBoard run in `path`/tensorboard; the horizontal axis is the update."""

    def __init__(self, path: Path, settings: Mapping[str, Any], update: int):
        """Continue from `update`: later entries of an earlier process are dropped."""
        package = import_module(PACKAGES["tensorboard"])
        self._new = lambda seed: package.SummaryWriter(
            str(path / "tensorboard" / f"seed_{seed}"), purge_step=update + 1
        )
        self._writers: dict[int, Any] = {}

    def write(self, seeds: np.ndarray, metrics: Mapping[str, np.ndarray]) -> None:
        """Log every metric of every seed."""
        for seed, row in zip(seeds.tolist(), _rows(metrics), strict=True):
            if seed not in self._writers:
                self._writers[seed] = self._new(seed)
            for update, values in row:
                for name, value in values.items():
                    self._writers[seed].add_scalar(name, value, update)
            self._writers[seed].flush()

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()


class WeightsAndBiases:
    """Logs to one run of the wandb project pgjax, with metrics such as seed_3/return_mean.

    A resumed run continues the run whose id is in `wandb-id` of the run directory.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], update: int):
        """Start the run, or continue the one of this directory; wandb ignores updates that it already has."""
        wandb = import_module(PACKAGES["wandb"])
        name = path.absolute().name
        given = {"id": own_id(path / "wandb-id"), "resume": "allow"}
        self._run = wandb.init(project="pgjax", name=name, config=dict(settings), dir=path, **given)

    def write(self, seeds: np.ndarray, metrics: Mapping[str, np.ndarray]) -> None:
        """Log every metric of every seed, one update at a time."""
        for update, values in by_update(seeds, metrics).items():
            self._run.log(values, step=update)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class Trackio:
    """Logs to one run of the trackio project pgjax, with metrics such as seed_3/return_mean; `trackio show` plots them.

    The run's name is that of the directory and the start of an id kept there (`trackio-id`). After a crash, updates
    beyond the last checkpoint are logged again, with the same values.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], update: int):
        """Start the run, or continue the one of this directory."""
        self._package = import_module(PACKAGES["trackio"])
        name = f"{path.absolute().name}-{own_id(path / 'trackio-id')[:8]}"
        words = {name: list(x) if isinstance(x, tuple) else x for name, x in settings.items()}
        with contextlib.redirect_stdout(io.StringIO()):  # trackio prints how to open its dashboard
            self._run = self._package.init(project="pgjax", name=name, config=words, resume="allow", auto_log_gpu=False)

    def write(self, seeds: np.ndarray, metrics: Mapping[str, np.ndarray]) -> None:
        """Log every metric of every seed, one update at a time."""
        for update, values in by_update(seeds, metrics).items():
            self._run.log(values, step=update)

    def close(self) -> None:
        """Finish the run."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._package.finish()


LOGGERS: dict[str, Callable[[Path, Mapping[str, Any], int], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}


def check_installed(names: Iterable[str]) -> None:
    """Reject loggers whose package is not installed, with the command that installs it."""
    for name in names:
        try:
            import_module(PACKAGES[name])
        except Exception as error:  # e.g. RuntimeError without a home directory
            reason = f"needs the package {PACKAGES[name]}: {pip_install('log')}, or leave it out"
            raise SettingError("log", name, reason) from error


def own_id(file: Path) -> str:
    """The unique id in a file, which is created if missing."""
    if not file.exists():
        file.write_text(uuid.uuid4().hex, encoding="utf-8")
    return file.read_text(encoding="utf-8")


def by_update(seeds: np.ndarray, metrics: Mapping[str, np.ndarray]) -> dict[int, dict[str, float]]:
    """Update -> metrics of all seeds, such as {1: {"seed_3/kl": 0.5}}, in the order of updates; NaN is left out."""
    together: dict[int, dict[str, float]] = {}
    for seed, row in zip(seeds.tolist(), _rows(metrics), strict=True):
        for update, values in row:
            together.setdefault(update, {}).update({f"seed_{seed}/{name}": x for name, x in values.items()})
    return dict(sorted(together.items()))


def _rows(metrics: Mapping[str, np.ndarray]) -> list[list[tuple[int, dict[str, float]]]]:
    """For every run, (update, name -> number) of its active updates; NaN is left out."""
    names = set(metrics) - {"active", "update"}
    return [
        [
            (
                int(metrics["update"][r, u]),
                {n: float(metrics[n][r, u]) for n in sorted(names) if not np.isnan(metrics[n][r, u])},
            )
            for u in np.flatnonzero(active)
        ]
        for r, active in enumerate(metrics["active"])
    ]
