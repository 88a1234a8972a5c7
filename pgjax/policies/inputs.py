"""Inputs of policy and critic at a step: features, action masks and, in training, a key."""

from collections.abc import Callable
from inspect import signature
from typing import Any, NamedTuple

import jax
from jax import Array

from pgjax.policies.masks import find_masks, flat_mask
from pgjax.policies.observations import leaves
from pgjax.spaces import parts
from pgjax.types import Environment, KeyData, Keyed


class Inputs(NamedTuple):
    """Inputs of policy and critic, computed from an observation or by a memory."""

    policy: Any  # features for the policy
    critic: Any  # features for the critic; the same unless the critic has its own memory
    masks: tuple[Array | None, ...]  # for each part of the action space the allowed choices, [..., outputs], or None
    key: KeyData | None = None  # for networks that draw random numbers, in training


class Trunk(NamedTuple):
    """What policy and critic read after the layers that they share, if there are any; takes the place of `Inputs`."""

    output: Any
    masks: tuple[Array | None, ...]
    key: KeyData | None


NETWORKS = ("memory", "critic_memory", "trunk", "actor", "critic")
"""Names of an agent's networks. Each gets its own key."""


def reader(environment: Environment, features: Callable[[Any], Any]) -> Callable[[Any], Inputs]:
    """A function from an observation [..., *shape], `Keyed` or not, to `Inputs`."""
    shapes, structure = leaves(environment)
    spaces, masks = parts(environment.action_space)[0], find_masks(environment)

    def read(observation: Any) -> Inputs:
        observation, key = observation if isinstance(observation, Keyed) else (observation, None)
        x, found = features(observation), structure.flatten_up_to(observation)

        def mask_of(part: Any, which: tuple[int, ...]) -> Array | None:
            if not which:
                return None
            leading = jax.numpy.ndim(found[which[0]]) - len(shapes[which[0]].shape)
            return flat_mask(part, [found[i] for i in which], leading)

        return Inputs(x, x, tuple(map(mask_of, spaces, masks.of_parts)), key)

    return read


def takes_key(network: Any) -> bool:
    """Whether a network draws random numbers in training: its `apply` or flax `__call__` has an argument `key`.

    An attribute `takes_key` of the network overrides this.
    """
    declared = getattr(network, "takes_key", None)
    if declared is not None:
        return bool(declared)
    try:
        parameters = signature(network.apply).parameters
        has_kwargs = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        return "key" in parameters or (has_kwargs and "key" in signature(type(network).__call__).parameters)
    except (AttributeError, TypeError, ValueError):  # not a network, or without a signature
        return False


def apply(network: Any, name: str, params: Any, *x: Any, key: KeyData | None) -> Any:
    """network.apply(params, *x), with a key for every row of x if there is one and the network takes it.

    `name` is the network's name in NETWORKS; x is [..., features], after the carry for a memory; `key` is [...].
    """
    if key is None or not takes_key(network):
        return network.apply(params, *x)

    def one(key: KeyData, *x: Any) -> Any:
        return network.apply(params, *x, key=jax.random.split(key.key(), len(NETWORKS))[NETWORKS.index(name)])

    for _ in range(key.key().ndim):
        one = jax.vmap(one)
    return one(key, *x)
