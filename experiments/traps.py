"""How long do policy gradients stay where they are wrong, and what escapes?

Measures the time that the continuous flow dθ/dt = direction(θ) needs to leave three traps; gradient steps of size α
need about time/α steps. In float64, integrated to a relative error of 1e-7.

- corner: three arms with rewards 1, 0.8 and 0, the second almost certain. Time until π(best) = 1/2, against π₀(best).
- vanish: a chain with a reward at its far end only, where one of four actions advances. The policy is uniform and
  starts at the near end. Time until J = J*/2, against the length (Agarwal et al. 2021).
- delay: a chain whose states learn one after the other, with uniform start and policy and γ = 0.95. Time until every
  state's best action has probability 1/2, against the number of states (after Li et al. 2021).

The growth rate is fitted over the larger half of the sizes, with a 95 % interval over neighbouring sizes. It is the
exponent of 1/π₀ in the corner, and the factor per additional state on the chains. About two minutes.

Expect softmax gradients to need a time of 1/π₀ in the corner and exponential time on the chains. Normalised gradients
escape all three traps. Natural gradients escape the first two, and the third except for its last state, whose actions
are nearly equal. A log barrier and the escort transform help in the corner. An entropy bonus helps little there and
most on the third trap. None of these three helps where the gradient vanishes, because they still weight states by how
often they are visited.
"""

from typing import NamedTuple

import jax
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from parts.command import as_script
from parts.results import Options

from pgjax.oracle import flows

CORNERS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
LENGTHS = (2, 4, 6, 8, 10, 12)
STATES = (3, 4, 5, 6, 7, 8, 9, 10)
LIMIT = 1e9
NAMES = {
    "softmax": ("softmax gradient", "C0o-"),
    "entropy": ("entropy, τ = 0.01", "C1s-"),
    "log_barrier": ("log barrier, λ = 0.01", "C2^-"),
    "escort": ("escort, p = 2", "C4v-"),
    "normalised": ("normalised gradient", "C5D-"),
    "natural": ("natural gradient", "C3x-"),
}


class Row(NamedTuple):
    """The time of one flow in one trap."""

    trap: str
    flow: str
    size: float  # 1/π₀(best), length, states
    time: float  # of the flow; infinite if above 1e9


def main(options: Options) -> None:
    """Measure, fit and draw."""
    few = 2 if options.quick else None
    corners, lengths, states = CORNERS[:few], LENGTHS[:few], STATES[:few]
    names = ("softmax", "natural") if options.quick else tuple(NAMES)
    rows: list[Row] = []
    with jax.enable_x64(True):
        for name in names:
            rows += [Row("corner", name, 1.0 / chance, corner(name, chance)) for chance in corners]
            rows += [Row("vanish", name, n, vanish(name, n)) for n in lengths]
            rows += [Row("delay", name, n, delay(name, n)) for n in states]
            print(NAMES[name][0])
            for trap in ("corner", "vanish", "delay"):
                print(f"    {growth(rows, trap, name)}")
    options.write("traps", draw(rows), Row._fields, rows)


def flow(name: str) -> flows.Flow:
    """The flow with a name."""
    made = {
        "softmax": flows.softmax_gradient,
        "entropy": lambda: flows.entropy_gradient(0.01),
        "log_barrier": lambda: flows.log_barrier_gradient(0.01),
        "escort": flows.escort_gradient,
        "normalised": lambda: flows.normalised(flows.softmax_gradient()),
        "natural": flows.natural_gradient,
    }
    return made[name]()


def start(name: str, probs: np.ndarray) -> np.ndarray:
    """θ of a policy: logits, or for the escort transform roots of length √A per state."""
    return np.sqrt(probs * probs.shape[1]) if name == "escort" else np.log(probs)


def corner(name: str, chance: float) -> float:
    """Time until π(best) = 1/2 if the second arm is almost certain and the others have probability `chance`."""

    def likely(problem: flows.Discounted, flow: flows.Flow, params: jax.Array) -> jax.Array:
        return flow.policy(params)[0, 0] - 0.5

    probs = np.array([[chance, 1.0 - 2.0 * chance, chance]])
    return flows.time_until(likely, flows.bandit([1.0, 0.8, 0.0]), flow(name), start(name, probs), LIMIT)


def vanish(name: str, length: int) -> float:
    """Time on the chain whose gradient vanishes."""
    problem = flows.vanishing_chain(length)
    return flows.time_until(flows.half_of_the_best, problem, flow(name), uniform(name, problem), LIMIT)


def delay(name: str, states: int) -> float:
    """Time on the chain whose states learn one after the other."""
    problem = flows.delaying_chain(states, 0.95)
    return flows.time_until(flows.best_likely_everywhere, problem, flow(name), uniform(name, problem), LIMIT)


def uniform(name: str, problem: flows.Discounted) -> np.ndarray:
    """θ of the uniform policy."""
    return start(name, np.full(problem.reward.shape, 1.0 / problem.reward.shape[1]))


def growth(rows: list[Row], trap: str, name: str) -> str:
    """Fitted exponent of 1/π₀, or factor per additional state."""
    own = [(r.size, r.time) for r in rows if r.trap == trap and r.flow == name and 0 < r.time < np.inf]
    if len(own) < 2:
        return f"{trap}: no escape by {LIMIT:.0e}"
    size, time = np.array(own[len(own) // 2 - 1 :]).T
    x = np.log(size) if trap == "corner" else size
    rate = flows.over_problems(np.diff(np.log(time)) / np.diff(x))
    show = (lambda v: f"{v:.2f}") if trap == "corner" else (lambda v: f"{np.exp(v):.2f}")
    label = "time ~ (1/π₀)^" if trap == "corner" else "time × "
    return f"{trap}: {label}{show(rate.mean)} [{show(rate.low)}, {show(rate.high)}]"


def draw(rows: list[Row]) -> Figure:
    """One panel per trap."""
    figure, panels = plt.subplots(1, 3, figsize=(12, 4.6), layout="constrained")
    titles = {"corner": "a bad corner of a bandit", "vanish": "the gradient vanishes", "delay": "states wait in line"}
    labels = {"corner": "1/π₀(best arm)", "vanish": "length of the chain", "delay": "states of the chain"}
    for axes, trap in zip(panels, titles, strict=True):
        for name, (label, style) in NAMES.items():
            own = np.array([(r.size, r.time) for r in rows if r.trap == trap and r.flow == name])
            if len(own):
                shown = np.isfinite(own[:, 1])
                axes.plot(*own[shown].T, style, label=label, markersize=5, linewidth=1.4)
        axes.set(title=titles[trap], xlabel=labels[trap], yscale="log")
        axes.set_xscale("log" if trap == "corner" else "linear")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("escape time of the flow")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    as_script(main, Options, __doc__)
