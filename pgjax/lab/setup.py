"""The settings of a training run, and what is built from them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, Literal, NamedTuple

import jax
import optax
from jax.tree_util import Partial

from pgjax import environments
from pgjax.algorithms import ALGORITHMS, BASELINES, CREDITS, Recipe
from pgjax.baselines import standardised
from pgjax.hyperparameters import check_hyperparameters
from pgjax.networks import make_agent
from pgjax.schedules import linear_decay
from pgjax.training import make_trainer
from pgjax.types import Agent, Algorithm, Environment, SettingError, Trainer

OPTIMIZERS = {"adam": optax.adam, "adamw": optax.adamw, "rmsprop": optax.rmsprop, "sgd": optax.sgd}


@dataclass(frozen=True)
class Settings:
    """Train a policy-gradient method on a gymnax environment, several seeds at once."""

    environment: str = "CartPole-v1"
    """Name of a gymnax environment, such as CartPole-v1, Catch-bsuite, Pendulum-v1 or Breakout-MinAtar."""
    algorithm: str = "reinforce"
    """Method: reinforce, or several updates per batch by trajectory_is, per_decision_is, prefix_is, suffix_is,
    first_order, truncated_is, weighted_is, weighted_per_decision_is, doubly_robust; or all_action."""
    seeds: int = 8
    """How many policies to train side by side, from seeds 0, 1, 2, …"""
    total_steps: int = 400_000
    """Environment steps per seed; training ends with the first update that reaches them."""
    learning_rate: float | None = None
    """Step size of the optimiser; default the method's own."""
    discount: float = 1.0
    """Discount factor γ, from 0 to 1."""
    credit: str | None = None
    """What each action gets (reinforce): reward_to_go (causality, the default) or total_return."""
    baseline: str | None = None
    """Subtracted: none, constant, same_batch_mean, leave_one_out, time_step, state_value, optimal[_per_parameter]."""
    baseline_constant: float = 0.0
    """The number that baseline "constant" subtracts."""
    standardise: bool = False
    """Bring credit to mean 0 and standard deviation 1 in every batch (biased in direction)."""
    mean: Literal["trajectories", "steps"] = "trajectories"
    """Divide the gradient by the number of trajectories (exact) or of steps (a ratio estimator)."""
    discounted_objective: bool = False
    """Keep the factor γ^t in front of step t: the true gradient of the discounted return."""
    truncation: Literal["bootstrap", "terminal"] = "bootstrap"
    """What follows a time limit: the critic's value, or nothing."""
    num_envs: int = 32
    """Episodes per update."""
    epochs: int | None = None
    """Passes over each batch, a gradient step each; default the method's own."""
    accumulate: int = 1
    """Compute the gradient in this many slices, one after the other, to save memory. Must divide num_envs."""
    batch_steps: int = 0
    """Use only the first episodes of a batch that together reach this many steps (0: all)."""
    optimizer: str = "adam"
    """Optimiser: adam, adamw, rmsprop or sgd."""
    decay_updates: int = 0
    """Let the learning rate fall linearly to zero over this many updates (0: constant)."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    max_grad_norm: float = 0.0
    """Clip the gradient's global norm to this (0: do not)."""
    policy: str = "auto"
    """Action distribution: auto, categorical, gaussian (clipped to the action box) or squashed (tanh)."""
    network: str = "auto"
    """Network: auto, mlp or cnn (images)."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the dense layers."""
    eval_episodes: int = 64
    """Episodes per seed in the evaluation at the end, greedy and sampled."""
    devices: int = 0
    """CPU cores to spread the seeds over (0: all)."""
    out: str = ""
    """Run directory; default runs/<environment>-<algorithm>-<number>."""
    diagnostics: int = 0
    """Groups of trajectories whose gradients are compared at every update: noise, critical batch, probes (0: off)."""
    quiet: bool = False
    """Print nothing but errors."""


class Setup(NamedTuple):
    """What a run is made of."""

    environment: Environment
    agent: Agent
    algorithm: Algorithm
    trainer: Trainer


def build(settings: Settings) -> Setup:
    """Make everything a run needs; nothing compiles before all settings are checked.

    Raises:
      SettingError: naming the first setting that cannot work, its value and why.

    >>> build(Settings(discount=1.5))
    Traceback (most recent call last):
    pgjax.types.SettingError: discount: 1.5 must lie in [0, 1]
    """
    for name in ("seeds", "total_steps", "eval_episodes"):
        if getattr(settings, name) < 1:
            raise SettingError(name, getattr(settings, name), "must be at least 1")
    for name in ("decay_updates", "devices"):
        if getattr(settings, name) < 0:
            raise SettingError(name, getattr(settings, name), "must not be negative")
    settings = resolve(settings)
    tables = {"credit": CREDITS, "baseline": BASELINES, "optimizer": OPTIMIZERS}
    for name, table in tables.items():
        if getattr(settings, name) is not None:
            known(name, getattr(settings, name), table)
    recipe = _recipe(settings)
    check_hyperparameters(recipe.algorithm)
    environment = environments.make(settings.environment)
    agent = make_agent(
        environment,
        policy=settings.policy,  # type: ignore[arg-type]  (checked there)
        network=settings.network,  # type: ignore[arg-type]
        hidden=settings.hidden,
        critic=recipe.config.critic,
    )
    return Setup(environment, agent, recipe.algorithm, make_trainer(environment, agent, recipe.config))


def resolve(settings: Settings) -> Settings:
    """Fill in what was left to the method.

    Raises:
      SettingError: for an unknown method, or a setting that it does not have.

    >>> resolve(Settings(algorithm="first_order")).epochs
    4
    """
    known("algorithm", settings.algorithm, ALGORITHMS)
    own = signature(ALGORITHMS[settings.algorithm]).parameters
    changes = {}
    for name in ("learning_rate", "credit", "baseline", "epochs"):
        value = getattr(settings, name)
        if value is None and name in own:
            changes[name] = own[name].default
        elif value is not None and name not in own:
            raise SettingError(name, value, f"is not a setting of algorithm {settings.algorithm}")
    return replace(settings, **changes)


def known(field: str, name: str, table: Mapping[str, Any]) -> None:
    """Refuse a name that a table does not have, listing those it has."""
    if name not in table:
        raise SettingError(field, name, f"is none of {', '.join(table)}")


def _recipe(settings: Settings) -> Recipe:
    make = ALGORITHMS[settings.algorithm]
    recipe = make(**{name: getattr(settings, name) for name in signature(make).parameters})
    algorithm, estimator = recipe.algorithm, recipe.algorithm.estimator
    rate: Any = settings.learning_rate
    if settings.decay_updates:
        rate = Partial(linear_decay, learning_rate=rate, updates=float(settings.decay_updates))
    algorithm = algorithm._replace(
        optimizer=Partial(OPTIMIZERS[settings.optimizer], learning_rate=rate),
        entropy_coefficient=settings.entropy_coefficient,
        max_grad_norm=settings.max_grad_norm or float("inf"),
    )
    if settings.standardise:
        algorithm = algorithm._replace(estimator=estimator._replace(credit=standardised(estimator.credit)))
    shared = ("num_envs", "accumulate", "batch_steps", "mean", "truncation", "discounted_objective", "diagnostics")
    config = replace(recipe.config, **{name: getattr(settings, name) for name in shared})
    baseline = settings.baseline or "none"
    if baseline in ("leave_one_out", "time_step", "optimal", "optimal_per_parameter") and config.num_envs < 2:
        raise SettingError("num_envs", config.num_envs, f"is too few: baseline {baseline} needs at least 2")
    if baseline.startswith("optimal") and config.accumulate > 1:
        raise SettingError("accumulate", config.accumulate, "cannot serve optimal baselines, which hold all gradients")
    if baseline.startswith("optimal") and config.diagnostics:
        raise SettingError("diagnostics", config.diagnostics, "cannot be combined with a variance-optimal baseline")
    if baseline.startswith("optimal") and settings.standardise:
        raise SettingError("standardise", True, "cannot be combined with a variance-optimal baseline")
    return Recipe(algorithm, config)


def jax_devices() -> str:
    """What runs it, in words."""
    devices = jax.devices()
    return f"{len(devices)} × {devices[0].device_kind} ({devices[0].platform})"
