"""What a loss of policy gradients must estimate: one line each, on every batch of small problems.

Every function takes the arguments of `pgjax.certify` besides its own: `problems`, `framework`, `layout`, `pad_to`,
`names`, `max_batches`; and raises SettingError for a loss that cannot be evaluated.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pgjax.oracle.certificates.certificate import make_cases
from pgjax.oracle.certificates.entries import ROUNDING, SYMMETRIC, asymmetry, compare
from pgjax.oracle.certificates.evaluation import Case, estimates
from pgjax.oracle.certificates.invariances import LARGE, padding_left_out, padding_overwritten
from pgjax.oracle.certificates.objectives import OBJECTIVES, Objective, objective_gradient
from pgjax.oracle.certificates.problems import Problem

AWAY = 0.4


def assert_unbiased(
    loss: Any, *, distance: float = 0.0, objective: str | None = None, tolerance: float = ROUNDING, **how: Any
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
    tolerance: float = ROUNDING,
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
    furthest = []
    for which in functions:
        found = []
        for case, mine in zip(cases, means, strict=True):
            wanted = scale(case.problem) if callable(scale) else scale
            gradient = objective_gradient(case.problem, case.batches.rollouts, case.problem.logits, which)
            found.append(_Found(case, which, mine.mean, wanted * gradient, gradient, wanted))
        furthest.append(max(found, key=lambda f: f.gap))
    best = min(furthest, key=lambda f: round(f.gap, 9))
    assert best.gap < tolerance, f"{cases[0].loss.name}: {best.said(distance)}"


class _Found(NamedTuple):
    case: Case
    objective: Objective
    mean: np.ndarray
    target: np.ndarray
    gradient: np.ndarray
    wanted: float

    @property
    def gap(self) -> float:
        size = float(np.linalg.norm(self.target))
        return float(np.linalg.norm(self.mean - self.target)) / (size if size > 0 else 1.0)

    def said(self, distance: float) -> str:
        compared = compare(self.mean, self.gradient)
        numbers = compared.note or f"scale {compared.scale:.4g}, cosine {compared.cosine:.4g}"
        where = f"on {self.case.problem.name!r} at distance {distance:g}"
        target = "∇J" if self.wanted == 1 else f"{self.wanted:g} · ∇J"
        return f"{where} the mean gradient is off by {self.gap:.3g} of {target}, J = {self.objective} ({numbers})"


def assert_same_estimator(loss: Any, other: Any, *, tolerance: float = ROUNDING, **how: Any) -> None:
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
    for a, b in zip(one, two, strict=True):
        a, b = _on_the_same_batches(a, b)
        for distance in (0.0, AWAY):
            mine, theirs = (estimates(c, c.problem.logits, c.at(distance)).gradient for c in (a, b))
            gaps = np.abs(mine - theirs).max(-1) / max(float(np.abs(mine).max()), float(np.abs(theirs).max()))
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


def assert_padding_ignored(loss: Any, *, nan: bool = False, tolerance: float = ROUNDING, **how: Any) -> None:
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
    found = max((padding_left_out(c, c.at(AWAY)) for c in cases), key=lambda x: x.on_batches)
    part = f"{found.on_batches:.3g} of the largest estimate on {found.problem!r}"
    assert found.on_batches < tolerance, f"{cases[0].loss.name}: gradients through padding are up to {part}"
    for filler in [LARGE, *([np.nan] if nan else [])]:
        found = max((padding_overwritten(c, c.at(AWAY), filler) for c in cases), key=lambda x: x.on_batches)
        change = f"changes gradients by {found.on_batches:.3g} of the largest on {found.problem!r}"
        change = f"is refused, with an error, on {found.problem!r}" if found.verdict == "refused" else change
        assert found.on_batches < tolerance, f"{cases[0].loss.name}: {filler:g} on padding {change}"


def assert_a_gradient(loss: Any, *, data: str = "following", tolerance: float = SYMMETRIC, **how: Any) -> None:
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
    found = [(c.problem.name, getattr(asymmetry(c), data) or 0.0) for c in cases]
    name, worst = max(found, key=lambda x: x[1])
    with_data = "data that follow θ" if data == "following" else "data of a fixed policy"
    assert worst < tolerance, f"{cases[0].loss.name}: with {with_data} ‖M − Mᵀ‖/‖M‖ is {worst:.3g} on {name!r}"
