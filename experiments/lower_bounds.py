"""Does a lower confidence bound keep policy search from overfitting its data?

Each search repeats three steps: sample N trajectories of the current policy, maximise a surrogate on them, and take the
result as the new policy. The surrogates are (1/N) Σ ρR without a penalty, the same minus the penalty of POIS,
‖R‖ √(odds E[ρ²]/N), and PPO's clipped surrogate. The Rényi divergence is exact on the tables, and so are the returns;
batches are sampled. Coverage of the bound is exact for two trajectories (over every batch) and simulated for twenty.

Left: the return after each batch, mean and worst tenth of all runs. Middle: the same after the last batch, against N.
Right: how often J is at least the bound, against the nominal confidence. It is shown for a policy that is chosen
beforehand, as the theorem assumes, and for the policy that the search found on the same data.

Expect the search without penalty to have very low returns in its worst runs if N is small. Searches of the bound have
the highest mean return, at 95 % and at 50 %; the clipped surrogate has the best worst runs for small N. The bound
holds more often than nominal for a fixed policy, since Cantelli's inequality is conservative. It holds less often for
the policy found by the search, which overestimates it. Three minutes on two cores.
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

MDP = oracle.make_mdp(  # the action with the higher immediate reward leads to states with low rewards
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
"""(log π, log μ, shares of the batch, N) -> the objective to maximise."""


class Row(NamedTuple):
    """One search with N trajectories per batch, after a number of batches."""

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
    beforehand: float  # for a policy that does not depend on the batch
    searched: float  # for the policy that the search found on the same batch


def main(options: Options) -> None:
    """Search, compute coverage and draw."""
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
    """The objective of a search."""
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
    """θ after maximising the surrogate of one batch."""
    behaviour = jax.nn.log_softmax(theta)
    return oracle.ascend(lambda x: ascends(jax.nn.log_softmax(x), behaviour, share, count), theta, STEPS, SIZE)


def worth(theta: Array) -> Array:
    """J."""
    return oracle.exact_values(MDP, jax.nn.log_softmax(theta)).objective


def drawn(listed: oracle.Trajectories, theta: Array, count: int, key: Array) -> Array:
    """Shares of trajectories in a batch of N from the policy, [M]."""
    chance = oracle.trajectory_probability(MDP, listed, jax.nn.log_softmax(theta))
    members = jax.random.choice(key, len(chance), (count,), p=chance)
    return jnp.zeros_like(chance).at[members].add(1.0 / count)


def searched(listed: oracle.Trajectories, name: str, count: int, runs: int, batches: int) -> list[Row]:
    """Run a search batch by batch, many times."""
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
    """Shares of trajectories in all batches of a given size, [B, M], and their probabilities."""
    many = listed.state.shape[1]
    chance = np.asarray(oracle.trajectory_probability(MDP, listed, jax.nn.log_softmax(jnp.asarray(START))))
    members = np.array(list(combinations_with_replacement(range(many), FEW)))
    share = np.stack([np.bincount(row, minlength=many) for row in members]) / FEW
    ways = factorial(FEW) / np.prod([[factorial(round(c)) for c in row] for row in share * FEW], axis=1)
    return jnp.asarray(share), jnp.asarray(ways * np.prod(chance[members], axis=1))


def drawn_batches(listed: oracle.Trajectories, runs: int) -> tuple[Array, Array]:
    """Shares of simulated batches, [runs, M], with equal probabilities."""
    keys = jax.random.split(jax.random.key(0), runs)
    share = jax.vmap(lambda key: drawn(listed, jnp.asarray(START), SHOWN, key))(keys)
    return share, jnp.full(runs, 1.0 / runs)


def covered(listed: oracle.Trajectories, count: int, confidence: float, shares: Array, chance: Array) -> Held:
    """How often J ≥ the bound: for the policy that maximises the expected bound, and for that of each batch."""
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
    """Print the tables."""
    last = max(r.batches for r in rows)
    print(f"{'':<22}{'N':>5}{'mean J':>9}{'worst tenth':>13}{'worst':>8}{'steps that fall':>17}")
    for r in rows:
        if r.batches == last:
            print(
                f"{r.search:<22}{r.trajectories:>5}{r.mean:>9.3f}{r.worst_tenth:>13.3f}{r.worst:>8.3f}{r.falls:>17.2f}"
            )
    print(f"\n{'nominal':>9}{'N':>5}{'held, fixed policy':>21}{'held, searched':>16}")
    for h in held:
        print(f"{h.confidence:>9.2f}{h.trajectories:>5}{h.beforehand:>21.4f}{h.searched:>16.4f}")


def draw(rows: list[Row], held: list[Held], batches: int) -> Figure:
    """Returns over batches, returns against N, and coverage."""
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
            label = f"{'fixed policy' if line == '-' else 'searched'}, N = {count} ({exact})"
            points = [100 * getattr(h, part) for h in own]
            right.plot([100 * h.confidence for h in own], points, style + line, label=label, markersize=4)
    right.plot([0, 100], [0, 100], "k:", linewidth=1)
    right.set(title="how often J is at least the bound", xlabel="nominal confidence (%)", ylabel="%", ylim=(0, 103))
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
