"""Save and load runs as one npz file without pickle: seeds, settings, hyperparameters and state by name."""

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
    """Write runs to a file, atomically. Raises an OSError if that fails."""
    arrays = {name: hosts.fetch(x) for name, x in _named({"algorithm": runs.algorithm, "state": runs.state}).items()}
    arrays |= {"seeds": runs.seeds} | {SETTING + name: values for name, values in runs.settings.items()}

    def write() -> None:
        temporary = Path(path).with_name(f".{Path(path).name}")
        with temporary.open("wb") as file:  # given a name, np.savez would append .npz
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
    """Load runs that `Runs.save` wrote. Training continues bit for bit on the same machine.

    `trainer` and `algorithm` are those that the runs were saved with, because a file holds numbers, not functions; the
    algorithm's numbers come from the file. `devices` and `mesh` are as in `start`.

    >>> import tempfile
    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce, sweeps
    >>> env = environments.make("SimpleBandit-bsuite")
    >>> trainer = make_trainer(env, make_agent(env, hidden=()), Config(num_envs=2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sweeps.start(trainer, reinforce().algorithm, seeds=2).save(f"{folder}/runs.npz")
    ...     load(f"{folder}/runs.npz", trainer, reinforce().algorithm)
    Runs(2 of seed: 0, 1; env_steps: 0)
    """
    check_algorithm(algorithm)
    try:
        if not Path(path).is_file():  # reading a pipe, for instance, might never end
            raise OSError
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        seeds = arrays.pop("seeds")
    except (OSError, EOFError, TypeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise SettingError("path", str(path), "is not a file written by Runs.save") from error
    settings = {name.removeprefix(SETTING): arrays.pop(name) for name in list(arrays) if name.startswith(SETTING)}
    count = len(seeds)
    broadcast = jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.float32), (count, *jnp.shape(x))), algorithm)
    columns = {name: jnp.asarray(values, jnp.float32) for name, values in settings.items()}
    stacked = with_hyperparameters(broadcast, columns)
    spread = plan(trainer, algorithm, count, devices=devices, mesh=mesh)
    keys = jax.vmap(jax.random.key)(jnp.zeros(count, jnp.uint32))
    like = {"algorithm": stacked, "state": jax.eval_shape(jax.vmap(trainer.init), stacked, keys)}
    names = _named(like)
    for name in sorted(set(names) ^ set(arrays)):
        difference = "the file lacks" if name in names else "only the file has"
        raise SettingError("path", str(path), f"is of another trainer or algorithm: {difference} {name}")
    for name, leaf in names.items():
        wanted = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        if (arrays[name].shape, arrays[name].dtype) != (wanted.shape, wanted.dtype):
            reason = f"is of another trainer or algorithm: {name} has another shape or type"
            raise SettingError("path", str(path), reason)
    specs = _named({"algorithm": None, "state": placed(like["state"])})
    restored = {name: _restored(arrays[name], leaf, spread, specs.get(name)) for name, leaf in names.items()}
    tree = jax.tree.unflatten(jax.tree.structure(like), [restored[name] for name in names])
    return Runs(seeds, settings, tree["algorithm"], tree["state"], spread)


def _restored(array: np.ndarray, like: Any, mesh: Any, place: Any) -> Any:
    placed_array = jnp.asarray(array) if place is None else hosts.place(array, NamedSharding(mesh, place))
    if not _is_key(like):
        return placed_array
    return jax.random.wrap_key_data(placed_array, impl=jax.random.key_impl(jax.random.key(0)))


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _named(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in jax.tree.leaves_with_path(tree)}
