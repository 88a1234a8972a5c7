"""What is proved of gradients in logits, normalised ones, and the escort transform.

Rewards lie in [0, 1] and the start ρ misses no state. δ_k = J* − J_k under ρ; M = ‖d*_ρ/ρ‖_∞; c_k is the smallest
probability of an optimal action, over all states and all steps up to k. Each docstring has the form that is used and
the argument that leads to it: constants are those derived here, unless it says that the source prints them.
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
    """Softmax policy gradient, step (1 − γ)³/8 from uniform: δ_k ≤ 16 S M²/(c_k² (1 − γ)⁵ k).

    J is L-smooth in logits with L = 8/(1 − γ)³ (Agarwal et al. 2021), so a step of 1/L gains ‖∇J‖²/2L; and
    ‖∇J‖ ≥ c (1 − γ) δ/(√S M), as |∂J/∂θ(s, a*)| = d(s) π(a*|s) A(s, a*)/(1 − γ), d ≥ (1 − γ) ρ, and δ is
    Σ_s d*(s) A(s, a*(s))/(1 − γ). So 1/δ grows by at least (c (1 − γ)/(√S M))²/2L in a step. Mei et al. 2020, lemmas 7
    and 8 and theorem 4, with this step; there 16 S M²/(c² (1 − γ)⁶ k) ‖1/ρ‖_∞, for a δ under any start, and c over all
    steps to come. https://arxiv.org/abs/2005.06392
    """
    states, _, left, far = constants(problem)
    flow, rule = directions.softmax_gradient(), fixed(left**3 / 8.0)
    curve = integrate(problem, flow, zero_logits(problem), steps, rule, objectives, least_optimal(problem))
    gap = gaps(problem, curve)
    bound = 16.0 * states * far**2 / (curve.lowest**2 * left**5 * curve.steps)
    return Checked(curve.steps, gap, bound, gap)


def softmax_bandit(problem: Discounted, steps: np.ndarray) -> Checked:
    """Softmax policy gradient on a bandit, step 2/5 from uniform: δ_k ≤ 5/(c_k² k).

    J is 5/2-smooth and ‖∇J‖ ≥ π(a*) δ, so a step of 2/5 gains at least c² δ²/5. Mei et al. 2020, lemmas 2 to 4 with
    this step; theorem 2 has c over all steps to come. https://arxiv.org/abs/2005.06392
    """
    flow = directions.softmax_gradient()
    curve = integrate(problem, flow, zero_logits(problem), steps, fixed(0.4), objectives, least_optimal(problem))
    gap = gaps(problem, curve)
    return Checked(curve.steps, gap, 5.0 / (curve.lowest**2 * curve.steps), gap)


def softmax_bandit_lower(problem: Discounted, steps: np.ndarray) -> Checked:
    """The same flow is no faster: δ_k ≥ 1/(1/δ_0 + 12 k/7).

    With P = Σ_a π(a) (r(a) − J)⁺, ‖∇J‖² ≤ 2P² and P is at most δ p and at most (1 − δ)(1 − p), p the probability of
    arms above J. A step of η = 2/5 gains at most (η + 5η²/4) ‖∇J‖² = (3/5) ‖∇J‖², which is at most (6/5) δ² and at
    most 3δ/10. So 1/δ grows by at most (6/5)/(7/10) in a step.
    Constants as derived here. Mei et al. 2020, theorem 9, has Ω(1/k) for large enough k, with a constant that shrinks
    with the gap between the best two arms. https://arxiv.org/abs/2005.06392
    """
    flow = directions.softmax_gradient()
    curve = integrate(problem, flow, zero_logits(problem), steps, fixed(0.4), objectives)
    gap = gaps(problem, curve)
    return Checked(curve.steps, gap, 1.0 / (1.0 / gap[0] + 12.0 * curve.steps / 7.0), gap)


def normalised_bandit(problem: Discounted, steps: np.ndarray) -> Checked:
    """Normalised gradient on a bandit, step 1/6 from uniform: δ_k ≤ δ_0 exp(−c_k k/12).

    J's curvature at θ is at most 3 ‖∇J(θ)‖, and along a step of 1/6 the gradient grows at most twofold; so a step gains
    ‖∇J‖ (1/6 − 1/12) ≥ c δ/12. Constants as derived here; the method and its linear rate are of Mei et al. 2021.
    https://arxiv.org/abs/2105.06072
    """
    flow = directions.normalised(directions.softmax_gradient())
    curve = integrate(problem, flow, zero_logits(problem), steps, fixed(1 / 6), objectives, least_optimal(problem))
    gap = gaps(problem, curve)
    return Checked(curve.steps, gap, gap[0] * jnp.exp(-curve.lowest * curve.steps / 12.0), gap)


def normalised(problem: Discounted, steps: np.ndarray) -> Checked:
    """Normalised gradient, from uniform: δ_k ≤ δ_0 exp(−C k), C = (1 − γ)² c_k/((12 (1 − γ) + 16 (D − (1 − γ))) S M).

    The step is (1 − γ)/((6 (1 − γ) + 8 (D − (1 − γ))) √S), D = max_π ‖d^π/ρ‖_∞, found by solving a problem for each
    state. The curvature is at most (3 + 4 (D − (1 − γ))/(1 − γ)) √S ‖∇J‖, so a step gains half of η ‖∇J‖; with the
    bound on ‖∇J‖ of `softmax`. Constants as derived here; the method and its linear rate are of Mei et al. 2021.
    https://arxiv.org/abs/2105.06072
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

    The search accepts a step only where it gains α ‖∇J‖²/2; and ‖∇J‖ ≥ g δ with g = (1 − γ)/(√S M) times the least
    p π(a*|s)^{1 − 1/p}/‖θ(s, ·)‖_p up to then, as |∂J/∂θ(s, a)| is p/|θ(s, a)| times that of logits. The exponent
    1 − 1/p of π(a*) in place of 1 is what avoids the plateau. Constants as derived here; the transform is of Mei et
    al. 2020b, Escaping the gravitational pull of softmax, NeurIPS.
    """
    states, _, left, far = constants(problem)
    rule, start = line_searched(64.0), jnp.ones(problem.reward.shape)
    flow, least = directions.escort_gradient(2.0), Partial(_escort_slope, optimum(problem).action)
    curve = integrate(problem, flow, start, steps, rule, objectives, least)
    gap, slope = gaps(problem, curve), curve.lowest * left / (states**0.5 * far)
    return Checked(curve.steps, gap, 1.0 / (1.0 / gap[0] + 0.5 * slope**2 * curve.length), gap)
