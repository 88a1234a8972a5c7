"""What policy and critic read at a step: features, action masks and, in training, a key."""

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
    """What networks behind a memory are given in place of an observation; behind none it is made of one.

    Attributes:
      policy: features for the policy.
      critic: features for the critic; the same where there is one memory or none.
      masks: for each part of the action space what is allowed, [..., outputs], or None.
      key: of networks that draw, in training; else None.
    """

    policy: Any
    critic: Any
    masks: tuple[Array | None, ...]
    key: KeyData | None = None


NETWORKS = ("memory", "critic_memory", "trunk", "actor", "critic")
"""Each draws from a key of its own."""


def reader(environment: Environment, features: Callable[[Any], Any]) -> Callable[[Any], Inputs]:
    """observation [..., *shape], `Keyed` or not -> features, masks and key."""
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
    """Whether a network draws while training: its `apply`, or a flax module's `__call__`, has an argument `key`.

    A network may say so itself, by an attribute `takes_key`.
    """
    own = getattr(network, "takes_key", None)
    if own is not None:
        return bool(own)
    try:
        parameters = signature(network.apply).parameters
        passed_on = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        return "key" in parameters or (passed_on and "key" in signature(type(network).__call__).parameters)
    except (AttributeError, TypeError, ValueError):  # no network, or one without a signature
        return False


def apply(network: Any, name: str, params: Any, *x: Any, key: KeyData | None) -> Any:
    """network.apply(params, *x); with the key of every row of x, where there is one and the network takes it.

    Args:
      network: one of NETWORKS.
      name: its name there.
      params: its own.
      *x: [..., features], behind a memory's carry.
      key: [...].
    """
    if key is None or not takes_key(network):
        return network.apply(params, *x)

    def one(key: KeyData, *x: Any) -> Any:
        return network.apply(params, *x, key=jax.random.split(key.key(), len(NETWORKS))[NETWORKS.index(name)])

    for _ in range(key.key().ndim):
        one = jax.vmap(one)
    return one(key, *x)
