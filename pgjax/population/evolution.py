"""How a population changes: who goes on from whom, with what, and with which hyperparameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax import counters
from pgjax.methods.hyperparameters import ENVIRONMENT_PREFIX, hyperparameters, with_hyperparameters
from pgjax.types import Algorithm, SettingError, TrainState

OF_THE_MEMBER = ("key", "rollout_state", "update", "env_steps", "skipped")
"""What of its state a member keeps when it takes over another's: two with one key would act alike ever after."""


@dataclass(frozen=True)
class Evolution:
    """How a population changes.

    Attributes:
      ranges: (name, lowest, highest) of each evolving hyperparameter; it stays between them.
      from_one: those whose distance from 1 is meant: 0.99 moves to 1 − 0.01·factor.
      share: of the members that are replaced, from 0 to a half; as many of the best replace them.
      factors: one of these multiplies a hyperparameter that was taken over; (1,) for no exploration.

    >>> Evolution((("learning_rate", 1e-4, 1e-2),)).share
    0.25
    """

    ranges: tuple[tuple[str, float, float], ...]
    from_one: tuple[str, ...] = ()
    share: float = 0.25
    factors: tuple[float, ...] = (0.8, 1.25)

    def __post_init__(self) -> None:
        """Refuse what is no evolution."""
        for name, low, high in self.ranges:
            if not 0 < low <= high < float("inf"):
                raise SettingError(name, (low, high), "must be two positive numbers, the lower one first")
            if name.startswith(ENVIRONMENT_PREFIX):
                raise SettingError(name, (low, high), "cannot evolve: the members would be tasks of their own")
        if not 0 <= self.share <= 0.5:
            raise SettingError("share", self.share, "must lie in [0, 0.5]")
        if not self.factors or min(self.factors) <= 0:
            raise SettingError("factors", self.factors, "must be one or more numbers above 0")

    def drawn(self, members: int, seed: int = 0) -> list[dict[str, float]]:
        """So many settings, each number log-uniform in its range: what members begin with.

        >>> [setting] = Evolution((("discount", 0.01, 0.02),), from_one=("discount",)).drawn(1)
        >>> 0.98 <= setting["discount"] <= 0.99
        True
        """
        rng = np.random.default_rng(counters.seed(seed))
        drawn = []
        for _ in range(counters.count("members", members)):
            numbers = {name: float(np.exp(rng.uniform(np.log(low), np.log(high)))) for name, low, high in self.ranges}
            drawn.append({name: 1 - x if name in self.from_one else x for name, x in numbers.items()})
        return drawn


def sources(key: Array, score: Array, may: Array, share: float = 0.25) -> Array:
    """From which member each goes on, [R]: itself, or, for the worst of them, one of the best.

    Each of the ⌈share·R⌉ worst (at most half of them) is dealt one of the equally many best, by chance and each once;
    it stays itself where that one is no better.

    Args:
      key: for dealing.
      score: of each member, [R]; higher is better.
      may: where a member may be replaced, [R].
      share: from 0 to a half.

    >>> score = jnp.array([3.0, 1.0, 2.0, 4.0])
    >>> sources(jax.random.key(0), score, jnp.ones(4, bool)).tolist()
    [0, 3, 2, 3]
    """
    members = len(score)
    count = min(int(np.ceil(share * members)), members // 2)
    order = jnp.argsort(score)
    worst, best = order[:count], jax.random.permutation(key, order[members - count :])
    better = (score[best] > score[worst]) & may[worst]
    return jnp.arange(members).at[worst].set(jnp.where(better, best, worst))


def exploit(state: TrainState, source: Array) -> TrainState:
    """Every member [R, ...] with what `source` [R] has learned; `OF_THE_MEMBER` stays its own."""
    taken = jax.tree.map(lambda x: x[source], state)
    taken = taken._replace(**{name: getattr(state, name) for name in OF_THE_MEMBER})
    if state.reward_scale is not None:  # the returns so far belong to the environments in flight
        taken = taken._replace(reward_scale=taken.reward_scale._replace(running=state.reward_scale.running))
    return taken


def explore(how: Evolution, key: Array, algorithm: Algorithm, moved: Array) -> Algorithm:
    """Every evolving hyperparameter of the members that `moved` [R] times one of the factors, within its range."""
    now, values = numbers_of(algorithm), {}
    for (name, low, high), own in zip(how.ranges, jax.random.split(key, max(1, len(how.ranges))), strict=False):
        factor = jax.random.choice(own, jnp.asarray(how.factors), moved.shape)
        x = 1 - now[name] if name in how.from_one else now[name]
        x = jnp.clip(x * factor, low, high)
        values[name] = jnp.where(moved, 1 - x if name in how.from_one else x, now[name])
    return with_hyperparameters(algorithm, values)


def evolved(
    how: Evolution, key: Array, algorithm: Algorithm, state: TrainState, score: Array, may: Array
) -> tuple[Algorithm, TrainState, Array]:
    """Exploit, then explore.

    Args:
      how: what changes, and how much.
      key: of the whole training; each number of updates draws its own from it.
      algorithm: leaves [R, ...].
      state: leaves [R, ...].
      score: of each member, [R].
      may: where a member may be replaced, [R].

    Returns:
      Algorithm, state, and from which member each goes on, [R].
    """
    deal, move = jax.random.split(jax.random.fold_in(key, jnp.max(state.update)))
    source = sources(deal, score, may, how.share)
    algorithm = jax.tree.map(lambda x: x[source], algorithm)
    return explore(how, move, algorithm, source != jnp.arange(len(score))), exploit(state, source), source


def last_score(metrics: Mapping[str, Array], stopped: Array) -> Array:
    """Mean return of each member's updates, [R], from metrics [R, updates]; −∞ where it `stopped`, not finite.

    A member of which no episode ended counts as the median one, which neither gives nor takes.

    >>> metrics = {"return_mean": jnp.array([[1.0, 3.0], [5.0, jnp.nan], [jnp.nan, jnp.nan]])}
    >>> metrics["active"] = jnp.ones((3, 2), bool)
    >>> last_score(metrics, jnp.zeros(3, bool)).tolist()
    [2.0, 5.0, 3.5]
    """
    returns = metrics["return_mean"]
    known = metrics["active"] & jnp.isfinite(returns)
    mean = jnp.sum(jnp.where(known, returns, 0.0), axis=1) / jnp.sum(known, axis=1)
    middle = jnp.nan_to_num(jnp.nanmedian(mean))
    return jnp.where(stopped, -jnp.inf, jnp.where(jnp.isnan(mean), middle, mean))


def numbers_of(algorithm: Algorithm) -> dict[str, Any]:
    """Numbers by short name; those of several places, as λ of GAE and of its target, are the same."""
    return {name.split(".")[-1]: x for name, x in hyperparameters(algorithm).items()}
