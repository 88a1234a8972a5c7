"""Random problems, and problems from the theory of policy gradients."""

from collections.abc import Sequence

import numpy as np

from pgjax.oracle.flows.problems import Discounted, make_discounted
from pgjax.types import SettingError


def bandit(reward: Sequence[float] | np.ndarray) -> Discounted:
    """A bandit: one state, one step, J = Σ_a π(a) r(a)."""
    return make_discounted(np.ones(1), np.zeros((1, len(reward), 1)), np.asarray(reward)[None], 0.0)


def garnet(seed: int, states: int = 5, actions: int = 3, branches: int = 3, discount: float = 0.8) -> Discounted:
    """A random problem: every action leads to `branches` random states, rewards uniform in [0, 1], uniform start.

    Source: Archibald, McKinnon & Thomas 1995.

    >>> garnet(seed=0).reward.shape
    (5, 3)
    """
    if not 1 <= branches <= states:
        raise SettingError("branches", branches, f"must lie between 1 and the number of states, {states}")
    rng = np.random.default_rng(seed)
    transition = np.zeros((states, actions, states))
    for s, a in np.ndindex(states, actions):
        transition[s, a, rng.choice(states, branches, replace=False)] = rng.dirichlet(np.ones(branches))
    return make_discounted(np.full(states, 1 / states), transition, rng.uniform(size=(states, actions)), discount)


def gridworld(side: int = 4, slip: float = 0.1, discount: float = 0.9) -> Discounted:
    """A square grid with four directions and uniform start; the last corner gives reward 1 and ends the episode.

    With probability `slip` the direction is random.
    """
    cells = side * side
    move = np.zeros((cells, 4, cells))
    for cell in range(cells):
        row, column = divmod(cell, side)
        for direction, (down, right) in enumerate([(-1, 0), (0, 1), (1, 0), (0, -1)]):
            there = min(max(row + down, 0), side - 1) * side + min(max(column + right, 0), side - 1)
            move[cell, direction, there] = 1.0
    transition = (1 - slip) * move + slip * move.mean(axis=1, keepdims=True)
    transition[-1] = 0.0
    reward = np.zeros((cells, 4))
    reward[-1] = 1.0
    return make_discounted(np.full(cells, 1 / cells), transition, reward, discount)


def vanishing_chain(length: int) -> Discounted:
    """A chain with vanishing gradients: one of four actions moves right, and only the right end is rewarded.

    States are 0 … length + 1, γ = length/(length + 1), start at 0. The other actions move left, or stay at 0. At the
    right end every action stays and earns 1. Under a policy that moves right with probability below 1/4, the gradient
    is of order exp(−length).
    Source: after Agarwal et al. 2021, figure 1 and proposition 4.1. https://arxiv.org/abs/1908.00261
    """
    states = length + 2
    transition, reward = np.zeros((states, 4, states)), np.zeros((states, 4))
    for s in range(states - 1):
        transition[s, 0, s + 1] = 1.0
        transition[s, 1:, max(s - 1, 0)] = 1.0
    transition[-1, :, -1] = 1.0
    reward[-1] = 1.0
    return make_discounted(np.eye(states)[0], transition, reward, length / (length + 1))


def delaying_chain(length: int, discount: float = 0.9, leak: float = 0.1) -> Discounted:
    """A chain on which softmax policy gradients take exponential time, because each state must first unlearn an action.

    Primary states are s = 1 … length, length ≥ 3, with three actions, and adjoint states s̄, with two (the third
    repeats the second). With τ_s = γ^{2s/3}/2, r_s = γ^{2s/3 + 5/6}/2, p = `leak` (1 − γ):

        s ≥ 3   a₀: earns r_s + γ² p τ_{s−2}, ends     a₁: leads to the adjoint of s − 1
                a₂: earns r_s, leads with probability p to the adjoint of s − 2, else ends
        s ≤ 2   a₀ costs γ^{2s}, a₁ and a₂ earn γ^{2s}; all end
        s̄       a₀: earns γ τ_s, ends                  a₁: leads to s

    The best action of s ≥ 3 is a₁, with V*(s) = γ^{2s}; it looks worst until s − 1 has learnt. When s − 2 has learnt
    and s − 1 has not, a₂ takes almost all probability from a₁. The start is uniform.
    Source: after Li et al. 2021, whose buffer states are s ≤ 2; their booster states, which only add weight to the
    start, are left out. https://arxiv.org/abs/2102.11270
    """
    if length < 3:
        raise SettingError("length", length, "must be at least 3")
    tau = 0.5 * discount ** (2 * np.arange(length + 1) / 3)
    r = tau * discount ** (5 / 6)
    p = leak * (1 - discount)
    states = 2 * length
    transition, reward = np.zeros((states, 3, states)), np.zeros((states, 3))
    for s in range(1, length + 1):
        primary, adjoint = s - 1, length + s - 1
        if s <= 2:
            reward[primary] = discount ** (2 * s) * np.array([-1.0, 1.0, 1.0])
        else:
            reward[primary] = r[s] + discount**2 * p * tau[s - 2], 0.0, r[s]
            transition[primary, 1, adjoint - 1] = 1.0
            transition[primary, 2, adjoint - 2] = p
        reward[adjoint, 0] = discount * tau[s]
        transition[adjoint, 1:, primary] = 1.0
    return make_discounted(np.full(states, 1 / states), transition, reward, discount)
