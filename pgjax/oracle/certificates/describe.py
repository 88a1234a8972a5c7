"""A certificate in words: one line for each entry of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pgjax.oracle.certificates.entries import JACOBIAN_DISTANCE
from pgjax.oracle.certificates.library import factor_text
from pgjax.oracle.certificates.objectives import ENDS
from pgjax.oracle.certificates.precision import FLOAT64, ROUNDING

if TYPE_CHECKING:
    from pgjax.oracle.certificates.certificate import Certificate
    from pgjax.oracle.certificates.library import Equal

MOST_NAMES = 4


class Entry(NamedTuple):
    """One line of a report: what was asked, the answer, and the numbers behind it."""

    name: str
    verdict: str
    detail: str


def number(x: float | None, rounding: float = ROUNDING / 1000) -> str:
    """Three digits; "–" for nothing, and 0 for what is rounding beside 1.

    >>> number(0.12345), number(3e-16), number(None), number(float("inf"))
    ('0.123', '0', '–', 'not finite')
    >>> number(3e-16, 0)
    '3e-16'
    """
    if x is None or np.isnan(x):
        return "–"
    return "not finite" if np.isinf(x) else "0" if abs(x) < rounding else f"{x:.3g}"


def entries(c: Certificate) -> list[Entry]:
    """The report, an entry a line."""
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
    """The first entry as a sentence."""
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
        return entry(f"biased: ∇J is 0 on {where}, and the mean gradient is not")
    if all(r.scale is None for r in rows):
        return entry("not tested: ∇J is 0 there, and so is the mean gradient")
    if not known:
        silent = all(r.variance == 0 for r in rows)
        more = "0 on every batch: on-policy the loss has no gradient" if silent else ""
        return entry(more or "0 on every problem: the loss adds noise and no gradient")
    if c.fits(precision.nearly):
        close = f" to {c.error:.0e}" if not c.fits(precision.rounding) or precision != FLOAT64 else ""
        near = "" if c.fits(precision.rounding) else "nearly "
        if not c.objective.is_function:
            return entry(f"{near}unbiased for γ = 1 alone: γ^t is dropped in front of step t")
        tested = "on every problem" if len(known) == len(rows) else "wherever it is not 0"
        return entry(f"{near}unbiased: ∇J{close} {tested}")
    if all(r.turned < precision.nearly and r.angle is not None for r in rows if r.scale is not None):
        near = "" if all(r.turned < precision.rounding for r in known) else "nearly "
        same = high - low < precision.nearly * max(abs(high), abs(low))
        factor = f"{number(low, 0)} · ∇J" if same else f"c · ∇J with c from {_range(low, high, precision.nearly)}"
        if _shrunk(c):
            return entry(f"{near}(1 − 1/N) · ∇J, N the trajectories that share a baseline: it contains what it judges")
        wrong = ": the wrong way; is the sign flipped?" if high < 0 else ""
        return entry(f"{near}{factor}{wrong}" + ("" if same else ", another on each problem"))
    detail = "; ".join([f"error up to {number(c.error)}", *notes])
    wrong = ": the wrong way" if any((r.angle or 0.0) > 90 for r in known) else ""
    return entry(f"biased{wrong}: up to {degrees(c.angle)} off ∇J, scale {_range(low, high, precision.nearly)}")


def degrees(angle: float) -> str:
    """An angle; never 0 for what is not.

    >>> degrees(13.24), degrees(1e-5), degrees(0.0)
    ('13.2°', '1e-05°', '0°')
    """
    return "–" if np.isnan(angle) else f"{number(angle)}°"


def _shrunk(c: Certificate) -> bool:
    """Whether the loss is, batch by batch, one with the mean of its own group or batch as a baseline, and 1 − 1/N long.

    The length alone does not tell: half of an unbiased loss has it too, in batches of two.
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
    """Two numbers with so many digits that they differ; one where they do not, to a relative tolerance.

    >>> _range(0.5, 2.0), _range(1.0, 1.00002), _range(0.0, 0.0)
    ('0.5 to 2', '1 to 1.00002', '0')
    """
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
        return Entry("compared with", name, "none fits: the mean gradient is 0" if known else "")
    if any(r.turned >= c.precision.nearly or r.angle is None for r in known):
        name = f"fits none; nearest in direction is {name}"
    errors = {o: e for o, e in c.errors.items() if e is not None}
    if not errors:
        return Entry("compared with", name, "the problems do not tell objectives apart")
    parts = []
    for ends in ENDS:
        mine = [f"{number(e)} {o.discount}" for o, e in errors.items() if o.time_limit == ends]
        if ends == "goes on" and not any(t.time_limit for t in c.problems):
            continue
        parts.append(("with the value after a time limit " if ends == "goes on" else "") + ", ".join(mine))
    return Entry("compared with", name, f"error where objectives differ: {'; '.join(parts)}")


def _noise(c: Certificate) -> Entry:
    sizes = [(r.mean_squared_error, r.variance, float(np.sum(np.square(r.gradient)))) for r in c.on_policy]
    ratio = [m / g for m, _, g in sizes if g > 0]
    if not ratio:
        return Entry("noise of a batch", "∇J is 0", "")
    share = [v / m for m, v, g in sizes if g > 0 and m > 0]
    said = f"E‖ĝ − ∇J‖² is {_range(min(ratio), max(ratio))} times ‖∇J‖²"
    return Entry("noise of a batch", said, f"{_share(min(share), max(share))} % of it variance, the rest bias²")


def _share(low: float, high: float) -> str:
    least, most = (f"{100 * x:.3g}" for x in (low, high))
    return least if least == most else f"{least} to {most}"


def _order(c: Certificate) -> Entry:
    known = [o for o in c.orders if o.bias]
    worst = [f"{o.problem} {number(max(o.bias))}" for o in known]
    detail = "largest bias up to distance 0.8: " + ", ".join(worst)
    lowest = min((o.order for o in known if o.order is not None), default=None)
    if any(o.scale is not None and abs(o.scale - 1) > c.precision.nearly and o.order != 0 for o in known):
        detail += "; the on-policy scale taken out"
    if not known:
        verdict = "not tested: ∇J is 0"
    elif lowest is None:
        verdict = "exact at every distance"
    elif lowest == np.inf:
        verdict = "exact close by; farther away the bias begins with a jump, as clipping's does"
    elif lowest == 0:
        verdict = "order 0: the bias is there on-policy already"
    else:
        verdict = f"bias of order {number(lowest)} in the distance, 0 on-policy"
    return Entry("off-policy", verdict, detail)


def _clipping(c: Certificate) -> Entry:
    found = c.clipping
    if found.distance is None or found.ratios is None:
        return Entry("clipping", f"none up to distance {number(found.largest)}", f"on {found.problem!r}")
    low, high = found.ratios
    how = (
        "a step has no gradient on one side" if found.stops else "slopes have a kink or jump, and none is 0 on one side"
    )
    detail = f"{how}; ratios of a step lie between {low:.2f} and {high:.2f} there; on {found.problem!r}"
    return Entry("clipping", f"begins to act at distance {number(found.distance)}", detail)


def _gradient(c: Certificate) -> Entry:
    tolerance = c.precision.symmetric

    def verdict(which: str) -> str:
        values = [getattr(a, which) for a in c.asymmetries]
        known = [x for x in values if x is not None and not np.isnan(x)]
        undecided = [a.problem for a, x in zip(c.asymmetries, values, strict=True) if x is not None and np.isnan(x)]
        if known and max(known) >= tolerance:
            return f"the gradient of no function ({number(max(known))})"
        if undecided:
            why = "a kink" if c.precision.step else f"{c.precision.name} is too coarse"
            return f"not decided: {why} on {', '.join(map(repr, undecided))}"
        return "a gradient" if known else "constant"

    said = f"data following θ: {verdict('following')}; data fixed at distance {JACOBIAN_DISTANCE}: {verdict('fixed')}"
    each = ", ".join(
        f"{a.problem} {_skew(a.following, tolerance)} | {_skew(a.fixed, tolerance)}" for a in c.asymmetries
    )
    return Entry("is it a gradient", said, f"‖M − Mᵀ‖/‖M‖ by differences, tolerance {tolerance:.0e}: {each}")


def _skew(x: float | None, tolerance: float) -> str:
    if x is not None and np.isnan(x):
        return "not decided"
    return "0" if x is not None and x < tolerance else number(x)


MEANING = {
    ("reward scaled", "unchanged"): "rewards are standardised",
    ("reward scaled", "unchanged, as by any rewards"): "rewards make no difference",
    ("padding left out", "changed"): "padding has a gradient: a mask is missing",
    ("padding overwritten", "changed"): "the gradient looks at padding: a mask is missing",
    ("padding overwritten", "refused"): "the loss raises an error on such padding",
    ("padding overflow", "not finite"): "large numbers on padding overflow, and 0 · ∞ is NaN: mask with `where`",
    ("padding NaN", "refused"): "the loss raises an error on such padding",
    ("padding NaN", "changed"): "NaN on padding reaches the gradient: mask with `where`, before any product",
    ("trajectories repeated", "unchanged"): "it scales as a mean over trajectories",
    ("trajectories repeated", "doubled (a sum)"): "it scales as a sum over trajectories",
    ("trajectories repeated", "changed"): "it scales neither as a mean nor as a sum over trajectories",
    ("trajectories repeated", "refused"): "the loss raises an error on a batch of another size",
    ("another's rewards changed", "unchanged"): "each trajectory is judged by itself",
    ("another's rewards changed", "changed"): "trajectories are judged by each other",
    ("value after a termination", "changed"): "a value after a termination counts",
}


def _invariances(c: Certificate) -> list[Entry]:
    found = []
    for x in c.invariances:
        kind = x.verdict.removeprefix("nearly ").split(" but for ")[0]
        meaning = MEANING.get((x.name, kind))
        where = "on-policy" if x.distance == 0 else f"at distance {number(x.distance)}"
        verdict = f"{x.verdict}: {meaning}" if meaning else x.verdict
        verdict = verdict if x.name.endswith(where) else f"{verdict} ({where})"
        changes = f"single batches change by up to {number(x.on_batches)}, the mean by {number(x.in_mean)}"
        if x.name == "another's rewards changed":
            changes = f"slopes of the others change by up to {number(x.on_batches)} of the largest"
        changes = changes if np.isfinite(x.on_batches) else "gradients are no longer finite"
        changes = "it has no gradient to compare" if x.verdict == "refused" else changes
        changed = x.on_batches > c.precision.rounding
        found.append(Entry(x.name, verdict, f"{changes}; on {x.problem!r}" if changed else ""))
    return found


def _ends(c: Certificate) -> Entry:
    if c.ends is None:
        limit = any(t.time_limit for t in c.problems)
        why = "the loss sees neither rewards nor ends" if limit else "no problem has a time limit"
        return Entry("ends", f"not tested: {why}", "")
    if c.ends.on_batches < c.precision.nearly:
        return Entry("ends", "a time limit is taken for a termination", "the two flags make no difference")
    after = "the value goes on after a limit" if c.objective.time_limit == "goes on" else "yet J ends at the limit"
    detail = (
        f"exchanging them changes single batches by {number(c.ends.on_batches)}, the mean by {number(c.ends.in_mean)}"
    )
    return Entry("ends", f"time limit and termination are told apart: {after}", detail)


def _equal(e: Equal) -> Entry:
    where = "on-policy" if e.distance == 0 else f"at distance {number(e.distance)}"
    name = f"equal to, {where}"
    said = [f"{factor_text(f)}{n}" for n, f in e.on_batches.items()]
    if said:
        return Entry(name, _listed(said), "on every batch of every problem")
    if e.otherwise:
        return Entry(name, _listed(list(e.otherwise.values())), LETTERS)
    if e.in_mean:
        return Entry(name, _listed(e.in_mean), "in the mean alone")
    return Entry(name, "none of the library's products credit × surrogate", "")


LETTERS = "on every batch there; T is the horizon, N the batch, G the group (the batch where there are none)"


def _listed(names: list[str]) -> str:
    more = f", and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
