"""Observations as network inputs: flattened numbers, one-hot categories, images; without action masks."""

import math
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
    """A function from an observation to a network's input: float32, categories one-hot, arrays flat.

    All parts of a dict or tuple are flattened and joined, except action masks. With `flatten=False` images
    (`image_leaves`) keep their shape [height, width, channels]. Several parts then give a tuple: images first, then all
    else flat.
    """
    shapes, structure = leaves(environment)
    counts = categories(environment)
    seen, images = seen_leaves(environment), [] if flatten else image_leaves(environment)
    if not seen:
        raise SettingError("environment", environment.name, "has no observation for a network, only action masks")
    if not any(math.prod(shapes[i].shape) for i in seen):
        raise SettingError("environment", environment.name, "has an observation without numbers: every array is empty")

    def one(x: Any, i: int) -> Array:
        count, shape = counts[i], shapes[i].shape
        x = jnp.asarray(x)
        leading = x.shape[: x.ndim - len(shape)]
        x = x.astype(jnp.float32) if count is None else jax.nn.one_hot(x.astype(jnp.int32), count, dtype=jnp.float32)
        return x.reshape(*leading, *(shape[:2] if i in images else ()), -1)

    def features(observation: Any) -> Any:
        parts = structure.flatten_up_to(observation)
        pictures, flat = [one(parts[i], i) for i in images], [one(parts[i], i) for i in seen if i not in images]
        joined = [flat[0] if len(flat) == 1 else jnp.concatenate(flat, axis=-1)] if flat else []
        inputs = (*pictures, *joined)
        return inputs[0] if len(inputs) == 1 else inputs

    return features


def seen_leaves(environment: Environment) -> list[int]:
    """Indices of the observation leaves that a network takes: all but action masks."""
    masks = find_masks(environment).leaves
    return [i for i in range(len(leaves(environment)[0])) if i not in masks]


def image_leaves(environment: Environment) -> list[int]:
    """Indices of the images, at least 3×3: numbers [height, width, channels] or categories [height, width, ...]."""
    shapes, counts = leaves(environment)[0], categories(environment)

    def image(i: int) -> bool:
        shape = shapes[i].shape
        return (
            len(shape) in ((3,) if counts[i] is None else (2, 3)) and min(shape[:2]) >= 3
        )  # at least the kernel's size

    return [i for i in seen_leaves(environment) if image(i)]


def leaves(environment: Environment) -> tuple[list[Any], Any]:
    """Shapes and dtypes of an observation's leaves, and the tree structure."""
    with_paths, structure = tree_flatten_with_path(environment.observation)
    for path, x in with_paths:
        if not (hasattr(x, "shape") and hasattr(x, "dtype")):
            reason = f"declares observation{keystr(path)} as {x!r}; needs a shape and a dtype (jax.ShapeDtypeStruct)"
            raise SettingError("environment", environment.name, reason)
    if not with_paths:
        raise SettingError("environment", environment.name, "declares no observation; a policy needs its shape")
    return [x for _, x in with_paths], structure


def categories(environment: Environment) -> list[int | None]:
    """Number of values of each observation leaf that is a category, else None; in the order of `leaves`."""
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
