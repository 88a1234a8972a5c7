"""Every batch that a problem can produce, with its probability; batches that differ in order alone are listed once."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from pgjax.config import Config
from pgjax.oracle.certificates.problems import Problem
from pgjax.oracle.enumeration import count_trajectories
from pgjax.oracle.updates import Rollouts, list_rollouts
from pgjax.types import SettingError

MAX_BATCHES = 20_000


class Batches(NamedTuple):
    """Batches of N trajectories.

    Attributes:
      rollouts: the trajectories, [T, M].
      members: which of them are in each batch, [B, N].
      orderings: how many orderings a listed batch stands for, [B].
    """

    rollouts: Rollouts
    members: np.ndarray
    orderings: np.ndarray


def enumerate_batches(problem: Problem, *, ordered: bool, max_batches: int = MAX_BATCHES) -> Batches:
    """Every batch, or with `ordered=False` one of each set that differs in order alone, with how many those are.

    Orders within a group and orders of groups count as order; a trajectory never leaves its group.

    Raises:
      SettingError: for more than `max_batches`; says how many there are.

    >>> from pgjax.oracle import make_mdp
    >>> from pgjax.oracle.certificates.problems import problem
    >>> arms = problem(make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1))
    >>> found = enumerate_batches(arms, ordered=False)
    >>> found.members.tolist(), found.orderings.tolist()
    ([[0, 0], [0, 1], [1, 1]], [1, 2, 1])
    """
    many = count_trajectories(problem.mdp)
    if many > max_batches:  # before they are listed, which takes long
        reason = f"has {whole(many)} trajectories; at most {max_batches} batches (max_batches): take a smaller horizon"
        raise SettingError("problem", problem.name, reason)
    rollouts = list_rollouts(problem.mdp, Config(), time_limit=problem.time_limit)
    first, size = rollouts.state[0], problem.group_size
    same_start = [np.flatnonzero(first == s).tolist() for s in np.unique(first)]
    number = problem.batch_size // size
    groups = sum(_count(len(which), size, ordered) for which in same_start)
    total = _count(groups, number, ordered)
    if total > max_batches:
        many = f"{whole(total)} batches of {problem.batch_size} trajectories ({len(first)} of them in all)"
        reason = f"means {many}; at most {max_batches} (max_batches): take a smaller batch_size or horizon"
        raise SettingError("problem", problem.name, reason)
    each = [pair for which in same_start for pair in _collections(which, size, ordered)]
    chosen = list(_collections(range(len(each)), number, ordered))
    members = np.array([[m for g in groups for m in each[g][0]] for groups, _ in chosen])
    orderings = np.array([ways * math.prod(each[g][1] for g in groups) for groups, ways in chosen])
    return Batches(rollouts, members, orderings)


def whole(count: float) -> str:
    """A whole number as one, unless it is long.

    >>> whole(20), whole(123_456), whole(12_345_678)
    ('20', '123456', '1.2e+07')
    """
    return f"{count:.0f}" if count < 10**6 else f"{count:.1e}"


def _count(values: int, size: int, ordered: bool) -> int:
    return values**size if ordered else math.comb(values + size - 1, size)


def _collections(values: Iterable[int], size: int, ordered: bool) -> Iterable[tuple[tuple[int, ...], int]]:
    """Tuples of values with how many orderings each stands for."""
    if ordered:
        return ((chosen, 1) for chosen in itertools.product(values, repeat=size))
    return ((chosen, _orderings(chosen)) for chosen in itertools.combinations_with_replacement(values, size))


def _orderings(chosen: tuple[int, ...]) -> int:
    return math.factorial(len(chosen)) // math.prod(math.factorial(n) for n in Counter(chosen).values())


def trajectory_probability(rollouts: Rollouts, log_probs: np.ndarray) -> np.ndarray:
    """P(τ) of every trajectory under a policy log π(a|s), [M]."""
    taken = np.where(rollouts.mask > 0, log_probs[rollouts.state, rollouts.action], 0.0)
    return rollouts.probability * np.exp(taken.sum(0))


def batch_probability(problem: Problem, batches: Batches, log_probs: np.ndarray) -> np.ndarray:
    """P of every listed batch, all its orderings together, [B]; sums to one.

    Π_groups P(s_0) Π_n P(τ_n | s_0)
    """
    start = problem.mdp.initial[batches.rollouts.state[0]]
    given_start = (trajectory_probability(batches.rollouts, log_probs) / start)[batches.members]
    return batches.orderings * given_start.prod(-1) * start[batches.members[:, :: problem.group_size]].prod(-1)


def permutations(batch_size: int, group_size: int) -> list[list[int]]:
    """Orders of a batch from which all others that keep groups together can be made.

    >>> permutations(4, 2)  # within a group, and of the groups
    [[1, 0, 2, 3], [2, 3, 0, 1]]
    >>> permutations(3, 1)
    [[1, 0, 2], [1, 2, 0]]
    """
    columns = np.arange(batch_size).reshape(-1, group_size)
    found = []
    if group_size > 1:
        for order in (_swapped(group_size), np.roll(np.arange(group_size), -1)):
            found.append(np.concatenate([columns[:1, order], columns[1:]]))
    if len(columns) > 1:
        found += [columns[_swapped(len(columns))], np.roll(columns, -1, axis=0)]
    return [list(order) for order in dict.fromkeys(tuple(c.ravel().tolist()) for c in found)]


def _swapped(count: int) -> np.ndarray:
    return np.array([1, 0, *range(2, count)])
