"""Discounted tabular problems without a horizon."""

from numbers import Real
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from pgjax.oracle.mdp import MDP, make_mdp
from pgjax.types import SettingError


class Discounted(NamedTuple):
    """A tabular problem with infinite horizon, J = E[Σ_t γ^t r_t], γ < 1. Build it with `make_discounted`.

    A pytree, so that problems can be stacked. Probability missing from a row of `transition` ends the episode.
    """

    initial: Array | np.ndarray  # ρ, [S]
    transition: Array | np.ndarray  # [S, A, S]
    reward: Array | np.ndarray  # [S, A]
    discount: Array | np.ndarray  # γ, a scalar


def make_discounted(initial: ArrayLike, transition: ArrayLike, reward: ArrayLike, discount: float) -> Discounted:
    """Check the tables ρ [S], P(s'|s, a) [S, A, S] and r(s, a) [S, A] and build a problem, with γ in [0, 1).

    ρ sums to 1. Probability missing from a row of `transition` ends the episode.
    """
    if not isinstance(discount, Real) or not 0 <= discount < 1:
        reason = "must lie in [0, 1), since there is no horizon"
        raise SettingError("discount", discount, reason)
    checked = make_mdp(initial, transition, reward, 1, discount)
    return Discounted(checked.initial, checked.transition, checked.reward, np.asarray(discount, np.float64))


def from_mdp(mdp: MDP) -> Discounted:
    """The same tables without the horizon; γ must be below 1."""
    return make_discounted(mdp.initial, mdp.transition, mdp.reward, mdp.discount)


def with_horizon(problem: Discounted, horizon: int) -> MDP:
    """The same tables with a horizon; J changes by at most γ^horizon max|r|/(1 − γ)."""
    initial, transition, reward = (np.asarray(x, np.float64) for x in problem[:3])
    return make_mdp(initial, transition, reward, horizon, float(problem.discount))


def stack(problems: list[Discounted]) -> Discounted:
    """Stack problems of equal size along a leading axis, to map over."""
    return jax.tree.map(lambda *x: np.stack(x), *problems)
