"""Convert spaces of gymnax, gymnasium and the like, known by their attributes `n`, `nvec`, `spaces`, `low`, `high`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from pgjax.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from pgjax.types import SettingError


class Actions(NamedTuple):
    """An action space of pgjax, and the conversion of its actions to the environment's."""

    space: Space  # choices are numbered from 0
    convert: Callable[[Any], Any]  # action -> the environment's action, with its numbering and dtypes


def actions(space: Any, name: str) -> Actions:
    """Convert an action space: Discrete, MultiDiscrete, MultiBinary, Box, or nested Dict and Tuple.

    Each number of an integer Box, which must have bounds, becomes a discrete choice. `name` is that of the environment,
    for errors.
    """
    inner = getattr(space, "spaces", None)
    if inner is not None and type(space).__name__ != "OneOf":  # OneOf selects one of its parts
        ordered = dict(inner) if hasattr(inner, "items") else tuple(inner)
        found = jax.tree.map(lambda one: actions(one, name), ordered, is_leaf=lambda x: x is not ordered)
        is_one = lambda x: isinstance(x, Actions)  # noqa: E731

        def convert(action: Any) -> Any:
            return jax.tree.map(lambda one, a: one.convert(a), found, action, is_leaf=is_one)

        return Actions(jax.tree.map(lambda one: one.space, found, is_leaf=is_one), convert)
    return _one(space, lambda reason: SettingError("environment", name, reason))


def action_space(space: Any, name: str) -> Space:
    """`actions(space, name).space`, for environments that number choices from 0."""
    return actions(space, name).space


def _one(space: Any, refuse: Callable[[str], SettingError]) -> Actions:
    kind, dtype = type(space).__name__, getattr(space, "dtype", None)
    if hasattr(space, "nvec"):
        counts = np.asarray(space.nvec)
        start = np.broadcast_to(np.asarray(getattr(space, "start", 0)), counts.shape)
        return _choices(counts, start, dtype)
    if hasattr(space, "n"):
        shape = tuple(getattr(space, "shape", None) or ())
        if shape:  # MultiBinary
            return Actions(MultiBinary(tuple(map(int, shape))), _as_type(dtype or jnp.int8))
        if isinstance(getattr(space, "start", 0), int | np.integer) and int(getattr(space, "start", 0)) == 0:
            return Actions(Discrete(int(space.n)), lambda action: action)
        start = int(space.start)
        return Actions(Discrete(int(space.n)), lambda action: action + start)
    if not (hasattr(space, "low") and hasattr(space, "high") and hasattr(space, "shape")):
        raise refuse(f"has an action space {space!r}; needs a Discrete, MultiDiscrete, MultiBinary, Box, Dict or Tuple")
    shape = (int(space.shape),) if np.ndim(space.shape) == 0 else tuple(space.shape)
    try:
        low, high = (np.broadcast_to(np.asarray(b), shape) for b in (space.low, space.high))
    except ValueError:
        bounds = f"{np.shape(space.low)} and {np.shape(space.high)}"
        raise refuse(f"has a Box of shape {shape} with bounds of shapes {bounds}") from None
    if not jnp.issubdtype(np.dtype(dtype or np.float32), jnp.floating):
        counts = high.astype(np.float64) - low.astype(np.float64) + 1
        if not (counts <= MOST_CHOICES).all():
            reason = f"has a {kind} of {np.dtype(dtype)} actions from {low.min()} to {high.max()}"
            raise refuse(f"{reason}, {counts.max():.3g} discrete choices; at most {MOST_CHOICES} are supported")
        return _choices(counts.astype(int), low.astype(np.int64), dtype)
    low, high = (b.astype(np.float32) for b in (low, high))
    return Actions(Box(tuple(low.ravel().tolist()), tuple(high.ravel().tolist()), shape), lambda action: action)


MOST_CHOICES = 4096
"""Largest number of discrete choices for one integer of a Box."""


def _choices(counts: np.ndarray, start: np.ndarray, dtype: Any) -> Actions:
    """Whole numbers from `start` on, `counts` of each."""
    space = MultiDiscrete(_nested(counts.tolist()))
    dtype = jnp.dtype(dtype or jnp.int32)
    narrow = jax.dtypes.canonicalize_dtype(dtype)  # 64 bits if enabled in jax
    return Actions(space, lambda action: (action + jnp.asarray(start, action.dtype)).astype(narrow))


def _as_type(dtype: Any) -> Callable[[Any], Any]:
    return lambda action: action.astype(jax.dtypes.canonicalize_dtype(jnp.dtype(dtype)))


def _nested(numbers: Any) -> Any:
    return tuple(map(_nested, numbers)) if isinstance(numbers, list) else int(numbers)


def categories(space: Any, observation: Any, name: str) -> Any:
    """`Environment.num_categories` of an observation space: the number of values of each Discrete part, None elsewhere.

    `observation` gives the shapes and dtypes that the environment returns; `name` is for errors.
    """

    def refuse(reason: str) -> SettingError:
        return SettingError("environment", name, reason)

    def one(path: Any, leaf: Any) -> int | None:
        here = _at(space, path)
        if here is None:
            if _has_categories(space):
                raise refuse(f"gives observation{keystr(path)}, but its observation_space {space} has no such part")
            return None
        if hasattr(here, "nvec"):
            shape, count = np.shape(here.nvec), int(np.max(here.nvec))
        elif hasattr(here, "n") and not tuple(getattr(here, "shape", None) or ()):
            shape, count = (), int(here.n)
        else:
            return None
        if int(np.max(getattr(here, "start", 0))):
            raise refuse(f"has an observation_space {here}; needs categories numbered from 0")
        if tuple(leaf.shape) != shape:
            reason = f"gives observation{keystr(path)} of shape {leaf.shape}, but its observation_space is {here}"
            raise refuse(f"{reason}; declare the space of its observations")
        return count

    leaves, structure = tree_flatten_with_path(observation)
    counts = [one(path, leaf) for path, leaf in leaves]
    return None if all(n is None for n in counts) else jax.tree.unflatten(structure, counts)


def _at(space: Any, path: Any) -> Any:
    """The part of a space at a path of the observation; None if there is none."""
    for key in path:
        name = next(getattr(key, field) for field in ("key", "name", "idx") if hasattr(key, field))
        try:
            space = space.spaces[name]
        except (AttributeError, KeyError, IndexError, TypeError):
            return None
    return None if hasattr(space, "spaces") else space


def _has_categories(space: Any) -> bool:
    if hasattr(space, "spaces"):
        children = space.spaces.values() if hasattr(space.spaces, "values") else space.spaces
        return any(_has_categories(child) for child in children)
    return hasattr(space, "n") or hasattr(space, "nvec")
