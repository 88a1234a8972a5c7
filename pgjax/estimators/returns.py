"""Returns as credit: functions of Signals, [T, ...] -> [T, ...]."""

import math
from typing import Literal

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from pgjax.estimators.contracts import ratio_free
from pgjax.estimators.importance import max_log_weight, relative_weight, weight
from pgjax.estimators.recurrence import linear_recurrence
from pgjax.estimators.reductions import as_float, batch_max, batch_spread, batch_sum, quotient, require_batch
from pgjax.types import SettingError, Signals


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
    action: ArrayLike | None = None,
    group: ArrayLike | None = None,
    elapsed: ArrayLike | None = None,
    behaviour_log_prob: ArrayLike | None = None,
    reference_log_prob: ArrayLike | None = None,
    truncation: Literal["bootstrap", "terminal"] = "bootstrap",
) -> Signals:
    """Collect the arrays that credit is computed from, and check their shapes. Arrays of the Signals are [T, ...].

    Except where noted, an array is a number or has the shape of `reward`; other shapes are not broadcast. All numbers
    are converted to the floating-point dtype of `reward`. Flags, values and `log_ratio` are 0 if left out; action
    values, `group` and the log-probabilities are None.
    Args:
      reward: r_t, [T, ...], usually [T, N]; set to zero on padding.
      mask: 1 where an action was taken; default everywhere.
      terminated: the episode terminated at t, so that no value follows.
      truncated: the episode was truncated at t; V(s_{t+1}) follows, unless `truncation` is "terminal". Where both flags
        are set, termination takes precedence.
      discount: γ_t between r_t and the next step: a number, [N] per environment, [T, 1] per step, or [T, N].
      value, next_value: V(s_t), and V(s_{t+1}) of the observation before any reset.
      log_ratio: log π_θ − log π_θ̄ of the taken actions.
      action_value: Q̃(s_t, ·), [T, ..., A]; needs `action`.
      action: a_t, integers from 0, in the shape of `reward`; only with `action_value`.
      group: group number of each trajectory, [N] or [T, N].
      elapsed: steps of its episode that each environment took before the first row, [N]; default 0. It cannot be
        combined with a discount per step, because earlier discounts are unknown.
      behaviour_log_prob: log π_θ̄ of the taken actions, as recorded.
      reference_log_prob: log π_ref of the taken actions, of a fixed policy.

    >>> make_signals([1.0, 2.0], terminated=[False, True]).continues
    Array([1., 0.], dtype=float32)
    """
    reward = _real("reward", reward)
    if reward.ndim < 1 or reward.shape[0] < 1:
        raise SettingError("reward", reward.shape, "is the wrong shape; expected [T, ...] with at least one step")
    if truncation not in ("bootstrap", "terminal"):
        raise SettingError("truncation", truncation, 'is neither "bootstrap" nor "terminal"')

    def array(name: str, x: ArrayLike | None, default: float) -> Array:
        return jnp.full_like(reward, default) if x is None else _checked(name, x, reward, [()])

    mask_ = array("mask", mask, 1.0)
    terminated_, truncated_ = array("terminated", terminated, 0.0), array("truncated", truncated, 0.0)
    value_ends = jnp.maximum(terminated_, truncated_) if truncation == "terminal" else terminated_
    q, taken = _action_values(action_value, action, reward)

    def optional(name: str, x: ArrayLike | None) -> Array | None:
        return None if x is None else jnp.where(mask_ > 0, array(name, x, 0.0), 0.0)

    return Signals(
        reward=jnp.where(mask_ > 0, reward, 0.0),
        continues=mask_ * (1.0 - jnp.maximum(terminated_, truncated_)),
        mask=mask_,
        discount=_checked("discount", discount, reward, [(), *_per_environment(reward), _per_step(reward)]),
        value=jnp.where(mask_ > 0, array("value", value, 0.0), 0.0),
        next_value=jnp.where(mask_ * (1.0 - value_ends) > 0, array("next_value", next_value, 0.0), 0.0),
        log_ratio=jnp.where(mask_ > 0, array("log_ratio", log_ratio, 0.0), 0.0),
        action_value=None if q is None else jnp.where(mask_[..., None] > 0, q, 0.0),
        taken_value=None if taken is None else jnp.where(mask_ > 0, taken, 0.0),
        group=None if group is None else _group(group, reward),
        elapsed=None if elapsed is None else _elapsed(elapsed, discount, reward),
        behaviour_log_prob=optional("behaviour_log_prob", behaviour_log_prob),
        reference_log_prob=optional("reference_log_prob", reference_log_prob),
    )


def _real(name: str, x: ArrayLike) -> Array:
    x = jnp.asarray(x)
    if not (jnp.issubdtype(x.dtype, jnp.number) or x.dtype == bool) or jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise SettingError(name, str(x.dtype), "is the wrong type; expected real numbers")
    return as_float(x)


def _per_environment(reward: Array) -> list[tuple[int, ...]]:
    return [reward.shape[1:]] if reward.ndim > 1 else []


def _per_step(reward: Array) -> tuple[int, ...]:
    return reward.shape[:1] + (1,) * (reward.ndim - 1)


def _checked(name: str, x: ArrayLike, reward: Array, shapes: list[tuple[int, ...]]) -> Array:
    """x with the shape and dtype of the reward, given in that shape or in one of `shapes`."""
    x = _real(name, x)
    allowed = [reward.shape, *shapes]
    if x.shape not in allowed:
        needed = " or ".join(str(shape) for shape in dict.fromkeys(shape for shape in allowed if shape))
        raise SettingError(name, x.shape, f"is the wrong shape; expected {needed}")
    return jnp.broadcast_to(x.astype(reward.dtype), reward.shape)


def _integers(name: str, x: ArrayLike, shapes: list[tuple[int, ...]]) -> Array:
    """x as an array of integers in one of the shapes."""
    x = jnp.asarray(x)
    if x.shape not in shapes:
        raise SettingError(name, x.shape, f"is the wrong shape; expected {' or '.join(str(s) for s in shapes)}")
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise SettingError(name, str(x.dtype), "is the wrong type; expected integers")
    return x


def _group(group: ArrayLike, reward: Array) -> Array:
    if reward.ndim < 2:
        raise SettingError("reward", reward.shape, "is the wrong shape; groups need trajectories, [T, N]")
    return jnp.broadcast_to(_integers("group", group, [reward.shape[1:], reward.shape]), reward.shape)


def _elapsed(elapsed: ArrayLike, discount: ArrayLike, reward: Array) -> Array:
    if jnp.shape(discount) not in [(), *_per_environment(reward)]:
        reason = "cannot be combined with a discount per step: those before the first row are unknown"
        raise SettingError("elapsed", jnp.shape(elapsed), reason)
    return _checked("elapsed", elapsed, reward, [(), *_per_environment(reward)])


def _action_values(q: ArrayLike | None, action: ArrayLike | None, reward: Array) -> tuple[Array | None, Array | None]:
    """Q̃(s_t, ·) and Q̃(s_t, a_t), or two Nones."""
    if q is None:
        if action is None:
            return None, None
        raise SettingError("action", jnp.shape(action), "is given without action_value, which alone uses it")
    if action is None:
        raise SettingError("action_value", jnp.shape(q), "needs action, the indices of the taken actions")
    q = _real("action_value", q).astype(reward.dtype)
    if q.shape[:-1] != reward.shape or q.ndim == 0:
        needed = str((*reward.shape, "A")).replace("'", "")
        raise SettingError("action_value", q.shape, f"is the wrong shape; expected {needed}")
    taken = jnp.take_along_axis(q, _integers("action", action, [reward.shape])[..., None], axis=-1).squeeze(-1)
    return q, taken


def log_prob(signals: Signals) -> Array:
    """log π_θ(a_t|s_t) of the taken actions, [T, ...]; needs `Signals.behaviour_log_prob`."""
    if signals.behaviour_log_prob is None:
        raise SettingError("behaviour_log_prob", None, "is missing: this credit needs log π of the taken actions")
    return signals.behaviour_log_prob + signals.log_ratio


def discount_factor(signals: Signals) -> Array:
    """Γ_t = γ_0 γ_1 ⋯ γ_{t−1} from the episode's start (see `Signals.elapsed`), [T, ...]; γ^t for a constant γ."""
    ones = jnp.ones_like(signals.discount)
    first = ones[:1] if signals.elapsed is None else signals.discount[:1] ** signals.elapsed[:1]
    starts = jnp.concatenate([first, ones[1:] - signals.continues[:-1]])
    return linear_recurrence(starts, signals.discount * signals.continues)


def discounted_objective(signals: Signals) -> Signals:
    """Signals of an equivalent undiscounted problem, in which every step has the factor γ^t.

        r_t ← γ^t r_t,   V_t ← γ^t V_t,   γ ← 1

    Where γ varies, Γ_t of `discount_factor` replaces γ^t. Every credit of the result includes γ^t, as the gradient of
    E[Σ γ^t r_t] requires; most libraries omit it. Nota & Thomas 2020. https://arxiv.org/abs/1906.07073

    >>> signals = make_signals([1.0, 1.0], terminated=[False, True], discount=0.5)
    >>> reward_to_go(signals).tolist(), reward_to_go(discounted_objective(signals)).tolist()
    ([1.5, 1.0], [1.5, 0.5])
    """
    factor = discount_factor(signals)
    return signals._replace(
        reward=factor * signals.reward,
        value=None if signals.value is None else factor * signals.value,
        next_value=None if signals.next_value is None else factor * signals.discount * signals.next_value,
        discount=jnp.ones_like(signals.discount),
        action_value=None if signals.action_value is None else factor[..., None] * signals.action_value,
        taken_value=None if signals.taken_value is None else factor * signals.taken_value,
    )


@ratio_free
def total_return(signals: Signals) -> Array:
    """Return of the whole episode, R = Σ_t γ^t r_t, at every row including padding, [T, ...]; for whole episodes only.

    Where γ varies, Γ_t of `discount_factor` replaces γ^t. Padding rows contain R so that a finished episode still
    counts in a baseline over trajectories. Williams 1992. https://doi.org/10.1007/BF00992696

    >>> total_return(make_signals([[1.0], [2.0]])).T
    Array([[3., 3.]], dtype=float32)
    """
    total = jnp.sum(discount_factor(signals) * signals.reward, axis=0, keepdims=True)
    return jnp.broadcast_to(total, signals.reward.shape)


@ratio_free
def reward_to_go(signals: Signals) -> Array:
    """Reward-to-go Q̂_t = Σ_{t'≥t} γ^{t'−t} r_{t'}, [T, ...]; 0 on padding.

    Whole episodes only: in a stream the sum stops at the last row. Sutton et al. 2000; Baxter & Bartlett 2001.

    >>> reward_to_go(make_signals([[1.0], [2.0]])).T
    Array([[3., 2.]], dtype=float32)
    """
    return linear_recurrence(signals.reward, signals.discount * signals.continues, reverse=True)


@ratio_free
def discounted_reward(signals: Signals) -> Array:
    """Discounted reward γ^t r_t, [T, ...]; a credit for `prefix_product`, which multiplies it by past ratios."""
    return discount_factor(signals) * signals.reward


def off_policy_reward_to_go(signals: Signals) -> Array:
    """Reward-to-go of the target policy, Q̂_t = Σ_{t'≥t} γ^{t'−t} r_{t'} ρ_{t+1:t'}, [T, ...]; for whole episodes only.

    It depends on the ratios, so training recomputes them for every pass over a batch. Precup, Sutton & Singh 2000.

    >>> off_policy_reward_to_go(make_signals([[1.0], [2.0]], log_ratio=jnp.log(jnp.array([[9.0], [0.5]])))).T
    Array([[2., 2.]], dtype=float32)
    """
    following = jnp.concatenate([signals.log_ratio[1:], jnp.zeros_like(signals.log_ratio[:1])])
    decay = signals.discount * signals.continues * weight(following)
    bound = math.exp(max_log_weight(signals.reward.dtype))
    return linear_recurrence(signals.reward, decay, reverse=True, bound=bound)


def weighted_trajectory(signals: Signals) -> Array:
    """Credit for `score` whose gradient is that of the self-normalised estimate Σ_n w_n R_n / Σ_n w_n, [T, N]:

        Ψ_n = N · (w_n / Σ w) · (R_n − R̂),   R̂ = Σ w R / Σ w,   w_n = ρ_{1:T}.

    Bias O(1/N), consistent. At θ = θ̄ it is the total return minus the mean of the batch. Precup, Sutton & Singh 2000.

    >>> signals = make_signals([[1.0, 5.0]], log_ratio=jnp.log(jnp.array([[3.0, 1.0]])))  # R̂ = ¾ · 1 + ¼ · 5 = 2
    >>> [round(x, 3) for x in weighted_trajectory(signals)[0].tolist()]
    [-1.5, 1.5]
    """
    total = total_return(signals)
    log_w = jnp.broadcast_to(jnp.sum(signals.log_ratio, axis=0, keepdims=True), total.shape)
    share = _normalised(signals, log_w)
    return batch_sum(signals.mask[:1]) * share * _from_weighted_mean(signals, share, total)


def weighted_per_decision(signals: Signals) -> Array:
    """Credit for `score` whose gradient is that of per-decision weights normalised at every step, [T, N]:

        J̃ = Σ_t Σ_n w̃_{n,t} γ^t r_{n,t},   w̃_{n,t} = ρ_{1:t} / Σ_k ρ^k_{1:t}.

    A finished trajectory keeps its last weight, with reward 0. Bias O(1/N), consistent. Precup, Sutton & Singh 2000.
    """
    reward = discounted_reward(signals)
    share = _normalised(signals, jnp.cumsum(signals.log_ratio, axis=0))
    surplus = share * _from_weighted_mean(signals, share, reward)
    to_go = linear_recurrence(surplus, 1.0, reverse=True)
    return batch_sum(signals.mask[:1]) * to_go


def _normalised(signals: Signals, log_w: Array) -> Array:
    """w / Σ_n w over trajectories with at least one step, from log w; 0 where every w is 0."""
    require_batch(log_w, "a self-normalised weight", at_least=1)
    log_w = jnp.where(signals.mask[:1] > 0, log_w, -jnp.inf)
    w = relative_weight(log_w, batch_max(log_w))
    return quotient(w, batch_sum(w))


def _from_weighted_mean(signals: Signals, share: Array, x: Array) -> Array:
    """x − Σ_n share x; exactly 0 where all x are equal up to rounding."""
    spread = batch_spread(x, signals.mask[:1])
    shifted = x - spread.reference
    return jnp.where(spread.std() == 0, 0.0, shifted - batch_sum(share * shifted))
