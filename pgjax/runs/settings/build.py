"""Builds the environment, agent, algorithm and trainer of a run from its settings, and fills in method defaults."""

from collections.abc import Mapping
from dataclasses import fields, replace
from inspect import signature
from typing import Any, NamedTuple

from jax.tree_util import Partial

from pgjax import counters
from pgjax.config import Config, Recipe
from pgjax.estimators.baselines import standardised
from pgjax.methods import ALGORITHMS
from pgjax.methods.hyperparameters import check_hyperparameters, hyperparameters, with_hyperparameters
from pgjax.methods.optimizers import OPTIMIZERS, with_optimizer
from pgjax.methods.reference import with_reference
from pgjax.methods.schedules import decaying, entropy_decay, scheduled
from pgjax.policies.networks import make_agent
from pgjax.policies.normalisation import normalise_observations
from pgjax.runs.settings import idle
from pgjax.runs.settings.checks import check_values, known
from pgjax.runs.settings.environment import environment_of
from pgjax.runs.settings.flags import Settings
from pgjax.runs.settings.parameters import METHOD_FIELDS
from pgjax.training.checks import check, steps_per_update
from pgjax.training.update import make_trainer
from pgjax.types import Agent, Algorithm, Environment, SettingError, Trainer

AGENT_SETTINGS = {"initial_log_std": signature(make_agent).parameters["initial_log_std"].default}
"""Settings whose defaults are those of `make_agent`."""


class Setup(NamedTuple):
    """The environment, agent, algorithm and trainer of a run."""

    environment: Environment
    agent: Agent
    algorithm: Algorithm
    trainer: Trainer

    def __repr__(self) -> str:
        """Show the environment and the method."""
        return f"Setup({self.environment.name}, {self.algorithm!r})"


def build(settings: Settings) -> Setup:
    """Check all settings and build the environment, agent, algorithm and trainer. Nothing is compiled.

    >>> build(Settings(discount=1.5))
    Traceback (most recent call last):
    pgjax.types.SettingError: discount: 1.5 must lie in [0, 1]
    """
    check_values(settings)
    recipe = recipe_of(settings)
    check_hyperparameters(recipe.algorithm)
    environment = environment_of(settings)
    idle.refuse(idle.Situation(settings, recipe, environment), idle.given(settings))
    agent = agent_of(settings, environment, recipe.config.critic)
    check(environment, agent, recipe.config, recipe.algorithm)
    counters.budget("total_steps", settings.total_steps, steps_per_update(environment, recipe.config))
    return Setup(environment, agent, recipe.algorithm, make_trainer(environment, agent, recipe.config))


def agent_of(settings: Settings, environment: Environment, critic: str) -> Agent:
    """The agent of some settings with this kind of critic, with observations normalised if they ask for it."""
    own_std = {} if settings.initial_log_std is None else {"initial_log_std": settings.initial_log_std}
    agent = make_agent(
        environment,
        policy=settings.policy,  # type: ignore[arg-type]  (make_agent checks the name)
        network=settings.network,  # type: ignore[arg-type]
        hidden=settings.hidden,
        critic=critic,  # type: ignore[arg-type]
        shared=settings.shared,
        memory=settings.memory,
        separate_memory=settings.separate_memory,
        layer_norm=settings.layer_norm,
        dropout=settings.dropout,
        **own_std,  # type: ignore[arg-type]  (a float)
    )
    return normalise_observations(agent, environment) if settings.normalise_observations else agent


def acting_agent_of(settings: Settings, environment: Environment) -> Agent:
    """The agent of some settings without its critic, which is enough for acting."""
    return agent_of(replace(settings, shared=False, separate_memory=False), environment, "none")


def resolve(settings: Settings) -> Settings:
    """Replace settings that are None by the method's values, where they have an effect.

    >>> resolve(Settings(algorithm="first_order")).epochs
    4
    """
    recipe = recipe_of(settings)
    parameters = signature(ALGORITHMS[settings.algorithm]).parameters
    own = AGENT_SETTINGS | {name: p.default for name, p in parameters.items()} | hyperparameters(recipe.algorithm)
    own |= vars(recipe.config)
    empty = {f.name for f in fields(settings) if getattr(settings, f.name) is None}
    filled = replace(settings, **{name: own[name] for name in empty & set(own)})
    return idle.without(filled, idle.Situation(settings, recipe, environment_of(settings)), empty)


def recipe_of(settings: Settings) -> Recipe:
    """The method with the hyperparameters, static settings, optimiser and schedules of some settings."""
    known("algorithm", settings.algorithm, ALGORITHMS)
    given = {f.name: getattr(settings, f.name) for f in fields(settings) if getattr(settings, f.name) is not None}
    arguments = signature(ALGORITHMS[settings.algorithm]).parameters
    recipe = ALGORITHMS[settings.algorithm](**{name: value for name, value in given.items() if name in arguments})
    static = {f.name for f in fields(Config)} - set(METHOD_FIELDS)
    config = replace(recipe.config, **{name: value for name, value in given.items() if name in static})
    _check_baseline(settings, arguments, config)
    if settings.reference_kl is not None and "reference_kl" not in arguments:
        recipe = with_reference(recipe, settings.reference_kl, _coefficient(settings))
    algorithm = recipe.algorithm
    numbers = hyperparameters(algorithm)
    for name in sorted(set(given) & _METHOD_SETTINGS - set(arguments) - static - set(numbers) - {"reference_kl"}):
        raise SettingError(name, given[name], f"is not a setting of algorithm {settings.algorithm}")
    algorithm = with_hyperparameters(algorithm, {name: given[name] for name in given if name in numbers})
    known("optimizer", settings.optimizer, OPTIMIZERS)
    algorithm = with_optimizer(algorithm, OPTIMIZERS[settings.optimizer])
    if settings.decay_updates and (settings.learning_rate_schedule != "constant" or settings.warmup_steps):
        reason = "conflicts with learning_rate_schedule or warmup_steps, a second schedule of the learning rate"
        raise SettingError("decay_updates", settings.decay_updates, reason)
    if settings.learning_rate_schedule != "constant" or settings.warmup_steps:
        budget = {"total_steps": settings.total_steps, "warmup_steps": settings.warmup_steps}
        algorithm = scheduled(algorithm, settings.learning_rate_schedule, **budget)
    if settings.decay_updates:
        algorithm = decaying(Recipe(algorithm, config), _updates(settings, "decay_updates", config)).algorithm
    if settings.decay_entropy:
        decay = {
            "entropy_coefficient": settings.entropy_coefficient,
            "entropy_updates": float(_updates(settings, "decay_entropy", config)),
        }
        algorithm = algorithm._replace(entropy_coefficient=Partial(entropy_decay, **decay))
    if settings.standardise and "standardise" not in arguments:
        estimator = algorithm.estimator
        algorithm = algorithm._replace(estimator=estimator._replace(credit=standardised(estimator.credit)))
    return Recipe(algorithm, config)


def _coefficient(settings: Settings) -> float:
    if settings.reference_coefficient is None:
        raise SettingError("reference_kl", settings.reference_kl, "needs a weight: set reference_coefficient")
    return settings.reference_coefficient


_METHOD_SETTINGS = {f.name for f in fields(Settings) if f.default is None} - set(AGENT_SETTINGS)
"""Settings that exist for some methods only."""


def _updates(settings: Settings, field: str, config: Config) -> int:
    """The number of updates of a linear decay: as given, or for -1 all updates of the run."""
    given: int = getattr(settings, field)
    if given > 0:
        return given
    if given < -1:
        raise SettingError(field, given, "must be a number of updates, 0 or -1")
    if config.rollout != "stream":
        reason = f"needs a number of updates known in advance; {settings.algorithm} works on whole episodes"
        raise SettingError(field, given, reason)
    return max(1, settings.total_steps // (config.num_envs * config.num_steps))


def over_the_budget(settings: Settings) -> list[str]:
    """Names of what is scheduled over `total_steps`, such as ["the learning rate", "the entropy bonus"]."""
    rate = settings.learning_rate_schedule != "constant" or settings.decay_updates == -1
    return ["the learning rate"] * rate + ["the entropy bonus"] * (settings.decay_entropy == -1)


def _check_baseline(settings: Settings, arguments: Mapping[str, Any], config: Config) -> None:
    """Reject settings that the method's baseline does not support."""
    default = arguments["baseline"].default if "baseline" in arguments else "none"
    baseline = settings.baseline or default
    if baseline in ("leave_one_out", "time_step", "optimal", "optimal_per_parameter") and config.num_envs < 2:
        raise SettingError("num_envs", config.num_envs, f"is too few: baseline {baseline} needs at least 2")
    if baseline.startswith("optimal"):
        for name, absent in (("accumulate", 1), ("diagnostics", 0), ("minibatches", 1)):
            if getattr(config, name) != absent:
                raise SettingError(name, getattr(config, name), "cannot be combined with a variance-optimal baseline")
        if settings.standardise:
            raise SettingError("standardise", True, "cannot be combined with a variance-optimal baseline")
