"""Plain records of spaces, for packages whose spaces `pgjax.environments.spaces` cannot read."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Discrete(NamedTuple):
    """One number from 0 to n − 1."""

    n: int


class MultiDiscrete(NamedTuple):
    """An array of numbers, each from 0 to its entry in `nvec` minus 1."""

    nvec: np.ndarray


class Box(NamedTuple):
    """An array of numbers between two bounds."""

    low: Any
    high: Any
    shape: tuple[int, ...]
    dtype: Any


class Dict(NamedTuple):
    """Spaces by name."""

    spaces: Mapping[Any, Any]


def codes(count: int, shape: tuple[int, ...]) -> Discrete | MultiDiscrete:
    """The space of an array of codes, each one of `count`."""
    return MultiDiscrete(np.full(shape, count)) if shape else Discrete(count)
