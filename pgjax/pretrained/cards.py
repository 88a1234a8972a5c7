"""The card of a trained policy: what it earns, and all that is needed to make its agent again."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from pgjax.training.evaluation import evaluate
from pgjax.types import Agent, Environment, Params, SettingError

STANDARD_ERRORS = 4.0
ROUNDING = 0.01


class Evaluation(NamedTuple):
    """Undiscounted greedy returns of one policy.

    Attributes:
      mean: over the episodes.
      standard_deviation: over the episodes, of one episode's return.
      episodes: how many.
      key: `jax.random.key(key)` began them.
    """

    mean: float
    standard_deviation: float
    episodes: int
    key: int

    def interval(self, episodes: int | None = None) -> tuple[float, float]:
        """Where the mean of so many episodes of the same policy lies, as many as here by default.

        mean ± (4 s √(1/n + 1/m) + 1 % of |mean|), with s the standard deviation, n the episodes here and m the others:
        four standard errors of the difference of two means. The share of the mean is for policies that never failed
        here, whose s is 0. The same key begins the same episodes; where it is used again, what is left is what other
        versions or processors round differently.

        >>> Evaluation(100.0, 0.0, 64, 0).interval()
        (99.0, 101.0)
        >>> Evaluation(100.0, 8.0, 64, 0).interval(64)
        (93.3431..., 106.6568...)
        """
        error = self.standard_deviation * (1 / self.episodes + 1 / (episodes or self.episodes)) ** 0.5
        half = STANDARD_ERRORS * error + ROUNDING * abs(self.mean)
        return self.mean - half, self.mean + half


class Score(NamedTuple):
    """All seeds that were trained alike, as in the table of scores.

    Attributes:
      seeds: how many.
      greedy: interquartile mean over seeds of each one's mean greedy return; low and high of its 95 % bootstrap
        interval.
      sampled: the same of sampled returns.
    """

    seeds: int
    greedy: tuple[float, float, float]
    sampled: tuple[float, float, float]


@dataclass(frozen=True, repr=False)
class Card:
    """What is known of a shipped policy.

    Attributes:
      environment: its name.
      algorithm: the method that trained it.
      seed: the one of the best greedy return among all seeds.
      env_steps: environment steps that it was trained for.
      date: when training ended, YYYY-MM-DD.
      commit: of pgjax, that trained it.
      critic: which values the agent has kept: "state", "action" or "none".
      sha256: of the parameters' file.
      evaluation: of this policy, on episodes that neither trained nor chose it.
      score: of all seeds.
      settings: of the training run, by name, as in its config.toml.
      versions: of what computed it.
    """

    environment: str
    algorithm: str
    seed: int
    env_steps: int
    date: str
    commit: str
    critic: str
    sha256: str
    evaluation: Evaluation
    score: Score
    settings: Mapping[str, Any] = field(hash=False)
    versions: Mapping[str, str] = field(hash=False)

    def __repr__(self) -> str:
        """Whose it is, and its greedy return with the interval of as many new episodes."""
        low, high = self.evaluation.interval()
        earns = f"greedy return {self.evaluation.mean:.4g} [{low:.4g}, {high:.4g}]"
        return f"Card({self.environment}, {self.algorithm}, seed {self.seed}, {earns})"


def measured(environment: Environment, agent: Agent, params: Params, *, key: int, episodes: int) -> Evaluation:
    """Evaluate a policy, greedy.

    >>> from pgjax import environments, make_agent
    >>> bandit = environments.make("SimpleBandit-bsuite")
    >>> agent = make_agent(bandit, hidden=())
    >>> measured(bandit, agent, agent.init(jax.random.key(0)), key=1, episodes=4).episodes
    4
    """
    key_of_all = jax.random.key(key)
    returns = np.asarray(evaluate(environment, agent, params, key_of_all, episodes=episodes, greedy=True), float)
    return Evaluation(float(returns.mean()), float(returns.std(ddof=1)), episodes, key)


def read_card(path: Path) -> Card:
    """A card, from TOML.

    Raises:
      SettingError: if it cannot be read, or is none.

    >>> read_card(Path("nowhere.toml"))
    Traceback (most recent call last):
    pgjax.types.SettingError: card: 'nowhere.toml' cannot be read: No such file or directory
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        greedy, sampled = (tuple(map(float, table["score"][name])) for name in ("greedy", "sampled"))
        score = Score(int(table["score"]["seeds"]), greedy, sampled)  # type: ignore[arg-type]  (three numbers each)
        card = Card(**table | {"evaluation": Evaluation(**table["evaluation"]), "score": score})
    except OSError as error:
        raise SettingError("card", str(path), f"cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:  # no TOML, or entries missing, foreign or of another type
        raise SettingError("card", str(path), f"is no card of a policy: {' '.join(str(error).split())}") from error
    if card.settings.get("environment") != card.environment or len(greedy) != 3 or len(sampled) != 3:
        raise SettingError("card", str(path), "is no card of a policy: its entries contradict each other")
    return card
