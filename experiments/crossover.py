"""Which form of importance sampling has the smaller error, for how many trajectories?

Forms that keep all ratios are exact and have a larger variance; forms that drop some are biased and have a smaller one.
With N trajectories the mean squared error is ‖bias‖² + variance/N. At N* the errors of a biased form and of the better
exact form are equal:

    N* = (variance of the better exact form − variance of the form) / ‖bias‖²

With fewer trajectories than N* the biased form has the smaller error. The upper panels are exact: all trajectories of a
walk, in float64. The lower panels are measured on CartPole-v1. There a partly trained policy samples, later policies of
the same training are the targets, and the true gradient is a mean over many trajectories of the target.

Squared biases are averaged over pairs of different blocks of trajectories, so that noise does not count as bias. Error
bars are jackknife standard errors. The baseline of every form is the mean of its credit at each time step over the
other trajectories.

Expect N* of a few hundred trajectories. On CartPole an exact form wins at every N if the policies are as close as
0.0006 nats per step. At 0.01 the first-order form is best up to about 40 trajectories, the prefix form up to about 700,
and an exact form above. For larger distances N* is in the thousands. On the walk N* is lowest at a distance of about
0.02, between one and two hundred. Clipping and leaving out all ratios do worst: at 0.01 on CartPole, N* is below ten.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from parts.command import as_script
from parts.results import Options

from pgjax import (
    FORMS,
    Agent,
    Environment,
    baselined,
    clipped_ratio,
    environments,
    make_agent,
    make_signals,
    make_trainer,
    off_policy_reward_to_go,
    oracle,
    product,
    reinforce,
    reward_to_go,
    rollout,
    score,
)
from pgjax.estimators.baselines import Baseline, per_time, time_step
from pgjax.training.gradients import trajectory_gradients
from pgjax.training.loss import Batch
from pgjax.training.signals import log_ratio
from pgjax.types import Estimator, Params

EXACT = ("trajectory_is", "per_decision_is")
STYLES: dict[str, tuple[str, Any]] = {  # colour, line
    "trajectory_is": ("black", "-"),
    "per_decision_is": ("black", "--"),
    "prefix_is": ("C0", "-"),
    "suffix_is": ("C1", "-"),
    "first_order": ("C2", "-"),
    "ppo_clip": ("C3", "--"),
    "truncated_is": ("C4", "-."),
    "stale": ("C5", ":"),
}
PARTS = {name: FORMS[name] for name in STYLES if name in FORMS}
PARTS |= {"ppo_clip": (reward_to_go, Partial(clipped_ratio, clip=0.2)), "stale": (reward_to_go, score)}
RECIPE = reinforce(learning_rate=3e-3)
UPDATES_BEFORE, UPDATES_AFTER = 12, (1, 2, 3, 4, 6, 9, 13)  # before the behaviour policy; from it to each target
HORIZON, BLOCKS, BLOCK = 80, 64, 500  # steps; blocks and trajectories per block (twice as many for the true gradient)
ROUNDING = 1e-20  # of a squared bias in float64
SHOWN = 0.01  # approximate KL per step in the left panels
COLUMNS = ("problem", "kl_per_step", "trajectories", "form", "squared_bias", "squared_bias_error", "variance")
COLUMNS += ("variance_error", "squared_gradient", "crossover_low", "crossover", "crossover_high")


class Errors(NamedTuple):
    """Error of a form, [1 + B]: the estimate, then B leave-one-block-out estimates for the jackknife (exact: B = 0)."""

    squared_bias: np.ndarray
    variance: np.ndarray
    noise: float  # standard error of the squared bias if the bias is zero


class Distance(NamedTuple):
    """Errors of all forms at one distance between the policies."""

    kl: float  # of behaviour and target, nats per step of the behaviour policy
    trajectories: int  # 0: all of them
    squared_gradient: float
    forms: dict[str, Errors]


def main(options: Options) -> None:
    """Evaluate every form on both problems, one row of panels each."""
    quick = options.quick
    names = ("per_decision_is", "first_order") if quick else tuple(PARTS)
    with jax.enable_x64(True):
        walk = judge_walk(names, *((3, np.geomspace(0.1, 1.0, 3)) if quick else (8, np.geomspace(0.05, 2.5, 18))))
    cartpole = judge_cartpole(names, *((20, (4,), 4, 50) if quick else (HORIZON, UPDATES_AFTER, BLOCKS, BLOCK)))
    problems = {"walk (exact)": walk, "CartPole-v1 (measured)": cartpole}
    figure, panels = plt.subplots(2, 2, figsize=(13, 10), sharex="col", layout="constrained")
    for line, (problem, distances) in zip(panels, problems.items(), strict=True):
        draw_errors(line[0], problem, min(distances, key=lambda d: abs(np.log(d.kl / SHOWN))))
        draw_crossovers(line[1], problem, distances)
    handles = [Line2D([], [], color=c, linestyle=s, label=f) for f, (c, s) in STYLES.items() if f in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle("Importance sampling: dots are N*;  △ N* is above this;  ▽ an exact form is better at every N")
    rows = [(problem, *row) for problem, found in problems.items() for d in found for row in table(d)]
    options.write("crossover", figure, COLUMNS, rows)


# --- exact -----------------------------------------------------------------------------------------------------------


def judge_walk(names: Sequence[str], horizon: int, moves: np.ndarray) -> list[Distance]:
    """A walk on five states in a row; one step in ten goes the other way; each step from the right end earns 1."""
    place, step = np.arange(5), np.array([-1, 1])
    right, wrong = (np.eye(5)[np.clip(place[:, None] + s * step, 0, 4)] for s in (1, -1))
    mdp = oracle.make_mdp(np.eye(5)[2], 0.9 * right + 0.1 * wrong, np.eye(5)[:, [4, 4]], horizon)
    log_policy = jax.nn.log_softmax
    start = jnp.zeros((5, 2))
    direction = oracle.exact_gradient(mdp, log_policy, start)
    behaviour = log_policy(start)
    past = oracle.exact_values(mdp, behaviour)
    out = []
    for move in moves:
        theta = start + move * direction / jnp.linalg.norm(direction)
        gradient = jnp.ravel(oracle.exact_gradient(mdp, log_policy, theta))
        future = oracle.exact_values(mdp, log_policy(theta))
        forms = {}
        for name in names:
            values = future if PARTS[name][0] is off_policy_reward_to_go else past
            mean_credit = jnp.einsum("ts,sa,tsa->t", past.state_law, jnp.exp(behaviour), values.action_value)
            form = estimator(name, Partial(per_time, table=mean_credit))
            exact = oracle.moments(mdp, form, log_policy, theta, oracle.Sampling(behaviour))
            squared_bias = float(jnp.sum((exact.mean - gradient) ** 2))
            forms[name] = Errors(np.array([squared_bias]), np.array([float(exact.variance)]), ROUNDING)
        each = jnp.sum(jnp.exp(behaviour) * (behaviour - log_policy(theta)), axis=1)
        out.append(Distance(float(jnp.sum(past.state_law @ each)) / horizon, 0, float(gradient @ gradient), forms))
    return out


def estimator(name: str, baseline: Baseline) -> Estimator:
    """A form with a baseline from the other trajectories."""
    credit, surrogate = PARTS[name]
    return product(baselined(credit, baseline), surrogate)


# --- measured --------------------------------------------------------------------------------------------------------


def judge_cartpole(names: Sequence[str], horizon: int, updates: Sequence[int], count: int, size: int) -> list[Distance]:
    """Train, and evaluate each form for later policies; the true gradient is from as many blocks of twice the size."""
    environment = environments.make("CartPole-v1")._replace(horizon=horizon)
    agent = make_agent(environment, hidden=(32, 32))
    behaviour, targets = policies(environment, agent, updates)
    measure = jax.jit(partial(blocks, environment, agent), static_argnames=("size", "names"))
    out = []
    for i, target in enumerate(targets):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(1), i), (2, count))
        found, kl = jax.device_get(measure(size, behaviour, target, keys[0], names=tuple(names)))
        own, _ = jax.device_get(measure(2 * size, target, target, keys[1], names=("stale",)))
        truth = own["stale"][0].astype(float)
        forms = {name: jackknifed(found[name][0].astype(float) - truth, found[name][1]) for name in names}
        out.append(Distance(float(kl.mean()), count * size, jackknifed(truth, kl).squared_bias[0], forms))
        print(f"CartPole-v1, {updates[i]} updates away: KL {out[-1].kl:.2g} per step", flush=True)
    return out


def policies(environment: Environment, agent: Agent, updates: Sequence[int]) -> tuple[Params, list[Params]]:
    """A partly trained policy, and the policies after further updates on new data."""
    trainer = make_trainer(environment, agent, replace(RECIPE.config, num_envs=32))
    init, update = jax.jit(trainer.init), jax.jit(trainer.update)
    history = [init(RECIPE.algorithm, jax.random.key(0))]
    for _ in range(UPDATES_BEFORE + max(updates)):
        history.append(update(RECIPE.algorithm, history[-1])[0])
    return history[UPDATES_BEFORE].params, [history[UPDATES_BEFORE + k].params for k in updates]


def blocks(
    environment: Environment, agent: Agent, size: int, behaviour: Params, target: Params, keys: Array, names: Sequence
) -> tuple[dict[str, tuple[Array, Array]], Array]:
    """For each form the mean gradient, [B, P], and the variance of one trajectory's gradient, [B]; KL per step, [B]."""

    def block(key: Array) -> tuple[dict[str, tuple[Array, Array]], Array]:
        rows = rollout.episodes(environment, partial(agent.policy, behaviour), jax.random.split(key, size))
        x = log_ratio(agent.policy(target, rows.observation), rows)
        signals = make_signals(
            rows.reward, mask=rows.mask, terminated=rows.terminated, truncated=rows.truncated, log_ratio=x
        )
        out = {}
        for name in names:
            form = estimator(name, time_step)
            batch = Batch(rows, signals, form.credit(signals))
            each = jax.vmap(lambda tree: ravel_pytree(tree)[0])(trajectory_gradients(agent, form, target, batch))
            out[name] = jnp.mean(each, axis=0), jnp.sum(jnp.var(each, axis=0, ddof=1))
        return out, -jnp.sum(x) / jnp.sum(rows.mask)

    return jax.lax.map(block, keys)


def jackknifed(means: np.ndarray, variances: np.ndarray) -> Errors:
    """‖E[mean]‖² from products of different blocks, and the variance."""
    count = len(means)
    products = means @ means.T
    np.fill_diagonal(products, 0.0)
    pairs = count * (count - 1)
    without = (products.sum() - 2 * products.sum(axis=1)) / (pairs - 2 * (count - 1))
    variance = np.append(variances.sum(), variances.sum() - variances) / np.append(count, np.full(count, count - 1))
    noise = np.sqrt(2 * np.var(products[~np.eye(count, dtype=bool)]) / pairs)
    return Errors(np.append(products.sum() / pairs, without), variance, float(noise))


# --- results ---------------------------------------------------------------------------------------------------------


def error_bar(values: np.ndarray) -> np.ndarray:
    """Jackknife standard error of values [1 + B, ...]; 0 if exact."""
    without = values[1:]
    return np.sqrt((len(without) - 1) * np.var(without, axis=0)) if len(without) else np.zeros(values.shape[1:])


def bias_error(errors: Errors) -> float:
    """Standard error of the squared bias; at least that of a zero bias, where the jackknife is too small."""
    return max(float(error_bar(errors.squared_bias)), errors.noise)


def crossover(distance: Distance, name: str) -> tuple[float, float, float]:
    """N* and the ends of its error bar; 0 if it is below 1 (the better exact form has the smaller error at every N).

    If the bias is not significantly different from zero, N* is NaN and only the lower end is given.
    """
    errors = distance.forms[name]
    exact = [distance.forms[other].variance for other in EXACT if other in distance.forms]
    gain = np.min(exact, axis=0) - errors.variance
    bias, uncertain = errors.squared_bias[0], bias_error(errors)
    if name in EXACT:
        return np.nan, np.nan, np.nan
    if gain[0] <= 0 or gain[0] < bias:
        return 0.0, 0.0, 0.0
    if bias < 2 * uncertain:
        return gain[0] / (max(bias, 0.0) + 2 * uncertain), np.nan, np.inf
    number = gain / errors.squared_bias
    factor = 1.0 + error_bar(number) / number[0]
    return number[0] / factor, number[0], number[0] * factor


def table(distance: Distance) -> Iterator[tuple]:
    """A row per form."""
    for name, errors in distance.forms.items():
        bias, variance, _ = errors
        measured = bias[0], bias_error(errors), variance[0], error_bar(variance), distance.squared_gradient
        yield distance.kl, distance.trajectories, name, *measured, *crossover(distance, name)


def draw_errors(axes: Axes, problem: str, distance: Distance) -> None:
    """Mean squared error against N; a measured line ends where its error bar reaches zero."""
    size = np.geomspace(1, 1e6, 200)
    for name, (bias, variance, noise) in distance.forms.items():
        colour, line = STYLES[name]
        error = (bias[:, None] + variance[:, None] / size) / distance.squared_gradient
        bar = np.maximum(error_bar(error), noise / distance.squared_gradient)
        known, low, high = error[0] > 2 * bar, error[0] - bar, error[0] + bar
        axes.plot(size[known], error[0][known], color=colour, linestyle=line, linewidth=1.6)
        axes.fill_between(size[known], low[known], high[known], color=colour, alpha=0.2, linewidth=0)
        number = crossover(distance, name)[1]
        if number > 0:
            height = (bias[0] + variance[0] / number) / distance.squared_gradient
            axes.plot(number, height, "o", color=colour, markersize=7, markeredgecolor="white", zorder=3)
    axes.set(ylabel="E‖ĝ − ∇J‖² / ‖∇J‖²", xlim=(1, 1e6))
    finish(axes, f"{problem}: mean squared error at KL {distance.kl:.2g} per step", "trajectories N")


def draw_crossovers(axes: Axes, problem: str, distances: Sequence[Distance]) -> None:
    """N* against the distance; below its line a form has the smaller error."""
    kl = np.array([d.kl for d in distances])
    axes.set(ylim=(1, 1e5), ylabel="N* (trajectories): below, smaller error")
    for i, name in enumerate(form for form in distances[0].forms if form not in EXACT):
        colour, line = STYLES[name]
        low, number, high = np.array([crossover(d, name) for d in distances]).T
        measured = distances[0].trajectories > 0
        found = np.where(number > 0, number, np.nan)
        errors = (found - low, high - found) if measured else None
        marker = "o" if measured else ""
        axes.errorbar(kl, found, errors, color=colour, linestyle=line, marker=marker, markersize=4, capsize=2)
        never, at_least = number == 0, np.isinf(high)
        axes.plot(kl[never], np.full(never.sum(), 1.2 * 1.25**i), "v", color=colour, fillstyle="none", markersize=6)
        axes.plot(kl[at_least], low[at_least], "^", color=colour, fillstyle="none", markersize=7)
    finish(axes, f"{problem}: crossover", "KL(behaviour ‖ target) per step (nats)")


def finish(axes: Axes, title: str, xlabel: str) -> None:
    """Set title, label, log scales and grid."""
    axes.set(title=title, xlabel=xlabel, xscale="log", yscale="log")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    as_script(main, Options, __doc__)
