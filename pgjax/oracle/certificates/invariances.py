"""What may be done to a batch without changing a loss's gradient, and whether it tells the two ends apart."""

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
FLOORED = 0.02
"""A change below this when rewards are scaled is that of a small number under a standard deviation."""

CHANGES = (7.0, -0.4)
"""Of one trajectory's rewards: a large one, and a small one the other way."""

JUDGED_BATCHES = 100


class Invariance(NamedTuple):
    """What a change of the data does to the estimates.

    Attributes:
      name: of the change.
      verdict: "unchanged", "unchanged in the mean", "changed", "refused" where the loss raises an error instead, "not
        finite", or the law that holds ("linear", "doubled"); with "nearly" in front where it holds to 1e-6.
      on_batches: the largest change of an estimate, relative to the largest estimate.
      in_mean: ‖ḡ' − ḡ‖ / ‖ḡ‖; None where ḡ is 0.
      problem: on which.
      distance: between policy and behaviour policy.
    """

    name: str
    verdict: str
    on_batches: float
    in_mean: float | None
    problem: str
    distance: float = 0.0


class Before(NamedTuple):
    """A loss on a problem at some distance, and its estimates as the data are."""

    case: Case
    distance: float
    estimates: Estimates

    @property
    def behaviour(self) -> np.ndarray:
        """Logits of the policy that sampled."""
        return self.case.at(self.distance)

    def again(self, case: Case | None = None, **how: Any) -> Estimates:
        """The estimates of a changed case, or with other data."""
        return estimates(case or self.case, self.case.problem.logits, self.behaviour, **how)


def before(case: Case, distance: float) -> Before:
    """A case with its estimates at a distance."""
    return Before(case, distance, estimates(case, case.problem.logits, case.at(distance)))


def _between(name: str, given: Before, after: Estimates, law: str = "unchanged") -> Invariance:
    was, precision = given.estimates, given.case.precision
    with np.errstate(invalid="ignore"):
        apart = np.linalg.norm(after.gradient - was.gradient, axis=-1)
        size, length = np.linalg.norm(was.gradient, axis=-1).max(), np.linalg.norm(was.mean)
        on_batches = relative(float(apart.max()), float(size)) if np.isfinite(apart).all() else np.inf
        shift = was.probability @ (after.gradient - was.gradient)
        in_mean = float(np.linalg.norm(shift) / length) if length > precision.zero * size else None
    in_mean = np.inf if in_mean is not None and not np.isfinite(in_mean) else in_mean
    verdict = "changed"
    for found, said in ((on_batches, law), (in_mean, f"{law} in the mean")):
        if found is not None and found < precision.nearly:
            verdict = said if found < precision.rounding else f"nearly {said}"
            break
    return Invariance(name, verdict, on_batches, in_mean, given.case.problem.name, given.distance)


def relative(change: float, size: float) -> float:
    """A change relative to a size; 0 where there is no change, whatever the size.

    >>> relative(1.0, 2.0), relative(0.0, 0.0), relative(1.0, 0.0)
    (0.5, 0.0, inf)
    """
    return change / size if size > 0 else 0.0 if change == 0 else np.inf


RANKS = ("nearly", "but for", "in the mean", "differs", "changed", "not finite", "refused")


def rank(x: Invariance) -> tuple[int, float]:
    """How far from invariant: by the verdict, then by the change of a batch."""
    found = [i for i, words in enumerate(RANKS) if re.search(rf"\b{words}\b", x.verdict)]
    return max(found, default=-1), x.on_batches


def worst(found: Iterable[Invariance]) -> Invariance:
    """The worst verdict of several problems; where each obeys another law, both are said.

    >>> a, b = Invariance("x", "changed", 1.0, 1.0, "a"), Invariance("x", "unchanged in the mean", 9.0, 0.0, "b")
    >>> worst([a, b]).problem
    'a'
    >>> worst([a._replace(verdict="linear"), b._replace(verdict="unchanged")]).verdict
    "differs: linear on 'a', unchanged on 'b'"
    """
    found = list(found)
    last = max(found, key=rank)
    laws = {x.verdict.removeprefix("nearly ").split(" but for ")[0].removesuffix(" in the mean"): x for x in found}
    if rank(last)[0] >= RANKS.index("changed") or len(laws) == 1:
        return last
    return last._replace(verdict="differs: " + ", ".join(f"{law} on {x.problem!r}" for law, x in laws.items()))


def reward_shifted(given: Before) -> Invariance:
    """A constant added to every reward; for problems of fixed length, where it leaves ∇J alone."""
    problem = given.case.problem
    mdp = replace(problem.mdp, reward=problem.mdp.reward + SHIFT)
    name = "reward shifted" if given.distance else "reward shifted, on-policy"
    return _between(name, given, given.again(given.case._replace(problem=problem._replace(mdp=mdp))))


def reward_scaled(given: Before) -> Invariance | None:
    """Rewards and values in other units: three times as large. None where no estimate is anything but 0."""
    case, p, was = given.case, given.case.problem, given.estimates
    if was.size == 0:
        return None
    mdp = replace(p.mdp, reward=FACTOR * p.mdp.reward)
    scaled = p._replace(mdp=mdp, value=FACTOR * p.value, action_value=FACTOR * p.action_value)
    after = given.again(case._replace(problem=scaled))
    linear = _between("reward scaled", given, after._replace(gradient=after.gradient / FACTOR), "linear")
    same = _between("reward scaled", given, after)
    found, law = (linear, "linear") if rank(linear) < rank(same) else (same, "unchanged")
    if found is same and found.verdict == "changed" and found.on_batches < FLOORED:
        return found._replace(verdict=f"{law} but for {100 * found.on_batches:.1g} %")
    if found.verdict != "unchanged":
        return found
    reversed_ = p._replace(
        mdp=replace(p.mdp, reward=p.mdp.reward[:, ::-1] + SHIFT * (1 - p.mdp.reward)),
        value=1 - p.value,
        action_value=p.action_value[..., ::-1] ** 2,
    )
    other = _between("reward scaled", given, given.again(case._replace(problem=reversed_), check=False))
    return found._replace(verdict="unchanged, as by any rewards") if other.verdict == "unchanged" else found


def batch_permuted(given: Before) -> Invariance:
    """Trajectories in another order; those of a group stay together."""
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
    """Something else than 0 on padding, in every array but flags, mask, discount and actions.

    Numbers of that size, and log-probabilities of other policies; NaN everywhere for NaN.
    """
    name = "padding NaN" if np.isnan(filler) else "padding overwritten"
    try:
        with np.errstate(invalid="ignore", over="ignore"):
            after = given.again(filler=filler, check=False)
    except SettingError:  # the loss's own error: on the data as they are it raises none
        return Invariance(name, "refused", np.inf, None, given.case.problem.name, given.distance)
    found = _between(name, given, after)
    if np.isinf(found.on_batches) and not np.isfinite(after.gradient).all() and not np.isnan(filler):
        return found._replace(verdict="not finite")
    return found


def padding_with_numbers(given: Before) -> list[Invariance]:
    """Padding overwritten by large numbers; where they overflow a line says so, and smaller ones tell the rest."""
    large = padding_overwritten(given, LARGE)
    if large.verdict != "not finite":
        return [large]
    smaller = padding_overwritten(given, MODERATE)
    overflow = large._replace(name="padding overflow")
    return [overflow] if smaller.verdict == "not finite" else [smaller, overflow]


def padding_left_out(given: Before) -> Invariance:
    """Without the gradient that reaches the policy through its log-probabilities on padding: none should."""
    case, theta = given.case, given.case.problem.logits
    data = case_data(case, theta, given.behaviour)
    slope = slopes(case, data)[1]
    slope[:, -1] = 0.0
    gradient = -logit_gradient(slope, data.state, theta)
    return _between("padding left out", given, given.estimates._replace(gradient=gradient))


def trajectories_repeated(given: Before) -> Invariance:
    """Every trajectory twice: a mean over trajectories stays, a sum doubles, and another reduction does neither."""
    case, p = given.case, given.case.problem
    twice = case._replace(
        problem=p._replace(batch_size=2 * p.batch_size, group_size=2 * p.group_size if p.group_size > 1 else 1),
        batches=case.batches._replace(members=np.repeat(case.batches.members, 2, axis=1)),
    )
    try:
        after = estimates(twice, p.logits, given.behaviour)
    except SettingError:  # the loss's own error: it is made for one size of batch
        return Invariance("trajectories repeated", "refused", np.inf, None, p.name, given.distance)
    same = _between("trajectories repeated", given, after)
    doubled = _between("trajectories repeated", given, after._replace(gradient=after.gradient / 2), "doubled (a sum)")
    return doubled if rank(doubled)[1] < min(case.precision.nearly, same.on_batches) else same


def other_rewards_changed(given: Before) -> Invariance:
    """The first trajectory's rewards changed, and the others' slopes in log π looked at: they change where trajectories
    are judged by each other. `in_mean` has no meaning here.
    """
    case, theta = given.case, given.case.problem.logits
    members = case.batches.members
    few = members[np.unique(np.linspace(0, len(members) - 1, JUDGED_BATCHES).astype(int))]
    case = case._replace(batches=case.batches._replace(members=few))
    was = slopes(case, case_data(case, theta, given.behaviour))[1]
    size, largest = float(np.abs(was[:, :, 1:]).max()), 0.0
    for change in CHANGES:
        after = slopes(case, case_data(case, theta, given.behaviour, lambda data, c=change: _earning(data, case, c)))[1]
        moved = float(np.abs(after - was)[:, :, 1:].max())
        size = max(size, float(np.abs(after[:, :, 1:]).max()))
        largest = max(largest, relative(moved, size)) if np.isfinite(moved) else np.inf
    precision = case.precision
    same = "unchanged" if largest < precision.rounding else "nearly unchanged"
    verdict = same if largest < precision.nearly else "changed"
    return Invariance("another's rewards changed", verdict, largest, None, case.problem.name, given.distance)


def _earning(data: Data, case: Case, change: float) -> Data:
    """The first trajectory of every batch with a reward that is larger by so much at each of its steps."""
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
    """Another value after a termination, where none may count."""

    def change(data: Data) -> Data:
        moved = data.arrays["next_value"] + 5.0 * terminated
        return data._replace(arrays=data.arrays | {"next_value": moved})

    batches = given.case.batches
    terminated = np.moveaxis(batches.rollouts.terminated[:, batches.members], 1, 0).astype(float)
    terminated = np.pad(terminated, ((0, 0), (0, 1), (0, 0)))
    return _between("value after a termination", given, given.again(change=change))


def time_limit_as_termination(given: Before) -> Invariance:
    """Truncated steps marked as terminated instead, all else equal."""
    batches = given.case.batches
    ended = batches.rollouts._replace(
        terminated=batches.rollouts.terminated | batches.rollouts.truncated,
        truncated=np.zeros_like(batches.rollouts.truncated),
    )
    after = given.again(given.case._replace(batches=batches._replace(rollouts=ended)))
    return _between("time limit as termination", given, after)


def sees(case: Case, names: Iterable[str]) -> bool:
    """Whether a loss takes one of these arrays, or a credit, which is made of all."""
    return any(not isinstance(source, str) or source in names for source in case.loss.sources.values())


def invariances(on_policy: list[Before], away: list[Before]) -> list[Invariance]:
    """Every invariance, on the problems that can show it; what is about ∇J on-policy too.

    Args:
      on_policy: a loss on every problem, at distance 0.
      away: the same at another distance.
    """
    cases = [x.case for x in away]
    whole = [bool((c.batches.rollouts.mask > 0).all()) for c in cases]

    def those(given: list[Before], test: Callable[[Case, bool], bool]) -> list[Before]:
        return [x for x, case, fixed in zip(given, cases, whole, strict=True) if test(case, fixed)]

    def valued(case: Case, _: bool) -> bool:
        return "next_value" in case.loss.sources.values() and bool(case.batches.rollouts.terminated.any())

    def on(given: list[Before], test: Callable, *args: float) -> list[Invariance]:
        return [found for x in given if (found := test(x, *args)) is not None]

    rewarded = sees(cases[0], REWARDED)
    padded = those(away, lambda case, fixed: not fixed and case.layout != "flat")
    overwritten = [found for x in padded for found in padding_with_numbers(x)]
    tests = [
        on(those(on_policy, lambda _, fixed: rewarded and fixed), reward_shifted),
        on(those(away, lambda _, fixed: rewarded and fixed), reward_shifted),
        on(away if rewarded else [], reward_scaled),
        on(away, batch_permuted),
        on(padded, padding_left_out),
        [x for x in overwritten if x.name == "padding overwritten"],
        [x for x in overwritten if x.name == "padding overflow"],
        on(padded, padding_overwritten, np.nan),
        on(away, trajectories_repeated),
        on(those(on_policy, lambda case, _: sees(case, EARNED) and case.problem.batch_size > 1), other_rewards_changed),
        on(those(away, valued), after_termination_overwritten),
    ]
    return [worst(found) for found in tests if found]
