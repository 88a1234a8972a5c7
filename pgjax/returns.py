"""Credit: what each action gets. Functions of Signals, [T, ...] -> [T, ...], written once for every method."""

from typing import Literal

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from pgjax.recurrence import linear_recurrence
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
    )


def discount_factor(signals: Signals) -> Array:
    """γ^t with t counted from the start of each episode, [T, ...]; 1 at its first step."""
    time = linear_recurrence(jnp.ones_like(signals.reward), signals.continues) - 1.0
    return signals.discount**time


def discounted_objective(signals: Signals) -> Signals:
    """Rewrite a discounted problem as an undiscounted one, keeping the factor γ^t in front of every step.

        r_t ← γ^t r_t,   V_t ← γ^t V_t,   γ ← 1

    Every credit of the result carries γ^t, which the gradient of E[Σ γ^t r_t] needs and nearly every library drops.
    Nota & Thomas 2020. https://arxiv.org/abs/1906.07073
    """
    factor = discount_factor(signals)
    return signals._replace(
        reward=factor * signals.reward,
        value=factor * signals.value,
        next_value=factor * signals.discount * signals.next_value,
        discount=jnp.ones_like(signals.discount),
    )


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
