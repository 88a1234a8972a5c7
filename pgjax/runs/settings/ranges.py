"""Search ranges of hyperparameters, for tune.py and for populations."""

from dataclasses import fields
from typing import Any

import numpy as np

from pgjax.methods.hyperparameters import hyperparameters
from pgjax.population import Evolution
from pgjax.runs.settings import idle
from pgjax.runs.settings.build import Setup, recipe_of
from pgjax.runs.settings.flags import Settings
from pgjax.types import SettingError

RANGES = {  # on a logarithmic scale; for discount and gae_lambda, of 1 − value
    "learning_rate": (1e-4, 3e-2),
    "discount": (1e-3, 1e-1),
    "gae_lambda": (1e-2, 3e-1),
    "clip": (0.05, 0.5),
    "entropy_coefficient": (1e-4, 1e-1),
    "max_grad_norm": (0.1, 10.0),
    "max_kl": (1e-3, 1e-1),
    "step_size": (2e-2, 2.0),
    "damping": (1e-3, 1e-1),
    "momentum": (0.1, 1.0),
    "max_rho": (0.5, 4.0),
    "max_c": (0.5, 4.0),
}
FROM_ONE = ("discount", "gae_lambda")


def chosen(field: str, names: tuple[str, ...], settings: Settings, setup: Setup) -> dict[str, float]:
    """Current values of the hyperparameters `names`, or of all that have an effect and a search range."""
    now = {full.split(".")[-1]: x for full, x in hyperparameters(setup.algorithm).items()}
    situation = idle.Situation(settings, recipe_of(settings), setup.environment)
    known = {one.name for one in fields(Settings)}
    possible = [n for n in RANGES if n in now and n in known and not idle.why_idle(situation, n)]
    for name in names:
        if name not in possible:
            raise SettingError(field, name, f"has no search range here; choose from {', '.join(possible)}")
    return {name: float(np.asarray(now[name])) for name in names or possible}


def evolution(settings: Settings, setup: Setup) -> Evolution:
    """The `Evolution` of a population from the settings of a run."""
    names = chosen("evolve", settings.evolve, settings, setup)
    return Evolution(tuple((name, *RANGES[name]) for name in names), from_one=FROM_ONE)


def plain(name: str, x: Any) -> Any:
    """Convert between a number of RANGES and the hyperparameter, in either direction."""
    return 1 - x if name in FROM_ONE else x
