"""Time limits, with steps counted next to an environment's own state."""

from typing import Any, NamedTuple

import numpy as np
from jax import Array

from pgjax.types import SettingError


class Counted(NamedTuple):
    """The state of an environment and the number of steps so far."""

    state: Any
    steps: Array


def whole_steps(field: str, steps: Any) -> int:
    """A time limit as an int. Raises a SettingError unless it is a whole number of at least 1."""
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise SettingError(field, steps, "must be a whole number of at least 1")
    return int(steps)
