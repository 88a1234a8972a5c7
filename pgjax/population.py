"""Population-based training: the worst runs go on from the best ones, with hyperparameters moved a little.

Members train side by side for some updates (`run_updates` under `vmap`). Then each of the worst share of them takes
over the parameters, optimiser state and hyperparameters of one of the best (exploit), which is a gather along the axis
of runs, and multiplies every evolving hyperparameter by a random factor (explore). Training and gather are one compiled
program. Jaderberg et al. 2017. https://arxiv.org/abs/1711.09846

All that the next step needs is in `Runs`: the random numbers of an exploit step are drawn from a key and the number of
updates done, so a population that is saved and restored goes on to the bit as if it had not been.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding

from pgjax import counters, sweeps
from pgjax.engine import hosts
from pgjax.methods.hyperparameters import OF_THE_ENVIRONMENT, hyperparameters, with_hyperparameters
from pgjax.training.keys import as_key
from pgjax.training.loop import NEVER
from pgjax.types import Algorithm, SettingError, Trainer, TrainState

OF_THE_MEMBER = ("key", "rollout_state", "update", "env_steps", "skipped")
"""What of its state a member keeps when it takes over another's: two with one key would act alike ever after."""


PARENT = "parent"
"""Name of a run's setting and metric: the seed of the member that it went on from at the last exploit step."""


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
            if name.startswith(OF_THE_ENVIRONMENT):
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
    now, values = _numbers(algorithm), {}
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


def start(
    trainer: Trainer,
    algorithm: Algorithm,
    how: Evolution,
    *,
    seeds: int | Sequence[int],
    draw: int = 0,
    devices: Sequence[Any] | None = None,
    mesh: Sequence[int] | None = None,
) -> sweeps.Runs:
    """A member for each seed, with hyperparameters drawn from their ranges.

    `Runs.settings` holds `parent` beside them: the seed that a member goes on from, its own at first.

    Args:
      trainer: what to run.
      algorithm: the hyperparameters that do not evolve.
      how: those that do.
      seeds: how many members, or the seed of each, as in `sweeps.start`.
      draw: seed of the draws.
      devices: as in `sweeps.start`.
      mesh: as in `sweeps.start`.

    Raises:
      SettingError: as `sweeps.start`; for hyperparameters that the algorithm does not have.
    """
    chosen = counters.seeds(seeds)
    over = how.drawn(len(chosen), draw)
    runs = sweeps.start(trainer, algorithm, seeds=chosen, over=over, paired=True, devices=devices, mesh=mesh)
    return runs._replace(settings=runs.settings | {PARENT: runs.seeds})


def chunks(
    trainer: Trainer,
    runs: sweeps.Runs,
    total_steps: float,
    updates: int = 10,
    max_skipped: int = NEVER,
    *,
    how: Evolution,
    key: Array,
    donate: bool = False,
) -> Iterator[tuple[sweeps.Runs, dict[str, np.ndarray]]]:
    """Train a population until every member has taken `total_steps`; yields after each exploit step.

    The score is the mean training return of the updates since the last one. Members that have taken all their steps
    are not replaced any more. Metrics are those of `sweeps.chunks` and, for the lineage, each [R, updates]: the evolving
    hyperparameters, by name, that the update was made with, and `parent`, the seed of the member whose state it went on
    from. `Runs.settings` has the numbers of now.

    Args:
      trainer: what runs.
      runs: from `start`, or where training stopped.
      total_steps: environment steps of each member.
      updates: how many of them between two exploit steps.
      max_skipped: a member is over, and may be replaced, once so many updates in a row were not finite.
      how: what evolves.
      key: of the exploit steps; never one that training uses.
      donate: as in `sweeps.advance`.

    Raises:
      SettingError: as `sweeps.chunks`.

    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce
    >>> env, how = environments.make("SimpleBandit-bsuite"), Evolution((("learning_rate", 1e-3, 1e-1),))
    >>> trainer = make_trainer(env, make_agent(env, hidden=()), Config(num_envs=2))
    >>> runs = start(trainer, reinforce().algorithm, how, seeds=4)
    >>> for runs, metrics in chunks(trainer, runs, total_steps=8, updates=2, how=how, key=jax.random.key(1 << 31)):
    ...     print(metrics["env_steps"][0].tolist(), metrics["parent"].shape)
    [2, 4] (4, 2)
    [6, 8] (4, 2)
    """
    total_steps = counters.budget("total_steps", total_steps, sweeps.steps_of(trainer))
    updates, max_skipped = counters.count("updates", updates), counters.count("max_skipped", max_skipped)
    limits, key = (jnp.int32(total_steps), jnp.int32(max_skipped)), as_key(key)
    program = _generation_donated if donate else _generation

    def advancing(runs: sweeps.Runs) -> Iterator[tuple[sweeps.Runs, dict[str, np.ndarray]]]:
        while True:
            parents = np.repeat(runs.seeds[:, None], updates, axis=1)
            parents[:, 0] = runs.settings[PARENT]
            algorithm, state, metrics, source = program(
                trainer, updates, runs.mesh, how, runs.algorithm, runs.state, limits, key
            )
            metrics, source, skipped = hosts.fetch((metrics, source, state.skipped_in_a_row))
            numbers = {name: hosts.fetch(_numbers(algorithm)[name]).astype(float) for name, *_ in how.ranges}
            settings = runs.settings | numbers | {PARENT: runs.seeds[source]}
            runs = runs._replace(algorithm=algorithm, state=state, settings=settings)
            over = (metrics["env_steps"][:, -1] >= total_steps) | (skipped >= max_skipped)
            yield runs, metrics | {PARENT: parents}
            if np.all(over):
                return

    return advancing(runs)


def lineage(metrics: Mapping[str, np.ndarray], how: Evolution) -> tuple[tuple[str, ...], list[tuple]]:
    """Every takeover, as columns and rows: after which update, seed, the seed copied from, and the new hyperparameters.

    What members began with are rows of update 0, copied from themselves.

    Args:
      metrics: of the whole training, as `chunks` gives them and `sweeps.join` joins them, or from a run's metrics.csv.
      how: what evolved.
    """
    names = [name for name, *_ in how.ranges]
    parents, rows = metrics[PARENT], []
    seeds = parents[:, 0]
    for r, u in zip(*np.nonzero(metrics["active"]), strict=True):
        if u == 0 or parents[r, u] != seeds[r]:
            numbers = (float(metrics[name][r, u]) for name in names)
            rows.append((int(metrics["update"][r, u]) - 1, int(seeds[r]), int(parents[r, u]), *numbers))
    return ("update", "seed", "copied_from", *names), sorted(rows)


def _numbers(algorithm: Algorithm) -> dict[str, Any]:
    """Numbers by short name; those of several places, as λ of GAE and of its target, are the same."""
    return {name.split(".")[-1]: x for name, x in hyperparameters(algorithm).items()}


def _trained_and_evolved(
    trainer: Trainer,
    updates: int,
    mesh: Mesh,
    how: Evolution,
    algorithm: Algorithm,
    state: TrainState,
    limits: tuple[Array, Array],
    key: Array,
) -> tuple[Algorithm, TrainState, dict[str, Array], Array]:
    """`updates` updates of every member, then one exploit step."""
    total_steps, max_skipped = limits
    used = {name: jnp.repeat(_numbers(algorithm)[name][:, None], updates, axis=1) for name, *_ in how.ranges}
    where = jax.tree.map(lambda spec: NamedSharding(mesh, spec), sweeps.placed_as(state))
    state, metrics = sweeps.advanced(trainer, updates, mesh, algorithm, state, limits)
    score = last_score(metrics, state.skipped_in_a_row >= max_skipped)
    algorithm, state, source = evolved(how, key, algorithm, state, score, may=state.env_steps < total_steps)
    return algorithm, jax.lax.with_sharding_constraint(state, where), metrics | used, source


_generation = partial(jax.jit, static_argnums=(0, 1, 2, 3))(_trained_and_evolved)
_generation_donated = partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=5)(_trained_and_evolved)
