"""gymnax's spaces: which actions a policy can take here, and which numbers of an observation are categories.

Spaces are known by what they have (`n`, `nvec`, `spaces`, `low` and `high`), so those of gymnasium and of one's own
serve too.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from pgjax.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from pgjax.types import SettingError


class Actions(NamedTuple):
    """An action space as pgjax knows it, and how an action of it becomes one of the environment's.

    Attributes:
      space: choices are numbered from 0.
      convert: action -> what the environment takes; choices are numbered as it does, in its own types.
    """

    space: Space
    convert: Callable[[Any], Any]


def actions(space: Any, name: str) -> Actions:
    """An action space of gymnax, or of another library with the same names.

    A Discrete, MultiDiscrete, MultiBinary or Box; Dict and Tuple at any depth. The whole numbers of a Box of integers
    are choices.

    Args:
      space: of the library.
      name: of the environment, for errors.

    Raises:
      SettingError: for another space, and for whole numbers without bounds.

    >>> from gymnax.environments import spaces
    >>> actions(spaces.Box(-1.0, 1.0, (2,)), "square").space
    Box(low=(-1.0, -1.0), high=(1.0, 1.0), shape=(2,))
    >>> found = actions(spaces.Dict({"move": spaces.Discrete(3), "wait": spaces.Box(2, 5, (1,), jnp.int32)}), "two")
    >>> found.space
    {'move': Discrete(n=3), 'wait': MultiDiscrete(nvec=(4,))}
    >>> found.convert({"move": jnp.int32(1), "wait": jnp.array([0])})["wait"].tolist()
    [2]
    """
    inner = getattr(space, "spaces", None)
    if inner is not None and type(space).__name__ != "OneOf":  # which is one of its parts, not all of them
        ordered = dict(inner) if hasattr(inner, "items") else tuple(inner)
        found = jax.tree.map(lambda one: actions(one, name), ordered, is_leaf=lambda x: x is not ordered)
        is_one = lambda x: isinstance(x, Actions)  # noqa: E731

        def convert(action: Any) -> Any:
            return jax.tree.map(lambda one, a: one.convert(a), found, action, is_leaf=is_one)

        return Actions(jax.tree.map(lambda one: one.space, found, is_leaf=is_one), convert)
    return _one(space, lambda reason: SettingError("environment", name, reason))


def action_space(space: Any, name: str) -> Space:
    """`actions(space, name).space`, of an environment that numbers choices from 0."""
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
            reason = (
                f"has a {kind} of {np.dtype(dtype)} actions from {low.min()} to {high.max()}: that is a choice among"
            )
            raise refuse(f"{reason} {counts.max():.3g}; at most {MOST_CHOICES} are taken one by one: wrap it")
        return _choices(counts.astype(int), low.astype(np.int64), dtype)
    low, high = (b.astype(np.float32) for b in (low, high))
    return Actions(Box(tuple(low.ravel().tolist()), tuple(high.ravel().tolist()), shape), lambda action: action)


MOST_CHOICES = 4096
"""A whole number of a Box is a choice among so many at most."""


def _choices(counts: np.ndarray, start: np.ndarray, dtype: Any) -> Actions:
    """Whole numbers from `start` on, so many of each."""
    space = MultiDiscrete(_nested(counts.tolist()))
    dtype = jnp.dtype(dtype or jnp.int32)
    narrow = jax.dtypes.canonicalize_dtype(dtype)  # 64 bits where they are on
    return Actions(space, lambda action: (action + jnp.asarray(start, action.dtype)).astype(narrow))


def _as_type(dtype: Any) -> Callable[[Any], Any]:
    return lambda action: action.astype(jax.dtypes.canonicalize_dtype(jnp.dtype(dtype)))


def _nested(numbers: Any) -> Any:
    return tuple(map(_nested, numbers)) if isinstance(numbers, list) else int(numbers)


def categories(space: Any, observation: Any, name: str) -> Any:
    """`Environment.num_categories` of an observation space: how many values each Discrete part takes, None elsewhere.

    Args:
      space: of gymnax; Dict and Tuple at any depth.
      observation: shapes and dtypes of what the environment really gives.
      name: of the environment, for errors.

    Raises:
      SettingError: where the space speaks of categories and the observations are something else.

    >>> from gymnax.environments import spaces
    >>> shapes = {"room": jax.ShapeDtypeStruct((), jnp.int32), "x": jax.ShapeDtypeStruct((2,), jnp.float32)}
    >>> categories(spaces.Dict({"room": spaces.Discrete(8), "x": spaces.Box(0, 1, (2,))}), shapes, "rooms")
    {'room': 8, 'x': None}
    """

    def refuse(reason: str) -> SettingError:
        return SettingError("environment", name, reason)

    def one(path: Any, leaf: Any) -> int | None:
        here = _at(space, path)
        if here is None:
            if _has_categories(space):
                raise refuse(f"gives observation{keystr(path)}, and its observation_space {space} has no such part")
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
            reason = f"gives observation{keystr(path)} of shape {leaf.shape}, and its observation_space says {here}"
            raise refuse(f"{reason}; give it the space of its observations")
        return count

    leaves, structure = tree_flatten_with_path(observation)
    counts = [one(path, leaf) for path, leaf in leaves]
    return None if all(n is None for n in counts) else jax.tree.unflatten(structure, counts)


def _at(space: Any, path: Any) -> Any:
    """The part of a space at a path of the observation; None where it has no such part."""
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
