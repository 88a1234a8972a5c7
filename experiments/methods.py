"""Which method wins where? REINFORCE, A2C, PPO, natural gradient, TRPO and V-trace on four environments, five seeds.

Every method uses its defaults, which were chosen on CartPole. The discount, the scaling of observations and the number
of steps depend on the environment; nothing else is tuned. Methods that work on streams get scaled rewards and a
learning rate that decays to zero. About fifteen minutes on two CPU cores.

Expect natural gradient and TRPO to be the only methods with top returns everywhere; they are slowest on Acrobot. PPO
starts fastest elsewhere than on Pendulum, but fails with one seed of five on Catch. V-trace is slow on CartPole.
REINFORCE, A2C and V-trace do not solve Pendulum in these steps (random: −1224).
"""

from dataclasses import dataclass, replace

import jax
from parts import seeds_below
from parts.command import as_script
from parts.results import Options

from pgjax import (
    ALGORITHMS,
    Recipe,
    environments,
    evaluate_runs,
    make_agent,
    make_trainer,
    normalise_observations,
    sweep,
    with_hyperparameters,
)
from pgjax.methods.schedules import decaying
from pgjax.runs.settings.start import start
from pgjax.runs.show import figures


@dataclass(frozen=True)
class Task:
    """Settings of an environment, equal for all methods."""

    name: str
    total_steps: int
    discount: float
    scaled: bool = False  # normalise observations


TASKS = (
    Task("CartPole-v1", 100_000, 0.99),
    Task("Catch-bsuite", 100_000, 0.99),
    Task("Acrobot-v1", 300_000, 0.99, scaled=True),
    Task("Pendulum-v1", 500_000, 0.95, scaled=True),
)
METHODS = ("reinforce", "a2c", "ppo", "npg", "trpo", "vtrace")
SMOOTH = 50  # a point of a curve is the mean over a fiftieth of the updates: A2C's are of 128 steps
COLUMNS = ("environment", "method", "seeds", "total_steps", "greedy_mean", "greedy_worst_seed")


def main(options: Options) -> None:
    """Train all methods and draw one column per environment."""
    start()
    seeds = 2 if options.quick else 5
    tasks, methods = (TASKS[1:2], METHODS[1:3]) if options.quick else (TASKS, METHODS)
    figure, panels = seeds_below.columns(len(tasks))
    rows = []
    for column, task in zip(panels.T, tasks, strict=True):
        steps = 4_000 if options.quick else task.total_steps
        for i, method in enumerate(methods):
            metrics, greedy = run(task, method, seeds, steps)
            rows.append((task.name, method, seeds, steps, greedy.mean(), greedy.min()))
            print(f"{task.name}, {method}: greedy return {greedy.mean():.1f}", flush=True)
            window = max(1, metrics["update"].shape[1] // SMOOTH)
            seeds_below.draw(column, i, method, *figures.curve(metrics, window=window), greedy)
        seeds_below.finish(column, task.name, methods, first=task is tasks[0])
    panels[0, 0].legend(frameon=False)
    figure.suptitle(f"Default settings: mean of {seeds} seeds; below, each seed and the mean")
    options.write("methods", figure, COLUMNS, rows)


def run(task: Task, method: str, seeds: int, total_steps: int) -> tuple:
    """Train one method on one environment: metrics, and the final greedy return of each seed."""
    environment = environments.make(task.name)
    algorithm, config = ALGORITHMS[method]()
    algorithm = with_hyperparameters(algorithm, {"discount": task.discount})
    if config.rollout == "stream":  # with whole episodes the number of updates is unknown
        config = replace(config, normalise_rewards=True)
        algorithm, config = decaying(Recipe(algorithm, config), total_steps // (config.num_envs * config.num_steps))
    agent = make_agent(environment, critic=config.critic)
    if task.scaled:
        agent = normalise_observations(agent, environment)
    trainer = make_trainer(environment, agent, config)
    result = sweep(trainer, algorithm, seeds=seeds, total_steps=total_steps)
    greedy = evaluate_runs(environment, agent, result.runs, jax.random.key(1 << 31), greedy=True).mean(axis=1)
    return result.metrics, greedy


if __name__ == "__main__":
    as_script(main, Options, __doc__)
