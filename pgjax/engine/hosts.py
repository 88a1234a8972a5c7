"""Several processes as one: arrays that lie on the devices of all of them, and what they must agree on.

Every process runs the same program on the same settings. A function here that says "together" is a meeting: all
processes must come to it, in the same order. With one process all of them return at once, without jax.
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
    """How many processes there are: 1 unless jax's multi-process runtime was started."""
    return jax.process_count()


def is_first() -> bool:
    """Whether this is process 0, the one that writes files and talks to the user."""
    return jax.process_index() == 0


def fetch(tree: Any) -> Any:
    """Arrays, wherever they lie, as numpy arrays in every process; together. Keys as their data.

    >>> fetch({"a": jax.numpy.arange(2)})
    {'a': array([0, 1], dtype=int32)}
    """
    leaves, structure = jax.tree.flatten(jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree))
    far = [i for i, x in enumerate(leaves) if isinstance(x, jax.Array) and not x.is_fully_addressable]
    if far:
        for i, copy in zip(far, _on_every_device([leaves[i] for i in far]), strict=True):
            leaves[i] = copy
    return jax.tree.unflatten(structure, [np.asarray(x) for x in leaves])


def is_key(x: Any) -> bool:
    """Whether x is an array of typed keys."""
    return isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)


def _on_every_device(arrays: list[jax.Array]) -> list[jax.Array]:
    """Copies of arrays on one mesh, as this process's first device holds them."""
    sharding: Any = arrays[0].sharding
    everywhere = NamedSharding(sharding.mesh, P())
    copies = jax.jit(_same, out_shardings=everywhere)(arrays)
    return [x.addressable_data(0) for x in copies]


def _same(x: Any) -> Any:
    return x


def place(array: np.ndarray, sharding: Sharding) -> jax.Array:
    """An array that every process knows whole, on the devices of all; each copies its own part.

    >>> device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    >>> place(np.ones(2), device).tolist()
    [1.0, 1.0]
    """
    return jax.make_array_from_callback(array.shape, sharding, lambda part: np.array(array[part]))


def highest(value: int) -> int:
    """The largest of what the processes say; together.

    >>> highest(3)
    3
    """
    return value if count() == 1 else int(np.max(multihost_utils.process_allgather(np.int32(value))))


def first_only(action: Callable[[], Any]) -> None:
    """Let process 0 do something with the disk; together.

    Raises:
      OSError: in process 0 if it failed there, and in the others too, so that none waits for the rest.
    """
    failure = None
    if is_first():
        try:
            action()
        except OSError as error:
            failure = error
    if highest(int(failure is not None)):
        raise failure or OSError("process 0 could not write")


def from_first(action: Callable[[], str]) -> str:
    """What process 0 finds out, as every process's answer; together.

    Raises:
      SettingError: in process 0 if it was refused there, and then in the others too.
    """
    if count() == 1:
        return action()
    text, refusal = "", None
    if is_first():
        try:
            text = action()
        except SettingError as error:
            refusal = error
    line = np.zeros(_LONGEST, np.uint8)
    encoded = np.frombuffer(os.fsencode(text), np.uint8)
    line[: len(encoded)] = encoded
    answer = os.fsdecode(bytes(np.asarray(multihost_utils.broadcast_one_to_all(line))).rstrip(b"\0"))
    if not answer:
        raise refusal or SettingError("process", jax.process_index(), "ends because process 0 could not begin")
    return answer


_LONGEST = 4096  # bytes of a path


def require_same(name: str, value: int, reason: str) -> None:
    """Refuse a number that is not the same in every process; together.

    Raises:
      SettingError: in all of them, with the reason.
    """
    if highest(int(highest(value) != value)):
        raise SettingError(name, value, reason)
