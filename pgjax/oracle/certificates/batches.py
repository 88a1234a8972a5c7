"""Enumeration of every batch of a problem, with its probability. Batches that differ only in order are listed once."""

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
    """Batches of N trajectories."""

    rollouts: Rollouts  # the trajectories, [T, M]
    members: np.ndarray  # indices of the trajectories of each batch, [B, N]
    orderings: np.ndarray  # number of orderings that a listed batch represents, [B]


def enumerate_batches(problem: Problem, *, ordered: bool, max_batches: int = MAX_BATCHES) -> Batches:
    """List every batch; with `ordered=False` one of each set that differs only in order, with the number of orderings.

    Reordering means within a group, or of whole groups.
    """
    many = count_trajectories(problem.mdp)
    if many > max_batches:  # checked before listing them, which is slow
        reason = (
            f"has {format_count(many)} trajectories; at most {max_batches} batches (max_batches): reduce the horizon"
        )
        raise SettingError("problem", problem.name, reason)
    rollouts = list_rollouts(problem.mdp, Config(), time_limit=problem.time_limit)
    first, size = rollouts.state[0], problem.group_size
    same_start = [np.flatnonzero(first == s).tolist() for s in np.unique(first)]
    number = problem.batch_size // size
    groups = sum(_count(len(which), size, ordered) for which in same_start)
    total = _count(groups, number, ordered)
    if total > max_batches:
        many = f"{format_count(total)} batches of {problem.batch_size} out of {len(first)} trajectories"
        reason = f"means {many}; at most {max_batches} (max_batches): reduce batch_size or horizon"
        raise SettingError("problem", problem.name, reason)
    each = [pair for which in same_start for pair in _collections(which, size, ordered)]
    chosen = list(_collections(range(len(each)), number, ordered))
    members = np.array([[m for g in groups for m in each[g][0]] for groups, _ in chosen])
    orderings = np.array([ways * math.prod(each[g][1] for g in groups) for groups, ways in chosen])
    return Batches(rollouts, members, orderings)


def format_count(count: float) -> str:
    """A count as an integer, or in scientific notation from 10⁶ on."""
    return f"{count:.0f}" if count < 10**6 else f"{count:.1e}"


def _count(values: int, size: int, ordered: bool) -> int:
    return values**size if ordered else math.comb(values + size - 1, size)


def _collections(values: Iterable[int], size: int, ordered: bool) -> Iterable[tuple[tuple[int, ...], int]]:
    """Tuples of values with the number of orderings of each."""
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
    """Π_groups P(s_0) Π_n P(τ_n | s_0) of every listed batch, summed over its orderings, [B]."""
    start = problem.mdp.initial[batches.rollouts.state[0]]
    given_start = (trajectory_probability(batches.rollouts, log_probs) / start)[batches.members]
    return batches.orderings * given_start.prod(-1) * start[batches.members[:, :: problem.group_size]].prod(-1)


def permutations(batch_size: int, group_size: int) -> list[list[int]]:
    """Orders that generate all orders of a batch that keep groups together."""
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
