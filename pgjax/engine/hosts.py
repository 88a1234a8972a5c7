"""Several processes that run as one: distributed arrays and collective operations.

A function marked "collective" must be called by all processes, in the same order. With one process it communicates
nothing.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

from pgjax.types import SettingError


def count() -> int:
    """Number of processes: 1 unless jax's multi-process runtime was started."""
    return jax.process_count()


def is_first() -> bool:
    """Whether this is process 0, which writes files and prints."""
    return jax.process_index() == 0


def fetch(tree: Any) -> Any:
    """Arrays on any devices as numpy arrays in every process, with keys as their data; collective."""
    leaves, structure = jax.tree.flatten(jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree))
    remote = [i for i, x in enumerate(leaves) if isinstance(x, jax.Array) and not x.is_fully_addressable]
    if remote:
        for i, copy in zip(remote, _on_every_device([leaves[i] for i in remote]), strict=True):
            leaves[i] = copy
    return jax.tree.unflatten(structure, [np.asarray(x) for x in leaves])


def is_key(x: Any) -> bool:
    """Whether x is an array of typed keys."""
    return isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)


def _on_every_device(arrays: list[jax.Array]) -> list[jax.Array]:
    """Copies of arrays on all devices of their mesh; returns those on this process's first device."""
    sharding: Any = arrays[0].sharding
    everywhere = NamedSharding(sharding.mesh, P())
    copies = jax.jit(_same, out_shardings=everywhere)(arrays)
    return [x.addressable_data(0) for x in copies]


def _same(x: Any) -> Any:
    return x


def place(array: np.ndarray, sharding: Sharding) -> jax.Array:
    """Distribute an array that every process holds; each process copies its own part."""
    return jax.make_array_from_callback(array.shape, sharding, lambda part: np.array(array[part]))


def highest(value: int) -> int:
    """The largest value over processes; collective."""
    return value if count() == 1 else int(np.max(multihost_utils.process_allgather(np.int32(value))))


def first_only(action: Callable[[], Any]) -> None:
    """Run a disk operation in process 0; collective. Its OSError is raised in every process, so that none waits."""
    failure = None
    if is_first():
        try:
            action()
        except OSError as error:
            failure = error
    if highest(int(failure is not None)):
        raise failure or OSError("process 0 could not write")


def from_first(action: Callable[[], str]) -> str:
    """The result of `action` in process 0, or its SettingError, in every process; collective."""
    if count() == 1:
        return action()
    text, refusal = "", None
    if is_first():
        try:
            text = action()
        except SettingError as error:
            refusal = error
    line = np.zeros(_MAX_BYTES, np.uint8)
    encoded = np.frombuffer(os.fsencode(text), np.uint8)
    line[: len(encoded)] = encoded
    answer = os.fsdecode(bytes(np.asarray(multihost_utils.broadcast_one_to_all(line))).rstrip(b"\0"))
    if not answer:
        raise refusal or SettingError("process", jax.process_index(), "stops because process 0 failed to start")
    return answer


_MAX_BYTES = 4096  # of a path


def require_same(name: str, value: int, reason: str) -> None:
    """Raise a SettingError in every process if the value differs between processes; collective."""
    if highest(int(highest(value) != value)):
        raise SettingError(name, value, reason)
