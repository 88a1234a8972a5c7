"""Distributions over several actions at once: arrays of choices, and pytrees of independent parts."""

import operator
from functools import reduce
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.estimators.distributions import Categorical


class MultiCategorical(NamedTuple):
    """k independent choices among n each, log π(a) = Σ_i log p_i(a_i).

    Masked options, and the padding of choices with fewer than n options, have logit −1e9 and so probability 0.

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
        """Gumbel noise for every option."""
        return self._each.noise(key, draws)

    def at(self, noise: Array) -> Array:
        """The options whose logits plus noise are largest, int32 [..., k]."""
        return self._each.at(noise)

    def sample(self, key: Array) -> Array:
        """Draw k indices, int32 [..., k]."""
        return self.at(self.noise(key))

    def mode(self) -> Array:
        """The most likely choices."""
        return self._each.mode()

    def log_prob(self, action: Array) -> Array:
        """Log-probability of k indices."""
        return jnp.sum(self._each.log_prob(action), axis=-1)

    def entropy(self) -> Array:
        """Σ_i H(p_i)."""
        return jnp.sum(self._each.entropy(), axis=-1)

    def kl(self, other: Self) -> Array:
        """Σ_i KL(p_i ‖ q_i)."""
        return jnp.sum(self._each.kl(Categorical(other.logits)), axis=-1)

    def to_environment(self, action: Array) -> Array:
        """The indices, unchanged."""
        return action


class Joint(NamedTuple):
    """Independent distributions in a pytree, log π(a) = Σ_parts log π_part(a_part); entropy and KL are sums as well.

    Actions and noise are pytrees of the same structure. Parts may share a network, but are independent given the state.

    >>> move = Categorical(jnp.log(jnp.array([0.25, 0.75])))
    >>> d = Joint({"move": move, "jump": Categorical(jnp.zeros(2))})
    >>> f"{jnp.exp(d.log_prob({'move': jnp.array(1), 'jump': jnp.array(0)})):.3f}"
    '0.375'
    """

    parts: Any

    def noise(self, key: Array, draws: tuple[int, ...] = ()) -> Any:
        """Noise of every part, each from its own key."""
        leaves, structure = self._flat()
        keys = jax.random.split(key, len(leaves))
        return structure.unflatten([part.noise(k, draws) for part, k in zip(leaves, keys, strict=True)])

    def at(self, noise: Any) -> Any:
        """The action that this noise gives."""
        return self._each("at", noise)

    def sample(self, key: Array) -> Any:
        """Draw an action of every part."""
        return self.at(self.noise(key))

    def mode(self) -> Any:
        """The most likely action of every part."""
        leaves, structure = self._flat()
        return structure.unflatten([part.mode() for part in leaves])

    def log_prob(self, action: Any) -> Array:
        """Sum of the parts' log-probabilities."""
        leaves, structure = self._flat()
        return _sum(part.log_prob(a) for part, a in zip(leaves, structure.flatten_up_to(action), strict=True))

    def entropy(self) -> Array:
        """Sum of the parts' entropies."""
        return _sum(part.entropy() for part in self._flat()[0])

    def kl(self, other: Self) -> Array:
        """Sum of the parts' KL divergences."""
        return _sum(part.kl(q) for part, q in zip(self._flat()[0], other._flat()[0], strict=True))

    def to_environment(self, action: Any) -> Any:
        """What the environment receives for each part."""
        return self._each("to_environment", action)

    def _each(self, method: str, values: Any) -> Any:
        leaves, structure = self._flat()
        pairs = zip(leaves, structure.flatten_up_to(values), strict=True)
        return structure.unflatten([getattr(part, method)(x) for part, x in pairs])

    def _flat(self) -> tuple[list, Any]:
        return jax.tree.flatten(self.parts, is_leaf=lambda x: callable(getattr(x, "log_prob", None)))


def _sum(numbers: Any) -> Array:
    return reduce(operator.add, numbers)
