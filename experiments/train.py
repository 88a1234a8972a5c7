"""Train any method of pgjax on any gymnax environment, several seeds at once: the main job.

Without arguments: REINFORCE with causality and a baseline on CartPole-v1, 8 seeds in one compiled call. Expect every
seed to reach a return of 500 within a minute on two CPU cores. It leaves a run directory with the resolved settings
(config.json), a row per update and seed (metrics.csv), the final evaluation (evaluation.csv), the trained parameters
(params/) and the learning curve (learning_curve.png).
"""

import sys
from pathlib import Path

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from pgjax import SettingError, evaluate_runs, sweeps, use_cpu_devices
from pgjax.lab import figures, files
from pgjax.lab.progress import progress_bar
from pgjax.lab.setup import Settings, build

UPDATES_PER_CHUNK = 10
EVALUATION_KEY = 1 << 31  # seeds are below it: evaluation never repeats a training key


def main(settings: Settings) -> Path:
    """Train, evaluate, write everything; returns the run directory."""
    use_cpu_devices(settings.devices or None)
    setup = build(settings)
    path = files.new_run_directory(settings)
    files.write_config(path, settings)
    runs = sweeps.start(setup.trainer, setup.algorithm, seeds=settings.seeds)
    pieces = []
    with files.MetricsFile(path) as file, progress_bar(settings.total_steps, quiet=settings.quiet) as bar:
        for now, metrics in sweeps.chunks(setup.trainer, runs, settings.total_steps, UPDATES_PER_CHUNK):
            file.write(now.seeds, metrics)
            bar.update(metrics)
            pieces.append(metrics)
            runs = now
    metrics = sweeps.join(pieces)

    returns = {
        name: evaluate_runs(
            setup.environment,
            setup.agent,
            runs,
            jax.random.key(EVALUATION_KEY + greedy),
            episodes=settings.eval_episodes,
            greedy=bool(greedy),
        ).mean(axis=1)
        for greedy, name in enumerate(("sampled_return", "greedy_return"))
    }
    files.save_params(path, runs.state.params)
    rows = list(zip(runs.seeds, metrics["env_steps"][:, -1], *returns.values(), strict=True))
    files.write_table(path / "evaluation.csv", ("seed", "env_steps", *returns), rows)
    title = f"{settings.environment}, {settings.algorithm}"
    figure = figures.learning_curves({settings.algorithm: metrics}, title=title, spread="range")
    figures.save(figure, path / "learning_curve.png")
    if not settings.quiet:
        show(path, settings, rows)
    return path


def show(path: Path, settings: Settings, rows: list) -> None:
    """The short table at the end."""
    table = Table(title=f"{settings.environment}, {settings.algorithm}: mean of {settings.eval_episodes} episodes")
    for name in ("seed", "env steps", "sampled return", "greedy return"):
        table.add_column(name, justify="right")
    for seed, steps, sampled, greedy in rows:
        table.add_row(str(seed), f"{steps:,}", f"{sampled:.2f}", f"{greedy:.2f}")
    steps, sampled, greedy = np.mean([row[1:] for row in rows], axis=0)
    table.add_section()
    table.add_row("mean", f"{steps:,.0f}", f"{sampled:.2f}", f"{greedy:.2f}", style="bold")
    console = Console()
    console.print(table)
    console.print(f"everything is in {path}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings, prog="train.py", description=" ".join((__doc__ or "").split())))
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
