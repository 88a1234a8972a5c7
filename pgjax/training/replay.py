"""Rows of a batch: held in memory, or simulated again from their keys whenever they are needed."""

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
"""Rollout state after, transition, memory at the first row [1, N, ...], statistics."""


class Replay(NamedTuple):
    """Rows that are not held: a rollout is a function of these, and gives the same rows every time.

    Attributes:
      keys: one per environment, [N].
      rollout_state: environments in flight before the rollout, [N, ...]; None for whole episodes.
      params: that act.
    """

    keys: Array
    rollout_state: Any
    params: Params

    def slices(self, count: int) -> tuple[Array, Any]:
        """Keys and environments of so many slices, [count, N / count, ...]."""
        return jax.tree.map(lambda x: cut(count, x, 0), (self.keys, self.rollout_state))


def replayed(environment: Environment, agent: Agent, config: Config, rows: Replay) -> Rows:
    """Act: a pure function of the keys, the environments in flight and the parameters."""
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
