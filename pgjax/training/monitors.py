"""What to watch: gradient noise, importance weights, critics; cheap enough to leave on."""

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
    """How much of a gradient estimate is signal; scalars, over all parameters together."""

    variance: Array  # s², trace of the covariance of one trajectory's gradient
    signal: Array  # G² = ‖ḡ‖² − s²/N, an unbiased estimate of ‖∇J‖²; may be negative
    snr: Array  # G² / (s²/N); infinite without noise, 0 without either
    critical_batch_size: Array  # s²/G², in trajectories; not a number where G² ≤ 0


def gradient_noise(gradients: Params, trajectories: int | None = None) -> GradientNoise:
    """Noise of the batch gradient, from gradients of single trajectories or of K micro-batches.

        s² = (N/K) Σ_k ‖g_k − ḡ‖² / (K − 1)

    Args:
      gradients: a pytree of [K, ...], mean gradients of K disjoint groups of equal size; of one, nothing but NaN.
      trajectories: N, of all groups together; default K (one trajectory each).
    McCandlish et al. 2018. https://arxiv.org/abs/1812.06162

    >>> noise = gradient_noise(jnp.array([[1.0, 0.0], [3.0, 0.0]]))
    >>> float(noise.variance), float(noise.signal)
    (2.0, 3.0)
    """
    groups = jax.tree.leaves(gradients)[0].shape[0]
    count = groups if trajectories is None else trajectories
    found = [spread(g) for g in jax.tree.leaves(gradients)]
    variance = sum(jnp.sum(s.variance(ddof=1)) for s in found) * count / groups
    signal = sum(jnp.sum(s.mean**2) for s in found) - variance / count
    noiseless = jnp.where(signal > 0, jnp.inf, 0.0)
    snr = jnp.where(variance == 0, noiseless, quotient(signal, variance / count))
    return GradientNoise(variance, signal, snr, jnp.where(signal > 0, quotient(variance, signal), nothing()))


def cosine(one: Params, other: Params) -> Array:
    """Cosine between two gradients: of an estimate with a reference, or of two independent batches.

        ⟨g, h⟩ / (‖g‖ ‖h‖),   0 where either is 0

    Args:
      one: a pytree of arrays.
      other: of the same structure.
    Ilyas et al. 2020. https://arxiv.org/abs/1811.02553

    >>> round(float(cosine(jnp.array([1.0, 0.0]), jnp.array([3.0, 4.0]))), 6)
    0.6
    """
    return jnp.clip(optax.tree.vdot(_direction(one), _direction(other)), -1.0, 1.0)


def _direction(tree: Params) -> Params:
    """A pytree of length 1, however small or large its numbers are; 0 of 0."""
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in jax.tree.leaves(tree)]))
    scaled = jax.tree.map(lambda x: quotient(x, largest), tree)
    length = optax.tree.norm(scaled)
    return jax.tree.map(lambda x: quotient(x, length), scaled)


def bias_probe(gradients: Array, exact: ArrayLike) -> tuple[Array, Array]:
    """Bias of an approximate form on one batch: mean_n (g_n − g_n^exact) and its standard error, [P] each.

    A difference that is rounding of the two gradients is 0, and so is a standard error that is.

    Args:
      gradients: the approximate form's gradient of each trajectory, [N, P], or along one direction, [N].
      exact: those of an exact form (per-decision importance sampling) on the same trajectories.

    >>> mean, error = bias_probe(jnp.array([1.0, 3.0]), jnp.array([0.0, 0.0]))
    >>> float(mean), round(float(error), 6)
    (2.0, 1.0)
    """
    return mean_and_error(difference(gradients, exact, size=jnp.max(jnp.abs(gradients), axis=0)))


def mean_and_error(x: Array) -> tuple[Array, Array]:
    """Mean and standard error over axis 0; the error is exactly 0 where all are equal up to rounding, NaN of one.

    >>> [round(float(x), 6) for x in mean_and_error(jnp.array([1.0, 3.0]))]
    [2.0, 1.0]
    """
    found = spread(x)
    return found.mean[0], found.std(ddof=1)[0] / jnp.sqrt(found.count[0])


def explained_variance(target: Array, value: Array, mask: Array) -> Array:
    """1 − Var(Q̂ − V)/Var(Q̂) over executed steps; not a number where Q̂ does not vary but by rounding.

    >>> float(explained_variance(jnp.array([1.0, 3.0]), jnp.array([1.0, 3.0]), jnp.ones(2)))
    1.0
    """
    whole = step_spread(target, mask).variance()
    left = step_spread(difference(target, value), mask).variance()
    return jnp.where(whole == 0, nothing(), 1.0 - quotient(left, whole)).reshape(())


def effective_sample_size_per_step(log_ratio: Array) -> Array:
    """ESS of ρ_{1:t} over the batch at every step, [T]; a finished trajectory keeps its last weight.

    Whole episodes, [T, N], with log ρ = 0 on padding.

    >>> effective_sample_size_per_step(jnp.log(jnp.array([[1.0, 1.0, 1.0], [4.0, 1.0, 1.0]]))).round().tolist()
    [3.0, 2.0]
    """
    return effective_sample_size(jnp.cumsum(log_ratio, axis=0), axis=1)


def weight_statistics(
    agent: Agent, config: Config, params: Params, transition: Transition, memory: Any = ()
) -> dict[str, Array]:
    """Whether reuse of a batch has gone too far, at the parameters the updates have led to.

        effective_sample_size   (Σw)²/Σw², as a fraction of the batch; 1 is on-policy
        largest_weight_share    max w / Σw
        mean_weight             about 1, or the recorded actions and log-probabilities do not belong together
        kl                      mean of (ρ − 1) − log ρ, an estimate of KL(θ̄ ‖ θ) per step
        clamped                 share of steps whose weight met the bound of `pgjax.estimators.importance`

    In "episodes" w = ρ_{1:T} of each trajectory; in "stream" ρ_t of each step.

    >>> from pgjax import oracle
    >>> mdp = oracle.make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)  # one step, two actions
    >>> rows = oracle.as_transition(mdp, oracle.enumerate_trajectories(mdp), jnp.log(jnp.full((1, 2), 0.5)))
    >>> agent, moved = oracle.mdp_agent(jax.nn.log_softmax), jnp.log(jnp.array([[0.75, 0.25]]))  # w = 1.5 and 0.5
    >>> found = weight_statistics(agent, Config(), moved, rows)
    >>> [round(float(found[name]), 3) for name in ("effective_sample_size", "largest_weight_share", "mean_weight")]
    [0.8, 0.75, 1.0]
    """
    x = ratios_of(agent, params, transition, memory, engine(config.engine))
    mask = transition.mask
    continues = mask * ~(transition.terminated | transition.truncated)
    whole = config.rollout == "episodes"
    # Weights of what exists: a column without a step, or a row of padding, is nobody's.
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
    """Mean score per step, ∇ (1/steps) Σ log π_θ(a_t|s_t): zero in expectation for the policy that sampled the batch.

    Far from zero (against 1/√steps) it shows actions, observations or masks that do not belong together.

    >>> from pgjax import oracle
    >>> mdp = oracle.make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)
    >>> rows = oracle.as_transition(mdp, oracle.enumerate_trajectories(mdp), jnp.log(jnp.full((1, 2), 0.5)))
    >>> agent = oracle.mdp_agent(lambda params: jax.nn.log_softmax(params["policy"]))
    >>> params, wrong = {"policy": jnp.zeros((1, 2))}, rows._replace(action=jnp.zeros_like(rows.action))
    >>> [score_mean(agent, params, given)[0].tolist() for given in (rows, wrong)]  # rows hold each action once
    [[0.0, 0.0], [0.5, -0.5]]
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
    """The mean score along one random direction, in standard errors: a t-statistic, for one forward pass.

        z ~ N(0, I),   x_n = ⟨Σ_t ∇log π(a_{n,t}|s_{n,t}), z⟩,   mean(x) / (std(x)/√N)

    Its square averages 1 over updates when actions, log-probabilities and masks belong together (a score has mean zero
    under the policy that acted), and grows with the batch when they do not.

    Args:
      agent: whose policy.
      params: those that sampled the batch.
      transition: [T, N, ...], N ≥ 2.
      key: draws the direction.
      memory: of a recurrent policy, at the first row.
      how: the speed-ups to use; default what suits the device.

    >>> from pgjax import oracle
    >>> mdp = oracle.make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)
    >>> rows = oracle.as_transition(mdp, oracle.enumerate_trajectories(mdp), jnp.log(jnp.full((1, 2), 0.5)))
    >>> agent = oracle.mdp_agent(lambda params: jax.nn.log_softmax(params["policy"]))
    >>> abs(round(float(score_probe(agent, {"policy": jnp.zeros((1, 2))}, rows, jax.random.key(0))), 3))
    0.0
    """

    def log_probs(policy: Params) -> Array:
        return jnp.sum(log_prob_of(agent, params | {"policy": policy}, transition, memory, how), axis=0)

    return _in_errors(*bias_probe(_along(log_probs, params["policy"], key), 0.0))


def branched_action_values(
    environment: Environment,
    policy: Policy,
    start: Visited,
    keys: Array,
    *,
    discount: ArrayLike = 1.0,
) -> tuple[Array, Array]:
    """Q(s, ·) without a critic: every action tried from one visited state, by K continuations each.

        Q̂(s, a) = (1/K) Σ_k [ r(s, a) + Σ_{t≥1} γ^t r_t ],   the policy acting from the second step on

    The continuations of different actions share their keys. V̂(s) = Σ_a π(a|s) Q̂(s, a), and Q̂ − V̂ is an advantage that
    owes nothing to a network.

    Args:
      environment: with discrete actions; a time limit inside its state goes on counting.
      policy: observation -> distribution.
      start: from `rollout.visit`.
      keys: one for each continuation, [K].
      discount: γ.

    Returns:
      Q̂(s, ·) and its standard errors, [A] each.

    >>> from functools import partial
    >>> from pgjax import environments, make_agent, rollout
    >>> env = environments.make("Catch-bsuite")
    >>> agent = make_agent(env)
    >>> policy = partial(agent.policy, agent.init(jax.random.key(0)))
    >>> start = rollout.visit(env, policy, jax.random.key(1), steps=8)  # the ball lands at the ninth
    >>> branched_action_values(env, policy, start, jax.random.split(jax.random.key(2), 4))[0].shape
    (3,)
    """
    if not isinstance(environment.action_space, Discrete):
        reason = "has other actions than one Discrete number, whose values can be tried one by one"
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
    """What `Config.diagnostics` adds to the metrics at every update, beside the noise of the gradient.

        bias_probe           estimator − per-decision importance sampling, along a random direction, in standard
                             errors, at the parameters the updates have led to: what dropped ratios cost

    Args:
      agent: policy and critic.
      algorithm: the estimator.
      config: as in training.
      params: after the updates.
      batch: held, its signals those of the parameters that sampled it; credit and target are not used.
      key: draws the direction.

    >>> from pgjax import oracle, reinforce
    >>> mdp = oracle.make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)
    >>> rows = oracle.as_transition(mdp, oracle.enumerate_trajectories(mdp), jnp.log(jnp.full((1, 2), 0.5)))
    >>> agent = oracle.mdp_agent(lambda params: jax.nn.log_softmax(params["policy"]))
    >>> batch, params = Batch(rows, make_signals(rows.reward), credit=None), {"policy": jnp.zeros((1, 2))}
    >>> found = monitor(agent, reinforce(baseline="none").algorithm, Config(), params, batch, jax.random.key(0))
    >>> abs(round(float(found["bias_probe"]), 3))  # on-policy there are no ratios to drop
    0.0
    """
    signals = batch.signals
    now = signals._replace(log_ratio=ratios_of(agent, params, batch.transition, batch.memory, engine(config.engine)))
    exact = algorithm._replace(estimator=product(off_policy_reward_to_go, stopped_prefix))

    def along(algorithm: Algorithm) -> Array:
        credited = batch._replace(signals=now, credit=credit_of(algorithm, config, now))

        def surrogates(policy: Params) -> Array:
            moved = params | {"policy": policy}
            return jnp.sum(contributions(agent, algorithm.estimator, moved, credited).surrogate, axis=0)

        return _along(surrogates, params["policy"], key)

    return {"bias_probe": _in_errors(*bias_probe(along(algorithm), along(exact)))}


def _in_errors(mean: Array, error: Array) -> Array:
    """A t-statistic; 0 where nothing varies, as of a policy that has become deterministic: nothing can be said."""
    return quotient(mean, error)


def _along(function: Callable[[Params], Array], params: Params, key: Array) -> Array:
    """Derivative of a vector function [N] along one random direction: all N inner products ⟨g_n, z⟩ at once."""
    return jax.jvp(function, (params,), (optax.tree.random_like(key, params),))[1]
