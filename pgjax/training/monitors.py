"""Diagnostics of training: gradient noise, importance weights, bias and critics."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from pgjax.config import Config
from pgjax.engine import Engine, engine
from pgjax.environments import base
from pgjax.estimators.importance import clamped_fraction, effective_sample_size, log_prefix, relative_weight
from pgjax.estimators.products import product
from pgjax.estimators.reductions import difference, quotient, spread, step_spread
from pgjax.estimators.returns import make_signals, off_policy_reward_to_go, total_return
from pgjax.estimators.surrogates import stopped_prefix
from pgjax.training.loss import Batch, contributions
from pgjax.training.metrics import nothing
from pgjax.training.rollout import Policy, Visited, episodes
from pgjax.training.signals import credit_of, log_prob_of, ratios_of
from pgjax.types import Agent, Algorithm, Discrete, Environment, Params, SettingError, Transition


class GradientNoise(NamedTuple):
    """Signal and noise of a gradient estimate, over all parameters together; scalars."""

    variance: Array  # s², trace of the covariance of one trajectory's gradient
    signal: Array  # G² = ‖ḡ‖² − s²/N, an unbiased estimate of ‖∇J‖²; may be negative
    snr: Array  # G² / (s²/N); infinite without noise, 0 without either
    critical_batch_size: Array  # s²/G², in trajectories; NaN where G² ≤ 0


def gradient_noise(gradients: Params, trajectories: int | None = None) -> GradientNoise:
    """Noise of the batch gradient, from gradients of single trajectories or of K groups:

        s² = (N/K) Σ_k ‖g_k − ḡ‖² / (K − 1).

    Each leaf of `gradients` [K, ...] holds mean gradients of K disjoint groups of equal size; K = 1 gives NaN.
    `trajectories` is N, of all groups together; default K. Source: McCandlish et al. 2018.
    https://arxiv.org/abs/1812.06162

    >>> noise = gradient_noise(jnp.array([[1.0, 0.0], [3.0, 0.0]]))
    >>> float(noise.variance), float(noise.signal)
    (2.0, 3.0)
    """
    groups = jax.tree.leaves(gradients)[0].shape[0]
    count = groups if trajectories is None else trajectories
    spreads = [spread(g) for g in jax.tree.leaves(gradients)]
    variance = sum(jnp.sum(s.variance(ddof=1)) for s in spreads) * count / groups
    signal = sum(jnp.sum(s.mean**2) for s in spreads) - variance / count
    noiseless = jnp.where(signal > 0, jnp.inf, 0.0)
    snr = jnp.where(variance == 0, noiseless, quotient(signal, variance / count))
    return GradientNoise(variance, signal, snr, jnp.where(signal > 0, quotient(variance, signal), nothing()))


def cosine(one: Params, other: Params) -> Array:
    """Cosine similarity ⟨g, h⟩ / (‖g‖ ‖h‖) of two gradients (pytrees of one structure); 0 if either is 0.

    Source: Ilyas et al. 2020. https://arxiv.org/abs/1811.02553
    """
    return jnp.clip(optax.tree.vdot(_normalised(one), _normalised(other)), -1.0, 1.0)


def _normalised(tree: Params) -> Params:
    """A pytree scaled to norm 1 without overflow or underflow; 0 stays 0."""
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in jax.tree.leaves(tree)]))
    scaled = jax.tree.map(lambda x: quotient(x, largest), tree)
    length = optax.tree.norm(scaled)
    return jax.tree.map(lambda x: quotient(x, length), scaled)


def bias_probe(gradients: Array, exact: ArrayLike) -> tuple[Array, Array]:
    """Bias of an approximate form on one batch: mean_n (g_n − g_n^exact) and its standard error, [P] each.

    `gradients` are per-trajectory gradients of the approximate form, [N, P], or along one direction, [N]. `exact` are
    those of an exact form on the same trajectories. Differences and errors within rounding error are exactly 0.

    >>> mean, error = bias_probe(jnp.array([1.0, 3.0]), jnp.array([0.0, 0.0]))
    >>> float(mean), round(float(error), 6)
    (2.0, 1.0)
    """
    return mean_and_error(difference(gradients, exact, size=jnp.max(jnp.abs(gradients), axis=0)))


def mean_and_error(x: Array) -> tuple[Array, Array]:
    """Mean and standard error over axis 0. The error is exactly 0 for values equal up to rounding, NaN for one."""
    found = spread(x)
    return found.mean[0], found.std(ddof=1)[0] / jnp.sqrt(found.count[0])


def explained_variance(target: Array, value: Array, mask: Array) -> Array:
    """1 − Var(Q̂ − V)/Var(Q̂) over executed steps; NaN if Q̂ varies by no more than rounding."""
    total = step_spread(target, mask).variance()
    residual = step_spread(difference(target, value), mask).variance()
    return jnp.where(total == 0, nothing(), 1.0 - quotient(residual, total)).reshape(())


def effective_sample_size_per_step(log_ratio: Array) -> Array:
    """Effective sample size of ρ_{1:t} over the batch at every step, [T]. A finished trajectory keeps its last weight.

    `log_ratio` holds log ρ of whole episodes, [T, N], with 0 on padding.
    """
    return effective_sample_size(jnp.cumsum(log_ratio, axis=0), axis=1)


def weight_statistics(
    agent: Agent, config: Config, params: Params, transition: Transition, memory: Any = ()
) -> dict[str, Array]:
    """Statistics of the importance weights at `params`, which show whether a batch has been reused too often.

    - `effective_sample_size`: (Σw)²/Σw² as a fraction of the batch; 1 on-policy.
    - `largest_weight_share`: max w / Σw.
    - `mean_weight`: about 1; otherwise recorded actions and log-probabilities do not match.
    - `kl`: mean of (ρ − 1) − log ρ, an estimate of KL(θ̄ ‖ θ) per step.
    - `clamped`: fraction of steps whose weight was clamped (`pgjax.estimators.importance`).

    For "episodes" w = ρ_{1:T} of each trajectory; for "stream" w = ρ_t of each step.
    """
    x = ratios_of(agent, params, transition, memory, engine(config.engine))
    mask = transition.mask
    continues = mask * ~(transition.terminated | transition.truncated)
    whole = config.rollout == "episodes"
    # Trajectories without a step and rows of padding have no weight.
    log_w, exists = (jnp.sum(x, axis=0), mask[0] > 0) if whole else (x.ravel(), mask.ravel() > 0)
    log_w = jnp.where(exists, log_w, -jnp.inf)
    count = jnp.maximum(jnp.sum(exists), 1.0)
    w = relative_weight(log_w, jnp.max(log_w))
    prefix = log_prefix(x, continues) if whole else x
    return {
        "effective_sample_size": effective_sample_size(log_w) / count,
        "largest_weight_share": quotient(jnp.max(w), jnp.sum(w)),
        "mean_weight": jnp.sum(jnp.exp(jnp.minimum(log_w, 80.0))) / count,
        "kl": jnp.sum((jnp.expm1(jnp.minimum(x, 80.0)) - x) * mask) / jnp.maximum(jnp.sum(mask), 1.0),
        "clamped": clamped_fraction(prefix, mask),
    }


def score_mean(agent: Agent, params: Params, transition: Transition) -> Params:
    """Mean score per step of an agent without memory, ∇_θ (1/steps) Σ log π_θ(a_t|s_t), like `params["policy"]`.

    Its mean is 0 for the policy that sampled the batch. Entries far from 0, compared with 1/√steps, show that actions,
    observations or masks do not match.
    """

    def mean_log_prob(policy: Params) -> Array:
        log_prob = agent.policy(params | {"policy": policy}, transition.observation).log_prob(transition.action)
        steps = jnp.maximum(jnp.sum(transition.mask), 1.0)
        return jnp.sum(jnp.where(transition.mask > 0, log_prob, 0.0)) / steps

    return jax.grad(mean_log_prob)(params["policy"])


def score_probe(
    agent: Agent,
    params: Params,
    transition: Transition,
    key: Array,
    memory: Any = (),
    how: Engine | None = None,
) -> Array:
    """t-statistic of the mean score along one random direction, from one forward pass; needs N ≥ 2 trajectories:

        z ~ N(0, I),   x_n = ⟨Σ_t ∇log π(a_{n,t}|s_{n,t}), z⟩,   t = mean(x) / (std(x)/√N).

    A score has mean 0 under the policy that acted. So t² averages 1 over updates if actions, log-probabilities and
    masks match, and grows with the batch if they do not. `params` must be those that sampled the batch; `memory` is a
    recurrent policy's carry at the first row.
    """

    how = None if how is None else how.for_forward_mode()

    def log_probs(policy: Params) -> Array:
        return jnp.sum(log_prob_of(agent, params | {"policy": policy}, transition, memory, how), axis=0)

    return _t_statistic(*bias_probe(_directional_derivative(log_probs, params["policy"], key), 0.0))


def branched_action_values(
    environment: Environment,
    policy: Policy,
    start: Visited,
    keys: Array,
    *,
    discount: ArrayLike = 1.0,
) -> tuple[Array, Array]:
    """Q(s, ·) without a critic: try every action in one visited state and continue each with K rollouts.

        Q̂(s, a) = (1/K) Σ_k [ r(s, a) + Σ_{t≥1} γ^t r_t ],   later actions from the policy

    The continuations of different actions share their keys. With V̂(s) = Σ_a π(a|s) Q̂(s, a), Q̂ − V̂ is an advantage
    estimate without a network. Needs one Discrete action; a time limit in the state keeps counting. `start` is from
    `rollout.visit`, `keys` are one per continuation, [K]. Returns Q̂(s, ·) and its standard errors, [A] each.

    >>> from functools import partial
    >>> from pgjax import environments, make_agent, rollout
    >>> env = environments.make("Catch-bsuite")
    >>> agent = make_agent(env)
    >>> policy = partial(agent.policy, agent.init(jax.random.key(0)))
    >>> start = rollout.visit(env, policy, jax.random.key(1), steps=8)  # the ball lands at step nine
    >>> branched_action_values(env, policy, start, jax.random.split(jax.random.key(2), 4))[0].shape
    (3,)
    """
    if not isinstance(environment.action_space, Discrete):
        reason = f"needs one Discrete action to try every value; has {environment.action_space!r}"
        raise SettingError("environment", environment.name, reason)

    def one(action: Array, key: Array) -> Array:
        step_key, rest_key = jax.random.split(key)
        observation, state, reward, terminated, truncated = base.step(environment, step_key, start.state, action)
        following = jax.tree.map(lambda x: jnp.asarray(x)[None], Visited(state, observation))
        rows = episodes(environment, policy, rest_key[None], start=following)
        signals = make_signals(
            rows.reward, mask=rows.mask, terminated=rows.terminated, truncated=rows.truncated, discount=discount
        )
        return reward + jnp.where(terminated | truncated, 0.0, discount * total_return(signals)[0, 0])

    actions = jnp.arange(environment.action_space.n)
    returns = jax.vmap(jax.vmap(one, (None, 0)), (0, None))(actions, keys)  # [A, K]
    return mean_and_error(returns.T)


def monitor(
    agent: Agent,
    algorithm: Algorithm,
    config: Config,
    params: Params,
    batch: Batch,
    key: Array,
) -> dict[str, Array]:
    """The metric `bias_probe` of `Config.diagnostics`, which measures the bias from dropped ratios. It is the
    t-statistic of the estimator minus per-decision importance sampling, along a random direction, at `params` (those
    after the updates). `batch` holds the signals at the parameters that sampled it; its credit and target are not used.
    """
    signals = batch.signals
    now = signals._replace(log_ratio=ratios_of(agent, params, batch.transition, batch.memory, engine(config.engine)))
    exact = algorithm._replace(estimator=product(off_policy_reward_to_go, stopped_prefix))

    def along(algorithm: Algorithm) -> Array:
        credited = batch._replace(signals=now, credit=credit_of(algorithm, config, now))

        def surrogates(policy: Params) -> Array:
            moved = params | {"policy": policy}
            return jnp.sum(contributions(agent, algorithm.estimator, moved, credited).surrogate, axis=0)

        return _directional_derivative(surrogates, params["policy"], key)

    return {"bias_probe": _t_statistic(*bias_probe(along(algorithm), along(exact)))}


def _t_statistic(mean: Array, error: Array) -> Array:
    """A t-statistic; 0 if nothing varies, as for a deterministic policy."""
    return quotient(mean, error)


def _directional_derivative(function: Callable[[Params], Array], params: Params, key: Array) -> Array:
    """Derivative of a vector function [N] along one random direction z: all inner products ⟨g_n, z⟩."""
    return jax.jvp(function, (params,), (optax.tree.random_like(key, params),))[1]
