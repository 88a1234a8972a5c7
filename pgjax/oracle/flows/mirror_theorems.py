"""Convergence theorems of natural gradients, mirror descent and projection; notation as in `gradient_theorems`."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.oracle.flows import directions
from pgjax.oracle.flows.checked import Checked, constants, gaps, objectives, uniform_policy, zero_logits
from pgjax.oracle.flows.loop import fixed, growing, integrate
from pgjax.oracle.flows.mirror_maps import EUCLIDEAN
from pgjax.oracle.flows.problems import Discounted
from pgjax.oracle.flows.values import optimum


def natural(problem: Discounted, steps: np.ndarray) -> Checked:
    """Natural policy gradient with constant step η = 1 from uniform: δ_k ≤ (log A/η + 1/(1 − γ)²)/k.

    This is `mirror_euclidean` with the KL divergence, D_0 = log A, and η/(1 − γ) as its step.
    Source: Agarwal et al. 2021, theorem 16 in JMLR, 5.3 on https://arxiv.org/abs/1908.00261
    """
    actions, left = problem.reward.shape[1], 1.0 - problem.discount
    flow = directions.natural_gradient()
    curve = integrate(problem, flow, zero_logits(problem), steps, fixed(1.0), objectives)
    gap = gaps(problem, curve)
    return Checked(curve.steps, gap, (np.log(actions) + 1.0 / left**2) / curve.steps, gap)


def _mirror_distance(problem: Discounted) -> Array:
    best = optimum(problem)
    target = jax.nn.one_hot(best.action, problem.reward.shape[1])
    return best.occupancy @ EUCLIDEAN.divergence(target, uniform_policy(problem))


def mirror_euclidean(problem: Discounted, steps: np.ndarray) -> Checked:
    """Mirror descent with ½‖·‖² and constant step η = 1: δ_k ≤ (D_0/(η (1 − γ)) + 1/(1 − γ)²)/(k + 1).

    D_0 = E_{d*} D(π*, π_0). Holds for every mirror map and η. The proof uses the three-point identity, Σ_j E_{d*}⟨Q_j,
    π_{j+1} − π_j⟩ ≤ 1/(1 − γ), and that δ_k decreases.
    Source: Xiao 2022, theorem 8. https://arxiv.org/abs/2201.07443
    """
    left, flow = 1.0 - problem.discount, directions.mirror_descent(EUCLIDEAN)
    curve = integrate(problem, flow, uniform_policy(problem), steps, fixed(1.0), objectives)
    gap, start = gaps(problem, curve), _mirror_distance(problem)
    return Checked(curve.steps, gap, (start / left + 1.0 / left**2) / (curve.steps + 1.0), gap)


def mirror_growing(problem: Discounted, steps: np.ndarray) -> Checked:
    """Natural gradient with growing steps: δ_k ≤ (1 − 1/ϑ)^k (δ_0 + D_0/(η_0 (1 − γ)(ϑ − 1))), ϑ = M/(1 − γ).

    Steps grow from 1 by ϑ/(ϑ − 1), on logits to avoid underflow; D_0 = E_{d*} KL(π*, uniform) = log A. The proof uses
    the three-point identity with d* ≤ ϑ d_{k+1}.
    Source: Xiao 2022, theorem 10. https://arxiv.org/abs/2201.07443
    """
    _, actions, left, far = constants(problem)
    theta = far / left
    flow, rule = directions.natural_gradient(), growing(left, theta / (theta - 1.0))
    curve = integrate(problem, flow, zero_logits(problem), steps, rule, objectives)
    gap = gaps(problem, curve)
    start = gap[0] + np.log(actions) / (left * (theta - 1.0))
    return Checked(curve.steps, gap, (1.0 - 1.0 / theta) ** curve.steps * start, gap)


def projected(problem: Discounted, steps: np.ndarray) -> Checked:
    """Projected gradient in the probabilities, step (1 − γ)³/(2γA): δ_k ≤ 64 γ S A M²/((1 − γ)⁵ k).

    J is L-smooth in π with L = 2γA/(1 − γ)³, so that a step of 1/L gains L ‖π⁺ − π‖²/2. By gradient domination δ(π⁺) ≤
    2 √(2S) L M ‖π⁺ − π‖/(1 − γ). With D = M/(1 − γ), δ_k − δ_{k+1} ≥ δ_{k+1}²/(16 L S D²) and δ_k ≤ 32 L S D²/k. The
    constant is derived here.
    Source: Xiao 2022, theorem 2, has this step, 1/k and (1 − γ)⁵; https://arxiv.org/abs/2201.07443. Theorem 5 of
    Agarwal et al. 2021 (JMLR) bounds the best of k policies by the square root of 64 γ S A M²/((1 − γ)⁶ k).
    """
    states, actions, left, far = constants(problem)
    flow, rule = directions.projected_gradient(), fixed(left**3 / (2.0 * problem.discount * actions))
    curve = integrate(problem, flow, uniform_policy(problem), steps, rule, objectives)
    gap = gaps(problem, curve)
    bound = jnp.asarray(64.0 * problem.discount) * states * actions * far**2 / (left**5 * curve.steps)
    return Checked(curve.steps, gap, bound, gap)
