"""The card of a pretrained policy: its returns, and all settings needed to rebuild its agent."""

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
    """Undiscounted greedy returns of one policy."""

    mean: float
    standard_deviation: float  # of one episode's return
    episodes: int
    key: int  # the seed of the evaluation key

    def interval(self, episodes: int | None = None) -> tuple[float, float]:
        """The interval expected to hold the mean of `episodes` other episodes of this policy; default as many as here.

        It is mean ± (4 s √(1/n + 1/m) + 1 % of |mean|), with standard deviation s and numbers of episodes n, m. The
        first term is four standard errors of the difference of two means. The 1 % covers policies with s = 0, and
        rounding on other versions or processors. The same key gives the same initial states.
        """
        error = self.standard_deviation * (1 / self.episodes + 1 / (episodes or self.episodes)) ** 0.5
        half = STANDARD_ERRORS * error + ROUNDING * abs(self.mean)
        return self.mean - half, self.mean + half


class Score(NamedTuple):
    """Returns of all seeds of a training run, as in the table of scores."""

    seeds: int
    greedy: tuple[float, float, float]  # interquartile mean over seeds of mean returns, and its 95 % bootstrap interval
    sampled: tuple[float, float, float]  # the same for sampled actions


@dataclass(frozen=True, repr=False)
class Card:
    """The record of a pretrained policy."""

    environment: str
    algorithm: str
    seed: int  # with the best greedy return of all seeds
    env_steps: int  # environment steps of training
    date: str  # end of training, YYYY-MM-DD
    commit: str  # of pgjax, that trained it
    critic: str  # the critic that the agent has kept: "state", "action" or "none"
    sha256: str  # of the parameter file
    evaluation: Evaluation  # on episodes used neither for training nor for the choice of the seed
    score: Score  # of all seeds
    settings: Mapping[str, Any] = field(hash=False)  # of the training run, as in its config.toml
    versions: Mapping[str, str] = field(hash=False)  # of the packages that trained it

    def __repr__(self) -> str:
        """Environment, method, seed, and the greedy return with its interval."""
        low, high = self.evaluation.interval()
        returns = f"greedy return {self.evaluation.mean:.4g} [{low:.4g}, {high:.4g}]"
        return f"Card({self.environment}, {self.algorithm}, seed {self.seed}, {returns})"


def measured(environment: Environment, agent: Agent, params: Params, *, key: int, episodes: int) -> Evaluation:
    """Evaluate a policy greedily."""
    typed_key = jax.random.key(key)
    returns = np.asarray(evaluate(environment, agent, params, typed_key, episodes=episodes, greedy=True), float)
    return Evaluation(float(returns.mean()), float(returns.std(ddof=1)), episodes, key)


def read_card(path: Path) -> Card:
    """Read a card from TOML. Raises a SettingError if the file cannot be read or is not a card."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        greedy, sampled = (tuple(map(float, table["score"][name])) for name in ("greedy", "sampled"))
        score = Score(int(table["score"]["seeds"]), greedy, sampled)  # type: ignore[arg-type]  (three numbers each)
        card = Card(**table | {"evaluation": Evaluation(**table["evaluation"]), "score": score})
    except OSError as error:
        raise SettingError("card", str(path), f"cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:  # not TOML, or with missing, unknown or mistyped entries
        raise SettingError("card", str(path), f"is not a policy card: {' '.join(str(error).split())}") from error
    if card.settings.get("environment") != card.environment or len(greedy) != 3 or len(sampled) != 3:
        raise SettingError("card", str(path), "is not a policy card: its entries contradict each other")
    return card
