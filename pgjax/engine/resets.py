"""Resets within a stream: the plain program, and two that cost less.

Under `vmap` a reset in the loop is computed at every step of every environment, and nearly all are thrown away. That is
harmless where a reset costs as little as a step, and ruinous where it makes a world.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

MADE_AT_ONCE = 1 << 12
"""Up to so many steps per batch, every step's reset is made before the loop: faster while it all stays in cache."""

DEAR = 1 << 12
"""Numbers that a reset computes, from which on it is run only where an episode has ended. MinAtar's Breakout has 2.8k,
its Freeway 15k, CartPole 53, worlds of Craftax 8M; below, looking for ends costs more than it saves."""

Choose = Callable[[Any, Array, Any], Any]
"""(what the loop gives for this step's reset, whether the episode ended, where it stands) -> where it goes on."""


def in_the_loop(reset: Callable[[Any], Any], keys: Any, columns: int) -> tuple[Any, Choose]:
    """What a loop over steps is given for its resets, [T, ...], and how it goes on with them: the plain twin.

    Args:
      reset: key -> a fresh place.
      keys: one per step, a pytree of [T, ...].
      columns: how many environments run side by side.
    """

    def choose(key: Any, ended: Array, place: Any) -> Any:
        return where(ended, reset(key), place)

    return keys, choose


def as_it_pays(reset: Callable[[Any], Any], keys: Any, columns: int) -> tuple[Any, Choose]:
    """The same: a dear reset where an episode ended, a cheap one in the loop, or before it if batches are small."""
    traced, shapes = jax.make_jaxpr(reset, return_shape=True)(jax.tree.map(lambda x: x[0], keys))
    if numbers_computed(traced.jaxpr) >= DEAR:
        return keys, only_where_ended(traced, jax.tree.structure(shapes))
    if jax.tree.leaves(keys)[0].shape[0] * columns > MADE_AT_ONCE:
        return in_the_loop(reset, keys, columns)
    return jax.vmap(reset)(keys), lambda fresh, ended, place: where(ended, fresh, place)


def numbers_computed(jaxpr: Any) -> int:
    """How many numbers the operations of a program put out; those of a loop as often as it runs, at least once.

    >>> numbers_computed(jax.make_jaxpr(lambda x: jnp.sum(2 * x))(jnp.zeros(10)).jaxpr)
    11
    """
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
    """Resets of the environments whose episodes ended, one after the other, whatever they are mapped over.

    Args:
      traced: key -> a fresh place, by `jax.make_jaxpr`; its constants may be traced values.
      structure: of a place, as a pytree.

    >>> reset = jax.make_jaxpr(lambda key: 10 * key)(jnp.int32(0))
    >>> choose = only_where_ended(reset, jax.tree.structure(0))
    >>> jax.vmap(choose)(jnp.arange(3), jnp.array([True, False, True]), jnp.array([7, 8, 9])).tolist()
    [0, 8, 20]
    """

    def fresh(constants: list, key: Any) -> Any:
        return jax.tree.unflatten(structure, jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, constants))(*jax.tree.leaves(key)))

    @jax.custom_batching.custom_vmap
    def among(constants: list, keys: Any, ended: Array, places: Any) -> Any:
        """Groups [G, ...] of M environments [G, M, ...]; what the reset closes over is a group's."""
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
        if any(jax.tree.leaves(mapped[0])):  # then every environment is a group of its own
            groups = _mapped(size, mapped[:1], (constants,))[0], *_with_axis(1, (keys, endeds, places))
            changed = jax.tree.map(lambda x: x[:, 0], among(*groups))
        else:
            groups = _with_axis(0, (constants, keys, endeds, places))
            changed = jax.tree.map(lambda x: x[0], among(*groups))
        return changed, jax.tree.map(lambda _: True, changed)

    return lambda key, ended, place: one(traced.consts, key, ended, place)


def _mapped(size: int, mapped: Any, trees: tuple) -> tuple:
    """All along the mapped axis: what is the same for all is repeated."""
    return jax.tree.map(
        lambda is_mapped, x: x if is_mapped else jnp.broadcast_to(x, (size, *jnp.shape(x))), tuple(mapped), trees
    )


def _with_axis(axis: int, trees: tuple) -> tuple:
    return jax.tree.map(lambda x: jnp.expand_dims(x, axis), trees)


def _merged(tree: Any) -> Any:
    """The two leading axes as one."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), tree)


def _as(like: Any, tree: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.asarray(y).astype(x.dtype), like, tree)


def where(condition: Array, yes: Any, no: Any) -> Any:
    """jnp.where of every leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
