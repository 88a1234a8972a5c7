"""Where metrics go besides metrics.csv: TensorBoard, Weights & Biases, trackio, packages of the extra `log`."""

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
    """Takes what every chunk of updates brings."""

    def write(self, seeds: np.ndarray, metrics: Mapping[str, np.ndarray]) -> None:
        """Log metrics by name [R, updates] of the runs with these seeds [R]; only where `active`."""
        ...

    def close(self) -> None:
        """Hand over what is still held back."""
        ...


class TensorBoard:
    """A TensorBoard run for every seed, under `path`/tensorboard; the horizontal axis is the update."""

    def __init__(self, path: Path, settings: Mapping[str, Any], update: int):
        """Go on from `update`: what an earlier process logged beyond it is dropped."""
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
    """One run of project pgjax at wandb: metrics as seed_3/return_mean and so on.

    Its id is unique and stays in the run directory (`wandb-id`), so that a resumed run goes on there, and runs of the
    same name in other directories are other ones.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], update: int):
        """Begin the run, or take up the one of this directory; wandb itself ignores updates it already has."""
        wandb = import_module(PACKAGES["wandb"])
        name = path.absolute().name
        given = {"id": own_id(path / "wandb-id"), "resume": "allow"}
        self._run = wandb.init(project="pgjax", name=name, config=dict(settings), dir=path, **given)

    def write(self, seeds: np.ndarray, metrics: Mapping[str, np.ndarray]) -> None:
        """Log every metric of every seed, an update at a time."""
        for update, values in by_update(seeds, metrics).items():
            self._run.log(values, step=update)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class Trackio:
    """One run of project pgjax in trackio's folder: metrics as seed_3/return_mean and so on; `trackio show` draws them.

    trackio knows a run by its name: that of the directory, and the beginning of the id kept there (`trackio-id`). What
    was logged beyond the checkpoint that a killed run goes on from is logged again, with the same values.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], update: int):
        """Begin the run, or take up the one of this directory."""
        self._package = import_module(PACKAGES["trackio"])
        name = f"{path.absolute().name}-{own_id(path / 'trackio-id')[:8]}"
        words = {name: list(x) if isinstance(x, tuple) else x for name, x in settings.items()}
        with contextlib.redirect_stdout(io.StringIO()):  # it prints where to look
            self._run = self._package.init(project="pgjax", name=name, config=words, resume="allow", auto_log_gpu=False)

    def write(self, seeds: np.ndarray, metrics: Mapping[str, np.ndarray]) -> None:
        """Log every metric of every seed, an update at a time."""
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
    """Refuse loggers whose package is not there.

    Raises:
      SettingError: naming the first, and how to install it.
    """
    for name in names:
        try:
            import_module(PACKAGES[name])
        except Exception as error:  # such as RuntimeError, where there is no home directory
            reason = f"needs the package {PACKAGES[name]}: {pip_install('log')}, or leave it out"
            raise SettingError("log", name, reason) from error


def own_id(file: Path) -> str:
    """The unique id that stands in a file, which is written if there is none."""
    if not file.exists():
        file.write_text(uuid.uuid4().hex, encoding="utf-8")
    return file.read_text(encoding="utf-8")


def by_update(seeds: np.ndarray, metrics: Mapping[str, np.ndarray]) -> dict[int, dict[str, float]]:
    """The numbers of all runs by update, in order.

    >>> grid = {"update": np.array([[1], [1]]), "active": np.full((2, 1), True), "kl": np.array([[0.5], [np.nan]])}
    >>> by_update(np.array([3, 4]), grid)
    {1: {'seed_3/kl': 0.5}}
    """
    together: dict[int, dict[str, float]] = {}
    for seed, row in zip(seeds.tolist(), _rows(metrics), strict=True):
        for update, values in row:
            together.setdefault(update, {}).update({f"seed_{seed}/{name}": x for name, x in values.items()})
    return dict(sorted(together.items()))


def _rows(metrics: Mapping[str, np.ndarray]) -> list[list[tuple[int, dict[str, float]]]]:
    """For every run, (update, name -> number) of the updates it made; what has no number yet is left out."""
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
