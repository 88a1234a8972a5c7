"""Observations as networks take them: numbers side by side, categories one-hot, action masks apart."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import keystr, tree_flatten_with_path

from pgjax.types import ACTION_MASK, Discrete, Environment, SettingError


def default_features(environment: Environment, *, flatten: bool = True) -> Callable[[Any], Any]:
    """How an observation becomes a network's input: float32, categories one-hot, arrays flat.

    The parts of a dict or tuple are flattened and joined, at any depth; an action mask is left out.

    Raises:
      SettingError: for observations that are not declared by shapes, or nothing but a mask.

    >>> from pgjax import environments
    >>> image = default_features(environments.make("DeepSea-bsuite:size=4"))(jnp.eye(4))
    >>> numbered = default_features(environments.make("FrozenLake-misc"))(2)
    >>> image.shape, numbered.tolist().index(1.0)
    ((16,), 2)
    """
    shapes, structure = leaves(environment)
    counts, mask = categories(environment), mask_index(environment)
    seen = [i for i in range(len(shapes)) if i != mask]
    if not seen:
        raise SettingError("environment", environment.name, "has no observation that a network could take")

    def one(x: Any, i: int) -> Array:
        count, shape = counts[i], shapes[i].shape
        if count is not None:
            x = jax.nn.one_hot(x, count, dtype=jnp.float32)
            return x.reshape(*x.shape[: x.ndim - len(shape) - 1], -1)
        x = jnp.asarray(x).astype(jnp.float32)
        return x.reshape(*x.shape[: x.ndim - len(shape)], -1) if flatten else x

    def features(observation: Any) -> Array:
        parts = structure.flatten_up_to(observation)
        inputs = [one(parts[i], i) for i in seen]
        return inputs[0] if len(inputs) == 1 else jnp.concatenate(inputs, axis=-1)

    return features


def leaves(environment: Environment) -> tuple[list[Any], Any]:
    """Shapes and dtypes of an observation's parts, and the structure that they are the leaves of."""
    with_paths, structure = tree_flatten_with_path(environment.observation)
    for path, x in with_paths:
        if not (hasattr(x, "shape") and hasattr(x, "dtype")):
            reason = f"declares observation{keystr(path)} as {x!r}; needs a shape and a dtype (jax.ShapeDtypeStruct)"
            raise SettingError("environment", environment.name, reason)
    if not with_paths:
        raise SettingError("environment", environment.name, "declares no observation; a policy needs its shape")
    return [x for _, x in with_paths], structure


def categories(environment: Environment) -> list[int | None]:
    """How many values each part of an observation takes if it is a category, else None; in the order of `leaves`.

    Raises:
      SettingError: where `num_categories` does not fit the observation.

    >>> from pgjax import environments
    >>> categories(environments.make("FrozenLake-misc")), categories(environments.make("CartPole-v1"))
    ([16], [None])
    """
    shapes, structure = leaves(environment)
    declared = environment.num_categories
    if declared is None:
        return [None] * len(shapes)
    try:
        counts = structure.flatten_up_to(declared)
    except ValueError:
        reason = f"of {environment.name!r} must have the structure of its observations, {structure}"
        raise SettingError("num_categories", declared, reason) from None
    for count in counts:
        if count is None:
            continue
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
            raise SettingError(
                "num_categories", count, f"of {environment.name!r} must be None or a whole number above 0"
            )
    return counts


def mask_index(environment: Environment) -> int | None:
    """Which leaf of an observation is its action mask, at whatever depth; None without one.

    Raises:
      SettingError: for several masks, one of another shape than [actions], or actions that cannot be masked.

    >>> from pgjax import environments
    >>> shapes = {"seen": jax.ShapeDtypeStruct((4,), jnp.float32), "action_mask": jax.ShapeDtypeStruct((2,), jnp.bool_)}
    >>> mask_index(environments.make("CartPole-v1")._replace(observation={"inner": shapes}))
    0
    """
    leaves(environment)
    with_paths, _ = tree_flatten_with_path(environment.observation)
    found = [(i, path, x) for i, (path, x) in enumerate(with_paths) if ACTION_MASK in map(_name, path)]
    if not found:
        return None
    places = ", ".join(f"observation{keystr(path)}" for _, path, _ in found)
    space = environment.action_space

    def refuse(reason: str) -> SettingError:
        return SettingError("environment", environment.name, reason)

    if not isinstance(space, Discrete):
        raise refuse(f"has an action mask {places}, and actions that are not Discrete")
    i, _, mask = found[0]
    if len(found) > 1 or tuple(mask.shape) != (space.n,):
        shapes = " and ".join(str(tuple(x.shape)) for *_, x in found)
        raise refuse(f"has an action mask {places} of shape {shapes}; needs one of shape ({space.n},)")
    return i


def _name(key: Any) -> Any:
    """What a step into a pytree is called."""
    return next((getattr(key, field) for field in ("key", "name", "idx") if hasattr(key, field)), None)
