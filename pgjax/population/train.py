"""Train a population: one member per seed, one compiled call per exploit step."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding

from pgjax import counters, sweeps
from pgjax.engine import hosts
from pgjax.engine.compiling import Program
from pgjax.population.evolution import Evolution, evolved, last_score, numbers_of
from pgjax.population.lineage import PARENT
from pgjax.sweeps.runs import check_runs
from pgjax.training.keys import as_key
from pgjax.training.loop import NEVER
from pgjax.types import Algorithm, Trainer, TrainState


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
    """One member per seed, with hyperparameters drawn from their ranges; `draw` is the seed of the draws. `algorithm`
    holds the hyperparameters that do not evolve, `how` those that do. `Runs.settings` also holds `parent`, the seed
    that a member continues from, at first its own.
    """
    chosen = counters.seeds(seeds)
    check_runs(trainer, algorithm, len(chosen), len(chosen))
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

    The score is the mean training return of the updates since the previous exploit step. Members that have taken all
    their steps are not replaced. Metrics are those of `sweeps.chunks` and, each [R, updates], the evolving
    hyperparameters of the update and `parent`, the seed of the member whose state it continued from. `Runs.settings`
    has the current values.
    Args:
      updates: number of updates between two exploit steps.
      max_skipped: a member ends, and may be replaced, after this many skipped (non-finite) updates in a row.
      key: of the exploit steps; one that training does not use.
      donate: as in `sweeps.advance`.

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
    limits, key = (jnp.full(len(runs.seeds), total_steps, jnp.int32), jnp.int32(max_skipped)), as_key(key)
    program = _generation_donated if donate else _generation

    def advancing(runs: sweeps.Runs) -> Iterator[tuple[sweeps.Runs, dict[str, np.ndarray]]]:
        while True:
            parents = np.repeat(runs.seeds[:, None], updates, axis=1)
            parents[:, 0] = runs.settings[PARENT]
            algorithm, state, metrics, source = program(
                trainer, updates, runs.mesh, how, runs.algorithm, runs.state, limits, key
            )
            metrics, source, skipped = hosts.fetch((metrics, source, state.skipped_in_a_row))
            numbers = {name: hosts.fetch(numbers_of(algorithm)[name]).astype(float) for name, *_ in how.ranges}
            settings = runs.settings | numbers | {PARENT: runs.seeds[source]}
            runs = runs._replace(algorithm=algorithm, state=state, settings=settings)
            over = (metrics["env_steps"][:, -1] >= total_steps) | (skipped >= max_skipped)
            yield runs, metrics | {PARENT: parents}
            if np.all(over):
                return

    return advancing(runs)


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
    used = {name: jnp.repeat(numbers_of(algorithm)[name][:, None], updates, axis=1) for name, *_ in how.ranges}
    where = jax.tree.map(lambda spec: NamedSharding(mesh, spec), sweeps.placed(state))
    state, metrics = sweeps.advanced(trainer, updates, mesh, algorithm, state, limits)
    score = last_score(metrics, state.skipped_in_a_row >= max_skipped)
    algorithm, state, source = evolved(how, key, algorithm, state, score, may=state.env_steps < total_steps)
    return algorithm, jax.lax.with_sharding_constraint(state, where), metrics | used, source


_generation = Program(_trained_and_evolved, static_argnums=(0, 1, 2, 3))
_generation_donated = Program(_trained_and_evolved, static_argnums=(0, 1, 2, 3), donate_argnums=5)
