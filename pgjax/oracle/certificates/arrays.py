"""Arrays that a loss can take by name."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from pgjax.oracle.certificates.batches import Batches
from pgjax.oracle.certificates.chain_rule import log_softmax
from pgjax.oracle.certificates.problems import Problem

ARRAYS = {
    "log_prob": "log π_θ(a_t|s_t), [T, N]; differentiated",
    "log_probs": "log π_θ(·|s_t), [T, N, A]; differentiated",
    "behaviour_log_prob": "log μ(a_t|s_t) of the behaviour policy, [T, N]",
    "behaviour_log_probs": "log μ(·|s_t), [T, N, A]",
    "reference_log_prob": "log π_ref(a_t|s_t), [T, N]",
    "reference_log_probs": "log π_ref(·|s_t), [T, N, A]",
    "action": "a_t, [T, N], integers",
    "reward": "r_t, [T, N]",
    "mask": "1 where an action was taken, 0 on padding, [T, N]",
    "terminated": "1 where the episode terminated, [T, N]",
    "truncated": "1 where a time limit truncated the episode, [T, N]",
    "value": "V(s_t) of an inexact critic, [T, N]",
    "next_value": "V(s_{t+1}) of that critic, [T, N]; arbitrary after a termination",
    "action_value": "Q̃(s_t, ·) of an inexact critic, [T, N, A]",
    "discount": "γ, [T, N]",
    "returns": "Σ_{t'≥t} γ^{t'−t} r_t', [T, N]",
    "episode_return": "Σ_t γ^t r_t, [N]",
    "lengths": "number of executed steps, [N]",
    "group": "index of the trajectory's group, [N]; all 0 without groups",
}
"""Name -> description. Flags and mask are 0.0 and 1.0."""

DIFFERENTIATED = ("log_prob", "log_probs")
PER_TRAJECTORY = ("episode_return", "lengths", "group")
PADDING_POLICIES = {"": -12.0, "behaviour_": -3.0, "reference_": -7.0}
"""log π(action 0) on padding under three policies; their ratios differ from 1 and do not overflow."""

PADDING_NUMBERS = {"reward": 1.0, "returns": 1.3, "value": -0.7, "next_value": 0.4, "action_value": -1.1}
"""Multiples of the filler; they differ, so that the difference of two arrays is not 0."""


class Data(NamedTuple):
    """Arrays of all batches, with one more row than the horizon has steps: the values on padding."""

    arrays: dict[str, np.ndarray]  # name -> [B, T + 1, N], [B, T + 1, N, A] or [B, N]
    state: np.ndarray  # s_t, [B, T + 1, N]
    action: np.ndarray  # a_t, [B, T + 1, N]
    mask: np.ndarray  # [B, T + 1, N]; 0 in the last row
    credits: Mapping[str, np.ndarray] = MappingProxyType({})  # parameter of the loss -> [B, T + 1, N]


def batch_arrays(
    problem: Problem, batches: Batches, logits: np.ndarray, behaviour: np.ndarray, names: Iterable[str] = ARRAYS
) -> Data:
    """The named arrays of every batch, for a policy θ and a behaviour policy θ̄, both logits [S, A].

    Padding is 0, except for log-probabilities: the policy is evaluated there in state 0 with action 0, as a network
    would be. A loss without a mask therefore has a nonzero gradient on padding.
    """
    rollouts, members, mdp = batches.rollouts, batches.members, problem.mdp
    state, action, mask = rollouts.state, rollouts.action, rollouts.mask
    gamma = mdp.discount
    target, sampler, reference = (log_softmax(x) for x in (logits, behaviour, problem.reference))
    reward = mdp.reward[state, action] * mask
    returns = rewards_to_go(reward, gamma)

    make = {
        "log_prob": lambda: target[state, action],
        "log_probs": lambda: target[state],
        "behaviour_log_prob": lambda: sampler[state, action],
        "behaviour_log_probs": lambda: sampler[state],
        "reference_log_prob": lambda: reference[state, action],
        "reference_log_probs": lambda: reference[state],
        "action": lambda: action,
        "reward": lambda: reward,
        "mask": lambda: mask,
        "terminated": lambda: rollouts.terminated.astype(float),
        "truncated": lambda: rollouts.truncated.astype(float),
        "value": lambda: problem.value[rollouts.time, state],
        "next_value": lambda: problem.value[rollouts.time + 1, rollouts.next_state],
        "action_value": lambda: problem.action_value[rollouts.time, state],
        "discount": lambda: np.full(mask.shape, gamma),
        "returns": lambda: returns,
    }

    def rows(name: str) -> np.ndarray:
        table = make[name]()
        there = mask.reshape(*mask.shape, *[1] * (table.ndim - 2)) > 0
        table = _padded(np.where(there, table, 0))
        if name in policies:
            table[-1] = policies[name]
        return _of(members, table)

    policies = {
        f"{who}log_prob{s}": table[0] if s else table[0, 0]
        for who, table in (("", target), ("behaviour_", sampler), ("reference_", reference))
        for s in ("", "s")
    }
    each = {
        "episode_return": lambda: returns[0][members],
        "lengths": lambda: mask.sum(0).astype(int)[members],
        "group": lambda: np.broadcast_to(
            np.arange(problem.batch_size) // problem.group_size if problem.group_size > 1 else 0, members.shape
        ).astype(int),
    }
    arrays = {name: each[name]() if name in each else rows(name) for name in names}
    state, action, mask = (_of(members, _padded(x)) for x in (state, action, mask))
    return Data(arrays, state, action, mask)


def rewards_to_go(reward: np.ndarray, discount: float) -> np.ndarray:
    """Σ_{t'≥t} γ^{t'−t} r_t', [T, ...] -> [T, ...], from the end backwards: γ^t may be 0 or underflow."""
    found = np.array(reward, np.float64)
    for t in range(len(found) - 2, -1, -1):
        found[t] += discount * found[t + 1]
    return found


def padding_filler(name: str, size: float, actions: int) -> np.ndarray | float | None:
    """Values of a given size to write on the padding of an array, or of a credit (""); None leaves it unchanged.

    Log-probabilities become those of other normalised policies, since arbitrary numbers could overflow to infinity,
    which a mask of 0 turns into NaN. A `size` of NaN writes NaN in every array but flags, mask, discount and actions.
    """
    if name.endswith(("log_prob", "log_probs")):
        if np.isnan(size):
            return size
        who = name.removesuffix("log_probs").removesuffix("log_prob")
        table = log_softmax(np.array([PADDING_POLICIES[who], *[0.0] * (actions - 1)]))
        return table if name.endswith("s") else float(table[0])
    factor = PADDING_NUMBERS.get(name, 0.9 if name == "" else None)
    return None if factor is None else size * factor


def _padded(table: np.ndarray) -> np.ndarray:
    return np.concatenate([table, np.zeros_like(table[:1])])


def _of(members: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Trajectories [T, M, ...] as batches [B, T, N, ...]."""
    return np.moveaxis(table[:, members], 1, 0)
