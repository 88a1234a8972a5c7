"""`Settings`: all settings of `experiments/train.py`, each a command-line flag and an entry of a TOML file."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pgjax import counters
from pgjax.engine.memory import check_room
from pgjax.runs.settings.groups import GROUPS
from pgjax.types import SettingError

MIN_RUN_BYTES = 1000
"""Lower bound of the memory of one run."""

_AllGroups: Any = type("_AllGroups", tuple(reversed(GROUPS.values())), {})  # fields of the first base come last


@dataclass(frozen=True)
class Settings(_AllGroups):
    """Settings of a training run: environment, method, network, sizes, evaluation, devices and logs.

    None means the default of the method. NumPy scalars become Python numbers, and lists become tuples.
    """

    def __post_init__(self) -> None:
        """Convert values to plain Python types, so that equal settings compare equal."""
        for field in fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        if isinstance(self.total_steps, float) and self.total_steps.is_integer():
            object.__setattr__(self, "total_steps", int(self.total_steps))
        if isinstance(self.seed_list, tuple) and self.seed_list:
            object.__setattr__(self, "seeds", len(self.seed_list))

    def chosen_seeds(self) -> list[int]:
        """The seeds of `seeds` and `first_seed`, or of `seed_list`, which must be valid and different."""
        if not self.seed_list:
            count = counters.count("seeds", self.seeds)
            check_room("seeds", count, count * MIN_RUN_BYTES, "as many runs")
            last = self.first_seed + count - 1
            counters.seed(self.first_seed, "first_seed")
            return list(range(self.first_seed, counters.seed(last, "first_seed") + 1))
        try:
            return list(counters.seeds(self.seed_list))
        except SettingError as error:
            raise SettingError("seed_list", self.seed_list, f"is invalid: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value
