"""Off-policy values from ratios of state laws in place of products of action ratios.

    w_t = d_t^π(s_t, a_t)/d_t^μ(s_t, a_t) = (d_t^π(s_t)/d_t^μ(s_t)) ρ_t

The product ρ_{1:t} has w_t as its mean given (s_t, a_t): so w_t varies less, and over long horizons by an exponential
factor. Signals are those of `pgjax.value_estimates`; the ratios of state laws come from tables
(`oracle.state_ratios`) or from counts (`counted_state_ratios`).
"""

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.estimators.returns import discount_factor, discounted_reward
from pgjax.estimators.value_estimates import ValueEstimate, _check, _mean_of
from pgjax.types import SettingError, Signals


def marginal_values(signals: Signals, state_ratio: Array) -> Array:
    """Σ_t w_t γ^t r_t of every trajectory, [N].

    Args:
      signals: whole episodes, [T, N].
      state_ratio: d_t^π(s_t)/d_t^μ(s_t) along them, [T, N].

    >>> from pgjax import make_signals
    >>> signals = make_signals([[1.0, 1.0], [2.0, 0.0]], log_ratio=jnp.log(jnp.array([[2.0, 0.5], [0.5, 1.0]])))
    >>> marginal_values(signals, jnp.array([[1.0, 1.0], [1.5, 1.0]])).tolist()  # 2 + 1.5 · ½ · 2, ½
    [3.5, 0.5]
    """
    return jnp.sum(_weights(signals, state_ratio) * discounted_reward(signals), axis=0)


def double_values(signals: Signals, state_ratio: Array) -> Array:
    """V(s_0) + Σ_t γ^t w_t (r_t + γ V(s_{t+1}) − Q(s_t, a_t)) of every trajectory, [N]: double reinforcement learning.

    As the sum Σ_t γ^t [w_{t−1} V(s_t) + w_t (r_t − Q(s_t, a_t))], w_{−1} = 1. Its mean is right where the critic is
    *or* the ratios are.

    Args:
      signals: whole episodes, [T, N], with `value` and `taken_value` as for `doubly_robust`.
      state_ratio: d_t^π(s_t)/d_t^μ(s_t) along them, [T, N].

    Raises:
      SettingError: without action values.
    Kallus & Uehara 2020. https://arxiv.org/abs/1908.08526

    >>> from pgjax import make_signals
    >>> reward, log_ratio = [[1.0, 1.0], [2.0, 0.0]], jnp.log(jnp.array([[2.0, 0.5], [0.5, 1.0]]))
    >>> action, no_critic = jnp.zeros((2, 2), int), jnp.zeros((2, 2, 3))
    >>> signals = make_signals(reward, log_ratio=log_ratio, action=action, action_value=no_critic)
    >>> double_values(signals, jnp.array([[1.0, 1.0], [1.5, 1.0]])).tolist()  # those of `marginal`
    [3.5, 0.5]
    """
    if signals.taken_value is None:
        raise SettingError("taken_value", None, "is missing; double needs Q(s_t, a_t), from action_value")
    weight = _weights(signals, state_ratio)
    before = jnp.concatenate([jnp.ones_like(weight[:1]), weight[:-1]])
    terms = before * signals.value + weight * (signals.reward - signals.taken_value)
    return jnp.sum(discount_factor(signals) * terms, axis=0)


def marginal(signals: Signals, state_ratio: Array, level: float = 0.95) -> ValueEstimate:
    """Marginal importance sampling: Ĵ = (1/N) Σ_n Σ_t w_t γ^t r_t ± t_{N−1} s/√N; unbiased with exact ratios.

    With ratios counted on the same trajectories the interval is that of given ratios: it leaves out their error.

    Args:
      signals: whole episodes, [T, N].
      state_ratio: d_t^π(s_t)/d_t^μ(s_t) along them, [T, N].
      level: of the confidence interval.

    Raises:
      SettingError: as `value_estimates.per_decision`, and for ratios of another shape.
    Xie, Ma & Wang 2019. https://arxiv.org/abs/1906.03393

    >>> from pgjax import make_signals
    >>> signals = make_signals([[1.0, 1.0], [2.0, 0.0]], log_ratio=jnp.log(jnp.array([[2.0, 0.5], [0.5, 1.0]])))
    >>> float(marginal(signals, jnp.array([[1.0, 1.0], [1.5, 1.0]])).mean)
    2.0
    """
    _check(signals, level)
    return _mean_of(marginal_values(signals, state_ratio), signals, level)


def double(signals: Signals, state_ratio: Array, level: float = 0.95) -> ValueEstimate:
    """Double reinforcement learning: the mean of `double_values`, with its interval.

    Args:
      signals: whole episodes, [T, N], with a critic's `value` and `taken_value`.
      state_ratio: d_t^π(s_t)/d_t^μ(s_t) along them, [T, N].
      level: of the confidence interval.

    Raises:
      SettingError: as `marginal`, and without action values.
    Kallus & Uehara 2020. https://arxiv.org/abs/1908.08526

    >>> from pgjax import make_signals
    >>> critic = {"action": jnp.zeros((1, 2), int), "action_value": jnp.ones((1, 2, 1)), "value": jnp.ones((1, 2))}
    >>> estimate = double(make_signals([[1.0, 1.0]], **critic), jnp.ones((1, 2)))
    >>> float(estimate.mean), float(estimate.standard_error)  # the right critic leaves no noise
    (1.0, 0.0)
    """
    _check(signals, level)
    return _mean_of(double_values(signals, state_ratio), signals, level)


def counted_state_ratios(signals: Signals, state: Array, num_states: int) -> Array:
    """State ratios from the trajectories themselves, [T, N]: consistent, biased by O(1/N).

        d̂_{t+1}^π(s) = (1/N) Σ_n ŵ_t(s_{n,t}) ρ̃_{n,t} 1[s_{n,t+1} = s],   ŵ_t = d̂_t^π/d̂_t^μ,   d̂^μ by counting

    with ρ̃ = ρ over its mean among the trajectories in the same state at t, so that no mass is lost or made.

    Args:
      signals: whole episodes, [T, N].
      state: s_t, whole numbers, [T, N].
      num_states: S.
    Xie, Ma & Wang 2019. https://arxiv.org/abs/1906.03393

    >>> from pgjax import make_signals
    >>> log_ratio = jnp.log(jnp.array([[2.0, 1.0], [1.0, 1.0]]))
    >>> signals = make_signals(jnp.ones((2, 2)), log_ratio=log_ratio)
    >>> [round(x, 3) for x in counted_state_ratios(signals, jnp.array([[0, 0], [1, 0]]), 2)[1].tolist()]
    [1.333, 0.667]
    """
    rho = jnp.exp(signals.log_ratio)

    def step(weight: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        places, alive, rho_t = now
        count = jnp.zeros(num_states).at[places].add(alive)
        mass = jnp.zeros(num_states).at[places].add(alive * weight)
        total = jnp.zeros(num_states).at[places].add(alive * rho_t)
        ratio = (mass / jnp.where(count > 0, count, 1.0))[places]
        mean = (total / jnp.where(count > 0, count, 1.0))[places]
        return ratio * rho_t / jnp.where(mean > 0, mean, 1.0), ratio

    start = jnp.ones(signals.reward.shape[1], rho.dtype)
    return jax.lax.scan(step, start, (state, signals.mask, rho))[1]


def _weights(signals: Signals, state_ratio: Array) -> Array:
    if state_ratio.shape != signals.reward.shape:
        raise SettingError("state_ratio", state_ratio.shape, f"is its shape; reward asks for {signals.reward.shape}")
    return state_ratio * jnp.exp(signals.log_ratio)
