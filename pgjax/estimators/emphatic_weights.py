"""Emphatic weights: steps of a behaviour policy weighed as if the target policy had led there.

    F_t = i_t + γ ρ_{t−1} F_{t−1}          the followon trace, i_t the interest in the state

E_μ[F_t 1(s_t = s)] is the discounted law of states under the *target*, started afresh from every state of the behaviour
policy with the interest there. With interest at the start alone it is γ^t ρ_{1:t−1}, whose law is γ^t d_t^π.
"""

import jax.numpy as jnp
from jax import Array

from pgjax.estimators.dual_ratios import dual
from pgjax.estimators.recurrence import linear_recurrence
from pgjax.estimators.value_estimates import ValueEstimate
from pgjax.types import SettingError, Signals


def followon_trace(signals: Signals, interest: Array | float = 1.0) -> Array:
    """F_t = i_t + γ ρ_{t−1} F_{t−1}, [T, N]; 0 on padding.

    Args:
      signals: whole episodes, [T, N].
      interest: i_t ≥ 0, a number or [T, N].
    Sutton, Mahmood & White 2016. https://arxiv.org/abs/1503.04269

    >>> from pgjax import make_signals
    >>> signals = make_signals(jnp.ones((3, 1)), log_ratio=jnp.log(jnp.array([[2.0], [0.5], [3.0]])), discount=0.5)
    >>> followon_trace(signals).T.tolist()  # 1, 1 + ½ · 2, 1 + ½ · ½ · 2
    [[1.0, 2.0, 1.5]]
    >>> followon_trace(signals, jnp.array([[1.0], [0.0], [0.0]])).T.tolist()  # γ^t ρ_{1:t−1}
    [[1.0, 1.0, 0.25]]
    """
    rho = jnp.exp(signals.log_ratio)
    interests = jnp.broadcast_to(jnp.asarray(interest, rho.dtype), rho.shape)
    trace = linear_recurrence(interests, signals.discount * signals.continues * rho)
    return jnp.where(signals.mask > 0, trace, 0.0)


def emphasis(signals: Signals, interest: Array | float = 1.0, trace_decay: float = 0.0) -> Array:
    """M_t = λ i_t + (1 − λ) F_t, [T, N]: the weights of emphatic TD(λ).

    Raises:
      SettingError: for λ outside [0, 1].
    Sutton, Mahmood & White 2016. https://arxiv.org/abs/1503.04269

    >>> from pgjax import make_signals
    >>> signals = make_signals(jnp.ones((2, 1)), log_ratio=jnp.log(jnp.array([[2.0], [1.0]])))
    >>> emphasis(signals, trace_decay=0.5).T.tolist()  # between 1, 1 and 1, 3
    [[1.0, 2.0]]
    """
    if not 0.0 <= trace_decay <= 1.0:
        raise SettingError("trace_decay", trace_decay, "must lie in [0, 1]")
    followon = followon_trace(signals, interest)
    return trace_decay * interest * signals.mask + (1.0 - trace_decay) * followon


def emphatic_values(signals: Signals, interest: Array | float = 1.0) -> Array:
    """Σ_t F_t ρ_t r_t of every trajectory, [N].

    Its mean is E_μ[Σ_k i_k V^π(s_k)], the target's value from the behaviour policy's states (the excursion objective);
    with interest at the start alone it is `per_decision_values`, and the mean J.

    Imani, Graves & White 2018. https://arxiv.org/abs/1811.09013

    >>> from pgjax import make_signals
    >>> signals = make_signals([[1.0], [2.0]], log_ratio=jnp.log(jnp.array([[2.0], [0.5]])))
    >>> emphatic_values(signals).tolist()  # 1 · 2 · 1 + 3 · ½ · 2
    [5.0]
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
    """J from emphatic least squares: values linear in φ(s_t), fitted with weights M_t, averaged over starts.

        Σ M_t φ_t (ρ_t (r_t + γ φ_{t+1}·β) − φ_t·β) = 0,   Ĵ = (1/N) Σ_n φ(s_0)·β

    `dual` with M_t for γ^t: where the features cannot hold the values, the error counts where the target goes, at the
    price of the trace's variance. With interest at the start alone, λ = 0 and a constant among the features it is
    `per_decision`; with one-hot features it differs from `dual` in its variance alone.

    Args:
      signals: whole episodes, [T, N].
      features: φ(s_t), [T, N, K]; or ψ(s_t, a_t), with `expected`, as for `fit_dual`.
      expected: Σ_a π(a|s_t) ψ(s_t, a), [T, N, K].
      interest: i_t, a number or [T, N].
      trace_decay: λ.
      stationary: one β for all times; default one for every t.
      level: of the confidence interval.

    Raises:
      SettingError: as `dual` and `emphasis`.
    Sutton, Mahmood & White 2016; least squares: Yu 2015. https://arxiv.org/abs/1506.02582

    >>> from pgjax import make_signals
    >>> signals = make_signals(jnp.array([[1.0, 3.0]]), log_ratio=jnp.log(jnp.array([[1.5, 0.5]])))
    >>> float(emphatic(signals, jnp.ones((1, 2, 1))).mean)
    1.5
    """
    weights = emphasis(signals, interest, trace_decay)
    return dual(signals, features, expected, weights, stationary, level)
