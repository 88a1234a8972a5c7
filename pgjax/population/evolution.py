"""Exploit and explore steps of population-based training."""

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

KEPT_BY_MEMBER = ("key", "rollout_state", "update", "env_steps", "skipped")
"""Fields of its state that a member keeps when it copies another's. With one key, two members would act alike."""


@dataclass(frozen=True)
class Evolution:
    """Settings of population-based training, such as `Evolution((("learning_rate", 1e-4, 1e-2),))`."""

    ranges: tuple[tuple[str, float, float], ...]  # (name, lowest, highest) of each evolving hyperparameter
    from_one: tuple[str, ...] = ()  # hyperparameters x whose 1 − x is drawn and multiplied, such as the discount
    share: float = 0.25  # fraction of members that are replaced by equally many of the best, from 0 to 0.5
    factors: tuple[float, ...] = (0.8, 1.25)  # one of these multiplies a copied hyperparameter; (1,) for none

    def __post_init__(self) -> None:
        """Check the settings."""
        for name, low, high in self.ranges:
            if not 0 < low <= high < float("inf"):
                raise SettingError(name, (low, high), "must be two positive numbers, the lower one first")
            if name.startswith(ENVIRONMENT_PREFIX):
                raise SettingError(
                    name, (low, high), "cannot evolve, because the members would then have different tasks"
                )
        if not 0 <= self.share <= 0.5:
            raise SettingError("share", self.share, "must lie in [0, 0.5]")
        if not self.factors or min(self.factors) <= 0:
            raise SettingError("factors", self.factors, "must be one or more numbers above 0")

    def drawn(self, members: int, seed: int = 0) -> list[dict[str, float]]:
        """Initial settings for `members` members, each number log-uniform in its range."""
        rng = np.random.default_rng(counters.seed(seed))
        drawn = []
        for _ in range(counters.count("members", members)):
            numbers = {name: float(np.exp(rng.uniform(np.log(low), np.log(high)))) for name, low, high in self.ranges}
            drawn.append({name: 1 - x if name in self.from_one else x for name, x in numbers.items()})
        return drawn


def sources(key: Array, score: Array, may: Array, share: float = 0.25) -> Array:
    """The member that each member continues from, [R]: itself or, for the worst, one of the best.

    The ⌈share·R⌉ worst (at most half) are matched at random with equally many best, each used once. A member continues
    from itself if its match has no higher score, or where `may` [R] is False. Higher `score` [R] is better.
    """
    members = len(score)
    count = min(int(np.ceil(share * members)), members // 2)
    order = jnp.argsort(score)
    worst, best = order[:count], jax.random.permutation(key, order[members - count :])
    better = (score[best] > score[worst]) & may[worst]
    return jnp.arange(members).at[worst].set(jnp.where(better, best, worst))


def exploit(state: TrainState, source: Array) -> TrainState:
    """Every member [R, ...] with the learned state of member `source` [R]; it keeps its own `KEPT_BY_MEMBER`."""
    taken = jax.tree.map(lambda x: x[source], state)
    taken = taken._replace(**{name: getattr(state, name) for name in KEPT_BY_MEMBER})
    if state.reward_scale is not None:  # running returns belong to the member's environments
        taken = taken._replace(reward_scale=taken.reward_scale._replace(running=state.reward_scale.running))
    return taken


def explore(how: Evolution, key: Array, algorithm: Algorithm, moved: Array) -> Algorithm:
    """Multiply every evolving hyperparameter of the members in `moved` [R] by a random factor, within its range."""
    now, values = numbers_of(algorithm), {}
    for (name, low, high), draw_key in zip(how.ranges, jax.random.split(key, max(1, len(how.ranges))), strict=False):
        factor = jax.random.choice(draw_key, jnp.asarray(how.factors), moved.shape)
        x = 1 - now[name] if name in how.from_one else now[name]
        x = jnp.clip(x * factor, low, high)
        values[name] = jnp.where(moved, 1 - x if name in how.from_one else x, now[name])
    return with_hyperparameters(algorithm, values)


def evolved(
    how: Evolution, key: Array, algorithm: Algorithm, state: TrainState, score: Array, may: Array
) -> tuple[Algorithm, TrainState, Array]:
    """Exploit, then explore. Returns algorithm and state, leaves [R, ...], and whom each member continues from, [R].

    `score` and `may` are as in `sources`. `key` is that of the whole training; each number of updates derives its own
    from it.
    """
    deal, move = jax.random.split(jax.random.fold_in(key, jnp.max(state.update)))
    source = sources(deal, score, may, how.share)
    algorithm = jax.tree.map(lambda x: x[source], algorithm)
    return explore(how, move, algorithm, source != jnp.arange(len(score))), exploit(state, source), source


def last_score(metrics: Mapping[str, Array], stopped: Array) -> Array:
    """Mean return of each member's updates, [R], from metrics [R, updates]; −∞ for members in `stopped` (not finite).

    A member without a finished episode gets the median score, so that it neither copies nor is copied.
    """
    returns = metrics["return_mean"]
    known = metrics["active"] & jnp.isfinite(returns)
    mean = jnp.sum(jnp.where(known, returns, 0.0), axis=1) / jnp.sum(known, axis=1)
    middle = jnp.nan_to_num(jnp.nanmedian(mean))
    return jnp.where(stopped, -jnp.inf, jnp.where(jnp.isnan(mean), middle, mean))


def numbers_of(algorithm: Algorithm) -> dict[str, Any]:
    """Hyperparameters by short name. Equal short names, such as λ of GAE and of its target, have equal values."""
    return {name.split(".")[-1]: x for name, x in hyperparameters(algorithm).items()}
