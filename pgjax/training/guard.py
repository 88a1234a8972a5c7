"""Drop and count updates that are not finite, and reset environments whose state is not finite."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

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
    loss_or_gradient: Array  # the value loss and the gradient norm
    parameters: Array  # with the optimiser state
    running_statistics: Array  # of observations and rewards


NONFINITE = ("nothing", *(name.replace("_", " ") for name in Finite._fields))
"""Names of the values of the metric `nonfinite`: the index of the first quantity with a NaN or ±inf; 0 if none.

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
    """Undo an update that produced a NaN or ±inf: learned quantities stay as before, and the skip is counted in the
    metrics `skipped` (1 or 0) and `nonfinite` (an index into `NONFINITE`). Environments, keys and step counters still
    advance, so the next update uses another batch. Environments whose state is not finite start a new episode. A finite
    update is returned bit for bit unchanged.
    """
    kept, states = None, jnp.bool_(True)
    seen = () if isinstance(batch.transition, Replay) else batch.transition.observation
    if new.rollout_state is not None:
        seen = seen, new.rollout_state.observation
        memory = agent.memory.initial if agent.memory else ()
        stream, kept, states = restart_broken(environment, new.rollout_state, key, memory)
        new = new._replace(rollout_state=stream)
    losses = [metrics[name] for name in ("gradient_norm", "policy_gradient_norm", "value_loss") if name in metrics]
    learned = {name: group for name, group in new.params.items() if name != "statistics"}
    finite = Finite(
        environment_state=states,
        observation=is_finite(seen),
        reward=is_finite(batch.signals.reward),
        loss_or_gradient=is_finite(losses),
        parameters=is_finite(_as_one_vector((learned, new.optimizer_state, new.previous))),
        running_statistics=is_finite((new.params.get("statistics"), new.reward_scale)),
    )
    broken = sum_over_devices(1 - jnp.stack([jnp.bool_(True), *finite]).astype(jnp.int32)) > 0
    nonfinite = jnp.argmax(broken).astype(jnp.int32)
    new = _select(old, new, nonfinite == 0, kept)
    return new, {"skipped": (nonfinite > 0).astype(float), "nonfinite": nonfinite}


def is_finite(tree: Any) -> Array:
    """Whether no floating-point number in a pytree is NaN or ±inf, a scalar."""
    # x − x is 0 for finite x and NaN otherwise, so one sum is enough (for 0 · x, XLA may store as many zeros as x has
    # numbers). Combining one flag per leaf has crashed XLA's CPU compiler (jaxlib 0.11.2, eight networks, two devices).
    return jnp.isfinite(sum((jnp.sum(x - x) for x in jax.tree.leaves(tree) if _is_real(x)), jnp.zeros(())))


def _as_one_vector(tree: Any) -> Array:
    """All floating-point numbers of a pytree: one vector takes fewer kernels to check than many small arrays."""
    return ravel_pytree([x for x in jax.tree.leaves(tree) if _is_real(x)])[0]


def restart_broken(
    environment: Environment, stream: StreamState, key: Array, memory: Any
) -> tuple[StreamState, Array, Array]:
    """Reset the environments whose state, observation, memory or return is not finite.

    Entries that are not finite in a fresh episode either are ignored: an environment may write inf for "none yet". The
    episode that was cut short is not counted as ended. Returns the stream; which environments were kept, [N]; whether
    all states were finite.
    """
    keys = own_share(jax.random.split(key, len(stream.episode_return) * sharers()))
    fresh = start_stream(environment, keys, memory)
    states = _still_finite(stream.state, fresh.state)
    kept = states & _still_finite(stream._replace(state=()), fresh._replace(state=()))

    def choose(now: Array, new: Array) -> Array:
        return jnp.where(kept.reshape(-1, *[1] * (now.ndim - 1)), now, new)

    return jax.tree.map(choose, stream, fresh), kept, jnp.all(states)


def _still_finite(now: Any, fresh: Any) -> Array:
    """Per environment, whether all entries that are finite in a fresh episode are finite, [N]; True without numbers."""
    each = [
        jnp.all((jnp.isfinite(x) | ~jnp.isfinite(y)).reshape(len(x), -1), axis=1)
        for x, y in zip(jax.tree.leaves(now), jax.tree.leaves(fresh), strict=True)
        if _is_real(x)
    ]
    return jnp.all(jnp.stack(each), axis=0) if each else jnp.bool_(True)


def _select(old: TrainState, new: TrainState, ok: Array, kept: Array | None) -> TrainState:
    """`new` if `ok`, else `new` with what `old` had learned."""

    def select(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)

    scale = new.reward_scale
    if scale is not None:
        # The running return belongs to the current episode. Across an episode's end 0 · inf would make it NaN.
        valid = jnp.isfinite(scale.running) & (True if kept is None else kept)
        running = jnp.where(valid, scale.running, 0.0)
        scale = scale._replace(moments=select(scale.moments, old.reward_scale.moments), running=running)
    return new._replace(
        params=select(new.params, old.params),
        optimizer_state=select(new.optimizer_state, old.optimizer_state),
        previous=select(new.previous, old.previous),
        reward_scale=scale,
        skipped=old.skipped + ~ok,
        skipped_in_a_row=jnp.where(ok, 0, old.skipped_in_a_row + 1),
    )


def _is_real(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)
