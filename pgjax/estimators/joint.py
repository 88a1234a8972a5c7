"""Distributions over several actions at once: arrays of choices, and any pytree of independent parts."""

import operator
from functools import reduce
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.estimators.distributions import Categorical


class MultiCategorical(NamedTuple):
    """k independent choices among n each: log π(a) = Σ_i log p_i(a_i).

    Choices among fewer than n, and forbidden ones, have the logit −1e9: their probability is 0, and so is what they
    add to entropy and KL.

    >>> d = MultiCategorical(jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]])))
    >>> f"{jnp.exp(d.log_prob(jnp.array([0, 1]))):.3f}", d.mode().tolist()
    ('0.375', [0, 1])
    """

    logits: Array  # [..., k, n]

    @property
    def _each(self) -> Categorical:
        return Categorical(self.logits)

    @property
    def log_probs(self) -> Array:
        """Normalised log-probabilities of every choice, [..., k, n]."""
        return self._each.log_probs

    def noise(self, key: Array, draws: tuple[int, ...] = ()) -> Array:
        """A Gumbel number for every choice."""
        return self._each.noise(key, draws)

    def at(self, noise: Array) -> Array:
        """The choices whose logits plus noise are highest, int32 [..., k]."""
        return self._each.at(noise)

    def sample(self, key: Array) -> Array:
        """Draw k numbers, int32 [..., k]."""
        return self.at(self.noise(key))

    def mode(self) -> Array:
        """The most likely choices."""
        return self._each.mode()

    def log_prob(self, action: Array) -> Array:
        """Log-probability of k numbers."""
        return jnp.sum(self._each.log_prob(action), axis=-1)

    def entropy(self) -> Array:
        """Σ_i H(p_i)."""
        return jnp.sum(self._each.entropy(), axis=-1)

    def kl(self, other: Self) -> Array:
        """Σ_i KL(p_i ‖ q_i)."""
        return jnp.sum(self._each.kl(Categorical(other.logits)), axis=-1)

    def to_environment(self, action: Array) -> Array:
        """The numbers themselves."""
        return action


class Joint(NamedTuple):
    """Independent parts of any kind in a pytree; so are actions: log π(a) = Σ_parts log π_part(a_part).

    Entropy and KL are sums too; sample, noise, mode and what the environment receives are pytrees of the same
    structure. Parts may depend on the state together, as outputs of one network; given the state they are independent.

    >>> from pgjax import Gaussian
    >>> move = Categorical(jnp.log(jnp.array([0.25, 0.75])))
    >>> d = Joint({"move": move, "push": Gaussian(jnp.zeros(1), jnp.zeros(1), -jnp.ones(1), jnp.ones(1))})
    >>> action = d.sample(jax.random.key(0))
    >>> sorted(action), d.log_prob(action).shape
    (['move', 'push'], ())
    >>> bool(jnp.isclose(d.entropy(), move.entropy() + d.parts["push"].entropy()))
    True
    """

    parts: Any

    def noise(self, key: Array, draws: tuple[int, ...] = ()) -> Any:
        """Of each part, with a key of its own."""
        own, structure = self._flat()
        keys = jax.random.split(key, len(own))
        return structure.unflatten([part.noise(k, draws) for part, k in zip(own, keys, strict=True)])

    def at(self, noise: Any) -> Any:
        """The action that this noise draws."""
        return self._each("at", noise)

    def sample(self, key: Array) -> Any:
        """Draw an action of every part."""
        return self.at(self.noise(key))

    def mode(self) -> Any:
        """The most likely action of every part."""
        own, structure = self._flat()
        return structure.unflatten([part.mode() for part in own])

    def log_prob(self, action: Any) -> Array:
        """Σ of the parts' log-probabilities."""
        own, structure = self._flat()
        return _sum(part.log_prob(a) for part, a in zip(own, structure.flatten_up_to(action), strict=True))

    def entropy(self) -> Array:
        """Σ of the parts' entropies."""
        return _sum(part.entropy() for part in self._flat()[0])

    def kl(self, other: Self) -> Array:
        """Σ of the parts' KL divergences."""
        return _sum(part.kl(q) for part, q in zip(self._flat()[0], other._flat()[0], strict=True))

    def to_environment(self, action: Any) -> Any:
        """What the environment receives for each part."""
        return self._each("to_environment", action)

    def _each(self, method: str, given: Any) -> Any:
        own, structure = self._flat()
        of_parts = zip(own, structure.flatten_up_to(given), strict=True)
        return structure.unflatten([getattr(part, method)(x) for part, x in of_parts])

    def _flat(self) -> tuple[list, Any]:
        return jax.tree.flatten(self.parts, is_leaf=lambda x: callable(getattr(x, "log_prob", None)))


def _sum(numbers: Any) -> Array:
    return reduce(operator.add, numbers)
