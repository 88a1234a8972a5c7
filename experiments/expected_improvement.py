"""Which estimator gains most per trajectory, where does a biased one win, and what is the effect of clipping?

Computes E[J(θ + α ĝ)] − J(θ) of one step over every batch of three small problems in float64: for every estimator of
the exact table, step size α and number of trajectories N (up to eight where the problem has few trajectories).
Off-policy estimators get trajectories of behaviour policies at several distances.

Each row gives the best α, the gain per trajectory there, the share of the gain left at half and twice that α, the
standard deviation over batches, and how often J falls. The best α is ∞ if the gain grows up to a deterministic policy,
and 0 if no α gains.

Expect baselines and critics to gain most per trajectory. A larger N gains less per trajectory and has a larger best
step, which is ∞ where no batch is misleading. Half or twice the best step costs a few percent, except for
whole-episode credit and weights. Expect per-decision weights to lose to forms that drop ratios or use a critic once
the policies differ much. Clipping changes nothing at equal policies and leaves no gain far from the data, since it
stops the policy. About four minutes on two cores.
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


class Problem(NamedTuple):
    """An MDP, θ, and the numbers of trajectories for which every batch can be listed."""

    mdp: oracle.MDP
    theta: np.ndarray
    counts: tuple[int, ...]


PROBLEMS = {
    "bandit": Problem(
        oracle.make_mdp(np.ones(1), np.zeros((1, 3, 1)), np.array([[1.0, 0.7, 0.0]]), horizon=1),
        np.array([[0.0, 0.5, -0.2]]),
        (1, 2, 4, 8),
    ),
    "two steps": Problem(
        oracle.make_mdp(
            np.array([1.0, 0.0]),
            np.array([[[0.8, 0.2], [0.3, 0.7]], [[0.5, 0.5], [0.1, 0.9]]]),
            np.array([[0.6, 0.0], [-0.5, 1.5]]),
            horizon=2,
        ),
        np.array([[0.4, -0.2], [0.3, -0.3]]),
        (1, 2, 4, 8),
    ),
    "may end": Problem(
        oracle.make_mdp(
            np.array([0.6, 0.4]),
            np.array([[[0.6, 0.3], [0.2, 0.5]], [[0.3, 0.3], [0.1, 0.8]]]),
            np.array([[1.0, 0.0], [-0.5, 2.0]]),
            horizon=2,
            discount=0.9,
        ),
        np.array([[0.6, -0.3], [-0.4, 0.5]]),
        (1, 2, 4),
    ),
}
SHOWN_PROBLEM, OFF_POLICY = "two steps", "may end"
AWAY = np.array([[-1.0, 0.4], [0.7, -0.6]])  # direction of the behaviour policy in θ
DISTANCES = (0.0, 0.5, 1.0, 1.5, 2.0)
SIZES = np.geomspace(0.02, 2e4, 49)  # the last one stands for ∞
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

    problem: str
    estimator: str
    distance: float
    trajectories: int
    step: float  # ∞ if the longest step gains most, 0 if none gains
    gain: float  # E[J(θ + α ĝ)] − J(θ)
    gain_per_trajectory: float
    half_step: float  # share of the gain that is left
    twice_step: float
    deviation: float  # of the gain over batches
    falls: float  # share of batches after which J is lower


def main(options: Options) -> None:
    """Enumerate, print and draw."""
    distances = (0.0, 1.0) if options.quick else DISTANCES
    curves: dict[tuple[str, str, float, int], oracle.Improvement] = {}
    with jax.enable_x64(True):
        on_policy, off_policy = names()
        if options.quick:
            on_policy, off_policy = [n for n in on_policy if n in SHOWN], ["ppo_clip_0.2", "first_order_state_value"]
        for problem, (_, _, counts) in PROBLEMS.items():
            for count in counts[:2] if options.quick else counts:
                for name in on_policy:
                    if count > 1 or name not in COUPLED:
                        curves[problem, name, 0.0, count] = improvement(problem, name, 0.0, count)
        few = 2 if options.quick else PROBLEMS[OFF_POLICY].counts[-1]
        for distance in distances:
            for name in off_policy:
                curves[OFF_POLICY, name, distance, few] = improvement(OFF_POLICY, name, distance, few)
    rows = [row(*key, found) for key, found in curves.items()]
    show(rows)
    options.write("expected_improvement", draw(curves, rows, few), Row._fields, rows)


def names() -> tuple[list[str], list[str]]:
    """Names of the on-policy and of the off-policy estimators."""
    mdp, theta, _ = PROBLEMS[OFF_POLICY]
    table = oracle.table_estimators(mdp, jnp.asarray(theta), jnp.asarray(theta))
    on_policy = [name for name, (_, sampling) in table.items() if sampling.behaviour is None]
    return on_policy, [name for name in table if name not in on_policy]


def improvement(problem: str, name: str, distance: float, count: int) -> oracle.Improvement:
    """Expected improvement of one estimator for every step size."""
    mdp, logits, _ = PROBLEMS[problem]
    theta = jnp.asarray(logits)
    behaviour = theta + distance * AWAY if distance else theta
    estimator, sampling = oracle.table_estimators(mdp, theta, behaviour)[name]
    sampling = oracle.Sampling(sampling.behaviour, sampling.value, sampling.action_value, count)
    return jax.device_get(
        oracle.expected_improvement(mdp, estimator, jax.nn.log_softmax, theta, jnp.asarray(SIZES), sampling)
    )


def row(problem: str, name: str, distance: float, count: int, found: oracle.Improvement) -> Row:
    """Values at the best step, from a parabola in log α through the best grid point and its neighbours.

    Values at half and twice the best step are interpolated in log α.
    """
    x, best = np.log(SIZES), int(np.argmax(found.mean))
    gain, step = float(found.mean[best]), float(SIZES[best])
    endless = found.mean[-1] >= gain - 1e-9
    if gain <= 0:
        best, gain, step, endless = 0, 0.0, 0.0, False
    elif endless:
        best, step = len(SIZES) - 1, np.inf
    elif best > 0:
        curve = np.poly1d(np.polyfit(x[best - 1 : best + 2] - x[best], found.mean[best - 1 : best + 2], 2))
        top = -curve[1] / (2 * curve[2])
        gain, step = float(curve(top)), float(step * np.exp(top))
    half = twice = np.nan
    if 0 < step < np.inf:
        half, twice = (float(np.interp(np.log(step * f), x, found.mean)) / gain for f in (0.5, 2.0))
    spread, falls = (float(found.deviation[best]), float(found.falls[best])) if step > 0 else (0.0, 0.0)
    return Row(problem, name, distance, count, step, gain, gain / count, half, twice, spread, falls)


def show(rows: list[Row]) -> None:
    """Print the table."""
    heads = f"{'distance':>9}{'N':>2}{'α*':>7}{'gain/N':>8}{'α*/2':>6}{'2α*':>6}{'spread':>7}{'falls':>6}"
    for problem in dict.fromkeys(r.problem for r in rows):
        print(f"\n{problem:<28}{heads}")
        for r in (r for r in rows if r.problem == problem):
            start = f"{r.estimator:<28}{r.distance:>9.1f}{r.trajectories:>2}{r.step:>7.2f}{r.gain_per_trajectory:>8.4f}"
            print(f"{start}{r.half_step:>6.2f}{r.twice_step:>6.2f}{r.deviation:>7.3f}{r.falls:>6.2f}")


def draw(curves: dict[tuple[str, str, float, int], oracle.Improvement], rows: list[Row], few: int) -> Figure:
    """Gain against the step size, best gain per trajectory against N, and best gain against the distance."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
    most = max(r.trajectories for r in rows if r.problem == SHOWN_PROBLEM)
    for name, style in SHOWN.items():
        left.plot(SIZES, curves[SHOWN_PROBLEM, name, 0.0, most].mean, style, label=name.removesuffix("_2"))
        own = [r for r in rows if r.estimator == name and r.problem == SHOWN_PROBLEM]
        label = name.removesuffix("_2").replace("_", " ")
        middle.plot([r.trajectories for r in own], [r.gain_per_trajectory for r in own], style, marker="o", label=label)
    for name, style in FORMS.items():
        own = [r for r in rows if r.estimator == name and r.problem == OFF_POLICY]
        right.plot([r.distance for r in own], [r.gain for r in own], style, label=name.replace("_", " "), markersize=5)
    left.set(
        title=f"one step with {most} trajectories", xscale="log", xlabel="step size α", ylabel="E[J(θ + αĝ)] − J(θ)"
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
