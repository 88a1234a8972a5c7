"""What can be promised of a policy from another one's trajectories: the lower bound that POIS ascends, exactly."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from pgjax.estimators.recurrence import linear_recurrence
from pgjax.estimators.surrogates import clipped_ratio
from pgjax.oracle.enumeration import Trajectories, taken_log_probs
from pgjax.oracle.mdp import MDP, LogPolicy, exact_values, per_step
from pgjax.types import Params, SettingError


@jax.jit
def weight_second_moment(mdp: MDP, target: Array, behaviour: Array) -> Array:
    """E_μ[ρ_{1:T}²] = exp D₂(p_π‖p_μ), the exponentiated Rényi divergence of order 2 of the trajectories' laws.

        M_t(s) = Σ_a μ ρ² (Σ_s' P(s'|s, a) M_{t+1}(s') + P(end|s, a)),   M_T = 1

    Args:
      mdp: the problem.
      target: log π, [S, A] or [T, S, A].
      behaviour: log μ, likewise.

    >>> from pgjax.oracle import make_mdp
    >>> bandit = make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)
    >>> target, behaviour = (jnp.log(jnp.array([[p, 1.0 - p]])) for p in (0.5, 0.25))
    >>> round(float(weight_second_moment(bandit, target, behaviour)), 4)  # ¼ · 2² + ¾ · (2/3)²
    1.3333
    """
    transition = jnp.asarray(mdp.transition)
    ends = 1.0 - jnp.sum(transition, axis=-1)
    weight = jnp.exp(2.0 * per_step(mdp, target) - per_step(mdp, behaviour))

    def backward(moment: Array, weight_t: Array) -> tuple[Array, None]:
        return jnp.sum(weight_t * (transition @ moment + ends), axis=-1), None

    moment, _ = jax.lax.scan(backward, jnp.ones(len(mdp.initial), weight.dtype), weight, reverse=True)
    return jnp.asarray(mdp.initial) @ moment


def largest_return(mdp: MDP) -> float:
    """A bound on |R|: the sum of γ^t max|r|.

    >>> from pgjax.oracle import make_mdp
    >>> largest_return(make_mdp([1.0], [[[1.0]]], [[-2.0]], horizon=2, discount=0.5))
    3.0
    """
    return float(np.max(np.abs(mdp.reward)) * np.sum(mdp.discount ** np.arange(mdp.horizon)))


def pois_penalty(mdp: MDP, target: Array, behaviour: Array, trajectories: int, confidence: float = 0.95) -> Array:
    """What the trajectory-wise estimate has to lose to be a lower bound: ‖R‖_∞ √((1 − δ) E_μ[ρ²]/(δ N)).

    Here δ = 1 − confidence. With probability at least 1 − δ over N trajectories of μ,
    J(π) ≥ (1/N) Σ_n ρ_n R_n − penalty: Cantelli's inequality with a variance of at most ‖R‖²_∞ E_μ[ρ²]/N.

    Args:
      mdp: the problem.
      target: log π, [S, A] or [T, S, A].
      behaviour: log μ, likewise.
      trajectories: N.
      confidence: 1 − δ, between 0 and 1.

    Raises:
      SettingError: for a confidence outside (0, 1).
    Metelli et al. 2018, policy optimisation via importance sampling. https://arxiv.org/abs/1809.06098

    >>> from pgjax.oracle import make_mdp
    >>> bandit, same = make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1), jnp.log(jnp.array([[0.5, 0.5]]))
    >>> round(float(pois_penalty(bandit, same, same, trajectories=100)), 4)  # √(0.95/(0.05 · 100))
    0.4359
    """
    if not 0.0 < confidence < 1.0:
        raise SettingError("confidence", confidence, "must lie between 0 and 1, both excluded")
    odds = confidence / (1.0 - confidence)
    return largest_return(mdp) * jnp.sqrt(odds * weight_second_moment(mdp, target, behaviour) / trajectories)


def ratio_surrogate(mdp: MDP, trajectories: Trajectories, target: Array, behaviour: Array, share: Array) -> Array:
    """(1/N) Σ_n ρ_n R_n of a batch, without any penalty.

    Args:
      mdp: the problem.
      trajectories: all of them, from `enumerate_trajectories`.
      target: log π, [S, A] or [T, S, A].
      behaviour: log μ, likewise.
      share: of the batch that each trajectory makes up, [M]; their probabilities under μ give J(π).

    >>> from pgjax.oracle import enumerate_trajectories, make_mdp
    >>> bandit = make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)
    >>> target, behaviour = (jnp.log(jnp.array([[p, 1.0 - p]])) for p in (0.9, 0.5))
    >>> batch = jnp.array([0.25, 0.75])  # of four pulls one earned 1, with weight 0.9/0.5
    >>> round(float(ratio_surrogate(bandit, enumerate_trajectories(bandit), target, behaviour, batch)), 4)
    0.45
    """
    log_ratio = taken_log_probs(mdp, trajectories, target) - taken_log_probs(mdp, trajectories, behaviour)
    returns = jnp.sum(_discounted_rewards(mdp, trajectories), axis=0)
    return share @ (jnp.exp(jnp.sum(log_ratio, axis=0)) * returns)


def clipped_surrogate(
    mdp: MDP, trajectories: Trajectories, target: Array, behaviour: Array, share: Array, clip: float = 0.2
) -> Array:
    """(1/N) Σ_n Σ_t min(ρ_t Â_t, clip(ρ_t, 1 ± ε) Â_t), Â_t the reward to go less its mean over the batch.

    Args:
      mdp: the problem.
      trajectories: all of them.
      target: log π, [S, A] or [T, S, A].
      behaviour: log μ, likewise.
      share: as above, [M].
      clip: ε.
    Schulman et al. 2017. https://arxiv.org/abs/1707.06347

    >>> from pgjax.oracle import enumerate_trajectories, make_mdp
    >>> bandit = make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)
    >>> target, behaviour = (jnp.log(jnp.array([[p, 1.0 - p]])) for p in (0.9, 0.5))
    >>> batch = jnp.array([0.5, 0.5])  # Â = ±½; 1.8 is cut to 1.2, 0.2 to 0.8
    >>> round(float(clipped_surrogate(bandit, enumerate_trajectories(bandit), target, behaviour, batch)), 4)
    0.1
    """
    mask = jnp.asarray(trajectories.mask)
    to_go = linear_recurrence(_discounted_rewards(mdp, trajectories), 1.0, reverse=True)
    alive = mask @ share
    credit = mask * (to_go - (to_go @ share / jnp.where(alive > 0, alive, 1.0))[:, None])
    log_ratio = taken_log_probs(mdp, trajectories, target) - taken_log_probs(mdp, trajectories, behaviour)
    return share @ jnp.sum(mask * clipped_ratio(log_ratio, credit, mask, clip), axis=0)


def ascend(objective: Callable[[Params], Array], params: Params, steps: int, size: ArrayLike) -> Params:
    """θ after plain gradient ascent.

    >>> ascend(lambda x: -((x - 3.0) ** 2), 0.0, steps=100, size=0.1).round(4).item()
    3.0
    """

    def step(p: Params, _: None) -> tuple[Params, None]:
        return jax.tree.map(lambda x, g: x + size * g, p, jax.grad(objective)(p)), None

    return jax.lax.scan(step, jax.tree.map(jnp.asarray, params), None, length=steps)[0]


def pois_search(
    mdp: MDP,
    log_policy: LogPolicy,
    params: Params,
    trajectories: int,
    confidence: float = 0.95,
    steps: int = 500,
    size: ArrayLike = 0.1,
) -> Params:
    """The maximum of the expected bound J(θ') − penalty(θ', θ) over θ', by plain gradient ascent from θ.

    More trajectories allow to go farther; with few the policy stays where its data are.

    Args:
      mdp: the problem.
      log_policy: params -> log π.
      params: θ of the behaviour policy.
      trajectories: N.
      confidence: of the bound.
      steps: of the ascent.
      size: of each.

    >>> from pgjax.oracle import make_mdp
    >>> bandit = make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)
    >>> few, many = (pois_search(bandit, jax.nn.log_softmax, jnp.zeros((1, 2)), n) for n in (10, 10_000))
    >>> bool(0.5 < jax.nn.softmax(few)[0, 0] < jax.nn.softmax(many)[0, 0])
    True
    """
    behaviour = log_policy(params)

    def bound(p: Params) -> Array:
        target = log_policy(p)
        return exact_values(mdp, target).objective - pois_penalty(mdp, target, behaviour, trajectories, confidence)

    return ascend(bound, params, steps, size)


def _discounted_rewards(mdp: MDP, trajectories: Trajectories) -> Array:
    """γ^t r_t, [T, M]."""
    factor = mdp.discount ** jnp.arange(mdp.horizon)[:, None]
    return factor * trajectories.mask * jnp.asarray(mdp.reward)[trajectories.state, trajectories.action]
