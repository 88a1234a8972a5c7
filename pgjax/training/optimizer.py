"""Build the algorithm's optimiser for the parameters that it trains."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.tree_util import Partial

from pgjax.engine import Engine
from pgjax.types import Algorithm, Params, SettingError

F = TypeVar("F", bound=Callable)

_ELEMENTWISE = {
    *(optax.adabelief, optax.adadelta, optax.adagrad, optax.adam, optax.adamax, optax.amsgrad, optax.nadam),
    *(optax.radam, optax.rmsprop, optax.sgd),
}
"""Optimisers that act on each number alone. adamw and lion are not among them: they accept a mask over the tree."""


def elementwise(make: F) -> F:
    """Decorator of a function that makes an optimiser: declares that the optimiser treats all numbers alike, so that it
    may run on one flat vector. This is faster for small networks. The common optax optimisers are declared already.
    """
    _ELEMENTWISE.add(make)
    return make


def trained(algorithm: Algorithm, params: Params) -> Params:
    """The parameter groups that the optimiser updates: only the critic where the algorithm has a `policy_step`."""
    if algorithm.policy_step is not None:
        return {"value": params["value"]}
    return {name: group for name, group in params.items() if name != "statistics"}


def with_scheduled_rate(algorithm: Algorithm, env_steps: Array) -> Algorithm:
    """The algorithm with the learning rate of its schedule after `env_steps` environment steps."""
    if algorithm.learning_rate_schedule is None:
        return algorithm
    optimizer = algorithm.optimizer
    rate = getattr(optimizer, "keywords", {}).get("learning_rate")
    if rate is None or callable(rate):
        reason = "needs an optimiser with a number learning_rate; this one has its own schedule or a fixed rate"
        raise SettingError("learning_rate_schedule", str(algorithm.learning_rate_schedule.func.__name__), reason)
    now = rate * algorithm.learning_rate_schedule(env_steps)
    made = Partial(optimizer.func, *optimizer.args, **optimizer.keywords | {"learning_rate": now})
    return algorithm._replace(optimizer=made, learning_rate_schedule=None)


def learning_rate(algorithm: Algorithm, state: Any) -> Array | None:
    """The learning rate of the optimiser's next step; None if unknown, as for an optimiser that is already built."""
    rate = getattr(algorithm.optimizer, "keywords", {}).get("learning_rate")
    if not callable(rate):
        return None if rate is None else jnp.asarray(rate, float)
    states = jax.tree.leaves(state, is_leaf=_has_count)
    counts = [x.count for x in states if _has_count(x)]
    return jnp.asarray(rate(counts[0]), float) if counts else None


def _has_count(x: Any) -> bool:
    return isinstance(x, optax.ScaleByScheduleState)


def optimizer_of(algorithm: Algorithm, how: Engine, params: Params) -> optax.GradientTransformation:
    """The algorithm's optimiser behind clipping by the global norm."""
    clip = optax.clip_by_global_norm(algorithm.max_grad_norm)  # type: ignore[arg-type]
    chain = optax.chain(clip, algorithm.optimizer())
    declared = getattr(algorithm.optimizer, "func", None) in _ELEMENTWISE
    return how.on_one_vector(chain) if declared and jax.tree.leaves(params) else chain
