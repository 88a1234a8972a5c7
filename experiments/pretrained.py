"""Do the shipped policies still reach the returns on their cards?

Every policy of `pgjax.pretrained.list()`, or those named, is evaluated again on the episodes of its card. Its mean
return should lie within the interval on the card. Expect this for every policy, with exit status 0, and a few seconds
each, most of it for compilation. The exit status is 1 if a policy is outside.

--add RUN… makes policies from run directories of train.py first; those of one environment are combined. The seed with
the best greedy return is evaluated on new episodes and gets a card and the learning curve of all seeds.
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

CARD_KEY = (1 << 31) + 4  # training seeds are below 2³¹, and other evaluations use the four keys before this one
WITH_CRITIC = 100_000  # number of parameters up to which the critic is shipped too
SMOOTH = 50  # a point of a curve is the mean over a fiftieth of the updates
QUICK = {"episodes": 16}


@dataclass(frozen=True)
class Shipping:
    """Options: which policies to evaluate or to add."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Names of environments; default all with a shipped policy."""
    add: tuple[Path, ...] = ()
    """Finished run directories to make policies from."""
    episodes: int | None = None
    """Number of evaluation episodes; default that on the card, or for a new card that of its run."""
    commit: str = ""
    """Commit of pgjax that trained the added runs; default the one recorded in the run."""
    quick: bool = False
    """Use 16 episodes, unless --episodes is given."""
    folder: Path = pretrained.FOLDER
    """Folder of the policies."""


class Row(NamedTuple):
    """A policy evaluated again."""

    name: str
    card: str
    now: str
    within: bool | None  # None if it could not be evaluated


def main(shipping: Shipping) -> None:
    """Add policies, or evaluate them again, and print."""
    if shipping.episodes is not None and shipping.episodes < 2:
        raise SettingError("episodes", shipping.episodes, "must be at least 2")
    if shipping.add and shipping.names:
        raise SettingError("names", shipping.names, "does nothing with --add; leave it out")
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
        pretrained.card(name, folder=shipping.folder)  # rejects unknown names before anything is evaluated
    rows = [scored_again(name, shipping) for name in names]
    show(rows)
    outside = [row.name for row in rows if row.within is False]
    if outside:
        print(f"outside: {', '.join(outside)}")
        sys.exit(1)


def scored_again(name: str, shipping: Shipping) -> Row:
    """Mean return of a policy on the episodes of its card, or on a given number of them."""
    card = pretrained.card(name, folder=shipping.folder)
    episodes = shipping.episodes or card.evaluation.episodes
    low, high = card.evaluation.interval(episodes)
    on_card = f"{card.evaluation.mean:.4g} [{low:.4g}, {high:.4g}]"
    try:
        policy = pretrained.load_policy(name, folder=shipping.folder)
    except NotInstalled as error:
        return Row(name, on_card, error.reason, None)
    now = pretrained.measured(*policy[:3], key=card.evaluation.key, episodes=episodes)
    return Row(name, on_card, f"{now.mean:.4g}", low <= now.mean <= high)


def show(rows: list[Row]) -> None:
    """Print the table."""
    table = Table(title="Mean greedy return: on the card, with its interval, and now")
    for column in ("policy", "card", "now", ""):
        table.add_column(column)
    words = {True: "within", False: "outside", None: "not evaluated"}
    for row in rows:
        table.add_row(row.name, row.card, row.now, words[row.within])
    Console().print(table, markup=False)


def add(shipping: Shipping) -> None:
    """Make a policy from the runs of each environment.

    Raises:
      SettingError: for a directory that is not a finished run, or a run that others cannot repeat.
    """
    groups = by_environment(shipping.add)
    for runs in groups.values():
        for run in runs:
            if run.settings.get("imports"):
                reason = "needs an imported module, which is not shipped"
                raise SettingError("add", str(run.path), reason)
    for runs in groups.values():
        card, params = policy_of(runs, shipping.episodes, shipping.commit)
        path = save_policy(shipping.folder, card, params, curve(runs))
        size = path.with_suffix(".npz").stat().st_size / 1000
        print(f"wrote {path.with_suffix('')}.npz ({size:.0f} kB), .toml and .csv: {card}")


def policy_of(runs: list[Run], episodes: int | None, commit: str) -> tuple[pretrained.Card, Params]:
    """The policy of the best seed, and its card."""
    run = max(runs, key=lambda run: np.nanmax(run.evaluation["greedy_return"]))
    seed = best_seed(run.path)
    setup, params = files.load_run(run.path, seed=seed)
    settings = dict(run.settings)
    versions = dict(settings.pop("versions"))
    recorded = versions.pop("commit", "")
    if not (commit or recorded):
        raise SettingError("commit", commit, f"is not recorded in {run.path}; give --commit")
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
    """The agent to ship: with its critic if that is small or shares layers with the policy."""
    leaves = weights.named(params)
    if settings.get("shared") or sum(x.size for x in leaves.values()) <= WITH_CRITIC:
        return setup.agent, params
    agent = acting_agent_of(settings_of_record(settings, setup.environment), setup.environment)
    like = jax.eval_shape(agent.init, jax.random.key(0))
    return agent, jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in weights.named(like)])


def curve(runs: list[Run]) -> str:
    """Training return against environment steps as CSV: interquartile mean over seeds and its 95 % interval."""
    window = max(1, max(run.metrics["update"].shape[1] for run in runs) // SMOOTH)
    grid, middle, low, high, _ = band(runs, "return_mean", window)
    return csv_text([("env_steps", "return_mean", "low", "high"), *zip(grid, middle, low, high, strict=True)])


if __name__ == "__main__":
    as_script(main, Shipping, __doc__, QUICK)
