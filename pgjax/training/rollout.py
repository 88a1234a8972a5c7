"""Rollouts: act with a policy in an environment and record a `Transition` [T, N].

An episode depends only on its own key. Random numbers are drawn before the loop, because each operation in a loop over
few environments costs time of its own, however small its arrays.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.engine import Engine, engine
from pgjax.engine.resets import where
from pgjax.environments import base
from pgjax.estimators.distributions import Distribution
from pgjax.estimators.recurrence import linear_recurrence
from pgjax.training.metrics import Metric
from pgjax.types import Agent, Environment, KeyData, Keyed, Params, Transition


class Actor(NamedTuple):
    """A policy acting in one environment: (carry, observation) -> (carry, distribution), and the initial carry."""

    act: Callable[[Any, Any], tuple[Any, Distribution]]
    initial: Any = ()
    takes_key: bool = False  # observations are passed and recorded as `Keyed`


Policy = Callable[[Any], Distribution] | Actor
"""observation -> distribution, such as `functools.partial(agent.policy, params)`; with a memory, an Actor."""


def actor(agent: Agent, params: Params, *, training: bool = False) -> Actor:
    """An agent as an `Actor` with fixed parameters, including its memory.

    With `training`, networks that take a key get one, such as those with dropout.
    """
    memory, takes_key = agent.memory, training and agent.takes_key
    if memory is None:
        return Actor(lambda carry, observation: (carry, agent.policy(params, observation)), (), takes_key)

    def act(carry: Any, observation: Any) -> tuple[Any, Distribution]:
        carry, features = memory.step(params, carry, observation)
        return carry, agent.policy(params, features)

    return Actor(act, memory.initial, takes_key)


def _as_actor(policy: Policy) -> Actor:
    return policy if isinstance(policy, Actor) else Actor(lambda carry, observation: (carry, policy(observation)))


class EpisodeStatistics(NamedTuple):
    """Sums over the episodes that ended in a rollout; returns are undiscounted."""

    episodes: Array
    return_sum: Array
    length_sum: Array

    def means(self) -> dict[str, Array]:
        """Mean return and length of an episode; `nothing()` if none ended."""
        return {
            "return_mean": Metric(self.return_sum, self.episodes).value(),
            "episodes": self.episodes,
            "length_mean": Metric(self.length_sum, self.episodes).value(),
        }


class Place(NamedTuple):
    """Environment state, observation and actor memory of one environment within a stream."""

    state: Any
    observation: Any
    memory: Any


class StreamState(NamedTuple):
    """Environments in flight, [N, ...], from which the next streaming rollout continues."""

    state: Any
    observation: Any
    memory: Any
    episode_return: Array
    episode_length: Array


class Visited(NamedTuple):
    """A state within an episode from which rollouts can start; of one environment, or [N, ...]."""

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
    how: Engine | None = None,
) -> Transition:
    """Roll out whole episodes, [horizon, N, ...]: reset, run to the horizon, mask all steps after the first end.

    After an end, rows hold the final observation, with mask, action and reward 0. The simulation may stop once all
    episodes have ended. An episode still running at `environment.horizon` is truncated there.
    Args:
      policy: observation -> distribution, or an `Actor`.
      keys: one per episode, [N].
      start: state from which each episode continues, [N, ...]; default: a reset.
      group_size: number of consecutive episodes that share one reset (and nothing else).
      greedy: take the mode instead of a sample.
      how: the engine; default: chosen for the device.

    >>> from pgjax import environments, make_agent
    >>> env = environments.make("Catch-bsuite")
    >>> agent = make_agent(env)
    >>> policy = actor(agent, agent.init(jax.random.key(0)))
    >>> episodes(env, policy, jax.random.split(jax.random.key(1), 4)).reward.shape
    (9, 4)
    """
    acting, horizon = _as_actor(policy), base.horizon(environment)
    how = engine() if how is None else how

    def episode(steps_key: Array, start: Visited) -> Transition:
        observation, state = start.observation, start.state
        draws, _ = _draw(acting, observation, steps_key, horizon, greedy=greedy)

        def step(carry: tuple, now: tuple[Array, Draws]) -> tuple[tuple, Transition]:
            (observation, state, memory, alive), (t, draw) = carry, now
            row, new_state, memory = _act(environment, acting, draw, observation, state, memory)
            row = row._replace(
                action=where(alive, row.action, jax.tree.map(jnp.zeros_like, row.action)),
                log_prob=jnp.where(alive, row.log_prob, 0.0),
                reward=jnp.where(alive, row.reward, 0.0),
                terminated=alive & row.terminated,
                truncated=alive & (row.truncated | (~row.terminated & (t == horizon - 1))),
                next_observation=where(alive, row.next_observation, observation),
                mask=alive.astype(row.mask.dtype),
            )
            alive = alive & ~(row.terminated | row.truncated)
            return (row.next_observation, where(alive, new_state, state), memory, alive), row

        def idle(carry: tuple, rows: Transition) -> Transition:
            still = jax.tree.map(lambda x, like: jnp.broadcast_to(x, like.shape), carry[0], rows.next_observation)
            seen = rows.observation._replace(observation=still) if acting.takes_key else still
            return rows._replace(observation=seen, next_observation=still)

        carry = (observation, state, acting.initial, jnp.bool_(True))
        steps = jnp.arange(horizon), draws
        return how.scan_while_running(step, carry, steps, lambda carry: carry[-1], idle)[1]

    pairs = jax.vmap(jax.random.split)(keys)
    if start is None:  # one reset for each group
        observation, state = jax.vmap(partial(base.reset, environment))(pairs[::group_size, 0])
        start = Visited(*jax.tree.map(lambda x: jnp.repeat(x, group_size, axis=0), (state, observation)))
    return _with_next_keys(acting, jax.vmap(episode, out_axes=1)(pairs[:, 1], start))


def visit(environment: Environment, policy: Policy, key: Array, steps: Array) -> Visited:
    """The state of an episode after `steps` steps, or at its end if it ends earlier."""
    acting = _as_actor(policy)

    def step(carry: tuple, following: tuple[Array, Draws]) -> tuple[tuple, None]:
        (now, memory, alive), (t, draw) = carry, following
        row, state, memory = _act(environment, acting, draw, now.observation, now.state, memory)
        alive = alive & (t < steps)
        now = where(alive, Visited(state, row.next_observation), now)
        return (now, memory, alive & ~(row.terminated | row.truncated)), None

    reset_key, steps_key = jax.random.split(key)
    horizon = base.horizon(environment)
    observation, state = base.reset(environment, reset_key)
    draws, _ = _draw(acting, observation, steps_key, horizon)
    carry = Visited(state, observation), acting.initial, jnp.bool_(True)
    return jax.lax.scan(step, carry, (jnp.arange(horizon), draws))[0][0]


def start_stream(environment: Environment, keys: Array, memory: Any = ()) -> StreamState:
    """Reset N environments for streaming, one key each. `memory` is the actor's initial carry."""
    observation, state = jax.vmap(partial(base.reset, environment))(keys)
    zeros = jnp.zeros(len(keys), float)
    return StreamState(state, observation, repeat(memory, len(keys)), zeros, zeros)


def repeat(tree: Any, count: int) -> Any:
    """The tree repeated for N environments, [N, ...]."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), tree)


def stream(
    environment: Environment,
    policy: Policy,
    stream_state: StreamState,
    keys: Array,
    num_steps: int,
    how: Engine | None = None,
) -> tuple[StreamState, Transition, EpisodeStatistics]:
    """Roll out exactly `num_steps` steps of every environment, with automatic resets.

    An episode still running after `environment.horizon` steps is truncated there. `next_observation` is the observation
    before a reset; the next row's `observation` is the one after it. Returns the new stream state, Transition
    [num_steps, N, ...], and statistics of the episodes that ended.
    Args:
      policy: observation -> distribution, or an `Actor`.
      stream_state: from `start_stream` or the previous call.
      keys: one per environment, [N].
      how: the engine; default: chosen for the device.

    >>> from pgjax import environments, make_agent
    >>> env, keys = environments.make("Catch-bsuite"), jax.random.split(jax.random.key(0), 4)
    >>> agent = make_agent(env)
    >>> policy = actor(agent, agent.init(jax.random.key(1)))
    >>> state, rows, statistics = stream(env, policy, start_stream(env, keys), keys, num_steps=20)
    >>> rows.reward.shape, float(statistics.episodes)  # episodes of 9 steps
    ((20, 4), 8.0)
    """
    acting, horizon = _as_actor(policy), base.horizon(environment)
    how = engine() if how is None else how

    def fresh(key: KeyData) -> Place:
        observation, state = base.reset(environment, key.key())
        return Place(state, observation, acting.initial)

    def one(start: StreamState, key: Array) -> tuple[tuple[Place, Array], Transition]:
        draws, reset_keys = _draw(acting, start.observation, key, num_steps)
        resets, going_on = how.resets(fresh, reset_keys, len(keys))

        def step(carry: tuple[Place, Array], following: tuple[Draws, Any]) -> tuple[tuple[Place, Array], Transition]:
            (now, taken), (draw, of_reset) = carry, following
            row, state, memory = _act(environment, acting, draw, now.observation, now.state, now.memory)
            row = row._replace(truncated=row.truncated | (~row.terminated & (taken + 1 >= horizon)))
            ended = row.terminated | row.truncated
            after = Place(state, row.next_observation, memory)
            return (going_on(of_reset, ended, after), jnp.where(ended, 0.0, taken + 1)), row

        place = Place(start.state, start.observation, start.memory)
        return jax.lax.scan(step, (place, start.episode_length), (draws, resets))

    (place, taken), rows = jax.vmap(one, out_axes=(0, 1))(stream_state, keys)
    rows = _with_next_keys(acting, rows)
    ended = rows.terminated | rows.truncated
    so_far = linear_recurrence(rows.reward.at[0].add(stream_state.episode_return), ~ended)
    found = EpisodeStatistics(
        episodes=jnp.sum(ended.astype(float)),
        return_sum=jnp.sum(jnp.where(ended, so_far, 0.0)),
        length_sum=jnp.sum(stream_state.episode_length - taken) + rows.reward.size,  # all steps but those under way
    )
    return StreamState(*place, jnp.where(ended[-1], 0.0, so_far[-1]), taken), rows, found


def statistics(transition: Transition) -> EpisodeStatistics:
    """Episode statistics of a whole-episode rollout."""
    ended = transition.terminated | transition.truncated
    return EpisodeStatistics(jnp.sum(ended.astype(float)), jnp.sum(transition.reward), jnp.sum(transition.mask))


def keep_first(transition: Transition, steps: int) -> Transition:
    """Mask whole episodes, in order, after the first that brings the total to at least `steps` steps.

    The batch then has about `steps` steps, or fewer if all N episodes together do.
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
    """All random numbers of one environment's steps, [T, ...]."""

    noise: Any  # of actions; None if greedy
    step_key: KeyData
    network_key: KeyData | None  # None unless the actor takes a key


def _draw(actor: Actor, observation: Any, key: Array, steps: int, *, greedy: bool = False) -> tuple[Draws, KeyData]:
    """The draws, and a key for each step's possible reset, [T] each."""
    of_action, of_step, of_reset, *of_network = jax.random.split(key, 4 if actor.takes_key else 3)
    network_keys = KeyData.of(jax.random.split(of_network[0], steps)) if of_network else None
    seen = observation if network_keys is None else Keyed(observation, jax.tree.map(lambda x: x[0], network_keys))
    distribution = jax.eval_shape(actor.act, actor.initial, seen)[1]
    noise = None if greedy else distribution.noise(of_action, (steps,))
    draws = Draws(noise, KeyData.of(jax.random.split(of_step, steps)), network_keys)
    return draws, KeyData.of(jax.random.split(of_reset, steps))


def _act(
    environment: Environment, actor: Actor, draw: Draws, observation: Any, state: Any, memory: Any
) -> tuple[Transition, Any, Any]:
    """One step of one environment: the recorded row, the new state and the new memory."""
    seen = observation if draw.network_key is None else Keyed(observation, draw.network_key)
    memory, distribution = actor.act(memory, seen)
    action = distribution.mode() if draw.noise is None else distribution.at(draw.noise)
    next_observation, state, reward, terminated, truncated = base.step(
        environment, draw.step_key.key(), state, distribution.to_environment(action)
    )
    row = Transition(
        observation=seen,
        action=action,
        log_prob=distribution.log_prob(action),
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        next_observation=next_observation,
        mask=jnp.ones((), float),
    )
    return row, state, memory


def _with_next_keys(actor: Actor, rows: Transition) -> Transition:
    """Add to each next observation the key of the next row."""
    if not actor.takes_key:
        return rows
    key = jax.tree.map(lambda x: jnp.concatenate([x[1:], x[-1:]]), rows.observation.key)
    return rows._replace(next_observation=Keyed(rows.next_observation, key))
