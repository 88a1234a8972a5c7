"""Changes of the data, and their effect on a loss's gradient."""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from pgjax.oracle.certificates.arrays import Data
from pgjax.oracle.certificates.batches import permutations
from pgjax.oracle.certificates.chain_rule import logit_gradient
from pgjax.oracle.certificates.evaluation import Case, Estimates, case_data, estimates, slopes
from pgjax.types import SettingError

SHIFT, FACTOR, LARGE, MODERATE = 0.7, 3.0, 1e3, 10.0
EARNED = ("reward", "returns", "episode_return")
REWARDED = (*EARNED, "value", "next_value", "action_value")
FLAGS = ("terminated", "truncated")
OTHER_REWARDS = "rewards of another trajectory changed"
FLOORED = 0.02
"""Smaller changes under scaled rewards come from an epsilon added to a standard deviation."""

CHANGES = (7.0, -0.4)
"""Changes of one trajectory's rewards: large and positive, small and negative."""

OTHER_REWARD_BATCHES = 100


class Invariance(NamedTuple):
    """The effect of a change of the data on the estimates."""

    name: str  # of the change
    # "unchanged", "unchanged in the mean", "changed", "not finite", "rejected" if the loss raises an error, or
    # another relation ("linear", "doubled (a sum)"); preceded by "nearly" if it holds to 1e-6 only.
    verdict: str
    on_batches: float  # largest change of an estimate, relative to the largest estimate
    in_mean: float | None  # ‖ḡ' − ḡ‖ / ‖ḡ‖; None where ḡ is 0
    problem: str  # the problem with the largest change
    distance: float = 0.0  # between policy and behaviour policy


class Before(NamedTuple):
    """A loss on a problem at one distance, with its estimates on unchanged data."""

    case: Case
    distance: float
    estimates: Estimates

    @property
    def behaviour(self) -> np.ndarray:
        """Logits of the behaviour policy."""
        return self.case.at(self.distance)

    def again(self, case: Case | None = None, **how: Any) -> Estimates:
        """The estimates of a changed case, or with changed data."""
        return estimates(case or self.case, self.case.problem.logits, self.behaviour, **how)


def before(case: Case, distance: float) -> Before:
    """A case with its estimates at a distance."""
    return Before(case, distance, estimates(case, case.problem.logits, case.at(distance)))


def _between(name: str, given: Before, after: Estimates, relation: str = "unchanged") -> Invariance:
    was, precision = given.estimates, given.case.precision
    with np.errstate(invalid="ignore"):
        change = np.linalg.norm(after.gradient - was.gradient, axis=-1)
        size, length = np.linalg.norm(was.gradient, axis=-1).max(), np.linalg.norm(was.mean)
        on_batches = relative(float(change.max()), float(size)) if np.isfinite(change).all() else np.inf
        shift = was.probability @ (after.gradient - was.gradient)
        in_mean = float(np.linalg.norm(shift) / length) if length > precision.zero * size else None
    in_mean = np.inf if in_mean is not None and not np.isfinite(in_mean) else in_mean
    verdict = "changed"
    for found, name_of_relation in ((on_batches, relation), (in_mean, f"{relation} in the mean")):
        if found is not None and found < precision.nearly:
            verdict = name_of_relation if found < precision.rounding else f"nearly {name_of_relation}"
            break
    return Invariance(name, verdict, on_batches, in_mean, given.case.problem.name, given.distance)


def relative(change: float, size: float) -> float:
    """change / size; 0 if the change is 0, for every size."""
    return change / size if size > 0 else 0.0 if change == 0 else np.inf


RANKS = ("nearly", "but for", "in the mean", "differs", "changed", "not finite", "rejected")


def rank(x: Invariance) -> tuple[int, float]:
    """Sort key of verdicts: the verdict first, then the largest change of a batch."""
    found = [i for i, words in enumerate(RANKS) if re.search(rf"\b{words}\b", x.verdict)]
    return max(found, default=-1), x.on_batches


def worst(found: Iterable[Invariance]) -> Invariance:
    """The worst verdict over problems; lists the relations if they differ between problems."""
    found = list(found)
    last = max(found, key=rank)
    relations = {x.verdict.removeprefix("nearly ").split(" but for ")[0].removesuffix(" in the mean"): x for x in found}
    if rank(last)[0] >= RANKS.index("changed") or len(relations) == 1:
        return last
    return last._replace(
        verdict="differs: " + ", ".join(f"{relation} on {x.problem!r}" for relation, x in relations.items())
    )


def reward_shifted(given: Before) -> Invariance:
    """Add a constant to every reward, on problems of fixed length, where it does not change ∇J."""
    problem = given.case.problem
    mdp = replace(problem.mdp, reward=problem.mdp.reward + SHIFT)
    name = "reward shifted" if given.distance else "reward shifted, on-policy"
    return _between(name, given, given.again(given.case._replace(problem=problem._replace(mdp=mdp))))


def reward_scaled(given: Before) -> Invariance | None:
    """Multiply rewards and values by three. Returns None if all estimates are 0."""
    case, p, was = given.case, given.case.problem, given.estimates
    if was.size == 0:
        return None
    mdp = replace(p.mdp, reward=FACTOR * p.mdp.reward)
    scaled = p._replace(mdp=mdp, value=FACTOR * p.value, action_value=FACTOR * p.action_value)
    after = given.again(case._replace(problem=scaled))
    linear = _between("reward scaled", given, after._replace(gradient=after.gradient / FACTOR), "linear")
    same = _between("reward scaled", given, after)
    found, relation = (linear, "linear") if rank(linear) < rank(same) else (same, "unchanged")
    if found is same and found.verdict == "changed" and found.on_batches < FLOORED:
        return found._replace(verdict=f"{relation} but for {100 * found.on_batches:.1g} %")
    if found.verdict != "unchanged":
        return found
    reversed_ = p._replace(
        mdp=replace(p.mdp, reward=p.mdp.reward[:, ::-1] + SHIFT * (1 - p.mdp.reward)),
        value=1 - p.value,
        action_value=p.action_value[..., ::-1] ** 2,
    )
    other = _between("reward scaled", given, given.again(case._replace(problem=reversed_), check=False))
    return found._replace(verdict="unchanged for any rewards") if other.verdict == "unchanged" else found


def batch_permuted(given: Before) -> Invariance:
    """Reorder the trajectories, keeping groups together."""
    case = given.case
    found = [
        _between("batch permuted", given, given.again(_reordered(case, order)))
        for order in permutations(case.problem.batch_size, case.problem.group_size)
    ]
    none = Invariance("batch permuted", "unchanged", 0.0, 0.0, case.problem.name, given.distance)
    return max(found, key=rank, default=none)


def _reordered(case: Case, order: list[int]) -> Case:
    return case._replace(batches=case.batches._replace(members=case.batches.members[:, order]))


def padding_overwritten(given: Before, filler: float) -> Invariance:
    """Write numbers of the size of `filler`, or NaN, on padding, except in flags, mask, discount and actions."""
    name = "padding NaN" if np.isnan(filler) else "padding overwritten"
    try:
        with np.errstate(invalid="ignore", over="ignore"):
            after = given.again(filler=filler, check=False)
    except SettingError:  # raised by the loss, which accepts the unchanged data
        return Invariance(name, "rejected", np.inf, None, given.case.problem.name, given.distance)
    found = _between(name, given, after)
    if np.isinf(found.on_batches) and not np.isfinite(after.gradient).all() and not np.isnan(filler):
        return found._replace(verdict="not finite")
    return found


def padding_with_numbers(given: Before) -> list[Invariance]:
    """Write large numbers on padding; if they overflow, report the overflow and test smaller numbers too."""
    large = padding_overwritten(given, LARGE)
    if large.verdict != "not finite":
        return [large]
    smaller = padding_overwritten(given, MODERATE)
    overflow = large._replace(name="padding overflow")
    return [overflow] if smaller.verdict == "not finite" else [smaller, overflow]


def padding_gradient_removed(given: Before) -> Invariance:
    """Remove the gradient through log-probabilities on padding."""
    case, theta = given.case, given.case.problem.logits
    data = case_data(case, theta, given.behaviour)
    slope = slopes(case, data)[1]
    slope[:, -1] = 0.0
    gradient = -logit_gradient(slope, data.state, theta)
    return _between("padding gradient removed", given, given.estimates._replace(gradient=gradient))


def trajectories_repeated(given: Before) -> Invariance:
    """Repeat every trajectory, with groups every group: a mean over trajectories does not change, a sum doubles."""
    case, p = given.case, given.case.problem
    members = case.batches.members
    groups = members.reshape(len(members), -1, p.group_size)
    twice = case._replace(
        problem=p._replace(batch_size=2 * p.batch_size),
        batches=case.batches._replace(members=np.repeat(groups, 2, axis=1).reshape(len(members), -1)),
    )
    try:
        after = estimates(twice, p.logits, given.behaviour)
    except SettingError:  # raised by the loss, for this batch size
        return Invariance("trajectories repeated", "rejected", np.inf, None, p.name, given.distance)
    same = _between("trajectories repeated", given, after)
    doubled = _between("trajectories repeated", given, after._replace(gradient=after.gradient / 2), "doubled (a sum)")
    return doubled if rank(doubled)[1] < min(case.precision.nearly, same.on_batches) else same


def other_rewards_changed(given: Before) -> Invariance:
    """Change the first trajectory's rewards, and compare the slopes in log π of the others. `in_mean` is None."""
    case, theta = given.case, given.case.problem.logits
    members = case.batches.members
    few = members[np.unique(np.linspace(0, len(members) - 1, OTHER_REWARD_BATCHES).astype(int))]
    case = case._replace(batches=case.batches._replace(members=few))
    was = slopes(case, case_data(case, theta, given.behaviour))[1]
    size, largest = float(np.abs(was[:, :, 1:]).max()), 0.0
    for change in CHANGES:
        after = slopes(
            case, case_data(case, theta, given.behaviour, lambda data, c=change: _add_reward(data, case, c))
        )[1]
        moved = float(np.abs(after - was)[:, :, 1:].max())
        size = max(size, float(np.abs(after[:, :, 1:]).max()))
        largest = max(largest, relative(moved, size)) if np.isfinite(moved) else np.inf
    precision = case.precision
    same = "unchanged" if largest < precision.rounding else "nearly unchanged"
    verdict = same if largest < precision.nearly else "changed"
    return Invariance(OTHER_REWARDS, verdict, largest, None, case.problem.name, given.distance)


def _add_reward(data: Data, case: Case, change: float) -> Data:
    """Add `change` to every reward of the first trajectory of every batch."""
    mask, gamma = data.mask, case.problem.mdp.discount
    more = np.zeros(mask.shape)
    more[:, :, 0] = change * mask[:, :, 0]
    to_go = more.copy()
    for t in range(mask.shape[1] - 2, -1, -1):
        to_go[:, t] += gamma * to_go[:, t + 1]
    changes = {"reward": more, "returns": to_go, "episode_return": to_go[:, 0]}
    arrays = {name: data.arrays[name] + x for name, x in changes.items() if name in data.arrays}
    return data._replace(arrays=data.arrays | arrays)


def after_termination_overwritten(given: Before) -> Invariance:
    """Change the value after a termination, on which no gradient should depend."""

    def change(data: Data) -> Data:
        moved = data.arrays["next_value"] + 5.0 * terminated
        return data._replace(arrays=data.arrays | {"next_value": moved})

    batches = given.case.batches
    terminated = np.moveaxis(batches.rollouts.terminated[:, batches.members], 1, 0).astype(float)
    terminated = np.pad(terminated, ((0, 0), (0, 1), (0, 0)))
    return _between("value after a termination", given, given.again(change=change))


def time_limit_as_termination(given: Before) -> Invariance:
    """Mark truncated steps as terminated."""
    batches = given.case.batches
    ended = batches.rollouts._replace(
        terminated=batches.rollouts.terminated | batches.rollouts.truncated,
        truncated=np.zeros_like(batches.rollouts.truncated),
    )
    after = given.again(given.case._replace(batches=batches._replace(rollouts=ended)))
    return _between("time limit as termination", given, after)


def takes_any(case: Case, names: Iterable[str]) -> bool:
    """Whether a loss takes one of these arrays, or a credit, which may depend on all of them."""
    return any(not isinstance(source, str) or source in names for source in case.loss.sources.values())


def invariances(on_policy: list[Before], away: list[Before]) -> list[Invariance]:
    """Test every change on the problems to which it applies, for one loss on-policy and at another distance."""
    cases = [x.case for x in away]
    fixed_length = [bool((c.batches.rollouts.mask > 0).all()) for c in cases]

    def those(given: list[Before], test: Callable[[Case, bool], bool]) -> list[Before]:
        return [x for x, case, fixed in zip(given, cases, fixed_length, strict=True) if test(case, fixed)]

    def valued(case: Case, _: bool) -> bool:
        return "next_value" in case.loss.sources.values() and bool(case.batches.rollouts.terminated.any())

    def on(given: list[Before], test: Callable, *args: float) -> list[Invariance]:
        return [found for x in given if (found := test(x, *args)) is not None]

    rewarded = takes_any(cases[0], REWARDED)
    padded = those(away, lambda case, fixed: not fixed and case.layout != "flat")
    overwritten = [found for x in padded for found in padding_with_numbers(x)]
    tests = [
        on(those(on_policy, lambda _, fixed: rewarded and fixed), reward_shifted),
        on(those(away, lambda _, fixed: rewarded and fixed), reward_shifted),
        on(away if rewarded else [], reward_scaled),
        on(away, batch_permuted),
        on(padded, padding_gradient_removed),
        [x for x in overwritten if x.name == "padding overwritten"],
        [x for x in overwritten if x.name == "padding overflow"],
        on(padded, padding_overwritten, np.nan),
        on(away, trajectories_repeated),
        on(
            those(on_policy, lambda case, _: takes_any(case, EARNED) and case.problem.batch_size > 1),
            other_rewards_changed,
        ),
        on(those(away, valued), after_termination_overwritten),
    ]
    return [worst(found) for found in tests if found]
