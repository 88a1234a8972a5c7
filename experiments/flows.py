"""How fast do policy gradients converge without sampling, and how much of that do the theorems guarantee?

Every theorem of `pgjax.oracle.flows.THEOREMS` is run on random problems with the step size that it requires, in
float64. Its row has the bound, and the largest ratio measured/bound along the curves. The ratio must be at most 1, or
at least 1 for a lower bound. Two rates over the second half of the curve follow: that of the bound and that of the
curve, with a 95 % interval over problems. A rate is −d log δ/d log k if the bound is a power of k, and −d log δ/dk if
it is exponential. Rows without a bound are momentum, whose theorem has no constants, and other step rules.

The figure has a panel per family (median over problems; dashed: the bound) and one without a theorem, for a network on
a gymnax table. Expect every bound to hold, and most to be loose by orders of magnitude. Gradients in logits converge
like 1/k, with momentum like 1/k². Natural gradients, mirror descent and the escort transform converge exponentially,
although only 1/k is guaranteed. About three minutes on two cores.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from parts.command import as_script
from parts.results import Options

from pgjax import environments, make_agent, oracle
from pgjax.oracle import flows
from pgjax.oracle.flows.checked import objectives

PROBLEMS = 20
LAST = {"power": 100_000, "linear": 20_000}  # number of steps, by the kind of bound
SHORT = {"escort": 300, "log_barrier_gap": 2000, "natural": 1000, "mirror_euclidean": 1000, "projected": 20_000}
SHORT |= {"entropy": 200_000, "normalised": 3000, "normalised_bandit": 300, "soft_natural": 60, "mirror_growing": 60}
FAMILIES = {  # theorem or rule -> colour
    "gradients in logits": {"softmax": "C0", "softmax_bandit": "C1", "momentum": "C2", "searched": "C4"},
    "normalised steps and the escort transform": {"normalised": "C0", "normalised_bandit": "C1", "escort": "C2"},
    "with an entropy or a log barrier": {"entropy": "C0", "soft_natural": "C1", "log_barrier_gap": "C2"},
    "natural gradients, mirror descent, projection": {
        "natural": "C0",
        "mirror_euclidean": "C1",
        "mirror_growing": "C2",
        "projected": "C4",
    },
}
COLUMNS = ("theorem", "claim", "source", "problems", "worst_ratio", "kind", "bound_rate", "rate", "rate_low")
COLUMNS += ("rate_high", "final_gap")


class Row(NamedTuple):
    """One theorem, or one step rule without a theorem."""

    name: str
    claim: str
    source: str
    kind: flows.Kind
    steps: np.ndarray
    gap: np.ndarray  # [problems, K]
    bound: np.ndarray | None  # of the gap, or of another measured quantity
    worst: float


def main(options: Options) -> None:
    """Verify, fit and draw."""
    count = 3 if options.quick else PROBLEMS
    with jax.enable_x64(True):
        garnets = [flows.garnet(seed, discount=0.5) for seed in range(count)]
        bandits = [flows.bandit(np.random.default_rng(seed).uniform(size=4)) for seed in range(count)]
        rows = []
        for theorem in flows.THEOREMS.values():
            last = 50 if options.quick else SHORT.get(theorem.name, LAST[theorem.kind])
            rows.append(verified(theorem, bandits if theorem.bandit else garnets, last))
            show(rows[-1], first=len(rows) == 1)
        for name, claim, rule, momentum in without_bounds():
            rows.append(followed(name, claim, rule, momentum, garnets, 50 if options.quick else 20_000))
            show(rows[-1], first=False)
        lake = networks(20 if options.quick else 1000)
    options.write("flows", draw(rows, lake), COLUMNS, [line(row) for row in rows])


def verified(theorem: flows.Theorem, problems: list[flows.Discounted], last: int) -> Row:
    """A theorem on all problems."""
    found = jax.device_get(flows.verify(theorem, problems, flows.moments(last)))
    after = found.measured[:, 1:] / np.maximum(found.bound[:, 1:], 1e-300)
    resolved = np.abs(found.measured[:, 1:]) > 1e-12  # below, both sides are rounding errors
    worst = after[resolved].min() if theorem.below else after[resolved].max()
    return Row(*theorem[:4], found.steps[0], found.gap, found.bound, float(worst))


def without_bounds() -> list[tuple[str, str, Callable[[flows.Discounted], flows.StepRule], bool]]:
    """Name, claim, step rule, and whether to use momentum."""
    return [
        ("momentum", "Õ(1/k²)", lambda p: flows.fixed((1.0 - p.discount) ** 3 / 8.0), True),
        ("searched", "–", lambda p: flows.line_searched(1e4), False),
        ("decaying", "–", lambda p: flows.decaying((1.0 - p.discount) ** 3 / 8.0 * 100, 0.5), False),
    ]


def followed(name: str, claim: str, rule: Any, momentum: bool, problems: list[flows.Discounted], last: int) -> Row:
    """A softmax policy gradient with another step rule, on all problems."""
    steps = flows.moments(last)

    @jax.vmap
    def gaps(problem: flows.Discounted) -> jax.Array:
        start = jnp.zeros(problem.reward.shape)
        flow = flows.softmax_gradient()
        curve = flows.integrate(problem, flow, start, steps, rule(problem), objectives, momentum=momentum)
        return flows.optimum(problem).objective - curve.recorded[0]

    gap = np.asarray(gaps(jax.tree.map(jnp.asarray, flows.stack(problems))))
    source = "Chen 2024" if momentum else "–"
    return Row(name, claim, source, "power", steps, gap, None, float("nan"))


def rates(row: Row) -> tuple[float, flows.Rate]:
    """Rates of the bound (mean) and of the gap."""
    bound = [] if row.bound is None else [flows.fitted(row.steps, b, row.kind) for b in row.bound]
    own = flows.over_problems([flows.fitted(row.steps, gap, row.kind) for gap in row.gap])
    return flows.over_problems(bound).mean, own


def show(row: Row, first: bool) -> None:
    """Print a row."""
    if first:
        print(
            f"{'theorem':<22}{'bound':<34}{'worst ratio':>12}\n{'':<22}{'kind':<14}{'its rate':>10}{'fitted rate':>30}"
        )
    bound, own = rates(row)
    interval = f"{own.mean:.3g} [{own.low:.3g}, {own.high:.3g}]" if own.problems > 1 else "in rounding at once"
    print(f"{row.name:<22}{row.claim:<34}{row.worst:>12.3g}")
    print(f"{'':<22}{row.kind:<14}{bound:>10.2g}{interval:>30}", flush=True)


def line(row: Row) -> tuple:
    """A row of the CSV file."""
    bound, own = rates(row)
    final = float(np.median(row.gap[:, -1]))
    return row.name, row.claim, row.source, len(row.gap), row.worst, row.kind, bound, own.mean, own.low, own.high, final


# --- a network -------------------------------------------------------------------------------------------------------


def networks(last: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(steps, gap) on FrozenLake's table, with a table of logits and with a small network."""
    tables = oracle.from_gymnax("FrozenLake-misc", discount=0.9)
    problem = flows.from_mdp(tables.mdp)
    agent = make_agent(environments.make("FrozenLake-misc"), hidden=(8,))
    params = jax.tree.map(lambda x: jnp.asarray(x, float), agent.init(jax.random.key(0)))
    network, logits = tables.log_policy(agent), jnp.zeros(problem.reward.shape)
    best = flows.optimum(jax.tree.map(jnp.asarray, problem)).objective
    runs = {
        "table, gradient": (flows.softmax_gradient(), logits, flows.line_searched(64.0)),
        "table, natural gradient": (flows.natural_gradient(), logits, flows.fixed(0.1)),
        "network, gradient": (flows.softmax_gradient(network), params, flows.line_searched(1e4)),
    }
    steps = flows.moments(last, 40)
    return {
        name: (steps, np.asarray(best - flows.integrate(problem, flow, start, steps, rule).recorded))
        for name, (flow, start, rule) in runs.items()
    }


# --- figure ----------------------------------------------------------------------------------------------------------


def draw(rows: list[Row], lake: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """One panel per family, and one for the network."""
    by_name = {row.name: row for row in rows}
    figure, panels = plt.subplots(3, 2, figsize=(11, 11), layout="constrained")
    for axes, (family, members) in zip(panels.flat, FAMILIES.items(), strict=False):
        for name, colour in members.items():
            row = by_name[name]
            curve(axes, row.steps, row.gap, colour, "-", name.replace("_", " "))
            if row.bound is not None:
                curve(axes, row.steps, row.bound, colour, "--", None)
        finish(axes, family)
    for k, (name, (steps, gap)) in enumerate(lake.items()):
        curve(panels[2, 0], steps, gap[None], f"C{k}", "-", name)
    finish(panels[2, 0], "FrozenLake's table, γ = 0.9: a network has no theorem")
    panels[2, 0].set_ylim(1e-5, 1)
    tightness(panels[2, 1], [row for row in rows if row.bound is not None])
    figure.suptitle("J* − J without sampling: solid measured, dashed the theorem's bound (medians over problems)")
    return figure


def curve(axes: Axes, steps: np.ndarray, values: np.ndarray, colour: str, line: str, label: str | None) -> None:
    """Median over problems where it is above rounding."""
    middle = np.median(values, axis=0)
    shown = (steps > 0) & (middle > 1e-13)
    axes.plot(steps[shown], middle[shown], line, color=colour, label=label, linewidth=1.6)


def finish(axes: Axes, title: str) -> None:
    """Set title, labels and scales."""
    axes.set(title=title, xscale="log", yscale="log", xlabel="step k", ylabel="J* − J", ylim=(1e-13, 1e6))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower left")


def tightness(axes: Axes, rows: list[Row]) -> None:
    """Largest measured/bound of each theorem."""
    names = [row.name.replace("_", " ") for row in rows]
    axes.barh(names, [row.worst for row in rows], color="C7", height=0.6)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set(xscale="log", xlabel="largest measured / bound (lower bound: smallest)", title="how tight each theorem is")
    axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=9)


if __name__ == "__main__":
    as_script(main, Options, __doc__)
