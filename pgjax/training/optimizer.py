"""The algorithm's optimiser, on the tree of parameters that it trains."""

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


def at_its_rate(algorithm: Algorithm, env_steps: Array) -> Algorithm:
    """The algorithm with the learning rate that its schedule gives after so many environment steps.

    Raises:
      SettingError: for a schedule of an optimiser without a number `learning_rate`.
    """
    if algorithm.learning_rate_schedule is None:
        return algorithm
    optimizer = algorithm.optimizer
    rate = getattr(optimizer, "keywords", {}).get("learning_rate")
    if rate is None or callable(rate):
        reason = "scales a number learning_rate of the optimiser, which has none: a schedule of its own, or all fixed"
        raise SettingError("learning_rate_schedule", str(algorithm.learning_rate_schedule.func.__name__), reason)
    now = rate * algorithm.learning_rate_schedule(env_steps)
    made = Partial(optimizer.func, *optimizer.args, **optimizer.keywords | {"learning_rate": now})
    return algorithm._replace(optimizer=made, learning_rate_schedule=None)


def learning_rate(algorithm: Algorithm, state: Any) -> Array | None:
    """The rate of the optimiser's next step; None where nobody can say, as of an optimiser that is already made.

    >>> from pgjax import reinforce
    >>> float(learning_rate(reinforce(learning_rate=0.5).algorithm, None))
    0.5
    """
    rate = getattr(algorithm.optimizer, "keywords", {}).get("learning_rate")
    if not callable(rate):
        return None if rate is None else jnp.asarray(rate, float)
    counted = jax.tree.leaves(state, is_leaf=_counts)
    counts = [x.count for x in counted if _counts(x)]
    return jnp.asarray(rate(counts[0]), float) if counts else None


def _counts(x: Any) -> bool:
    return isinstance(x, optax.ScaleByScheduleState)


def optimizer_of(algorithm: Algorithm, how: Engine, params: Params) -> optax.GradientTransformation:
    """Clipping by the global norm, then the algorithm's own, which sees parameters and gradients as trees."""
    clip = optax.clip_by_global_norm(algorithm.max_grad_norm)  # type: ignore[arg-type]
    chain = optax.chain(clip, algorithm.optimizer())
    declared = getattr(algorithm.optimizer, "func", None) in _ELEMENTWISE
    return how.on_one_vector(chain) if declared and jax.tree.leaves(params) else chain
