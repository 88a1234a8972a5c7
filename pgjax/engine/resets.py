"""Resets within a stream: the plain version and two faster ones.

Under `vmap` a reset within the loop is computed at every step of every environment and mostly discarded, which is far
too slow if a reset generates a world.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

MAX_PRECOMPUTED = 1 << 12
"""Largest steps × environments for which all resets are computed before the loop, which is faster while they fit in
cache."""

EXPENSIVE = 1 << 12
"""A reset that computes at least this many numbers runs only where an episode ended. CartPole has 53, MinAtar's
Breakout 2.8k, its Freeway 15k, Craftax 8M. Below this, the search for ended episodes costs more than it saves."""

Choose = Callable[[Any, Array, Any], Any]
"""(this step's input for a reset, whether the episode ended, the current place) -> the place to continue from."""


def in_the_loop(reset: Callable[[Any], Any], keys: Any, columns: int) -> tuple[Any, Choose]:
    """Inputs of the loop for resets, [T, ...], and the function that applies them: plain counterpart of `by_cost`.

    `reset` is key -> a fresh place; `keys` is a pytree of [T, ...], one per step; `columns` the number of environments.
    """

    def choose(key: Any, ended: Array, place: Any) -> Any:
        return where(ended, reset(key), place)

    return keys, choose


def by_cost(reset: Callable[[Any], Any], keys: Any, columns: int) -> tuple[Any, Choose]:
    """Choose by cost: expensive resets where an episode ended, cheap ones in the loop or, in small batches, before."""
    traced, shapes = jax.make_jaxpr(reset, return_shape=True)(jax.tree.map(lambda x: x[0], keys))
    if numbers_computed(traced.jaxpr) >= EXPENSIVE:
        return keys, only_where_ended(traced, jax.tree.structure(shapes))
    if jax.tree.leaves(keys)[0].shape[0] * columns > MAX_PRECOMPUTED:
        return in_the_loop(reset, keys, columns)
    return jax.vmap(reset)(keys), lambda fresh, ended, place: where(ended, fresh, place)


def numbers_computed(jaxpr: Any) -> int:
    """Number of outputs of all operations of a program; those of a scan count once per iteration."""
    total = 0
    for equation in jaxpr.eqns:
        inner = [
            numbers_computed(getattr(x, "jaxpr", x))
            for x in jax.tree.leaves(equation.params, is_leaf=_is_program)
            if _is_program(x)
        ]
        own = sum(inner) or sum(int(getattr(out.aval, "size", 1)) for out in equation.outvars)
        total += own * equation.params.get("length", 1) if equation.primitive.name == "scan" else own
    return total


def _is_program(x: Any) -> bool:
    return hasattr(getattr(x, "jaxpr", x), "eqns")


def only_where_ended(traced: ClosedJaxpr, structure: Any) -> Choose:
    """Reset only the environments whose episodes ended, one after the other, under any `vmap`.

    `traced` is key -> a fresh place, from `jax.make_jaxpr`, whose constants may be traced values; `structure` is a
    place's tree structure.
    """

    def fresh(constants: list, key: Any) -> Any:
        return jax.tree.unflatten(structure, jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, constants))(*jax.tree.leaves(key)))

    @jax.custom_batching.custom_vmap
    def among(constants: list, keys: Any, ended: Array, places: Any) -> Any:
        """Under vmap over runs, a run is a group of M environments, [G, M, ...], with its own constants, [G, ...]."""
        columns = ended.shape[1]

        def reset_one(left: tuple[Array, Any]) -> tuple[Array, Any]:
            waiting, places = left
            i = jnp.argmax(waiting)
            of_group = [x[i // columns] for x in constants]
            new = fresh(of_group, jax.tree.map(lambda x: x[i], flat_keys))
            put = jax.tree.map(lambda x, y: x.at[i].set(y), places, _as(places, new))
            return waiting.at[i].set(False), put

        flat_keys, flat_places = _merged((keys, places))
        _, changed = jax.lax.while_loop(lambda left: jnp.any(left[0]), reset_one, (ended.reshape(-1), flat_places))
        return jax.tree.map(lambda x, like: x.reshape(like.shape), changed, places)

    @among.def_vmap
    def _(size: int, mapped: list, constants: list, keys: Any, ended: Array, places: Any) -> tuple[Any, Any]:
        whole = _mapped(size, mapped, (constants, keys, ended, places))
        changed = jax.tree.map(lambda x, like: x.reshape(like.shape), among(*_merged(whole)), whole[-1])
        return changed, jax.tree.map(lambda _: True, changed)

    @jax.custom_batching.custom_vmap
    def one(constants: list, key: Any, ended: Array, place: Any) -> Any:
        return jax.lax.cond(ended, lambda: _as(place, fresh(constants, key)), lambda: place)

    @one.def_vmap
    def _(size: int, mapped: list, constants: list, key: Any, ended: Array, place: Any) -> tuple[Any, Any]:
        keys, endeds, places = _mapped(size, mapped[1:], (key, ended, place))
        if any(jax.tree.leaves(mapped[0])):  # constants differ, so each environment is its own group
            groups = _mapped(size, mapped[:1], (constants,))[0], *_with_axis(1, (keys, endeds, places))
            changed = jax.tree.map(lambda x: x[:, 0], among(*groups))
        else:
            groups = _with_axis(0, (constants, keys, endeds, places))
            changed = jax.tree.map(lambda x: x[0], among(*groups))
        return changed, jax.tree.map(lambda _: True, changed)

    return lambda key, ended, place: one(traced.consts, key, ended, place)


def _mapped(size: int, mapped: Any, trees: tuple) -> tuple:
    """Broadcast all trees along the mapped axis."""
    return jax.tree.map(
        lambda is_mapped, x: x if is_mapped else jnp.broadcast_to(x, (size, *jnp.shape(x))), tuple(mapped), trees
    )


def _with_axis(axis: int, trees: tuple) -> tuple:
    return jax.tree.map(lambda x: jnp.expand_dims(x, axis), trees)


def _merged(tree: Any) -> Any:
    """Merge the two leading axes."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), tree)


def _as(like: Any, tree: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.asarray(y).astype(x.dtype), like, tree)


def where(condition: Array, yes: Any, no: Any) -> Any:
    """jnp.where on every leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
