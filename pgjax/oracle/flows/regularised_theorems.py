"""Convergence theorems with an entropy or a log barrier added to J; notation as in `gradient_theorems`."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.oracle.flows import directions
from pgjax.oracle.flows.checked import Checked, constants, gaps, least_of_all, objectives, zero_logits
from pgjax.oracle.flows.directions import Flow
from pgjax.oracle.flows.loop import fixed, integrate, line_searched, objective
from pgjax.oracle.flows.problems import Discounted
from pgjax.oracle.flows.values import discounted_values, mismatch
from pgjax.types import Params

TEMPERATURE, BARRIER = 0.1, 0.05


def soft_optimum(problem: Discounted, temperature: float) -> tuple[Array, Array]:
    """`V*_τ` [S] and `Q*_τ` [S, A], by soft value iteration: V = τ log Σ_a exp(Q/τ)."""

    def again(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        value, _, k = carry
        q = problem.reward + problem.discount * problem.transition @ value
        new = temperature * jax.nn.logsumexp(q / temperature, axis=-1)
        return new, jnp.max(jnp.abs(new - value)), k + 1

    zero = jnp.zeros(problem.reward.shape[0])
    value, _, _ = jax.lax.while_loop(
        lambda c: (c[1] > 1e-14) & (c[2] < 20_000), again, (zero, jnp.inf * jnp.ones(()), jnp.int32(0))
    )
    return value, jnp.asarray(problem.reward) + problem.discount * problem.transition @ value


def entropy(problem: Discounted, steps: np.ndarray) -> Checked:
    """Entropy-regularised softmax gradient, τ = 0.1, from uniform: δ_k ≤ δ_0 (1 − C)^k, δ of J_τ.

    C = (1 − γ)⁴ min ρ (min_{s,a} π)²/((8/τ + 4 + 8 log A) S ‖d*_τ/ρ‖_∞), with min π over all steps up to k. The step is
    1/L with L = (8 + τ (4 + 8 log A))/(1 − γ)³, which makes J_τ L-smooth. Then ‖∇J_τ‖² ≥ 2 L C δ follows from ‖∇J_τ‖² ≥
    (2τ/S) min ρ (min π)² ((1 − γ)/‖d*_τ/ρ‖_∞) δ.
    Source: Mei et al. 2020, lemma 15 and theorem 6, with this step. https://arxiv.org/abs/2005.06392
    """
    states, actions, left, _ = constants(problem)
    value, q = soft_optimum(problem, TEMPERATURE)
    best = discounted_values(problem, jax.nn.softmax(q / TEMPERATURE))
    far = mismatch(problem, best.occupancy)
    wide = 4.0 + 8.0 * np.log(actions)
    rule = fixed(left**3 / (8.0 + TEMPERATURE * wide))
    flow = directions.entropy_gradient(TEMPERATURE)
    curve = integrate(problem, flow, zero_logits(problem), steps, rule, objectives, least_of_all)
    gap = problem.initial @ value - curve.recorded[1]
    rate = left**4 * jnp.min(problem.initial) * curve.lowest**2 / ((8.0 / TEMPERATURE + wide) * states * far)
    return Checked(curve.steps, gap, gap[0] * (1.0 - rate) ** curve.steps, gap)


def soft_natural(problem: Discounted, steps: np.ndarray) -> Checked:
    """Entropy-regularised natural gradient, step (1 − γ)/τ: max_s (V*_τ − V_k) ≤ γ^k max_s (V*_τ − V_0).

    This is soft policy iteration: V_{k+1} is at least the soft Bellman operator of V_k, a γ-contraction.
    Source: Cen et al. 2022, theorem 1, for any step η ≤ (1 − γ)/τ: soft Q-functions contract by 1 − ητ, here γ.
    https://arxiv.org/abs/2007.06558
    """
    value, _ = soft_optimum(problem, TEMPERATURE)

    def far(problem: Discounted, flow: Flow, logits: Params) -> tuple[Array, Array]:
        j, soft, _ = directions.soft_values(problem, jax.nn.log_softmax(logits), TEMPERATURE)
        return soft, j

    rule = fixed((1.0 - problem.discount) / TEMPERATURE)
    flow = directions.soft_natural_gradient(TEMPERATURE)
    curve = integrate(problem, flow, zero_logits(problem), steps, rule, far)
    measured = jnp.max(value - curve.recorded[0], axis=-1)
    gap = problem.initial @ value - curve.recorded[1]
    return Checked(curve.steps, measured, measured[0] * problem.discount**curve.steps, gap)


def _negative_slope(problem: Discounted, flow: Flow, params: Params) -> Array:
    return jnp.sum(flow.direction(problem, params) ** 2)


def log_barrier(problem: Discounted, steps: np.ndarray) -> Checked:
    """Log barrier, λ = 0.05, from uniform: min_{j ≤ k} ‖∇L_λ‖² ≤ 2β/((1 − γ)(k + 1)), β = 8/(1 − γ)³ + 2λ/S.

    L_λ is β-smooth, the step is 1/β, and L_λ* − L_λ(uniform) ≤ 1/(1 − γ), as the barrier is largest at uniform.
    `log_barrier_gap` bounds δ where the gradient is small.
    Source: Agarwal et al. 2021, proof of corollary 5.1 on arXiv, with the β of lemma D.4 (the corollary prints 8γ for
    8). https://arxiv.org/abs/1908.00261
    """
    states, _, left, _ = constants(problem)
    smooth = 8.0 / left**3 + 2.0 * BARRIER / states
    flow = directions.log_barrier_gradient(BARRIER)
    curve = integrate(problem, flow, zero_logits(problem), steps, fixed(1 / smooth), objectives, _negative_slope)
    bound = 2.0 * smooth / (left * (curve.steps + 1.0))
    return Checked(curve.steps, curve.lowest, bound, gaps(problem, curve))


def log_barrier_gap(problem: Discounted, steps: np.ndarray) -> Checked:
    """Log barrier, λ = 0.05, line-searched: where ‖∇L_λ‖ ≤ λ/(2 S A), δ ≤ 2λ M/(1 − γ); elsewhere δ ≤ 1/(1 − γ).

    Where the gradient is small, A(s, a) ≥ 0 implies π(a|s) ≥ 1/2A and A(s, a) ≤ 2 (1 − γ) λ/(S d(s)) ≤ 2λ/(S ρ(s)).
    Source: Agarwal et al. 2021, theorem 5.2 on arXiv. https://arxiv.org/abs/1908.00261
    """
    states, actions, left, far = constants(problem)
    flow = directions.log_barrier_gradient(BARRIER)

    def with_slope(problem: Discounted, flow: Flow, params: Params) -> tuple[Array, Array]:
        return objective(problem, flow, params), jnp.linalg.norm(flow.direction(problem, params))

    rule = line_searched(64.0)
    curve = integrate(problem, flow, zero_logits(problem), steps, rule, with_slope)
    small = curve.recorded[1] <= BARRIER / (2.0 * states * actions)
    gap = gaps(problem, curve)
    return Checked(curve.steps, gap, jnp.where(small, 2.0 * BARRIER * far / left, 1.0 / left), gap)
