"""Validation of integers before they enter a compiled program: counts of steps and updates, and seeds.

Compiled programs count in 32 bits; a number that does not fit is rejected here, before it could overflow.
"""

import math
import operator
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from pgjax.types import SettingError

LARGEST = 2**31 - 1
"""Largest number of a 32-bit counter."""


def count(name: str, value: Any, *, least: int = 1, floats: bool = True) -> int:
    """A count as a Python integer; accepts integers of any type, and floats without a fraction such as 1e6.

    Args:
      name: setting that the message names.
      value: the number.
      least: smallest valid value.
      floats: whether to accept floats without a fraction.
    Raises SettingError for anything else, for numbers below `least`, and for numbers beyond 32 bits.

    >>> count("total_steps", 1e6)
    1000000
    """
    whole_float = floats and isinstance(value, (float, np.floating)) and math.isfinite(value) and value == int(value)
    number = int(value) if whole_float else _integer(value)
    if number is None:
        raise SettingError(name, value, "must be a whole number")
    if number < least:
        raise SettingError(name, value, f"must be at least {least}")
    if number > LARGEST:
        raise SettingError(name, value, f"must be at most {LARGEST}")
    return number


def budget(name: str, value: Any, steps_per_update: int) -> int:
    """Number of environment steps of a run, as a Python integer.

    The last update may exceed it, so a whole update more must fit in 32 bits.

    Raises SettingError like `count`, and if the number and one update exceed 32 bits.
    """
    steps = count(name, value)
    if steps + steps_per_update > LARGEST:
        raise SettingError(name, value, f"plus one update of {steps_per_update} steps exceeds {LARGEST}")
    return steps


def updates(name: str, value: Any, steps_per_update: int) -> int:
    """Number of updates of a run, as a Python integer.

    Raises SettingError like `count`, and if their steps may exceed 32 bits.
    """
    number = count(name, value)
    if number * steps_per_update > LARGEST:
        reason = f"of up to {steps_per_update} steps each may exceed {LARGEST} steps"
        raise SettingError(name, value, reason)
    return number


def added(counter: jax.Array, more: jax.Array) -> jax.Array:
    """counter + more, traced; saturates at the largest 32-bit number."""
    return counter + jax.numpy.minimum(more, LARGEST - counter)


def seed(value: Any, name: str = "seed") -> int:
    """A seed as a Python integer from 0 to 2³¹ − 1.

    Raises SettingError for anything else, including floats and booleans.

    >>> seed(3.0)
    Traceback (most recent call last):
    pgjax.types.SettingError: seed: 3.0 must be an integer from 0 to 2147483647
    """
    number = _integer(value)
    if number is None or not 0 <= number <= LARGEST:
        raise SettingError(name, value, f"must be an integer from 0 to {LARGEST}")
    return number


def seeds(value: int | Sequence[int]) -> Sequence[int]:
    """Seeds from their number, as 0, 1, 2, …, or from a list.

    Raises SettingError for no seeds, an invalid seed, or a duplicate.

    >>> seeds(3), seeds([7, 5])
    (range(0, 3), [7, 5])
    """
    if np.ndim(value) == 0:
        number = _integer(value)
        if number is None:
            raise SettingError("seeds", value, "must be how many, or a list of integers")
        return range(count("seeds", number))
    chosen = [seed(one, "seeds") for one in value]  # type: ignore[union-attr]
    if not chosen:
        raise SettingError("seeds", value, "must be at least 1")
    duplicates = [one for one, times in Counter(chosen).items() if times > 1]
    if duplicates:
        raise SettingError("seeds", duplicates[0], "is named twice")
    return chosen


def _integer(value: Any) -> int | None:
    """Python integer from an integer scalar of Python, numpy or jax; None for anything else, including booleans."""
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, jax.Array) and value.dtype == bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
