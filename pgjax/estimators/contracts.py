"""What a function promises of itself, so that a batch may be cut into pieces without changing the result.

A surrogate (or an estimator's contribution) that promises nothing may look along time and across trajectories; it is
always given a whole batch. A credit that promises nothing may read ratios; it is computed anew for each pass. A
promise buys speed. A false one gives wrong numbers: `pgjax.testing.assert_declarations` compares promises with
Jacobians.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import jax

F = TypeVar("F", bound=Callable)

PER_STEP, PER_TRAJECTORY, RATIO_FREE = "per_step", "per_trajectory", "ratio_free"
_PROMISES, _OF_PARTS, _REPORTS = "pgjax_promises", "pgjax_of_parts", "pgjax_reports"


def per_step(function: F) -> F:
    """Declare that a surrogate looks at one step at a time.

    Its result at (t, n) depends on (t, n) of its arguments alone, and not on `continues`. Batches may then be cut
    between any two steps: minibatches of steps, blocks without padding, devices that share a batch.

    >>> import jax.numpy as jnp
    >>> from pgjax import a2c, gae, product
    >>> @per_step
    ... def capped_ratio(log_ratio, credit, continues, cap=1.5):
    ...     return jnp.minimum(jnp.exp(log_ratio), cap) * credit
    >>> promises(product(gae, capped_ratio).contribution, PER_STEP)
    True
    """
    return _promise(function, PER_STEP, PER_TRAJECTORY)


def per_trajectory(function: F) -> F:
    """Declare that a surrogate looks along time, but at one trajectory at a time.

    Its result at (t, n) depends on column n of its arguments alone. Batches may then be cut between trajectories:
    minibatches of environments, slices, groups, devices that share a batch.

    >>> import jax.numpy as jnp
    >>> @per_trajectory
    ... def whole_episode(log_ratio, credit, continues):
    ...     return jnp.exp(log_ratio.sum(0, keepdims=True)) * credit
    >>> promises(whole_episode, PER_TRAJECTORY), promises(whole_episode, PER_STEP)
    (True, False)
    """
    return _promise(function, PER_TRAJECTORY)


def ratio_free(function: F) -> F:
    """Declare that a credit, a baseline or a value target never reads `Signals.log_ratio`.

    It is then computed with the ratios of the last pass, which it does not use, instead of those of the parameters.

    >>> @ratio_free
    ... def next_reward(signals):
    ...     return signals.reward
    >>> promises(next_reward, RATIO_FREE)
    True
    """
    return _promise(function, RATIO_FREE)


def of_its_parts(function: F) -> F:
    """Declare that a function promises what all functions bound in its `Partial` promise.

    For combinators such as `baselined`, which is free of ratios where its credit and its baseline are.
    """
    setattr(function, _OF_PARTS, function)
    return function


def promises(function: Any, what: str) -> bool:
    """Whether a function, or what is bound and wrapped in it, has declared `what`.

    >>> from pgjax import reward_to_go, off_policy_reward_to_go
    >>> promises(reward_to_go, RATIO_FREE), promises(off_policy_reward_to_go, RATIO_FREE)
    (True, False)
    """
    if isinstance(function, functools.partial):
        if getattr(function.func, _OF_PARTS, None) is not function.func:
            return promises(function.func, what)
        parts = [x for x in (*function.args, *function.keywords.values()) if callable(x)]
        return bool(parts) and all(promises(part, what) for part in parts)
    declared = getattr(function, _PROMISES, None)
    if declared is not None and declared[0] is function:  # `functools.wraps` copies attributes; promises are not copied
        return what in declared[1]
    return isinstance(function, jax.stages.Wrapped) and promises(function.__wrapped__, what)  # type: ignore[attr-defined]  (jitted)


def reporting(**metrics: Callable) -> Callable[[F], F]:
    """Declare what training reports of a surrogate: name -> function of its log_ratio and its numbers, [T, N].

    A function with a parameter `continues` is given that too, by name.

    >>> import jax.numpy as jnp
    >>> @reporting(far_share=lambda log_ratio, cap=1.5: jnp.exp(log_ratio) > cap)
    ... def capped_ratio(log_ratio, credit, continues, cap=1.5):
    ...     return jnp.minimum(jnp.exp(log_ratio), cap) * credit
    >>> {name: f(jnp.log(jnp.array([1.0, 2.0]))).tolist() for name, f in reports_of(capped_ratio).items()}
    {'far_share': [False, True]}
    """

    def declare(function: F) -> F:
        setattr(function, _REPORTS, (function, metrics))
        return function

    return declare


def reports_of(function: Any) -> dict[str, Callable]:
    """What is reported of a function, or of what a combinator binds: name -> function of log_ratio.

    Some have a parameter `continues` as well: `reported` gives it to those.
    """
    if isinstance(function, functools.partial):
        if getattr(function.func, _OF_PARTS, None) is function.func:
            parts = [x for x in (*function.args, *function.keywords.values()) if callable(x)]
            return {name: metric for part in parts for name, metric in reports_of(part).items()}
        own = reports_of(function.func)
        return {name: functools.partial(metric, **function.keywords) for name, metric in own.items()}
    declared = getattr(function, _REPORTS, None)
    return dict(declared[1]) if declared is not None and declared[0] is function else {}


def reported(function: Any, log_ratio: Any, continues: Any) -> dict[str, Any]:
    """The values of what is reported of a function, name -> [T, N].

    Args:
      function: a surrogate, a contribution, or one with numbers bound.
      log_ratio: log ρ of the taken actions, [T, N].
      continues: 1 where the next step belongs to the same episode, [T, N].

    >>> from pgjax import clipped_ratio
    >>> import jax.numpy as jnp
    >>> reported(clipped_ratio, jnp.log(jnp.array([1.0, 2.0])), jnp.array([1.0, 0.0]))["clip_fraction"].tolist()
    [0.0, 1.0]
    """
    found = {}
    for name, metric in reports_of(function).items():
        along = {"continues": continues} if "continues" in inspect.signature(metric).parameters else {}
        found[name] = metric(log_ratio, **along)
    return found


def name_of(function: Any) -> str:
    """What to call a function in a message: its own name, whatever is bound in it.

    >>> from pgjax import gae, standardised
    >>> name_of(standardised(gae))
    'standardised(gae)'
    """
    if isinstance(function, functools.partial):
        name = name_of(function.func).removeprefix("_")
        parts = [name_of(x) for x in (*function.args, *function.keywords.values()) if callable(x)]
        return f"{name}({', '.join(parts)})" if parts else name
    return getattr(function, "__name__", type(function).__name__)


def _promise(function: F, *what: str) -> F:
    if isinstance(function, functools.partial):
        raise TypeError("declare the function itself, then bind its numbers: Partial(per_step(f), …)")
    before = getattr(function, _PROMISES, (function, frozenset()))[1]
    setattr(function, _PROMISES, (function, frozenset(what) | before))
    return function
