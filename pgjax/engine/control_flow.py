"""Faster control flow: sequential calls under vmap, loops that stop early, a critic along the rows."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

LOOK_EVERY = 32
"""A rollout of whole episodes checks every so many steps whether any episode still runs, or somewhat more often."""


def side_by_side(function: Callable, *args: Any) -> Any:
    """function(*args): the plain counterpart of `in_turn`."""
    return function(*args)


def in_turn(function: Callable, *args: Any) -> Any:
    """`function(*args)`; under `vmap`, one call after the other instead of all in parallel.

    In long computations on small matrices, the parameters and activations of one network then stay in a core's cache.
    `function` may close over traced values.
    """
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(*args)

    @jax.custom_batching.sequential_vmap
    def call(closed_over: list, flat: list) -> list:
        return jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, closed_over))(*flat)

    return jax.tree.unflatten(jax.tree.structure(shapes), call(traced.consts, jax.tree.leaves(args)))


@jax.custom_batching.custom_vmap
def anywhere(x: Array) -> Array:
    """Whether x is true in any of the calls that `vmap` runs together: one unbatched answer.

    A `jax.lax.cond` on it stays a branch under `vmap`; with a batched condition both branches are computed.
    """
    return jnp.any(x)


@anywhere.def_vmap
def _anywhere_in_all(axis_size: int, in_batched: list[bool], x: Array) -> tuple[Array, bool]:
    return anywhere(x), False


def scan(step: Callable, carry: Any, xs: Any, running: Callable, idle: Callable) -> tuple[Any, Any]:
    """jax.lax.scan(step, carry, xs): the plain counterpart of `scan_while_running`."""
    return jax.lax.scan(step, carry, xs)


def scan_while_running(step: Callable, carry: Any, xs: Any, running: Callable, idle: Callable) -> tuple[Any, Any]:
    """jax.lax.scan(step, carry, xs), without the steps after nothing is running any more. All steps run if there are
    at most `LOOK_EVERY`, or if their number has no divisor close to it.

    `running` is carry -> whether further steps change anything, a scalar. `idle` is (carry, zeros of the rows' shapes)
    -> the rows of idle steps.
    """
    steps = jax.tree.leaves(xs)[0].shape[0]
    length = max(n for n in range(1, LOOK_EVERY + 1) if steps % n == 0)
    if length == steps or 2 * length <= LOOK_EVERY:  # one block, or no divisor close enough
        return jax.lax.scan(step, carry, xs)

    def go_on(carry: Any, xs: Any) -> tuple[Any, Any]:
        return jax.lax.scan(step, carry, xs)

    def rest(carry: Any, xs: Any) -> tuple[Any, Any]:
        return carry, idle(
            carry, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(go_on, carry, xs)[1])
        )

    def block(carry: Any, xs: Any) -> tuple[Any, Any]:
        return jax.lax.cond(anywhere(running(carry)), go_on, rest, carry, xs)

    blocks = jax.tree.map(lambda x: x.reshape(-1, length, *x.shape[1:]), xs)
    carry, rows = jax.lax.scan(block, carry, blocks)
    return carry, jax.tree.map(lambda x: x.reshape(steps, *x.shape[2:]), rows)


def values_of_both(value: Callable, features: Any, following: Callable, cut: Array) -> tuple[Array, Array]:
    """V at each step and after it, [T, N] each: the plain counterpart of `values_along`."""
    return value(features), value(following(lambda x: x))


def values_along(value: Callable, features: Any, following: Callable, cut: Array) -> tuple[Array, Array]:
    """V at each step and after it, [T, N] each, with the critic `value` evaluated once along the rows. The value after
    a row is that of the next row, except at the end of an episode. Where an episode was truncated (`cut`, [T, N]), the
    critic is evaluated on the features after that step, before any reset. After a termination, where V is not used,
    the values differ from the plain counterpart's.

    `following` gives the features after chosen steps (`pgjax.training.signals.remembered`).
    """
    along = jnp.concatenate([value(features), value(following(lambda x: x[-1:]))])
    environments = jnp.arange(cut.shape[1])

    def unfinished(carry: tuple[Array, Array]) -> Array:
        return jnp.any(carry[0])

    def ask_again(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        left, values = carry
        first = jnp.argmax(left, axis=0), environments
        (final,) = value(following(lambda x: x[first][None]))
        return left.at[first].set(False), values.at[first].set(jnp.where(left[first], final, values[first]))

    cut = cut.at[-1].set(False)  # the last row is followed by its final observation already
    return along[:-1], jax.lax.while_loop(unfinished, ask_again, (cut, along[1:]))[1]
