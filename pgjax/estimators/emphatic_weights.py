"""Emphatic weights: reweight steps of a behaviour policy to the state distribution of the target policy.

The followon trace is F_t = i_t + γ ρ_{t−1} F_{t−1}, with i_t ≥ 0 the interest in the state. E_μ[F_t 1(s_t = s)] is the
discounted state distribution of the *target* policy, started from each state of the behaviour policy with that
interest. With interest at the first step alone, F_t = γ^t ρ_{1:t−1}, which gives γ^t d_t^π.
"""

import jax.numpy as jnp
from jax import Array

from pgjax.estimators.dual_ratios import dual
from pgjax.estimators.recurrence import linear_recurrence
from pgjax.estimators.value_estimates import ValueEstimate
from pgjax.types import SettingError, Signals


def followon_trace(signals: Signals, interest: Array | float = 1.0) -> Array:
    """Followon trace F_t = i_t + γ ρ_{t−1} F_{t−1}, [T, N]; 0 on padding.

    The interest i_t is a number or [T, N].

    Sutton, Mahmood & White 2016. https://arxiv.org/abs/1503.04269

    >>> from pgjax import make_signals
    >>> signals = make_signals(jnp.ones((3, 1)), log_ratio=jnp.log(jnp.array([[2.0], [0.5], [3.0]])), discount=0.5)
    >>> followon_trace(signals).T.tolist()  # 1, 1 + ½ · 2, 1 + ½ · ½ · 2
    [[1.0, 2.0, 1.5]]
    """
    rho = jnp.exp(signals.log_ratio)
    interests = jnp.broadcast_to(jnp.asarray(interest, rho.dtype), rho.shape)
    trace = linear_recurrence(interests, signals.discount * signals.continues * rho)
    return jnp.where(signals.mask > 0, trace, 0.0)


def emphasis(signals: Signals, interest: Array | float = 1.0, trace_decay: float = 0.0) -> Array:
    """Weights of emphatic TD(λ), M_t = λ i_t + (1 − λ) F_t, [T, N], λ = `trace_decay`. Sutton, Mahmood & White 2016."""
    if not 0.0 <= trace_decay <= 1.0:
        raise SettingError("trace_decay", trace_decay, "must lie in [0, 1]")
    followon = followon_trace(signals, interest)
    return trace_decay * interest * signals.mask + (1.0 - trace_decay) * followon


def emphatic_values(signals: Signals, interest: Array | float = 1.0) -> Array:
    """Σ_t F_t ρ_t r_t of every trajectory, [N].

    The mean is E_μ[Σ_k i_k V^π(s_k)], the value of the target policy from the states of the behaviour policy (excursion
    objective). With interest at the first step alone, it equals `per_decision_values`, whose mean is J. Imani, Graves &
    White 2018. https://arxiv.org/abs/1811.09013
    """
    return jnp.sum(followon_trace(signals, interest) * jnp.exp(signals.log_ratio) * signals.reward, axis=0)


def emphatic(
    signals: Signals,
    features: Array,
    expected: Array | None = None,
    interest: Array | float = 1.0,
    trace_decay: float = 0.0,
    stationary: bool = False,
    level: float = 0.95,
) -> ValueEstimate:
    """Estimate of J by emphatic least squares: values linear in φ(s_t), fitted with weights M_t of `emphasis`:

        Σ M_t φ_t (ρ_t (r_t + γ φ_{t+1}·β) − φ_t·β) = 0,   Ĵ = (1/N) Σ_n φ(s_0)·β.

    It is `dual` with M_t for γ^t; arguments as for `fit_dual` and `emphasis`. Where the features cannot represent the
    values, it weights the fitting error by the states that the target policy visits, at the price of the variance of
    the trace. With one-hot features it differs from `dual` only in its variance. With interest at the first step alone,
    λ = 0 and a constant feature, it is `per_decision`.
    Sutton, Mahmood & White 2016; least squares: Yu 2015. https://arxiv.org/abs/1506.02582
    """
    weights = emphasis(signals, interest, trace_decay)
    return dual(signals, features, expected, weights, stationary, level)
