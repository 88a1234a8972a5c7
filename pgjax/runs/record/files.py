"""Run directories: creating, locking and loading them."""

import fcntl
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from pgjax.runs.record import checkpoints
from pgjax.runs.record.attempts import say
from pgjax.runs.record.evaluation_file import is_complete, read_evaluation, unfinish
from pgjax.runs.record.texts import csv_text, read_toml, write_text
from pgjax.runs.settings.build import Setup, build
from pgjax.runs.settings.config_file import config_text, settings_of_record
from pgjax.runs.settings.environment import environment_of
from pgjax.runs.settings.flags import Settings
from pgjax.types import Params, SettingError

_MARKS = ("config.toml", "metrics.csv")


def new_run_directory(settings: Settings) -> Path:
    """Create a run directory with its config.toml: `settings.out`, or runs/<environment>-<algorithm>-<number>."""
    try:
        path = _named(settings.out) if settings.out else _numbered(f"{settings.environment}-{settings.algorithm}")
        # mode "x": of two runs started at the same time, one fails here
        with (path / "config.toml").open("x", encoding="utf-8") as file:
            file.write(config_text(settings))
        return path
    except FileExistsError as error:
        raise SettingError("out", settings.out, "is a file or already holds a run; name another directory") from error
    except OSError as error:
        raise SettingError("out", settings.out or "runs", f"cannot be written: {error.strerror}") from error


def _named(out: str) -> Path:
    path = Path(out)
    path.mkdir(parents=True, exist_ok=True)
    if any((path / mark).exists() for mark in _MARKS):
        raise SettingError("out", out, "already holds a run; name another directory, or --resume it")
    return path


def file_name(name: str) -> str:
    """A name as part of a file name on any system; characters that Windows or a shell may reject become hyphens.

    >>> file_name("FrozenLake-misc:map_name=8x8"), file_name("brax/ant")
    ('FrozenLake-misc-map_name=8x8', 'brax-ant')
    """
    return re.sub(r"[^\w.=,+-]+", "-", name, flags=re.ASCII).rstrip(". ")


def _numbered(stem: str) -> Path:
    Path("runs").mkdir(exist_ok=True)
    number = 1
    while True:
        try:
            path = Path("runs") / f"{file_name(stem)}-{number}"
            path.mkdir()
            return path
        except FileExistsError:
            number += 1


@contextmanager
def locked(path: Path, mark: str = "config.toml", field: str = "resume") -> Iterator[None]:
    """Lock the file `mark` of a run directory until the process ends; if it is locked, a SettingError about `field`."""
    try:
        file = (path / mark).open("rb")
    except OSError as error:
        raise SettingError(field, str(path), f"holds no run: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingError(field, str(path), "is being written by another process; stop that first") from error
        except OSError as error:
            say(f"warning: {path} cannot be locked ({error.strerror}); make sure that no other process writes to it")
        yield


def extend(path: Path, settings: Settings) -> None:
    """Rewrite config.toml for a larger budget and mark the run as unfinished. Take the lock again afterwards."""
    unfinish(path)
    write_text(path / "config.toml", config_text(settings))


def is_finished(path: Path) -> bool:
    """Whether a run has ended: evaluation.csv, which is written last, has the final row of every seed."""
    try:
        seeds = read_toml(path / "config.toml").get("seeds")
    except (OSError, ValueError):
        seeds = None
    try:
        return is_complete(read_evaluation(path), seeds if isinstance(seeds, int) else 1)
    except OSError:
        return False


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a CSV file atomically."""
    write_text(path, csv_text([columns, *rows]))


class TrainedRun(NamedTuple):
    """The setup of a run, and its trained parameters."""

    setup: Setup
    params: Params

    def __repr__(self) -> str:
        """Show the setup and the number of parameters."""
        numbers = sum(np.size(leaf) for leaf in jax.tree.leaves(self.params))
        return f"TrainedRun({self.setup!r}, {numbers:,} parameters)"


def load_run(path: str | Path, *, seed: int | None = None, best: bool = False) -> TrainedRun:
    """Load a run, finished or not (`pgjax.load_run`): its setup, and the parameters of one seed, or of all seeds on
    axis 0. `seed` defaults to all, in the order of the seeds in config.toml. `best` loads the checkpoint of the highest
    greedy return (mean over seeds) if the run was evaluated during training, else of the highest training return.
    """
    folder = Path(path) / "checkpoints"
    find = checkpoints.best if best else checkpoints.newest
    checkpoint = find(folder, say, {"settings": dict})
    if checkpoint is None:
        raise SettingError("run", str(path), "holds no checkpoint")
    if "seeds" not in checkpoint.leaves:
        raise SettingError("run", str(path), "holds checkpoints that are not of a training run")
    table = checkpoint.record["settings"]
    setup = build(settings_of_record(table, environment_of(settings_of_record(table))))
    keys = jax.random.split(jax.random.key(0), len(checkpoint.leaves["seeds"]))
    shapes = jax.eval_shape(jax.vmap(setup.agent.init), keys)
    like = {"state": {"params": jax.tree.map(lambda x: np.empty(x.shape, x.dtype), shapes)}}
    of_params = {name: leaf for name, leaf in checkpoint.leaves.items() if name.startswith("state/params/")}
    params = checkpoint._replace(leaves=of_params).restore(like)["state"]["params"]
    if seed is None:
        return TrainedRun(setup, params)
    seeds = checkpoint.leaves["seeds"].tolist()
    if seed not in seeds:
        raise SettingError("seed", seed, f"is not in {path}, whose seeds are {_in_words(seeds)}")
    return TrainedRun(setup, jax.tree.map(lambda x: x[seeds.index(seed)], params))


def _in_words(seeds: list[int]) -> str:
    """Seeds as text, at most three of them where there are many."""
    return ", ".join(map(str, seeds)) if len(seeds) <= 8 else f"{seeds[0]}, {seeds[1]}, … {seeds[-1]}"
