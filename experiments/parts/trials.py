"""Training of many trials: all trials × seeds in one compiled call, with the worse half stopped at each cut."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np

from pgjax import evaluate_runs, sweeps
from pgjax.runs.record.interrupts import StopRequest
from pgjax.runs.settings.build import Setup, build
from pgjax.runs.settings.flags import Settings
from pgjax.runs.settings.start import chosen_devices
from pgjax.runs.show.comparison import interquartile_mean
from pgjax.sweeps.progress import progress_bar

EVALUATION_KEY = 1 << 31
"""Seeds are below it, so that evaluation never uses a training key."""


class Trial(NamedTuple):
    """Changes to the given settings: hyperparameters and static settings."""

    numbers: dict[str, float]
    static: dict[str, Any]

    def of(self, settings: Settings) -> Settings:
        """The settings with these changes."""
        return replace(settings, **self.static, **self.numbers)


class Group(NamedTuple):
    """Trials that one compiled program trains, with their current state."""

    setup: Setup
    members: list[int]
    runs: sweeps.Runs


setup_of = cache(build)
"""Setups by settings, so that a program is traced once and not for every batch."""


def stops_of(total_steps: int, cuts: int) -> list[int]:
    """Environment steps at which trials are evaluated; all but the last are cuts.

    >>> stops_of(1000, cuts=2)
    [250, 500, 1000]
    """
    return [max(1, total_steps >> (cuts - i)) for i in range(cuts + 1)]


def trained(
    settings: Settings,
    trials: Sequence[Trial],
    seeds: Sequence[int],
    stops: Sequence[int],
    stop: StopRequest,
) -> list[list[np.ndarray]]:
    """Greedy return [seeds] of every trial at each evaluation that it reaches.

    Trials with the same static settings share a compiled call. At each cut the better half of all trials, by
    interquartile mean, continues (successive halving: Jamieson & Talwalkar 2016, https://arxiv.org/abs/1502.07943).

    Args:
      settings: given settings.
      trials: any number.
      seeds: of each trial.
      stops: environment steps of the evaluations, increasing.
      stop: checked after every compiled call.

    Raises:
      Stopped: if a stop was requested.
      SettingError: for invalid settings.
    """
    groups = grouped(settings, trials, seeds)
    scores: list[list[np.ndarray]] = [[] for _ in trials]
    for steps in stops:
        for i, group in enumerate(groups):
            groups[i] = group = advanced(settings, group, steps, stop)
            for member, returns in zip(group.members, evaluated(settings, group, len(seeds)), strict=True):
                scores[member].append(returns)
        if steps != stops[-1]:
            there = [member for group in groups for member in group.members]
            there.sort(key=lambda member: -interquartile_mean(scores[member][-1]))
            going_on = set(there[: (len(there) + 1) // 2])
            groups = [kept(settings, group, going_on, len(seeds)) for group in groups if going_on & {*group.members}]
    return scores


def grouped(settings: Settings, trials: Sequence[Trial], seeds: Sequence[int]) -> list[Group]:
    """The trials grouped by static settings, each group untrained."""
    groups: dict[str, list[int]] = {}
    for i, trial in enumerate(trials):
        groups.setdefault(repr(sorted(trial.static.items())), []).append(i)
    found = []
    for members in groups.values():
        setup = setup_of(replace(settings, **trials[members[0]].static))
        over = [trials[i].numbers for i in members]
        devices = chosen_devices(settings.devices)
        runs = sweeps.start(setup.trainer, setup.algorithm, seeds=list(seeds), over=over, devices=devices)
        found.append(Group(setup, members, runs))
    return found


def advanced(settings: Settings, group: Group, steps: int, stop: StopRequest) -> Group:
    """A group trained up to a number of environment steps per run."""
    runs, chunk, max_skipped = group.runs, settings.updates_per_chunk, settings.max_skipped
    with progress_bar(steps, quiet=settings.quiet) as bar:
        for now, metrics in sweeps.chunks(group.setup.trainer, runs, steps, chunk, max_skipped, donate=True):
            runs = now
            bar.update(metrics)
            stop.check("finished batches are kept; the same command continues")
    return group._replace(runs=runs)


def evaluated(settings: Settings, group: Group, seeds: int) -> np.ndarray:
    """Greedy return of a group's policies, [trials, seeds], on the same episodes every time; NaN becomes −∞."""
    key, setup = jax.random.key(EVALUATION_KEY), group.setup
    how = {"episodes": settings.eval_episodes, "greedy": True}
    returns = evaluate_runs(setup.environment, setup.agent, group.runs, key, **how).mean(axis=1)
    return np.nan_to_num(returns, nan=-np.inf).reshape(-1, seeds)


def kept(settings: Settings, group: Group, going_on: set[int], seeds: int) -> Group:
    """A group without the trials that are stopped."""
    places = [i for i, member in enumerate(group.members) if member in going_on]
    if len(places) == len(group.members):
        return group
    runs = [place * seeds + seed for place in places for seed in range(seeds)]
    taken = sweeps.take(group.setup.trainer, group.runs, runs, chosen_devices(settings.devices))
    return Group(group.setup, [group.members[i] for i in places], taken)
