"""Assertions on the exact mean gradient of a loss, over every batch of small problems."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pgjax.oracle.certificates.certificate import make_cases
from pgjax.oracle.certificates.describe import degrees
from pgjax.oracle.certificates.entries import AWAY, Comparison, asymmetry, compare
from pgjax.oracle.certificates.evaluation import Case, Estimates, estimates
from pgjax.oracle.certificates.invariances import (
    LARGE,
    before,
    padding_gradient_removed,
    padding_overwritten,
    relative,
    worst,
)
from pgjax.oracle.certificates.objectives import OBJECTIVES, Objective, objective_gradient, objective_size
from pgjax.oracle.certificates.precision import coarsest
from pgjax.oracle.certificates.problems import Problem


def assert_unbiased(
    loss: Any, *, distance: float = 0.0, objective: str | None = None, tolerance: float | None = None, **how: Any
) -> None:
    """Assert that the mean of −∇loss is ∇J on every problem. Arguments as in `assert_scale`.

    >>> from pgjax import product, reward_to_go, score
    >>> assert_unbiased(product(reward_to_go, score))
    """
    assert_scale(loss, 1.0, distance=distance, objective=objective, tolerance=tolerance, **how)


def assert_scale(
    loss: Any,
    scale: float | Callable[[Problem], float],
    *,
    distance: float = 0.0,
    objective: str | None = None,
    tolerance: float | None = None,
    **how: Any,
) -> None:
    """Assert that the mean of −∇loss is scale · ∇J on every problem.

    Args:
      loss, how: as for `pgjax.certify`.
      scale: a number, or a function of the problem.
      distance: between policy and behaviour policy; 0 is on-policy.
      objective: "discounted" or "undiscounted"; default the one with the smaller error.
      tolerance: of ‖ḡ − scale · ∇J‖ / ‖scale · ∇J‖.

    >>> from pgjax import baselined, baselines, product, score, total_return
    >>> shrunk = product(baselined(total_return, baselines.same_batch_mean), score)
    >>> assert_scale(shrunk, lambda problem: 1 - 1 / (problem.batch_size if problem.group_size == 1 else 2))
    """
    cases = make_cases(loss, **how)
    means = [estimates(c, c.problem.logits, c.at(distance)) for c in cases]
    functions = [o for o in OBJECTIVES if o.discount in ([objective] if objective else ["discounted", "undiscounted"])]
    if not functions:
        raise ValueError(f'objective: {objective!r} must be "discounted" or "undiscounted"')
    every = [[_found(case, which, mine, scale) for case, mine in zip(cases, means, strict=True)] for which in functions]
    furthest = [max(found, key=lambda f: f.gap) for found in every]
    best = min(furthest, key=lambda f: round(f.gap, 9))
    tolerance = _rounding(cases) if tolerance is None else tolerance
    assert best.gap < tolerance, f"{cases[0].loss.name}: {best.message(distance)}"
    tested = any(f.compared.scale is not None for found in every for f in found)
    assert tested, f"{cases[0].loss.name}: not tested: ∇J is 0 on every problem; add one where it is not"


def _rounding(cases: list[Case]) -> float:
    return coarsest(c.precision for c in cases).rounding


class _Found(NamedTuple):
    case: Case
    objective: Objective
    estimates: Estimates
    gradient: np.ndarray
    earned: float
    wanted: float

    @property
    def gap(self) -> float:
        """Error relative to the target; relative to the largest estimate if the target is 0."""
        target = self.wanted * self.gradient
        size = float(np.linalg.norm(target))
        zero = self.wanted == 0 or self.compared.scale is None
        difference = float(np.linalg.norm(self.estimates.mean - target))
        return relative(difference, self.estimates.size if zero else size)

    @property
    def compared(self) -> Comparison:
        return compare(self.estimates.mean, self.gradient, self.estimates.size, self.earned, self.case.precision.zero)

    def message(self, distance: float) -> str:
        c = self.compared
        numbers = c.note
        if c.scale is not None and c.angle is not None:
            numbers = f"scale {c.scale:.4g}, cosine {c.cosine:.4g}, angle {degrees(c.angle)}"
        where = f"on {self.case.problem.name!r} at distance {distance:g}"
        target = "∇J" if self.wanted == 1 else f"{self.wanted:g} · ∇J"
        error = f"the mean gradient has a relative error of {self.gap:.3g} against {target}, J = {self.objective}"
        return f"{where} {error} ({numbers})"


def _found(case: Case, objective: Objective, mine: Estimates, scale: float | Callable[[Problem], float]) -> _Found:
    table = case.problem, case.batches.rollouts, case.problem.logits, objective
    wanted = scale(case.problem) if callable(scale) else scale
    return _Found(case, objective, mine, objective_gradient(*table), objective_size(*table), wanted)


def assert_same_estimator(loss: Any, other: Any, *, tolerance: float | None = None, **how: Any) -> None:
    """Assert that two losses have the same gradient on every batch, on-policy and off-policy.

    Args:
      other: a loss, or a pair (loss, arguments of `pgjax.certify`).
      tolerance: of the difference, relative to the largest estimate.
      how: arguments of `pgjax.certify` for `loss`; `other` shares `problems` and `max_batches` only.

    >>> import jax.numpy as jnp
    >>> from pgjax import product, score, total_return
    >>> def reinforce(log_prob, episode_return, mask):
    ...     return -jnp.mean(jnp.sum(log_prob * mask, axis=0) * episode_return)
    >>> assert_same_estimator(reinforce, product(total_return, score))
    """
    other, others = other if isinstance(other, tuple) and isinstance(other[-1], dict) else (other, {})
    shared = {k: v for k, v in how.items() if k in ("problems", "max_batches")}
    one, two = make_cases(loss, **how), make_cases(other, **shared | others)
    tolerance = _rounding([*one, *two]) if tolerance is None else tolerance
    for a, b in zip(one, two, strict=True):
        a, b = _on_the_same_batches(a, b)
        for distance in (0.0, AWAY):
            mine, theirs = (estimates(c, c.problem.logits, c.at(distance)).gradient for c in (a, b))
            size = max(float(np.abs(mine).max()), float(np.abs(theirs).max()))
            gaps = np.abs(mine - theirs).max(-1) / (size if size > 0 else 1.0)
            worst = int(gaps.argmax())
            lengths = a.batches.rollouts.mask.sum(0).astype(int)[a.batches.members[worst]].tolist()
            assert gaps[worst] < tolerance, (
                f"{a.loss.name} and {b.loss.name} differ by {gaps[worst]:.3g} of the largest estimate on "
                f"{a.problem.name!r} at distance {distance:g}, most on a batch of lengths {lengths}"
            )


def _on_the_same_batches(a: Case, b: Case) -> tuple[Case, Case]:
    """List every order for both if one of them depends on the order."""
    batches = max(a.batches, b.batches, key=lambda x: len(x.members))
    return a._replace(batches=batches), b._replace(batches=batches)


def assert_padding_ignored(loss: Any, *, nan: bool = False, tolerance: float | None = None, **how: Any) -> None:
    """Assert that padding has no gradient, and that values on padding do not change gradients.

    With `nan`, NaN is written on padding too; a multiplicative mask does not remove it. The tolerance is relative to
    the largest estimate. At least one problem must have padding.
    """
    cases = [c for c in make_cases(loss, **how) if (c.batches.rollouts.mask == 0).any() and c.layout != "flat"]
    assert cases, "no problem has padding; use episodes of different lengths, and a layout that pads"
    tolerance, name = _rounding(cases) if tolerance is None else tolerance, cases[0].loss.name
    given = [before(c, AWAY) for c in cases]
    found = worst(padding_gradient_removed(x) for x in given)
    part = f"{found.on_batches:.3g} of the largest estimate on {found.problem!r}"
    assert found.on_batches < tolerance, f"{name}: gradients through padding are up to {part}"
    for filler in [LARGE, *([np.nan] if nan else [])]:
        found = worst(padding_overwritten(x, filler) for x in given)
        change = f"changes gradients by {found.on_batches:.3g} of the largest estimate on {found.problem!r}"
        change = f"makes the loss raise an error on {found.problem!r}" if found.verdict == "rejected" else change
        if found.verdict == "not finite":
            change = f"overflows on {found.problem!r}, and 0 · ∞ is NaN; mask with `where` before multiplying"
        assert found.on_batches < tolerance, f"{name}: {filler:g} on padding {change}"


def assert_a_gradient(loss: Any, *, data: str = "following", tolerance: float | None = None, **how: Any) -> None:
    """Assert that the mean gradient is the gradient of some function of θ: its Jacobian M is symmetric.

    Args:
      data: "following" for data of π_θ, as in training, or "fixed" for data of a fixed policy.
      tolerance: of ‖M − Mᵀ‖ / ‖M‖; default 1e-6, or 1e-3 in float32. Finite differences give M to about 1e-9.
    """
    if data not in ("following", "fixed"):
        raise ValueError(f'data: {data!r} must be "following" or "fixed"')
    cases = make_cases(loss, **how)
    found = [asymmetry(c) for c in cases]
    tolerance = coarsest(c.precision for c in cases).symmetric if tolerance is None else tolerance
    skews = [(0.0 if (x := getattr(a, data)) is None else x, a.problem) for a in found]
    with_data = "data of π_θ" if data == "following" else "data of a fixed policy"
    where = f"{cases[0].loss.name}: with {with_data}"
    skew, problem = max((x for x in skews if not np.isnan(x[0])), default=(0.0, ""))
    assert skew < tolerance, f"{where} ‖M − Mᵀ‖/‖M‖ is {skew:.3g} on {problem!r}"
    undecided = [problem for skew, problem in skews if np.isnan(skew)]
    why = "ḡ has a kink" if cases[0].precision.step else f"{cases[0].precision.name} is too coarse"
    assert not undecided, f"{where} it is undecided: {why} on {', '.join(map(repr, undecided))}"
