"""Which of GRPO's parts helps? The group methods on Catch, FrozenLake and CartPole beside RLOO and PPO, eight seeds.

All methods get the same number of environment steps, and nothing is tuned per environment. Each method uses the best of
three learning rates (its default, a third and three times of it) by training return, mean over seeds. Group methods
sample four episodes from every reset. GSPO's per-step form is left out, because its gradient equals that of GSPO if an
episode has a single advantage. About half an hour on two CPU cores.

Expect greedy returns of 1 on Catch, except Dr. GRPO (0.85) and CISPO (0.91). On FrozenLake GRPO (0.50) and DAPO (0.48)
are above RLOO (0.40), PPO (0.39) and Dr. GRPO (0.31), and REINFORCE++ is at 0.02. On CartPole all are above 440, and
PPO, CISPO and REINFORCE++ reach 500.
"""

from dataclasses import dataclass

import jax
import numpy as np
from matplotlib import pyplot as plt
from parts.command import as_script
from parts.results import Options

from pgjax import (
    ALGORITHMS,
    environments,
    evaluate_runs,
    hyperparameters,
    make_agent,
    make_trainer,
    sweep,
)
from pgjax.runs.settings.start import start
from pgjax.runs.show import figures


@dataclass(frozen=True)
class Task:
    """An environment, and the number of steps."""

    name: str
    total_steps: int


TASKS = (
    Task("Catch-bsuite", 50_000),
    Task("FrozenLake-misc", 100_000),
    Task("CartPole-v1", 100_000),
)
METHODS = ("ppo", "rloo", "dr_grpo", "grpo", "dapo", "gspo", "cispo", "reinforce_pp")
RATES = (1 / 3, 1.0, 3.0)  # multiples of the default
COLUMNS = ("environment", "method", "seeds", "total_steps", "learning_rate", "greedy_mean", "greedy_worst_seed", "area")


def main(options: Options) -> None:
    """Train all methods and draw one panel per environment."""
    start()
    seeds = 2 if options.quick else 8
    tasks, methods = (TASKS[:1], METHODS[1:3]) if options.quick else (TASKS, METHODS)
    size = 5.0 * len(tasks), 7.6
    figure, panels = plt.subplots(
        2, len(tasks), figsize=size, squeeze=False, height_ratios=(3, 2), layout="constrained"
    )
    rows = []
    for (axes, below), task in zip(panels.T, tasks, strict=True):
        steps = 4_000 if options.quick else task.total_steps
        for i, method in enumerate(methods):
            rate, metrics, greedy, area = best(task, method, seeds, steps)
            rows.append((task.name, method, seeds, steps, rate, greedy.mean(), greedy.min(), area))
            print(f"{task.name}, {method}: greedy return {greedy.mean():.2f} at learning rate {rate:.2g}", flush=True)
            window = max(1, metrics["update"].shape[1] // 50)
            grid, returns = figures.curve(metrics, window=window)
            axes.plot(grid, returns.mean(axis=0), color=f"C{i}", linewidth=1.8, label=method)
            below.plot(np.full(seeds, i), greedy, "o", color=f"C{i}", markersize=5, alpha=0.5, markeredgewidth=0)
            below.plot(i, greedy.mean(), "_", color=f"C{i}", markersize=22, markeredgewidth=3)
        figures.finish(axes, task.name)
        below.set_xticks(range(len(methods)), methods, rotation=40, ha="right")
        below.set_ylabel("greedy return at the end")
        below.grid(axis="y", alpha=0.3)
        below.spines[["top", "right"]].set_visible(False)
    panels[0, 0].legend(frameon=False, fontsize=9)
    figure.suptitle(f"Equal steps, best of three learning rates: mean of {seeds} seeds; below, each seed and the mean")
    options.write("group_methods", figure, COLUMNS, rows)


def best(task: Task, method: str, seeds: int, total_steps: int) -> tuple[float, dict, np.ndarray, float]:
    """The best learning rate, with its metrics, final greedy return per seed, and training return (mean over seeds)."""
    environment = environments.make(task.name)
    algorithm, config = ALGORITHMS[method]()
    agent = make_agent(environment, critic=config.critic)
    trainer = make_trainer(environment, agent, config)
    default = hyperparameters(algorithm)["learning_rate"]
    rates = [float(np.asarray(default)) * factor for factor in RATES]
    result = sweep(trainer, algorithm, seeds=seeds, over={"learning_rate": rates}, total_steps=total_steps)
    greedy = evaluate_runs(environment, agent, result.runs, jax.random.key(1 << 31), greedy=True).mean(axis=1)
    returns = np.where(result.metrics["active"], result.metrics["return_mean"], np.nan)
    areas = np.nanmean(returns.reshape(len(rates), -1), axis=1)
    chosen = int(np.argmax(areas))
    rows = slice(chosen * seeds, (chosen + 1) * seeds)
    return rates[chosen], {name: x[rows] for name, x in result.metrics.items()}, greedy[rows], float(areas[chosen])


if __name__ == "__main__":
    as_script(main, Options, __doc__)
