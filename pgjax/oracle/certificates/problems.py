"""Small problems on which losses are certified."""

from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from pgjax.oracle.mdp import MDP, check_logits, exact_values, make_mdp
from pgjax.types import SettingError

CRITIC_ERROR = 0.3


class Problem(NamedTuple):
    """An MDP with a policy, critics, and the shape of its batches. Build it with `problem`."""

    name: str  # label in the report
    mdp: MDP  # the tables
    logits: np.ndarray  # θ of the tabular softmax policy, [S, A]
    direction: np.ndarray  # unit vector, [S, A]; the behaviour policy at distance δ has the logits θ − δ · direction
    reference: np.ndarray  # logits of the reference policy, [S, A]
    value: np.ndarray  # V_t(s) of an inexact critic, [T + 1, S]
    action_value: np.ndarray  # Q̃_t(s, a) of an inexact critic, [T, S, A]
    batch_size: int  # N
    group_size: int  # number of consecutive trajectories with the same first state; 1 for independent trajectories
    time_limit: bool  # whether the horizon truncates episodes instead of terminating them


def problem(
    mdp: MDP,
    logits: ArrayLike | None = None,
    *,
    name: str = "problem",
    batch_size: int = 2,
    group_size: int = 1,
    time_limit: bool = False,
    value: ArrayLike | None = None,
    action_value: ArrayLike | None = None,
) -> Problem:
    """Build a problem to certify a loss on.

    Args:
      logits: θ, [S, A]; default fixed numbers of moderate size.
      name: label in the report.
      batch_size: N.
      group_size: trajectories that share a first state; divides N.
      time_limit: whether the horizon truncates episodes instead of terminating them.
      value: V_t(s), [T + 1, S]; default the exact values plus or minus 0.3.
      action_value: Q̃_t(s, a), [T, S, A]; default the exact values with errors up to 0.3.

    >>> mdp = make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)
    >>> problem(mdp, name="two arms", batch_size=4, group_size=2).value.shape
    (2, 1)
    """
    for field, number in (("batch_size", batch_size), ("group_size", group_size)):
        if not isinstance(number, int) or number < 1:
            raise SettingError(field, number, "must be an integer of at least 1")
    if batch_size % group_size:
        raise SettingError("batch_size", batch_size, f"must be a multiple of group_size, {group_size}")
    shape = mdp.reward.shape
    theta = 0.6 * _waves(shape, 1.0) if logits is None else check_logits(mdp, "logits", logits)
    with jax.enable_x64(True):
        exact = jax.device_get(exact_values(mdp, jax.nn.log_softmax(theta)))
    signs = np.sign(_waves((mdp.horizon + 1, shape[0]), 2.5))
    direction = _waves(shape, 0.4)
    direction = direction - direction.mean(-1, keepdims=True)
    length = np.linalg.norm(direction)
    return Problem(
        name=name,
        mdp=mdp,
        logits=theta,
        direction=direction / length if length > 0 else direction,
        reference=0.5 * theta + 0.4 * _waves(shape, 3.1),
        value=_table("value", value, exact.value + CRITIC_ERROR * signs),
        action_value=_table(
            "action_value", action_value, exact.action_value + CRITIC_ERROR * _waves((mdp.horizon, *shape), 1.7)
        ),
        batch_size=batch_size,
        group_size=group_size,
        time_limit=time_limit,
    )


def _table(field: str, given: ArrayLike | None, default: np.ndarray) -> np.ndarray:
    if given is None:
        return np.asarray(default, np.float64)
    table = np.asarray(given, np.float64)
    if table.shape != default.shape:
        raise SettingError(field, table.shape, f"is not the shape {default.shape} that the problem requires")
    return table


def _waves(shape: tuple[int, ...], phase: float) -> np.ndarray:
    """Deterministic numbers between −1 and 1 without a period."""
    return np.sin(phase + 1.9 * np.arange(np.prod(shape)) ** 1.3).reshape(shape)


def default_problems() -> list[Problem]:
    """A bandit, fixed and variable length, a time limit, and groups, with 9 to 625 batches each.

    >>> [p.name for p in default_problems()]
    ['bandit', 'fixed length', 'variable length', 'time limit', 'groups']
    """
    bandit = _mdp([1.0], [[[0.0]] * 3], [[1.0, -0.4, 0.3]], horizon=1)
    fixed = _mdp(
        [0.6, 0.4],
        [[[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]],
        [[0.7, -0.5], [1.2, 0.4]],
        horizon=3,
    )
    # Action 0 may end the episode, action 1 continues it: the length depends on the policy.
    ending = [[[0.0, 0.6], [1.0, 0.0]], [[0.5, 0.0], [0.0, 1.0]]]
    rewards = [[1.0, 0.4], [-0.6, 0.8]]
    variable = _mdp([0.7, 0.3], ending, rewards, horizon=3, discount=0.9)
    limited = _mdp([1.0, 0.0], ending, rewards, horizon=2, discount=0.9)
    # Two prompts; answers are rewarded when they end, so that the first step of longer answers has reward 0.
    answers = _mdp([0.5, 0.5], [[[0.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.5, 0.0]]], [[1.0, 0.0], [0.2, 0.9]], 2)
    return [
        problem(bandit, name="bandit"),
        problem(fixed, name="fixed length"),
        problem(variable, name="variable length"),
        problem(limited, name="time limit", batch_size=3, time_limit=True),
        problem(answers, name="groups", batch_size=4, group_size=2),
    ]


def _mdp(initial: list, transition: list, reward: list, horizon: int, discount: float = 1.0) -> MDP:
    return make_mdp(np.array(initial), np.array(transition), np.array(reward), horizon, discount)
