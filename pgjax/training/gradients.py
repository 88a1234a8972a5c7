"""Gradients trajectory by trajectory and slice by slice, and the variance-optimal baselines made from them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from pgjax.config import Config
from pgjax.estimators.reductions import BatchSize, others, quotient
from pgjax.training.loss import Batch, contributions, looks_along_time, loss
from pgjax.types import Agent, Algorithm, Estimator, Params

CACHED_STEPS = 256
"""Steps whose activations fit in a CPU core's cache: gradients of larger batches are summed over blocks of so many."""


def loss_gradient(
    agent: Agent, algorithm: Algorithm, config: Config, params: Params, batch: Batch, size: BatchSize
) -> tuple[Params, Any]:
    """Gradient of `losses.loss` in all parameters, and its metrics; arguments as there.

    On a CPU it is a sum over blocks of trajectories (or rows) that stay in a core's cache; elsewhere all at once. Of
    whole episodes, where nothing looks along time, the blocks are of executed steps: padding costs nothing.

    >>> from pgjax import Categorical, Transition, make_signals, reinforce
    >>> agent = Agent(init=None, policy=lambda params, x: Categorical(params["policy"] * x))  # a bandit's two arms
    >>> x, ones = jnp.ones((1, 2, 1)), jnp.ones((1, 2))
    >>> rows = Transition(x, jnp.array([[0, 1]]), jnp.log(0.5 * ones), ones, ones, 0 * ones, x, ones)
    >>> batch = Batch(rows, make_signals(rows.reward), credit=jnp.array([[1.0, 3.0]]))
    >>> params = {"policy": jnp.zeros(2)}
    >>> gradient, _ = loss_gradient(agent, reinforce().algorithm, Config(), params, batch, BatchSize(2.0, 2.0))
    >>> gradient["policy"].tolist()  # minus the mean of 1 · (½, −½) and 3 · (−½, ½)
    [0.5, -0.5]
    """

    def of(part: Batch) -> tuple[Params, Any]:
        return jax.grad(loss, argnums=3, has_aux=True)(agent, algorithm, config, params, part, size)

    on_cpu = jax.default_backend() == "cpu"
    padded = config.rollout == "episodes" and agent.memory is None
    if on_cpu and padded and not looks_along_time(algorithm, jax.eval_shape(lambda: batch.signals)):
        return _over_executed_steps(of, batch)
    steps, width = batch.signals.mask.shape
    most = max(1, CACHED_STEPS // steps) if on_cpu else width
    blocks = next(b for b in range(1, width + 1) if width % b == 0 and width // b <= most)
    return of(batch) if blocks == 1 else summed(of, jax.tree.map(lambda x: cut(blocks, x, 1), batch))


def _over_executed_steps(of: Callable[[Batch], Any], batch: Batch) -> Any:
    """Σ of(block) over blocks of CACHED_STEPS executed steps, as many as there are."""
    flat = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), batch._replace(memory=()))
    mask = flat.transition.mask[0]
    size = min(CACHED_STEPS, mask.shape[0])
    room = -mask.shape[0] % size  # so that the last block is whole
    order = jnp.pad(jnp.nonzero(mask > 0, size=mask.shape[0], fill_value=0)[0], (0, room))
    count = jnp.sum(mask > 0, dtype=jnp.int32)

    def block(i: Array) -> Any:
        chosen = jax.lax.dynamic_slice_in_dim(order, i * size, size)
        part = jax.tree.map(lambda x: x[:, chosen], flat)
        there = (i * size + jnp.arange(size) < count).astype(mask.dtype)[None]
        return of(part._replace(transition=part.transition._replace(mask=there)))

    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(block, jnp.int32(0)))
    blocks = (count + size - 1) // size
    return jax.lax.fori_loop(0, blocks, lambda i, sums: jax.tree.map(jnp.add, sums, block(i)), zeros)


def cut(slices: int, x: Array, axis: int) -> Array:
    """[..., N, ...] -> [slices, ..., N/slices, ...]."""
    shape = (*x.shape[:axis], slices, x.shape[axis] // slices, *x.shape[axis + 1 :])
    return jnp.moveaxis(x.reshape(shape), axis, 0)


def trajectory_gradients(agent: Agent, estimator: Estimator, params: Params, batch: Batch) -> Params:
    """The surrogate's gradient in `params["policy"]` of every trajectory by itself, a pytree of [N, ...].

    Their mean is the estimate.

    >>> from pgjax import Categorical, Transition, make_signals, product, reward_to_go, score
    >>> agent = Agent(init=None, policy=lambda params, x: Categorical(params["policy"] * x))  # a bandit's two arms
    >>> x, ones = jnp.ones((1, 2, 1)), jnp.ones((1, 2))
    >>> rows = Transition(x, jnp.array([[0, 1]]), jnp.log(0.5 * ones), ones, ones, 0 * ones, x, ones)
    >>> batch = Batch(rows, make_signals(rows.reward), credit=jnp.array([[1.0, 3.0]]))
    >>> estimator, params = product(reward_to_go, score), {"policy": jnp.zeros(2)}
    >>> trajectory_gradients(agent, estimator, params, batch).tolist()  # 1 · (½, −½) and 3 · (−½, ½)
    [[0.5, -0.5], [-1.5, 1.5]]
    """

    def surrogate(policy: Params, trajectory: Batch) -> Array:
        alone = jax.tree.map(lambda x: x[:, None], trajectory)
        return jnp.sum(contributions(agent, estimator, params | {"policy": policy}, alone)[0])

    return jax.vmap(jax.grad(surrogate), in_axes=(None, 1))(params["policy"], batch)


def optimal_baseline(gradients: Params, scores: Params, *, per_parameter: bool = False) -> Params:
    """The variance-minimising constant baseline, estimated for each trajectory from all others.

        scalar:  b = E[ĝ·G] / E[‖G‖²]        per parameter:  b_k = E[ĝ_k G_k] / E[G_k²]

    With ĝ = G·R (total return) these are the textbook E[‖G‖²R]/E[‖G‖²] and E[G_k²R]/E[G_k²]; under importance
    weights w both ĝ and G carry w. Leaving the own trajectory out keeps the estimate unbiased.

    Args:
      gradients: ĝ_n, a pytree of [N, ...].
      scores: G_n, the same gradients with every credit set to 1.
      per_parameter: one b for each parameter instead of one for all.

    Returns:
      b_n, a pytree of [N, ...] (the scalar one broadcast); 0 where the scores of all others are.
    Weaver & Tao 2001; Greensmith et al. 2004; Peters & Schaal 2008.

    >>> optimal_baseline(jnp.array([[2.0], [6.0]]), jnp.array([[1.0], [1.0]])).T  # each takes the other's return
    Array([[6., 2.]], dtype=float32)
    """
    inner, square = jax.tree.map(jnp.multiply, gradients, scores), jax.tree.map(jnp.square, scores)
    if per_parameter:
        return jax.tree.map(lambda a, b: quotient(others(a), others(b)), inner, square)
    b = quotient(others(_per_trajectory_sum(inner)), others(_per_trajectory_sum(square)))
    return jax.tree.map(lambda x: jnp.broadcast_to(b.reshape(-1, *[1] * (x.ndim - 1)), x.shape), scores)


def optimal_scalar(gradients: Params, scores: Params) -> Params:
    """Σ_n b_n G_n with one optimal b for all parameters: what to take off Σ_n ĝ_n.

    >>> optimal_scalar(jnp.array([[2.0], [6.0]]), jnp.array([[1.0], [1.0]])).tolist()  # 6 + 2
    [8.0]
    """
    return _weighted_scores(optimal_baseline(gradients, scores), scores)


def optimal_per_parameter(gradients: Params, scores: Params) -> Params:
    """Σ_n b_n ⊙ G_n with an optimal b for each parameter: what to take off Σ_n ĝ_n.

    >>> optimal_per_parameter(jnp.array([[2.0, 1.0], [6.0, 9.0]]), jnp.array([[1.0, 1.0], [1.0, 3.0]])).tolist()
    [8.0, 6.0]
    """
    return _weighted_scores(optimal_baseline(gradients, scores, per_parameter=True), scores)


def summed(function: Callable[[Any], Any], slices: Any) -> Any:
    """Σ_i function(slice_i) over axis 0 of a pytree, one slice at a time: a gradient in the memory of one slice."""
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], slices))

    def add(sums: Any, one: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, function(one)), None

    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add, zeros, slices)[0]


def _weighted_scores(baseline: Params, scores: Params) -> Params:
    return jax.tree.map(lambda b, g: jnp.sum(b * g, axis=0), baseline, scores)


def _per_trajectory_sum(tree: Params) -> Array:
    """Sum over all leaves and over all but axis 0, [N]."""
    return jnp.asarray(jax.vmap(optax.tree.sum)(tree))
