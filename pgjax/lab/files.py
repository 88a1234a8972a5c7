"""A run directory: config.json, metrics.csv, evaluation.csv, params, learning_curve.png."""

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from pgjax.lab.setup import Settings, Setup, build, jax_devices, resolve
from pgjax.types import Params, SettingError

FIRST_COLUMNS = ("update", "env_steps", "seed", "return_mean", "episodes")
_MARKS = ("config.json", "metrics.csv")


def new_run_directory(settings: Settings) -> Path:
    """Make the directory of a run: `settings.out`, or the next free number under runs/.

    Raises:
      SettingError: if it already holds a run, or cannot be written.
    """
    try:
        if settings.out:
            path = Path(settings.out)
            path.mkdir(parents=True, exist_ok=True)
            if any((path / mark).exists() for mark in _MARKS):
                raise SettingError("out", settings.out, "already holds a run; name another directory")
            (path / "config.json").open("x").close()  # claims it: of two runs started at once, one fails here
            return path
        stem = f"{settings.environment}-{settings.algorithm}"
        Path("runs").mkdir(exist_ok=True)
        number = 1
        while True:
            try:
                path = Path("runs") / f"{stem}-{number}"
                path.mkdir()
                return path
            except FileExistsError:
                number += 1
    except FileExistsError as error:
        raise SettingError("out", settings.out, "is a file or already holds a run; name another directory") from error
    except OSError as error:
        raise SettingError("out", settings.out or "runs", f"cannot be written: {error.strerror}") from error


def write_config(path: Path, settings: Settings) -> None:
    """Every setting as resolved, and the versions the run depends on."""
    versions = {name: version(name) for name in ("pgjax", "jax", "jaxlib", "gymnax", "flax", "optax")}
    record = {
        "settings": asdict(resolve(settings)) | {"out": str(path)},
        "versions": versions,
        "devices": jax_devices(),
    }
    (path / "config.json").write_text(json.dumps(record, indent=2, default=str) + "\n")


class MetricsFile:
    """metrics.csv, a row per update and seed, written as chunks arrive."""

    def __init__(self, path: Path):
        """Open `path`/metrics.csv; the header follows from the first chunk."""
        self._file = (path / "metrics.csv").open("w", newline="")
        self._columns: list[str] = []

    def __enter__(self) -> Self:
        """Use it in a `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    def write(self, seeds: np.ndarray, metrics: Mapping[str, np.ndarray]) -> None:
        """Append a chunk: metrics by name [R, updates]; rows of runs already done are left out."""
        writer = csv.writer(self._file)
        if not self._columns:
            rest = sorted(set(metrics) - set(FIRST_COLUMNS) - {"active"})
            self._columns = [*FIRST_COLUMNS, *rest]
            writer.writerow(self._columns)
        seed_column = np.broadcast_to(seeds[:, None], metrics["update"].shape)
        table = dict(metrics) | {"seed": seed_column}
        for u in range(metrics["update"].shape[1]):
            for r in np.flatnonzero(metrics["active"][:, u]):
                writer.writerow([_cell(table[name][r, u]) for name in self._columns])
        self._file.flush()


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """A small CSV file."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([[_cell(x) for x in row] for row in rows])


def save_params(path: Path, params: Params) -> None:
    """The trained parameters of all seeds (axis 0), with orbax, under `path`/params."""
    from orbax.checkpoint import v1 as ocp

    ocp.save(str(path.absolute() / "params"), jax.tree.map(np.asarray, params))


def load_run(path: str | Path) -> tuple[Setup, Params]:
    """Read a run back: what it was made of, and the parameters of all seeds (axis 0).

    `jax.tree.map(lambda x: x[3], params)` is the policy of the fourth seed.

    Raises:
      SettingError: if the directory holds no finished run.
    """
    from orbax.checkpoint import v1 as ocp

    path = Path(path)
    try:
        settings = json.loads((path / "config.json").read_text())["settings"]
        setup = build(Settings(**settings | {"hidden": tuple(settings["hidden"])}))
        keys = jax.random.split(jax.random.key(0), settings["seeds"])
        shapes = jax.eval_shape(jax.vmap(setup.agent.init), keys)
        like = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), shapes)  # orbax then gives numpy, in this structure
        return setup, ocp.load(str(path.absolute() / "params"), like)
    except SettingError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise SettingError("run", str(path), "is not the directory of a finished run") from error


def _cell(x: Any) -> Any:
    """A number as short text that keeps its float32 value; empty where there is none."""
    if isinstance(x, (np.floating, float)):
        return "" if np.isnan(x) else f"{x:.7g}"
    return x
