"""Load a pretrained policy by the name of its environment."""

import difflib
from pathlib import Path
from typing import NamedTuple

from pgjax.pretrained import weights
from pgjax.pretrained.cards import Card, read_card
from pgjax.types import Agent, Environment, Params, SettingError

FOLDER = Path(__file__).with_name("policies")


class Policy(NamedTuple):
    """A pretrained policy, ready to act: `environment, agent, params, card = load_policy(name)`."""

    environment: Environment
    agent: Agent
    params: Params
    card: Card

    def __repr__(self) -> str:
        """The text of its card."""
        return f"Policy{repr(self.card).removeprefix('Card')}"


def load_policy(name: str, *, folder: str | Path = FOLDER) -> Policy:
    """Load a pretrained policy (`pgjax.pretrained.list()` gives the names): environment, agent, parameters and card.

    `folder` holds the files; default: those of the package.

    >>> import jax
    >>> from pgjax import evaluate, load_policy
    >>> environment, agent, params, card = load_policy("CartPole-v1")
    >>> float(evaluate(environment, agent, params, jax.random.key(0), episodes=8, greedy=True).mean())
    500.0
    """
    # Imported here because they import tyro, which would slow down `import pgjax`.
    from pgjax.runs.settings.build import acting_agent_of, agent_of
    from pgjax.runs.settings.config_file import settings_of_record
    from pgjax.runs.settings.environment import environment_of

    path = _path(name, Path(folder))
    card = read_card(path)
    table = dict(card.settings)
    environment = environment_of(settings_of_record(table))
    settings = settings_of_record(table, environment)
    has_critic = card.critic != "none"
    agent = agent_of(settings, environment, card.critic) if has_critic else acting_agent_of(settings, environment)
    params = weights.read(path.with_suffix(".npz"), agent, card.sha256)
    return Policy(environment, agent, params, card)


def names(folder: str | Path = FOLDER) -> list[str]:
    """The names that `load_policy` knows, with those of families that are not installed."""
    return sorted(read_card(path).environment for path in Path(folder).glob("*.toml"))


def card(name: str, *, folder: str | Path = FOLDER) -> Card:
    """The card of a policy, without its environment. Raises a SettingError for a name without a policy."""
    return read_card(_path(name, Path(folder)))


def _path(name: str, folder: Path) -> Path:
    """The path of a name's card. Only this card is read, so that other damaged cards do not matter."""
    from pgjax.runs.record.files import file_name

    path = folder / f"{file_name(str(name))}.toml"
    if path.exists() and read_card(path).environment == name:
        return path
    by_lower = {other.lower(): other for other in names(folder)}
    close = [by_lower[x] for x in difflib.get_close_matches(str(name).lower(), by_lower, n=3, cutoff=0.0)]
    nearest = f"the closest are {', '.join(close)}" if close else f"{folder} has no policies"
    raise SettingError("policy", name, f"has no pretrained policy; {nearest}")
