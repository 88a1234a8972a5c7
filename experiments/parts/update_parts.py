"""Parts of an update, timed alone: the rollout, and the gradients of the networks."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec as P

from parts.shapes import Shape
from pgjax import rollout, sweeps
from pgjax.engine import devices
from pgjax.policies.uniform import uniform_policy
from pgjax.types import Agent, Environment


def timed(call: Callable[[], Any], repeats: int) -> tuple[Any, list[float], float]:
    """The result of a call, the seconds of each repetition, and the extra seconds of the first call, which compiles."""

    def once() -> tuple[Any, float]:
        start = time.perf_counter()
        result = jax.block_until_ready(call())
        return result, time.perf_counter() - start

    (_, first), *rest = [once() for _ in range(1 + repeats)]
    seconds = [s for _, s in rest]
    return rest[-1][0], seconds, max(0.0, first - float(np.median(seconds)))


def rollout_seconds(
    environment: Environment, agent: Agent, shape: Shape, runs: sweeps.Runs, measured: int, *, random: bool
) -> float:
    """Seconds of the rollout of one batch on the same devices, with the policy or with random actions."""
    config, shares = shape.recipe.config, runs.mesh.shape["env"]

    def act(params: Any) -> rollout.Policy:
        return uniform_policy(environment) if random else rollout.actor(agent, params)

    def one(params: Any, key: Array) -> Any:
        keys, policy = jax.random.split(key, config.num_envs // shares), act(params)
        if config.rollout == "episodes":
            rows, after = rollout.episodes(environment, policy, keys), ()
        else:
            memory = policy.initial if isinstance(policy, rollout.Actor) else ()
            stream = rollout.start_stream(environment, keys, memory)
            after, rows, _ = rollout.stream(environment, policy, stream, keys, config.num_steps)
        return rows, after

    def many(params: Any, key: Array) -> Array:
        def step(key: Array, _: None) -> tuple[Array, Array]:
            used = [jnp.sum(x) * 1.0 for x in jax.tree.leaves(one(params, key)) if x.dtype != key.dtype]
            return jax.random.fold_in(key, 1), jnp.stack(used)

        return jax.lax.scan(step, key, None, length)[1]

    rows = environment.horizon if config.rollout == "episodes" else config.num_steps
    length = max(2, measured // (config.num_envs * rows * shape.seeds))
    spread = jax.shard_map(
        jax.vmap(many), mesh=runs.mesh, in_specs=P(devices.SEED_AXIS), out_specs=P(devices.SEED_AXIS), check_vma=False
    )
    keys = jax.random.split(jax.random.key(0), shape.seeds)
    call = jax.jit(spread)
    return float(np.median(timed(lambda: call(runs.state.params, keys), 3)[1])) / length


def gradient_seconds(environment: Environment, agent: Agent, shape: Shape, runs: sweeps.Runs, steps: float) -> float:
    """Seconds of as many gradients of policy and critic as an update of `steps` steps takes, on the same devices.

    Nothing else is computed: the derivative is that of the mean of all outputs on rows of zeros, one after the other
    for each minibatch and seed. A memory runs along the rows of each trajectory.
    """
    config, shares = shape.recipe.config, runs.mesh.shape["env"]
    rows = max(1, round(steps / shape.seeds / config.minibatches / shares))
    memory, judge = agent.memory, agent.action_value or agent.value
    envs = max(1, config.num_envs // config.minibatches // shares) if memory else rows
    length = rows // envs
    x = jax.tree.map(lambda s: jnp.zeros((length, envs, *s.shape), s.dtype), environment.observation)

    def outputs(params: Any) -> Array:
        seen = x
        if memory is not None:
            step = partial(memory.step, params)
            start = jax.tree.map(lambda h: jnp.broadcast_to(h, (envs, *h.shape)), memory.initial)
            seen = jax.lax.scan(step, start, x)[1]
        found = agent.policy(params, seen), judge(params, seen) if judge else ()
        sums = [jnp.sum(y) for y in jax.tree.leaves(found) if jnp.issubdtype(y.dtype, jnp.floating)]
        return jnp.sum(jnp.stack(sums)) / rows

    count = config.epochs * config.minibatches
    repeats = max(2, round(20_000 / (rows * count)))

    def descended(params: Any) -> Any:
        def step(params: Any, _: None) -> tuple[Any, None]:
            return jax.tree.map(lambda p, g: p - 1e-9 * g, params, jax.grad(outputs)(params)), None

        return jax.lax.scan(step, params, None, count * repeats)[0]

    seeds = jax.shard_map(
        lambda params: jax.lax.map(descended, params),
        mesh=runs.mesh,
        in_specs=P(devices.SEED_AXIS),
        out_specs=P(devices.SEED_AXIS),
        check_vma=False,
    )
    call = jax.jit(seeds)
    return float(np.median(timed(lambda: call(runs.state.params), 3)[1])) / repeats
