"""Optimisers by name, and methods with another optimiser."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

import optax
from jax.tree_util import Partial

from pgjax.methods.hyperparameters import hyperparameters
from pgjax.types import Algorithm, SettingError, as_partial

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "rmsprop": optax.rmsprop,
    "sgd": optax.sgd,
}
"""Optimisers by name; each takes a `learning_rate`."""


def with_optimizer(algorithm: Algorithm, optimizer: Any) -> Algorithm:
    """Replace the optimiser of a method by an optax transformation, or by a function that returns one.

    A function such as `optax.adam` is called with the method's learning rate, which can then still be swept, as can
    numbers bound with `functools.partial`; a bound `learning_rate` replaces the method's. The numbers of an optax
    transformation are fixed. A function with other required arguments is rejected.

    >>> from pgjax import hyperparameters, reinforce
    >>> algorithm = with_optimizer(reinforce(learning_rate=0.5).algorithm, optax.sgd)
    >>> algorithm.optimizer.func is optax.sgd, hyperparameters(algorithm)["learning_rate"]
    (True, 0.5)
    """
    if hasattr(optimizer, "init") and hasattr(optimizer, "update"):
        return algorithm._replace(optimizer=optimizer)
    if not callable(optimizer):
        raise SettingError(
            "optimizer", optimizer, "is not an optimiser: pass an optax transformation or a function that returns one"
        )
    if "learning_rate" in getattr(optimizer, "keywords", {}):
        return algorithm._replace(optimizer=as_partial(optimizer))
    needed = {name: p for name, p in signature(optimizer).parameters.items() if p.default is Parameter.empty}
    needed = {n: p for n, p in needed.items() if p.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)}
    if not needed and "learning_rate" not in signature(optimizer).parameters:
        return algorithm._replace(optimizer=as_partial(optimizer))
    rate = hyperparameters(algorithm).get("learning_rate")
    if rate is None or set(needed) - {"learning_rate"}:
        missing = sorted(set(needed) - {"learning_rate"}) or ["learning_rate"]
        reason = f"needs {', '.join(missing)}: bind it with functools.partial"
        raise SettingError("optimizer", getattr(optimizer, "__name__", "a function"), reason)
    bound = as_partial(optimizer)
    made = Partial(bound.func, *bound.args, **bound.keywords | {"learning_rate": rate})
    return algorithm._replace(optimizer=made)
