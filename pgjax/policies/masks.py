"""Action masks: find them in observations and apply them to logits."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import keystr, tree_flatten_with_path

from pgjax.spaces import Box, Discrete, Part, is_part
from pgjax.types import ACTION_MASK, Environment, SettingError


class Masks(NamedTuple):
    """Positions of the action masks among the leaves of an observation."""

    of_parts: tuple[tuple[int, ...], ...]  # for each part of the action space the leaves that mask it
    leaves: frozenset[int]  # all of them


def find_masks(environment: Environment) -> Masks:
    """Find the leaves of an observation that mask actions: those at or below a part named `action_mask`.

    A mask belongs to the part of the action space whose path ends the mask's own path, without that name. The part
    action["tool"][0] is masked by observation["action_mask"]["tool"][0] or observation["tool"][0]["action_mask"]. A
    part needs no mask; it may not have two, and a continuous part may not have one.
    """
    with_paths, _ = tree_flatten_with_path(environment.observation)
    found = {i: path for i, (path, _) in enumerate(with_paths) if ACTION_MASK in map(_name, path)}
    _check_names(environment)
    if environment.action_space is None:  # not declared: left to the user's policy
        return Masks((), frozenset(found))
    of_actions, _ = tree_flatten_with_path(environment.action_space, is_leaf=is_part)
    spaces, paths = [part for _, part in of_actions], [list(map(_name, path)) for path, _ in of_actions]

    def refuse(reason: str) -> SettingError:
        return SettingError("environment", environment.name, reason)

    owners: dict[int, list[int]] = {}
    for i, path in found.items():
        names = [name for name in map(_name, path) if name != ACTION_MASK]
        fits = [k for k, own in enumerate(paths) if _ends_with(names, own) or _is_one_number(spaces[k], names, own)]
        if not fits:
            actions = ", ".join(f"action{_written(own)}" for own in paths)
            reason = f"has an action mask observation{keystr(path)} that matches none of its actions: {actions}"
            raise refuse(f"{reason}; give a mask for each, in a pytree {ACTION_MASK!r} of the actions' structure")
        owners.setdefault(max(fits, key=lambda k: len(paths[k])), []).append(i)
    for k, own in owners.items():
        _check(refuse, spaces[k], _written(paths[k]), [with_paths[i] for i in own])
    return Masks(tuple(tuple(owners.get(k, ())) for k in range(len(spaces))), frozenset(found))


def flat_mask(part: Part, leaves: Sequence[Array], leading: int) -> Array:
    """An action mask in the order of the part's outputs, [..., outputs].

    `leaves` of the observation are [..., outputs] or [..., *shape, largest n], or one array for each number of an
    action; `leading` is the number of axes before these.
    """
    counts: tuple[int, ...] = part.counts  # type: ignore[union-attr]  (no Box)
    if len(leaves) > 1:
        return jnp.concatenate(leaves, axis=-1)
    flat = leaves[0].reshape(*leaves[0].shape[:leading], -1)
    if flat.shape[-1] == sum(counts):
        return flat
    return flat[..., _places(counts)]


def masked(logits: Array, mask: Array) -> Array:
    """Logits of forbidden choices (mask not above 0) become −1e9. If nothing is allowed, all logits are 0."""
    allowed = mask > 0
    some = allowed.any(axis=-1, keepdims=True)
    # −1e9 is finite, so that 0 · log 0 is 0 in entropies and KLs. If all logits were −1e9, sampling noise would be lost
    # to rounding; hence 0 where nothing is allowed.
    return jnp.where(some, jnp.where(allowed, logits, -1e9), 0.0)


def _check_names(environment: Environment) -> None:
    """Raise for a record type without field names in jax, whose mask would be taken for a network input."""

    def is_nameless(x: Any) -> bool:
        return hasattr(x, ACTION_MASK) and not jax.tree_util.all_leaves([x]) and not _names(x)

    for x in jax.tree.leaves(environment.observation, is_leaf=is_nameless):
        if is_nameless(x):
            reason = (
                f"has observations of type {type(x).__name__} whose fields, with {ACTION_MASK}, have no names in jax"
            )
            needs = "register it with jax.tree_util.register_dataclass, or use a NamedTuple or dict"
            raise SettingError("environment", environment.name, f"{reason}; {needs}")


def _names(record: Any) -> bool:
    """Whether jax knows the fields of a record by name."""
    paths = [path for path, _ in tree_flatten_with_path(record)[0]]
    return ACTION_MASK in (_name(path[0]) for path in paths if path)


def _check(refuse: Callable[[str], SettingError], part: Part, where: str, masks: list[tuple[Any, Any]]) -> None:
    """Raise for masks whose shapes do not fit the part of the action space."""
    places = ", ".join(f"observation{keystr(path)}" for path, _ in masks)
    shapes = [tuple(x.shape) for _, x in masks]
    if isinstance(part, Box) or not is_part(part):
        raise refuse(f"has an action mask {places}, and action{where} is not discrete")
    wanted = _shapes(part)
    numbers = [(n,) for n in getattr(part, "counts", ())]
    one_each = [path[:-1] for path, _ in masks] == [masks[0][0][:-1]] * len(numbers) and shapes == numbers
    if not ((len(shapes) == 1 and shapes[0] in wanted) or (len(shapes) > 1 and one_each)):
        several = "" if len(masks) == 1 else " and ".join(map(str, shapes))
        reason = f"has an action mask {places} of shape {several or shapes[0]}"
        needs = f"needs one of shape {' or '.join(map(str, dict.fromkeys(wanted)))} for action{where}"
        if getattr(part, "counts", None) == shapes[0] and len(shapes) == 1:
            needs += "; if the allowed values of one number depend on another, make the action one Discrete number"
        raise refuse(f"{reason}; {needs}")


def _shapes(part: Any) -> list[tuple[int, ...]]:
    """The shapes that a single mask array of a discrete part may have."""
    if isinstance(part, Discrete):
        return [(part.n,)]
    return [(*part.shape, max(part.counts)), (sum(part.counts),)]


def _places(counts: tuple[int, ...]) -> np.ndarray:
    """Indices of the existing entries in a flattened [k, largest n]."""
    n = max(counts)
    return np.flatnonzero(np.arange(n) < np.array(counts)[:, None])


def _ends_with(names: list, own: list) -> bool:
    return names[len(names) - len(own) :] == own if len(own) <= len(names) else False


def _is_one_number(part: Any, names: list, own: list) -> bool:
    """Whether a path leads to one number of a MultiDiscrete, with one mask for each number."""
    return (
        len(getattr(part, "shape", ())) == 1
        and isinstance(names[-1] if names else None, int)
        and _ends_with(names[:-1], own)
    )


def _written(names: list) -> str:
    return "".join(f"[{name!r}]" for name in names)


def _name(key: Any) -> Any:
    """The name or index of one step of a pytree path."""
    return next((getattr(key, field) for field in ("key", "name", "idx") if hasattr(key, field)), None)
