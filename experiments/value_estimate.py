"""How accurate are off-policy value estimates from logged trajectories, and are their intervals correct?

Without `--log`: trajectories of more and more random behaviour policies on FrozenLake, whose exact value J is known.

Expect errors to fall with 1/√N and to grow with the distance between the policies. The critic of the behaviour policy
helps at small distances, and a wrong critic hurts. Intervals have the nominal coverage for tens of effective
trajectories, and are far too short for only a few. Exact ratios of state distributions have smaller errors than
products of action ratios at large distances, and their intervals stay correct longest.

Expect the dual with a table for every step, state and action to have the smallest error once every cell that the target
visits has been seen. Before that it is useless, because unseen cells count as 0 and its interval ignores them. Double
reinforcement learning with tables of states and the behaviour policy's critic is in between. Emphatic weights change
little here. Five minutes on one core.

With `--log FILE.npz`: the same estimates for logged trajectories. The arrays are [T, N], with one complete episode per
column:

- reward: the reward of each step
- log_prob: log-probability of the taken action under the behaviour policy, as recorded
- target_log_prob: the same under the target policy (−inf for an action that it never takes)
- mask (optional): 1 on executed steps, which come first
- terminated (optional): 1 where an episode terminated (only checked)
- action_value (optional, for the doubly robust estimate): Q(s_t, a_t) of a critic fitted to other data
- value (with action_value): its mean over the actions of the target policy
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from parts import places, results
from parts.command import as_script, refuse
from parts.trajectory_log import read_log
from rich import box
from rich.console import Console
from rich.table import Table

from pgjax import Categorical, Environment, SettingError, Signals, environments, make_signals, oracle, rollout
from pgjax.estimators import dual_ratios, emphatic_weights, marginal_weights
from pgjax.estimators.value_estimates import VALUE_ESTIMATES, ValueEstimate
from pgjax.runs.record.texts import write_text

FEW = 20  # effective trajectories, below which intervals are unreliable


@dataclass(frozen=True)
class Options(results.Options):
    """Options of the estimates."""

    log: Path | None = None
    """File of trajectories (.npz); default the study on FrozenLake."""
    discount: float = 1.0
    """Discount factor γ, from 0 to 1."""
    level: float = 0.95
    """Level of the confidence intervals, between 0 and 1."""
    json: Path | None = None
    """With --log: JSON file for all numbers."""


def main(options: Options) -> None:
    """Evaluate a log, or run the study."""
    if not 0.0 <= options.discount <= 1.0:
        raise SettingError("discount", options.discount, "must lie in [0, 1]")
    if not 0.0 < options.level < 1.0:
        raise SettingError("level", options.level, "must lie between 0 and 1, both excluded")
    if options.log is not None:
        refuse(options, ["quick", "out"], "a log is evaluated completely, and --json writes the numbers")
        places.check(options)
        judge_log(options.log, options)
    elif options.json is not None:
        raise SettingError("json", str(options.json), "needs --log; the study writes a CSV file")
    else:
        study(options)


# --- a log -----------------------------------------------------------------------------------------------------------


def judge_log(path: Path, options: Options) -> None:
    """Read a log, estimate, write and print."""
    with jax.enable_x64(True):
        signals = read_log(path, options.discount)
        possible = {k: f for k, f in VALUE_ESTIMATES.items() if k != "doubly_robust" or signals.taken_value is not None}
        compiled = jax.jit(lambda s: {name: estimate(s, options.level) for name, estimate in possible.items()})
        numbers = jax.tree.map(float, compiled(signals))
        steps, trajectories = int(signals.mask.sum()), signals.mask.shape[1]
    found = {name: numbers[name] for name in possible}  # in the table's order
    about = {"trajectories": trajectories, "steps": steps, "discount": options.discount, "level": options.level}
    if options.json is not None:
        record = about | {"estimates": {name: estimate._asdict() for name, estimate in found.items()}}
        write_text(options.json, json.dumps(record, indent=1) + "\n")
    show(found, about)


def show(found: dict[str, ValueEstimate], about: dict[str, Any]) -> None:
    """Print the table."""
    title = f"{about['trajectories']} trajectories, {about['steps']} steps, γ = {about['discount']:g}"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("estimator", no_wrap=True)
    interval = f"{100 * about['level']:.4g} %\ninterval"
    for name in ("estimate", "standard\nerror", interval, "effective\nsample\nsize", "largest\nweight\nshare"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, e in found.items():
        numbers = (f"{e.mean:.4g}", f"{e.standard_error:.2g}", f"{e.low:.3g} to {e.high:.3g}")
        table.add_row(name, *numbers, f"{e.effective_sample_size:.1f}", f"{e.largest_weight_share:.3f}")
    console = Console()
    console.print(table)
    weights = found["trajectory"]
    console.print(f"mean weight {weights.mean_weight:.3g} (about 1 is right)", highlight=False)
    if weights.effective_sample_size < FEW:
        console.print("few effective trajectories: the intervals are probably too short", highlight=False)
    if weights.clamped > 0:
        console.print(f"{weights.clamped:.1%} of the weights were clipped, which biases the estimates", highlight=False)


# --- the study on FrozenLake -----------------------------------------------------------------------------------------

LAKE = {"success_rate": 0.9, "reward_schedule": (1.0, -1.0, -0.05)}  # goal, hole, ice
HORIZON, SHARPNESS = 20, 12.0
TRAJECTORIES = (8, 16, 32, 64, 128, 256, 512)
DISTANCES = (0.0, 0.25, 0.5, 0.75, 1.0)  # from the target itself (0) to uniformly random actions (1)
SHOWN = 0.5
WRONG = 0.5  # standard deviation of the noise in a wrong critic's values; returns are between −2 and 1
STYLES = {
    "trajectory": "C0o:",
    "per decision": "C1s:",
    "weighted trajectory": "C2^:",
    "weighted per decision": "C3v:",
    "doubly robust": "C4D:",
    "doubly robust, wrong critic": "C5x:",
    "marginal, exact ratios": "C0o-",
    "marginal, dual ratios": "C1s-",
    "double, dual ratios": "C4D-",
    "emphatic": "C2^-",
}


class Row(NamedTuple):
    """Results of all repetitions of one estimator at one distance with N trajectories."""

    distance: float
    ess_share: float  # mean effective sample size / N
    trajectories: int
    estimator: str
    bias: float
    rmse: float
    mean_standard_error: float
    coverage: float


def study(options: Options) -> None:
    """Simulate, compare with the exact value and draw."""
    lake = environments.make("FrozenLake-misc", **LAKE)._replace(horizon=HORIZON)
    tables = oracle.from_gymnax("FrozenLake-misc", horizon=HORIZON, discount=options.discount, **LAKE)
    logits = target_logits(tables.mdp)
    exact = float(oracle.exact_values(tables.mdp, jax.nn.log_softmax(logits)).objective)
    chunks, chunk = (1, 50) if options.quick else (4, 100)
    sizes = TRAJECTORIES[1:2] if options.quick else TRAJECTORIES
    simulate = jax.jit(partial(repetitions, lake, tables, logits, chunk, sizes[-1]))
    judge = jax.jit(jax.vmap(partial(estimates, options.level, jax.nn.log_softmax(logits)), in_axes=1))
    rows: list[Row] = []
    for i, distance in enumerate(DISTANCES):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), i), chunks)
        parts = [by_size(judge, simulate(distance, key), sizes) for key in keys]
        found = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        rows += [
            judged(distance, size, name, estimate, exact)
            for size, named in zip(sizes, found, strict=True)
            for name, estimate in named.items()
        ]
        print(f"distance {distance}: {chunks * chunk} repetitions", flush=True)
    figure = draw(rows, sizes[-1], options.level, f"{chunks * chunk} repetitions, J = {exact:.3f}")
    options.write("value_estimate", figure, Row._fields, rows)


def target_logits(mdp: oracle.MDP) -> Array:
    """Logits of the target policy: action values of the optimal policy."""
    q = np.zeros(mdp.reward.shape)
    for _ in range(mdp.horizon):
        q = mdp.reward + mdp.discount * mdp.transition @ q.max(axis=1)
    return jnp.asarray(SHARPNESS * (q - q.max(axis=1, keepdims=True)), jnp.float32)


def repetitions(
    lake: Environment,
    tables: oracle.Tabular,
    logits: Array,
    count: int,
    most: int,
    distance: float,
    key: Array,
) -> tuple[Signals, Signals, Array, Array, Array]:
    """Trajectories of all repetitions, [T, count, N]: with a critic, a wrong one, states, actions and exact ratios."""
    log_behaviour, log_target = jax.nn.log_softmax((1.0 - distance) * logits), jax.nn.log_softmax(logits)
    states = jnp.arange(len(tables.observations))
    state_of = jnp.zeros(lake.num_categories or 0, int).at[tables.observations].set(states)
    keys = jax.random.split(key, count * most)
    acting = rollout.episodes(lake, lambda tile: Categorical(log_behaviour[state_of[tile]]), keys)
    state = state_of[acting.observation]
    critic = oracle.exact_values(tables.mdp, log_behaviour).action_value
    noise = WRONG * jax.random.normal(jax.random.key(1), critic.shape)

    def signals(critic: Array) -> Signals:
        action_value = critic[jnp.arange(HORIZON)[:, None], state]
        flat = make_signals(
            acting.reward,
            mask=acting.mask,
            terminated=acting.terminated,
            truncated=acting.truncated,
            discount=tables.mdp.discount,
            value=jnp.sum(jnp.exp(log_target[state]) * action_value, axis=-1),
            log_ratio=log_target[state, acting.action] - acting.log_prob,
            action_value=action_value,
            action=acting.action,
        )
        return jax.tree.map(lambda x: x.reshape(HORIZON, count, most, *x.shape[2:]), flat)

    exact = oracle.state_ratios(tables.mdp, log_target, log_behaviour)[jnp.arange(HORIZON)[:, None], state]
    place, action, ratio = (x.reshape(HORIZON, count, most) for x in (state, acting.action, exact))
    return signals(critic), signals(critic + noise), place, action, ratio


def by_size(judge: Callable, batches: tuple, sizes: tuple[int, ...]) -> list[dict[str, ValueEstimate]]:
    """Every estimate from the first N trajectories of each repetition, for every N: arrays [count]."""
    return [jax.device_get(judge(*jax.tree.map(lambda x, n=n: x[:, :, :n], batches))) for n in sizes]


def estimates(
    level: float, log_target: Array, right: Signals, wrong: Signals, state: Array, action: Array, ratio: Array
) -> dict[str, ValueEstimate]:
    """Every estimate from one batch: with a critic, a wrong critic, states and actions, and exact ratios of states."""
    shape = log_target.shape
    place = jax.nn.one_hot(state, shape[0])[..., None]
    taken, mean = (
        (place * chosen[..., None, :]).reshape(*state.shape, shape[0] * shape[1])
        for chosen in (jax.nn.one_hot(action, shape[1]), jnp.exp(log_target)[state])
    )
    fitted = dual_ratios.fit_dual(right, place[..., 0]).state_ratio
    return {name.replace("_", " "): estimate(right, level) for name, estimate in VALUE_ESTIMATES.items()} | {
        "doubly robust, wrong critic": VALUE_ESTIMATES["doubly_robust"](wrong, level),
        "marginal, exact ratios": marginal_weights.marginal(right, ratio, level),
        "marginal, dual ratios": dual_ratios.dual(right, taken, mean, level=level),
        "double, dual ratios": marginal_weights.double(right, fitted, level),
        "emphatic": emphatic_weights.emphatic(right, taken, mean, level=level),
    }


def judged(distance: float, size: int, name: str, estimate: ValueEstimate, exact: float) -> Row:
    """Error and coverage of the repetitions of an estimate, arrays [R], against the exact value."""
    error = np.asarray(estimate.mean, np.float64) - exact
    inside = (np.asarray(estimate.low) <= exact) & (exact <= np.asarray(estimate.high))
    rmse, share = np.sqrt(np.mean(error**2)), np.mean(estimate.effective_sample_size) / size
    standard_error = np.mean(estimate.standard_error)
    numbers = (float(x) for x in (error.mean(), rmse, standard_error, inside.mean()))
    return Row(distance, float(share), size, name, *numbers)


def draw(rows: list[Row], size: int, level: float, subtitle: str) -> Figure:
    """Error and coverage against the number of trajectories and against the distance."""
    figure, panels = plt.subplots(2, 2, figsize=(11, 9), sharey="row", layout="constrained")
    for name, style in STYLES.items():
        own = [row for row in rows if row.estimator == name]
        by_size = [row for row in own if row.distance == SHOWN]
        by_distance = [row for row in own if row.trajectories == size]
        columns = ((by_size, [r.trajectories for r in by_size]), (by_distance, [r.ess_share for r in by_distance]))
        for column, (points, x) in enumerate(columns):
            panels[0, column].plot(x, [r.rmse for r in points], style, label=name, markersize=5, linewidth=1.4)
            panels[1, column].plot(x, [100 * r.coverage for r in points], style, markersize=5, linewidth=1.4)
    fresh = [row for row in rows if row.distance == 0.0 and row.estimator == "trajectory"]
    reference = [row.trajectories for row in fresh], [row.rmse for row in fresh]
    panels[0, 0].plot(*reference, "k:", label="same number of on-policy trajectories")
    finish(panels, size, level)
    figure.suptitle(f"Off-policy value estimates on FrozenLake\n{subtitle}")
    return figure


def finish(panels: Any, size: int, level: float) -> None:
    """Set titles, labels and scales."""
    panels[0, 0].set(title="behaviour policy half-way to random actions", ylabel="root-mean-square error", yscale="log")
    panels[0, 1].set(title=f"{size} trajectories, increasingly random behaviour")
    panels[1, 0].set(ylabel=f"{100 * level:.4g} % intervals that hold J (%)")
    for column in (0, 1):
        panels[1, column].axhline(100 * level, color="black", linewidth=1, linestyle="--")
        for axes in panels[:, column]:
            axes.set_xscale("log")
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[:, 0]:
        axes.set(xlabel="trajectories N", xticks=TRAJECTORIES, xticklabels=TRAJECTORIES)
        axes.minorticks_off()
    for axes in panels[:, 1]:
        axes.set_xlabel("effective sample size / N (mean)")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.invert_xaxis()
    figure = panels[0, 0].figure
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)


if __name__ == "__main__":
    as_script(main, Options, __doc__)
