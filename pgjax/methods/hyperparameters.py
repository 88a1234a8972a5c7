"""Hyperparameters of an Algorithm by name: list, replace, check."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

import jax
import numpy as np
from jax.typing import ArrayLike

from pgjax.types import Algorithm, SettingError

ENVIRONMENT_PREFIX = "environment."
"""Prefix of the names of environment parameters."""

_RANGES: dict[str, tuple[float, float]] = {  # names not listed: any finite number
    "learning_rate": (0.0, math.inf),
    "schedule_steps": (0.0, math.inf),
    "warmup_steps": (0.0, math.inf),
    "discount": (0.0, 1.0),
    "entropy_coefficient": (0.0, math.inf),
    "value_coefficient": (0.0, math.inf),
    "max_grad_norm": (0.0, math.inf),
    "gae_lambda": (0.0, 1.0),
    "momentum": (0.0, 1.0),
    "clip": (0.0, math.inf),
    "value_clip": (0.0, math.inf),
    "kl_coefficient": (0.0, math.inf),
    "target_kl": (0.0, math.inf),
    "max_kl": (0.0, math.inf),
    "step_size": (0.0, math.inf),
    "damping": (0.0, math.inf),
    "max_weight": (0.0, math.inf),
    "max_rho": (0.0, math.inf),
    "max_c": (0.0, math.inf),
    "clip_low": (0.0, math.inf),
    "clip_high": (0.0, math.inf),
    "dual_clip": (1.0, math.inf),
    "max_mismatch": (0.0, math.inf),
    "reference_coefficient": (0.0, math.inf),
    "temperature": (0.0, math.inf),
    "temperature_bound": (0.0, math.inf),
}
_MAY_BE_INFINITE = {
    *("max_grad_norm", "clip", "value_clip", "target_kl", "step_size", "max_weight", "max_rho", "max_c"),
    *("clip_low", "clip_high", "dual_clip", "max_mismatch"),
}
_POSITIVE = {
    *("learning_rate", "max_grad_norm", "max_kl", "step_size", "momentum", "target_kl"),
    *("temperature", "max_mismatch"),
}


def hyperparameters(algorithm: Algorithm) -> dict[str, ArrayLike]:
    """Every hyperparameter of an algorithm by its shortest unambiguous name.

    Environment parameters in `Algorithm.environment` have names such as "environment.length".

    >>> from pgjax import reinforce
    >>> sorted(hyperparameters(reinforce(learning_rate=0.01).algorithm))[:3]
    ['discount', 'entropy_coefficient', 'learning_rate']
    """
    paths, leaves = _named_leaves(algorithm)
    short = Counter(path[-1] for path in paths)
    return {p[-1] if short[p[-1]] == 1 else ".".join(p): x for p, x in zip(paths, leaves, strict=True)}


def with_hyperparameters(algorithm: Algorithm, values: Mapping[str, ArrayLike]) -> Algorithm:
    """Replace hyperparameters by name; a short name that occurs in several places sets them all.

    Names such as "environment.length" set environment parameters. The error for an unknown name lists the known ones.

    >>> from pgjax import reinforce
    >>> hyperparameters(with_hyperparameters(reinforce().algorithm, {"discount": 0.9}))["discount"]
    0.9
    """
    environment_values = {
        n.removeprefix(ENVIRONMENT_PREFIX): x for n, x in values.items() if _is_environment_parameter(n)
    }
    if environment_values:
        algorithm = algorithm._replace(environment={**(algorithm.environment or {}), **environment_values})
    current, short = hyperparameters(algorithm), [path[-1] for path in _named_leaves(algorithm)[0]]
    for name, value in values.items():
        if name not in current and name not in short:
            reason = f"is not a hyperparameter here; there are {', '.join(sorted({*current, *short}))}"
            raise SettingError(name, value, f"{reason}; those of the environment begin with {ENVIRONMENT_PREFIX}")
    leaves = [values.get(full, values.get(last, x)) for (full, x), last in zip(current.items(), short, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(algorithm), leaves)


def check_hyperparameters(algorithm: Algorithm) -> None:
    """Reject hyperparameters outside their range, before compilation; the SettingError has the name and the value.

    >>> from pgjax import reinforce
    >>> check_hyperparameters(reinforce(discount=1.5).algorithm)
    Traceback (most recent call last):
    pgjax.types.SettingError: discount: 1.5 must lie in [0, 1]
    """
    for name, values in hyperparameters(algorithm).items():
        for value in np.ravel(np.asarray(values, np.float64)).tolist():
            check_number(name, value)


def check_single_numbers(algorithm: Algorithm, names: Iterable[str]) -> None:
    """Reject names of hyperparameters that are arrays, which single numbers would replace."""
    for full, value in hyperparameters(algorithm).items():
        named = {full, full.split(".")[-1]}.intersection(names)
        if named and np.ndim(value) > 0:
            raise SettingError(
                min(named), f"of shape {np.shape(value)}", "is an array, which one number cannot replace"
            )


def check_number(name: str, value: float) -> None:
    """Reject a value outside the range of the hyperparameter, or not finite where no infinite value is allowed."""
    short = name if _is_environment_parameter(name) else name.split(".")[-1]
    low, high = _RANGES.get(short, (-math.inf, math.inf))
    if math.isnan(value) or (math.isinf(value) and short not in _MAY_BE_INFINITE):
        raise SettingError(name, value, "must be a finite number")
    if short in _POSITIVE and value <= 0:
        raise SettingError(name, value, "must be greater than 0")
    if not low <= value <= high:
        raise SettingError(name, value, f"must be at least {low:g}" if high == math.inf else "must lie in [0, 1]")


def _named_leaves(algorithm: Algorithm) -> tuple[list[list[str]], list[ArrayLike]]:
    leaves = jax.tree_util.tree_flatten_with_path(algorithm)[0]
    paths = [[str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in p] for p, _ in leaves]
    paths = [[".".join(path)] if path[0] == "environment" else path for path in paths]
    return paths, [x for _, x in leaves]


def _is_environment_parameter(name: str) -> bool:
    return name.startswith(ENVIRONMENT_PREFIX)
