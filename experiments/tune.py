"""Which settings suit an environment? A search by chance, every trial × seed in one compiled call.

Draws numbers for a method's hyperparameters around the settings given, trains all draws side by side, trains the best
few again on seeds they have not seen, and writes the winner as a TOML file for `train.py --config`. The first draw is
the settings themselves. Shapes (--num-envs, --epochs, ...) are compiled in: try others by another search. Expect a
winner that does not depend on the luck of the seeds it was chosen by, and on two CPU cores a minute for sixteen trials
of four seeds and 50 000 steps of Catch. Takes the flags of train.py that say what is trained (--quick: begin with four
trials of a few updates); those of the search:
"""

import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import jax
import numpy as np
import tyro
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from rich.console import Console
from rich.table import Table

from pgjax import SettingError, counters, evaluate_runs, hyperparameters, sweeps
from pgjax.runs.record import files
from pgjax.runs.record.attempts import say
from pgjax.runs.settings import idle
from pgjax.runs.settings.build import Setup, build, recipe_of
from pgjax.runs.settings.command_line import from_command_line
from pgjax.runs.settings.config_file import config_text
from pgjax.runs.settings.flags import Settings
from pgjax.runs.settings.start import chosen_devices, start
from pgjax.runs.show import figures
from pgjax.runs.show.comparison import bootstrap_interval, interquartile_mean
from pgjax.runs.show.progress import progress_bar

EVALUATION_KEY = 1 << 31
NEW_SEEDS = 1 << 20  # of the second round: none that a trial has used

RANGES = {  # each number is drawn log-uniformly; of discount and lambda_, the distance from 1
    "learning_rate": (1e-4, 3e-2),
    "discount": (1e-3, 1e-1),
    "lambda_": (1e-2, 3e-1),
    "clip": (0.05, 0.5),
    "entropy_coefficient": (1e-4, 1e-1),
    "max_grad_norm": (0.1, 10.0),
    "max_kl": (1e-3, 1e-1),
    "step_size": (2e-2, 2.0),
    "damping": (1e-3, 1e-1),
    "momentum": (0.1, 1.0),
    "max_rho": (0.5, 4.0),
    "max_c": (0.5, 4.0),
}
FROM_ONE = ("discount", "lambda_")
WITHOUT = {
    "out": "a search writes to --folder",
    "log": "a search keeps no metrics",
    "resume": "a search is not taken up again",
    "save_every": "a search writes no checkpoints",
    "keep": "a search writes no checkpoints",
    "diagnostics": "a search keeps no metrics",
    "mesh": "its two rounds train different numbers of policies",
    "distributed": "a search is one process",
    "coordinator": "a search is one process",
    "processes": "a search is one process",
    "process_id": "a search is one process",
    "join_timeout": "a search is one process",
}
"""Flags of train.py that do nothing here."""


@dataclass(frozen=True)
class Search:
    """How to search."""

    trials: int = 32
    """Settings to try."""
    finalists: int = 4
    """How many of them to train again, on other seeds."""
    final_seeds: int = 8
    """How many seeds those get."""
    over: tuple[str, ...] = ()
    """Hyperparameters to draw; default all that the method has and RANGES lists."""
    draw: int = 0
    """Seed of the draws."""
    folder: Path = Path("tuning")
    """Where trials.csv, trials.png and best.toml go."""


QUICK = Search(trials=4, finalists=2, final_seeds=2)


def main(search: Search, settings: Settings) -> None:
    """Draw, train, train the best again, write."""
    start(settings.devices or None)
    setup = build(settings)
    trials = drawn(search, settings, setup)
    scores = trained(settings, setup, trials, range(settings.seeds))
    order = np.argsort(-interquartile_mean(scores), kind="stable")
    chosen = [trials[i] for i in order[: search.finalists]]
    new = max(NEW_SEEDS, settings.seeds)
    final = trained(settings, setup, chosen, range(new, new + search.final_seeds))
    best = int(np.argmax(interquartile_mean(final)))

    search.folder.mkdir(parents=True, exist_ok=True)
    rows = [(1, *trial.values(), *interval(row)) for trial, row in zip(trials, scores, strict=True)]
    rows += [(2, *trial.values(), *interval(row)) for trial, row in zip(chosen, final, strict=True)]
    files.write_table(search.folder / "trials.csv", ("round", *trials[0], "iqm", "low", "high"), rows)
    figures.save(draw(settings, trials, scores), search.folder / "trials.png")
    (search.folder / "best.toml").write_text(config_text(replace(settings, **chosen[best])))
    show(settings, chosen, final, best)
    print(
        f"wrote {search.folder}/best.toml, trials.csv, trials.png; train.py --config {search.folder}/best.toml uses it"
    )


def drawn(search: Search, settings: Settings, setup: Setup) -> list[dict[str, float]]:
    """The settings to try: those given, then draws from RANGES.

    Raises:
      SettingError: for numbers that make no search, or hyperparameters that cannot be searched.
    """
    for name in ("trials", "finalists", "final_seeds"):
        counters.count(name, getattr(search, name))
    counters.seed(search.draw, "draw")
    if search.finalists > search.trials:
        raise SettingError("finalists", search.finalists, f"are more than the {search.trials} trials")
    now = hyperparameters(setup.algorithm)
    known = {field.name for field in fields(Settings)}
    used = [name for name in RANGES if name in known and not is_idle(name, settings, setup)]
    possible = [name for name in used if name in {full.split(".")[-1] for full in now}]
    for name in search.over:
        if name not in possible:
            raise SettingError("over", name, f"cannot be searched here; there are {', '.join(possible)}")
    names = search.over or possible
    given = {name: next(x for full, x in now.items() if full.split(".")[-1] == name) for name in names}
    rng = np.random.default_rng(search.draw)
    trials = [{name: float(np.asarray(value)) for name, value in given.items()}]
    for _ in range(search.trials - 1):
        numbers = {name: float(np.exp(rng.uniform(*np.log(RANGES[name])))) for name in names}
        trials.append({name: 1 - x if name in FROM_ONE else x for name, x in numbers.items()})
    return trials


def is_idle(name: str, settings: Settings, setup: Setup) -> bool:
    """Whether nothing depends on a hyperparameter."""
    return bool(idle.why_idle(idle.Situation(settings, recipe_of(settings), setup.environment), name))


def trained(settings: Settings, setup: Setup, trials: list[dict[str, float]], seeds: range) -> np.ndarray:
    """Greedy return at the end of every trial and seed, [trials, seeds]; all are trained in one call."""
    devices = chosen_devices(settings.devices)
    runs = sweeps.start(setup.trainer, setup.algorithm, seeds=list(seeds), over=trials, devices=devices)
    total, chunk, max_skipped = settings.total_steps, settings.updates_per_chunk, settings.max_skipped
    with progress_bar(total, quiet=settings.quiet) as bar:
        for now, metrics in sweeps.chunks(setup.trainer, runs, total, chunk, max_skipped, donate=True):
            runs = now
            bar.update(metrics)
    key = jax.random.key(EVALUATION_KEY)
    returns = evaluate_runs(
        setup.environment, setup.agent, runs, key, episodes=settings.eval_episodes, greedy=True
    ).mean(axis=1)
    return np.nan_to_num(returns, nan=-np.inf).reshape(len(trials), len(seeds))


def interval(scores: np.ndarray) -> tuple[float, float, float]:
    """Interquartile mean over seeds and its interval."""
    middle, low, high = bootstrap_interval([scores])
    return float(middle), float(low), float(high)


def draw(settings: Settings, trials: list[dict[str, float]], scores: np.ndarray) -> Figure:
    """Every trial's score against each of its numbers: what matters, and whether the range is wide enough."""
    names = list(trials[0])
    figure, panels = plt.subplots(
        1, len(names), figsize=(3.2 * len(names), 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    means = interquartile_mean(scores)
    for axes, name in zip(panels[0], names, strict=True):
        x = np.array([1 - trial[name] if name in FROM_ONE else trial[name] for trial in trials])
        low, high = RANGES[name]
        shown = np.clip(x, low, high)  # a zero has no place on this axis
        axes.plot(shown[1:], means[1:], "o", alpha=0.6, label="drawn")
        axes.plot(shown[:1], means[:1], "D", color="C1", label="as given")
        axes.set(xscale="log", xlim=(low / 1.3, high * 1.3), xlabel=f"1 − {name}" if name in FROM_ONE else name)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks([low, np.sqrt(low * high), high], [f"{tick:.2g}" for tick in (low, np.sqrt(low * high), high)])
        axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel(f"greedy return, IQM of {scores.shape[1]} seeds")
    panels[0, 0].legend(frameon=False)
    figure.suptitle(f"{settings.environment}, {settings.algorithm}, {settings.total_steps:,} steps")
    return figure


def show(settings: Settings, chosen: list[dict[str, float]], final: np.ndarray, best: int) -> None:
    """The finalists, for people: one column each, the winner's in bold."""
    table = Table(title=f"{settings.environment}, {settings.algorithm}: greedy return on {final.shape[1]} new seeds")
    table.add_column("")
    for i in range(len(chosen)):
        table.add_column(f"finalist {i + 1}", justify="right", style="bold" if i == best else None)
    for name in chosen[0]:
        table.add_row(name, *(f"{trial[name]:.3g}" for trial in chosen))
    table.add_section()
    intervals = [interval(row) for row in final]
    table.add_row("interquartile mean", *(f"{middle:.2f}" for middle, _, _ in intervals))
    table.add_row("95 % interval", *(f"{low:.1f} to {high:.1f}" for _, low, high in intervals))
    table.add_row("worst seed", *(f"{row.min():.2f}" for row in final))
    Console().print(table)


if __name__ == "__main__":
    try:
        base = QUICK if "--quick" in sys.argv else Search()
        search, rest = tyro.cli(Search, default=base, description=__doc__, return_unknown_args=True)
        main(search, from_command_line(rest, description=__doc__ or "", without=WITHOUT))
    except SettingError as error:
        say(f"error: {error}")
        sys.exit(2)
