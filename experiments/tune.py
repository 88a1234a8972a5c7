"""Which settings suit an environment? A search with Optuna, with every batch of trials × seeds in one compiled call.

Trials are drawn in batches; the first one is the given settings. After half of the steps the worse half of a batch is
stopped (--cuts). The best few are trained again with new seeds. The best of these and the given settings are trained
once more with further new seeds; those returns are the score. The winner is written as a TOML file for
`train.py --config`. --choose num_envs=8,32 hidden=64x64,32 also searches static settings, with one compiled call per
choice and batch. The same command continues a search that was stopped or killed; a larger --trials extends one that is
done. Other flags are those of train.py; --quick runs two trials of a few updates.

Expect a winner whose score does not depend on the seeds that selected it. Sixteen trials of four seeds and 50 000 steps
of Catch take a minute and a half on two CPU cores.
"""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import tyro
from parts import study as studies
from parts.search_figure import draw_search
from parts.study import Space
from parts.trials import Trial, stops_of, trained
from rich.console import Console
from rich.table import Table

from pgjax import SettingError, counters
from pgjax.runs.record import files
from pgjax.runs.record.interrupts import StopRequest, stop_request
from pgjax.runs.record.texts import write_text
from pgjax.runs.settings.build import build, resolve
from pgjax.runs.settings.command_line import HELP_ALL, from_command_line, show_flags
from pgjax.runs.settings.config_file import LAYOUT_SETTINGS, config_text, recorded
from pgjax.runs.settings.flags import Settings
from pgjax.runs.settings.ranges import chosen
from pgjax.runs.settings.start import start
from pgjax.runs.show import figures
from pgjax.runs.show.comparison import bootstrap_interval, interquartile_mean
from pgjax.runs.show.help import HELP
from pgjax.runs.show.script import as_typed, one_line

if TYPE_CHECKING:
    from optuna import Study

NEW_SEEDS = 1 << 20  # first seed of the second and third round; trials use smaller ones

LOCK = ".lock"

WITHOUT = {
    "out": "a search writes to --folder",
    "log": "a search keeps no metrics",
    "resume": "the same command continues a search",
    "population": "a search trains trials",
    "evolve": "a search trains trials",
    "exploit_every": "a search trains trials",
    "eval_every": "trials are evaluated at their cuts and at the end",
    "first_seed": "a search chooses its seeds",
    "seed_list": "a search chooses its seeds",
    "save_every": "a search writes no checkpoints",
    "keep": "a search writes no checkpoints",
    "diagnostics": "a search keeps no metrics",
    "mesh": "the rounds of a search train different numbers of policies",
    "distributed": "a search is one process",
    "coordinator": "a search is one process",
    "processes": "a search is one process",
    "process_id": "a search is one process",
    "join_timeout": "a search is one process",
}
"""Flags of train.py that do nothing here, with the reason."""


@dataclass(frozen=True)
class Search:
    """How to search."""

    trials: int = 32
    """Number of trials."""
    batch: int = 8
    """Number of trials to train in parallel; the sampler sees the results of a batch before it draws the next."""
    sampler: Literal["tpe", "random"] = "tpe"
    """Sampler: Optuna's tree-structured Parzen estimator (tpe) or random search."""
    cuts: int = 1
    """Number of cuts, each of which stops the worse half of a batch: 1 cuts at half of the steps, 2 at a quarter and a
    half, … (0: never)."""
    finalists: int = 4
    """Number of best trials to train again with new seeds."""
    final_seeds: int = 8
    """Number of new seeds for the finalists, and again for the winner."""
    over: tuple[str, ...] = ()
    """Hyperparameters to search; default all of the method that have a search range."""
    choose: tuple[str, ...] = ()
    """Static settings to search, such as num_envs=8,32 or hidden=64x64,32."""
    draw: int = 0
    """Seed of the sampler."""
    folder: Path = Path("tuning")
    """Folder for study.db (of Optuna), trials.csv, trials.png and best.toml."""


QUICK = Search(trials=2, batch=2, cuts=0, finalists=2, final_seeds=2)


def main(search: Search, settings: Settings) -> None:
    """Search, train the best trials again, and write the results."""
    with stop_request() as stop, ExitStack() as held:
        start(settings.devices or None)
        space = space_of(search, settings)
        search.folder.mkdir(parents=True, exist_ok=True)
        (search.folder / LOCK).touch()
        held.enter_context(files.locked(search.folder, LOCK, "folder"))
        study = studies.open_study(search.folder, asked(search, settings))
        stops = stops_of(settings.total_steps, search.cuts)
        run(search, settings, space, study, stops, stop)
        found = study.get_trials()[: search.trials]
        trials = [space.trial(trial.number, trial.params) for trial in found]
        done = sorted((-t.values[0], t.number) for t in found if t.state.name == "COMPLETE")
        finalists = [number for _, number in done[: search.finalists]]
        second = again(search, settings, study, [trials[i] for i in finalists], stop, of=2)
        winner = finalists[int(np.argmax(interquartile_mean(second)))]
        last = [winner, 0] if winner else [0]
        third = again(search, settings, study, [trials[i] for i in last], stop, of=3)

    first = [
        (1, t.number, trials[t.number], stops[len(t.intermediate_values) - 1], t.user_attrs["returns"]) for t in found
    ]
    others = [(2, i, trials[i], stops[-1], row) for i, row in zip(finalists, second, strict=True)]
    others += [(3, i, trials[i], stops[-1], row) for i, row in zip(last, third, strict=True)]
    names = [*trials[0].numbers, *trials[0].static]
    rows = [(n, i, steps, *_cells(trial, space), *interval(row)) for n, i, trial, steps, row in [*first, *others]]
    columns = ("round", "trial", "env_steps", *names, "iqm", "low", "high")
    files.write_table(search.folder / "trials.csv", columns, rows)
    title = f"{settings.environment}, {settings.algorithm}, {settings.total_steps:,} steps, {settings.seeds} seeds"
    values = [[t.intermediate_values[step] for step in sorted(t.intermediate_values)] for t in found]
    figure = draw_search(title, space, trials, values, studies.importances(study, space, stops[0]))
    figures.save(figure, search.folder / "trials.png")
    write_text(search.folder / "best.toml", config_text(trials[winner].of(settings)))
    if not settings.quiet:
        show(settings, space, {i: trials[i] for i in last}, third)
        print(f"wrote {search.folder}/best.toml, trials.csv, trials.png")
        print(f"to train with it: {as_typed('train')} --config {search.folder}/best.toml")


def space_of(search: Search, settings: Settings) -> Space:
    """The search space, with every combination of static settings checked.

    Raises:
      SettingError: for invalid sizes of the search, or settings that cannot be searched.
    """
    for name in ("trials", "batch", "finalists", "final_seeds"):
        counters.count(name, getattr(search, name))
    counters.count("cuts", search.cuts, least=0)
    counters.seed(search.draw, "draw")
    if search.finalists > search.trials:
        raise SettingError("finalists", search.finalists, f"is more than the {search.trials} trials")
    static = studies.choices_of(search.choose, resolve(settings))
    setup = build(settings)
    numbers = chosen("over", search.over, settings, setup)
    for values in product(*(choices.values() for choices in static.values())):
        of = replace(settings, **dict(zip(static, values, strict=True)))
        chosen("over", tuple(numbers), of, build(of))
    return Space(numbers, static)


def asked(search: Search, settings: Settings) -> dict[str, object]:
    """Everything that the trials of a search depend on."""
    of_search = {name: getattr(search, name) for name in ("batch", "sampler", "cuts", "over", "choose", "draw")}
    return of_search | {name: x for name, x in recorded(settings).items() if name not in LAYOUT_SETTINGS}


def run(
    search: Search, settings: Settings, space: Space, study: "Study", stops: Sequence[int], stop: StopRequest
) -> None:
    """Draw, train and report trials batch by batch, continuing the study."""
    for first in range(0, search.trials, search.batch):
        last = min(first + search.batch, search.trials)
        studies.ask(study, space, search.sampler, search.draw, last)
        open_ones = [trial for trial in study.get_trials()[first:last] if not trial.state.is_finished()]
        if not open_ones:
            continue
        trials = {str(trial.number): space.trial(trial.number, trial.params) for trial in open_ones}

        def train(trials: dict[str, Trial] = trials) -> dict[str, list[list[float]]]:
            scores = trained(settings, [*trials.values()], range(settings.seeds), stops, stop)
            return {name: [x.tolist() for x in of_trial] for name, of_trial in zip(trials, scores, strict=True)}

        scores = studies.remembered(study, f"trials {first} to {last - 1}", train)
        for trial in open_ones:
            studies.tell(study, trial, stops, scores[str(trial.number)])
        if not settings.quiet:
            best = study.best_trial
            print(f"trials {first} to {last - 1} of {search.trials}: best so far {best.value:.2f}, trial {best.number}")


def again(
    search: Search, settings: Settings, study: "Study", trials: list[Trial], stop: StopRequest, *, of: int
) -> np.ndarray:
    """Greedy returns [trials, seeds] of a later round, with seeds that no earlier round has used."""
    begin = max(NEW_SEEDS, settings.seeds) + (of - 2) * search.final_seeds
    seeds = range(begin, begin + search.final_seeds)

    def train() -> list[list[float]]:
        scores = trained(settings, trials, seeds, [settings.total_steps], stop)
        return [of_trial[-1].tolist() for of_trial in scores]

    name = f"round {of}: {search.trials} trials, {search.finalists} finalists, {search.final_seeds} seeds"
    return np.array(studies.remembered(study, name, train))


def interval(scores: Sequence[float]) -> tuple[float, float, float]:
    """Interquartile mean over seeds, with its interval."""
    middle, low, high = bootstrap_interval([scores])
    return float(middle), float(low), float(high)


def _cells(trial: Trial, space: Space) -> list[float | str]:
    texts = [next(text for text, x in space.static[name].items() if x == trial.static[name]) for name in space.static]
    return [*trial.numbers.values(), *texts]


def show(settings: Settings, space: Space, trials: dict[int, Trial], scores: np.ndarray) -> None:
    """Print the returns of the winner and of the given settings, with seeds that selected neither."""
    table = Table(title=f"{settings.environment}, {settings.algorithm}: greedy return on {scores.shape[1]} new seeds")
    table.add_column("")
    for number in trials:
        given = "given settings" if len(trials) > 1 else "winner: given settings"
        name = f"winner: trial {number}" if number else given
        table.add_column(name, justify="right", style="bold" if number else None)
    cells = [_cells(trial, space) for trial in trials.values()]
    for i, name in enumerate([*space.numbers, *space.static]):
        table.add_row(name, *(x if isinstance(x := row[i], str) else f"{x:.3g}" for row in cells))
    table.add_section()
    intervals = [interval(row) for row in scores]
    table.add_row("interquartile mean", *(f"{middle:.2f}" for middle, _, _ in intervals))
    table.add_row("95 % interval", *(f"{low:.1f} to {high:.1f}" for _, low, high in intervals))
    table.add_row("worst seed", *(f"{row.min():.2f}" for row in scores))
    Console().print(table)


if __name__ == "__main__":
    with one_line():
        base = QUICK if "--quick" in sys.argv else Search()
        asked_for = {HELP_ALL, *HELP} & set(sys.argv)
        if asked_for:
            search_flags = {"search": base}
            show_flags(
                Settings(),
                __doc__ or "",
                prog=as_typed("tune"),
                whole=HELP_ALL in asked_for,
                first=search_flags,
                without=WITHOUT,
            )
            sys.exit()
        search, rest = tyro.cli(Search, default=base, return_unknown_args=True)
        main(search, from_command_line(rest, without=WITHOUT))
