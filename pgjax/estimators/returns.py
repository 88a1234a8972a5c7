"""Credit: what each action gets. Functions of Signals, [T, ...] -> [T, ...], written once for every method."""

import math
from typing import Literal

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from pgjax.estimators.contracts import ratio_free
from pgjax.estimators.importance import max_log_weight, weight
from pgjax.estimators.recurrence import linear_recurrence
from pgjax.estimators.reductions import batch_max, batch_sum, require_batch
from pgjax.types import Signals


def make_signals(
    reward: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    terminated: ArrayLike | None = None,
    truncated: ArrayLike | None = None,
    discount: ArrayLike = 1.0,
    value: ArrayLike | None = None,
    next_value: ArrayLike | None = None,
    log_ratio: ArrayLike | None = None,
    action_value: ArrayLike | None = None,
    action: Array | None = None,
    group: ArrayLike | None = None,
    truncation: Literal["bootstrap", "terminal"] = "bootstrap",
) -> Signals:
    """Collect the arrays credit is made of; what is left out counts as absent.

    Args:
      reward: r_t, [T, ...]; set to zero on padding here, once.
      mask: 1 where an action was taken; default everywhere.
      terminated: the episode ended by itself at t: nothing follows.
      truncated: the episode was cut at t: V(s_{t+1}) still follows, unless `truncation` is "terminal". Where both
        flags are set, termination wins.
      discount: γ, a number or one per step.
      value: V(s_t).
      next_value: V(s_{t+1}), of the observation before any reset.
      log_ratio: log π_θ − log π_θ̄ of the taken actions.
      action_value: Q̃(s_t, ·), [T, ..., A], for estimators that use it; needs `action`, the taken indices.
      action: a_t.
      group: the number, from 0, of the group each trajectory belongs to, [N].
      truncation: "bootstrap" or "terminal".

    Returns:
      Signals, every array [T, ...].

    >>> make_signals([1.0, 2.0], terminated=[False, True]).continues
    Array([1., 0.], dtype=float32)
    """
    reward = jnp.asarray(reward)
    if not jnp.issubdtype(reward.dtype, jnp.floating):
        reward = reward.astype(float)

    def array(x: ArrayLike | None, default: float) -> Array:
        return jnp.full_like(reward, default) if x is None else jnp.asarray(x, reward.dtype)

    mask_, terminated_, truncated_ = array(mask, 1.0), array(terminated, 0.0), array(truncated, 0.0)
    value_ends = jnp.maximum(terminated_, truncated_) if truncation == "terminal" else terminated_
    return Signals(
        reward=jnp.where(mask_ > 0, reward, 0.0),
        continues=mask_ * (1.0 - jnp.maximum(terminated_, truncated_)),
        mask=mask_,
        discount=jnp.broadcast_to(jnp.asarray(discount, reward.dtype), reward.shape),
        value=jnp.where(mask_ > 0, array(value, 0.0), 0.0),
        next_value=jnp.where(mask_ * (1.0 - value_ends) > 0, array(next_value, 0.0), 0.0),
        log_ratio=jnp.where(mask_ > 0, array(log_ratio, 0.0), 0.0),
        action_value=None if action_value is None else jnp.where(mask_[..., None] > 0, jnp.asarray(action_value), 0.0),
        taken_value=None if action_value is None else jnp.where(mask_ > 0, _taken(action_value, action), 0.0),
        group=None if group is None else jnp.broadcast_to(jnp.asarray(group), reward.shape),
    )


def _taken(action_value: ArrayLike, action: Array | None) -> Array:
    if action is None:
        raise ValueError("action_value needs action, the indices of the taken actions")
    return jnp.take_along_axis(jnp.asarray(action_value), action[..., None], axis=-1).squeeze(-1)


def discount_factor(signals: Signals) -> Array:
    """γ^t with t counted from the start of each episode, [T, ...]; 1 at its first step.

    >>> discount_factor(make_signals([1.0, 1.0, 1.0], terminated=[False, True, False], discount=0.5)).tolist()
    [1.0, 0.5, 1.0]
    """
    time = linear_recurrence(jnp.ones_like(signals.reward), signals.continues) - 1.0
    return signals.discount**time


def discounted_objective(signals: Signals) -> Signals:
    """Rewrite a discounted problem as an undiscounted one, keeping the factor γ^t in front of every step.

        r_t ← γ^t r_t,   V_t ← γ^t V_t,   γ ← 1

    Every credit of the result carries γ^t, which the gradient of E[Σ γ^t r_t] needs and nearly every library drops.
    Nota & Thomas 2020. https://arxiv.org/abs/1906.07073

    >>> signals = make_signals([1.0, 1.0], terminated=[False, True], discount=0.5)
    >>> reward_to_go(signals).tolist(), reward_to_go(discounted_objective(signals)).tolist()
    ([1.5, 1.0], [1.5, 0.5])
    """
    factor = discount_factor(signals)
    return signals._replace(
        reward=factor * signals.reward,
        value=factor * signals.value,
        next_value=factor * signals.discount * signals.next_value,
        discount=jnp.ones_like(signals.discount),
        action_value=None if signals.action_value is None else factor[..., None] * signals.action_value,
        taken_value=None if signals.taken_value is None else factor * signals.taken_value,
    )


@ratio_free
def total_return(signals: Signals) -> Array:
    """The whole episode's return for every action of it: R = Σ_t γ^t r_t.

    Whole episodes only (one per column). Padding rows hold R too, so that a finished episode still counts in a
    baseline over trajectories.

    Returns:
      R at every row, [T, ...].
    Williams 1992. https://doi.org/10.1007/BF00992696

    >>> total_return(make_signals([[1.0], [2.0]])).T
    Array([[3., 3.]], dtype=float32)
    """
    total = jnp.sum(discount_factor(signals) * signals.reward, axis=0, keepdims=True)
    return jnp.broadcast_to(total, signals.reward.shape)


@ratio_free
def reward_to_go(signals: Signals) -> Array:
    """Causality: only rewards from t on, Q̂_t = Σ_{t'≥t} γ^{t'−t} r_{t'}.

    Whole episodes only: in a stream the sum stops at the last row.

    Returns:
      Q̂, [T, ...]; 0 on padding.
    Sutton et al. 2000; Baxter & Bartlett 2001.

    >>> reward_to_go(make_signals([[1.0], [2.0]])).T
    Array([[3., 2.]], dtype=float32)
    """
    return linear_recurrence(signals.reward, signals.discount * signals.continues, reverse=True)


@ratio_free
def discounted_reward(signals: Signals) -> Array:
    """The reward alone, γ^t r_t: credit for `prefix_product`, whose weights carry the past.

    >>> discounted_reward(make_signals([[1.0], [2.0]], discount=0.5)).T
    Array([[1., 1.]], dtype=float32)
    """
    return discount_factor(signals) * signals.reward


def off_policy_reward_to_go(signals: Signals) -> Array:
    """Reward-to-go of the target policy, future ratios kept: Q̂ᵒᶠᶠ_t = Σ_{t'≥t} γ^{t'−t} r_{t'} ρ_{t+1:t'}.

    Carries ratios: a training loop recomputes it at every update of a batch. Whole episodes only.
    Precup, Sutton & Singh 2000.

    >>> off_policy_reward_to_go(make_signals([[1.0], [2.0]], log_ratio=jnp.log(jnp.array([[9.0], [0.5]])))).T
    Array([[2., 2.]], dtype=float32)
    """
    following = jnp.concatenate([signals.log_ratio[1:], jnp.zeros_like(signals.log_ratio[:1])])
    decay = signals.discount * signals.continues * weight(following)
    bound = math.exp(max_log_weight(signals.reward.dtype))
    return linear_recurrence(signals.reward, decay, reverse=True, bound=bound)


def weighted_trajectory(signals: Signals) -> Array:
    """Self-normalised trajectory weights: the gradient of Σ_n w_n R_n / Σ_n w_n, w_n = ρ_{1:T}, as credit for `score`.

        Ψ_n = N · (w_n / Σ w) · (R_n − R̂),   R̂ = Σ w R / Σ w

    Batch-coupled: bias O(1/N), consistent. At θ = θ̄ it is the total return minus the batch's mean.

    Returns:
      Ψ, [T, N].

    Precup, Sutton & Singh 2000.

    >>> signals = make_signals([[1.0, 5.0]], log_ratio=jnp.log(jnp.array([[3.0, 1.0]])))  # R̂ = ¾ · 1 + ¼ · 5 = 2
    >>> [round(x, 3) for x in weighted_trajectory(signals)[0].tolist()]
    [-1.5, 1.5]
    """
    total = total_return(signals)
    log_w = jnp.broadcast_to(jnp.sum(signals.log_ratio, axis=0, keepdims=True), total.shape)
    share = _normalised(signals, log_w)
    return batch_sum(signals.mask[:1]) * share * (total - batch_sum(share * total))


def weighted_per_decision(signals: Signals) -> Array:
    """Per-decision weights normalised over the batch at every step, as credit for `score`.

        J̃ = Σ_t Σ_n w̃_{n,t} γ^t r_{n,t},   w̃_{n,t} = ρ_{1:t} / Σ_k ρ^k_{1:t}

    A finished trajectory keeps its last weight and earns 0. Batch-coupled: bias O(1/N), consistent.

    Returns:
      Ψ, [T, N].

    Precup, Sutton & Singh 2000.

    >>> signals = make_signals([[1.0, 3.0], [0.0, 4.0]], log_ratio=jnp.log(jnp.array([[1.0, 1.0], [3.0, 1.0]])))
    >>> [round(x, 3) for x in weighted_per_decision(signals)[1].tolist()]  # 2 · ¾ · (0 − 1), 2 · ¼ · (4 − 1)
    [-1.5, 1.5]
    """
    reward = discounted_reward(signals)
    share = _normalised(signals, jnp.cumsum(signals.log_ratio, axis=0))
    surplus = share * (reward - batch_sum(share * reward))
    to_go = linear_recurrence(surplus, 1.0, reverse=True)
    return batch_sum(signals.mask[:1]) * to_go


def _normalised(signals: Signals, log_w: Array) -> Array:
    """w / Σ_n w over the trajectories that took a step, formed in log space."""
    require_batch(log_w, "a self-normalised weight", at_least=1)
    log_w = jnp.where(signals.mask[:1] > 0, log_w, -jnp.inf)
    w = jnp.exp(log_w - batch_max(log_w))
    return w / batch_sum(w)
