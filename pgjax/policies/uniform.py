"""The random policy of an environment, with which scores are compared."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.estimators.distributions import Distribution
from pgjax.estimators.joint import Joint
from pgjax.policies.actions import checked_parts, distribution, outputs
from pgjax.policies.inputs import reader
from pgjax.spaces import Box, Part, is_part
from pgjax.types import Environment


class Uniform(NamedTuple):
    """Uniform distribution over a box, with the methods that a rollout calls."""

    low: Array  # [..., d]
    high: Array

    def noise(self, key: Array, draws: tuple[int, ...] = ()) -> Array:
        """Uniform in [0, 1)."""
        return jax.random.uniform(key, (*draws, *self.low.shape))

    def at(self, noise: Array) -> Array:
        """The action at this noise."""
        return (1 - noise) * self.low + noise * self.high  # high − low may be infinite

    def log_prob(self, action: Array) -> Array:
        """Log density."""
        return -jnp.sum(jnp.log(self.high - self.low), axis=-1)

    def to_environment(self, action: Array) -> Array:
        """The action itself."""
        return action


def uniform_policy(environment: Environment) -> Callable[[Any], Distribution]:
    """observation -> distribution: uniform over allowed choices and bounded numbers, N(0, 1) for unbounded ones."""
    spaces, _, structure = checked_parts(environment)
    read = reader(environment, lambda observation: ())

    def one(part: Part, mask: Array | None) -> Any:
        if isinstance(part, Box) and np.isfinite(part.bounds()).all():
            return Uniform(*(jnp.asarray(bound).reshape(-1) for bound in part.bounds()))
        log_std = jnp.zeros(outputs(part)) if isinstance(part, Box) else None
        shape = () if mask is None else mask.shape[:-1]
        return distribution(part, "auto", jnp.zeros((*shape, outputs(part))), log_std, [mask])

    def policy(observation: Any) -> Any:
        each = [one(*pair) for pair in zip(spaces, read(observation).masks, strict=True)]
        return each[0] if is_part(environment.action_space) else Joint(structure.unflatten(each))

    return policy
