"""Does a population find a schedule that beats fixed hyperparameters? Population-based training on Pendulum with PPO.

Each of five repetitions trains a population of sixteen members and a random search of the same cost: the same sixteen
settings and seeds without changes. The best member of each, by its last training returns, is evaluated on new episodes.
For comparison, the best fixed setting of all eighty is trained again with eight other seeds, with a constant and with a
decaying learning rate. About ten minutes on two CPU cores.

Expect returns of about -139 from populations, -208 from random searches, -195 from the best fixed setting and -162
from the same with a decaying rate.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from parts.command import as_script
from parts.results import Options
from parts.tables import wrapped
from parts.trials import Trial, trained

from pgjax import evaluate_runs, population, sweeps
from pgjax.population import Evolution, ancestry, last_score
from pgjax.runs.record.interrupts import StopRequest
from pgjax.runs.settings.build import Setup, build
from pgjax.runs.settings.flags import Settings
from pgjax.runs.settings.ranges import evolution
from pgjax.runs.settings.start import start
from pgjax.runs.show import figures
from pgjax.runs.show.comparison import interquartile_mean

FRESH = range(1 << 20, (1 << 20) + 8)
EVALUATION_KEY = 1 << 31
COLUMNS = ("arm", "repetition", "policies_trained", "greedy_return")
SETTINGS = Settings(
    environment="Pendulum-v1",
    algorithm="ppo",
    total_steps=200_000,
    normalise_rewards=True,
    population=16,
    exploit_every=10,
    evolve=("learning_rate", "discount", "gae_lambda", "clip", "entropy_coefficient"),
    eval_episodes=64,
    quiet=True,
)


@dataclass(frozen=True)
class Trained:
    """One repetition: metrics [R, updates], final scores, greedy returns and initial settings of its members."""

    metrics: dict[str, np.ndarray]
    score: np.ndarray
    greedy: np.ndarray
    settings: dict[str, np.ndarray]

    @property
    def best(self) -> int:
        """The member with the best training return."""
        return int(np.argmax(self.score))


def main(options: Options) -> None:
    """Train everything; plot returns, curves and learning rates of the winners."""
    start()
    small = {"total_steps": 3_000, "population": 4, "exploit_every": 2, "eval_episodes": 4}
    settings = replace(SETTINGS, **small) if options.quick else SETTINGS
    repetitions = 2 if options.quick else 5
    setup = build(settings)
    how = evolution(settings, setup)
    arms: dict[str, list[Trained]] = {"population": [], "random search": []}
    for repetition in range(repetitions):
        for arm, these in (("population", how), ("random search", replace(how, share=0.0))):
            arms[arm].append(members(settings, setup, these, repetition))
            best = arms[arm][-1]
            found = f"{best.greedy[best.best]:.0f} of {np.sort(best.greedy).round()}"
            print(wrapped(f"{arm} {repetition}: {found}"), flush=True)
    rows = [
        (arm, i, settings.population, one.greedy[one.best])
        for arm, all_of in arms.items()
        for i, one in enumerate(all_of)
    ]
    fixed = best_fixed(settings, setup, how, arms["random search"])
    for arm, returns in fixed.items():
        rows += [(arm, i, 1, x) for i, x in enumerate(returns)]
        print(wrapped(f"{arm}: {interquartile_mean(returns):.0f} of {np.sort(returns).round()}"), flush=True)
    options.write("populations", draw(settings, arms, rows), COLUMNS, rows)


def members(settings: Settings, setup: Setup, how: Evolution, repetition: int) -> Trained:
    """Train a population and evaluate its members."""
    seeds = range(1000 * repetition, 1000 * repetition + settings.population)
    runs, pieces = population.start(setup.trainer, setup.algorithm, how, seeds=seeds, draw=repetition), []
    begun = dict(runs.settings)
    key = jax.random.key(EVALUATION_KEY + 1 + repetition)
    every, total = settings.exploit_every, settings.total_steps
    for now, metrics in population.chunks(setup.trainer, runs, total, every, how=how, key=key, donate=True):
        runs = now
        pieces.append(metrics)
    evaluation, environment, agent = jax.random.key(EVALUATION_KEY), setup.environment, setup.agent
    greedy = evaluate_runs(environment, agent, runs, evaluation, episodes=settings.eval_episodes, greedy=True)
    score = np.asarray(last_score(pieces[-1], jnp.zeros(len(seeds), bool)))
    return Trained(sweeps.join(pieces), score, greedy.mean(axis=1), begun)


def best_fixed(settings: Settings, setup: Setup, how: Evolution, searches: list[Trained]) -> dict[str, np.ndarray]:
    """Greedy returns with new seeds of the best fixed setting, with a constant and with a decaying learning rate."""
    search = max(searches, key=lambda one: one.score[one.best])
    numbers = {name: float(search.settings[name][search.best]) for name, *_ in how.ranges}
    print(wrapped(f"best fixed setting: {numbers}"), flush=True)
    plain = replace(settings, population=0, evolve=(), exploit_every=Settings().exploit_every)
    found = {}
    for arm, decay in (("best fixed setting", 0), ("with a falling rate", -1)):
        trial = [Trial(numbers, {"decay_updates": decay})]
        [[returns]] = trained(plain, trial, FRESH, [settings.total_steps], StopRequest())
        found[arm] = returns
    return found


def draw(settings: Settings, arms: dict[str, list[Trained]], rows: list[tuple]) -> Figure:
    """Returns of every arm, training curves of the winners, and their learning rates."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    names = list(dict.fromkeys(row[0] for row in rows))
    for i, name in enumerate(names):
        y = np.array([row[3] for row in rows if row[0] == name])
        left.plot(np.full(len(y), i), y, "o", color=f"C{i}", alpha=0.5, markeredgewidth=0)
        left.plot(i, interquartile_mean(y), "_", color=f"C{i}", markersize=26, markeredgewidth=3)
    left.set_xticks(range(len(names)), [name.replace(" ", "\n", 1) for name in names], fontsize=9)
    left.set(title="greedy return at the end", ylabel="return; bar: interquartile mean", xlim=(-0.6, len(names) - 0.4))
    for i, (name, all_of) in enumerate(arms.items()):
        for j, one in enumerate(all_of):
            path = ancestry(one.metrics, one.best)
            updates = np.arange(len(path))
            line = {name: x[path, updates][None] for name, x in one.metrics.items()}
            grid, returns = figures.curve(line, window=settings.exploit_every)
            middle.plot(grid, returns[0], color=f"C{i}", alpha=0.8, linewidth=1.2, label=name if j == 0 else None)
            steps, rates = line["env_steps"][0], line["learning_rate"][0]
            right.plot(steps, rates, color=f"C{i}", linewidth=1.2, alpha=0.8, drawstyle="steps-pre")
    figures.finish(middle, "training return of the winners' lineage", "")
    figures.finish(right, "learning rate of the winners' lineage", "")
    right.set_yscale("log")
    middle.legend(frameon=False, loc="lower right")
    left.grid(axis="y", alpha=0.3)
    left.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{settings.environment}, {settings.algorithm}, {settings.population} members of "
        f"{settings.total_steps // 1000}k steps"
    )
    return figure


if __name__ == "__main__":
    as_script(main, Options, __doc__)
