"""How good are pgjax's methods on every environment? The table of scores, with learning curves per environment.

Reads finished run directories of train.py, combines those of the same environment, and evaluates a random policy.
Scores are from the evaluation after training: interquartile means over seeds, with bootstrap intervals stratified by
run directory. Rows of other environments stay in the table if their policy is shipped; their curves and versions are
those of the shipped policy. Targets, published scores and reasons for missed targets are in published.toml. Expect
every target to be reached except those with a reason. Half a minute per environment, most of it for compilation.
"""

import csv
import tomllib
from collections.abc import Mapping
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
from parts.reading import Curve, Run, band, by_environment, draw_curve, in_order
from parts.tables import fitted, wrapped

from pgjax import environments, pretrained, rollout
from pgjax.policies.uniform import uniform_policy
from pgjax.runs.record import files
from pgjax.runs.record.texts import read_text, write_text
from pgjax.runs.settings.start import start
from pgjax.runs.settings.tuned import tuned_environments
from pgjax.runs.show import figures
from pgjax.runs.show.comparison import bootstrap_interval
from pgjax.types import Environment, SettingError

PUBLISHED = Path(__file__).with_name("published.toml")
MARKS = ("<!-- scores -->", "<!-- /scores -->")  # around the table in a README
RANDOM_KEY = (1 << 31) + 3
PANELS_PER_ROW = 4
QUICK = {"random_episodes": 8}
MEMORIES = {"none": "", "gru": " + GRU", "lstm": " + LSTM"}
SMOOTH = 50  # a point of a curve is the mean over a fiftieth of the updates


@dataclass(frozen=True)
class Scores:
    """Options: what to read, and where to write."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Finished run directories."""
    random_episodes: int = 1024
    """Number of episodes of the random policy."""
    quick: bool = False
    """Use 8 episodes of the random policy, unless --random-episodes is given."""
    out: Path = field(default_factory=lambda: results() / "scores")
    """Folder for scores.md, scores.csv, curves.png and ENVIRONMENT.png. The table is also put into a README.md two
    folders above."""


class Row(NamedTuple):
    """An environment's row of the table."""

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
    target: float = np.nan
    published: str = ""


class Entry(NamedTuple):
    """A row with what else is shown of it."""

    row: Row
    curve: Curve
    versions: list[Mapping[str, str]]


def main(scores: Scores) -> None:
    """Read, evaluate, write and print."""
    start()
    groups = by_environment(scores.runs)
    published = tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))
    scores.out.mkdir(parents=True, exist_ok=True)
    found = {name: from_runs(name, runs, scores.random_episodes) for name, runs in groups.items()}
    entries = list(in_order({**kept(scores.out / "scores.csv", set(groups)), **found}).values())
    rows = [with_aim(entry.row, published.get(entry.row.environment, {})) for entry in entries]
    files.write_table(scores.out / "scores.csv", Row._fields, rows)
    missing = [name for name in tuned_environments() if name not in {row.environment for row in rows}]
    text = as_markdown(rows, published) + "\n" + versions(entries) + "\n"
    text += f"\nNot run: {', '.join(missing)}\n" if missing else ""
    write_text(scores.out / "scores.md", text)
    show(scores.out / "../../README.md", text)
    for row, entry in zip(rows, entries, strict=True):
        if row.environment in groups:
            figure, axes = plt.subplots(figsize=(6.2, 4.2), layout="constrained")
            draw(axes, row, entry.curve)
            axes.legend(frameon=False, fontsize=9)
            figures.save(figure, scores.out / f"{files.file_name(row.environment)}.png")
    overview(scores.out / "curves.png", rows, entries)
    table, reasons = cells(rows, published)
    print(fitted(table) + "\n")
    for line in (*numbered(reasons), versions(entries)):
        print(wrapped(line))
    if missing:
        print(wrapped(f"Not run: {', '.join(missing)}"))
    print(f"wrote {scores.out}: scores.md, scores.csv, curves.png and a figure for each environment with runs")


def from_runs(name: str, runs: list[Run], random_episodes: int) -> Entry:
    """The entry of an environment with runs."""
    random = float(random_returns(environments.make(name), random_episodes).mean())
    updates = max(run.metrics["update"].shape[1] for run in runs)
    curve = band(runs, "return_mean", max(1, updates // SMOOTH))
    return Entry(row_of(name, runs, random), curve, [run.settings["versions"] for run in runs])


def kept(path: Path, found: set[str]) -> dict[str, Entry]:
    """Entries of an earlier table whose environment is not among those found and whose policy is shipped."""
    lines = list(csv.DictReader(read_text(path).splitlines())) if path.exists() else []
    missing = [name for name in Row._fields if lines and name not in lines[0]]
    if missing:
        raise SettingError("out", str(path), f"has no column {missing[0]}; give another folder")
    measured = {name: kind for name, kind in Row.__annotations__.items() if name not in Row._field_defaults}
    rows = [Row(**{name: kind(line[name]) for name, kind in measured.items()}) for line in lines]
    return {row.environment: shipped(row) for row in rows if row.environment in set(pretrained.list()) - found}


def shipped(row: Row) -> Entry:
    """The entry of an environment without a run."""
    curve = np.genfromtxt(pretrained.FOLDER / f"{files.file_name(row.environment)}.csv", delimiter=",", names=True)
    points = Curve(curve["env_steps"], curve["return_mean"], curve["low"], curve["high"], row.seeds)
    return Entry(row, points, [pretrained.card(row.environment).versions])


def row_of(name: str, runs: list[Run], random: float) -> Row:
    """An environment's row: interquartile means over all seeds, and their intervals."""
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
    )


def with_aim(row: Row, known: dict[str, Any]) -> Row:
    """The row with its target and with published scores."""
    return row._replace(target=float(known.get("target", np.nan)), published=known.get("published", ""))


def random_returns(environment: Environment, episodes: int) -> np.ndarray:
    """Undiscounted returns of the random policy, [episodes]."""
    policy = uniform_policy(environment)

    @jax.jit
    def play(key: Array) -> Array:
        return rollout.episodes(environment, policy, jax.random.split(key, episodes)).reward.sum(axis=0)

    return np.asarray(play(jax.random.key(RANDOM_KEY)))


HEAD = ["environment", "method", "steps", "seeds", "greedy", "sampled", "worst seed", "random", "target", "published"]


def cells(rows: list[Row], published: dict[str, dict[str, Any]]) -> tuple[list[list[str]], list[str]]:
    """Cells of the table with its header, and the reason for each score below its target."""
    table, reasons = [HEAD], []
    for row in rows:
        mark = ""
        if round(row.greedy, 2) < row.target:
            reasons.append(published[row.environment].get("reason", "no reason known"))
            mark = f" ({len(reasons)})"
        greedy = f"{number(row.greedy)} [{number(row.greedy_low)}, {number(row.greedy_high)}]{mark}"
        sampled = f"{number(row.sampled)} [{number(row.sampled_low)}, {number(row.sampled_high)}]"
        target = "" if np.isnan(row.target) else number(row.target)
        steps = EngFormatter(places=0, sep="")(row.steps)
        start = [row.environment, row.algorithm, steps, str(row.seeds), greedy, sampled]
        table.append([*start, number(row.greedy_worst), number(row.random), target, row.published])
    return table, reasons


def as_markdown(rows: list[Row], published: dict[str, dict[str, Any]]) -> str:
    """The table in Markdown, with the reasons below it."""
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
    """Three significant digits, at most two after the decimal point."""
    digits = 2 if abs(x) < 10 else 1 if abs(x) < 100 else 0
    return f"{x:.{digits}f}".replace("-", "−")


def show(readme: Path, table: str) -> None:
    """Replace the table between the two marks of a README, if it has them."""
    text = read_text(readme) if readme.exists() else ""
    before, _, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if end:
        write_text(readme, f"{before}{MARKS[0]}\n{table}{end}{after}")


def versions(entries: list[Entry]) -> str:
    """Package versions by name; several if runs differ."""
    found: dict[str, set[str]] = {}
    for name, version in (item for entry in entries for kinds in entry.versions for item in kinds.items()):
        if name != "commit":
            found.setdefault(name, set()).add(version)
    return ", ".join(f"{name} {'/'.join(sorted(kinds))}" for name, kinds in found.items())


def draw(axes: Axes, row: Row, curve: Curve) -> None:
    """Training curve, return of the random policy, and target."""
    draw_curve(axes, curve, label=row.algorithm)
    axes.axhline(row.random, color="0.5", linestyle=":", label="random")
    if not np.isnan(row.target):
        axes.axhline(row.target, color="C2", linestyle="--", linewidth=1, label="target")
    figures.finish(axes, row.environment)


def overview(path: Path, rows: list[Row], entries: list[Entry]) -> None:
    """All learning curves in one figure."""
    height = -(-len(rows) // PANELS_PER_ROW)
    width = min(len(rows), PANELS_PER_ROW)
    figure, panels = plt.subplots(
        height, width, figsize=(4.0 * width, 2.9 * height), squeeze=False, layout="constrained"
    )
    for axes in panels.flat[len(rows) :]:
        axes.remove()
    for axes, row, entry in zip(panels.flat, rows, entries, strict=False):
        draw(axes, row, entry.curve)
        axes.set(xlabel="", ylabel="")
    figure.supxlabel("environment steps per seed")
    figure.supylabel("episode return (undiscounted)")
    figure.suptitle("Interquartile mean over seeds and 95 % bootstrap band; dotted: random policy, dashed: target")
    figures.save(figure, path)


if __name__ == "__main__":
    as_script(main, Scores, __doc__, QUICK)
