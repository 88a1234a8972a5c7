"""Observations as networks take them: numbers side by side, categories one-hot, images, no action masks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import keystr, tree_flatten_with_path

from pgjax.policies.masks import find_masks
from pgjax.types import Environment, SettingError


def default_features(environment: Environment, *, flatten: bool = True) -> Callable[[Any], Any]:
    """How an observation becomes a network's input: float32, categories one-hot, arrays flat.

    The parts of a dict or tuple are flattened and joined, at any depth; action masks are left out.

    Args:
      environment: declares the observations.
      flatten: False keeps images: one image stays [height, width, channels]; of several parts the input is a tuple, the
        images first, then everything else flat. `image_leaves` says what is one.

    Raises:
      SettingError: for observations that are not declared by shapes, or nothing but masks.

    >>> from pgjax import environments
    >>> image = default_features(environments.make("DeepSea-bsuite:size=4"))(jnp.eye(4))
    >>> numbered = default_features(environments.make("FrozenLake-misc"))(2)
    >>> image.shape, numbered.tolist().index(1.0)
    ((16,), 2)
    """
    shapes, structure = leaves(environment)
    counts = categories(environment)
    seen, images = seen_leaves(environment), [] if flatten else image_leaves(environment)
    if not seen:
        raise SettingError("environment", environment.name, "has no observation that a network could take")

    def one(x: Any, i: int) -> Array:
        count, shape = counts[i], shapes[i].shape
        x = jnp.asarray(x)
        leading = x.shape[: x.ndim - len(shape)]
        x = x.astype(jnp.float32) if count is None else jax.nn.one_hot(x, count, dtype=jnp.float32)
        return x.reshape(*leading, *(shape[:2] if i in images else ()), -1)

    def features(observation: Any) -> Any:
        parts = structure.flatten_up_to(observation)
        pictures, flat = [one(parts[i], i) for i in images], [one(parts[i], i) for i in seen if i not in images]
        joined = [flat[0] if len(flat) == 1 else jnp.concatenate(flat, axis=-1)] if flat else []
        inputs = (*pictures, *joined)
        return inputs[0] if len(inputs) == 1 else inputs

    return features


def seen_leaves(environment: Environment) -> list[int]:
    """Which leaves of an observation a network takes: all but action masks."""
    masks = find_masks(environment).leaves
    return [i for i in range(len(leaves(environment)[0])) if i not in masks]


def image_leaves(environment: Environment) -> list[int]:
    """Which leaves are images, 3×3 or larger: [height, width, channels] of numbers, [height, width, ...] of categories.

    >>> from pgjax import environments
    >>> image_leaves(environments.make("Breakout-MinAtar")), image_leaves(environments.make("CartPole-v1"))
    ([0], [])
    """
    shapes, counts = leaves(environment)[0], categories(environment)

    def image(i: int) -> bool:
        shape = shapes[i].shape
        return len(shape) in ((3,) if counts[i] is None else (2, 3)) and min(shape[:2]) >= 3  # as large as the kernel

    return [i for i in seen_leaves(environment) if image(i)]


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
