"""The settings of a training run, and what is built from them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from inspect import signature
from typing import Any, Literal, NamedTuple

import optax
from jax.tree_util import Partial

from pgjax import environments
from pgjax.config import Config, Recipe
from pgjax.estimators.baselines import standardised
from pgjax.methods.hyperparameters import check_hyperparameters, hyperparameters, with_hyperparameters
from pgjax.methods.schedules import decaying, entropy_decay
from pgjax.methods.table import ALGORITHMS, BASELINES, CREDITS
from pgjax.policies.networks import make_agent
from pgjax.policies.normalisation import normalise_observations
from pgjax.runs.settings.checks import check_fields, check_size
from pgjax.training.checks import check
from pgjax.training.update import make_trainer
from pgjax.types import Agent, Algorithm, Environment, SettingError, Trainer

OPTIMIZERS = {"adam": optax.adam, "adamw": optax.adamw, "rmsprop": optax.rmsprop, "sgd": optax.sgd}


@dataclass(frozen=True)
class Settings:
    """Train a policy-gradient method on a gymnax or brax environment, several seeds at once."""

    environment: str = "CartPole-v1"
    """Name of a gymnax environment, such as CartPole-v1, Catch-bsuite, Pendulum-v1 or Breakout-MinAtar; or of a brax
    task behind "brax/", such as brax/inverted_pendulum (extra "envs")."""
    algorithm: str = "reinforce"
    """Method: reinforce, rloo, dice, storm, all_action; several passes per batch by trajectory_is, per_decision_is,
    prefix_is, suffix_is, first_order, truncated_is, weighted_is, weighted_per_decision_is, doubly_robust; with a critic
    a2c, ppo, npg, trpo, vtrace. What is left at "None" below is the method's own."""
    seeds: int = 8
    """How many policies to train side by side, from seeds 0, 1, 2, …"""
    total_steps: int = 400_000
    """Environment steps per seed; training ends with the first update that reaches them."""
    learning_rate: float | None = None
    """Step size of the optimiser."""
    discount: float | None = None
    """Discount factor γ, from 0 to 1."""
    credit: str | None = None
    """What each action gets (reinforce): reward_to_go (causality) or total_return."""
    baseline: str | None = None
    """Subtracted: none, constant, same_batch_mean, leave_one_out, time_step, state_value, optimal[_per_parameter]."""
    baseline_constant: float = 0.0
    """The number that baseline "constant" subtracts."""
    lambda_: float | None = None
    """λ of generalised advantages and value targets, from 0 to 1."""
    clip: float | None = None
    """PPO's ε: how far the ratio may go; inf for no clipping."""
    value_clip: float | None = None
    """How far V may move per batch before its loss stops pulling (ppo)."""
    kl_coefficient: float | None = None
    """Weight of a penalty on the KL from the policy that acted (ppo)."""
    target_kl: float | None = None
    """Stop working on a batch when the estimated KL is above this (ppo)."""
    max_kl: float | None = None
    """Size of a natural or trust-region step, as KL per environment step."""
    step_size: float | None = None
    """Bound on the step along the natural gradient (npg, trpo); inf always goes to the edge of max_kl."""
    damping: float | None = None
    """Added to the Fisher matrix's diagonal (npg, trpo)."""
    max_rho: float | None = None
    """V-trace's bar on the ratio in the target."""
    max_c: float | None = None
    """V-trace's bar on the ratios in the traces."""
    momentum: float | None = None
    """Weight of the new gradient in the recursive estimate (storm)."""
    standardise: bool = False
    """Bring credit to mean 0 and standard deviation 1 in every batch (biased in direction)."""
    discounted_objective: bool = False
    """Keep the factor γ^t in front of step t: the true gradient of the discounted return."""
    truncation: Literal["bootstrap", "terminal"] = "bootstrap"
    """What follows a time limit: the critic's value, or nothing."""
    normalise_observations: bool = False
    """Bring observations to mean 0 and standard deviation 1 by running statistics."""
    normalise_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""
    mean: Literal["trajectories", "steps"] | None = None
    """Divide the gradient by the number of trajectories (exact) or of steps (a ratio estimator)."""
    num_envs: int | None = None
    """Episodes per update, or environments side by side."""
    num_steps: int | None = None
    """Steps per environment and update, for methods that work on streams of steps."""
    epochs: int | None = None
    """Passes over each batch."""
    minibatches: int | None = None
    """Gradient steps per pass, each on its share of the batch."""
    shuffle: Literal["environments", "steps"] | None = None
    """What a minibatch is made of: whole environments, or single steps."""
    group_size: int | None = None
    """Consecutive episodes that start from the same reset, and judge each other (rloo)."""
    accumulate: int = 1
    """Compute the gradient in this many slices, one after the other, to save memory. Must divide num_envs."""
    batch_steps: int = 0
    """Use only the first episodes of a batch that together reach this many steps (0: all)."""
    optimizer: str = "adam"
    """Optimiser: adam, adamw, rmsprop or sgd."""
    decay_updates: int = 0
    """Let the learning rate fall linearly to zero over this many updates (0: constant; -1: over the whole run, for
    methods that work on streams of steps)."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    decay_entropy: int = 0
    """Let the entropy bonus fall linearly to zero over this many updates (0: constant; -1: over the whole run)."""
    max_grad_norm: float | None = None
    """Clip the gradient's global norm to this (inf: do not)."""
    policy: str = "auto"
    """Action distribution: auto, categorical, gaussian (clipped to the action box) or squashed (tanh)."""
    network: str = "auto"
    """Network: auto, mlp or cnn (images)."""
    initial_log_std: float = 0.0
    """Log σ of continuous actions at the start; 0 is half the action box."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the dense layers."""
    shared: bool = False
    """Let the critic share all layers but the last with the policy."""
    memory: Literal["none", "gru"] = "none"
    """Make the policy recurrent: gru."""
    eval_episodes: int = 64
    """Episodes per seed in the evaluation at the end, greedy and sampled."""
    devices: int = 0
    """Devices of each process to spread the seeds over: GPUs, or CPU cores (0: all)."""
    mesh: tuple[int, ...] = ()
    """Devices along the seeds, and devices that share each seed's environments, such as 4 2; default: as many as divide
    the seeds, and the rest for the environments where batches are large."""
    distributed: bool = False
    """Be one of several processes, on one machine or many, that train together; each is started with this command."""
    coordinator: str = ""
    """HOST:PORT where process 0 waits for the others (--distributed); SLURM's is found by itself."""
    processes: int = 0
    """How many processes there are (--distributed); SLURM's are counted by themselves."""
    process_id: int = -1
    """Which of them this is, from 0; a SLURM task, or a pod of an indexed Kubernetes job, knows by itself."""
    join_timeout: int = 120
    """Seconds to wait for the others at the start."""
    updates_per_chunk: int = 10
    """Updates per compiled call; progress, checkpoints and stopping happen in between."""
    max_skipped: int = 10
    """Stop a seed after so many updates in a row that were not finite."""
    out: str = ""
    """Run directory; default runs/<environment>-<algorithm>-<number>."""
    resume: str = ""
    """Go on with the run of this directory, bit for bit, with its own settings."""
    config: str = ""
    """TOML file of settings, such as a run's config.toml; flags go on top."""
    save_every: float = 60.0
    """Seconds between checkpoints (0: after every chunk). One is always made when stopped, and at the end."""
    keep: int = 3
    """How many of the newest checkpoints to keep, besides the one with the best return."""
    log: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Log there too, besides metrics.csv: tensorboard, wandb."""
    diagnostics: int = 0
    """Groups of trajectories whose gradients are compared at every update: noise, critical batch, probes (0: off)."""
    tuned: bool = True
    """Where only an environment is named, or its method too, begin with the settings found for it (tuned.toml)."""
    quick: bool = False
    """Begin with much smaller numbers: shows that it runs, not what it finds. Flags go on top."""
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
    check_fields(settings)
    for name in ("seeds", "total_steps", "eval_episodes", "updates_per_chunk", "keep", "max_skipped", "join_timeout"):
        if getattr(settings, name) < 1:
            raise SettingError(name, getattr(settings, name), "must be at least 1")
    for name in ("devices", "save_every"):
        if getattr(settings, name) < 0:
            raise SettingError(name, getattr(settings, name), "must not be negative")
    if settings.mesh and (len(settings.mesh) != 2 or min(settings.mesh) < 1):
        raise SettingError("mesh", settings.mesh, "must be two numbers from 1: along seeds, along environments")
    for name, unset in (("coordinator", ""), ("processes", 0), ("process_id", -1)):
        if getattr(settings, name) != unset and not settings.distributed:
            raise SettingError(name, getattr(settings, name), "is for processes that train together: --distributed")
    tables = {"algorithm": ALGORITHMS, "credit": CREDITS, "baseline": BASELINES, "optimizer": OPTIMIZERS}
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
        shared=settings.shared,
        memory=settings.memory,
        initial_log_std=settings.initial_log_std,
    )
    if settings.normalise_observations:
        agent = normalise_observations(agent, environment)
    check(environment, agent, recipe.config, recipe.algorithm)
    steps = recipe.config.num_steps if recipe.config.rollout == "stream" else environment.horizon
    check_size("total_steps", settings.total_steps, recipe.config.num_envs * steps)
    return Setup(environment, agent, recipe.algorithm, make_trainer(environment, agent, recipe.config))


def resolve(settings: Settings) -> Settings:
    """Fill in what was left to the method.

    Raises:
      SettingError: for an unknown method, or a setting that it does not have.

    >>> resolve(Settings(algorithm="first_order")).epochs
    4
    """
    recipe = _recipe(settings)
    given = signature(ALGORITHMS[settings.algorithm]).parameters
    own = {name: p.default for name, p in given.items()} | hyperparameters(recipe.algorithm) | vars(recipe.config)
    empty = {f.name for f in fields(settings) if getattr(settings, f.name) is None}
    return replace(settings, **{name: own[name] for name in empty & set(own)})


def known(field: str, name: str, table: Mapping[str, Any]) -> None:
    """Refuse a name that a table does not have, listing those it has."""
    if name not in table:
        raise SettingError(field, name, f"is none of {', '.join(table)}")


def _recipe(settings: Settings) -> Recipe:
    known("algorithm", settings.algorithm, ALGORITHMS)
    given = {f.name: getattr(settings, f.name) for f in fields(settings) if getattr(settings, f.name) is not None}
    arguments = signature(ALGORITHMS[settings.algorithm]).parameters
    recipe = ALGORITHMS[settings.algorithm](**{name: value for name, value in given.items() if name in arguments})
    static = {f.name for f in fields(Config)} - {"critic", "rollout"}
    config = replace(recipe.config, **{name: value for name, value in given.items() if name in static})
    algorithm, estimator = recipe.algorithm, recipe.algorithm.estimator
    numbers = hyperparameters(algorithm)
    for name in set(given) & _METHODS_OWN - set(arguments) - static - set(numbers):
        raise SettingError(name, given[name], f"is not a setting of algorithm {settings.algorithm}")
    algorithm = with_hyperparameters(algorithm, {name: given[name] for name in given if name in numbers})
    rate = hyperparameters(algorithm)["learning_rate"]
    algorithm = algorithm._replace(optimizer=Partial(OPTIMIZERS[settings.optimizer], learning_rate=rate))
    if settings.decay_updates:
        algorithm = decaying(Recipe(algorithm, config), _updates(settings, "decay_updates", config)).algorithm
    if settings.decay_entropy:
        decay = {
            "entropy_coefficient": settings.entropy_coefficient,
            "entropy_updates": float(_updates(settings, "decay_entropy", config)),
        }
        algorithm = algorithm._replace(entropy_coefficient=Partial(entropy_decay, **decay))
    if settings.standardise and "standardise" not in arguments:
        algorithm = algorithm._replace(estimator=estimator._replace(credit=standardised(estimator.credit)))
    _check_baseline(settings, arguments, config)
    return Recipe(algorithm, config)


def _updates(settings: Settings, field: str, config: Config) -> int:
    """Over how many updates something falls: as many as given, or, at -1, all that the run has."""
    given: int = getattr(settings, field)
    if given > 0:
        return given
    if given < -1:
        raise SettingError(field, given, "must be a number of updates, 0 or -1")
    if config.rollout != "stream":
        raise SettingError(field, given, f"cannot be: {settings.algorithm} does not know how many updates it will do")
    return max(1, settings.total_steps // (config.num_envs * config.num_steps))


_METHODS_OWN = {f.name for f in fields(Settings) if f.default is None}
"""Settings that only some methods have."""


def _check_baseline(settings: Settings, arguments: Mapping[str, Any], config: Config) -> None:
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
    if config.rollout == "stream" and config.group_size > 1:
        raise SettingError("group_size", config.group_size, "is for methods that work on whole episodes")
