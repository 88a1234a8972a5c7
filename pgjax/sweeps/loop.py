"""Train many runs in parallel, in compiled chunks of updates, spread over devices."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from pgjax import counters
from pgjax.engine import hosts
from pgjax.engine.compiling import Program
from pgjax.engine.devices import SEED_AXIS
from pgjax.engine.memory import check_room
from pgjax.sweeps.runs import Runs, placed, spread_over
from pgjax.training.checks import steps_per_update
from pgjax.training.loop import NEVER, run_updates
from pgjax.types import Algorithm, Trainer, TrainState

ROW = 160
"""Approximate bytes of one run's metrics per update: twenty numbers, on the device and in numpy."""


def steps_of(trainer: Trainer) -> int:
    """The largest number of environment steps that one update takes."""
    return steps_per_update(trainer.environment, trainer.config)


def advance(
    trainer: Trainer,
    runs: Runs,
    total_steps: float,
    updates: int,
    max_skipped: int = NEVER,
    *,
    donate: bool = False,
    stopped: np.ndarray | None = None,
) -> tuple[Runs, dict[str, np.ndarray]]:
    """Make up to `updates` more updates of every run that has not yet taken `total_steps` environment steps.

    Runs with `max_skipped` skipped (non-finite) updates in a row, and those with `stopped` [R] True, stay unchanged.
    With `donate` the memory of `runs.state` is reused, and `runs.state` is deleted. Returns Runs, and metrics by name,
    [R, updates]; `active` is False where a run was already done. `chunks` shows an example.
    """
    budget = counters.budget("total_steps", total_steps, steps_of(trainer))
    limits = (
        jnp.asarray(np.where(np.zeros(len(runs.seeds), bool) if stopped is None else stopped, 0, budget), jnp.int32),
        jnp.int32(counters.count("max_skipped", max_skipped)),
    )
    program = _advance_donated if donate else _advance
    updates = counters.count("updates", updates)
    check_room("updates", updates, len(runs.seeds) * updates * ROW, "their metrics")
    state, metrics = program(trainer, updates, runs.mesh, runs.algorithm, runs.state, limits)
    return runs._replace(state=state), hosts.fetch(metrics)


def compiled(trainer: Trainer, runs: Runs, updates: int) -> Any:
    """The compiled program of `advance`, whose text shows the communication between devices."""
    limits = jnp.zeros(len(runs.seeds), jnp.int32), jnp.int32(NEVER)
    return _advance.lower(trainer, updates, runs.mesh, runs.algorithm, runs.state, limits).compile()


def chunks(
    trainer: Trainer,
    runs: Runs,
    total_steps: float,
    updates: int = 10,
    max_skipped: int = NEVER,
    *,
    donate: bool = False,
) -> Iterator[tuple[Runs, dict[str, np.ndarray]]]:
    """Advance until every run has taken `total_steps`, yielding (runs, metrics) after each compiled chunk.

    A run also ends after `max_skipped` skipped updates in a row. Arguments are those of `advance`; with `donate`,
    earlier Runs are deleted when the next chunk begins.

    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce, sweeps
    >>> env = environments.make("SimpleBandit-bsuite")  # one-step episodes
    >>> trainer = make_trainer(env, make_agent(env, hidden=()), Config(num_envs=2))
    >>> runs = sweeps.start(trainer, reinforce().algorithm)
    >>> [metrics["env_steps"].tolist() for _, metrics in chunks(trainer, runs, total_steps=8, updates=3)]
    [[[2, 4, 6]], [[8, 8, 8]]]
    """
    total_steps = counters.budget("total_steps", total_steps, steps_of(trainer))
    updates, max_skipped = counters.count("updates", updates), counters.count("max_skipped", max_skipped)

    def advancing(runs: Runs) -> Iterator[tuple[Runs, dict[str, np.ndarray]]]:
        while True:
            runs, metrics = advance(trainer, runs, total_steps, updates, max_skipped, donate=donate)
            skipped = hosts.fetch(runs.state.skipped_in_a_row)
            over = (metrics["env_steps"][:, -1] >= total_steps) | (skipped >= max_skipped)
            yield runs, metrics
            if np.all(over):
                return

    return advancing(runs)


def join(pieces: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Concatenate the metrics of chunks to [R, updates], without updates after all runs were done."""
    joined = {name: np.concatenate([piece[name] for piece in pieces], axis=1) for name in pieces[0]}
    last = int(joined["active"].any(axis=0).sum())
    return {name: values[:, :last] for name, values in joined.items()}


def advanced(
    trainer: Trainer, updates: int, mesh: Mesh, algorithm: Algorithm, state: TrainState, limits: tuple[Array, Array]
) -> tuple[TrainState, dict[str, Array]]:
    """`run_updates` of every run, to be compiled. `limits` are (total_steps [R], max_skipped)."""

    def one(
        algorithm: Algorithm, state: TrainState, limits: tuple[Array, Array]
    ) -> tuple[TrainState, dict[str, Array]]:
        total_steps, max_skipped = limits
        return run_updates(trainer, algorithm, state, total_steps, updates, max_skipped)

    all_runs, state_specs = jax.vmap(one, in_axes=(0, 0, (0, None))), placed(state)
    in_specs = P(SEED_AXIS), state_specs, (P(SEED_AXIS), P())
    return spread_over(all_runs, mesh, in_specs, (state_specs, P(SEED_AXIS)))(algorithm, state, limits)


_advance = Program(advanced, static_argnums=(0, 1, 2))
_advance_donated = Program(advanced, static_argnums=(0, 1, 2), donate_argnums=4)
