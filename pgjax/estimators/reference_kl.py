"""KL to a reference policy: three estimates from the taken action, used in the loss or in the reward.

    k1 = x   k2 = x²/2   k3 = e^{−x} − 1 + x,   x = log π_θ(a_t|s_t) − log π_ref(a_t|s_t),   a_t drawn from π_θ

As *values*, k1 and k3 are unbiased for KL(π_θ ‖ π_ref); k2 is biased. As *losses*, differentiated through log π_θ,
their mean gradients at given states are 0 for k1, that of KL(π_θ ‖ π_ref) for k2, and that of KL(π_ref ‖ π_θ) for k3.
As losses, none of them accounts for the dependence of later states on θ. In the *reward*, not differentiated, k1 gives
the full gradient of the episode's KL(π_θ ‖ π_ref). Schulman 2020, http://joschu.net/blog/kl-approx.html
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jax.tree_util import Partial
from jax.typing import ArrayLike

from pgjax.estimators.importance import weight
from pgjax.estimators.reductions import as_float
from pgjax.types import SettingError, Signals


def k1(x: ArrayLike) -> Array:
    """k1 = x, the log-ratio itself."""
    return as_float(x)


def k2(x: ArrayLike) -> Array:
    """k2 = x²/2."""
    return 0.5 * as_float(x) ** 2


def k3(x: ArrayLike) -> Array:
    """k3 = e^{−x} − 1 + x ≥ 0; e^{−x} is clipped as importance weights are."""
    x = as_float(x)
    return weight(-x) - 1.0 + x


ESTIMATES: dict[str, Callable[[ArrayLike], Array]] = {"k1": k1, "k2": k2, "k3": k3}


class ReferenceKL(NamedTuple):
    """Penalty β · k(x_t) per step on the KL to the reference policy: k is `estimate`, β is `reference_coefficient`.

    `length` is the divisor of the penalty in a loss, one of `pgjax.estimators.lengths`; None for no division.
    """

    estimate: Any
    reference_coefficient: ArrayLike
    length: Any = None


def reference_kl(estimate: str, reference_coefficient: ArrayLike, length: Any = None) -> ReferenceKL:
    """Make the penalty for `Algorithm.reference_loss` or `Algorithm.reference_reward` by name: "k1", "k2" or "k3"."""
    if estimate not in ESTIMATES:
        raise SettingError("reference_kl", estimate, f"is none of {', '.join(ESTIMATES)}")
    return ReferenceKL(Partial(ESTIMATES[estimate]), reference_coefficient, None if length is None else Partial(length))


def log_to_reference(signals: Signals, log_ratio: Array) -> Array:
    """x = log π_θ − log π_ref of the taken actions, [T, ...], differentiable in `log_ratio`; 0 on padding."""
    if signals.behaviour_log_prob is None or signals.reference_log_prob is None:
        raise SettingError("reference_log_prob", None, "is missing: a KL to a reference policy needs its log π")
    x = signals.behaviour_log_prob + log_ratio - signals.reference_log_prob
    return jnp.where(signals.mask > 0, x, 0.0)


def step_divisor(penalty: ReferenceKL, signals: Signals) -> Array:
    """Divisor of each step's penalty in a loss, [T, ...]; needs the whole batch."""
    return jnp.ones_like(signals.mask) if penalty.length is None else penalty.length(signals)


def penalised_reward(penalty: ReferenceKL, signals: Signals) -> Signals:
    """Signals with reward r_t − β k(x_t), evaluated at the policy that sampled the batch; not differentiated."""
    x = log_to_reference(signals, jnp.zeros_like(signals.reward))
    cost = penalty.reference_coefficient * penalty.estimate(x)
    return signals._replace(reward=signals.reward - stop_gradient(jnp.where(signals.mask > 0, cost, 0.0)))
