"""Validation of step counts, update counts and seeds before they enter a compiled program, which counts in 32 bits."""

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
    """A count as a Python integer; accepts integers of any type and, with `floats`, floats without a fraction such as
    1e6. Raises SettingError for anything else, for numbers below `least`, and for numbers beyond 32 bits.
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
    """Number of environment steps of a run; with one more update, by which the last may exceed it, it fits 32 bits."""
    steps = count(name, value)
    if steps + steps_per_update > LARGEST:
        raise SettingError(name, value, f"plus one update of {steps_per_update} steps exceeds {LARGEST}")
    return steps


def updates(name: str, value: Any, steps_per_update: int) -> int:
    """Number of updates of a run; their steps must fit in 32 bits."""
    number = count(name, value)
    if number * steps_per_update > LARGEST:
        reason = f"of up to {steps_per_update} steps each may exceed {LARGEST} steps"
        raise SettingError(name, value, reason)
    return number


def added(counter: jax.Array, more: jax.Array) -> jax.Array:
    """counter + more, traced; saturates at the largest 32-bit number."""
    return counter + jax.numpy.minimum(more, LARGEST - counter)


def seed(value: Any, name: str = "seed") -> int:
    """A seed as a Python integer from 0 to 2³¹ − 1; floats and booleans are rejected.

    >>> seed(3.0)
    Traceback (most recent call last):
    pgjax.types.SettingError: seed: 3.0 must be an integer from 0 to 2147483647
    """
    number = _integer(value)
    if number is None or not 0 <= number <= LARGEST:
        raise SettingError(name, value, f"must be an integer from 0 to {LARGEST}")
    return number


def seeds(value: int | Sequence[int]) -> Sequence[int]:
    """Seeds from their number, as 0, 1, 2, …, or from a list. Duplicates are rejected."""
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
