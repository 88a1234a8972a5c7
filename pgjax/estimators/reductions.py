"""Statistics of a batch: the one place where trajectories meet, on one device or on several.

A batch's environments may be shared by devices: inside a program mapped over a mesh with the axis ENV_AXIS
(`pgjax.sweeps` maps it) every device holds its share of the environments, in order. Reductions here are over the whole
batch all the same. Everywhere else there is one device.

Floats are not exact: numbers that ought to be equal differ by rounding, and a quotient of two roundings is of size 1.
`Spread` holds a spread that is rounding for 0, and `difference` a difference: at most ROUNDING machine epsilons of the
largest number that went in.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jax.typing import ArrayLike

BATCH_AXIS = 1
ENV_AXIS = "env"

ROUNDING = 4
"""How many machine epsilons of the largest magnitude count as rounding: 5e-7 of it in float32, 9e-16 in float64."""


def sharers() -> int:
    """How many devices share a batch: 1 unless the axis is mapped. Known while tracing."""
    try:
        return jax.lax.axis_size(ENV_AXIS)
    except NameError:  # jax's way of saying that nobody maps an axis of that name
        return 1


def total(tree: Any) -> Any:
    """Sum over the devices that share a batch.

    >>> total(3.0)
    3.0
    """
    return jax.lax.psum(tree, ENV_AXIS) if sharers() > 1 else tree


def highest(x: Array) -> Array:
    """Maximum over the devices that share a batch."""
    return jax.lax.pmax(x, ENV_AXIS) if sharers() > 1 else x


def own_share(x: Array) -> Array:
    """This device's part of what was drawn for a whole batch, along axis 0.

    So what is drawn does not depend on how many devices there are.
    """
    if sharers() == 1:
        return x
    size = x.shape[0] // sharers()
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(ENV_AXIS) * size, size)


def batch_sum(x: Array) -> Array:
    """Sum over the batch, [T, N, ...] -> [T, 1, ...]."""
    return total(jnp.sum(x, axis=BATCH_AXIS, keepdims=True))


def batch_max(x: Array) -> Array:
    """Maximum over the batch, [T, N, ...] -> [T, 1, ...]."""
    return highest(jnp.max(x, axis=BATCH_AXIS, keepdims=True))


def whole_batch(x: Array) -> Array:
    """What all devices that share the batch hold, in order, [T, N, ...], on each of them.

    >>> whole_batch(jnp.ones((1, 2))).shape
    (1, 2)
    """
    return jax.lax.all_gather(x, ENV_AXIS, axis=BATCH_AXIS, tiled=True) if sharers() > 1 else x


def require_batch(x: Array, needed_by: str, at_least: int) -> None:
    """Say who needs more trajectories where x [T, N, ...] holds too few."""
    if x.ndim <= BATCH_AXIS or x.shape[BATCH_AXIS] * sharers() < at_least:
        raise ValueError(f"{needed_by} needs [T, N, ...] with N >= {at_least} trajectories, got {x.shape}")


class BatchSize(NamedTuple):
    """What a batch is divided by: its trajectories N, or its executed steps."""

    trajectories: Array
    steps: Array

    def mean(self, x: Array, over: str) -> Array:
        """Σ x divided by the number of trajectories (exact) or of steps (a ratio estimator).

        Where devices share the batch, each one's part of it; they add up.
        """
        return jnp.sum(x) / getattr(self, over)


def size_of(mask: Array) -> BatchSize:
    """Count a batch from its mask, [T, N]; a trajectory counts if its first step does.

    >>> size = size_of(jnp.array([[1.0, 1.0], [1.0, 0.0]]))
    >>> float(size.mean(jnp.ones((2, 2)), "trajectories")), float(size.mean(jnp.ones(3), "steps"))
    (2.0, 1.0)
    """
    trajectories, steps = total((jnp.sum(mask[0]), jnp.sum(mask)))
    return BatchSize(jnp.maximum(trajectories, 1.0), jnp.maximum(steps, 1.0))


def rounding(size: ArrayLike, dtype: Any = None) -> Array:
    """What counts as rounding among numbers of this magnitude."""
    size = as_float(size)
    return ROUNDING * float(jnp.finfo(dtype or size.dtype).eps) * size


def difference(a: ArrayLike, b: ArrayLike, size: ArrayLike = 0.0) -> Array:
    """a − b, and exactly 0 where they are equal up to rounding: of a, of b, or of numbers of magnitude `size`.

    >>> difference(jnp.array([0.3, 0.5]) + 1e-7, jnp.array([0.3, 0.25])).round(2).tolist()
    [0.0, 0.25]
    """
    a, b = as_float(a), as_float(b)
    found = a - b
    limit = rounding(jnp.maximum(jnp.maximum(jnp.abs(a), jnp.abs(b)), size))
    return jnp.where(jnp.abs(found) < limit, 0.0, found)  # < : of infinities the difference stays


def quotient(a: ArrayLike, b: ArrayLike) -> Array:
    """a / b, and 0 where b is 0; differentiable there too.

    >>> quotient(jnp.array([6.0, 6.0]), jnp.array([2.0, 0.0])).tolist()
    [3.0, 0.0]
    """
    a, b = as_float(a), as_float(b)
    return jnp.where(b == 0, 0.0, a / jnp.where(b == 0, 1.0, b))


class Spread(NamedTuple):
    """Where numbers lie and how far apart they are; as many of each as there are means.

    The mean is `reference` + `shift`. The reference is one of the numbers, the largest: numbers that are all equal have
    shift 0 and deviations 0, exactly, and a small spread far from 0 is not lost.

    >>> far = spread(jnp.array([1e6, 1e6, 1e6 + 1]))
    >>> [round(x, 4) for x in far.deviation(jnp.array([1e6, 1e6 + 1])).tolist()]
    [-0.3333, 0.6667]
    >>> spread(jnp.full(7, 123.4)).std().tolist()
    [0.0]
    """

    count: Array
    reference: Array
    shift: Array
    squares: Array  # Σ (x − mean)²

    @property
    def mean(self) -> Array:
        """The mean; 0 of nothing."""
        return self.reference + self.shift

    def deviation(self, x: Array) -> Array:
        """x − mean."""
        return (x - self.reference) - self.shift

    def variance(self, ddof: int = 0) -> Array:
        """Σ (x − mean)² / (count − ddof): exactly 0 where it is rounding.

        Of nothing it is 0; with a `ddof` it is not a number where count ≤ ddof.
        """
        freedom = self.count - ddof
        found = self.squares / jnp.where(freedom > 0, freedom, 1.0)
        if ddof:
            found = jnp.where(freedom > 0, found, jnp.nan)
        # Numbers that are equal up to rounding all have the reference's magnitude.
        return jnp.where(found <= rounding(jnp.abs(self.reference)) ** 2, 0.0, found)  # <= : NaN stays

    def std(self, ddof: int = 0) -> Array:
        """The root of `variance`; its derivative is 0 where it is 0."""
        variance = self.variance(ddof)
        return jnp.where(variance == 0, 0.0, jnp.sqrt(jnp.where(variance == 0, 1.0, variance)))

    def standardised(self, x: Array, floor: ArrayLike = 0.0) -> Array:
        """(x − mean) / (std + floor), and 0 where the numbers are equal up to rounding.

        >>> spread(jnp.array([1.0, 3.0])).standardised(jnp.array([1.0, 3.0])).tolist()
        [-1.0, 1.0]
        """
        std = self.std()
        return jnp.where(std == 0, 0.0, self.deviation(x) / jnp.where(std == 0, 1.0, std + floor))


def spread(x: ArrayLike, axis: int | tuple[int, ...] = 0) -> Spread:
    """The spread of x over an axis that no devices share, which is kept with length 1."""
    x = as_float(x)
    return _spread(x, jnp.ones_like(x), *_over(axis))


def batch_spread(x: Array, there: Array) -> Spread:
    """The spread over the batch at every step, [T, N, ...] -> [T, 1, ...]; only of what is `there` (1, else 0)."""
    return _of_all_devices(_spread(x, there, *_over(BATCH_AXIS)))


def step_spread(x: Array, mask: Array) -> Spread:
    """The spread over all executed steps of the batch, [T, N, ...] -> [1, 1, ...].

    >>> step_spread(jnp.array([[1.0, 3.0], [9.0, 5.0]]), jnp.array([[1.0, 1.0], [0.0, 1.0]])).mean.tolist()
    [[3.0]]
    """
    mask = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
    return _of_all_devices(_spread(x, mask, *_over(tuple(range(min(x.ndim, BATCH_AXIS + 1))))))


def group_spread(x: Array, there: Array, group: Array) -> Spread:
    """The spread over each trajectory's own group at every step, [T, N, ...]; a group lies on one device.

    Args:
      x: [T, N, ...].
      there: 1 where x counts, broadcastable to it.
      group: any number for each group, [N].

    >>> group_spread(jnp.array([[1.0, 3.0, 10.0]]), jnp.ones((1, 3)), jnp.array([7, 7, 2])).mean.tolist()
    [[2.0, 2.0, 10.0]]
    """
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


def _of_all_devices(own: Spread) -> Spread:
    """The spread of what all devices hold together, from each one's own. One exchange.

        n = Σ n_d,   m = Σ n_d m_d / n,   M = Σ M_d + n_d (m_d − m)²

    Chan, Golub & LeVeque 1983.
    """
    devices = sharers()
    if devices == 1:
        return own
    place = jax.lax.axis_index(ENV_AXIS)
    each = total(jax.tree.map(lambda x: jnp.zeros((devices, *x.shape), x.dtype).at[place].set(x), own))
    return merged(each)


def merged(each: Spread) -> Spread:
    """One spread out of several, stacked on axis 0.

    >>> parts = jax.tree.map(lambda *x: jnp.stack(x), spread(jnp.array([1.0, 2.0])), spread(jnp.array([6.0])))
    >>> merged(parts).mean.tolist(), round(merged(parts).std().item() ** 2, 4)
    ([3.0], 4.6667)
    """
    count = jnp.sum(each.count, axis=0)
    reference = jnp.max(jnp.where(each.count > 0, each.reference, -jnp.inf), axis=0)
    reference = jnp.where(count > 0, reference, 0.0)
    means = jnp.where(each.count > 0, (each.reference - reference) + each.shift, 0.0)
    shift = jnp.sum(each.count * means, axis=0) / jnp.maximum(count, 1.0)
    squares = jnp.sum(each.squares + each.count * (means - shift) ** 2, axis=0)
    return Spread(count, reference, shift, squares)


def others(x: Array) -> Array:
    """Σ_{k≠n} x_k over axis 0, for x ≥ 0 without the cancellation of Σ x − x_n: 0 only where all others are 0.

    >>> others(jnp.array([1e9, 1.0, 2.0])).tolist()
    [3.0, 1000000000.0, 1000000000.0]
    """
    zero = jnp.zeros_like(x[:1])
    before = jnp.concatenate([zero, jnp.cumsum(x, axis=0)[:-1]])
    after = jnp.concatenate([jnp.cumsum(x[::-1], axis=0)[::-1][1:], zero])
    return before + after


def as_float(x: ArrayLike) -> Array:
    """x as an array of floats: whole numbers and truth values become floats, floats keep their type."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)
