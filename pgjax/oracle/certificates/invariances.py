"""What may be done to a batch without changing a loss's gradient, and whether it tells the two ends apart."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pgjax.oracle.certificates.arrays import Data
from pgjax.oracle.certificates.batches import permutations
from pgjax.oracle.certificates.chain_rule import logit_gradient
from pgjax.oracle.certificates.entries import ROUNDING
from pgjax.oracle.certificates.evaluation import Case, Estimates, case_data, estimates, slopes
from pgjax.types import SettingError

SHIFT, FACTOR, LARGE = 0.7, 3.0, 1e3
REWARDED = ("reward", "returns", "episode_return", "value", "next_value", "action_value")
NEARLY = 0.02


class Invariance(NamedTuple):
    """What a change of the data does to the estimates.

    Attributes:
      name: of the change.
      verdict: "unchanged", "unchanged in the mean", "changed", "refused" where the loss raises an error instead, or the
        law that holds ("linear", "doubled").
      on_batches: the largest change of an estimate, relative to the largest estimate.
      in_mean: ‖ḡ' − ḡ‖ / ‖ḡ‖; None where ḡ is 0.
      problem: on which.
    """

    name: str
    verdict: str
    on_batches: float
    in_mean: float | None
    problem: str


def _between(name: str, case: Case, before: Estimates, after: Estimates, law: str = "unchanged") -> Invariance:
    with np.errstate(invalid="ignore"):
        apart = np.linalg.norm(after.gradient - before.gradient, axis=-1)
        size, length = np.linalg.norm(before.gradient, axis=-1).max(), np.linalg.norm(before.mean)
        on_batches = _relative(float(apart.max()), float(size)) if np.isfinite(apart).all() else np.inf
        shift = before.probability @ (after.gradient - before.gradient)
        in_mean = float(np.linalg.norm(shift) / length) if length > 1e-12 * size else None
    in_mean = np.inf if in_mean is not None and not np.isfinite(in_mean) else in_mean
    if on_batches < ROUNDING:
        verdict = law
    else:
        verdict = f"{law} in the mean" if in_mean is not None and in_mean < ROUNDING else "changed"
    return Invariance(name, verdict, on_batches, in_mean, case.problem.name)


def _relative(change: float, size: float) -> float:
    return change / size if size > 0 else 0.0 if change == 0 else np.inf


def reward_shifted(case: Case, behaviour: np.ndarray) -> Invariance:
    """A constant added to every reward; for problems of fixed length, where it leaves ∇J alone."""
    mdp = replace(case.problem.mdp, reward=case.problem.mdp.reward + SHIFT)
    return _with_problem("reward shifted", case, behaviour, case.problem._replace(mdp=mdp))


def reward_scaled(case: Case, behaviour: np.ndarray) -> Invariance:
    """Rewards and values in other units: three times as large."""
    p = case.problem
    mdp = replace(p.mdp, reward=FACTOR * p.mdp.reward)
    scaled = p._replace(mdp=mdp, value=FACTOR * p.value, action_value=FACTOR * p.action_value)
    before, after = (estimates(c, p.logits, behaviour) for c in (case, case._replace(problem=scaled)))
    linear = _between("reward scaled", case, before, after._replace(gradient=after.gradient / FACTOR), "linear")
    same = _between("reward scaled", case, before, after)
    found = linear if linear.on_batches < same.on_batches else same
    law = "linear" if found is linear else "unchanged"
    near = ROUNDING <= found.on_batches < NEARLY
    return found._replace(verdict=f"nearly {law}") if near else found


def _with_problem(name: str, case: Case, behaviour: np.ndarray, changed: object) -> Invariance:
    theta = case.problem.logits
    before = estimates(case, theta, behaviour)
    after = estimates(case._replace(problem=changed), theta, behaviour)  # type: ignore[arg-type]
    return _between(name, case, before, after)


def batch_permuted(case: Case, behaviour: np.ndarray) -> Invariance:
    """Trajectories in another order; those of a group stay together."""
    before = estimates(case, case.problem.logits, behaviour)
    found = [
        _between("batch permuted", case, before, estimates(_reordered(case, order), case.problem.logits, behaviour))
        for order in permutations(case.problem.batch_size, case.problem.group_size)
    ]
    none = Invariance("batch permuted", "unchanged", 0.0, 0.0, case.problem.name)
    return max(found, key=lambda x: x.on_batches, default=none)


def _reordered(case: Case, order: list[int]) -> Case:
    return case._replace(batches=case.batches._replace(members=case.batches.members[:, order]))


def padding_overwritten(case: Case, behaviour: np.ndarray, filler: float) -> Invariance:
    """Something else than 0 on padding, in every array but flags, mask, discount and actions."""
    name = "padding NaN" if np.isnan(filler) else "padding overwritten"
    before = estimates(case, case.problem.logits, behaviour)
    try:
        with np.errstate(invalid="ignore"):
            after = estimates(case, case.problem.logits, behaviour, filler=filler, check=False)
    except SettingError:  # the loss's own error: on the data as they are it raises none
        return Invariance(name, "refused", np.inf, None, case.problem.name)
    return _between(name, case, before, after)


def padding_left_out(case: Case, behaviour: np.ndarray) -> Invariance:
    """Without the gradient that reaches the policy through its log-probabilities on padding: none should."""
    theta = case.problem.logits
    before = estimates(case, theta, behaviour)
    data = case_data(case, theta, behaviour)
    slope = slopes(case, data)[1]
    slope[:, -1] = 0.0
    return _between(
        "padding left out", case, before, before._replace(gradient=-logit_gradient(slope, data.state, theta))
    )


def trajectories_repeated(case: Case, behaviour: np.ndarray) -> Invariance:
    """Every trajectory twice: a mean over trajectories stays, a sum doubles, what judges each by the others changes."""
    p = case.problem
    twice = case._replace(
        problem=p._replace(batch_size=2 * p.batch_size, group_size=2 * p.group_size if p.group_size > 1 else 1),
        batches=case.batches._replace(members=np.repeat(case.batches.members, 2, axis=1)),
    )
    before, after = (estimates(c, p.logits, behaviour) for c in (case, twice))
    same = _between("trajectories repeated", case, before, after)
    doubled = _between(
        "trajectories repeated", case, before, after._replace(gradient=after.gradient / 2), "doubled (a sum)"
    )
    return doubled if doubled.on_batches < min(ROUNDING, same.on_batches) else same


def after_termination_overwritten(case: Case, behaviour: np.ndarray) -> Invariance:
    """Another value after a termination, where none may count."""

    def change(data: Data) -> Data:
        moved = data.arrays["next_value"] + 5.0 * terminated
        return data._replace(arrays=data.arrays | {"next_value": moved})

    theta, rollouts = case.problem.logits, case.batches.rollouts
    terminated = np.moveaxis(rollouts.terminated[:, case.batches.members], 1, 0).astype(float)
    terminated = np.pad(terminated, ((0, 0), (0, 1), (0, 0)))
    before, after = estimates(case, theta, behaviour), estimates(case, theta, behaviour, change=change)
    return _between("value after a termination", case, before, after)


def time_limit_as_termination(case: Case, behaviour: np.ndarray) -> Invariance:
    """Truncated steps marked as terminated instead, all else equal."""
    rollouts = case.batches.rollouts
    ended = rollouts._replace(
        terminated=rollouts.terminated | rollouts.truncated, truncated=np.zeros_like(rollouts.truncated)
    )
    before = estimates(case, case.problem.logits, behaviour)
    after = estimates(case._replace(batches=case.batches._replace(rollouts=ended)), case.problem.logits, behaviour)
    return _between("time limit as termination", case, before, after)


def invariances(cases: list[Case], distance: float) -> list[Invariance]:
    """Every invariance, on the problems that can show it."""

    def on(which: list[Case], test: Callable, *args: float) -> list[Invariance]:
        return [test(c, c.at(distance), *args) for c in which]

    whole = [bool((c.batches.rollouts.mask > 0).all()) for c in cases]
    fixed = [c for c, is_whole in zip(cases, whole, strict=True) if is_whole]
    padded = [c for c, is_whole in zip(cases, whole, strict=True) if not is_whole and c.layout != "flat"]
    valued = [c for c in cases if "next_value" in c.loss.sources.values()]
    rewarded = any(source in REWARDED or not isinstance(source, str) for source in cases[0].loss.sources.values())
    tests = [
        on(fixed if rewarded else [], reward_shifted),
        on(cases if rewarded else [], reward_scaled),
        on(cases, batch_permuted),
        on(padded, padding_left_out),
        on(padded, padding_overwritten, LARGE),
        on(padded, padding_overwritten, np.nan),
        on(cases, trajectories_repeated),
        on([c for c in valued if c.batches.rollouts.terminated.any()], after_termination_overwritten),
    ]
    return [max(found, key=lambda x: x.on_batches) for found in tests if found]
