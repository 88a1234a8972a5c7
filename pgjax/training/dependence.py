"""Which inputs a function's result depends on, read off its traced form; nothing is computed."""

from collections.abc import Callable
from typing import Any

import jax


def depends_on(function: Callable, record: Any, field: str) -> bool:
    """Whether `function(record)` uses a field of a NamedTuple of arrays.

    What an estimator needs is so decided by what it does, not by a flag that somebody has to set. Read from the
    equations of its jaxpr, it never misses a use; a loop counts as using all it is given.

    >>> from pgjax import make_signals, off_policy_reward_to_go, reward_to_go
    >>> signals = make_signals([1.0, 2.0])
    >>> depends_on(reward_to_go, signals, "log_ratio"), depends_on(off_policy_reward_to_go, signals, "log_ratio")
    (False, True)
    """
    fields = {name: value for name, value in record._asdict().items() if value is not None}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), fields)
    jaxpr = jax.make_jaxpr(lambda given: function(record._replace(**given)))(shapes).jaxpr
    names = [name for name in sorted(fields) for _ in jax.tree.leaves(fields[name])]  # dict leaves come sorted
    tainted = {id(v) for v, name in zip(jaxpr.invars, names, strict=True) if name == field}
    for equation in jaxpr.eqns:
        if any(id(v) in tainted for v in equation.invars):
            tainted.update(id(v) for v in equation.outvars)
    return any(id(v) in tainted for v in jaxpr.outvars)
