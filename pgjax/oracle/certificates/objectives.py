"""The objectives that mean gradients are compared with, and their exact gradients."""

from typing import NamedTuple

import numpy as np

from pgjax.oracle.certificates.arrays import rewards_to_go
from pgjax.oracle.certificates.batches import trajectory_probability
from pgjax.oracle.certificates.chain_rule import log_softmax, score_tables
from pgjax.oracle.certificates.problems import Problem
from pgjax.oracle.updates import Rollouts

DROPPED = "without γ^t"
DISCOUNTS = {
    "discounted": "E[Σ_t γ^t r_t]",
    "undiscounted": "E[Σ_t r_t]",
    DROPPED: "E[Σ_t γ^t r_t] without the factor γ^t in step t of the gradient",
}
ENDS = {
    "ends": "a time limit ends the episode",
    "goes on": "with γ^k V(final state) added after a time limit of k steps",
}


class Objective(NamedTuple):
    """An objective J: how rewards are discounted, and whether a value is added after a time limit."""

    discount: str
    time_limit: str

    @property
    def is_function(self) -> bool:
        """Whether J exists: without the factor γ^t the gradient is that of no function (Nota & Thomas 2020)."""
        return self.discount != DROPPED

    def __str__(self) -> str:
        """The formula of J."""
        return DISCOUNTS[self.discount] + ("" if self.time_limit == "ends" else f", {ENDS[self.time_limit]}")


OBJECTIVES = [Objective(d, e) for e in ENDS for d in DISCOUNTS]


def objective_gradient(problem: Problem, rollouts: Rollouts, logits: np.ndarray, objective: Objective) -> np.ndarray:
    """∇J of an objective in the flattened logits, [P], summed over all trajectories:

        ∇J = Σ_τ P(τ) Σ_t ∇log π(a_t|s_t) f_t Q̂_t.

    Q̂_t is the reward-to-go, with the value after a time limit added to the last reward; f_t is γ^t, or 1 if left out.
    """
    to_go = _to_go(problem, rollouts, objective)
    chance = trajectory_probability(rollouts, log_softmax(logits))
    scores = score_tables(logits)[rollouts.state, rollouts.action]  # [T, M, P]
    return np.einsum("m,tm,tmp->p", chance, to_go * rollouts.mask, scores)


def objective_size(problem: Problem, rollouts: Rollouts, logits: np.ndarray, objective: Objective) -> float:
    """E[Σ_t |f_t Q̂_t|], the scale for deciding whether ∇J is rounding error, in any unit of rewards."""
    chance = trajectory_probability(rollouts, log_softmax(logits))
    return float(chance @ np.abs(_to_go(problem, rollouts, objective) * rollouts.mask).sum(0))


def _to_go(problem: Problem, rollouts: Rollouts, objective: Objective) -> np.ndarray:
    """f_t Q̂_t, [T, M]."""
    mask, steps = rollouts.mask, np.arange(len(rollouts.mask))[:, None]
    gamma = 1.0 if objective.discount == "undiscounted" else problem.mdp.discount
    reward = problem.mdp.reward[rollouts.state, rollouts.action] * mask
    if objective.time_limit == "goes on":
        reward = reward + gamma * rollouts.truncated * problem.value[rollouts.time + 1, rollouts.next_state]
    to_go = rewards_to_go(reward, gamma)
    return to_go if objective.discount == DROPPED else gamma**steps * to_go
