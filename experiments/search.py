"""Does Optuna's TPE find better settings than a random search? Equal trials, three environments, five repetitions.

These are the searches of tune.py without cuts: batches of eight trials with two seeds each, starting from the given
settings. All repetitions of both samplers run in parallel. After each batch the best trial so far is trained again with
eight new seeds, which gives its score. The table also has its value in the search, which is higher because it is the
maximum over many trials. About ten minutes on two CPU cores.

Expect no difference between the samplers with so few trials: the first sixteen trials of TPE are random.
"""

from dataclasses import dataclass, replace

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator
from parts import study as studies
from parts.command import as_script
from parts.results import Options
from parts.study import SAMPLERS, Space
from parts.tables import wrapped
from parts.trials import trained

from pgjax.runs.record.interrupts import StopRequest
from pgjax.runs.settings.build import build
from pgjax.runs.settings.flags import Settings
from pgjax.runs.settings.ranges import chosen
from pgjax.runs.settings.start import start
from pgjax.runs.show import figures
from pgjax.runs.show.comparison import interquartile_mean

BATCH = 8
SEEDS = 2
EPISODES = 16
FRESH = range(1 << 20, (1 << 20) + 8)


@dataclass(frozen=True)
class Task:
    """An environment, a method and a number of steps."""

    environment: str
    algorithm: str
    total_steps: int


TASKS = (
    Task("Catch-bsuite", "a2c", 6_000),
    Task("CartPole-v1", "ppo", 15_000),
    Task("Acrobot-v1", "a2c", 25_000),
)
COLUMNS = ("environment", "sampler", "repetition", "trials", "trial", "search_value", "fresh_iqm", "fresh_worst_seed")


def main(options: Options) -> None:
    """Run both searches on every task, one panel per environment."""
    start(1)
    tasks, repetitions, batches = (TASKS[:1], 1, 2) if options.quick else (TASKS, 5, 4)
    figure, panels = plt.subplots(1, len(tasks), figsize=(4.0 * len(tasks), 3.9), squeeze=False, layout="constrained")
    rows = []
    for axes, task in zip(panels[0], tasks, strict=True):
        steps = 2_000 if options.quick else task.total_steps
        found = searched(task, steps, repetitions, batches)
        rows += [(task.environment, *row) for row in found]
        x = BATCH * np.arange(1, batches + 1)
        for colour, sampler in zip(("C0", "C1"), SAMPLERS, strict=True):
            curves = np.array([row[5] for row in found if row[0] == sampler]).reshape(repetitions, batches)
            shift = -0.35 if sampler == SAMPLERS[0] else 0.35
            axes.plot(np.tile(x + shift, (repetitions, 1)).T, curves.T, "o", color=colour, alpha=0.35, markersize=4)
            axes.plot(x, curves.mean(axis=0), color=colour, linewidth=2, label=sampler)
            print(wrapped(f"{task.environment}, {sampler}: mean {curves.mean(axis=0).round(2).tolist()}"), flush=True)
        figures.finish(axes, f"{task.environment}, {task.algorithm}, {steps // 1000}k steps", "")
        axes.set_xlabel("trials")
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.xaxis.set_major_locator(FixedLocator(x.tolist()))
    panels[0, 0].set_ylabel("greedy return of the best so far,\non new seeds")
    panels[0, 0].legend(frameon=False, loc="lower right")
    figure.suptitle(f"{repetitions} searches each (points) and their mean")
    options.write("search", figure, COLUMNS, rows)


def searched(task: Task, total_steps: int, repetitions: int, batches: int) -> list[tuple]:
    """Rows: sampler, repetition, trials so far, best trial, its search value, and IQM and worst seed on new seeds."""
    settings = Settings(environment=task.environment, algorithm=task.algorithm, total_steps=total_steps, quiet=True)
    settings = replace(settings, updates_per_chunk=50, eval_episodes=EPISODES)
    space = Space(chosen("over", (), settings, build(settings)), {})
    each = [(sampler, repetition) for sampler in SAMPLERS for repetition in range(repetitions)]
    open_ones = {one: studies.open_study(None, {}) for one in each}
    best = []
    for batch in range(1, batches + 1):
        asked = {}
        for (sampler, repetition), study in open_ones.items():
            studies.ask(study, space, sampler, repetition, BATCH * batch)
            for trial in study.get_trials()[BATCH * (batch - 1) :]:
                asked[sampler, repetition, trial.number] = trial
        trials = [space.trial(trial.number, trial.params) for trial in asked.values()]
        scores = trained(settings, trials, range(SEEDS), [total_steps], StopRequest())
        for (sampler, repetition, _), trial, of_trial in zip(asked, asked.values(), scores, strict=True):
            studies.tell(open_ones[sampler, repetition], trial, [total_steps], [x.tolist() for x in of_trial])
        print(f"{task.environment}: {BATCH * batch} trials of each search", flush=True)
        best += [(*one, BATCH * batch, study.best_trial) for one, study in open_ones.items()]
    different = {(one, rep, trial.number): space.trial(trial.number, trial.params) for one, rep, _, trial in best}
    again = trained(settings, [*different.values()], FRESH, [total_steps], StopRequest())
    fresh = {name: of_trial[-1] for name, of_trial in zip(different, again, strict=True)}
    rows = []
    for sampler, repetition, trials_so_far, trial in best:
        scores = fresh[sampler, repetition, trial.number]
        value = float(interquartile_mean(scores))
        rows.append((sampler, repetition, trials_so_far, trial.number, trial.value, value, float(scores.min())))
    return sorted(rows, key=lambda row: (SAMPLERS.index(row[0]), *row[1:3]))


if __name__ == "__main__":
    as_script(main, Options, __doc__)
