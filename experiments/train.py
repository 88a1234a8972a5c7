"""Train any method of pgjax on any environment of its families, several seeds at once: the main job.

Without arguments: REINFORCE with causality and a baseline on CartPole-v1, 8 seeds in one compiled call. Expect every
seed to reach a return of 500 within a minute on two CPU cores. It leaves a run directory with the resolved settings
(config.toml), a row per update and seed (metrics.csv), wall time (timing.csv), checkpoints, the final evaluation
(evaluation.csv) and the learning curve (learning_curve.png). Stopped by Ctrl-C or SIGTERM it saves; --resume DIR goes
on, bit for bit. --population N makes the seeds a population, whose worst members go on from the best (lineage.csv).
--quick shows in seconds that all this works. --list-environments prints what can be trained on.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from pgjax import SettingError, evaluate_runs, population, sweeps
from pgjax.engine import hosts
from pgjax.runs.record import files
from pgjax.runs.record.attempts import Attempts, Incomplete, say
from pgjax.runs.record.interrupts import Stopped, StopRequest, stop_request
from pgjax.runs.record.journal import Journal
from pgjax.runs.record.loggers import check_installed
from pgjax.runs.record.metrics_file import read_metrics
from pgjax.runs.settings.build import Setup, build
from pgjax.runs.settings.command_line import from_command_line
from pgjax.runs.settings.flags import Settings
from pgjax.runs.settings.joining import joined
from pgjax.runs.settings.ranges import evolution
from pgjax.runs.settings.start import chosen_devices, start
from pgjax.runs.show import figures
from pgjax.runs.show.progress import progress_bar

EVALUATION_KEY = 1 << 31  # seeds are below it: evaluation never repeats a training key
POPULATION_KEY = EVALUATION_KEY + (1 << 16)  # of exploit steps


def main(settings: Settings) -> Path:
    """Train, evaluate, write everything; returns the run directory."""
    with stop_request() as stop, joined(settings), ExitStack() as held:
        start(settings.devices or None)
        setup = build(settings)
        check_installed(settings.log)
        stop.check("nothing was begun")
        settings = settings if hosts.is_first() else replace(settings, quiet=True)
        where = {"devices": chosen_devices(settings.devices), "mesh": settings.mesh or None}
        seeds = settings.population or settings.seeds
        sweeps.plan(setup.trainer, setup.algorithm, seeds, **where)  # refuses what start would, at once
        how = evolution(settings, setup) if settings.population else None
        path = Path(hosts.from_first(lambda: str(claim(settings, held))))
        if hosts.highest(int(hosts.is_first() and files.is_finished(path))):
            if hosts.is_first():
                say(f"{path} is finished: there is nothing to resume")
            return path
        attempt = Attempts(path)
        if how is None:
            runs = sweeps.start(setup.trainer, setup.algorithm, seeds=seeds, **where)
        else:
            runs = population.start(setup.trainer, setup.algorithm, how, seeds=seeds, **where)
        runs = train(setup, settings, path, stop, attempt, runs, how)
        finish(setup, settings, path, stop, attempt, runs, how)
    return path


def claim(settings: Settings, held: ExitStack) -> Path:
    """The run directory, made if it is new; no other process writes to it until `held` is closed."""
    path = Path(settings.resume) if settings.resume else files.new_run_directory(settings)
    held.enter_context(files.locked(path))
    return path


def train(
    setup: Setup,
    settings: Settings,
    path: Path,
    stop: StopRequest,
    attempt: Attempts,
    runs: sweeps.Runs,
    how: population.Evolution | None,
) -> sweeps.Runs:
    """All updates that are still to be done; a checkpoint is the last thing left behind, whatever happens."""
    journal = Journal(path, settings, runs, attempt)
    if settings.resume and not settings.quiet:
        say(f"{path} goes on from update {journal.update}")
    total = settings.total_steps
    done = int(np.minimum(hosts.fetch(journal.runs.state.env_steps), total).mean())
    with progress_bar(total, done=done, quiet=settings.quiet) as bar:
        for now, metrics in chunks(setup, settings, journal.runs, how):
            journal.write(now, metrics)
            bar.update(metrics)
            stop.agree()
            if journal.due() or stop:
                journal.save()
            stop.check(f"update {journal.saved} of {path} is saved; go on with --resume {path}")
    journal.save()
    journal.close()
    return journal.runs


def chunks(
    setup: Setup, settings: Settings, runs: sweeps.Runs, how: population.Evolution | None
) -> Iterator[tuple[sweeps.Runs, dict[str, np.ndarray]]]:
    """The compiled calls of training: of seeds beside each other, or of a population."""
    total, max_skipped = settings.total_steps, settings.max_skipped
    if how is None:
        return sweeps.chunks(setup.trainer, runs, total, settings.updates_per_chunk, max_skipped, donate=True)
    key, every = jax.random.key(POPULATION_KEY), settings.exploit_every
    return population.chunks(setup.trainer, runs, total, every, max_skipped, how=how, key=key, donate=True)


def finish(
    setup: Setup,
    settings: Settings,
    path: Path,
    stop: StopRequest,
    attempt: Attempts,
    runs: sweeps.Runs,
    how: population.Evolution | None,
) -> None:
    """Evaluate the trained policies; draw and write what was found."""
    saved = f"training is done and saved; --resume {path} evaluates it"
    returns = {}
    for greedy, name in enumerate(("sampled_return", "greedy_return")):
        stop.check(saved)
        key = jax.random.key(EVALUATION_KEY + greedy)
        returns[name] = evaluate_runs(
            setup.environment, setup.agent, runs, key, episodes=settings.eval_episodes, greedy=bool(greedy)
        ).mean(axis=1)
    rows = list(zip(runs.seeds, hosts.fetch(runs.state.env_steps), *returns.values(), strict=True))
    stop.check(saved)
    attempt("learning_curve.png", lambda: draw(settings, path))
    if how is not None:
        lineage = population.lineage(read_metrics(path / "metrics.csv"), how)
        attempt("lineage.csv", lambda: files.write_table(path / "lineage.csv", *lineage))
    stop.check(saved)
    if not attempt.missing:  # it marks the run as finished
        table = path / "evaluation.csv"
        attempt(table.name, lambda: files.write_table(table, ("seed", "env_steps", *returns), rows))
    if not settings.quiet:
        show(path, settings, rows)
    attempt.settle()
    stopped = np.flatnonzero(hosts.fetch(runs.state.skipped_in_a_row) >= settings.max_skipped)
    if stopped.size:
        seeds = ", ".join(str(seed) for seed in runs.seeds[stopped])
        raise Incomplete(f"seeds {seeds} stopped, not finite: see {path / 'post-mortem'}; try a smaller step")


def draw(settings: Settings, path: Path) -> None:
    """The learning curve, from metrics.csv."""
    metrics = {settings.algorithm: read_metrics(path / "metrics.csv")}
    figure = figures.learning_curves(metrics, title=f"{settings.environment}, {settings.algorithm}", spread="range")
    figures.save(figure, path / "learning_curve.png")


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
        main(from_command_line(description=" ".join((__doc__ or "").split())))
    except SettingError as error:
        say(f"error: {error}")
        sys.exit(2)
    except Incomplete as error:
        say(f"error: {error}")
        sys.exit(1)
    except Stopped as stopped:
        say(str(stopped))
        sys.exit(stopped.code)
