"""Entries of a certificate's report as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pgjax.oracle.certificates.entries import JACOBIAN_DISTANCE
from pgjax.oracle.certificates.invariances import OTHER_REWARDS
from pgjax.oracle.certificates.library import factor_text
from pgjax.oracle.certificates.objectives import ENDS
from pgjax.oracle.certificates.precision import FLOAT64, ROUNDING

if TYPE_CHECKING:
    from pgjax.oracle.certificates.certificate import Certificate
    from pgjax.oracle.certificates.library import Equal

MOST_NAMES = 4


class Entry(NamedTuple):
    """One line of a report: the property, the verdict, and the numbers behind it."""

    name: str
    verdict: str
    detail: str


def number(x: float | None, rounding: float = ROUNDING / 1000) -> str:
    """A number with three digits; "–" for None and NaN, and 0 below `rounding`."""
    if x is None or np.isnan(x):
        return "–"
    return "not finite" if np.isinf(x) else "0" if abs(x) < rounding else f"{x:.3g}"


def entries(c: Certificate) -> list[Entry]:
    """The lines of the report."""
    return [
        _mean(c),
        _objective(c),
        _noise(c),
        _order(c),
        _clipping(c),
        _gradient(c),
        *_invariances(c),
        _ends(c),
        *(_equal(e) for e in c.equal),
        _arrays(c),
    ]


def headline(c: Certificate) -> str:
    """The name of the loss and the verdict on its on-policy mean."""
    return f"{c.loss}: {entries(c)[0].verdict}."


def _mean(c: Certificate) -> Entry:
    rows, (low, high) = c.on_policy, c.scale
    notes = [f"{r.note} on {r.problem!r}" for r in rows if r.note]
    known, precision = [r for r in rows if r.angle is not None], c.precision
    numbers = (
        f"scale {_range(low, high, precision.nearly)}, angle up to {degrees(c.angle)}, error up to {number(c.error)}"
    )
    detail = "; ".join([numbers, *notes]) if any(r.scale is not None for r in rows) else "; ".join(notes)

    def entry(verdict: str) -> Entry:
        return Entry("on-policy mean", verdict + ("" if precision == FLOAT64 else f" ({precision.name})"), detail)

    if any(r.scale is None and not r.mean_is_zero for r in rows):
        where = ", ".join(repr(r.problem) for r in rows if r.scale is None and not r.mean_is_zero)
        return entry(f"biased: ∇J is 0 on {where}, but the mean gradient is not")
    if all(r.scale is None for r in rows):
        return entry("not tested: ∇J and the mean gradient are 0 on every problem")
    if not known:
        if all(r.variance == 0 for r in rows):
            return entry("0 on every batch: the loss has no gradient on-policy")
        return entry("0 on every problem: the gradient of a batch is noise with mean 0")
    if c.fits(precision.nearly):
        exact = c.fits(precision.rounding)
        close = "" if exact and precision == FLOAT64 else f", to a relative error of {c.error:.0e}"
        near = "" if exact else "nearly "
        if not c.objective.is_function:
            return entry(f"{near}unbiased for γ = 1 only: the factor γ^t of step t is missing")
        tested = "on every problem" if len(known) == len(rows) else "on every problem where it is not 0"
        return entry(f"{near}unbiased: equals ∇J {tested}{close}")
    if all(r.turned < precision.nearly and r.angle is not None for r in rows if r.scale is not None):
        near = "" if all(r.turned < precision.rounding for r in known) else "nearly "
        same = high - low < precision.nearly * max(abs(high), abs(low))
        factor = f"{number(low, 0)} · ∇J" if same else f"c · ∇J, c = {_range(low, high, precision.nearly)}"
        if _has_own_mean_baseline(c):
            return entry(
                f"{near}(1 − 1/N) · ∇J: the baseline, a mean over N trajectories, includes each one's own return"
            )
        factor += "" if same else ", depending on the problem"
        return entry(f"{near}{factor}" + (": points away from ∇J; check the sign of the loss" if high < 0 else ""))
    detail = "; ".join([f"error up to {number(c.error)}", *notes])
    away = " (more than 90°: points away from ∇J)" if c.angle > 90 else ""
    scales = _range(low, high, precision.nearly)
    return entry(f"biased: angle to ∇J up to {degrees(c.angle)}{away}, scale {scales}")


def degrees(angle: float) -> str:
    """An angle in degrees; never 0 for a positive angle."""
    return "–" if np.isnan(angle) else f"{number(angle)}°"


def _has_own_mean_baseline(c: Certificate) -> bool:
    """Whether the loss has its own group's or batch's mean as a baseline, batch by batch, and the scale 1 − 1/N.

    The scale alone is not enough: half of an unbiased loss has the same scale in batches of two.
    """
    equal, near = c.equal[0], c.precision.nearly
    mine = {name: abs(f - 1) < near for name, f in equal.on_batches.items()}
    over_groups = any(one and _with_own_mean(name) for name, one in mine.items())
    over_batch = any(
        _with_own_mean(name) and text.startswith(name) and text.endswith("over the whole batch")
        for name, text in equal.otherwise.items()
    )
    if not (over_groups or over_batch):
        return False
    sizes = {t.name: t.group_size if over_groups and t.group_size > 1 else t.batch_size for t in c.problems}
    return all(r.scale is None or abs(r.scale - 1 + 1 / sizes[r.problem]) < near for r in c.on_policy)


def _with_own_mean(name: str) -> bool:
    return "same_batch_mean)" in name and "/" not in name


def _range(low: float, high: float, tolerance: float = ROUNDING) -> str:
    """Two numbers, with enough digits to differ; one number if they agree to a relative tolerance."""
    if not high - low > tolerance * max(abs(low), abs(high)):
        return number(low)
    digits = next((d for d in range(3, 17) if f"{low:.{d}g}" != f"{high:.{d}g}"), 17)
    return f"{low:.{digits}g} to {high:.{digits}g}"


def _arrays(c: Certificate) -> Entry:
    given = [p if p == name else f"{p} = {name}" for p, name in c.arrays.items()]
    return Entry("arrays given", ", ".join(given), "")


def _objective(c: Certificate) -> Entry:
    name = f"∇J, J = {c.objective}"
    known = [r for r in c.on_policy if r.scale is not None]
    if not any(r.angle is not None for r in known):
        return Entry("compared with", name, "no objective matches: the mean gradient is 0" if known else "")
    if any(r.turned >= c.precision.nearly or r.angle is None for r in known):
        name = f"no objective matches; closest in direction: {name}"
    errors = {o: e for o, e in c.errors.items() if e is not None}
    if not errors:
        return Entry("compared with", name, "all objectives have the same gradient on these problems")
    parts = []
    for ends in ENDS:
        mine = [f"{number(e)} {o.discount}" for o, e in errors.items() if o.time_limit == ends]
        if ends == "goes on" and not any(t.time_limit for t in c.problems):
            continue
        parts.append(("with a value added after a time limit: " if ends == "goes on" else "") + ", ".join(mine))
    return Entry("compared with", name, f"relative error on the problems where objectives differ: {'; '.join(parts)}")


def _noise(c: Certificate) -> Entry:
    sizes = [(r.mean_squared_error, r.variance, float(np.sum(np.square(r.gradient)))) for r in c.on_policy]
    ratio = [m / g for m, _, g in sizes if g > 0]
    if not ratio:
        return Entry("mean squared error", "no relative value: ∇J is 0", "")
    share = [v / m for m, v, g in sizes if g > 0 and m > 0]
    verdict = f"E‖ĝ − ∇J‖² of one batch is {_range(min(ratio), max(ratio))} times ‖∇J‖²"
    detail = f"variance {_share(min(share), max(share))} % of it, the rest squared bias"
    return Entry("mean squared error", verdict, detail)


def _share(low: float, high: float) -> str:
    least, most = (f"{100 * x:.3g}" for x in (low, high))
    return least if least == most else f"{least} to {most}"


def _order(c: Certificate) -> Entry:
    known = [o for o in c.orders if o.bias]
    worst = [f"{o.problem} {number(max(o.bias))}" for o in known]
    detail = "largest relative bias up to distance 0.8: " + ", ".join(worst)
    lowest = min((o.order for o in known if o.order is not None), default=None)
    scaled = any(o.scale is not None and abs(o.scale - 1) > c.precision.nearly and o.order != 0 for o in known)
    if scaled:
        detail += "; compared with the on-policy scale times ∇J"
    if not known:
        verdict = "not tested: ∇J is 0"
    elif lowest is None:
        verdict = "no bias at any distance"
    elif lowest == np.inf:
        verdict = "no bias at small distances; farther away it starts with a jump, as with clipping"
    elif lowest == 0:
        verdict = "order 0: already biased on-policy"
    else:
        on_policy = "beyond the on-policy scale" if scaled else "none on-policy"
        verdict = f"bias of order {number(lowest)} in the distance, {on_policy}"
    return Entry("off-policy", verdict, detail)


def _clipping(c: Certificate) -> Entry:
    found = c.clipping
    if found.distance is None or found.ratios is None:
        return Entry("clipping", f"none up to distance {number(found.largest)}", f"tested on {found.problem!r}")
    low, high = found.ratios
    kink = "the gradient has a kink or jump, but is 0 on neither side of it"
    how = "the gradient of some step is 0 on one side of the threshold" if found.stops else kink
    detail = f"{how}; ratios there are {low:.2f} to {high:.2f}; tested on {found.problem!r}"
    return Entry("clipping", f"starts at distance {number(found.distance)}", detail)


def _gradient(c: Certificate) -> Entry:
    tolerance = c.precision.symmetric

    def verdict(which: str) -> str:
        values = [getattr(a, which) for a in c.asymmetries]
        known = [x for x in values if x is not None and not np.isnan(x)]
        undecided = [a.problem for a, x in zip(c.asymmetries, values, strict=True) if x is not None and np.isnan(x)]
        if known and max(known) >= tolerance:
            return f"no (asymmetry {number(max(known))})"
        if undecided:
            why = "a kink" if c.precision.step else f"{c.precision.name} is too coarse"
            return f"undecided ({why} on {', '.join(map(repr, undecided))})"
        return "yes" if known else "yes, constant"

    both = f"data of π_θ: {verdict('following')}; data of a policy at distance {JACOBIAN_DISTANCE}: {verdict('fixed')}"
    each = ", ".join(
        f"{a.problem} {_asymmetry_text(a.following, tolerance)} | {_asymmetry_text(a.fixed, tolerance)}"
        for a in c.asymmetries
    )
    detail = f"asymmetry ‖M − Mᵀ‖/‖M‖ of the Jacobian M of ḡ(θ), tolerance {tolerance:.0e}, both data: {each}"
    return Entry("gradient of a function", both, detail)


def _asymmetry_text(x: float | None, tolerance: float) -> str:
    if x is not None and np.isnan(x):
        return "undecided"
    return "0" if x is not None and x < tolerance else number(x)


MEANING = {
    ("reward scaled", "unchanged"): "rewards are standardised",
    ("reward scaled", "unchanged for any rewards"): "the gradient does not depend on rewards",
    ("padding gradient removed", "changed"): "padded steps contribute to the gradient; a mask is missing",
    ("padding overwritten", "changed"): "the gradient depends on padded values; a mask is missing",
    ("padding overwritten", "rejected"): "the loss raises an error on such padding",
    ("padding overflow", "not finite"): "large numbers on padding overflow, and 0 · ∞ is NaN; mask with `where`",
    ("padding NaN", "rejected"): "the loss raises an error on such padding",
    ("padding NaN", "changed"): "NaN on padding reaches the gradient; mask with `where` before multiplying",
    ("trajectories repeated", "unchanged"): "the loss scales like a mean over trajectories",
    ("trajectories repeated", "doubled (a sum)"): "the loss scales like a sum over trajectories",
    (
        "trajectories repeated",
        "changed",
    ): "neither a mean nor a sum over trajectories; a division by N − 1 has this effect",
    ("trajectories repeated", "rejected"): "the loss raises an error on a batch of another size",
    (OTHER_REWARDS, "unchanged"): "the credit of a trajectory depends on its own rewards only",
    (OTHER_REWARDS, "changed"): "the credit of a trajectory depends on other trajectories",
    ("value after a termination", "changed"): "the value after a termination enters the gradient",
}


def _invariances(c: Certificate) -> list[Entry]:
    found = []
    for x in c.invariances:
        kind = x.verdict.removeprefix("nearly ").split(" but for ")[0]
        meaning = MEANING.get((x.name, kind))
        where = "on-policy" if x.distance == 0 else f"at distance {number(x.distance)}"
        verdict = f"{x.verdict}: {meaning}" if meaning else x.verdict
        verdict = verdict if x.name.endswith(where) else f"{verdict} ({where})"
        changes = f"relative change of a batch up to {number(x.on_batches)}, of the mean {number(x.in_mean)}"
        if x.name == OTHER_REWARDS:
            changes = f"slopes of the other trajectories change by up to {number(x.on_batches)} of the largest slope"
        changes = changes if np.isfinite(x.on_batches) else "some gradients are not finite"
        changes = "there is no gradient to compare" if x.verdict == "rejected" else changes
        changed = x.on_batches > c.precision.rounding
        found.append(Entry(x.name, verdict, f"{changes}; on {x.problem!r}" if changed else ""))
    return found


def _ends(c: Certificate) -> Entry:
    if c.ends is None:
        limit = any(t.time_limit for t in c.problems)
        why = "the loss takes neither rewards nor termination flags" if limit else "no problem has a time limit"
        return Entry("time limits", f"not tested: {why}", "")
    if c.ends.on_batches < c.precision.nearly:
        return Entry("time limits", "treated as terminations", "marking time limits as terminations changes nothing")
    bootstrapped = "the value after the limit is added"
    after = bootstrapped if c.objective.time_limit == "goes on" else "but no value is added after the limit"
    detail = f"marked as terminations, batches change by up to {number(c.ends.on_batches)} and the mean by "
    return Entry("time limits", f"distinguished from terminations; {after}", detail + number(c.ends.in_mean))


def _equal(e: Equal) -> Entry:
    where = "on-policy" if e.distance == 0 else f"at distance {number(e.distance)}"
    name = f"equal to, {where}"
    products = [f"{factor_text(f)}{n}" for n, f in e.on_batches.items()]
    if products:
        return Entry(name, _listed(products), "on every batch of every problem")
    if e.otherwise:
        return Entry(name, _listed(list(e.otherwise.values())), SYMBOLS)
    if e.in_mean:
        return Entry(name, _listed(e.in_mean), "only in the mean")
    return Entry(name, "no product credit × surrogate of the library", "")


SYMBOLS = "on every batch of these problems; T: horizon, N: batch size, G: group size, N without groups"


def _listed(names: list[str]) -> str:
    more = f", and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
