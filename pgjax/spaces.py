"""Action spaces: discrete choices, boxes, and pytrees of these."""

import math
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path


class Discrete(NamedTuple):
    """`n` choices, numbered from 0."""

    n: int

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of choices, as a tuple of one."""
        return (self.n,)


class _MultiDiscrete(NamedTuple):
    nvec: Any  # integers, as nested tuples of the action's shape


class MultiDiscrete(_MultiDiscrete):
    """An array of independent choices, entry i from 0 to `nvec`[i] − 1.

    >>> MultiDiscrete((3, 4)).shape, MultiDiscrete(np.array([[2, 2, 2], [5, 5, 5]]))
    ((2,), MultiDiscrete(nvec=((2, 2, 2), (5, 5, 5))))
    """

    __slots__ = ()

    def __new__(cls, nvec: Any) -> Self:
        """Convert `nvec` to tuples, which can be compared and hashed."""
        return super().__new__(cls, _as_tuples(nvec))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an action."""
        return np.shape(self.nvec)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of choices of each entry, flat."""
        return tuple(int(n) for n in np.ravel(self.nvec))


class _MultiBinary(NamedTuple):
    shape: tuple[int, ...]


class MultiBinary(_MultiBinary):
    """An array of independent zeros and ones."""

    __slots__ = ()

    def __new__(cls, shape: Any) -> Self:
        """Accept a number as a shape of one axis."""
        return super().__new__(cls, _as_shape(shape))

    @property
    def counts(self) -> tuple[int, ...]:
        """Two choices for each entry, flat."""
        return (2,) * math.prod(self.shape)


class _Box(NamedTuple):
    low: tuple[float, ...]
    high: tuple[float, ...]
    shape: tuple[int, ...]


class Box(_Box):
    """Continuous actions between `low` and `high`, numbers or arrays; −inf or inf where there is no bound.

    >>> Box(0.0, np.array([1.0, np.inf]), 2)
    Box(low=(0.0, 0.0), high=(1.0, inf), shape=(2,))
    """

    __slots__ = ()

    def __new__(cls, low: Any, high: Any, shape: Any) -> Self:
        """Convert the bounds to flat tuples, which can be compared and hashed."""
        shape = _as_shape(shape)
        return super().__new__(cls, _as_bound(low, shape), _as_bound(high, shape), shape)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The bounds as float32 arrays of the space's shape."""
        return tuple(np.asarray(b, np.float32).reshape(self.shape) for b in (self.low, self.high))  # type: ignore


def _as_tuples(x: Any) -> Any:
    """Nested tuples of Python numbers; anything but an array is returned unchanged, and rejected where it is used."""
    try:
        return _nested(np.asarray(x).tolist())
    except (TypeError, ValueError):
        return x


def _nested(x: Any) -> Any:
    return tuple(map(_nested, x)) if isinstance(x, list) else x


def _as_shape(shape: Any) -> Any:
    return (int(shape),) if isinstance(shape, int | np.integer) else tuple(shape) if isinstance(shape, list) else shape


def _as_bound(bound: Any, shape: Any) -> Any:
    try:
        numbers = np.asarray(bound, np.float64)
        return tuple((np.full(shape, numbers) if numbers.ndim == 0 else numbers).ravel().tolist())
    except (TypeError, ValueError):
        return bound


Part = Discrete | MultiDiscrete | MultiBinary | Box
Space = Any
"""A part, or a pytree of parts."""


def is_part(space: Any) -> bool:
    """Whether a space is a single part and not a pytree of parts."""
    return isinstance(space, Part)


def parts(space: Space) -> tuple[list[Part], list[str], Any]:
    """Parts of a space in the order of pytree leaves, their paths such as "['tool'][0]", and the tree structure."""
    with_paths, structure = tree_flatten_with_path(space, is_leaf=is_part)
    return [part for _, part in with_paths], [keystr(path) for path, _ in with_paths], structure


def no_action(space: Space) -> Any:
    """An action of zeros, as an environment receives it."""

    def one(part: Part) -> jax.Array:
        return jnp.zeros(part.shape) if isinstance(part, Box) else jnp.zeros(getattr(part, "shape", ()), jnp.int32)

    return jax.tree.map(one, space, is_leaf=is_part)


def number(space: Space, action: Any) -> jax.Array:
    """Index of an action in `combinations(space)`, [...]; the action as policies record it."""
    spaces, _, structure = parts(space)
    result: Any = 0
    for part, x in zip(spaces, structure.flatten_up_to(action), strict=True):
        counts: tuple[int, ...] = part.counts  # type: ignore[union-attr]  (no Box)
        columns = [x] if isinstance(part, Discrete) else [x[..., i] for i in range(len(counts))]
        for column, n in zip(columns, counts, strict=True):
            result = result * n + column
    return result


def combinations(space: Space) -> Any:
    """Every action of a discrete space, as policies record it: a pytree of arrays [A] or [A, k].

    Raises ValueError for a space with a Box.
    """
    spaces, paths, structure = parts(space)
    boxes = [path for part, path in zip(spaces, paths, strict=True) if isinstance(part, Box)]
    if boxes:
        raise ValueError(f"the actions{boxes[0]} are continuous and cannot be listed")
    counts: list[tuple[int, ...]] = [part.counts for part in spaces]  # type: ignore[union-attr]  (no Box)
    each = np.indices([n for c in counts for n in c]).reshape(sum(map(len, counts)), -1).T.astype(np.int32)  # [A, all]
    columns = np.split(each, np.cumsum([len(c) for c in counts])[:-1], axis=1)
    flat = [x[:, 0] if isinstance(part, Discrete) else x for part, x in zip(spaces, columns, strict=True)]
    return jax.tree.unflatten(structure, flat)
