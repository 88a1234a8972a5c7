"""What do the field's losses estimate? rlax, brax, rejax, stable-baselines3 and polgrad as installed, certified.

`pgjax.certify` hands each loss every batch of five small problems and compares its exact mean gradient ḡ with ∇J. Read
scale and cosine together: cosine 1 is ∇J up to a step size, and a step size is all that a scale is, as long as it does
not depend on the policy. A library that is not installed is left out, and a line says so; all of them come with
`pip install "policy-gradients-jax[field]"` (PyTorch's small build for CPUs: https://pytorch.org). Ten minutes on two
CPU cores, most of them for PyTorch; `--report` prints every certificate whole, `--only rlax` takes one library.

Expect three causes of on-policy bias, none of them clipping, which waits for the policy to move. A divisor that is
random: means over the steps of a batch are exact where lengths are fixed and turn the gradient by 2 to 7 degrees where
they vary, less in larger batches; a mean over an episode's own steps, as GRPO's, turns it by 10 in all of them. A
standard deviation in the denominator: up to 16 degrees on single problems, 19 on groups, and no function has such a
gradient. A time limit: brax leaves its step out. Unbiased are those that sum over steps and judge a trajectory by
others (rloo, here and in polgrad); unbiased up to a step size those that divide by a constant (rlax, Dr. GRPO).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from parts import results
from parts.command import as_script
from parts.field_losses import LOSSES, FieldLoss
from parts.tables import fitted, wrapped

from pgjax import certify
from pgjax.oracle.certificates import OBJECTIVES, Certificate, default_problems
from pgjax.oracle.certificates.certificate import make_cases
from pgjax.oracle.certificates.describe import entries, number
from pgjax.oracle.certificates.entries import Row, make_row
from pgjax.oracle.certificates.evaluation import estimates
from pgjax.oracle.certificates.precision import ROUNDING, SYMMETRIC

QUICK = {("rlax", "policy_gradient_loss, padded to the longest")}
QUICK_PROBLEMS = ("bandit", "variable length")
LARGER = {  # losses with one cause of bias each, followed to larger batches
    ("pgjax", "group_standardised × score"): "standard deviation of the batch (pgjax)",
    ("rlax", "policy_gradient_loss, padded to the longest"): "mean over padded steps (rlax)",
    ("brax", "PPO, λ = 1, advantages as they are"): "mean over all steps (brax, stable-baselines3)",
    ("polgrad", "grpo"): "mean over own steps, and deviation (GRPO, polgrad)",
}
SIZES, STEADY = (2, 3, 4), "variable length, γ = 1"
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
    larger: list[tuple[FieldLoss, list[Larger]]] = []
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
        print(wrapped(f"{loss.library}, {loss.name}: {entries(certificate)[0].verdict}"), flush=True)
        if (loss.library, loss.name) in LARGER:
            larger.append((loss, in_larger_batches(loss, function, SIZES[:2] if options.quick else SIZES)))
        if options.report:
            print(f"\n{certificate}\n", flush=True)
    for library, names in missing.items():
        left_out = f"{len(names)} of its losses are left out: {'; '.join(names)}"
        print(wrapped(f"{library} is not installed, so {left_out}"))
    if not found:
        print("nothing to certify")
        return
    print("\n" + fitted([HEAD, *(summary(*each) for each in found)]) + "\n")
    for loss, each in larger:
        turned = ", ".join(f"{angle(x.row.cosine):.3g}° with N = {x.size}" for x in each)
        print(wrapped(f"angle of ḡ and ∇J, {STEADY}: {LARGER[loss.library, loss.name]}: {turned}"))
    rows = [row for loss, c in found for row in table(loss, c)]
    rows += [(*about(loss), STEADY, x.size, 1, x.batches, *numbers(x.row)) for loss, each in larger for x in each]
    filled = [(*row, *[None] * (len(COLUMNS) - len(row))) for row in rows]
    options.write("certificates", draw(found, larger), COLUMNS, filled)


class Larger(NamedTuple):
    """The on-policy mean of a batch of N."""

    size: int
    batches: int
    row: Row


def in_larger_batches(loss: FieldLoss, function: Any, sizes: Sequence[int]) -> list[Larger]:
    """Episodes of variable length for several N; γ = 1, for which all objectives without a time limit are one."""
    (one,) = [p for p in default_problems() if p.name == "variable length"]
    one = one._replace(mdp=replace(one.mdp, discount=1.0))
    rows = []
    for size in sizes:
        (case,) = make_cases(function, one._replace(batch_size=size), **loss.how)
        found = estimates(case, case.problem.logits, case.at(0.0))
        rows.append(Larger(size, int(case.batches.orderings.sum()), make_row(case, found, 0.0, OBJECTIVES[0])))
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
    known = [a.following for a in c.asymmetries if a.following is not None and not np.isnan(a.following)]
    return "0" if not known else "yes" if max(known) < SYMMETRIC else f"no ({number(max(known))})"


def padding(c: Certificate) -> str:
    """What padding does to the gradient."""
    verdicts = {x.name: x.verdict == "unchanged" for x in c.invariances if x.name.startswith("padding")}
    if not verdicts:
        return "none"
    if not (verdicts["padding gradient removed"] and verdicts["padding overwritten"]):
        return "counts"
    rejected = any(x.verdict == "rejected" for x in c.invariances if x.name == "padding NaN")
    return "ignored" if verdicts["padding NaN"] else "NaN rejected" if rejected else "times 0"


def ends(c: Certificate) -> str:
    """What follows a time limit."""
    if c.ends is None:
        return "–"
    if c.ends.on_batches < ROUNDING:
        return "as termination"
    return "value goes on" if c.objective.time_limit == "goes on" else "distinguished, J ends"


def equal(c: Certificate) -> str:
    """The first product of the library with which it agrees on-policy."""
    on_policy = c.equal[0]
    for name, factor in on_policy.on_batches.items():
        return name if abs(factor - 1) < ROUNDING else f"{number(factor)} · {name}"
    return f"{on_policy.in_mean[0]} (in the mean)" if on_policy.in_mean else "–"


def table(loss: FieldLoss, c: Certificate) -> Iterator[tuple[Any, ...]]:
    """A row of the CSV file for each problem; its last columns are of the loss as a whole."""
    whole = str(c.objective), c.clipping.distance, padding(c), ends(c), equal(c)
    for tried, row, grows, skew in zip(c.problems, c.on_policy, c.orders, c.asymmetries, strict=True):
        where = tried.name, tried.batch_size, tried.group_size, tried.batches
        growth = "exact" if grows.order is None else "jump" if grows.order == np.inf else grows.order
        yield *about(loss), *where, *numbers(row), growth, skew.following, skew.fixed, *whole


def about(loss: FieldLoss) -> tuple[str, str, str]:
    """Library, version, name."""
    return loss.library, installed(loss.library), loss.name


def numbers(row: Row) -> tuple[float | None, ...]:
    """What is said of a mean."""
    return row.scale, row.cosine, row.error, row.variance, row.mean_squared_error


def installed(library: str) -> str:
    """Its version; none for what is written by hand."""
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


# --- in colours -------------------------------------------------------------------------------------------------------


def draw(found: Sequence[tuple[FieldLoss, Certificate]], larger: Sequence[tuple[FieldLoss, Sequence[Larger]]]) -> Any:
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
    left.set_title("cosine of ḡ and ∇J (colour: angle, 0 to 30°)")
    cells(right, np.where(scales > 0.1, scales, 0.1), scales, "PuOr", LogNorm(0.1, 10))
    right.set_title("scale ⟨ḡ, ∇J⟩/‖∇J‖² (white: 1)")
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


def draw_larger(axes: Axes, larger: Sequence[tuple[FieldLoss, Sequence[Larger]]]) -> None:
    """The angle against N."""
    for loss, each in larger:
        angles = [angle(x.row.cosine) for x in each]
        axes.loglog([x.size for x in each], angles, "o-", label=LARGER[loss.library, loss.name])
    axes.set_xticks(SIZES, [str(n) for n in SIZES])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="trajectories N in a batch", ylabel="degrees", title=f"angle of ḡ and ∇J, {STEADY}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_yticks([0.3, 1, 3, 10], ["0.3", "1", "3", "10"])
    axes.set_yticks([], minor=True)


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
