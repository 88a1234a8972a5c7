"""A certificate as text, as rich tables, as HTML and as a figure. rich and matplotlib are imported on use."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from pgjax.oracle.certificates.describe import degrees, entries, headline, number
from pgjax.oracle.certificates.entries import SHOWN
from pgjax.oracle.certificates.precision import FLOAT64

if TYPE_CHECKING:
    from pgjax.oracle.certificates.certificate import Certificate

HEAD = ("problem", "N", "batches", "scale", "angle", "error", "variance", "E‖ĝ−∇J‖²")
PADDED_TO = {"longest": "longest trajectory of the batch", "horizon": "horizon"}


def table(c: Certificate) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the numbers, one row for each problem."""
    far = [d for d in SHOWN if d > 0]
    head = [*HEAD, *(f"error at {number(d)}" for d in far), "order"]
    rows = []
    for tried, order in zip(c.problems, c.orders, strict=True):
        mine = {r.distance: r for r in c.rows if r.problem == tried.name}
        r = mine[0.0]
        size = (
            f"{tried.batch_size}"
            if tried.group_size == 1
            else f"{tried.batch_size // tried.group_size}×{tried.group_size}"
        )
        angle = "–" if r.angle is None else degrees(r.angle)
        numbers = [number(r.scale), angle, *(number(x) for x in (r.error, r.variance, r.mean_squared_error))]
        away = [number(mine[d].error) for d in far]
        growth = "–" if not order.bias else "exact" if order.order is None else number(order.order)
        growth = "jump" if order.order == np.inf else growth
        rows.append([tried.name, size, str(tried.batches), *numbers, *away, growth])
    return head, rows


def about(c: Certificate) -> str:
    """One line on how the loss was evaluated."""
    padding = "without padding" if c.layout == "flat" else f"padded to the {PADDED_TO[c.pad_to]}"
    exactness = c.precision.name + (
        "" if c.precision == FLOAT64 else f", relative tolerance {c.precision.rounding:.0e}"
    )
    how = f"{c.framework} function, arrays {c.layout}, {padding}; {exactness}; exact means over all possible batches"
    return f"{how}; distance: ‖θ − θ̄‖ between the logits of policy and behaviour policy"


def as_text(c: Certificate) -> str:
    """The report as plain text."""
    head, rows = table(c)
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: list[str]) -> str:
        cells = [x.ljust(w) if i == 0 else x.rjust(w) for i, (x, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(cells).rstrip()

    found = entries(c)
    width = max(len(e.name) for e in found)
    lines = [headline(c), about(c), "", line(head), *map(line, rows), ""]
    for e in found:
        lines.append(f"{e.name.ljust(width)}  {e.verdict}")
        if e.detail:
            lines.append(f"{' ' * width}    {e.detail}")
    return "\n".join(lines)


def as_rich(c: Certificate) -> Any:
    """The report as rich tables."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head, rows = table(c)
    numbers = Table(title=Text(headline(c), style="bold"), caption=Text(about(c)), title_justify="left")
    for i, name in enumerate(head):
        numbers.add_column(name, justify="left" if i == 0 else "right")
    for row in rows:
        numbers.add_row(*(Text(cell) for cell in row))  # names of problems may look like markup
    words = Table(show_header=False, box=None, padding=(0, 1))
    for _ in range(2):
        words.add_column(overflow="fold")
    for e in entries(c):
        words.add_row(
            Text(e.name, style="bold"), Text.assemble(e.verdict, (f"\n{e.detail}" if e.detail else "", "dim"))
        )
    return Group(numbers, words)


def as_html(c: Certificate) -> str:
    """The report as HTML tables, for notebooks."""
    head, rows = table(c)

    def cells(row: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(x)}</{tag}>" for x in row) + "</tr>"

    numbers = "".join(cells(row, "td") for row in rows)
    words = "".join(
        f"<tr><th style='text-align:left;vertical-align:top'>{escape(e.name)}</th>"
        f"<td style='text-align:left'>{escape(e.verdict)}<br><small>{escape(e.detail)}</small></td></tr>"
        for e in entries(c)
    )
    return (
        f"<div><p><b>{escape(headline(c))}</b><br><small>{escape(about(c))}</small></p>"
        f"<table>{cells(head, 'th')}{numbers}</table><table>{words}</table></div>"
    )


def as_figure(c: Certificate) -> Any:
    """Three panels: components of ḡ against those of ∇J, error against distance, variance and squared bias."""
    import matplotlib.pyplot as plt

    figure, (components, distances, noise) = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    on_policy = c.on_policy
    for i, row in enumerate(on_policy):
        components.plot(row.gradient, row.mean, "osD^v<>"[i % 7], color=f"C{i}", label=_literal(row.problem), alpha=0.8)
        mine = [r for r in c.rows if r.problem == row.problem and r.distance > 0 and r.error is not None]
        # Errors of 0 are drawn at the rounding level.
        distances.loglog([r.distance for r in mine], [max(r.error or 0.0, 1e-16) for r in mine], ".-", color=f"C{i}")
    ends = np.array([min(min(r.gradient) for r in on_policy), max(max(r.gradient) for r in on_policy)])
    components.plot(ends, ends, color="0.6", linewidth=1, zorder=0, label="unbiased: ḡ = ∇J")
    components.set(title="on-policy mean, by component", xlabel="∇J", ylabel="ḡ = E[−∇loss]")
    components.legend(fontsize=8, frameon=False)
    distances.set(title="error ‖ḡ − ∇J‖/‖∇J‖", xlabel="distance ‖θ − θ̄‖ to the behaviour policy")
    distances.set_ylim(1e-17 if any((r.error or 0) < 1e-9 for r in c.rows if r.distance > 0) else None, None)

    places = np.arange(len(on_policy))
    sizes = np.array([max(float(np.sum(np.square(r.gradient))), 1e-300) for r in on_policy])
    variance = np.array([r.variance for r in on_policy]) / sizes
    bias = np.array([r.mean_squared_error - r.variance for r in on_policy]) / sizes
    noise.bar(places - 0.2, variance, 0.4, color="0.75", label="variance of one batch")
    noise.bar(places + 0.2, bias, 0.4, color="C3", label="bias²")
    names = ["\n".join([*_literal(t.name).split(), f"N = {t.batch_size}"]) for t in c.problems]
    noise.set_xticks(places, names, fontsize=8)
    noise.set(title="on-policy, relative to ‖∇J‖²")
    noise.legend(fontsize=8, frameon=False)
    for axes in (components, distances, noise):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_literal(headline(c)), fontsize=11)
    return figure


def _literal(text: str) -> str:
    """Text that matplotlib draws as it is, without formulas."""
    return text.replace("$", r"\$")
