"""What a loss of policy gradients must estimate: one line each, on every batch of small problems.

Every function takes the arguments of `pgjax.certify` besides its own: `problems`, `framework`, `layout`, `pad_to`,
`names`, `without`, `max_batches`; and raises SettingError for a loss that cannot be evaluated. A tolerance of None is
rounding: 1e-9, and 1e-5 for a loss that computes in float32.
"""

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
    padding_left_out,
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
    """Assert that the mean of −∇loss is ∇J on every problem.

    Args:
      loss: as for `pgjax.certify`.
      distance: between policy and behaviour policy; 0 is on-policy.
      objective: "discounted" or "undiscounted"; default whichever fits better.
      tolerance: of ‖ḡ − ∇J‖ / ‖∇J‖.
      how: arguments of `pgjax.certify`.

    Raises:
      AssertionError: with the problem where it is furthest off, and by how much.

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
      loss: as for `pgjax.certify`.
      scale: a number, or a function of the problem.
      distance: between policy and behaviour policy; 0 is on-policy.
      objective: "discounted" or "undiscounted"; default whichever fits better.
      tolerance: of ‖ḡ − scale · ∇J‖ / ‖∇J‖.
      how: arguments of `pgjax.certify`.

    Raises:
      AssertionError: with the problem where it is furthest off, and by how much.

    >>> from pgjax import baselined, baselines, product, score, total_return
    >>> shrunk = product(baselined(total_return, baselines.same_batch_mean), score)
    >>> assert_scale(shrunk, lambda problem: 1 - 1 / (problem.batch_size if problem.group_size == 1 else 2))
    """
    cases = make_cases(loss, **how)
    means = [estimates(c, c.problem.logits, c.at(distance)) for c in cases]
    functions = [o for o in OBJECTIVES if o.discount in ([objective] if objective else ["discounted", "undiscounted"])]
    if not functions:
        raise ValueError(f'objective: {objective!r} is neither "discounted" nor "undiscounted"')
    every = [[_found(case, which, mine, scale) for case, mine in zip(cases, means, strict=True)] for which in functions]
    furthest = [max(found, key=lambda f: f.gap) for found in every]
    best = min(furthest, key=lambda f: round(f.gap, 9))
    tolerance = _rounding(cases) if tolerance is None else tolerance
    assert best.gap < tolerance, f"{cases[0].loss.name}: {best.said(distance)}"
    tested = any(f.compared.scale is not None for found in every for f in found)
    assert tested, f"{cases[0].loss.name}: not tested: ∇J is 0 on every problem; take one where it is not"


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
        """Relative to the target, and where that is 0 to the largest estimate."""
        target = self.wanted * self.gradient
        size = float(np.linalg.norm(target))
        nothing = self.wanted == 0 or self.compared.scale is None
        apart = float(np.linalg.norm(self.estimates.mean - target))
        return relative(apart, self.estimates.size if nothing else size)

    @property
    def compared(self) -> Comparison:
        return compare(self.estimates.mean, self.gradient, self.estimates.size, self.earned, self.case.precision.zero)

    def said(self, distance: float) -> str:
        c = self.compared
        numbers = c.note
        if c.scale is not None and c.angle is not None:
            numbers = f"scale {c.scale:.4g}, cosine {c.cosine:.4g}, angle {degrees(c.angle)}"
        where = f"on {self.case.problem.name!r} at distance {distance:g}"
        target = "∇J" if self.wanted == 1 else f"{self.wanted:g} · ∇J"
        return f"{where} the mean gradient is off by {self.gap:.3g} of {target}, J = {self.objective} ({numbers})"


def _found(case: Case, objective: Objective, mine: Estimates, scale: float | Callable[[Problem], float]) -> _Found:
    table = case.problem, case.batches.rollouts, case.problem.logits, objective
    wanted = scale(case.problem) if callable(scale) else scale
    return _Found(case, objective, mine, objective_gradient(*table), objective_size(*table), wanted)


def assert_same_estimator(loss: Any, other: Any, *, tolerance: float | None = None, **how: Any) -> None:
    """Assert that two losses have the same gradient on every batch, on-policy and off.

    Args:
      loss: as for `pgjax.certify`.
      other: the same; a JAX loss or an estimator of the library in the layout "time_major" unless it comes as a pair
        (loss, arguments of `pgjax.certify`).
      tolerance: of the difference, relative to the largest estimate.
      how: arguments of `pgjax.certify` for the first.

    Raises:
      AssertionError: with the problem, the batch and the difference.

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
    """All orders for both where one looks at the order."""
    batches = max(a.batches, b.batches, key=lambda x: len(x.members))
    return a._replace(batches=batches), b._replace(batches=batches)


def assert_padding_ignored(loss: Any, *, nan: bool = False, tolerance: float | None = None, **how: Any) -> None:
    """Assert that padding has no gradient, and that what stands there does not change the others.

    Args:
      loss: as for `pgjax.certify`.
      nan: put NaN there, and not only large numbers: a mask that multiplies is then not enough.
      tolerance: of the largest change, relative to the largest estimate.
      how: arguments of `pgjax.certify`.

    Raises:
      AssertionError: with the largest change, and for problems that have no padding.

    >>> from pgjax import product, reward_to_go, score
    >>> assert_padding_ignored(product(reward_to_go, score))
    """
    cases = [c for c in make_cases(loss, **how) if (c.batches.rollouts.mask == 0).any() and c.layout != "flat"]
    assert cases, "no problem has padding: take one with episodes of different lengths, and a layout that pads"
    tolerance, name = _rounding(cases) if tolerance is None else tolerance, cases[0].loss.name
    given = [before(c, AWAY) for c in cases]
    found = worst(padding_left_out(x) for x in given)
    part = f"{found.on_batches:.3g} of the largest estimate on {found.problem!r}"
    assert found.on_batches < tolerance, f"{name}: gradients through padding are up to {part}"
    for filler in [LARGE, *([np.nan] if nan else [])]:
        found = worst(padding_overwritten(x, filler) for x in given)
        change = f"changes gradients by {found.on_batches:.3g} of the largest on {found.problem!r}"
        change = f"is refused, with an error, on {found.problem!r}" if found.verdict == "refused" else change
        if found.verdict == "not finite":
            change = f"overflows on {found.problem!r}, and 0 · ∞ is NaN: mask with `where`, before any product"
        assert found.on_batches < tolerance, f"{name}: {filler:g} on padding {change}"


def assert_a_gradient(loss: Any, *, data: str = "following", tolerance: float | None = None, **how: Any) -> None:
    """Assert that the mean gradient is the gradient of some function of θ: its Jacobian is symmetric.

    Args:
      loss: as for `pgjax.certify`.
      data: "following" θ, as in training, or "fixed" at another policy's.
      tolerance: of ‖M − Mᵀ‖ / ‖M‖; differences find M to 1e-9 or so.
      how: arguments of `pgjax.certify`.

    Raises:
      AssertionError: with the problem of the largest asymmetry.

    >>> from pgjax import product, reward_to_go, score
    >>> from pgjax.oracle import make_mdp
    >>> chain = make_mdp([1.0], [[[1.0], [0.5]]], [[0.0, 1.0]], horizon=2)
    >>> assert_a_gradient(product(reward_to_go, score), problems=chain)
    """
    if data not in ("following", "fixed"):
        raise ValueError(f'data: {data!r} is neither "following" nor "fixed"')
    cases = make_cases(loss, **how)
    found = [asymmetry(c) for c in cases]
    tolerance = coarsest(c.precision for c in cases).symmetric if tolerance is None else tolerance
    skews = [(0.0 if (x := getattr(a, data)) is None else x, a.problem) for a in found]
    with_data = "data that follow θ" if data == "following" else "data of a fixed policy"
    where = f"{cases[0].loss.name}: with {with_data}"
    skew, problem = max((x for x in skews if not np.isnan(x[0])), default=(0.0, ""))
    assert skew < tolerance, f"{where} ‖M − Mᵀ‖/‖M‖ is {skew:.3g} on {problem!r}"
    undecided = [problem for skew, problem in skews if np.isnan(skew)]
    why = "ḡ has a kink" if cases[0].precision.step else f"{cases[0].precision.name} is too coarse"
    assert not undecided, f"{where} it is not decided: {why} on {', '.join(map(repr, undecided))}"
