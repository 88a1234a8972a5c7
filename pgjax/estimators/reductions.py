"""Statistics over a whole batch, on one device or on several (mapped over a mesh axis ENV_AXIS, see `pgjax.sweeps`).

Numbers that are equal in exact arithmetic may differ by rounding, and a ratio of two rounding errors is of order 1.
`Spread` and `difference` therefore return 0 for values below ROUNDING machine epsilons of the largest input.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.lax import stop_gradient
from jax.typing import ArrayLike

BATCH_AXIS = 1
ENV_AXIS = "env"

ROUNDING = 4
"""Rounding threshold in machine epsilons of the largest magnitude: relative 5e-7 in float32, 9e-16 in float64."""


def sharers() -> int:
    """Number of devices that share a batch; 1 unless ENV_AXIS is mapped. Known while tracing."""
    try:
        return jax.lax.axis_size(ENV_AXIS)
    except NameError:  # raised where no axis of that name is mapped
        return 1


def sum_over_devices(tree: Any) -> Any:
    """Sum over the devices that share a batch."""
    if sharers() == 1:
        return tree
    # A CPU's devices wait for each other once per array, so the arrays are summed as one vector per dtype.
    leaves, structure = jax.tree.flatten(tree)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):
        own = [i for i, leaf in enumerate(leaves) if leaf.dtype == dtype]
        vector, restored = ravel_pytree([leaves[i] for i in own])
        for i, total in zip(own, restored(jax.lax.psum(vector, ENV_AXIS)), strict=True):
            leaves[i] = total
    return jax.tree.unflatten(structure, leaves)


def max_over_devices(x: Array) -> Array:
    """Maximum over the devices that share a batch."""
    return jax.lax.pmax(x, ENV_AXIS) if sharers() > 1 else x


def own_share(x: Array) -> Array:
    """This device's part of an array drawn for the whole batch, along axis 0; keeps draws independent of sharding."""
    if sharers() == 1:
        return x
    size = x.shape[0] // sharers()
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(ENV_AXIS) * size, size)


def batch_sum(x: Array) -> Array:
    """Sum over the batch, [T, N, ...] -> [T, 1, ...]."""
    return sum_over_devices(jnp.sum(x, axis=BATCH_AXIS, keepdims=True))


def batch_max(x: Array) -> Array:
    """Maximum over the batch, [T, N, ...] -> [T, 1, ...]."""
    return max_over_devices(jnp.max(x, axis=BATCH_AXIS, keepdims=True))


def whole_batch(x: Array) -> Array:
    """Gather a batch-sharded array [T, N, ...] from all devices, in order."""
    return jax.lax.all_gather(x, ENV_AXIS, axis=BATCH_AXIS, tiled=True) if sharers() > 1 else x


def require_batch(x: Array, needed_by: str, at_least: int) -> None:
    """Raise ValueError where x [T, N, ...] has fewer than `at_least` trajectories."""
    if x.ndim <= BATCH_AXIS or x.shape[BATCH_AXIS] * sharers() < at_least:
        raise ValueError(f"{needed_by} needs [T, N, ...] with N >= {at_least} trajectories, got {x.shape}")


class BatchSize(NamedTuple):
    """Number of trajectories N and of executed steps in a batch."""

    trajectories: Array
    steps: Array

    def mean(self, x: Array, over: str) -> Array:
        """Σ x per trajectory (exact) or per step (a ratio estimator); on several devices, this device's term of it."""
        return jnp.sum(x) / getattr(self, over)


def size_of(mask: Array) -> BatchSize:
    """Size of a batch from its mask, [T, N]; trajectories whose first step is masked do not count."""
    trajectories, steps = sum_over_devices((jnp.sum(mask[0]), jnp.sum(mask)))
    return BatchSize(jnp.maximum(trajectories, 1.0), jnp.maximum(steps, 1.0))


def rounding(size: ArrayLike, dtype: Any = None) -> Array:
    """Threshold below which a difference between numbers of this magnitude counts as rounding."""
    size = as_float(size)
    return ROUNDING * float(jnp.finfo(dtype or size.dtype).eps) * size


def difference(a: ArrayLike, b: ArrayLike, size: ArrayLike = 0.0) -> Array:
    """a − b, and exactly 0 where they are equal up to rounding of a, b or numbers of magnitude `size`."""
    a, b = as_float(a), as_float(b)
    result = a - b
    limit = rounding(jnp.maximum(jnp.maximum(jnp.abs(a), jnp.abs(b)), size))
    return jnp.where(jnp.abs(result) < limit, 0.0, result)  # < and not <=, which would turn ±inf into 0


def quotient(a: ArrayLike, b: ArrayLike) -> Array:
    """a / b, and 0 where b is 0; also differentiable there."""
    a, b = as_float(a), as_float(b)
    return jnp.where(b == 0, 0.0, a / jnp.where(b == 0, 1.0, b))


class Spread(NamedTuple):
    """Mean and sum of squared deviations of a set of numbers, without cancellation; the mean is `reference` + `shift`.

    The reference is the largest number. Equal numbers deviate from it by exactly 0, and small deviations stay precise.
    """

    count: Array
    reference: Array
    shift: Array
    squares: Array  # Σ (x − mean)²

    @property
    def mean(self) -> Array:
        """The mean; 0 if there are no numbers."""
        return self.reference + self.shift

    def deviation(self, x: Array) -> Array:
        """x − mean."""
        return (x - self.reference) - self.shift

    def variance(self, ddof: int = 0) -> Array:
        """Σ (x − mean)²/(count − ddof), 0 within rounding; where count ≤ ddof, 0 for ddof 0 and NaN otherwise."""
        freedom = self.count - ddof
        variance = self.squares / jnp.where(freedom > 0, freedom, 1.0)
        if ddof:
            variance = jnp.where(freedom > 0, variance, jnp.nan)
        # Numbers that are equal up to rounding all have the reference's magnitude.
        return jnp.where(variance <= rounding(jnp.abs(self.reference)) ** 2, 0.0, variance)  # NaN is kept

    def std(self, ddof: int = 0) -> Array:
        """Square root of `variance`; its derivative is 0 where it is 0."""
        variance = self.variance(ddof)
        return jnp.where(variance == 0, 0.0, jnp.sqrt(jnp.where(variance == 0, 1.0, variance)))

    def standardised(self, x: Array, floor: ArrayLike = 0.0) -> Array:
        """(x − mean) / (std + floor), and 0 where the numbers are equal up to rounding."""
        std = self.std()
        return jnp.where(std == 0, 0.0, self.deviation(x) / jnp.where(std == 0, 1.0, std + floor))


def spread(x: ArrayLike, axis: int | tuple[int, ...] = 0) -> Spread:
    """Spread of x over axes that devices do not share; the axes are kept with length 1."""
    x = as_float(x)
    return _spread(x, jnp.ones_like(x), *_over(axis))


def batch_spread(x: Array, there: Array) -> Spread:
    """Spread over the batch at every step, [T, N, ...] -> [T, 1, ...], of entries where `there` is 1."""
    return _over_all_devices(_spread(x, there, *_over(BATCH_AXIS)))


def step_spread(x: Array, mask: Array) -> Spread:
    """Spread over all executed steps of the batch, [T, N, ...] -> [1, 1, ...]."""
    mask = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
    return _over_all_devices(_spread(x, mask, *_over(tuple(range(min(x.ndim, BATCH_AXIS + 1))))))


def group_spread(x: Array, there: Array, group: Array) -> Spread:
    """Spread over each trajectory's own group at every step, [T, N, ...]; a group must lie on one device."""
    number = jnp.unique(group, return_inverse=True, size=group.shape[0])[1].reshape(-1)

    def reduced(segments: Callable, x: Array) -> Array:
        each = segments(jnp.moveaxis(x, BATCH_AXIS, 0), number, num_segments=group.shape[0])
        return jnp.moveaxis(each[number], 0, BATCH_AXIS)

    return _spread(x, there, lambda x: reduced(jax.ops.segment_sum, x), lambda x: reduced(jax.ops.segment_max, x))


Reduction = Callable[[Array], Array]


def _over(axis: int | tuple[int, ...]) -> tuple[Reduction, Reduction]:
    return lambda x: jnp.sum(x, axis, keepdims=True), lambda x: jnp.max(x, axis, keepdims=True)


def _spread(x: Array, there: Array, add: Reduction, top: Reduction) -> Spread:
    # The mean does not depend on the reference, so no gradient passes through it.
    reference = top(jnp.where(there > 0, stop_gradient(x), -jnp.inf))
    count = jnp.broadcast_to(add((there > 0).astype(x.dtype)), reference.shape)
    reference = jnp.where(count > 0, reference, 0.0)
    shifted = jnp.where(there > 0, x - reference, 0.0)
    shift = add(shifted) / jnp.maximum(count, 1.0)
    squares = add(jnp.where(there > 0, shifted - shift, 0.0) ** 2)
    return Spread(count, reference, shift, squares)


def _over_all_devices(own: Spread) -> Spread:
    """Spread over all devices: m = Σ n_d m_d/n, M = Σ M_d + n_d (m_d − m)². Chan, Golub & LeVeque 1983."""
    devices = sharers()
    if devices == 1:
        return own
    index = jax.lax.axis_index(ENV_AXIS)
    each = sum_over_devices(jax.tree.map(lambda x: jnp.zeros((devices, *x.shape), x.dtype).at[index].set(x), own))
    return merged(each)


def merged(each: Spread) -> Spread:
    """Combine several spreads, stacked on axis 0, into one."""
    count = jnp.sum(each.count, axis=0)
    reference = jnp.max(jnp.where(each.count > 0, each.reference, -jnp.inf), axis=0)
    reference = jnp.where(count > 0, reference, 0.0)
    means = jnp.where(each.count > 0, (each.reference - reference) + each.shift, 0.0)
    shift = jnp.sum(each.count * means, axis=0) / jnp.maximum(count, 1.0)
    squares = jnp.sum(each.squares + each.count * (means - shift) ** 2, axis=0)
    return Spread(count, reference, shift, squares)


def others(x: Array) -> Array:
    """Σ_{k≠n} x_k over axis 0, for x ≥ 0, without the cancellation of Σ x − x_n."""
    zero = jnp.zeros_like(x[:1])
    before = jnp.concatenate([zero, jnp.cumsum(x, axis=0)[:-1]])
    after = jnp.concatenate([jnp.cumsum(x[::-1], axis=0)[::-1][1:], zero])
    return before + after


def as_float(x: ArrayLike) -> Array:
    """x as a floating-point array; floats keep their dtype."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)
