"""Time limits: steps counted beside an environment's own state."""

from typing import Any, NamedTuple

import numpy as np
from jax import Array

from pgjax.types import SettingError


class Counted(NamedTuple):
    """The state of an environment, and how many steps led to it."""

    state: Any
    steps: Array


def whole_steps(field: str, steps: Any) -> int:
    """A time limit as a number of steps.

    Raises:
      SettingError: unless it is a whole number of at least 1.

    >>> whole_steps("time_limit", 0)
    Traceback (most recent call last):
    pgjax.types.SettingError: time_limit: 0 must be a whole number of at least 1
    """
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise SettingError(field, steps, "must be a whole number of at least 1")
    return int(steps)
