"""Whole numbers at the door of a compiled program: counts of steps and updates, and seeds.

Compiled programs count in 32 bits. A number that does not fit is refused here, before it could wrap around.
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
"""What a counter of 32 bits holds."""


def count(name: str, value: Any, *, least: int = 1, floats: bool = True) -> int:
    """A count as a Python integer: integers of any kind, and floats without a fraction such as 1e6.

    Args:
      name: what is counted, for the message.
      value: the number.
      least: the smallest one that makes sense.
      floats: whether a float without a fraction will do.

    Raises:
      SettingError: for anything else, numbers below `least`, and numbers that 32 bits do not hold.

    >>> count("total_steps", 1e6)
    1000000
    >>> count("total_steps", 2**31)
    Traceback (most recent call last):
    pgjax.types.SettingError: total_steps: 2147483648 must be at most 2147483647
    """
    floating = floats and isinstance(value, (float, np.floating)) and math.isfinite(value) and value == int(value)
    number = int(value) if floating else _integer(value)
    if number is None:
        raise SettingError(name, value, "must be a whole number")
    if number < least:
        raise SettingError(name, value, f"must be at least {least}")
    if number > LARGEST:
        raise SettingError(name, value, f"must be at most {LARGEST}")
    return number


def budget(name: str, value: Any, steps_per_update: int) -> int:
    """A number of environment steps that a run may take, as a Python integer.

    The last update may go beyond it, and must still be counted.

    Raises:
      SettingError: as `count`; and where the number and one update more are beyond 32 bits.

    >>> budget("total_steps", 2**31 - 1, steps_per_update=1024)
    Traceback (most recent call last):
    pgjax.types.SettingError: total_steps: 2147483647 and one update of 1024 steps are more than 2147483647
    """
    steps = count(name, value)
    if steps + steps_per_update > LARGEST:
        raise SettingError(name, value, f"and one update of {steps_per_update} steps are more than {LARGEST}")
    return steps


def updates(name: str, value: Any, steps_per_update: int) -> int:
    """A number of updates from the first one on, as a Python integer.

    Raises:
      SettingError: as `count`; and where their steps may be beyond 32 bits.

    >>> updates("num_updates", 10**6, steps_per_update=16_000)
    Traceback (most recent call last):
    pgjax.types.SettingError: num_updates: 1000000 of up to 16000 steps each may be more than 2147483647 steps
    """
    number = count(name, value)
    if number * steps_per_update > LARGEST:
        reason = f"of up to {steps_per_update} steps each may be more than {LARGEST} steps"
        raise SettingError(name, value, reason)
    return number


def added(counter: jax.Array, more: jax.Array) -> jax.Array:
    """counter + more, traced; a sum beyond 32 bits stays at the largest number instead of wrapping around.

    >>> int(added(jax.numpy.int32(LARGEST - 1), jax.numpy.int32(5))) == LARGEST
    True
    """
    return counter + jax.numpy.minimum(more, LARGEST - counter)


def seed(value: Any, name: str = "seed") -> int:
    """A seed as a Python integer: the name of a run, so an exact integer from 0 to 2³¹ − 1.

    Raises:
      SettingError: for anything else: fractions and whole floats, booleans, negative and larger numbers.

    >>> seed(np.int64(7))
    7
    >>> seed(3.0)
    Traceback (most recent call last):
    pgjax.types.SettingError: seed: 3.0 must be an integer from 0 to 2147483647
    """
    number = _integer(value)
    if number is None or not 0 <= number <= LARGEST:
        raise SettingError(name, value, f"must be an integer from 0 to {LARGEST}")
    return number


def seeds(value: int | Sequence[int]) -> Sequence[int]:
    """The seeds that a number of them, 0, 1, 2, …, or a list of them means.

    Raises:
      SettingError: for none, one that is no seed, and one that is named twice.

    >>> seeds(3), seeds([7, 5])
    (range(0, 3), [7, 5])
    >>> seeds([7, 5, 7])
    Traceback (most recent call last):
    pgjax.types.SettingError: seeds: 7 is named twice
    """
    if np.ndim(value) == 0:
        number = _integer(value)
        if number is None:
            raise SettingError("seeds", value, "must be how many, or a list of integers")
        return range(count("seeds", number))
    chosen = [seed(one, "seeds") for one in value]  # type: ignore[union-attr]
    if not chosen:
        raise SettingError("seeds", value, "must be at least 1")
    twice = [one for one, times in Counter(chosen).items() if times > 1]
    if twice:
        raise SettingError("seeds", twice[0], "is named twice")
    return chosen


def _integer(value: Any) -> int | None:
    """A Python integer, a numpy or jax scalar of integers; None for anything else, booleans too."""
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, jax.Array) and value.dtype == bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
