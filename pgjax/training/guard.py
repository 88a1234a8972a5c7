"""Non-finite updates are dropped and counted; environments that broke start a new episode."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.estimators.reductions import own_share, sharers, sum_over_devices
from pgjax.training.loss import Batch
from pgjax.training.metrics import Metrics
from pgjax.training.replay import Replay
from pgjax.training.rollout import StreamState, start_stream
from pgjax.types import Agent, Environment, TrainState


class Finite(NamedTuple):
    """Whether each quantity of an update is finite, in order of cause; scalars."""

    environment_state: Array
    observation: Array
    reward: Array
    loss_or_gradient: Array  # the value loss, and the gradient's norm
    parameters: Array  # and the optimiser's state
    running_statistics: Array  # of observations and rewards


NONFINITE = ("nothing", *(name.replace("_", " ") for name in Finite._fields))
"""What the metric `nonfinite` means: the place here of the first quantity with a NaN or ±inf; 0 where all are finite.

>>> NONFINITE
('nothing', 'environment state', 'observation', 'reward', 'loss or gradient', 'parameters', 'running statistics')
"""


def guard(
    environment: Environment,
    agent: Agent,
    old: TrainState,
    new: TrainState,
    batch: Batch,
    metrics: Metrics,
    key: Array,
) -> tuple[TrainState, Metrics]:
    """The state after an update: as before in all that is learned if anything was not finite, and counted.

    Environments, keys and counters of work go on, so that the next update tries another batch; environments in flight
    that are no longer finite start a new episode. Where all is finite, nothing changes, to the bit.

    Args:
      environment: what was acted in.
      agent: what acted.
      old: before the update.
      new: after it.
      batch: that it was made from.
      metrics: of the update.
      key: for new episodes.

    Returns:
      The state, and the metrics `skipped` (1 or 0) and `nonfinite` (a place in `NONFINITE`).

    >>> from pgjax import make_signals
    >>> old = TrainState({"policy": jnp.ones(1)}, None, None, None, *[jnp.int32(0)] * 4)
    >>> new = old._replace(params={"policy": jnp.array([jnp.nan])}, update=jnp.int32(1))
    >>> batch = Batch(Replay(None, None, None), make_signals([[1.0]]), credit=None)
    >>> kept, metrics = guard(None, None, old, new, batch, {}, jax.random.key(0))
    >>> kept.params["policy"].tolist(), int(kept.update), int(kept.skipped), NONFINITE[metrics["nonfinite"]]
    ([1.0], 1, 1, 'parameters')
    """
    goes_on, states = None, jnp.bool_(True)
    seen = () if isinstance(batch.transition, Replay) else batch.transition.observation
    if new.rollout_state is not None:
        seen = seen, new.rollout_state.observation
        memory = agent.memory.initial if agent.memory else ()
        stream, goes_on, states = restart_broken(environment, new.rollout_state, key, memory)
        new = new._replace(rollout_state=stream)
    losses = [metrics[name] for name in ("gradient_norm", "policy_gradient_norm", "value_loss") if name in metrics]
    learned = {name: group for name, group in new.params.items() if name != "statistics"}
    finite = Finite(
        environment_state=states,
        observation=is_finite(seen),
        reward=is_finite(batch.signals.reward),
        loss_or_gradient=is_finite(losses),
        parameters=is_finite((learned, new.optimizer_state, new.previous)),
        running_statistics=is_finite((new.params.get("statistics"), new.reward_scale)),
    )
    broken = sum_over_devices(1 - jnp.stack([jnp.bool_(True), *finite]).astype(jnp.int32)) > 0
    nonfinite = jnp.argmax(broken).astype(jnp.int32)
    new = _keep(old, new, nonfinite == 0, goes_on)
    return new, {"skipped": (nonfinite > 0).astype(float), "nonfinite": nonfinite}


def is_finite(tree: Any) -> Array:
    """Whether no number in a pytree is NaN or ±inf, a scalar; whole numbers and keys cannot be.

    0 · x is 0 for every finite x and NaN for all others, so that one sum tells.

    >>> bool(is_finite({"a": jnp.ones(3), "b": jnp.array([1, 2])})), bool(is_finite([jnp.inf]))
    (True, False)
    """
    # One flag per leaf, joined, has crashed XLA's CPU compiler (jaxlib 0.11.2: eight networks and two devices).
    return jnp.isfinite(sum((jnp.sum(0.0 * x) for x in jax.tree.leaves(tree) if _is_real(x)), jnp.zeros(())))


def restart_broken(
    environment: Environment, stream: StreamState, key: Array, memory: Any
) -> tuple[StreamState, Array, Array]:
    """Reset the environments in flight of which something is no longer finite: state, observation, memory, return.

    Once per batch is often enough, since the batch that saw it is dropped. What is not finite in a fresh episode
    either (an environment may write inf for "none yet") is no fault. The broken episode is not counted as ended.

    Args:
      environment: what they are.
      stream: where they stand, [N, ...].
      key: for the resets.
      memory: what an actor starts an episode with.

    Returns:
      The stream; whether each environment goes on [N]; whether all their states were finite.

    >>> from pgjax import environments
    >>> env, keys = environments.make("CartPole-v1"), jax.random.split(jax.random.key(0), 2)
    >>> stream = start_stream(env, keys)
    >>> broken = stream._replace(observation=stream.observation.at[1].set(jnp.nan))
    >>> restarted, goes_on, _ = restart_broken(env, broken, jax.random.key(1), ())
    >>> goes_on.tolist(), bool(is_finite(restarted))
    ([True, False], True)
    """
    keys = own_share(jax.random.split(key, len(stream.episode_return) * sharers()))
    fresh = start_stream(environment, keys, memory)
    states = _still_finite(stream.state, fresh.state)
    goes_on = states & _still_finite(stream._replace(state=()), fresh._replace(state=()))

    def choose(now: Array, new: Array) -> Array:
        return jnp.where(goes_on.reshape(-1, *[1] * (now.ndim - 1)), now, new)

    return jax.tree.map(choose, stream, fresh), goes_on, jnp.all(states)


def _still_finite(now: Any, fresh: Any) -> Array:
    """Per environment: everything that is finite in a fresh episode is, [N]; a scalar for a tree without numbers."""
    each = [
        jnp.all((jnp.isfinite(x) | ~jnp.isfinite(y)).reshape(len(x), -1), axis=1)
        for x, y in zip(jax.tree.leaves(now), jax.tree.leaves(fresh), strict=True)
        if _is_real(x)
    ]
    return jnp.all(jnp.stack(each), axis=0) if each else jnp.bool_(True)


def _keep(old: TrainState, new: TrainState, ok: Array, goes_on: Array | None) -> TrainState:
    """`new`, with what `old` has learned unless `ok`."""

    def kept(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)

    scale = new.reward_scale
    if scale is not None:
        # The return so far is the episode's in flight, not learned. 0 · inf leaks over an episode's end as NaN.
        fine = jnp.isfinite(scale.running) & (True if goes_on is None else goes_on)
        running = jnp.where(fine, scale.running, 0.0)
        scale = scale._replace(moments=kept(scale.moments, old.reward_scale.moments), running=running)
    return new._replace(
        params=kept(new.params, old.params),
        optimizer_state=kept(new.optimizer_state, old.optimizer_state),
        previous=kept(new.previous, old.previous),
        reward_scale=scale,
        skipped=old.skipped + ~ok,
        skipped_in_a_row=jnp.where(ok, 0, old.skipped_in_a_row + 1),
    )


def _is_real(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)
