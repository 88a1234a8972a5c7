"""Convergence theorems of gradients in logits, normalised gradients, and the escort transform.

Rewards lie in [0, 1] and the start distribution ρ is positive in every state. Notation: δ_k = J* − J_k under ρ, and M =
‖d*_ρ/ρ‖_∞. The smallest probability of an optimal action over all states and all steps up to k is c_k. Constants are
derived here unless the docstring says that the source prints them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from pgjax.oracle.flows import directions
from pgjax.oracle.flows.checked import Checked, constants, gaps, least_optimal, objectives, zero_logits
from pgjax.oracle.flows.directions import Flow
from pgjax.oracle.flows.loop import fixed, integrate, line_searched
from pgjax.oracle.flows.problems import Discounted
from pgjax.oracle.flows.values import optimum
from pgjax.types import Params


def softmax(problem: Discounted, steps: np.ndarray) -> Checked:
    """Softmax policy gradient with step (1 − γ)³/8 from uniform: δ_k ≤ 16 S M²/(c_k² (1 − γ)⁵ k).

    J is L-smooth in logits with L = 8/(1 − γ)³ (Agarwal et al. 2021), so that a step of 1/L gains ‖∇J‖²/2L. Three facts
    give ‖∇J‖ ≥ c (1 − γ) δ/(√S M):

        |∂J/∂θ(s, a*)| = d(s) π(a*|s) A(s, a*)/(1 − γ),   d ≥ (1 − γ) ρ,   δ = Σ_s d*(s) A(s, a*(s))/(1 − γ).

    Hence 1/δ grows by at least (c (1 − γ)/(√S M))²/2L in a step.
    Source: Mei et al. 2020, lemmas 7 and 8 and theorem 4, with this step. Its bound has (1 − γ)⁶ and a factor ‖1/ρ‖_∞,
    for δ under any start and c over all future steps. https://arxiv.org/abs/2005.06392
    """
    states, _, left, far = constants(problem)
    flow, rule = directions.softmax_gradient(), fixed(left**3 / 8.0)
    curve = integrate(problem, flow, zero_logits(problem), steps, rule, objectives, least_optimal(problem))
    gap = gaps(problem, curve)
    bound = 16.0 * states * far**2 / (curve.lowest**2 * left**5 * curve.steps)
    return Checked(curve.steps, gap, bound, gap)


def softmax_bandit(problem: Discounted, steps: np.ndarray) -> Checked:
    """Softmax policy gradient on a bandit with step 2/5 from uniform: δ_k ≤ 5/(c_k² k).

    J is 5/2-smooth and ‖∇J‖ ≥ π(a*) δ, so that a step of 2/5 gains at least c² δ²/5.
    Source: Mei et al. 2020, lemmas 2 to 4 with this step; theorem 2 has c over all future steps.
    https://arxiv.org/abs/2005.06392
    """
    flow = directions.softmax_gradient()
    curve = integrate(problem, flow, zero_logits(problem), steps, fixed(0.4), objectives, least_optimal(problem))
    gap = gaps(problem, curve)
    return Checked(curve.steps, gap, 5.0 / (curve.lowest**2 * curve.steps), gap)


def softmax_bandit_lower(problem: Discounted, steps: np.ndarray) -> Checked:
    """Lower bound for `softmax_bandit`: δ_k ≥ 1/(1/δ_0 + 12 k/7).

    Let P = Σ_a π(a) (r(a) − J)⁺ and p the probability of arms above J. Then ‖∇J‖² ≤ 2P², P ≤ δ p and P ≤ (1 − δ)(1 −
    p). A step of η = 2/5 gains at most (η + 5η²/4) ‖∇J‖² = (3/5) ‖∇J‖², which is at most (6/5) δ² and at most 3δ/10.
    Hence 1/δ grows by at most (6/5)/(7/10) in a step.
    Source: after Mei et al. 2020, theorem 9: Ω(1/k) for large k, with a constant that shrinks with the gap between the
    best two arms. https://arxiv.org/abs/2005.06392
    """
    flow = directions.softmax_gradient()
    curve = integrate(problem, flow, zero_logits(problem), steps, fixed(0.4), objectives)
    gap = gaps(problem, curve)
    return Checked(curve.steps, gap, 1.0 / (1.0 / gap[0] + 12.0 * curve.steps / 7.0), gap)


def normalised_bandit(problem: Discounted, steps: np.ndarray) -> Checked:
    """Normalised gradient on a bandit with step 1/6 from uniform: δ_k ≤ δ_0 exp(−c_k k/12).

    The curvature of J at θ is at most 3 ‖∇J(θ)‖, and along a step of 1/6 the gradient at most doubles. A step therefore
    gains ‖∇J‖ (1/6 − 1/12) ≥ c δ/12.
    Source: after Mei et al. 2021. https://arxiv.org/abs/2105.06072
    """
    flow = directions.normalised(directions.softmax_gradient())
    curve = integrate(problem, flow, zero_logits(problem), steps, fixed(1 / 6), objectives, least_optimal(problem))
    gap = gaps(problem, curve)
    return Checked(curve.steps, gap, gap[0] * jnp.exp(-curve.lowest * curve.steps / 12.0), gap)


def normalised(problem: Discounted, steps: np.ndarray) -> Checked:
    """Normalised gradient from uniform: δ_k ≤ δ_0 exp(−C k), C = (1 − γ)² c_k/((12 (1 − γ) + 16 (D − (1 − γ))) S M).

    D = max_π ‖d^π/ρ‖_∞, from one optimal policy per state, and the step is η = (1 − γ)/((6 (1 − γ) + 8 (D − (1 − γ)))
    √S). The curvature is at most (3 + 4 (D − (1 − γ))/(1 − γ)) √S ‖∇J‖, so that a step gains η ‖∇J‖/2. ‖∇J‖ is bounded
    as in `softmax`.
    Source: after Mei et al. 2021. https://arxiv.org/abs/2105.06072
    """
    states, actions, left, far = constants(problem)

    def most_visited(at: Array) -> Array:
        reward = jnp.broadcast_to(at[:, None], (states, actions))
        return left * optimum(problem._replace(reward=reward)).objective

    most = jnp.max(jax.vmap(most_visited)(jnp.eye(states)) / problem.initial)
    half = 6.0 * left + 8.0 * (most - left)
    flow = directions.normalised(directions.softmax_gradient())
    rule = fixed(left / (half * states**0.5))
    curve = integrate(problem, flow, zero_logits(problem), steps, rule, objectives, least_optimal(problem))
    gap = gaps(problem, curve)
    rate = left**2 * curve.lowest / (2.0 * half * states * far)
    return Checked(curve.steps, gap, gap[0] * jnp.exp(-rate * curve.steps), gap)


def _escort_slope(action: Array, problem: Discounted, flow: Flow, params: Params) -> Array:
    """p min_s π(a*|s)^{1 − 1/p}/‖θ(s, ·)‖_p at p = 2."""
    probs = jnp.take_along_axis(flow.policy(params), action[:, None], axis=1)[:, 0]
    return jnp.min(2.0 * jnp.sqrt(probs) / jnp.linalg.norm(params, axis=-1))


def escort(problem: Discounted, steps: np.ndarray) -> Checked:
    """Escort policy gradient (p = 2), line-searched steps α_j from θ = 1: δ_k ≤ 1/(1/δ_0 + g_k² Σ_j α_j/2).

    The search accepts a step only if it gains α ‖∇J‖²/2. Since |∂J/∂θ(s, a)| is p/|θ(s, a)| times that of logits, ‖∇J‖
    ≥ g δ. Here g is (1 − γ)/(√S M) times the smallest p π(a*|s)^{1 − 1/p}/‖θ(s, ·)‖_p so far. The exponent 1 − 1/p
    instead of 1 avoids the plateau of softmax.
    Source: after Mei et al. 2020b, Escaping the gravitational pull of softmax, NeurIPS.
    """
    states, _, left, far = constants(problem)
    rule, start = line_searched(64.0), jnp.ones(problem.reward.shape)
    flow, least = directions.escort_gradient(2.0), Partial(_escort_slope, optimum(problem).action)
    curve = integrate(problem, flow, start, steps, rule, objectives, least)
    gap, slope = gaps(problem, curve), curve.lowest * left / (states**0.5 * far)
    return Checked(curve.steps, gap, 1.0 / (1.0 / gap[0] + 0.5 * slope**2 * curve.length), gap)
