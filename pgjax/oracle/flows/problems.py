"""Discounted problems without a horizon, as tables."""

from numbers import Real
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from pgjax.oracle.mdp import MDP, make_mdp
from pgjax.types import SettingError


class Discounted(NamedTuple):
    """A tabular problem that goes on for ever, J = E[Σ_t γ^t r_t], γ < 1. A pytree: problems can be stacked and mapped.

    Probability missing from a row of `transition` ends the episode; nothing is earned from then on.

    >>> problem = make_discounted([1.0], [[[1.0], [1.0]]], [[1.0, 0.0]], discount=0.5)
    >>> problem.reward.shape, float(problem.discount)
    ((1, 2), 0.5)
    """

    initial: Array | np.ndarray  # ρ, [S]
    transition: Array | np.ndarray  # [S, A, S]
    reward: Array | np.ndarray  # [S, A]
    discount: Array | np.ndarray  # γ, a scalar


def make_discounted(initial: ArrayLike, transition: ArrayLike, reward: ArrayLike, discount: float) -> Discounted:
    """Check tables and make a problem of them.

    Args:
      initial: ρ, [S], sums to 1.
      transition: P(s'|s, a), [S, A, S]; a row's missing mass ends the episode.
      reward: r(s, a), [S, A].
      discount: γ, at least 0 and below 1.

    Raises:
      SettingError: for tables as in `oracle.make_mdp`, and for a discount outside [0, 1).

    >>> make_discounted([1.0], [[[1.0]]], [[1.0]], discount=1.0)
    Traceback (most recent call last):
    pgjax.types.SettingError: discount: 1.0 must lie in [0, 1): without a horizon the sum of rewards has no bound
    """
    if not isinstance(discount, Real) or not 0 <= discount < 1:
        reason = "must lie in [0, 1): without a horizon the sum of rewards has no bound"
        raise SettingError("discount", discount, reason)
    checked = make_mdp(initial, transition, reward, 1, discount)
    return Discounted(checked.initial, checked.transition, checked.reward, np.asarray(discount, np.float64))


def from_mdp(mdp: MDP) -> Discounted:
    """The same tables without the horizon.

    Raises:
      SettingError: for γ = 1.

    >>> from pgjax.oracle import make_mdp
    >>> float(from_mdp(make_mdp([1.0], [[[1.0]]], [[1.0]], horizon=3, discount=0.9)).discount)
    0.9
    """
    return make_discounted(mdp.initial, mdp.transition, mdp.reward, mdp.discount)


def with_horizon(problem: Discounted, horizon: int) -> MDP:
    """The same tables, cut after `horizon` steps: J differs by at most γ^horizon max|r|/(1 − γ).

    >>> with_horizon(make_discounted([1.0], [[[1.0]]], [[1.0]], discount=0.5), 3).horizon
    3
    """
    initial, transition, reward = (np.asarray(x, np.float64) for x in problem[:3])
    return make_mdp(initial, transition, reward, horizon, float(problem.discount))


def stack(problems: list[Discounted]) -> Discounted:
    """Problems of equal size as one, with a leading axis to map over.

    >>> one = make_discounted([1.0], [[[1.0]]], [[1.0]], discount=0.5)
    >>> stack([one, one]).reward.shape
    (2, 1, 1)
    """
    return jax.tree.map(lambda *x: np.stack(x), *problems)
