"""gymnax's spaces: which actions a policy can take here, and which numbers of an observation are categories.

Spaces are known by what they have (`n`, `nvec`, `spaces`, `low` and `high`), so those of gymnasium and of one's own
serve too.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from pgjax.types import Box, Discrete, SettingError


def action_space(space: Any, name: str) -> Discrete | Box:
    """An action space as pgjax knows it.

    Args:
      space: of gymnax.
      name: of the environment, for errors.

    Raises:
      SettingError: for a space that no policy here can act in, with what to do instead.

    >>> from gymnax.environments import spaces
    >>> action_space(spaces.Discrete(3), "three"), action_space(spaces.Box(-1.0, 1.0, (2,)), "square")
    (Discrete(n=3), Box(low=(-1.0, -1.0), high=(1.0, 1.0), shape=(2,)))
    """

    def refuse(reason: str) -> SettingError:
        return SettingError("environment", name, reason)

    kind = type(space).__name__
    if hasattr(space, "spaces") or hasattr(space, "nvec"):
        count = _combinations(space)
        number = "one Discrete number" if count is None else f"one Discrete number of {count}"
        reason = f"has {kind} actions, of several parts; wrap it so that {number} says which combination is taken"
        raise refuse(reason)
    if hasattr(space, "n"):
        if tuple(getattr(space, "shape", None) or ()) or int(getattr(space, "start", 0)):
            raise refuse(f"has {kind} actions {space}; needs one Discrete number from 0 to n − 1")
        return Discrete(int(space.n))
    if not (hasattr(space, "low") and hasattr(space, "high") and hasattr(space, "shape")):
        raise refuse(f"has an action space {space!r}, neither Discrete nor Box")
    dtype = np.dtype(getattr(space, "dtype", None) or np.float32)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise refuse(f"has a Box of {dtype} actions; wrap it so that one Discrete number says which of them is taken")
    shape = (int(space.shape),) if np.ndim(space.shape) == 0 else tuple(space.shape)
    try:
        low, high = (np.broadcast_to(np.asarray(b, np.float32), shape) for b in (space.low, space.high))
    except ValueError:
        bounds = f"{np.shape(space.low)} and {np.shape(space.high)}"
        raise refuse(f"has a Box of shape {shape} with bounds of shapes {bounds}") from None
    return Box(tuple(low.ravel().tolist()), tuple(high.ravel().tolist()), shape)


def _combinations(space: Any) -> int | None:
    """How many actions there are in all; None where some part is not Discrete."""
    if hasattr(space, "nvec"):
        return math.prod(int(n) for n in np.ravel(space.nvec))
    if hasattr(space, "spaces"):
        children = space.spaces.values() if hasattr(space.spaces, "values") else space.spaces
        counts = [_combinations(child) for child in children]
        return None if None in counts else math.prod(counts)  # type: ignore[arg-type]
    return int(space.n) if hasattr(space, "n") else None


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
