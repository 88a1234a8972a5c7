"""Which estimator gains most per trajectory, where does a biased one win, and what does clipping buy?

E[J(θ + α ĝ)] − J(θ) of one step, summed over every batch of a small problem in float64: for every estimator of the
exact table, step size α and number of trajectories N. Printed for each: the best α and the gain there per trajectory,
what half and twice that α leave of the gain, the spread over batches, and how often J falls. Off-policy estimators
are given trajectories of a behaviour policy at several distances.

Expect baselines and critics to gain most per trajectory; larger N to gain less per trajectory; most best steps to be
large (on a table one may jump to a nearly deterministic policy; 40 is the largest tried), so that the price of half or
twice the best step is a few percent, except for whole-episode credit and weights; per-decision weights to lose to forms
that drop ratios, or that have a critic inside, once the policies are far apart; and clipping to change nothing at equal
policies and to leave no gain away from the data: it stops the policy. About a minute on two cores.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from parts.command import as_script
from parts.results import Options

from pgjax import oracle

MDP = oracle.make_mdp(
    np.array([0.6, 0.4]),
    np.array([[[0.6, 0.3], [0.2, 0.5]], [[0.3, 0.3], [0.1, 0.8]]]),
    np.array([[1.0, 0.0], [-0.5, 2.0]]),
    horizon=2,
    discount=0.9,
)
THETA = np.array([[0.6, -0.3], [-0.4, 0.5]])
AWAY = np.array([[-1.0, 0.4], [0.7, -0.6]])  # the direction in which the behaviour policy lies
DISTANCES = (0.0, 0.5, 1.0, 1.5, 2.0)
SIZES = np.geomspace(0.02, 40.0, 34)
COUPLED = ("batch_mean_2", "leave_one_out_2", "grpo_2")  # need more than one trajectory
SHOWN = {
    "total_return": "C7-",
    "reward_to_go": "C0-",
    "reward_to_go_state_value": "C2-",
    "all_action": "C1-",
    "leave_one_out_2": "C4--",
    "grpo_2": "C3--",
}
FORMS = {
    "per_decision_is_state_value": "k--",
    "first_order_state_value": "C2o-",
    "ppo_clip_0.2": "C3s--",
    "doubly_robust": "C1^-",
    "prefix_is": "C0v-",
    "stale": "C5x:",
}


class Row(NamedTuple):
    """One estimator with N trajectories of a behaviour policy at a distance, at its best step size."""

    estimator: str
    distance: float
    trajectories: int
    step: float
    gain: float  # E[J(θ + α ĝ)] − J(θ)
    gain_per_trajectory: float
    half_step: float  # share of the gain that is left
    twice_step: float
    deviation: float  # of the gain over batches
    falls: float  # how often J falls


def main(options: Options) -> None:
    """Enumerate, print, draw."""
    counts, distances = ((1, 2), (0.0, 1.0)) if options.quick else ((1, 2, 4), DISTANCES)
    curves: dict[tuple[str, float, int], oracle.Improvement] = {}
    with jax.enable_x64(True):
        on_policy, off_policy = names()
        if options.quick:
            on_policy, off_policy = [n for n in on_policy if n in SHOWN], ["ppo_clip_0.2", "first_order_state_value"]
        for count in counts:
            for name in on_policy:
                if count > 1 or name not in COUPLED:
                    curves[name, 0.0, count] = improvement(name, 0.0, count)
        few = counts[-1]
        for distance in distances:
            for name in off_policy:
                curves[name, distance, few] = improvement(name, distance, few)
    rows = [row(*key, found) for key, found in curves.items()]
    show(rows)
    options.write("expected_improvement", draw(curves, rows, few), Row._fields, rows)


def names() -> tuple[list[str], list[str]]:
    """Estimators that sample from the policy itself, and from another."""
    table = oracle.table_estimators(MDP, jnp.asarray(THETA), jnp.asarray(THETA))
    on_policy = [name for name, (_, sampling) in table.items() if sampling.behaviour is None]
    return on_policy, [name for name in table if name not in on_policy]


def improvement(name: str, distance: float, count: int) -> oracle.Improvement:
    """Of one estimator, for every step size."""
    theta = jnp.asarray(THETA)
    estimator, sampling = oracle.table_estimators(MDP, theta, theta + distance * AWAY)[name]
    sampling = oracle.Sampling(sampling.behaviour, sampling.value, sampling.action_value, count)
    return jax.device_get(
        oracle.expected_improvement(MDP, estimator, jax.nn.log_softmax, theta, jnp.asarray(SIZES), sampling)
    )


def row(name: str, distance: float, count: int, found: oracle.Improvement) -> Row:
    """At the best step of the grid; half and twice it by interpolation in log α."""
    best = int(np.argmax(found.mean))
    gain, step = float(found.mean[best]), float(SIZES[best])
    half, twice = (
        (np.nan, np.nan)
        if gain <= 0
        else (float(np.interp(np.log(step * f), np.log(SIZES), found.mean)) / gain for f in (0.5, 2.0))
    )
    numbers = gain, gain / count, half, twice, float(found.deviation[best]), float(found.falls[best])
    return Row(name, distance, count, step, *numbers)


def show(rows: list[Row]) -> None:
    """The table, for a person."""
    print(f"{'':<28}{'distance':>9}{'N':>2}{'α*':>7}{'gain/N':>8}{'α*/2':>6}{'2α*':>6}{'spread':>7}{'falls':>6}")
    for r in rows:
        start = f"{r.estimator:<28}{r.distance:>9.1f}{r.trajectories:>2}{r.step:>7.2f}{r.gain_per_trajectory:>8.4f}"
        print(f"{start}{r.half_step:>6.2f}{r.twice_step:>6.2f}{r.deviation:>7.3f}{r.falls:>6.2f}")


def draw(curves: dict[tuple[str, float, int], oracle.Improvement], rows: list[Row], few: int) -> Figure:
    """Gain against the step's size; best gain per trajectory against N; best gain against the distance."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
    for name, style in SHOWN.items():
        if (name, 0.0, few) in curves:
            left.plot(SIZES, curves[name, 0.0, few].mean, style, label=name.removesuffix("_2"))
        own = [r for r in rows if r.estimator == name]
        label = name.removesuffix("_2").replace("_", " ")
        middle.plot([r.trajectories for r in own], [r.gain_per_trajectory for r in own], style, marker="o", label=label)
    for name, style in FORMS.items():
        own = [r for r in rows if r.estimator == name]
        right.plot([r.distance for r in own], [r.gain for r in own], style, label=name.replace("_", " "), markersize=5)
    left.set(
        title=f"one step with {few} trajectories", xscale="log", xlabel="step size α", ylabel="E[J(θ + αĝ)] − J(θ)"
    )
    low, high = left.get_ylim()
    left.set_ylim(max(low, -0.5 * high), high)
    left.axhline(0, color="black", linewidth=0.8)
    middle.set(title="at the best step size", xlabel="trajectories N", ylabel="gain per trajectory", ylim=(0, None))
    right.set(title=f"{few} trajectories of another policy", xlabel="its distance (in logits)", ylabel="best gain")
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    middle.legend(frameon=False, fontsize=8)
    right.legend(frameon=False, fontsize=8, loc="center right", bbox_to_anchor=(1.0, 0.28))
    return figure


if __name__ == "__main__":
    as_script(main, Options, __doc__)
