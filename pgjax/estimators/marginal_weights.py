"""Off-policy value estimates from ratios of state distributions instead of products of action ratios:

    w_t = d_t^π(s_t, a_t)/d_t^μ(s_t, a_t) = (d_t^π(s_t)/d_t^μ(s_t)) ρ_t.

Given (s_t, a_t), the mean of the product ρ_{1:t} is w_t, so w_t varies less, over long horizons by an exponential
factor. The `state_ratio` d_t^π(s_t)/d_t^μ(s_t) along the trajectories, [T, N], comes from a known MDP
(`oracle.state_ratios`) or from counts (`counted_state_ratios`). Signals are those of `pgjax.value_estimates`.
"""

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.estimators.returns import discount_factor, discounted_reward
from pgjax.estimators.value_estimates import ValueEstimate, _check, _mean_of
from pgjax.types import SettingError, Signals


def marginal_values(signals: Signals, state_ratio: Array) -> Array:
    """Σ_t w_t γ^t r_t of every trajectory, [N], from signals and state ratios [T, N]."""
    return jnp.sum(_weights(signals, state_ratio) * discounted_reward(signals), axis=0)


def double_values(signals: Signals, state_ratio: Array) -> Array:
    """V(s_0) + Σ_t γ^t w_t (r_t + γ V(s_{t+1}) − Q(s_t, a_t)) of every trajectory, [N]; double reinforcement learning.

    It is computed as Σ_t γ^t [w_{t−1} V(s_t) + w_t (r_t − Q(s_t, a_t))] with w_{−1} = 1, from `value` and `taken_value`
    as for `doubly_robust`. The mean is unbiased where the critic *or* the ratios are exact. Kallus & Uehara 2020.
    https://arxiv.org/abs/1908.08526
    """
    if signals.taken_value is None:
        raise SettingError("taken_value", None, "is missing; double needs Q(s_t, a_t), from action_value")
    weight = _weights(signals, state_ratio)
    before = jnp.concatenate([jnp.ones_like(weight[:1]), weight[:-1]])
    terms = before * signals.value + weight * (signals.reward - signals.taken_value)
    return jnp.sum(discount_factor(signals) * terms, axis=0)


def marginal(signals: Signals, state_ratio: Array, level: float = 0.95) -> ValueEstimate:
    """Marginal importance sampling, Ĵ = (1/N) Σ_n Σ_t w_t γ^t r_t ± t_{N−1} s/√N; unbiased with exact ratios.

    If the ratios are estimated from the same trajectories, the interval does not include their error. Xie, Ma & Wang
    2019. https://arxiv.org/abs/1906.03393

    >>> from pgjax import make_signals
    >>> signals = make_signals([[1.0, 1.0], [2.0, 0.0]], log_ratio=jnp.log(jnp.array([[2.0, 0.5], [0.5, 1.0]])))
    >>> float(marginal(signals, jnp.array([[1.0, 1.0], [1.5, 1.0]])).mean)  # (2 + 1.5 · ½ · 2 + ½)/2
    2.0
    """
    _check(signals, level)
    return _mean_of(marginal_values(signals, state_ratio), signals, level)


def double(signals: Signals, state_ratio: Array, level: float = 0.95) -> ValueEstimate:
    """Double reinforcement learning: the mean of `double_values`, with a confidence interval. Kallus & Uehara 2020."""
    _check(signals, level)
    return _mean_of(double_values(signals, state_ratio), signals, level)


def counted_state_ratios(signals: Signals, state: Array, num_states: int) -> Array:
    """State ratios d_t^π/d_t^μ estimated from the same trajectories, [T, N]; consistent, with bias O(1/N):

        d̂_{t+1}^π(s) = (1/N) Σ_n ŵ_t(s_{n,t}) ρ̃_{n,t} 1[s_{n,t+1} = s],   ŵ_t = d̂_t^π/d̂_t^μ.

    Here d̂^μ are counts, and ρ̃ is ρ divided by its mean over the trajectories in the same state at t, so that d̂^π
    sums to 1. `state` is s_t, integers below `num_states`, [T, N]. Xie, Ma & Wang 2019.
    https://arxiv.org/abs/1906.03393
    """
    rho = jnp.exp(signals.log_ratio)

    def step(weight: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        states, alive, rho_t = inputs
        count = jnp.zeros(num_states).at[states].add(alive)
        mass = jnp.zeros(num_states).at[states].add(alive * weight)
        total = jnp.zeros(num_states).at[states].add(alive * rho_t)
        ratio = (mass / jnp.where(count > 0, count, 1.0))[states]
        mean = (total / jnp.where(count > 0, count, 1.0))[states]
        return ratio * rho_t / jnp.where(mean > 0, mean, 1.0), ratio

    start = jnp.ones(signals.reward.shape[1], rho.dtype)
    return jax.lax.scan(step, start, (state, signals.mask, rho))[1]


def _weights(signals: Signals, state_ratio: Array) -> Array:
    if state_ratio.shape != signals.reward.shape:
        raise SettingError("state_ratio", state_ratio.shape, f"is the wrong shape; expected {signals.reward.shape}")
    return state_ratio * jnp.exp(signals.log_ratio)
