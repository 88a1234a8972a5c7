"""Train any method of pgjax on any environment, several seeds at once. This is the main script.

Without arguments it trains REINFORCE with reward-to-go and a baseline on CartPole-v1, 8 seeds in one compiled call.
Expect every seed to reach a return of 500 within a minute on two CPU cores.

The run directory gets the resolved settings (config.toml), a row per update and seed (metrics.csv) and wall times
(timing.csv). It also gets checkpoints, evaluations (evaluation.csv) and the learning curve (learning_curve.png).
--eval-every adds evaluations during training. --population N runs population-based training (lineage.csv). Ctrl-C,
SIGTERM and SIGHUP save a checkpoint and stop; --resume DIR continues with the same results, bit for bit. --quick runs a
small example in seconds.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pgjax import SettingError, population, sweeps
from pgjax.engine import hosts
from pgjax.runs.record import files
from pgjax.runs.record.attempts import Attempts, Incomplete, say
from pgjax.runs.record.evaluation_file import points_by_seed, read_evaluation, rows_of
from pgjax.runs.record.interrupts import StopRequest, stop_request
from pgjax.runs.record.journal import Journal
from pgjax.runs.record.loggers import check_installed
from pgjax.runs.record.metrics_file import read_metrics
from pgjax.runs.settings.build import Setup, build, over_the_budget
from pgjax.runs.settings.command_line import from_command_line
from pgjax.runs.settings.config_file import read_run_config
from pgjax.runs.settings.flags import Settings
from pgjax.runs.settings.joining import joined
from pgjax.runs.settings.ranges import evolution
from pgjax.runs.settings.sizes import check_sizes, updates_per_chunk
from pgjax.runs.settings.start import chosen_devices, start
from pgjax.runs.show import figures
from pgjax.runs.show.progress import doing
from pgjax.runs.show.script import one_line
from pgjax.sweeps.progress import ProgressBar, progress_bar

POPULATION_KEY = (1 << 31) + (1 << 16)  # of exploit steps, above all seeds and evaluation keys


def main(settings: Settings) -> Path:
    """Train, evaluate and write all files; returns the run directory."""
    with stop_request() as stop, joined(settings), ExitStack() as held:
        start(settings.devices or None)
        setup = build(settings)
        check_installed(settings.log)
        stop.check("training had not started")
        settings = settings if hosts.is_first() else replace(settings, quiet=True)
        where = {"devices": chosen_devices(settings.devices), "mesh": settings.mesh or None}
        how = evolution(settings, setup) if settings.population else None
        seeds = range(settings.population) if how else settings.chosen_seeds()
        check_sizes(setup, settings, len(seeds))
        sweeps.plan(setup.trainer, setup.algorithm, len(seeds), **where)  # rejects early what `start` would reject
        path = Path(hosts.from_first(lambda: str(claim(settings, held))))
        if hosts.highest(int(hosts.is_first() and files.is_finished(path))):
            if hosts.is_first():
                say(f"{path} is finished; there is nothing to resume")
            return path
        attempt = Attempts(path)
        with doing("starting", quiet=settings.quiet):
            if how is None:
                runs = sweeps.start(setup.trainer, setup.algorithm, seeds=seeds, **where)
            else:
                runs = population.start(setup.trainer, setup.algorithm, how, seeds=seeds, **where)
        journal = Journal(path, settings, runs, attempt)
        train(setup, settings, path, stop, journal, how)
        finish(setup, settings, path, stop, attempt, journal, how)
    return path


def claim(settings: Settings, held: ExitStack) -> Path:
    """The run directory, created for a new run, and locked against other processes until `held` is closed."""
    path = Path(settings.resume) if settings.resume else files.new_run_directory(settings)
    held.enter_context(files.locked(path))
    before = read_run_config(path).total_steps if settings.resume else settings.total_steps
    if settings.total_steps > before:
        say(beyond(path, settings, before))
        try:
            files.extend(path, settings)
        except OSError as error:
            raise SettingError("resume", str(path), f"cannot be written: {error.strerror or error}") from error
        held.enter_context(files.locked(path))  # config.toml has been replaced, so lock the new file
    return path


def beyond(path: Path, settings: Settings, before: int) -> str:
    """One line on how a run is extended to a larger budget."""
    line = f"{path} is extended from {before:,} to {settings.total_steps:,} steps"
    scheduled = " and ".join(over_the_budget(settings))
    if not scheduled:
        return f"{line}; the results are those of a single run of {settings.total_steps:,} steps"
    return f"{line}; from here on, the schedule of {scheduled} is over {settings.total_steps:,} steps"


def train(
    setup: Setup,
    settings: Settings,
    path: Path,
    stop: StopRequest,
    journal: Journal,
    how: population.Evolution | None,
) -> None:
    """Run the remaining updates; the last action is always a checkpoint."""
    if settings.resume and not settings.quiet:
        say(f"{path} resumes after update {journal.update}")
    total = settings.total_steps
    done = int(np.minimum(hosts.fetch(journal.runs.state.env_steps), total).mean())
    with progress_bar(total, done=done, quiet=settings.quiet) as bar:
        evaluate_if_due(setup, settings, journal, bar)  # an evaluation that was due when the run was stopped
        for now, metrics in chunks(setup, settings, journal.runs, how):
            journal.write(now, metrics)
            bar.update(metrics, now.seeds)
            stopping = stop.agree()
            if not stopping:
                evaluate_if_due(setup, settings, journal, bar)
                stopping = stop.agree()
            if stopping or journal.is_best() or journal.due():
                journal.save()
            stop.check(f"update {journal.saved} of {path} is saved; continue with --resume {path}")
    journal.save()
    journal.close()


def evaluate_if_due(setup: Setup, settings: Settings, journal: Journal, bar: ProgressBar) -> None:
    """Run the evaluations of --eval-every between two chunks; training does not depend on them."""
    if journal.evaluation_due():
        bar.say("evaluating")
        journal.evaluated(sweeps.evaluation_point(setup.trainer, journal.runs, settings.eval_episodes))


def chunks(
    setup: Setup, settings: Settings, runs: sweeps.Runs, how: population.Evolution | None
) -> Iterator[tuple[sweeps.Runs, dict[str, np.ndarray]]]:
    """Compiled calls of training, for independent seeds or for a population."""
    total, max_skipped = settings.total_steps, settings.max_skipped
    if how is None:
        return sweeps.chunks(setup.trainer, runs, total, updates_per_chunk(setup, settings), max_skipped, donate=True)
    key, every = jax.random.key(POPULATION_KEY), settings.exploit_every
    return population.chunks(setup.trainer, runs, total, every, max_skipped, how=how, key=key, donate=True)


def finish(
    setup: Setup,
    settings: Settings,
    path: Path,
    stop: StopRequest,
    attempt: Attempts,
    journal: Journal,
    how: population.Evolution | None,
) -> None:
    """Evaluate the trained policies, draw the learning curve and write the results."""
    runs, saved = journal.runs, f"training is done and saved; --resume {path} evaluates it"
    stop.check(saved)
    with doing("evaluating", quiet=settings.quiet):
        point = sweeps.evaluation_point(setup.trainer, runs, settings.eval_episodes)
    if settings.eval_every:
        journal.score(point)
        journal.save()
    rows = rows_of(runs.seeds, point, final=True)
    stop.check(saved)
    with doing("drawing", quiet=settings.quiet):
        attempt("learning_curve.png", lambda: draw(settings, path, rows))
    if how is not None:
        lineage = population.lineage(read_metrics(path / "metrics.csv"), how)
        attempt("lineage.csv", lambda: files.write_table(path / "lineage.csv", *lineage))
    stop.check(saved)
    if not attempt.missing:  # the final rows mark the run as finished
        attempt("evaluation.csv", lambda: journal.end_evaluation(rows))
    if not settings.quiet:
        show(path, settings, rows)
    stopped = np.flatnonzero(hosts.fetch(runs.state.skipped_in_a_row) >= settings.max_skipped)  # collective
    attempt.settle()  # from here on, a process may exit before the others
    if stopped.size:
        seeds = ", ".join(str(seed) for seed in runs.seeds[stopped])
        folder = path / "post-mortem"
        raise Incomplete(f"seeds {seeds} stopped after non-finite updates: see {folder}; try a smaller learning rate")


def draw(settings: Settings, path: Path, last: list) -> None:
    """The learning curve from metrics.csv, with evaluations during training if there are any."""
    metrics = {settings.algorithm: read_metrics(path / "metrics.csv")}
    title = f"{settings.environment}, {settings.algorithm}"
    points = points_by_seed(read_evaluation(path, last)) if settings.eval_every else {}
    figure = figures.learning_curves(metrics, title=title, spread="range", evaluation=points)
    figures.save(figure, path / "learning_curve.png")


def show(path: Path, settings: Settings, rows: list) -> None:
    """Print the table of final returns."""
    title = f"{settings.environment}, {settings.algorithm}: mean of {settings.eval_episodes} episodes"
    table = Table(title=Text(title, style="table.title"))
    for name in ("seed", "env steps", "sampled return", "greedy return"):
        table.add_column(name, justify="right")
    for seed, steps, sampled, greedy, _ in rows:
        table.add_row(str(seed), f"{steps:,}", f"{sampled:.2f}", f"{greedy:.2f}")
    steps, sampled, greedy = np.mean([row[1:4] for row in rows], axis=0)
    table.add_section()
    table.add_row("mean", f"{steps:,.0f}", f"{sampled:.2f}", f"{greedy:.2f}", style="bold")
    console = Console()
    console.print(table)
    console.print(f"results are in {path}", soft_wrap=True, highlight=False, markup=False)


if __name__ == "__main__":
    with one_line():
        main(from_command_line(description=__doc__ or ""))
