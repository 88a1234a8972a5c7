"""Rejects settings that would do nothing. `RULES` maps a setting to the reason why it has no effect in a situation;
settings without a rule always have one. Settings that only some methods have are rejected by `build`.
"""

from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields, replace
from typing import Any, NamedTuple

from pgjax.config import Recipe
from pgjax.policies.observations import image_leaves
from pgjax.runs.settings.flags import Settings
from pgjax.spaces import Box, parts
from pgjax.types import Environment, SettingError


class Situation(NamedTuple):
    """What determines whether a setting has an effect; rules that need an environment do not apply while it is None."""

    settings: Settings
    recipe: Recipe
    environment: Environment | None = None


Rule = Callable[[Situation], str]
"""Returns why a setting does nothing; empty if it has an effect."""


def given(settings: Settings) -> list[str]:
    """Names of the settings that differ from their defaults."""
    return [name for name, default in _DEFAULTS.items() if getattr(settings, name) != default]


def refuse(situation: Situation, names: Iterable[str]) -> None:
    """Reject settings of these names that would do nothing; raises SettingError with the reason for the first one."""
    for name in names:
        if reason := why_idle(situation, name):
            raise SettingError(name, getattr(situation.settings, name), f"does nothing: {reason}; leave it out")


def without(settings: Settings, situation: Situation, names: Iterable[str]) -> Settings:
    """The settings, with those of these names that do nothing reset to their defaults."""
    return replace(settings, **{name: _DEFAULTS[name] for name in names if why_idle(situation, name)})


def why_idle(situation: Situation, name: str) -> str:
    """Why a setting does nothing; empty if it has an effect."""
    return RULES[name](situation) if name in RULES else ""


def _on_whole_episodes(it: Situation) -> str:
    return f"{it.settings.algorithm} works on whole episodes" if it.recipe.config.rollout == "episodes" else ""


def _on_streams(it: Situation) -> str:
    return f"{it.settings.algorithm} works on streams of steps" if it.recipe.config.rollout == "stream" else ""


def _without_constant(it: Situation) -> str:
    return "" if it.settings.baseline == "constant" else "only the constant baseline uses it"


def _no_value_follows(it: Situation) -> str:
    if it.recipe.config.critic == "none":
        return f"{it.settings.algorithm} has no critic to bootstrap from at a time limit"
    return "returns of whole episodes are not bootstrapped" if it.recipe.config.rollout == "episodes" else ""


def _no_value_in_the_loss(it: Situation) -> str:
    if it.recipe.config.critic == "none":
        return f"{it.settings.algorithm} has no critic here"
    return "the critic is trained with a separate loss" if it.recipe.algorithm.policy_step is not None else ""


NOTHING_TO_STANDARDISE = {
    "doubly_robust": "doubly_robust uses rewards and action values instead of credit",
    "all_action": "all_action uses action values instead of credit",
    "reinforce_pp": "the credit of reinforce_pp is already standardised",
    "dice": "dice uses rewards instead of credit, and standardised rewards would change the objective",
}


def _nothing_to_standardise(it: Situation) -> str:
    return NOTHING_TO_STANDARDISE.get(it.settings.algorithm, "")


def _discount_of_one(it: Situation) -> str:
    return "γ^t is 1 at discount 1" if it.recipe.algorithm.discount == 1.0 else ""


def _one_minibatch(it: Situation) -> str:
    return "there is one minibatch" if it.recipe.config.minibatches == 1 else ""


def _no_bonus(it: Situation) -> str:
    return "" if it.settings.entropy_coefficient else "there is no entropy bonus; it needs entropy_coefficient"


def _discrete_actions(it: Situation) -> str:
    if it.environment is None or any(isinstance(part, Box) for part in parts(it.environment.action_space)[0]):
        return ""
    return f"the actions of {it.environment.name} are discrete"


def _policy_of_discrete_actions(it: Situation) -> str:
    return _discrete_actions(it) if it.settings.policy == "categorical" else ""  # other names are rejected elsewhere


def _network_of_vectors(it: Situation) -> str:
    if it.environment is None or it.settings.network != "mlp":  # "cnn" is rejected elsewhere
        return ""
    return "" if image_leaves(it.environment) else f"the observations of {it.environment.name} are not images"


def _one_process(it: Situation) -> str:
    return "" if it.settings.distributed else "it is for training in several processes (--distributed)"


def _members_are_seeds(it: Situation) -> str:
    return "the members of a population are its seeds" if it.settings.population else ""


def _members_are_seeds_unlisted(it: Situation) -> str:
    return "" if it.settings.seed_list else _members_are_seeds(it)  # the list sets `seeds`, and is rejected


def _chunks_are_generations(it: Situation) -> str:
    return "in a population, exploit_every sets the updates per call" if it.settings.population else ""


def _no_population(it: Situation) -> str:
    return "" if it.settings.population else "there is no population"


def _seeds_by_name_or_members(it: Situation) -> str:
    return "seed_list names the seeds" if it.settings.seed_list else _members_are_seeds(it)


def _for_the_command_line(it: Situation) -> str:
    return "it is for the command line of train.py only"


RULES: dict[str, Rule] = {
    "num_steps": _on_whole_episodes,
    "batch_steps": _on_streams,
    "group_size": _on_streams,
    "baseline_constant": _without_constant,
    "truncation": _no_value_follows,
    "value_coefficient": _no_value_in_the_loss,
    "standardise": _nothing_to_standardise,
    "discounted_objective": _discount_of_one,
    "shuffle": _one_minibatch,
    "decay_entropy": _no_bonus,
    "initial_log_std": _discrete_actions,
    "policy": _policy_of_discrete_actions,
    "network": _network_of_vectors,
    "seeds": _members_are_seeds_unlisted,
    "updates_per_chunk": _chunks_are_generations,
    "evolve": _no_population,
    "exploit_every": _no_population,
    "first_seed": _seeds_by_name_or_members,
    "seed_list": _members_are_seeds,
    "coordinator": _one_process,
    "processes": _one_process,
    "process_id": _one_process,
    "join_timeout": _one_process,
    "config": _for_the_command_line,
    "tuned": _for_the_command_line,
    "quick": _for_the_command_line,
}
"""Setting -> function that returns why it does nothing in a situation, or an empty string."""

_DEFAULTS: dict[str, Any] = {f.name: f.default for f in fields(Settings) if f.default is not MISSING}
