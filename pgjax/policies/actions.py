"""Action distributions from network outputs, for any action space."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.estimators.distributions import Categorical, Distribution, Gaussian, SquashedGaussian
from pgjax.estimators.joint import Joint, MultiCategorical
from pgjax.estimators.open_boxes import OpenGaussian, OpenSquashedGaussian
from pgjax.policies.masks import masked
from pgjax.spaces import Box, Discrete, Part, Space, is_part, parts
from pgjax.types import Environment, SettingError

PolicyKind = Literal["auto", "categorical", "gaussian", "squashed"]


def outputs(space: Space) -> int:
    """Number of network outputs for an action space: one logit per choice, one mean per continuous number."""
    return sum(_width(part) for part in parts(space)[0])


def continuous(space: Space) -> int:
    """Number of continuous entries of an action. Each has its own σ."""
    return sum(_width(part) for part in parts(space)[0] if isinstance(part, Box))


def distribution(space: Space, kind: PolicyKind, output: Array, log_std: Array | None, masks: Sequence) -> Distribution:
    """The policy's action distribution, from network outputs [..., outputs(space)] in the order of the space's parts.

    `kind` "squashed" maps bounded continuous numbers through tanh; otherwise they are clipped to their bounds.
    `log_std` is [continuous(space)], None without continuous numbers. `masks` holds for each part a `flat_mask` or
    None. Returns a `Joint` in the structure of the space if it has several parts.
    """
    spaces, _, structure = parts(space)
    each, start, std_start = [], 0, 0
    for part, mask in zip(spaces, masks, strict=True):
        width = _width(part)
        part_output, start = output[..., start : start + width], start + width
        if isinstance(part, Box):
            assert log_std is not None
            each.append(_normal(part, kind, part_output, log_std[std_start : std_start + width]))
            std_start += width
        else:
            each.append(_choice(part, part_output, mask))
    return each[0] if is_part(space) else Joint(structure.unflatten(each))


def check_policy_kind(environment: Environment, policy: str) -> None:
    """Raise a SettingError if the policy kind does not fit the action space, or no policy supports the space."""
    spaces, paths, _ = checked_parts(environment)
    boxes = [isinstance(part, Box) for part in spaces]
    if policy == "categorical" and any(boxes):
        reason = f"needs discrete actions; those of {environment.name}{paths[boxes.index(True)]} are continuous"
        raise SettingError("policy", policy, reason)
    if policy in ("gaussian", "squashed") and not any(boxes):
        raise SettingError("policy", policy, f"needs continuous actions; those of {environment.name} are discrete")


def checked_parts(environment: Environment) -> tuple[list[Part], list[str], Any]:
    """`pgjax.spaces.parts` of an environment's actions. Raises a SettingError if there are none, or one is invalid."""
    spaces, paths, structure = parts(environment.action_space)
    if not spaces:
        raise _refuse(environment, f"has an action space {environment.action_space!r}; {_NEEDS}")
    for part, path in zip(spaces, paths, strict=True):
        _check_part(environment, part, f" for action{path}" if path else "")
    return spaces, paths, structure


_NEEDS = "needs pgjax.spaces.Discrete, MultiDiscrete, MultiBinary or Box, or a pytree of these"


def _refuse(environment: Environment, reason: str) -> SettingError:
    return SettingError("environment", environment.name, reason)


def _check_part(environment: Environment, part: Any, where: str) -> None:
    if not is_part(part):
        raise _refuse(environment, f"has an action space {part!r}{where}; {_NEEDS}")
    if isinstance(part, Box):
        _check_box(environment, part, where)
        return
    try:
        counts = [part.n] if isinstance(part, Discrete) else list(np.ravel(getattr(part, "nvec", part.counts)))
    except (TypeError, ValueError, AttributeError):
        raise _refuse(environment, f"has {part}{where}; needs whole numbers in an array's shape") from None
    if not counts or any(isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1 for n in counts):
        raise _refuse(environment, f"has {part} actions{where}; needs a whole number of them, at least 1")


def _check_box(environment: Environment, box: Box, where: str) -> None:
    try:
        low, high = box.bounds()
    except (TypeError, ValueError):
        counts = f"{np.size(box.low)} lower and {np.size(box.high)} upper bounds"
        raise _refuse(environment, f"has an action box of shape {box.shape}{where} with {counts}") from None
    wrong = np.argwhere(~(low < high) | (low == np.inf) | (high == -np.inf))  # also true for NaN
    if not low.size:
        raise _refuse(environment, f"has an action box of shape {box.shape}{where}; needs at least one number")
    if len(wrong):
        at = tuple(map(int, wrong[0]))
        between = f"from {low[at]} to {high[at]}" + (f" in dimension {', '.join(map(str, at))}" if at else "")
        reason = f"has an empty action box{where}, {between}; needs low < high, −inf and inf where there is no bound"
        raise _refuse(environment, reason)


def _width(part: Part) -> int:
    return math.prod(part.shape) if isinstance(part, Box) else sum(part.counts)


def _choice(part: Part, logits: Array, mask: Array | None) -> Distribution:
    if isinstance(part, Discrete):
        return Categorical(logits if mask is None else masked(logits, mask))
    counts: tuple[int, ...] = part.counts  # type: ignore[union-attr]
    exists = np.arange(max(counts)) < np.array(counts)[:, None]  # [k, largest n]
    index = np.where(exists, np.cumsum([0, *counts[:-1]])[:, None] + np.arange(max(counts)), 0)

    def shaped(x: Array) -> Array:
        return x.reshape(*x.shape[:-1], *exists.shape) if exists.all() else x[..., index]

    each = shaped(logits) if mask is None else masked(shaped(logits), jnp.where(exists, shaped(mask), 0))
    return MultiCategorical(each if exists.all() else jnp.where(exists, each, -2e9))  # below masked logits


def _normal(box: Box, kind: PolicyKind, mean: Array, log_std: Array) -> Distribution:
    bounds = [bound.reshape(-1) for bound in box.bounds()]
    bounded = np.isfinite(bounds).all()
    kind_of_normal: Callable = {
        (True, True): SquashedGaussian,
        (True, False): Gaussian,
        (False, True): OpenSquashedGaussian,
        (False, False): OpenGaussian,
    }[bool(bounded), kind == "squashed"]
    return kind_of_normal(mean, *(jnp.broadcast_to(x, mean.shape) for x in (log_std, *bounds)))
