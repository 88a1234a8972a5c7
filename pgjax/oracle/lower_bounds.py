"""What can be promised of a policy from another one's trajectories: the lower bound that POIS ascends, exactly."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

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

    def step(p: Params, _: None) -> tuple[Params, None]:
        return jax.tree.map(lambda x, g: x + size * g, p, jax.grad(bound)(p)), None

    return jax.lax.scan(step, params, None, length=steps)[0]
