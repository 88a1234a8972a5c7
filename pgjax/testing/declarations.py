"""Assertion that estimators keep their declarations."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pgjax.estimators.contracts import PER_STEP, PER_TRAJECTORY, RATIO_FREE, name_of, promises
from pgjax.estimators.distributions import Categorical
from pgjax.estimators.returns import make_signals
from pgjax.types import Algorithm, Estimator

STEPS, TRAJECTORIES, ACTIONS = 3, 4, 2


def assert_declarations(method: Algorithm | Estimator, distribution: Any = None) -> None:
    """Assert that an estimator, and an algorithm's value target, keep their declarations.

    Each input of the contribution is changed at one step of a small batch. For a contribution declared `per_step`,
    value and derivative in log ρ may change at that step only; for `per_trajectory`, in that trajectory only. A credit
    or target declared `ratio_free` may not change with log ρ. `distribution` is the policy's output, [3, 4, ...];
    default a Categorical with two actions.

    >>> import pgjax
    >>> assert_declarations(pgjax.ppo().algorithm)
    """
    estimator = method.estimator if isinstance(method, Algorithm) else method
    signals, log_ratio, policy = _batch()
    policy = policy if distribution is None else distribution
    credits = [estimator.credit]
    if isinstance(method, Algorithm) and method.value_target is not None:
        credits.append(method.value_target)
    for function in credits:
        if promises(function, RATIO_FREE):
            compute = jax.jit(function)
            gap = _gap(compute(signals), compute(signals._replace(log_ratio=log_ratio + 0.3)))
            assert gap == 0, f"{name_of(function)} is declared ratio_free, but moving log_ratio changes it by {gap:.2g}"
    contribution = estimator.contribution
    declared = [promise for promise in (PER_STEP, PER_TRAJECTORY) if promises(contribution, promise)]
    if declared:
        inputs = {"log_ratio": log_ratio, "continues": signals.continues}
        inputs |= {"credit": jax.jit(estimator.credit)(signals), "policy": policy}
        _assert_local(contribution, declared, inputs, signals)


def _batch() -> tuple[Any, jax.Array, Categorical]:
    """A batch with two early ends, and no value of 0 or 1 except flags."""
    rng = np.random.default_rng(0)
    shape = STEPS, TRAJECTORIES
    mask = np.ones(shape)
    mask[2, 1] = 0
    signals = make_signals(
        rng.normal(size=shape),
        mask=mask,
        terminated=(np.arange(STEPS)[:, None] == np.array([2, 1, 2, 0])) * mask,
        discount=0.9,
        value=rng.normal(size=shape),
        next_value=rng.normal(size=shape),
        log_ratio=rng.normal(size=shape) * 0.3,
        action_value=rng.normal(size=(*shape, ACTIONS)),
        action=rng.integers(0, ACTIONS, shape),
        behaviour_log_prob=-rng.exponential(size=shape),
    )
    return signals, signals.log_ratio, Categorical(jnp.asarray(rng.normal(size=(*shape, ACTIONS)), float))


def _assert_local(contribution: Callable, declared: Sequence[str], inputs: dict[str, Any], signals: Any) -> None:
    @jax.jit
    def outcome(inputs: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
        given = signals._replace(continues=inputs["continues"])

        def total(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            out = contribution(inputs["credit"], given, inputs["policy"], x)
            out = out[0] if isinstance(out, tuple) else out
            return jnp.sum(out), out

        slope, out = jax.grad(total, has_aux=True)(inputs["log_ratio"])
        return out, slope

    before = [np.asarray(x) for x in outcome(inputs)]
    for name, (t, n) in itertools.product(inputs, np.ndindex(STEPS, TRAJECTORIES)):
        after = [np.asarray(x) for x in outcome(inputs | {name: jax.tree.map(partial(_moved, t, n), inputs[name])})]
        for promise in declared:
            elsewhere = np.ones((STEPS, TRAJECTORIES), bool)
            if promise == PER_TRAJECTORY:
                elsewhere[:, n] = False
            elif name != "continues":  # `continues` must have no effect on a per-step function
                elsewhere[t, n] = False
            gap = max(_gap(a[elsewhere], b[elsewhere]) for a, b in zip(before, after, strict=True))
            what = f"moving {name} at one step changes {'it' if elsewhere.all() else 'others'} by {gap:.2g}"
            assert gap == 0, f"{name_of(contribution)} is declared {promise}, but {what}"


def _moved(t: int, n: int, x: jax.Array) -> np.ndarray:
    moved = np.array(x)
    moved[t, n] += 0.3 - moved[t, n] * 0.7
    return moved


def _gap(one: Any, other: Any) -> float:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max((float(np.max(np.abs(np.asarray(a) - np.asarray(b)), initial=0.0)) for a, b in pairs), default=0.0)
