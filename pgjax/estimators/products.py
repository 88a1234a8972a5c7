"""Estimators: products of credit and surrogate, and those that need the whole action distribution."""

import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from pgjax.estimators.contracts import of_its_parts, per_step, per_trajectory, ratio_free
from pgjax.estimators.distributions import Categorical, Distribution
from pgjax.estimators.importance import log_prefix, weight
from pgjax.estimators.returns import discount_factor, discounted_reward
from pgjax.types import Credit, Estimator, SettingError, Signals, Surrogate, as_partial


def product(credit: Credit, surrogate: Surrogate) -> Estimator:
    """Estimator credit × surrogate: Σ_t surrogate(log_ratio_t, Ψ_t), with Ψ = credit(signals) not differentiated.

    >>> from pgjax import make_signals, reward_to_go, score
    >>> product(reward_to_go, score).credit(make_signals([[1.0], [2.0]])).T.tolist()  # Ψ_t, the factor of ∇log π
    [[3.0, 2.0]]
    """
    return Estimator(as_partial(credit), Partial(_product, as_partial(surrogate)))


def doubly_robust() -> Estimator:
    """Per-decision importance sampling with a critic Q̃(s, a) as control variate:

        J̃ = Σ_t γ^t [ ρ_{1:t−1} Σ_a π_θ(a|s_t) Q̃(s_t, a) + ρ_{1:t} (r_t − Q̃(s_t, a_t)) ].

    It is differentiated through every ρ and π_θ. For any Q̃ fitted to other data, its mean is J(θ) and the mean of its
    gradient ∇J(θ); Q̃ = 0 gives per-decision importance sampling. Needs whole episodes, `Signals.action_value` and a
    Categorical policy. The sum is the unrolled recursion of Jiang & Li 2016. https://arxiv.org/abs/1511.03722
    """
    return Estimator(Partial(_values), Partial(_doubly_robust))


def all_action() -> Estimator:
    """Expected policy gradient, Σ_t Σ_a π_θ(a|s_t) Q̃(s_t, a); the sampled action is not used.

    Unbiased on-policy if Q̃ is exact. Apply `discounted_objective` to include the factor γ^t. Needs
    `Signals.action_value` and a Categorical policy. Sutton et al. 2000; Ciosek & Whiteson 2020.
    https://arxiv.org/abs/1801.03326
    """
    return Estimator(Partial(_action_value), Partial(_all_action))


@of_its_parts
def _product(
    surrogate: Surrogate, credit: Array, signals: Signals, distribution: Distribution, log_ratio: Array
) -> Array:
    return surrogate(log_ratio, credit, signals.continues)


Values = tuple[Array, Array, Array]
"""γ^t r_t [T, N], γ^t Q̃(s_t, ·) [T, N, A], γ^t Q̃(s_t, a_t) [T, N]."""


@ratio_free
def _action_value(signals: Signals) -> Array:
    if signals.action_value is None:
        raise SettingError("action_value", None, 'is missing: this estimator needs Q̃(s, ·) from critic "action"')
    return signals.action_value


@ratio_free
def _values(signals: Signals) -> Values:
    factor, q = discount_factor(signals), _action_value(signals)
    taken: Array = signals.taken_value  # type: ignore[assignment]  (make_signals fills both or neither)
    return discounted_reward(signals), factor[..., None] * q, factor * taken


@per_trajectory
def _doubly_robust(values: Values, signals: Signals, distribution: Categorical, log_ratio: Array) -> Array:
    reward, action_value, taken_value = values
    prefix = log_prefix(log_ratio, signals.continues)
    expected = jnp.sum(jnp.exp(distribution.log_probs) * action_value, axis=-1)
    return weight(prefix - log_ratio) * expected + weight(prefix) * (reward - taken_value)


@per_step
def _all_action(action_value: Array, signals: Signals, distribution: Categorical, log_ratio: Array) -> Array:
    return jnp.sum(jnp.exp(distribution.log_probs) * action_value, axis=-1)
