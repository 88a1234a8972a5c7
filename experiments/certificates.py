"""What do the field's losses estimate? rlax, brax, rejax, stable-baselines3 and polgrad as installed, certified.

`pgjax.certify` hands each loss every batch of five small problems and compares its exact mean gradient ḡ with ∇J. Read
scale and cosine together: cosine 1 is ∇J up to a step size, and a step size is all that a scale is, as long as it does
not depend on the policy. A library that is not installed is left out, and a line says so; all of them come with
`pip install -e ".[dev,field]"` (PyTorch's small build for CPUs: https://pytorch.org). Ten minutes on two CPU cores,
most of them for PyTorch; `--report` prints every certificate whole, `--only rlax` takes one library.

Expect three causes of what bias there is, none of them PPO's clipping, which waits for the policy to move. A divisor
that is random: means over the steps of a batch, or over an episode's own length, are exact where lengths are fixed and
turn the gradient by a few degrees where they vary. A standard deviation in the denominator: ten degrees on two prompts,
and no function has such a gradient. A time limit: brax leaves its step out. Clipped losses estimate ∇J at the policy
that sampled, and near nothing of it at the distance where their ratios end. Left unbiased are those that sum over steps
and judge a trajectory by others: rloo, here and in polgrad.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import ScalarFormatter
from parts import results
from parts.command import as_script
from parts.field_losses import LOSSES, FieldLoss

from pgjax import certify
from pgjax.oracle.certificates import OBJECTIVES, Certificate, default_problems
from pgjax.oracle.certificates.certificate import make_cases
from pgjax.oracle.certificates.describe import entries, number
from pgjax.oracle.certificates.entries import ROUNDING, SYMMETRIC, Row, make_row
from pgjax.oracle.certificates.evaluation import estimates

QUICK = {("rlax", "policy_gradient_loss, padded to the longest"), ("brax", "PPO, λ = 1, advantages as they are")}
QUICK_PROBLEMS = ("bandit", "variable length")
LARGER = {  # losses with one cause of bias each, followed to larger batches
    ("pgjax", "group_standardised × score"): "standard deviation of the batch (pgjax)",
    ("rlax", "policy_gradient_loss, padded to the longest"): "mean over padded steps (rlax)",
    ("brax", "PPO, λ = 1, advantages as they are"): "mean over all steps (brax, stable-baselines3)",
    ("polgrad", "grpo"): "mean over the own steps, and standard deviation (GRPO, polgrad)",
}
SIZES = (2, 3, 4)
HEAD = ("loss", "scale", "cosine", "error", "order", "clips from", "gradient", "padding", "ends", "equal to")
COLUMNS = ("library", "version", "loss", "problem", "batch_size", "group_size", "batches", "scale")
COLUMNS += ("cosine", "error", "variance", "mean_squared_error", "order", "asymmetry_following", "asymmetry_fixed")
COLUMNS += ("objective", "clips_from", "padding", "ends", "equal_to")


@dataclass(frozen=True)
class Options(results.Options):
    """Which losses, and how much to print."""

    only: tuple[str, ...] = ()
    """Libraries; default all that are installed, and what is written by hand."""
    report: bool = False
    """Print every certificate whole."""


def main(options: Options) -> None:
    """Certify every loss; a table and a figure."""
    found: list[tuple[FieldLoss, Certificate]] = []
    larger: dict[str, list[tuple[int, Row]]] = {}
    missing: dict[str, list[str]] = {}
    for loss in chosen(options):
        try:
            function = loss.make()
        except ImportError:
            missing.setdefault(loss.library, []).append(loss.name)
            continue
        problems = [p for p in default_problems() if not options.quick or p.name in QUICK_PROBLEMS]
        certificate = certify(function, problems=loss.problems(problems), **loss.how)
        found.append((loss, certificate))
        print(f"{loss.library}, {loss.name}: {entries(certificate)[0].verdict}", flush=True)
        if (loss.library, loss.name) in LARGER:
            larger[LARGER[loss.library, loss.name]] = in_larger_batches(
                loss, function, SIZES[: 2 if options.quick else 3]
            )
        if options.report:
            print(f"\n{certificate}\n", flush=True)
    for library, names in missing.items():
        print(f"{library} is not installed, so {len(names)} of its losses are left out: {'; '.join(names)}")
    if not found:
        print("nothing to certify")
        return
    print("\n" + aligned([HEAD, *(summary(*each) for each in found)]) + "\n")
    for cause, rows in larger.items():
        turned = ", ".join(f"{angle(row.cosine):.3g}° with N = {size}" for size, row in rows)
        print(f"angle to ∇J, variable length: {cause}: {turned}")
    options.write("certificates", draw(found, larger), COLUMNS, [row for each in found for row in table(*each)])


def in_larger_batches(loss: FieldLoss, function: Any, sizes: Sequence[int]) -> list[tuple[int, Row]]:
    """The on-policy mean on episodes of variable length, γ = 1, for several N."""
    (one,) = [p for p in default_problems() if p.name == "variable length"]
    rows = []
    for size in sizes:
        case = one._replace(mdp=replace(one.mdp, discount=1.0), batch_size=size)
        (case,) = make_cases(function, case, **loss.how)
        found = estimates(case, case.problem.logits, case.at(0.0))
        rows.append((size, make_row(case, found, 0.0, OBJECTIVES[0])))
    return rows


def chosen(options: Options) -> list[FieldLoss]:
    """The losses that were asked for."""
    listed = [x for x in LOSSES if not options.only or x.library in options.only]
    return [x for x in listed if (x.library, x.name) in QUICK] if options.quick else listed


# --- in words ---------------------------------------------------------------------------------------------------------


def summary(loss: FieldLoss, c: Certificate) -> list[str]:
    """A row of the printed table: the worst of all problems, on-policy unless it is about the distance."""
    cosines = [r.cosine for r in c.on_policy if r.cosine is not None]
    clips = "–" if c.clipping.distance is None else number(c.clipping.distance)
    return [
        f"{loss.library}: {loss.name}",
        between(c.scale),
        "–" if not cosines else " to ".join(dict.fromkeys(digits(x) for x in (min(cosines), max(cosines)))),
        number(c.error),
        order(c),
        clips,
        gradient(c),
        padding(c),
        ends(c),
        equal(c),
    ]


def between(pair: tuple[float, float]) -> str:
    """A range, one number where it has one."""
    low, high = pair
    return number(low) if high - low < ROUNDING else f"{number(low)} to {number(high)}"


def digits(x: float) -> str:
    """Three digits after the point; 1 for nothing but 1, so that 0.9999 is not taken for it."""
    return "–" if np.isnan(x) else "1" if abs(x - 1) < ROUNDING else f"{x:.3f}"


def order(c: Certificate) -> str:
    """The lowest order of the bias in the distance."""
    known = [o.order for o in c.orders if o.bias and o.order is not None]
    return "exact" if not known else "jump" if min(known) == np.inf else number(min(known))


def gradient(c: Certificate) -> str:
    """Whether ḡ(θ) is a gradient when the data follow θ; how far from it where it is not."""
    known = [a.following for a in c.asymmetries if a.following is not None]
    return "0" if not known else "yes" if max(known) < SYMMETRIC else f"no ({number(max(known))})"


def padding(c: Certificate) -> str:
    """What padding does to the gradient."""
    verdicts = {x.name: x.verdict == "unchanged" for x in c.invariances if x.name.startswith("padding")}
    if not verdicts:
        return "none"
    if not (verdicts["padding left out"] and verdicts["padding overwritten"]):
        return "counts"
    return "ignored" if verdicts["padding NaN"] else "times 0"


def ends(c: Certificate) -> str:
    """What follows a time limit."""
    if c.ends is None:
        return "–"
    if c.ends.on_batches < ROUNDING:
        return "as termination"
    return "value goes on" if c.objective.time_limit == "goes on" else "another"


def equal(c: Certificate) -> str:
    """The first product of the library with which it agrees on-policy."""
    on_policy = c.equal[0]
    for name, factor in on_policy.on_batches.items():
        return name if abs(factor - 1) < ROUNDING else f"{number(factor)} · {name}"
    return f"{on_policy.in_mean[0]} (in the mean)" if on_policy.in_mean else "–"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def table(loss: FieldLoss, c: Certificate) -> Iterator[tuple[Any, ...]]:
    """A row of the CSV file for each problem."""
    about = (str(c.objective), c.clipping.distance, padding(c), ends(c), equal(c))
    for tried, row, grows, skew in zip(c.problems, c.on_policy, c.orders, c.asymmetries, strict=True):
        where = tried.name, tried.batch_size, tried.group_size, tried.batches
        numbers = row.scale, row.cosine, row.error, row.variance, row.mean_squared_error
        growth = "exact" if grows.order is None else "jump" if grows.order == np.inf else grows.order
        skews = skew.following, skew.fixed
        yield loss.library, installed(loss.library), loss.name, *where, *numbers, growth, *skews, *about


def installed(library: str) -> str:
    """Its version; none for what is written by hand."""
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


# --- in colours -------------------------------------------------------------------------------------------------------


def draw(found: Sequence[tuple[FieldLoss, Certificate]], larger: Mapping[str, Sequence[tuple[int, Row]]]) -> Any:
    """Cosine and scale of every loss on every problem; below, how bias falls with the size of a batch."""
    height = 1.3 + 0.27 * len(found)
    shape = {"height_ratios": [height, 3.2]}
    figure, panels = plt.subplots(2, 2, figsize=(13, height + 3.2), gridspec_kw=shape, layout="constrained")
    left, right = panels[0]
    right.sharey(left)
    right.tick_params(labelleft=False)
    draw_larger(panels[1, 0], larger)
    panels[1, 1].set_axis_off()
    panels[1, 1].legend(*panels[1, 0].get_legend_handles_labels(), loc="center left", frameon=False, title="bias by a")
    on_policy = [c.on_policy for _, c in found]
    cosines = np.array([[np.nan if r.cosine is None else r.cosine for r in rows] for rows in on_policy])
    scales = np.array([[np.nan if r.scale is None else r.scale for r in rows] for rows in on_policy])
    cells(left, angle(cosines), cosines, "YlOrRd", Normalize(0, 30))
    left.set_title("cosine of ḡ and ∇J; colour: angle, from 0 to 30° and more")
    cells(right, np.where(scales > 0.1, scales, 0.1), scales, "PuOr", LogNorm(0.1, 10))
    right.set_title("scale ⟨ḡ, ∇J⟩/‖∇J‖²; white: 1")
    names = [f"{loss.library}: {loss.name}" for loss, _ in found]
    left.set_yticks(range(len(names)), names, fontsize=9)
    problems = [f"{t.name}\nN = {t.batch_size}" for t in found[0][1].problems]
    libraries = [loss.library for loss, _ in found]
    for axes in (left, right):
        axes.set_xticks(range(len(problems)), problems, fontsize=9)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for i in range(1, len(libraries)):
            if libraries[i] != libraries[i - 1]:
                axes.axhline(i - 0.5, color="black", linewidth=1)
    figure.suptitle("What losses estimate on-policy: the exact mean of −∇loss over all batches, beside ∇J")
    return figure


def draw_larger(axes: Axes, larger: Mapping[str, Sequence[tuple[int, Row]]]) -> None:
    """The angle against N."""
    for cause, rows in larger.items():
        axes.loglog([size for size, _ in rows], [angle(row.cosine) for _, row in rows], "o-", label=cause)
    axes.set_xticks(SIZES, [str(n) for n in SIZES])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="trajectories N in a batch", ylabel="degrees", title="angle of ḡ and ∇J, variable length, γ = 1")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        which(ScalarFormatter())


def angle(cosine: Any) -> Any:
    """Degrees."""
    return np.degrees(np.arccos(np.clip(np.asarray(cosine, float), -1, 1)))


def cells(axes: Axes, colours: np.ndarray, numbers: np.ndarray, palette: str, norm: Normalize) -> None:
    """A grid of numbers, coloured."""
    image = axes.imshow(colours, palette, norm=norm, aspect="auto")
    for (i, j), x in np.ndenumerate(numbers):
        red, green, blue, _ = image.cmap(norm(colours[i, j]))
        dark = np.isfinite(x) and 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
        axes.text(j, i, digits(x), ha="center", va="center", fontsize=9, color="white" if dark else "black")


if __name__ == "__main__":
    as_script(main, Options, __doc__)
