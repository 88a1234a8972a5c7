"""Rollouts: a policy and an environment in, `Transition` [T, N] out.

Both modes are written for one environment and vmapped over a batch of keys, one per environment: each episode is a
function of its own key alone, whatever else runs beside it. All that is random in a rollout is drawn before its loop:
a loop of few environments is as slow as it has operations, however small they are.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.distributions import Distribution
from pgjax.types import Agent, Environment, Params, Transition


RESETS_AT_ONCE = 1 << 12
"""Up to so many steps per batch, every step's reset is made before the loop: faster while it all stays in cache."""


class Actor(NamedTuple):
    """What acts in one environment: (carry, observation) -> (carry, distribution); and what an episode starts with."""

    act: Callable[[Any, Any], tuple[Any, Distribution]]
    initial: Any = ()


Policy = Callable[[Any], Distribution] | Actor
"""observation -> distribution, as `functools.partial(agent.policy, params)`; or, with a memory, an Actor."""


def actor(agent: Agent, params: Params) -> Actor:
    """An agent acting with given parameters, its memory included."""
    memory = agent.memory
    if memory is None:
        return _as_actor(lambda observation: agent.policy(params, observation))

    def act(carry: Any, observation: Any) -> tuple[Any, Distribution]:
        carry, features = memory.step(params, carry, observation)
        return carry, agent.policy(params, features)

    return Actor(act, memory.initial)


def _as_actor(policy: Policy) -> Actor:
    return policy if isinstance(policy, Actor) else Actor(lambda carry, observation: (carry, policy(observation)))


class EpisodeStatistics(NamedTuple):
    """Sums over the episodes that ended in a rollout; undiscounted returns."""

    episodes: Array
    return_sum: Array
    length_sum: Array

    def means(self) -> dict[str, Array]:
        """Mean return and length, NaN where no episode ended."""
        nan_if_none = jnp.where(self.episodes > 0, self.episodes, jnp.nan)
        return {
            "return_mean": self.return_sum / nan_if_none,
            "episodes": self.episodes,
            "length_mean": self.length_sum / nan_if_none,
        }


class StreamState(NamedTuple):
    """Environments in flight, [N, ...]: where the next streaming rollout goes on."""

    state: Any
    observation: Any
    memory: Any
    episode_return: Array
    episode_length: Array


class Visited(NamedTuple):
    """A place in an episode that rollouts can be branched from; arrays of one environment, or [N, ...]."""

    state: Any
    observation: Any


def episodes(
    environment: Environment,
    policy: Policy,
    keys: Array,
    *,
    start: Visited | None = None,
    group_size: int = 1,
    greedy: bool = False,
) -> Transition:
    """Whole-episode mode: reset, run to the horizon, mask after the first end.

    What follows an end is frozen at the final observation, with mask and reward 0. An episode still running at
    `environment.horizon` is truncated there.

    Args:
      environment: what to act in.
      policy: observation -> distribution.
      keys: one per episode, [N].
      start: where each episode goes on from, [N, ...]; default a reset.
      group_size: so many consecutive episodes share one reset (and nothing else).
      greedy: take the mode instead of a sample.

    Returns:
      Transition [horizon, N, ...].
    """

    acting = _as_actor(policy)

    def episode(reset_key: Array, steps_key: Array, start: Visited | None) -> Transition:
        observation, state = environment.reset(reset_key) if start is None else (start.observation, start.state)
        draws = _draw(acting, observation, steps_key, environment.horizon, greedy=greedy)

        def step(
            carry: tuple[Any, Any, Any, Array], now: tuple[Array, Draws]
        ) -> tuple[tuple[Any, Any, Any, Array], Transition]:
            (observation, state, memory, alive), (t, draw) = carry, now
            row, new_state, memory = _act(environment, acting, draw, observation, state, memory)
            row = row._replace(
                reward=jnp.where(alive, row.reward, 0.0),
                terminated=alive & row.terminated,
                truncated=alive & (row.truncated | (~row.terminated & (t == environment.horizon - 1))),
                next_observation=_where(alive, row.next_observation, observation),
                mask=alive.astype(jnp.float32),
            )
            alive = alive & ~(row.terminated | row.truncated)
            return (row.next_observation, _where(alive, new_state, state), memory, alive), row

        carry = (observation, state, acting.initial, jnp.bool_(True))
        return jax.lax.scan(step, carry, (jnp.arange(environment.horizon), draws))[1]

    pairs = jax.vmap(jax.random.split)(keys)
    leader = jnp.arange(len(keys)) // group_size * group_size
    return jax.vmap(episode, out_axes=1)(pairs[leader, 0], pairs[:, 1], start)


def visit(environment: Environment, policy: Policy, key: Array, steps: Array) -> Visited:
    """Where an episode stands after so many steps, for branching; where it ended, if it ended before.

    Args:
      environment: what to act in.
      policy: observation -> distribution.
      key: of the episode.
      steps: how many, a scalar.
    """

    acting = _as_actor(policy)

    def step(
        carry: tuple[Visited, Any, Array], following: tuple[Array, Draws]
    ) -> tuple[tuple[Visited, Any, Array], None]:
        (now, memory, alive), (t, draw) = carry, following
        row, state, memory = _act(environment, acting, draw, now.observation, now.state, memory)
        alive = alive & (t < steps)
        now = _where(alive, Visited(state, row.next_observation), now)
        return (now, memory, alive & ~(row.terminated | row.truncated)), None

    reset_key, steps_key = jax.random.split(key)
    observation, state = environment.reset(reset_key)
    draws = _draw(acting, observation, steps_key, environment.horizon)
    carry = Visited(state, observation), acting.initial, jnp.bool_(True)
    return jax.lax.scan(step, carry, (jnp.arange(environment.horizon), draws))[0][0]


def start_stream(environment: Environment, keys: Array, memory: Any = ()) -> StreamState:
    """Reset N environments, one key each, for streaming; `memory` is what an actor starts an episode with."""
    observation, state = jax.vmap(environment.reset)(keys)
    zeros = jnp.zeros(keys.shape, jnp.float32)
    return StreamState(state, observation, repeat(memory, len(keys)), zeros, zeros)


def repeat(tree: Any, count: int) -> Any:
    """The same for each of N environments, [N, ...]."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), tree)


def stream(
    environment: Environment, policy: Policy, stream_state: StreamState, keys: Array, num_steps: int
) -> tuple[StreamState, Transition, EpisodeStatistics]:
    """Streaming mode: exactly `num_steps` steps of every environment, with auto-reset.

    `next_observation` is the observation before a reset; the next row's observation the one after it. Statistics of
    the episodes that ended are summed inside the scan.

    Args:
      environment: what to act in.
      policy: observation -> distribution.
      stream_state: from `start_stream` or the previous call.
      keys: one per environment, [N].
      num_steps: steps per environment.

    Returns:
      The new stream state, Transition [num_steps, N, ...], episode statistics.
    """

    acting = _as_actor(policy)

    at_once = num_steps * len(keys) <= RESETS_AT_ONCE

    def one(start: StreamState, key: Array) -> tuple[StreamState, Transition, Array]:
        draws = _draw(acting, start.observation, key, num_steps)
        resets = jax.vmap(environment.reset)(draws.reset_key) if at_once else draws.reset_key

        def step(carry: tuple[StreamState, Array], following: tuple[Draws, Any]) -> tuple[Any, Transition]:
            (now, totals), (draw, fresh) = carry, following
            row, state, memory = _act(environment, acting, draw, now.observation, now.state, now.memory)
            fresh_observation, fresh_state = fresh if at_once else environment.reset(fresh)
            done = row.terminated | row.truncated
            returned, length = now.episode_return + row.reward, now.episode_length + 1.0
            after = StreamState(
                state=_where(done, fresh_state, state),
                observation=_where(done, fresh_observation, row.next_observation),
                memory=_where(done, acting.initial, memory),
                episode_return=jnp.where(done, 0.0, returned),
                episode_length=jnp.where(done, 0.0, length),
            )
            ended = jnp.where(done, jnp.stack([jnp.ones_like(returned), returned, length]), 0.0)
            return (after, totals + ended), row

        (final, totals), rows = jax.lax.scan(step, (start, jnp.zeros(3)), (draws, resets))
        return final, rows, totals

    final, rows, totals = jax.vmap(one, out_axes=(0, 1, 0))(stream_state, keys)
    return final, rows, EpisodeStatistics(*jnp.sum(totals, axis=0))


def statistics(transition: Transition) -> EpisodeStatistics:
    """Episode statistics of a whole-episode rollout."""
    ended = transition.terminated | transition.truncated
    return EpisodeStatistics(jnp.sum(ended.astype(jnp.float32)), jnp.sum(transition.reward), jnp.sum(transition.mask))


def keep_first(transition: Transition, steps: int) -> Transition:
    """Mask whole episodes, in order, after the first that brings their sum to at least `steps` steps.

    How one collects "a batch of 1000 steps" of whole episodes; the batch holds fewer if all N together do.
    """
    lengths = jnp.sum(transition.mask, axis=0)
    kept = (jnp.cumsum(lengths) - lengths < steps)[None]
    return transition._replace(
        mask=transition.mask * kept,
        reward=transition.reward * kept,
        terminated=transition.terminated & kept,
        truncated=transition.truncated & kept,
    )


class Draws(NamedTuple):
    """All that is random in the steps of one environment, [T, ...]."""

    noise: Any  # of actions; None where the mode is taken
    step_key: Array
    reset_key: Array  # of the reset that follows if the step ends an episode


def _draw(actor: Actor, observation: Any, key: Array, steps: int, *, greedy: bool = False) -> Draws:
    distribution = jax.eval_shape(actor.act, actor.initial, observation)[1]
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(steps))
    # fold_in rather than split: keys that an environment does not use are then never computed.
    of_action, of_step, of_reset = (jax.vmap(lambda k, i=i: jax.random.fold_in(k, i))(keys) for i in range(3))
    return Draws(None if greedy else jax.vmap(distribution.noise)(of_action), of_step, of_reset)


def _act(
    environment: Environment, actor: Actor, draw: Draws, observation: Any, state: Any, memory: Any
) -> tuple[Transition, Any, Any]:
    """One step of one environment: the row it records, the state and the memory it leads to."""
    memory, distribution = actor.act(memory, observation)
    action = distribution.mode() if draw.noise is None else distribution.at(draw.noise)
    next_observation, state, reward, terminated, truncated = environment.step(
        draw.step_key, state, distribution.to_environment(action)
    )
    row = Transition(
        observation=observation,
        action=action,
        log_prob=distribution.log_prob(action),
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        next_observation=next_observation,
        mask=jnp.ones((), jnp.float32),
    )
    return row, state, memory


def _where(condition: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
