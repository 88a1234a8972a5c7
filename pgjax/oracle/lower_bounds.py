"""Exact lower bounds on a policy's return from trajectories of another policy, as maximised by POIS."""

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
    """E_μ[ρ_{1:T}²] = exp D₂(p_π‖p_μ), the exponentiated Rényi divergence of order 2 between trajectory distributions.

        M_t(s) = Σ_a μ ρ² (Σ_s' P(s'|s, a) M_{t+1}(s') + P(end|s, a)),   M_T = 1

    `target` is log π and `behaviour` is log μ, both [S, A] or [T, S, A].
    """
    transition = jnp.asarray(mdp.transition)
    ends = 1.0 - jnp.sum(transition, axis=-1)
    weight = jnp.exp(2.0 * per_step(mdp, target) - per_step(mdp, behaviour))

    def backward(moment: Array, weight_t: Array) -> tuple[Array, None]:
        return jnp.sum(weight_t * (transition @ moment + ends), axis=-1), None

    moment, _ = jax.lax.scan(backward, jnp.ones(len(mdp.initial), weight.dtype), weight, reverse=True)
    return jnp.asarray(mdp.initial) @ moment


def largest_return(mdp: MDP) -> float:
    """An upper bound on |R|: Σ_t γ^t max|r|."""
    return float(np.max(np.abs(mdp.reward)) * np.sum(mdp.discount ** np.arange(mdp.horizon)))


def pois_penalty(mdp: MDP, target: Array, behaviour: Array, trajectories: int, confidence: float = 0.95) -> Array:
    """Penalty of the POIS lower bound, ‖R‖_∞ √((1 − δ) E_μ[ρ²]/(δ N)) with δ = 1 − confidence.

    With probability at least 1 − δ over N `trajectories` of μ, J(π) ≥ (1/N) Σ_n ρ_n R_n − penalty. This is Cantelli's
    inequality with a variance of at most ‖R‖²_∞ E_μ[ρ²]/N. Policies as in `weight_second_moment`.
    Source: Metelli et al. 2018, policy optimisation via importance sampling. https://arxiv.org/abs/1809.06098
    """
    if not 0.0 < confidence < 1.0:
        raise SettingError("confidence", confidence, "must lie in (0, 1)")
    odds = confidence / (1.0 - confidence)
    return largest_return(mdp) * jnp.sqrt(odds * weight_second_moment(mdp, target, behaviour) / trajectories)


def ratio_surrogate(mdp: MDP, trajectories: Trajectories, target: Array, behaviour: Array, share: Array) -> Array:
    """(1/N) Σ_n ρ_n R_n of a batch in which each of the `trajectories` listed has the fraction `share`, [M].

    With probabilities under μ as `share`, the result is J(π). Policies as in `weight_second_moment`.
    """
    log_ratio = taken_log_probs(mdp, trajectories, target) - taken_log_probs(mdp, trajectories, behaviour)
    returns = jnp.sum(_discounted_rewards(mdp, trajectories), axis=0)
    return share @ (jnp.exp(jnp.sum(log_ratio, axis=0)) * returns)


def clipped_surrogate(
    mdp: MDP, trajectories: Trajectories, target: Array, behaviour: Array, share: Array, clip: float = 0.2
) -> Array:
    """(1/N) Σ_n Σ_t min(ρ_t Â_t, clip(ρ_t, 1 ± ε) Â_t), with Â_t the reward-to-go minus its mean over the batch.

    Arguments as in `ratio_surrogate`; `clip` is ε.
    Source: Schulman et al. 2017. https://arxiv.org/abs/1707.06347
    """
    mask = jnp.asarray(trajectories.mask)
    to_go = linear_recurrence(_discounted_rewards(mdp, trajectories), 1.0, reverse=True)
    alive = mask @ share
    credit = mask * (to_go - (to_go @ share / jnp.where(alive > 0, alive, 1.0))[:, None])
    log_ratio = taken_log_probs(mdp, trajectories, target) - taken_log_probs(mdp, trajectories, behaviour)
    return share @ jnp.sum(mask * clipped_ratio(log_ratio, credit, mask, clip), axis=0)


def ascend(objective: Callable[[Params], Array], params: Params, steps: int, size: ArrayLike) -> Params:
    """θ after gradient ascent with a constant step size."""

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
    """Maximise the expected bound J(θ') − penalty(θ', θ) over θ', by gradient ascent from θ, the behaviour policy.

    Makes `steps` gradient steps of size `size` on the bound of `pois_penalty`, for N `trajectories` and `confidence`.
    More trajectories allow larger changes of the policy. `log_policy` maps params to log π.

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
