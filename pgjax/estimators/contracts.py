"""Declarations of what a function depends on, which decide how a batch may be split.

Declarations make training faster.

A surrogate (or an estimator's contribution) without a declaration may depend on all steps and trajectories, and is
always given a whole batch. A credit without a declaration may depend on the ratios, which are then recomputed first. A
false declaration gives wrong results; `pgjax.testing.assert_declarations` compares declarations with Jacobians.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import jax

F = TypeVar("F", bound=Callable)

PER_STEP, PER_TRAJECTORY, RATIO_FREE = "per_step", "per_trajectory", "ratio_free"
_DECLARATIONS, _OF_PARTS, _REPORTS = "pgjax_promises", "pgjax_of_parts", "pgjax_reports"


def per_step(function: F) -> F:
    """Declare that a surrogate at (t, n) depends on its arguments at (t, n) alone, and not on `continues`.

    Batches may then be split between any two steps: minibatches of steps, blocks without padding, shares of devices.

    >>> import jax.numpy as jnp
    >>> @per_step
    ... def capped_ratio(log_ratio, credit, continues, cap=1.5):
    ...     return jnp.minimum(jnp.exp(log_ratio), cap) * credit
    >>> promises(capped_ratio, PER_STEP)
    True
    """
    return _declare(function, PER_STEP, PER_TRAJECTORY)


def per_trajectory(function: F) -> F:
    """Declare that a surrogate at (t, n) depends on column n of its arguments alone.

    Batches may then be split between trajectories: minibatches of environments, slices, groups, shares of devices.
    """
    return _declare(function, PER_TRAJECTORY)


def ratio_free(function: F) -> F:
    """Declare that a credit, a baseline or a value target does not depend on `Signals.log_ratio`.

    Training then does not recompute the ratios of a batch before computing it.
    """
    return _declare(function, RATIO_FREE)


def of_its_parts(function: F) -> F:
    """Declare that a function has every declaration that the functions bound in its `Partial` share, as `baselined`."""
    setattr(function, _OF_PARTS, function)
    return function


def promises(function: Any, what: str) -> bool:
    """Whether a function has the declaration `what`; looks through `Partial` and `jit`."""
    if isinstance(function, functools.partial):
        if getattr(function.func, _OF_PARTS, None) is not function.func:
            return promises(function.func, what)
        parts = [x for x in (*function.args, *function.keywords.values()) if callable(x)]
        return bool(parts) and all(promises(part, what) for part in parts)
    declared = getattr(function, _DECLARATIONS, None)
    if declared is not None and declared[0] is function:  # `functools.wraps` copies attributes, not declarations
        return what in declared[1]
    return isinstance(function, jax.stages.Wrapped) and promises(function.__wrapped__, what)  # type: ignore[attr-defined]  (jitted)


def reporting(**metrics: Callable) -> Callable[[F], F]:
    """Declare metrics of a surrogate: name -> function of its log_ratio and hyperparameters, returning [T, N].

    A metric with a parameter `continues` is passed that array too. Training reports the means.

    >>> import jax.numpy as jnp
    >>> @reporting(capped=lambda log_ratio, cap=1.5: jnp.exp(log_ratio) > cap)
    ... def capped_ratio(log_ratio, credit, continues, cap=1.5):
    ...     return jnp.minimum(jnp.exp(log_ratio), cap) * credit
    >>> {name: f(jnp.log(jnp.array([1.0, 2.0]))).tolist() for name, f in reports_of(capped_ratio).items()}
    {'capped': [False, True]}
    """

    def declare(function: F) -> F:
        setattr(function, _REPORTS, (function, metrics))
        return function

    return declare


def reports_of(function: Any) -> dict[str, Callable]:
    """Metrics declared by a function or by the functions that a combinator binds: name -> function of log_ratio."""
    if isinstance(function, functools.partial):
        if getattr(function.func, _OF_PARTS, None) is function.func:
            parts = [x for x in (*function.args, *function.keywords.values()) if callable(x)]
            return {name: metric for part in parts for name, metric in reports_of(part).items()}
        metrics = reports_of(function.func)
        return {name: functools.partial(metric, **function.keywords) for name, metric in metrics.items()}
    declared = getattr(function, _REPORTS, None)
    return dict(declared[1]) if declared is not None and declared[0] is function else {}


def reported(function: Any, log_ratio: Any, continues: Any) -> dict[str, Any]:
    """Values of the metrics that a surrogate or contribution declares, name -> [T, N]; see `reporting`."""
    values = {}
    for name, metric in reports_of(function).items():
        extra = {"continues": continues} if "continues" in inspect.signature(metric).parameters else {}
        values[name] = metric(log_ratio, **extra)
    return values


def name_of(function: Any) -> str:
    """Name of a function for messages, with the functions bound in it but not the numbers."""
    if isinstance(function, functools.partial):
        name = name_of(function.func).removeprefix("_")
        parts = [name_of(x) for x in (*function.args, *function.keywords.values()) if callable(x)]
        return f"{name}({', '.join(parts)})" if parts else name
    return getattr(function, "__name__", type(function).__name__)


def _declare(function: F, *what: str) -> F:
    if isinstance(function, functools.partial):
        raise TypeError("declare the function itself, then bind its hyperparameters: Partial(per_step(f), …)")
    earlier = getattr(function, _DECLARATIONS, (function, frozenset()))[1]
    setattr(function, _DECLARATIONS, (function, frozenset(what) | earlier))
    return function
