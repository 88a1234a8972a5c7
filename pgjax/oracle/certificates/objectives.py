"""The objectives a loss may have been meant for, and their exact gradients."""

from typing import NamedTuple

import numpy as np

from pgjax.oracle.certificates.batches import trajectory_probability
from pgjax.oracle.certificates.chain_rule import log_softmax, score_tables
from pgjax.oracle.certificates.problems import Problem
from pgjax.oracle.updates import Rollouts

DROPPED = "discount dropped in front"
DISCOUNTS = {
    "discounted": "E[Σ_t γ^t r_t]",
    "undiscounted": "E[Σ_t r_t]",
    DROPPED: "E[Σ_t γ^t r_t] with γ^t dropped in front of step t of the gradient",
}
ENDS = {
    "ends": "a time limit ends the episode",
    "goes on": "with γ^k V(final state) added after a time limit",
}


class Objective(NamedTuple):
    """What an estimate is compared with: how steps are discounted, and what follows a time limit."""

    discount: str
    time_limit: str

    @property
    def is_function(self) -> bool:
        """Whether there is a J: with γ^t dropped there is none that has this gradient (Nota & Thomas 2020)."""
        return self.discount != DROPPED

    def __str__(self) -> str:
        """The formula, in words where there is none."""
        return DISCOUNTS[self.discount] + ("" if self.time_limit == "ends" else f", {ENDS[self.time_limit]}")


OBJECTIVES = [Objective(d, e) for e in ENDS for d in DISCOUNTS]


def objective_gradient(problem: Problem, rollouts: Rollouts, logits: np.ndarray, objective: Objective) -> np.ndarray:
    """∇J of an objective over all trajectories, flattened, [P].

        ∇J = Σ_τ P(τ) Σ_t ∇log π(a_t|s_t) f_t Q̂_t,   f_t = γ^t, or 1 where it is dropped

    With the sum from t on and f_t = γ^t this is the gradient of E[R]; a value after a time limit is a reward of the
    last step there.
    """
    to_go = _to_go(problem, rollouts, objective)
    chance = trajectory_probability(rollouts, log_softmax(logits))
    scores = score_tables(logits)[rollouts.state, rollouts.action]  # [T, M, P]
    return np.einsum("m,tm,tmp->p", chance, to_go * rollouts.mask, scores)


def objective_size(problem: Problem, rollouts: Rollouts, logits: np.ndarray, objective: Objective) -> float:
    """E[Σ_t |f_t Q̂_t|]: beside it a ∇J of rounding is 0, whatever the unit of rewards."""
    chance = trajectory_probability(rollouts, log_softmax(logits))
    return float(chance @ np.abs(_to_go(problem, rollouts, objective) * rollouts.mask).sum(0))


def _to_go(problem: Problem, rollouts: Rollouts, objective: Objective) -> np.ndarray:
    """f_t Q̂_t, [T, M]."""
    mask, steps = rollouts.mask, np.arange(len(rollouts.mask))[:, None]
    gamma = 1.0 if objective.discount == "undiscounted" else problem.mdp.discount
    reward = problem.mdp.reward[rollouts.state, rollouts.action] * mask
    if objective.time_limit == "goes on":
        reward = reward + gamma * rollouts.truncated * problem.value[rollouts.time + 1, rollouts.next_state]
    to_go = np.flip(np.cumsum(np.flip(gamma**steps * reward, 0), axis=0), 0)
    return to_go / np.where(gamma > 0, gamma, 1.0) ** steps if objective.discount == DROPPED else to_go
