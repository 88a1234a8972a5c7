"""What a training run can be asked: the settings of `experiments/train.py`, each a flag and an entry of a file."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pgjax import counters
from pgjax.engine.memory import check_room
from pgjax.runs.settings.groups import GROUPS
from pgjax.types import SettingError

LEAST = 1000
"""Bytes that a run needs at least."""

_AllGroups: Any = type("_AllGroups", tuple(reversed(GROUPS.values())), {})  # the first base's fields come last


@dataclass(frozen=True)
class Settings(_AllGroups):
    """Train a policy-gradient method on an environment of pgjax's table, several seeds at once.

    None stands for the method's own value. Numbers of numpy become Python's, lists tuples.
    """

    def __post_init__(self) -> None:
        """Make numbers and lists plain: the same settings, whoever wrote them."""
        for field in fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        if isinstance(self.total_steps, float) and self.total_steps.is_integer():
            object.__setattr__(self, "total_steps", int(self.total_steps))
        if isinstance(self.seed_list, tuple) and self.seed_list:
            object.__setattr__(self, "seeds", len(self.seed_list))

    def chosen_seeds(self) -> list[int]:
        """The seeds that --seeds, --first-seed or --seed-list mean.

        Raises:
          SettingError: for what is no seed, or is named twice.

        >>> Settings(seeds=3, first_seed=100).chosen_seeds(), Settings(seed_list=(7, 5)).chosen_seeds()
        ([100, 101, 102], [7, 5])
        """
        if not self.seed_list:
            count = counters.count("seeds", self.seeds)
            check_room("seeds", count, count * LEAST, "as many runs")
            last = self.first_seed + count - 1
            counters.seed(self.first_seed, "first_seed")
            return list(range(self.first_seed, counters.seed(last, "first_seed") + 1))
        try:
            return list(counters.seeds(self.seed_list))
        except SettingError as error:
            raise SettingError("seed_list", self.seed_list, f"cannot be trained with: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value
