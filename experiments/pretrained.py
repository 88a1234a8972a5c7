"""Do the shipped policies still earn what their cards say?

Every policy of `pgjax.pretrained.list()`, or those that are named, is evaluated again on the episodes of its card;
each mean return should lie within the card's interval. --add RUN… first makes policies of run directories of train.py,
several of one environment taken together: of the seed with the best greedy return, evaluated on episodes of their own,
with a card and the learning curve of all seeds. Expect every policy to be within, exit status 0, and a few seconds for
each, most of it compilation; 1 means that one is outside.
"""

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import numpy as np
import tyro
from parts import places
from parts.command import as_script
from parts.reading import Run, band, best_seed, by_environment
from rich.console import Console
from rich.table import Table

from pgjax import SettingError, pretrained
from pgjax.environments.packages import NotInstalled
from pgjax.pretrained import weights
from pgjax.pretrained.save import digest, save_policy
from pgjax.runs.record import files
from pgjax.runs.record.evaluation_file import NAME as EVALUATION_FILE
from pgjax.runs.record.texts import csv_text
from pgjax.runs.settings.build import Setup, acting_agent_of
from pgjax.runs.settings.config_file import settings_of_record
from pgjax.runs.settings.start import start
from pgjax.runs.show.comparison import bootstrap_interval
from pgjax.types import Agent, Params

CARD_KEY = (1 << 31) + 4  # seeds of training are below 2³¹; the four before it are evaluation's, episodes' and random's
WITH_CRITIC = 100_000  # numbers of an agent; a larger one keeps the policy alone, which is half of it
SMOOTH = 50  # a point of a curve is the mean over a fiftieth of the updates
QUICK = {"episodes": 16}


@dataclass(frozen=True)
class Shipping:
    """What to score again, or to add."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Names of environments; default all whose policies are shipped."""
    add: tuple[Path, ...] = ()
    """Run directories, finished, to make policies of."""
    episodes: int | None = None
    """Evaluation episodes; default the card's, and for a new card those of its run's evaluation."""
    commit: str = ""
    """Of pgjax, that trained what is added; default the one that its run has recorded."""
    quick: bool = False
    """Sixteen episodes, unless --episodes says how many."""
    folder: Path = pretrained.FOLDER
    """Where the policies are."""


class Row(NamedTuple):
    """A policy scored again."""

    name: str
    card: str
    now: str
    within: bool | None  # None: it could not be evaluated


def main(shipping: Shipping) -> None:
    """Add, or score again, and print."""
    if shipping.episodes is not None and shipping.episodes < 2:
        raise SettingError("episodes", shipping.episodes, "must be at least 2")
    if shipping.add and shipping.names:
        raise SettingError("names", shipping.names, "does nothing beside --add; leave it out")
    if shipping.commit and not shipping.add:
        raise SettingError("commit", shipping.commit, "does nothing without --add; leave it out")
    start(1)
    if shipping.add:
        places.check_folder("folder", shipping.folder)
        add(shipping)
        return
    names = shipping.names or tuple(pretrained.list(shipping.folder))
    if not names:
        raise SettingError("folder", str(shipping.folder), "holds no policy")
    for name in names:
        pretrained.card(name, folder=shipping.folder)  # refuses what is not there before anything is evaluated
    rows = [scored_again(name, shipping) for name in names]
    show(rows)
    outside = [row.name for row in rows if row.within is False]
    if outside:
        print(f"outside: {', '.join(outside)}")
        sys.exit(1)


def scored_again(name: str, shipping: Shipping) -> Row:
    """A policy's mean return on its card's episodes, or on as many of them as asked for."""
    card = pretrained.card(name, folder=shipping.folder)
    episodes = shipping.episodes or card.evaluation.episodes
    low, high = card.evaluation.interval(episodes)
    said = f"{card.evaluation.mean:.4g} [{low:.4g}, {high:.4g}]"
    try:
        policy = pretrained.load_policy(name, folder=shipping.folder)
    except NotInstalled as error:
        return Row(name, said, error.reason, None)
    now = pretrained.measured(*policy[:3], key=card.evaluation.key, episodes=episodes)
    return Row(name, said, f"{now.mean:.4g}", low <= now.mean <= high)


def show(rows: list[Row]) -> None:
    """The table."""
    table = Table(title="Mean greedy return: on the card, with its interval, and now")
    for column in ("policy", "card", "now", ""):
        table.add_column(column)
    words = {True: "within", False: "outside", None: "not evaluated"}
    for row in rows:
        table.add_row(row.name, row.card, row.now, words[row.within])
    Console().print(table, markup=False)


def add(shipping: Shipping) -> None:
    """Make a policy of the runs of each environment.

    Raises:
      SettingError: for a directory that is no finished run, or one that others cannot repeat.
    """
    groups = by_environment(shipping.add)
    for runs in groups.values():
        for run in runs:
            if run.settings.get("imports"):
                reason = "needs a module of your own, which is not shipped"
                raise SettingError("add", str(run.path), reason)
    for runs in groups.values():
        card, params = policy_of(runs, shipping.episodes, shipping.commit)
        path = save_policy(shipping.folder, card, params, curve(runs))
        size = path.with_suffix(".npz").stat().st_size / 1000
        print(f"wrote {path.with_suffix('')}.npz ({size:.0f} kB), .toml and .csv: {card}")


def policy_of(runs: list[Run], episodes: int | None, commit: str) -> tuple[pretrained.Card, Params]:
    """The best seed's policy, and its card."""
    run = max(runs, key=lambda run: np.nanmax(run.evaluation["greedy_return"]))
    seed = best_seed(run.path)
    setup, params = files.load_run(run.path, seed=seed)
    settings = dict(run.settings)
    versions = dict(settings.pop("versions"))
    recorded = versions.pop("commit", "")
    if not (commit or recorded):
        raise SettingError("commit", commit, f"is not recorded by {run.path}; name it")
    agent, params = acting(setup, settings, params)
    evaluation = pretrained.measured(
        setup.environment, agent, params, key=CARD_KEY, episodes=episodes or settings["eval_episodes"]
    )
    greedy, sampled = ([run.evaluation[f"{kind}_return"] for run in runs] for kind in ("greedy", "sampled"))
    ended = datetime.fromtimestamp((run.path / EVALUATION_FILE).stat().st_mtime, UTC)
    card = pretrained.Card(
        environment=settings["environment"],
        algorithm=settings["algorithm"],
        seed=seed,
        env_steps=int(run.evaluation["env_steps"][run.evaluation["seed"] == seed][0]),
        date=ended.date().isoformat(),
        commit=commit or recorded,
        critic=agent.critic,
        sha256=digest(params),
        evaluation=evaluation,
        score=pretrained.Score(sum(map(len, greedy)), *(_three(returns) for returns in (greedy, sampled))),
        settings=settings,
        versions=versions,
    )
    return card, params


def _three(returns: list[np.ndarray]) -> tuple[float, float, float]:
    middle, low, high = map(float, bootstrap_interval(returns))
    return middle, low, high


def acting(setup: Setup, settings: dict, params: Params) -> tuple[Agent, Params]:
    """The agent that is shipped: with its critic where that is small or shares the policy's layers."""
    leaves = weights.named(params)
    if settings.get("shared") or sum(x.size for x in leaves.values()) <= WITH_CRITIC:
        return setup.agent, params
    agent = acting_agent_of(settings_of_record(settings, setup.environment), setup.environment)
    like = jax.eval_shape(agent.init, jax.random.key(0))
    return agent, jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in weights.named(like)])


def curve(runs: list[Run]) -> str:
    """The training return of all seeds against environment steps, as CSV: interquartile mean and its 95 % interval."""
    window = max(1, max(run.metrics["update"].shape[1] for run in runs) // SMOOTH)
    *columns, _ = band(runs, "return_mean", window)
    return csv_text([("env_steps", "return_mean", "low", "high"), *zip(*columns, strict=True)])


if __name__ == "__main__":
    as_script(main, Shipping, __doc__, QUICK)
