"""How good are pgjax's methods on every environment? The table of scores, and a curves figure for each environment.

Reads run directories of train.py, several of the same environment taken together, and measures a random policy beside
them. Scores are those of the evaluation after training: interquartile means over seeds, with intervals of a bootstrap
over seeds, stratified by run directory. What is aimed at, what others reached, and why a number stays below is in
published.toml. Expect every aim to be reached but those with a reason; half a minute per environment, most of it
compilation.
"""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tyro
from jax import Array
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter
from parts.command import as_script
from parts.places import results
from parts.reading import Run, by_environment, draw_band
from parts.tables import fitted, wrapped

from pgjax import environments, rollout
from pgjax.policies.uniform import uniform_policy
from pgjax.runs.record import files
from pgjax.runs.record.texts import read_text, write_text
from pgjax.runs.settings.start import start
from pgjax.runs.settings.tuned import tuned_environments
from pgjax.runs.show import figures
from pgjax.runs.show.comparison import bootstrap_interval
from pgjax.types import Environment

PUBLISHED = Path(__file__).with_name("published.toml")
MARKS = ("<!-- scores -->", "<!-- /scores -->")  # in the README, around the table
RANDOM_KEY = (1 << 31) + 3
PANELS_PER_ROW = 4
QUICK = {"random_episodes": 8}
MEMORIES = {"none": "", "gru": " + GRU", "lstm": " + LSTM"}
SMOOTH = 50  # a point of a curve is the mean over a fiftieth of the updates


@dataclass(frozen=True)
class Scores:
    """What to read, and where to write."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories, finished."""
    random_episodes: int = 1024
    """Episodes of the random policy."""
    quick: bool = False
    """Eight episodes of the random policy, unless --random-episodes says how many."""
    out: Path = field(default_factory=lambda: results() / "scores")
    """Where scores.md, scores.csv, curves.png and ENVIRONMENT.png go; a README.md two folders above shows the table."""


class Row(NamedTuple):
    """An environment's line in the table."""

    environment: str
    algorithm: str
    steps: int
    seeds: int
    greedy: float
    greedy_low: float
    greedy_high: float
    sampled: float
    sampled_low: float
    sampled_high: float
    greedy_worst: float
    random: float
    target: float
    published: str


def main(scores: Scores) -> None:
    """Read, measure, write, print."""
    start()
    groups = by_environment(scores.runs)
    published = tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))
    scores.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, runs in groups.items():
        random = random_returns(environments.make(name), scores.random_episodes).mean()
        rows.append(row_of(name, runs, float(random), published.get(name, {})))
    files.write_table(scores.out / "scores.csv", Row._fields, rows)
    missing = [name for name in tuned_environments() if name not in groups]
    text = as_markdown(rows, published) + "\n" + versions(groups) + "\n"
    text += f"\nNot run: {', '.join(missing)}\n" if missing else ""
    write_text(scores.out / "scores.md", text)
    show(scores.out / "../../README.md", text)
    for row, runs in zip(rows, groups.values(), strict=True):
        figure, axes = plt.subplots(figsize=(6.2, 4.2), layout="constrained")
        draw(axes, row, runs)
        axes.legend(frameon=False, fontsize=9)
        figures.save(figure, scores.out / f"{files.file_name(row.environment)}.png")
    overview(scores.out / "curves.png", rows, groups)
    table, reasons = cells(rows, published)
    print(fitted(table) + "\n")
    for line in (*numbered(reasons), versions(groups)):
        print(wrapped(line))
    if missing:
        print(wrapped(f"Not run: {', '.join(missing)}"))
    print(f"wrote {scores.out}: scores.md, scores.csv, curves.png and a figure for each environment")


def row_of(name: str, runs: list[Run], random: float, published: dict[str, Any]) -> Row:
    """An environment's line: interquartile means over all seeds, and their intervals."""
    greedy, sampled = ([run.evaluation[f"{kind}_return"] for run in runs] for kind in ("greedy", "sampled"))
    middle, low, high = map(float, bootstrap_interval(greedy))
    algorithm = runs[0].settings["algorithm"] + MEMORIES[runs[0].settings.get("memory", "none")]
    return Row(
        name,
        algorithm,
        steps=max(int(run.evaluation["env_steps"].max()) for run in runs),
        seeds=sum(map(len, greedy)),
        greedy=middle,
        greedy_low=low,
        greedy_high=high,
        **dict(zip(("sampled", "sampled_low", "sampled_high"), map(float, bootstrap_interval(sampled)), strict=True)),
        greedy_worst=float(np.concatenate(greedy).min()),
        random=random,
        target=float(published.get("target", np.nan)),
        published=published.get("published", ""),
    )


def random_returns(environment: Environment, episodes: int) -> np.ndarray:
    """Undiscounted returns of the random policy, [episodes]."""
    policy = uniform_policy(environment)

    @jax.jit
    def play(key: Array) -> Array:
        return rollout.episodes(environment, policy, jax.random.split(key, episodes)).reward.sum(axis=0)

    return np.asarray(play(jax.random.key(RANDOM_KEY)))


HEAD = ["environment", "method", "steps", "seeds", "greedy", "sampled", "worst seed", "random", "aim", "published"]


def cells(rows: list[Row], published: dict[str, dict[str, Any]]) -> tuple[list[list[str]], list[str]]:
    """The table's cells, its head first, and the reason for each number that stays below its aim."""
    table, reasons = [HEAD], []
    for row in rows:
        mark = ""
        if round(row.greedy, 2) < row.target:
            reasons.append(published[row.environment].get("reason", "no reason known"))
            mark = f" ({len(reasons)})"
        greedy = f"{number(row.greedy)} [{number(row.greedy_low)}, {number(row.greedy_high)}]{mark}"
        sampled = f"{number(row.sampled)} [{number(row.sampled_low)}, {number(row.sampled_high)}]"
        aim = "" if np.isnan(row.target) else number(row.target)
        steps = EngFormatter(places=0, sep="")(row.steps)
        start = [row.environment, row.algorithm, steps, str(row.seeds), greedy, sampled]
        table.append([*start, number(row.greedy_worst), number(row.random), aim, row.published])
    return table, reasons


def as_markdown(rows: list[Row], published: dict[str, dict[str, Any]]) -> str:
    """The table, and below it the reasons."""
    table, reasons = cells(rows, published)
    head, *below = (f"| {' | '.join(line)} |" for line in table)
    return (
        "\n".join([head, "|" + "---|" * len(HEAD), *below])
        + "\n\n"
        + "".join(f"{note}\n" for note in numbered(reasons))
    )


def numbered(reasons: list[str]) -> list[str]:
    """The reasons as notes below the table."""
    return [f"({i}) {reason}" for i, reason in enumerate(reasons, 1)]


def number(x: float) -> str:
    """Three significant digits, at most two of them behind the point."""
    digits = 2 if abs(x) < 10 else 1 if abs(x) < 100 else 0
    return f"{x:.{digits}f}".replace("-", "−")


def show(readme: Path, table: str) -> None:
    """Put a table between the two marks of a README, if there is one that has them."""
    text = read_text(readme) if readme.exists() else ""
    before, _, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if end:
        write_text(readme, f"{before}{MARKS[0]}\n{table}{end}{after}")


def versions(groups: dict[str, list[Run]]) -> str:
    """What computed the runs, by name; several where runs differ."""
    found: dict[str, set[str]] = {}
    for run in (run for runs in groups.values() for run in runs):
        for name, version in run.settings["versions"].items():
            found.setdefault(name, set()).add(version)
    return ", ".join(f"{name} {'/'.join(sorted(kinds))}" for name, kinds in found.items())


def draw(axes: Axes, row: Row, runs: list[Run]) -> None:
    """The training curve, the random policy's return and the aim."""
    updates = max(run.metrics["update"].shape[1] for run in runs)
    draw_band(axes, runs, label=row.algorithm, window=max(1, updates // SMOOTH))
    axes.axhline(row.random, color="0.5", linestyle=":", label="random")
    if not np.isnan(row.target):
        axes.axhline(row.target, color="C2", linestyle="--", linewidth=1, label="aim")
    figures.finish(axes, row.environment)


def overview(path: Path, rows: list[Row], groups: dict[str, list[Run]]) -> None:
    """All curves in one figure."""
    height = -(-len(rows) // PANELS_PER_ROW)
    width = min(len(rows), PANELS_PER_ROW)
    figure, panels = plt.subplots(
        height, width, figsize=(4.0 * width, 2.9 * height), squeeze=False, layout="constrained"
    )
    for axes in panels.flat[len(rows) :]:
        axes.remove()
    for axes, row in zip(panels.flat, rows, strict=False):
        draw(axes, row, groups[row.environment])
        axes.set(xlabel="", ylabel="")
    figure.supxlabel("environment steps per seed")
    figure.supylabel("episode return (undiscounted)")
    figure.suptitle("Interquartile mean over seeds and 95 % bootstrap band; dotted: random policy, dashed: aim")
    figures.save(figure, path)


if __name__ == "__main__":
    as_script(main, Scores, __doc__, QUICK)
