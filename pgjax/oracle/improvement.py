"""Exact expected improvement E[J(θ + α ĝ)] − J(θ) of a gradient step, over every batch."""

import math
from collections import Counter
from functools import partial
from itertools import combinations_with_replacement
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from pgjax.oracle.enumeration import ON_POLICY, Sampling, Trajectories, _estimates, enumerate_trajectories
from pgjax.oracle.mdp import MDP, LogPolicy, exact_values
from pgjax.types import Estimator, Params, SettingError

MAX_BATCHES = 500_000
CHUNK = 1024  # batches in memory at a time


class Improvement(NamedTuple):
    """Change of J by a step of each size, over all batches; arrays [K] over step sizes."""

    mean: Array  # E[J(θ + α ĝ)] − J(θ)
    deviation: Array  # its standard deviation over batches
    falls: Array  # the probability that J(θ + α ĝ) < J(θ), beyond rounding


def expected_improvement(
    mdp: MDP,
    estimator: Estimator,
    log_policy: LogPolicy,
    params: Params,
    sizes: ArrayLike,
    sampling: Sampling = ON_POLICY,
) -> Improvement:
    """Expected change of J by θ ← θ + α ĝ for each α in `sizes`, [K], over every batch of N independent trajectories.

    The estimator must not depend on the order of trajectories, since batches that differ only in order are merged. More
    than 500,000 merged batches raise a SettingError. Other arguments as in `moments`.

    >>> from pgjax import product, score, total_return
    >>> from pgjax.oracle import make_mdp
    >>> bandit = make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)
    >>> gain = expected_improvement(bandit, product(total_return, score), jax.nn.log_softmax, jnp.zeros((1, 2)), [2.0])
    >>> round(float(gain.mean[0]), 4)  # (σ(2) − ½)/2
    0.1904
    """
    trajectories = enumerate_trajectories(mdp)
    many, size = len(trajectories.probability), sampling.batch_size
    count = math.comb(many + size - 1, size)
    if count > MAX_BATCHES:
        raise SettingError(
            "batch_size", size, f"means {count:.1e} batches of {many} trajectories; at most {MAX_BATCHES}"
        )
    members = np.array(list(combinations_with_replacement(range(many), size)))
    ways = [math.factorial(size) / math.prod(map(math.factorial, Counter(row).values())) for row in members.tolist()]
    padding = -count % min(CHUNK, count)
    members, ways = np.pad(members, ((0, padding), (0, 0))), np.pad(np.array(ways), (0, padding))
    return _improvement(mdp, trajectories, estimator, log_policy, params, jnp.asarray(sizes), sampling, members, ways)


@partial(jax.jit, static_argnames="log_policy")
def _improvement(
    mdp: MDP,
    trajectories: Trajectories,
    estimator: Estimator,
    log_policy: LogPolicy,
    params: Params,
    sizes: Array,
    sampling: Sampling,
    members: Array,
    ways: Array,
) -> Improvement:
    chance, estimate = _estimates(mdp, trajectories, estimator, log_policy, params, sampling)
    flat, unravel = ravel_pytree(params)

    def objective(x: Array) -> Array:
        return exact_values(mdp, log_policy(unravel(x))).objective

    here = objective(flat)

    def gains(batch: Array) -> Array:
        step = estimate(batch)
        return jax.vmap(lambda alpha: objective(flat + alpha * step) - here)(sizes)

    gain = jax.lax.map(gains, members, batch_size=min(CHUNK, len(members)))  # [B, K]
    weight = ways * jnp.prod(chance[members], axis=1)
    weight = weight / jnp.sum(weight)
    mean = weight @ gain
    rounding = 64 * jnp.finfo(gain.dtype).eps * (1.0 + jnp.abs(here))
    return Improvement(mean, jnp.sqrt(weight @ (gain - mean) ** 2), weight @ (gain < -rounding))
