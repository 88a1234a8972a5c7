"""A certificate in words: one line for each entry of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pgjax.oracle.certificates.entries import JACOBIAN_DISTANCE, ROUNDING, SYMMETRIC
from pgjax.oracle.certificates.objectives import ENDS

if TYPE_CHECKING:
    from pgjax.oracle.certificates.certificate import Certificate
    from pgjax.oracle.certificates.library import Equal

MOST_NAMES = 4


class Entry(NamedTuple):
    """One line of a report: what was asked, the answer, and the numbers behind it."""

    name: str
    verdict: str
    detail: str


def number(x: float | None) -> str:
    """Three digits; "–" for nothing, and 0 for what is rounding beside 1.

    >>> number(0.12345), number(3e-16), number(None), number(float("inf"))
    ('0.123', '0', '–', 'not finite')
    """
    if x is None or np.isnan(x):
        return "–"
    return "not finite" if np.isinf(x) else "0" if abs(x) < ROUNDING / 1000 else f"{x:.3g}"


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
    ]


def headline(c: Certificate) -> str:
    """The first entry as a sentence."""
    return f"{c.loss}: {entries(c)[0].verdict}."


def _mean(c: Certificate) -> Entry:
    rows, (low, high) = c.on_policy, c.scale
    notes = [f"{r.note} on {r.problem!r}" for r in rows if r.note]
    detail = f"scale {_range(low, high)}, cosine at least {number(c.cosine)}, error up to {number(c.error)}"
    detail = "; ".join([detail, *notes])
    known = [r for r in rows if r.cosine is not None]
    if c.unbiased:
        return Entry("on-policy mean", "unbiased: ∇J on every problem", detail)
    if c.error < ROUNDING:
        return Entry("on-policy mean", "unbiased for γ = 1 alone: γ^t is dropped in front of step t", detail)
    if not known:
        return Entry("on-policy mean", "0 on every problem: the loss adds noise and no gradient", detail)
    if all(1 - abs(r.cosine or 0.0) < ROUNDING for r in known):
        same = high - low < ROUNDING
        factor = f"{number(low)} · ∇J" if same else f"c · ∇J with c from {number(low)} to {number(high)}"
        if _shrunk(c):
            verdict = "(1 − 1/N) · ∇J, N the trajectories that share a baseline: it contains what it judges"
            return Entry("on-policy mean", verdict, detail)
        wrong = ": the wrong way; is the sign flipped?" if high < 0 else ""
        return Entry("on-policy mean", f"{factor}{wrong}" + ("" if same else ", another on each problem"), detail)
    wrong = ": the wrong way" if c.cosine < 0 else ""
    found = f"cosine down to {number(c.cosine)}, scale {_range(low, high)}"
    detail = "; ".join([f"error up to {number(c.error)}", *notes])
    return Entry("on-policy mean", f"biased{wrong}: {found}", detail)


def _shrunk(c: Certificate) -> bool:
    """Whether the scale is 1 − 1/N on every problem, N the size of the group or of the batch."""
    sizes = {t.name: t.group_size if t.group_size > 1 else t.batch_size for t in c.problems}
    return all(r.scale is None or abs(r.scale - 1 + 1 / sizes[r.problem]) < ROUNDING for r in c.on_policy)


def _range(low: float, high: float) -> str:
    return number(low) if high - low < ROUNDING else f"{number(low)} to {number(high)}"


def _objective(c: Certificate) -> Entry:
    errors = {o: e for o, e in c.errors.items() if e is not None}
    if not errors:
        return Entry("compared with", f"∇J, J = {c.objective}", "the problems do not tell objectives apart")
    parts = []
    for ends in ENDS:
        mine = [f"{number(e)} {o.discount}" for o, e in errors.items() if o.time_limit == ends]
        if ends == "goes on" and not any(t.time_limit for t in c.problems):
            continue
        parts.append(("with the value after a time limit " if ends == "goes on" else "") + ", ".join(mine))
    return Entry("compared with", f"∇J, J = {c.objective}", f"error where objectives differ: {'; '.join(parts)}")


def _noise(c: Certificate) -> Entry:
    sizes = [(r.mean_squared_error, r.variance, float(np.sum(np.square(r.gradient)))) for r in c.on_policy]
    ratio = [m / g for m, _, g in sizes if g > 0]
    if not ratio:
        return Entry("noise of a batch", "∇J is 0", "")
    share = [v / m for m, v, g in sizes if g > 0 and m > 0]
    said = f"E‖ĝ − ∇J‖² is {_range(min(ratio), max(ratio))} times ‖∇J‖²"
    return Entry(
        "noise of a batch", said, f"{_range(100 * min(share), 100 * max(share))} % of it variance, the rest bias²"
    )


def _order(c: Certificate) -> Entry:
    known = [o for o in c.orders if o.bias]
    worst = [f"{o.problem} {number(max(o.bias))}" for o in known]
    detail = "largest bias up to distance 0.8: " + ", ".join(worst)
    lowest = min((o.order for o in known if o.order is not None), default=None)
    if any(o.scale is not None and abs(o.scale - 1) > ROUNDING and o.order != 0 for o in known):
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
    detail = f"ratios of a step lie between {low:.2f} and {high:.2f} there; on {found.problem!r}"
    return Entry("clipping", f"begins to act at distance {number(found.distance)}", detail)


def _gradient(c: Certificate) -> Entry:
    def verdict(values: list[float | None]) -> str:
        known = [x for x in values if x is not None]
        if not known:
            return "constant"
        return "a gradient" if max(known) < SYMMETRIC else f"the gradient of no function ({number(max(known))})"

    following, fixed = ([getattr(a, k) for a in c.asymmetries] for k in ("following", "fixed"))
    said = f"data following θ: {verdict(following)}; data fixed at distance {JACOBIAN_DISTANCE}: {verdict(fixed)}"
    each = ", ".join(f"{a.problem} {_asymmetry(a.following)} | {_asymmetry(a.fixed)}" for a in c.asymmetries)
    return Entry("is it a gradient", said, f"‖M − Mᵀ‖/‖M‖ by differences, tolerance {SYMMETRIC:.0e}: {each}")


def _asymmetry(x: float | None) -> str:
    return "0" if x is not None and x < SYMMETRIC else number(x)


MEANING = {
    ("reward scaled", "unchanged"): "rewards are standardised",
    ("padding left out", "changed"): "padding has a gradient: a mask is missing",
    ("padding overwritten", "changed"): "the gradient looks at padding: a mask is missing",
    ("padding overwritten", "refused"): "the loss raises an error on such padding",
    ("padding NaN", "refused"): "the loss raises an error on such padding",
    ("padding NaN", "changed"): "NaN on padding reaches the gradient: mask with `where`, before any product",
    ("trajectories repeated", "unchanged"): "a mean over trajectories",
    ("trajectories repeated", "changed"): "trajectories are judged by each other",
    ("value after a termination", "changed"): "a value after a termination counts",
}


def _invariances(c: Certificate) -> list[Entry]:
    found = []
    for x in c.invariances:
        meaning = MEANING.get((x.name, x.verdict))
        verdict = f"{x.verdict}: {meaning}" if meaning else x.verdict
        changes = f"single batches change by up to {number(x.on_batches)}, the mean by {number(x.in_mean)}"
        changes = changes if np.isfinite(x.on_batches) else "gradients are no longer finite"
        changes = "it has no gradient to compare" if x.verdict == "refused" else changes
        found.append(Entry(x.name, verdict, f"{changes}; on {x.problem!r}" if x.on_batches > ROUNDING else ""))
    return found


def _ends(c: Certificate) -> Entry:
    if c.ends is None:
        return Entry("ends", "not tested: no problem has a time limit", "")
    if c.ends.on_batches < ROUNDING:
        return Entry("ends", "a time limit is taken for a termination", "the two flags make no difference")
    after = "the value goes on after a limit" if c.objective.time_limit == "goes on" else "yet J ends at the limit"
    detail = (
        f"exchanging them changes single batches by {number(c.ends.on_batches)}, the mean by {number(c.ends.in_mean)}"
    )
    return Entry("ends", f"time limit and termination are told apart: {after}", detail)


def _equal(e: Equal) -> Entry:
    where = "on-policy" if e.distance == 0 else f"at distance {number(e.distance)}"
    name = f"equal to, {where}"
    if e.on_batches:
        said = [n if abs(f - 1) < ROUNDING else f"{number(f)} · {n}" for n, f in e.on_batches.items()]
        return Entry(name, _listed(said), "on every batch of every problem")
    if e.in_mean:
        return Entry(name, _listed(e.in_mean), "in the mean alone")
    return Entry(name, "none of the library's products credit × surrogate", "")


def _listed(names: list[str]) -> str:
    more = f", and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
