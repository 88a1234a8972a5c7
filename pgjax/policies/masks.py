"""Action masks: which part of an observation says what is allowed, and how a policy is held to it."""

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
    """Where the action masks of an environment are in its observations.

    Attributes:
      of_parts: for each part of the action space the leaves that mask it; empty for a part without a mask.
      leaves: all of them.
    """

    of_parts: tuple[tuple[int, ...], ...]
    leaves: frozenset[int]


def find_masks(environment: Environment) -> Masks:
    """The leaves of an observation that mask actions: those called `action_mask`, or below that name, at any depth.

    A mask belongs to the part of the action space whose path is the end of the mask's own path, the name aside: that of
    action["tool"][0] is observation["action_mask"]["tool"][0], or observation["tool"][0]["action_mask"]. Parts may be
    without one.

    Raises:
      SettingError: for a mask that belongs to no part or to a continuous one, or has another shape; for two of one.

    >>> from pgjax import environments
    >>> shapes = {"seen": jax.ShapeDtypeStruct((4,), jnp.float32), "action_mask": jax.ShapeDtypeStruct((2,), jnp.bool_)}
    >>> find_masks(environments.make("CartPole-v1")._replace(observation={"inner": shapes})).of_parts
    ((0,),)
    """
    with_paths, _ = tree_flatten_with_path(environment.observation)
    found = {i: path for i, (path, _) in enumerate(with_paths) if ACTION_MASK in map(_name, path)}
    _check_names(environment)
    if environment.action_space is None:  # undeclared: a policy of one's own knows
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
            reason = f"has an action mask observation{keystr(path)}, and no such part among its actions: {actions}"
            raise refuse(f"{reason}; give a mask for each, in a pytree {ACTION_MASK!r} of the actions' structure")
        owners.setdefault(max(fits, key=lambda k: len(paths[k])), []).append(i)
    for k, own in owners.items():
        _check(refuse, spaces[k], _written(paths[k]), [with_paths[i] for i in own])
    return Masks(tuple(tuple(owners.get(k, ())) for k in range(len(spaces))), frozenset(found))


def flat_mask(part: Part, leaves: Sequence[Array], leading: int) -> Array:
    """An action mask in the order of the part's outputs, [..., outputs].

    Args:
      part: a Discrete, MultiDiscrete or MultiBinary.
      leaves: of the observation: [..., outputs] or [..., *shape, largest n], or an array for each number of choices.
      leading: how many axes are before the mask's own.

    >>> from pgjax.spaces import MultiDiscrete
    >>> flat_mask(MultiDiscrete((2, 3)), [jnp.array([[1, 0, 0], [1, 1, 0]])], 0).tolist()
    [1, 0, 1, 1, 0]
    """
    counts: tuple[int, ...] = part.counts  # type: ignore[union-attr]  (no Box)
    if len(leaves) > 1:
        return jnp.concatenate(leaves, axis=-1)
    flat = leaves[0].reshape(*leaves[0].shape[:leading], -1)
    if flat.shape[-1] == sum(counts):
        return flat
    return flat[..., _places(counts)]


def masked(logits: Array, mask: Array) -> Array:
    """Only allowed choices are taken, those with an entry above 0; where there is none, all are equally likely.

    >>> masked(jnp.array([[1.0, 2.0], [1.0, 2.0]]), jnp.array([[1, 0], [0, 0]])).tolist()
    [[1.0, -1000000000.0], [0.0, 0.0]]
    """
    allowed = mask > 0
    some = allowed.any(axis=-1, keepdims=True)
    # −1e9 is finite: 0 · log 0 stays 0 in entropies and KLs. Where all were that low, no noise would be seen beside it.
    return jnp.where(some, jnp.where(allowed, logits, -1e9), 0.0)


def _check_names(environment: Environment) -> None:
    """Refuse a record whose mask has no name for jax: it would be taken for numbers that a network sees."""

    def is_nameless(x: Any) -> bool:
        return hasattr(x, ACTION_MASK) and not jax.tree_util.all_leaves([x]) and not _names(x)

    for x in jax.tree.leaves(environment.observation, is_leaf=is_nameless):
        if is_nameless(x):
            reason = f"observes a {type(x).__name__} whose parts have no names for jax, an {ACTION_MASK} among them"
            needs = "register it with jax.tree_util.register_dataclass, or take a NamedTuple or dict"
            raise SettingError("environment", environment.name, f"{reason}; {needs}")


def _names(record: Any) -> bool:
    """Whether jax knows the parts of a record by name."""
    paths = [path for path, _ in tree_flatten_with_path(record)[0]]
    return ACTION_MASK in (_name(path[0]) for path in paths if path)


def _check(refuse: Callable[[str], SettingError], part: Part, where: str, masks: list[tuple[Any, Any]]) -> None:
    """Refuse masks of another shape than the part of the action space that they belong to."""
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
            needs += "; where what is allowed of one number depends on another, make the action one Discrete number"
        raise refuse(f"{reason}; {needs}")


def _shapes(part: Any) -> list[tuple[int, ...]]:
    """The shapes that one array masking a discrete part may have."""
    if isinstance(part, Discrete):
        return [(part.n,)]
    return [(*part.shape, max(part.counts)), (sum(part.counts),)]


def _places(counts: tuple[int, ...]) -> np.ndarray:
    """Where the entries that exist stand in a flattened [k, largest n]."""
    n = max(counts)
    return np.flatnonzero(np.arange(n) < np.array(counts)[:, None])


def _ends_with(names: list, own: list) -> bool:
    return names[len(names) - len(own) :] == own if len(own) <= len(names) else False


def _is_one_number(part: Any, names: list, own: list) -> bool:
    """Whether a path leads to one number of a MultiDiscrete: a tuple of masks, one for each."""
    return (
        len(getattr(part, "shape", ())) == 1
        and isinstance(names[-1] if names else None, int)
        and _ends_with(names[:-1], own)
    )


def _written(names: list) -> str:
    return "".join(f"[{name!r}]" for name in names)


def _name(key: Any) -> Any:
    """What a step into a pytree is called."""
    return next((getattr(key, field) for field in ("key", "name", "idx") if hasattr(key, field)), None)
