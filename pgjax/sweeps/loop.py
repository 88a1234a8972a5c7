"""Many runs trained side by side in compiled chunks of updates, spread over devices."""

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
"""Bytes of a run's metrics of an update, about: twenty numbers, on the device and in numpy."""


def steps_of(trainer: Trainer) -> int:
    """The most environment steps that one update takes."""
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
    """Up to `updates` more updates of every run that has not yet taken `total_steps` environment steps.

    A run of which `max_skipped` updates in a row were not finite is left as it is.

    Args:
      trainer: what runs.
      runs: where they stand. They stay as they are, unless `donate`.
      total_steps: environment steps after which a run is over.
      updates: how many updates, at most.
      max_skipped: how many updates in a row may be not finite.
      donate: reuse the memory of `runs.state`, which is deleted: for a loop that keeps no earlier Runs.
      stopped: True for runs that stay as they are, [R]; default none.

    Returns:
      Runs, and metrics by name, [R, updates]; `active` is False where a run was already done.

    Raises:
      SettingError: for numbers that are no counts, or more steps than a counter of 32 bits holds.

    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce, sweeps
    >>> env = environments.make("SimpleBandit-bsuite")  # episodes of one step
    >>> trainer = make_trainer(env, make_agent(env, hidden=()), Config(num_envs=2))
    >>> first = sweeps.start(trainer, reinforce().algorithm)
    >>> second, metrics = advance(trainer, first, total_steps=100, updates=3)
    >>> first.state.env_steps.tolist(), second.state.env_steps.tolist()
    ([0], [6])
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
    """The program that `advance` runs, as jax's `Compiled`: its text shows the communication between devices."""
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
    """Advance until every run has taken `total_steps`; yields after each compiled chunk, for the caller to report.

    A run is also over once `max_skipped` of its updates in a row were not finite. The arguments are those of
    `advance`: with `donate`, the Runs given and all yielded are deleted when the next chunk begins.

    Raises:
      SettingError: as `advance`, when called.

    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce, sweeps
    >>> env = environments.make("SimpleBandit-bsuite")  # episodes of one step
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
    """Metrics of all chunks one after the other, [R, updates], without updates in which every run was done."""
    joined = {name: np.concatenate([piece[name] for piece in pieces], axis=1) for name in pieces[0]}
    last = int(joined["active"].any(axis=0).sum())
    return {name: values[:, :last] for name, values in joined.items()}


def advanced(
    trainer: Trainer, updates: int, mesh: Mesh, algorithm: Algorithm, state: TrainState, limits: tuple[Array, Array]
) -> tuple[TrainState, dict[str, Array]]:
    """`run_updates` of every run, to be compiled; limits are (total_steps of each run [R], max_skipped)."""

    def one(
        algorithm: Algorithm, state: TrainState, limits: tuple[Array, Array]
    ) -> tuple[TrainState, dict[str, Array]]:
        total_steps, max_skipped = limits
        return run_updates(trainer, algorithm, state, total_steps, updates, max_skipped)

    every, there = jax.vmap(one, in_axes=(0, 0, (0, None))), placed(state)
    given = P(SEED_AXIS), there, (P(SEED_AXIS), P())
    return spread_over(every, mesh, given, (there, P(SEED_AXIS)))(algorithm, state, limits)


_advance = Program(advanced, static_argnums=(0, 1, 2))
_advance_donated = Program(advanced, static_argnums=(0, 1, 2), donate_argnums=4)
