"""What is the distribution of one setting's results over many seeds? A sweep of any size in the memory of one block.

Without arguments: REINFORCE on CartPole-v1, 1000 seeds for each of 8 learning rates, 50 000 steps per run. Each block
of runs appends its rows to a CSV file. The same command continues a sweep that was stopped or killed, after the last
complete block. At the end the script plots the distribution of the greedy return for each learning rate.

Expect about 70 % of the seeds to reach 500 at learning rates of 0.01 and more, and about 5 % of the seeds to stay below
400 at the largest one. Five minutes and less than 1 GB on two CPU cores.
"""

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import numpy as np
from matplotlib import pyplot as plt
from parts import blocks, results
from parts.command import as_script
from rich.console import Console
from rich.progress import Progress

from pgjax import SettingError, counters, environments, evaluate_runs, make_agent, make_trainer, reinforce
from pgjax.engine import hosts
from pgjax.runs.record.texts import read_text, write_text
from pgjax.runs.settings.start import start

COLUMNS = ("learning_rate", "seed", "env_steps", "updates", "greedy_return")
EVALUATION_KEY = 1 << 31
QUICK = {
    "seeds": 4,
    "block": 2,
    "learning_rates": (1e-3, 1e-2),
    "total_steps": 2000,
    "table": Path("runs/large_sweep-quick.csv"),
}


@dataclass(frozen=True)
class Options(results.Options):
    """Options of the sweep."""

    seeds: int = 1000
    """Number of seeds per setting: 0, 1, 2, …"""
    learning_rates: tuple[float, ...] = (1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2, 3e-2, 5e-2)
    """Learning rates to compare."""
    total_steps: int = 50_000
    """Environment steps of each run."""
    num_envs: int = 16
    """Episodes per update."""
    hidden: tuple[int, ...] = (32,)
    """Widths of the policy's layers."""
    block: int = 40
    """Number of runs in memory at a time; must divide the number of seeds."""
    table: Path = Path("runs/large_sweep.csv")
    """CSV file for the rows."""


def main(options: Options) -> None:
    """Train the missing runs, then draw."""
    begun = time.monotonic()
    start()
    over = {"learning_rate": options.learning_rates}
    counters.count("num_envs", options.num_envs)
    number = blocks.count(options.seeds, over, options.block)
    environment = environments.make("CartPole-v1")
    agent = make_agent(environment, hidden=options.hidden)
    recipe = reinforce(baseline="time_step")
    trainer = make_trainer(environment, agent, replace(recipe.config, num_envs=options.num_envs))
    counters.budget("total_steps", options.total_steps, options.num_envs * environment.horizon)
    table = claim(options)
    resumed, steps = table.blocks, 0
    work = blocks.trained(
        trainer,
        recipe.algorithm,
        seeds=options.seeds,
        over=over,
        total_steps=options.total_steps,
        block=options.block,
        first=table.blocks,
    )
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(f"{number} blocks", total=number, completed=table.blocks)
        for runs in work:
            state = hosts.fetch((runs.state.env_steps, runs.state.update))
            key = jax.random.key(EVALUATION_KEY)
            returns = evaluate_runs(environment, agent, runs, key, episodes=16, greedy=True).mean(axis=1)
            table.append(list(zip(runs.settings["learning_rate"], runs.seeds, *state, returns, strict=True)))
            steps += int(state[0].sum())
            progress.advance(task)
    seconds = time.monotonic() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{number - resumed} blocks of {options.block} runs, {steps:,} steps in {seconds:.0f} s\n"
        f"({steps / seconds:,.0f} steps/s, compiling included), peak {peak:.2f} GB"
    )
    draw(options)


def claim(options: Options) -> blocks.BlockTable:
    """The table, new or continued, with a file of its settings beside it.

    Raises:
      SettingError: if it was made with other settings.
    """
    made_with = {name: x for name, x in asdict(options).items() if name not in ("table", "out", "quick", "block")}
    text, settings_file = json.dumps(made_with, indent=1) + "\n", options.table.with_suffix(".json")
    try:
        options.table.parent.mkdir(parents=True, exist_ok=True)
        if options.table.exists() and read_text(settings_file) != text:
            raise SettingError("table", str(options.table), f"was made with other settings: see {settings_file}")
        write_text(settings_file, text)
        return blocks.BlockTable(options.table, COLUMNS, options.block)
    except OSError as error:
        raise SettingError("table", str(options.table), f"cannot be written: {error.strerror}") from error


def draw(options: Options) -> None:
    """Share of runs that reach a return, for each learning rate, as figure and table."""
    rows = np.loadtxt(options.table, delimiter=",", skiprows=1, ndmin=2)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    summary = []
    for i, rate in enumerate(options.learning_rates):
        returns = np.sort(rows[i * options.seeds : (i + 1) * options.seeds, 4])  # rows are ordered by setting
        colour = plt.get_cmap("viridis")(i / max(1, len(options.learning_rates) - 1))
        axes.plot(returns, 1 - np.arange(len(returns)) / len(returns), color=colour, label=f"{rate:g}")
        quantiles = np.quantile(returns, [0.05, 0.5, 0.95])
        summary.append((rate, len(returns), returns.mean(), *quantiles, (returns >= 475).mean()))
    axes.set(xlabel="greedy return", ylabel="share of seeds that reach it", ylim=(0, 1.02))
    axes.set_title(f"REINFORCE on CartPole-v1 after {options.total_steps:,} steps, {options.seeds} seeds each")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="learning rate", frameon=False)
    columns = ("learning_rate", "runs", "mean", "q05", "median", "q95", "share_at_least_475")
    options.write("large_sweep", figure, columns, summary)


if __name__ == "__main__":
    as_script(main, Options, __doc__, QUICK)
