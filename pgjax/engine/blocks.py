"""Sums over blocks of a batch, which fit a core's cache or the memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

CACHED_STEPS = 256
"""Number of steps whose activations fit in a CPU core's cache, measured with two networks of 64×64: the block size for
gradients of larger batches."""


def at_once(of: Callable[[Any], Any], batch: Any, mask: Array, *, per_step: bool, per_trajectory: bool) -> Any:
    """of(batch): the plain counterpart of `in_blocks`."""
    return of(batch)


def in_blocks(of: Callable[[Any], Any], batch: Any, mask: Array, *, per_step: bool, per_trajectory: bool) -> Any:
    """Σ of(block) over blocks of a batch that fit a core's cache. Equals of(batch) if `of` is a sum over steps
    (`per_step`; padding is then left out) or trajectories (`per_trajectory`). Batch leaves are [T, N, ...], mask is
    [T, N]; `of` is batch -> a pytree of sums and reads from `batch.transition.mask` which steps count.
    """
    if per_step:
        return _over_executed_steps(of, batch, mask)
    steps, trajectories = mask.shape
    most = max(1, CACHED_STEPS // steps) if per_trajectory else trajectories
    # The smallest number of equal blocks with at most `most` trajectories each.
    blocks = next(b for b in range(1, trajectories + 1) if trajectories % b == 0 and trajectories // b <= most)
    if blocks == 1:
        return of(batch)
    if steps == 1:  # cut without the axis of length 1: with it, XLA copies the batch to change nothing but a layout
        flat = jax.tree.map(lambda x: x.reshape(blocks, -1, *x.shape[2:]), batch)
        return summed(lambda rows: of(jax.tree.map(lambda x: x[None], rows)), flat)
    return summed(of, jax.tree.map(lambda x: cut(blocks, x, 1), batch))


def rows_at_once(function: Callable[[Any], Any], x: Any) -> Any:
    """function(x): the plain counterpart of `rows_in_blocks`."""
    return function(x)


def rows_in_blocks(function: Callable[[Any], Any], x: Any) -> Any:
    """function(x), evaluated over blocks of steps that fit a core's cache, one after the other.

    `function` maps leaves [t, N, ...] to leaves [t, N, ...], each step independently; x has leaves [T, N, ...].
    """
    steps, width = jax.tree.leaves(x)[0].shape[:2]
    length = max(n for n in range(1, steps + 1) if steps % n == 0 and (n == 1 or n * width <= CACHED_STEPS))
    if length == steps or 4 * length * width < CACHED_STEPS:  # one block, or no divisor close enough
        return function(x)
    if length == 1:  # without an axis of length 1: with it, XLA copies the batch to change nothing but a layout
        return jax.lax.map(lambda row: _first(function(jax.tree.map(lambda x: x[None], row))), x)
    out = jax.lax.map(function, jax.tree.map(lambda x: x.reshape(-1, length, *x.shape[1:]), x))
    return jax.tree.map(lambda x: x.reshape(steps, *x.shape[2:]), out)


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[0], tree)


def _over_executed_steps(of: Callable[[Any], Any], batch: Any, mask: Array) -> Any:
    flat = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), batch)
    executed = mask.ravel()
    size = min(CACHED_STEPS, executed.shape[0])
    room = -executed.shape[0] % size  # pads the last block
    order = jnp.pad(jnp.nonzero(executed > 0, size=executed.shape[0], fill_value=0)[0], (0, room))
    count = jnp.sum(executed > 0, dtype=jnp.int32)

    def block(i: Array) -> Any:
        chosen = jax.lax.dynamic_slice_in_dim(order, i * size, size)
        part = jax.tree.map(lambda x: x[:, chosen], flat)
        there = (i * size + jnp.arange(size) < count).astype(mask.dtype)[None]
        return of(part._replace(transition=part.transition._replace(mask=there)))

    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(block, jnp.int32(0)))
    blocks = (count + size - 1) // size
    return jax.lax.fori_loop(0, blocks, lambda i, sums: jax.tree.map(jnp.add, sums, block(i)), zeros)


def cut(slices: int, x: Array, axis: int) -> Array:
    """[..., N, ...] -> [slices, ..., N/slices, ...]."""
    shape = (*x.shape[:axis], slices, x.shape[axis] // slices, *x.shape[axis + 1 :])
    return jnp.moveaxis(x.reshape(shape), axis, 0)


def join(x: Array, axis: int) -> Array:
    """Undo `cut`."""
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def summed(function: Callable[[Any], Any], slices: Any) -> Any:
    """Σ_i function(slice_i) over axis 0 of a pytree, one slice at a time, in the memory of one slice."""
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], slices))

    def add(sums: Any, one: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, function(one)), None

    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add, zeros, slices)[0]
