"""What do the losses of other libraries estimate? rlax, brax, rejax, stable-baselines3 and polgrad, as installed.

`pgjax.certify` evaluates each loss on every batch of five small problems and compares its exact mean gradient ḡ with
∇J. A cosine of 1 means that ḡ is ∇J up to a step size; a scale that does not depend on the policy acts as a step size.
Libraries that are not installed are skipped with a message. `pip install "policy-gradients-jax[field]"` installs them
(PyTorch's small build for CPUs: https://pytorch.org). `--report` prints every certificate, `--only rlax` selects one
library. Ten minutes on two CPU cores, most of them for PyTorch.

Expect three causes of on-policy bias. Clipping is not among them, because it has no effect before the policy moves.

- A random divisor. A mean over the steps of a batch is exact for fixed lengths. For varying lengths it turns the
  gradient by 2 to 7 degrees, less in larger batches. A mean over each episode's own steps, as in GRPO, turns it by 10
  degrees at every batch size.
- A standard deviation in the denominator: up to 16 degrees on single problems and 19 on groups. The result is not the
  gradient of any function.
- A time limit: brax leaves out the step at which it occurs.

Losses that sum over steps and use other trajectories for the baseline are unbiased (rloo, here and in polgrad). Those
that divide by a constant are unbiased up to a step size (rlax, Dr. GRPO).
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
LARGER = {  # losses with a single cause of bias, for larger batches
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
    """Options: which losses, and how much to print."""

    only: tuple[str, ...] = ()
    """Libraries; default all that are installed, and the losses written here ("by hand")."""
    report: bool = False
    """Print every certificate in full."""


def main(options: Options) -> None:
    """Certify every loss; print a table and draw a figure."""
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
        skipped = f"{len(names)} of its losses are skipped: {'; '.join(names)}"
        print(wrapped(f"{library} is not installed; {skipped}"))
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
    """On-policy mean gradient for batches of N trajectories."""

    size: int
    batches: int
    row: Row


def in_larger_batches(loss: FieldLoss, function: Any, sizes: Sequence[int]) -> list[Larger]:
    """Certify a loss on episodes of variable length for several N, with γ = 1, where all objectives coincide."""
    (one,) = [p for p in default_problems() if p.name == "variable length"]
    one = one._replace(mdp=replace(one.mdp, discount=1.0))
    rows = []
    for size in sizes:
        (case,) = make_cases(function, one._replace(batch_size=size), **loss.how)
        found = estimates(case, case.problem.logits, case.at(0.0))
        rows.append(Larger(size, int(case.batches.orderings.sum()), make_row(case, found, 0.0, OBJECTIVES[0])))
    return rows


def chosen(options: Options) -> list[FieldLoss]:
    """The selected losses."""
    listed = [x for x in LOSSES if not options.only or x.library in options.only]
    return [x for x in listed if (x.library, x.name) in QUICK] if options.quick else listed


# --- tables -----------------------------------------------------------------------------------------------------------


def summary(loss: FieldLoss, c: Certificate) -> list[str]:
    """A row of the printed table: the worst of all problems, on-policy unless the column is about the distance."""
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
    """A range as text; one number if both ends are equal."""
    low, high = pair
    return number(low) if high - low < ROUNDING else f"{number(low)} to {number(high)}"


def digits(x: float) -> str:
    """Three digits after the point; 1 only for values that equal 1, so that 0.9999 is not shown as 1."""
    return "–" if np.isnan(x) else "1" if abs(x - 1) < ROUNDING else f"{x:.3f}"


def order(c: Certificate) -> str:
    """Lowest order of the bias in the distance between the policies."""
    known = [o.order for o in c.orders if o.bias and o.order is not None]
    return "exact" if not known else "jump" if min(known) == np.inf else number(min(known))


def gradient(c: Certificate) -> str:
    """Whether ḡ(θ) is the gradient of a function when θ also samples the data; otherwise its asymmetry."""
    known = [a.following for a in c.asymmetries if a.following is not None and not np.isnan(a.following)]
    return "0" if not known else "yes" if max(known) < SYMMETRIC else f"no ({number(max(known))})"


def padding(c: Certificate) -> str:
    """Effect of padding on the gradient."""
    verdicts = {x.name: x.verdict == "unchanged" for x in c.invariances if x.name.startswith("padding")}
    if not verdicts:
        return "none"
    if not (verdicts["padding gradient removed"] and verdicts["padding overwritten"]):
        return "counts"
    rejected = any(x.verdict == "rejected" for x in c.invariances if x.name == "padding NaN")
    return "ignored" if verdicts["padding NaN"] else "NaN rejected" if rejected else "times 0"


def ends(c: Certificate) -> str:
    """How the loss treats a time limit."""
    if c.ends is None:
        return "–"
    if c.ends.on_batches < ROUNDING:
        return "as termination"
    return "value goes on" if c.objective.time_limit == "goes on" else "distinguished, J ends"


def equal(c: Certificate) -> str:
    """The first product of credit and score that agrees with the loss on-policy."""
    on_policy = c.equal[0]
    for name, factor in on_policy.on_batches.items():
        return name if abs(factor - 1) < ROUNDING else f"{number(factor)} · {name}"
    return f"{on_policy.in_mean[0]} (in the mean)" if on_policy.in_mean else "–"


def table(loss: FieldLoss, c: Certificate) -> Iterator[tuple[Any, ...]]:
    """A row of the CSV file per problem; the last columns are about the loss as a whole."""
    whole = str(c.objective), c.clipping.distance, padding(c), ends(c), equal(c)
    for tried, row, grows, skew in zip(c.problems, c.on_policy, c.orders, c.asymmetries, strict=True):
        where = tried.name, tried.batch_size, tried.group_size, tried.batches
        growth = "exact" if grows.order is None else "jump" if grows.order == np.inf else grows.order
        yield *about(loss), *where, *numbers(row), growth, skew.following, skew.fixed, *whole


def about(loss: FieldLoss) -> tuple[str, str, str]:
    """Library, version and name of a loss."""
    return loss.library, installed(loss.library), loss.name


def numbers(row: Row) -> tuple[float | None, ...]:
    """Numbers of a mean gradient."""
    return row.scale, row.cosine, row.error, row.variance, row.mean_squared_error


def installed(library: str) -> str:
    """Version of a library; empty for losses written here."""
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


# --- figure -----------------------------------------------------------------------------------------------------------


def draw(found: Sequence[tuple[FieldLoss, Certificate]], larger: Sequence[tuple[FieldLoss, Sequence[Larger]]]) -> Any:
    """Cosine and scale of every loss on every problem, and below them the bias against the batch size."""
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
    """Angle between ḡ and ∇J against N."""
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
    """A coloured grid of numbers."""
    image = axes.imshow(colours, palette, norm=norm, aspect="auto")
    for (i, j), x in np.ndenumerate(numbers):
        red, green, blue, _ = image.cmap(norm(colours[i, j]))
        dark = np.isfinite(x) and 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
        axes.text(j, i, digits(x), ha="center", va="center", fontsize=9, color="white" if dark else "black")


if __name__ == "__main__":
    as_script(main, Options, __doc__)
