"""Runs in one file: seeds, settings, hyperparameters and state by name, as npz without pickle."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from pgjax.engine import hosts
from pgjax.methods.hyperparameters import with_hyperparameters
from pgjax.sweeps.runs import Runs, placed
from pgjax.training.sharing import plan
from pgjax.types import Algorithm, SettingError, Trainer, check_algorithm

SETTING = "settings/"


def save(runs: Runs, path: str | Path) -> None:
    """Write runs to a file, whole or not at all.

    Raises:
      OSError: if it cannot be written.
    """
    arrays = {name: hosts.fetch(x) for name, x in _named({"algorithm": runs.algorithm, "state": runs.state}).items()}
    arrays |= {"seeds": runs.seeds} | {SETTING + name: values for name, values in runs.settings.items()}

    def write() -> None:
        temporary = Path(path).with_name(f".{Path(path).name}")
        with temporary.open("wb") as file:  # by name np.savez would append .npz
            np.savez(file, **arrays)
        os.replace(temporary, path)

    hosts.first_only(write)


def load(
    path: str | Path,
    trainer: Trainer,
    algorithm: Algorithm,
    *,
    devices: Sequence[Any] | None = None,
    mesh: Sequence[int] | None = None,
) -> Runs:
    """Read runs back, to go on with by `advance` or `chunks`, bit for bit on the same machine.

    Args:
      path: what `Runs.save` wrote.
      trainer: as it was: a file holds numbers, no functions.
      algorithm: as it was; its numbers come from the file.
      devices: where, as in `start`.
      mesh: as in `start`.

    Raises:
      SettingError: if it is no such file, or holds runs of another trainer or algorithm.

    >>> import tempfile
    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce, sweeps
    >>> env = environments.make("SimpleBandit-bsuite")
    >>> trainer = make_trainer(env, make_agent(env, hidden=()), Config(num_envs=2))
    >>> runs = sweeps.start(trainer, reinforce().algorithm, seeds=2, over={"learning_rate": [0.1, 0.01]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     runs.save(f"{folder}/runs.npz")
    ...     load(f"{folder}/runs.npz", trainer, reinforce().algorithm)
    Runs(4 of seed: 0, 1; learning_rate: 0.01, 0.1; env_steps: 0)
    """
    check_algorithm(algorithm)
    try:
        if not Path(path).is_file():  # what is none, as a pipe, may never end
            raise OSError
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        seeds = arrays.pop("seeds")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise SettingError("path", str(path), "holds no runs that `Runs.save` has written") from error
    settings = {name.removeprefix(SETTING): arrays.pop(name) for name in list(arrays) if name.startswith(SETTING)}
    count = len(seeds)
    own = jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.float32), (count, *jnp.shape(x))), algorithm)
    columns = {name: jnp.asarray(values, jnp.float32) for name, values in settings.items()}
    stacked = with_hyperparameters(own, columns)
    spread = plan(trainer, algorithm, count, devices=devices, mesh=mesh)
    keys = jax.vmap(jax.random.key)(jnp.zeros(count, jnp.uint32))
    like = {"algorithm": stacked, "state": jax.eval_shape(jax.vmap(trainer.init), stacked, keys)}
    names = _named(like)
    for name in sorted(set(names) ^ set(arrays)):
        where = "the file lacks it" if name in names else "the file alone has it"
        raise SettingError("path", str(path), f"is of another trainer or algorithm: {where}: {name}")
    for name, here in names.items():
        here = jax.eval_shape(jax.random.key_data, here) if _is_key(here) else here
        if (arrays[name].shape, arrays[name].dtype) != (here.shape, here.dtype):
            raise SettingError(
                "path", str(path), f"is of another trainer or algorithm: {name} has another shape or type"
            )
    where = {"algorithm": None, "state": placed(like["state"])}
    restored = {name: _restored(arrays[name], here, spread, _named(where).get(name)) for name, here in names.items()}
    tree = jax.tree.unflatten(jax.tree.structure(like), [restored[name] for name in names])
    return Runs(seeds, settings, tree["algorithm"], tree["state"], spread)


def _restored(array: np.ndarray, like: Any, mesh: Any, place: Any) -> Any:
    there = jnp.asarray(array) if place is None else hosts.place(array, NamedSharding(mesh, place))
    return jax.random.wrap_key_data(there, impl=jax.random.key_impl(jax.random.key(0))) if _is_key(like) else there


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _named(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in jax.tree.leaves_with_path(tree)}
