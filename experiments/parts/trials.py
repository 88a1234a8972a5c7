"""Training many settings: all trials × seeds in one compiled call, the worse half stopped on the way."""

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
"""Seeds are below it: evaluation never repeats a training key."""


class Trial(NamedTuple):
    """What is tried over the settings given: hyperparameters, and what is compiled in."""

    numbers: dict[str, float]
    static: dict[str, Any]

    def of(self, settings: Settings) -> Settings:
        """The settings with it."""
        return replace(settings, **self.static, **self.numbers)


class Group(NamedTuple):
    """Trials that one compiled program trains: which they are, and how they stand."""

    setup: Setup
    members: list[int]
    runs: sweeps.Runs


setup_of = cache(build)
"""One setup for the same settings, so that a program is traced once, not for every batch."""


def stops_of(total_steps: int, cuts: int) -> list[int]:
    """At how many steps trials are evaluated: half of those that are left go on from each but the last.

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
    """Greedy return [seeds] of every trial at each of the stops that it reaches.

    Trials of the same static settings are one compiled call. At every stop but the last the better half of all trials,
    by interquartile mean, goes on; the others' place on the devices becomes theirs (successive halving: Jamieson &
    Talwalkar 2016, https://arxiv.org/abs/1502.07943).

    Args:
      settings: what the trials do not say.
      trials: any number.
      seeds: of each of them.
      stops: environment steps, rising.
      stop: checked after every compiled call.

    Raises:
      Stopped: if asked to.
      SettingError: for settings that cannot be.
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
    """The trials by what is compiled in, each group at its beginning."""
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
    """A group trained up to so many environment steps of each run."""
    runs, chunk, max_skipped = group.runs, settings.updates_per_chunk, settings.max_skipped
    with progress_bar(steps, quiet=settings.quiet) as bar:
        for now, metrics in sweeps.chunks(group.setup.trainer, runs, steps, chunk, max_skipped, donate=True):
            runs = now
            bar.update(metrics)
            stop.check("what was told is kept; the same command goes on")
    return group._replace(runs=runs)


def evaluated(settings: Settings, group: Group, seeds: int) -> np.ndarray:
    """Greedy return of a group's policies, [trials, seeds], on the same episodes at every stop; −∞ for no number."""
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
