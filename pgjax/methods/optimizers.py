"""Optimisers by name, and a method with another one than its own."""

from collections.abc import Callable
from typing import Any

import optax
from jax.tree_util import Partial

from pgjax.methods.hyperparameters import hyperparameters
from pgjax.types import Algorithm

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "rmsprop": optax.rmsprop,
    "sgd": optax.sgd,
}
"""Every optimiser by name; each takes a `learning_rate`."""


def with_optimizer(algorithm: Algorithm, optimizer: Callable[..., Any]) -> Algorithm:
    """The method with this optimiser, at the learning rate it has.

    >>> from pgjax import hyperparameters, reinforce
    >>> algorithm = with_optimizer(reinforce(learning_rate=0.5).algorithm, OPTIMIZERS["sgd"])
    >>> algorithm.optimizer.func is optax.sgd, hyperparameters(algorithm)["learning_rate"]
    (True, 0.5)
    """
    rate = hyperparameters(algorithm)["learning_rate"]
    return algorithm._replace(optimizer=Partial(optimizer, learning_rate=rate))
