"""Rows of a batch, stored in memory or simulated again from their keys."""

from typing import Any, NamedTuple

import jax
from jax import Array

from pgjax.config import Config
from pgjax.engine import engine
from pgjax.engine.blocks import cut
from pgjax.training import rollout
from pgjax.training.signals import first_memory
from pgjax.types import Agent, Environment, Params, Transition

Rows = tuple[Any, Transition, Any, rollout.EpisodeStatistics]
"""Rollout state afterwards, transition, memory at the first row [1, N, ...], statistics."""


class Replay(NamedTuple):
    """Rows that are not stored. A rollout is a pure function of these, so it gives the same rows every time."""

    keys: Array  # one per environment, [N]
    rollout_state: Any  # environments before the rollout, [N, ...]; None for whole episodes
    params: Params  # the parameters that act

    def slices(self, count: int) -> tuple[Array, Any]:
        """Keys and environments split into `count` slices, [count, N / count, ...]."""
        return jax.tree.map(lambda x: cut(count, x, 0), (self.keys, self.rollout_state))


def replayed(environment: Environment, agent: Agent, config: Config, rows: Replay) -> Rows:
    """Run the rollout of `rows`."""
    how, actor = engine(config.engine), rollout.actor(agent, rows.params, training=True)
    if config.rollout == "stream":
        memory = jax.tree.map(lambda x: x[None], rows.rollout_state.memory)
        after, transition, statistics = rollout.stream(
            environment, actor, rows.rollout_state, rows.keys, config.num_steps, how
        )
        return after, transition, memory, statistics
    transition = rollout.episodes(environment, actor, rows.keys, group_size=config.group_size, how=how)
    if config.batch_steps:
        transition = rollout.keep_first(transition, config.batch_steps)
    return None, transition, first_memory(agent, transition), rollout.statistics(transition)
