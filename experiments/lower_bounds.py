"""Does a lower confidence bound keep policy search from believing its own data?

From N trajectories of the present policy each search ascends its surrogate, takes the policy it finds, draws N new
trajectories from that, and so on: (1/N) Σ ρR without a penalty; the same less the penalty of POIS, ‖R‖ √(odds E[ρ²]/N),
with the Rényi divergence exact on the tables; and PPO's clipped surrogate. Returns are exact, batches are drawn; the
bound's coverage is exact, over every batch of two trajectories, and simulated for twenty.

Left: the return after each batch, mean and worst tenth of all runs. Middle: the same after the last batch, against N.
Right: how often J is at least the bound, for a policy chosen beforehand, and for the one that the search found on the
same data, against the confidence promised. The theorem is about the first.

Expect the unpenalised search to fall far in its unlucky runs while N is small; searches of the bound to get farthest on
average, at 95 % as at 50 %, and the clipped surrogate to be the safest where data are few; and the bound to hold more
often than promised, Cantelli's inequality being cautious, but less often where it was searched: the search finds the
policies that its batch flatters. Three minutes on two cores.
"""

from collections.abc import Callable
from functools import partial
from itertools import combinations_with_replacement
from math import factorial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from parts.command import as_script
from parts.results import Options

from pgjax import oracle

MDP = oracle.make_mdp(  # what pays at first leads to where little is earned
    np.array([0.5, 0.5]),
    np.array([[[0.7, 0.3], [0.2, 0.8]], [[0.6, 0.4], [0.1, 0.9]]]),
    np.array([[0.2, 0.6], [1.0, -0.8]]),
    horizon=3,
)
START = np.array([[0.0, 0.0], [0.0, 0.0]])
COUNTS, SHOWN, BATCHES, RUNS = (5, 10, 20, 50, 100), 20, 20, 200
STEPS, SIZE, FEW = 100, 0.4, 2
CONFIDENCES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
STYLES = {
    "ratio, no penalty": "C3v-",
    "lower bound, 50 %": "C0o-",
    "lower bound, 95 %": "C4s-",
    "clipped ratio, 0.2": "C1^-",
}
Surrogate = Callable[[Array, Array, Array, int], Array]
"""(log π, log μ, shares of the batch, N) -> what is ascended."""


class Row(NamedTuple):
    """One search with N trajectories a batch, after so many batches."""

    search: str
    trajectories: int
    batches: int
    mean: float  # of the exact return, over runs
    worst_tenth: float  # mean of the lowest tenth of runs
    worst: float
    falls: float  # share of steps after which the return is lower


class Held(NamedTuple):
    """How often J is at least the bound."""

    trajectories: int
    confidence: float
    beforehand: float  # for a policy that the batch has not chosen
    searched: float  # for the policy that the search found on the same batch


def main(options: Options) -> None:
    """Search, cover, draw."""
    counts, runs, batches = ((5, 20), 10, 3) if options.quick else (COUNTS, RUNS, BATCHES)
    with jax.enable_x64(True):
        listed = oracle.enumerate_trajectories(MDP)
        rows = [row for name in STYLES for count in counts for row in searched(listed, name, count, runs, batches)]
        held = [covered(listed, FEW, c, *every_batch(listed)) for c in CONFIDENCES]
        held += [covered(listed, SHOWN, c, *drawn_batches(listed, 10 * runs)) for c in CONFIDENCES]
    show(rows, held)
    figure = draw(rows, held, batches)
    options.write("lower_bounds", figure, Row._fields, rows)


# --- searches --------------------------------------------------------------------------------------------------------


def surrogate(listed: oracle.Trajectories, name: str) -> Surrogate:
    """What a search ascends."""
    if name == "clipped ratio, 0.2":
        return lambda target, behaviour, share, count: oracle.clipped_surrogate(MDP, listed, target, behaviour, share)
    plain = partial(oracle.ratio_surrogate, MDP, listed)
    if name == "ratio, no penalty":
        return lambda target, behaviour, share, count: plain(target, behaviour, share)
    return partial(bound, listed, float(name.split()[2]) / 100)


def bound(
    listed: oracle.Trajectories, confidence: float, target: Array, behaviour: Array, share: Array, count: int
) -> Array:
    """The lower bound of POIS from one batch."""
    estimate = oracle.ratio_surrogate(MDP, listed, target, behaviour, share)
    return estimate - oracle.pois_penalty(MDP, target, behaviour, count, confidence)


def found(ascends: Surrogate, theta: Array, share: Array, count: int) -> Array:
    """θ after the ascent of one batch's surrogate."""
    behaviour = jax.nn.log_softmax(theta)
    return oracle.ascend(lambda x: ascends(jax.nn.log_softmax(x), behaviour, share, count), theta, STEPS, SIZE)


def worth(theta: Array) -> Array:
    """J."""
    return oracle.exact_values(MDP, jax.nn.log_softmax(theta)).objective


def drawn(listed: oracle.Trajectories, theta: Array, count: int, key: Array) -> Array:
    """Shares of a batch of N trajectories of the policy, [M]."""
    chance = oracle.trajectory_probability(MDP, listed, jax.nn.log_softmax(theta))
    members = jax.random.choice(key, len(chance), (count,), p=chance)
    return jnp.zeros_like(chance).at[members].add(1.0 / count)


def searched(listed: oracle.Trajectories, name: str, count: int, runs: int, batches: int) -> list[Row]:
    """Batch after batch, in many runs."""
    ascends = surrogate(listed, name)

    def once(key: Array) -> Array:
        def step(theta: Array, key: Array) -> tuple[Array, Array]:
            new = found(ascends, theta, drawn(listed, theta, count, key), count)
            return new, worth(new)

        return jax.lax.scan(step, jnp.asarray(START), jax.random.split(key, batches))[1]

    after = np.asarray(jax.jit(jax.vmap(once))(jax.random.split(jax.random.key(count), runs)))
    after = np.concatenate([np.full((runs, 1), float(worth(jnp.asarray(START)))), after], axis=1)  # [runs, K + 1]
    lowest = np.sort(after, axis=0)[: max(1, runs // 10)].mean(axis=0)
    falls = float(np.mean(np.diff(after, axis=1) < -1e-9))
    return [
        Row(name, count, k, float(after[:, k].mean()), float(lowest[k]), float(after[:, k].min()), falls)
        for k in range(batches + 1)
    ]


# --- coverage --------------------------------------------------------------------------------------------------------


def every_batch(listed: oracle.Trajectories) -> tuple[Array, Array]:
    """Shares of all batches of a few trajectories, [B, M], and their probabilities."""
    many = listed.state.shape[1]
    chance = np.asarray(oracle.trajectory_probability(MDP, listed, jax.nn.log_softmax(jnp.asarray(START))))
    members = np.array(list(combinations_with_replacement(range(many), FEW)))
    share = np.stack([np.bincount(row, minlength=many) for row in members]) / FEW
    ways = factorial(FEW) / np.prod([[factorial(round(c)) for c in row] for row in share * FEW], axis=1)
    return jnp.asarray(share), jnp.asarray(ways * np.prod(chance[members], axis=1))


def drawn_batches(listed: oracle.Trajectories, runs: int) -> tuple[Array, Array]:
    """Shares of simulated batches, [runs, M], all as likely."""
    keys = jax.random.split(jax.random.key(0), runs)
    share = jax.vmap(lambda key: drawn(listed, jnp.asarray(START), SHOWN, key))(keys)
    return share, jnp.full(runs, 1.0 / runs)


def covered(listed: oracle.Trajectories, count: int, confidence: float, shares: Array, chance: Array) -> Held:
    """J ≥ the bound: for the policy that ascends the expected bound, and for that of each batch."""
    start = jnp.asarray(START)
    behaviour = jax.nn.log_softmax(start)
    ascends = partial(bound, listed, confidence)
    before = oracle.pois_search(MDP, jax.nn.log_softmax, start, count, confidence, STEPS, SIZE)

    @jax.jit
    def holds(share: Array) -> tuple[Array, Array]:
        chosen = found(ascends, start, share, count)
        pairs = [(worth(x), ascends(jax.nn.log_softmax(x), behaviour, share, count)) for x in (before, chosen)]
        return tuple(value >= low - 1e-12 for value, low in pairs)  # type: ignore[return-value]

    beforehand, after = jax.lax.map(holds, shares, batch_size=min(1024, len(shares)))
    return Held(count, confidence, float(chance @ beforehand), float(chance @ after))


# --- output ----------------------------------------------------------------------------------------------------------


def show(rows: list[Row], held: list[Held]) -> None:
    """The tables, for a person."""
    last = max(r.batches for r in rows)
    print(f"{'':<22}{'N':>5}{'mean J':>9}{'worst tenth':>13}{'worst':>8}{'steps that fall':>17}")
    for r in rows:
        if r.batches == last:
            print(
                f"{r.search:<22}{r.trajectories:>5}{r.mean:>9.3f}{r.worst_tenth:>13.3f}{r.worst:>8.3f}{r.falls:>17.2f}"
            )
    print(f"\n{'promised':>9}{'N':>5}{'held, chosen before':>21}{'held, searched':>16}")
    for h in held:
        print(f"{h.confidence:>9.2f}{h.trajectories:>5}{h.beforehand:>21.4f}{h.searched:>16.4f}")


def draw(rows: list[Row], held: list[Held], batches: int) -> Figure:
    """Returns over batches, returns against N, coverage."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.8), layout="constrained")
    for name, style in STYLES.items():
        path = [r for r in rows if r.search == name and r.trajectories == SHOWN]
        last = [r for r in rows if r.search == name and r.batches == batches]
        for axes, own, x in (
            (left, path, [r.batches for r in path]),
            (middle, last, [r.trajectories for r in last]),
        ):
            axes.plot(x, [r.mean for r in own], style, label=name, markersize=5, markevery=5 if axes is left else 1)
            axes.plot(x, [r.worst_tenth for r in own], style[:2] + ":", linewidth=1.2)
    left.set(title=f"{SHOWN} trajectories a batch", xlabel="batches", ylabel="exact return J")
    middle.set(title=f"after {batches} batches", xlabel="trajectories a batch N", xscale="log")
    for count, style in ((FEW, "C0o"), (SHOWN, "C2s")):
        own = [h for h in held if h.trajectories == count]
        exact = "exact" if count == FEW else "simulated"
        for part, line in (("beforehand", "-"), ("searched", "--")):
            label = f"{'chosen before' if line == '-' else 'searched'}, N = {count} ({exact})"
            points = [100 * getattr(h, part) for h in own]
            right.plot([100 * h.confidence for h in own], points, style + line, label=label, markersize=4)
    right.plot([0, 100], [0, 100], "k:", linewidth=1)
    right.set(title="how often J is at least the bound", xlabel="confidence promised (%)", ylabel="%", ylim=(0, 103))
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False, fontsize=8, loc="lower right")
    left.xaxis.get_major_locator().set_params(integer=True)
    for axes, low in ((left, 0.5), (middle, -0.1)):
        axes.set_ylim(low, None)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, [f"{x}, mean" for x in labels], loc="outside lower left", ncols=4, frameon=False)
    left.text(0.98, 0.12, "dotted: the worst tenth of runs", transform=left.transAxes, ha="right", fontsize=9)
    return figure


if __name__ == "__main__":
    as_script(main, Options, __doc__)
