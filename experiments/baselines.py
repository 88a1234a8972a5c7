"""Which baseline should REINFORCE use? Total return, reward-to-go and every baseline on CartPole-v1, 8 seeds each.

Expect all methods to reach a greedy return of 475, reward-to-go and baselines in half as many steps. Baselines that
average over other trajectories (leave-one-out, per time step) do as well as more expensive ones. About two minutes on
two CPU cores.
"""

from dataclasses import replace

import jax
import numpy as np
from matplotlib.figure import Figure
from parts import seeds_below
from parts.command import as_script
from parts.results import Options

from pgjax import environments, evaluate_runs, make_agent, make_trainer, reinforce, sweep
from pgjax.runs.settings.start import start
from pgjax.runs.show import figures

PANELS = {
    "credit": [
        ("total_return", "none"),
        ("reward_to_go", "none"),
        ("total_return", "leave_one_out"),
        ("reward_to_go", "leave_one_out"),
    ],
    "batch baselines": [
        ("reward_to_go", "constant"),
        ("reward_to_go", "same_batch_mean"),
        ("reward_to_go", "leave_one_out"),
        ("reward_to_go", "time_step"),
    ],
    "learned and optimal baselines": [
        ("reward_to_go", "time_step"),
        ("reward_to_go", "state_value"),
        ("reward_to_go", "optimal"),
        ("reward_to_go", "optimal_per_parameter"),
    ],
}
SOLVED = 475
EPISODES_PER_UPDATE, LEARNING_RATE, CONSTANT = 32, 2e-3, 100.0


def main(options: Options) -> None:
    """Train every method and draw the panels."""
    start()
    environment = environments.make("CartPole-v1")
    seeds, total_steps = (2, 4_000) if options.quick else (8, 800_000)
    curves, scores, rows = {}, {}, []
    panels = {"credit": PANELS["credit"][-1:]} if options.quick else PANELS
    for method in dict.fromkeys(m for panel in panels.values() for m in panel):
        recipe = reinforce(*method, baseline_constant=CONSTANT, learning_rate=LEARNING_RATE)
        agent = make_agent(environment, critic=recipe.config.critic)
        trainer = make_trainer(environment, agent, replace(recipe.config, num_envs=EPISODES_PER_UPDATE))
        result = sweep(trainer, recipe.algorithm, seeds=seeds, total_steps=total_steps)
        greedy = evaluate_runs(environment, agent, result.runs, jax.random.key(1 << 31), greedy=True).mean(axis=1)
        curves[method], scores[method] = result.metrics, greedy
        rows.append((*method, seeds, total_steps, steps_to_solve(result.metrics), greedy.mean(), greedy.min()))
        print(f"{method[0]}, {method[1]}: greedy return {greedy.mean():.1f}, worst seed {greedy.min():.1f}", flush=True)
    columns = ("credit", "baseline", "seeds", "total_steps", f"steps_to_{SOLVED}", "greedy_mean", "greedy_worst_seed")
    options.write("baselines", draw(panels, curves, scores), columns, rows)


def steps_to_solve(metrics: dict[str, np.ndarray]) -> float:
    """Environment steps until the training return, mean over seeds, first reaches SOLVED; NaN if it never does."""
    grid, returns = figures.curve(metrics)
    above = returns.mean(axis=0) >= SOLVED
    return float(grid[np.argmax(above)]) if above.any() else float("nan")


def draw(titles: dict, curves: dict, scores: dict) -> Figure:
    """One column per group of methods: mean curves above, the greedy return of each seed below."""
    figure, panels = seeds_below.columns(len(titles), one_scale=True)
    for column, (title, methods) in zip(panels.T, titles.items(), strict=True):
        labels = [f"{credit},\n{baseline}" if title == "credit" else baseline for credit, baseline in methods]
        for i, (label, method) in enumerate(zip(labels, methods, strict=True)):
            seeds_below.draw(column, i, label.replace("\n", " "), *figures.curve(curves[method]), scores[method])
        seeds_below.finish(column, title, labels, first=title == next(iter(titles)))
    seeds = len(next(iter(curves.values()))["update"])
    figure.suptitle(
        f"REINFORCE on CartPole-v1: mean of {seeds} seeds; below, each seed and the mean. Baselines with reward-to-go"
    )
    return figure


if __name__ == "__main__":
    as_script(main, Options, __doc__)
