"""The algorithm's optimiser, on the tree of parameters that it trains."""

from collections.abc import Callable
from typing import TypeVar

import jax
import optax

from pgjax.engine import Engine
from pgjax.types import Algorithm, Params

F = TypeVar("F", bound=Callable)

_ELEMENTWISE = {
    *(optax.adabelief, optax.adadelta, optax.adagrad, optax.adam, optax.adamax, optax.amsgrad, optax.nadam),
    *(optax.radam, optax.rmsprop, optax.sgd),
}
"""What treats every number alike, whatever array it stands in. (adamw and lion may be given a mask of the tree.)"""


def elementwise(make: F) -> F:
    """Declare that an optimiser treats every number alike, so that it may run on one vector: faster on small networks.

    >>> @elementwise
    ... def slow_sgd(learning_rate):
    ...     return optax.sgd(0.1 * learning_rate)
    """
    _ELEMENTWISE.add(make)
    return make


def trained(algorithm: Algorithm, params: Params) -> Params:
    """The groups of parameters that the optimiser moves: the critic alone where the policy has a step of its own."""
    if algorithm.policy_step is not None:
        return {"value": params["value"]}
    return {name: group for name, group in params.items() if name != "statistics"}


def optimizer_of(algorithm: Algorithm, how: Engine, params: Params) -> optax.GradientTransformation:
    """Clipping by the global norm, then the algorithm's own, which sees parameters and gradients as trees."""
    clip = optax.clip_by_global_norm(algorithm.max_grad_norm)  # type: ignore[arg-type]
    chain = optax.chain(clip, algorithm.optimizer())
    declared = getattr(algorithm.optimizer, "func", None) in _ELEMENTWISE
    return how.on_one_vector(chain) if declared and jax.tree.leaves(params) else chain
