"""Networks initialised one after the other: batches of QR decompositions can hang jaxlib 0.10."""

from collections.abc import Callable

import jax
from jax import Array
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from pgjax.types import Params


def one_at_a_time(init: Callable[[Array], Params]) -> Callable[[Array], Params]:
    """`init`; on a CPU one call after the other under `vmap`. It may close over traced values.

    jaxlib 0.10 splits a batch of QR decompositions (orthogonal initialisation) into tasks for the same threads that
    wait for them. Several batches in parallel can occupy all threads: the program then hangs.
    """

    def initialised(key: Array) -> Params:
        if jax.default_backend() != "cpu":
            return init(key)
        traced, shapes = jax.make_jaxpr(init, return_shape=True)(key)

        @jax.custom_batching.sequential_vmap
        def call(closed_over: list, key: Array) -> list:
            return jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, closed_over))(key)

        return jax.tree.unflatten(jax.tree.structure(shapes), call(traced.consts, key))

    return initialised
